"""A checkpoint's weights into a model: which of its tensors are the encoder's, by their names.

Training code puts wrappers before every name (`module.`, `teacher.backbone.`), and a whole model's
checkpoint holds the encoder beside other things.  So the prefix is sought under which most names fit.
Names and position embeddings of other editions are converted by the library the model is from.  Every
weight of the encoder must be there, and no weight of another encoder; heads may be missing, or be left
out.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparsight.errors import SparsightError, brief
from sparsight.models.files import tensors_of
from sparsight.models.fitting import HEADS, Fit, Tensors, fit_of, is_head, resize_head

PREFERRED = ("ema", "teacher")  # of several copies in one file, the one that is meant for use
CANDIDATES = 6  # prefixes that are tried, those with most names first


def with_weights(model: Any, file: Path) -> tuple[Any, tuple[str, ...]]:
    """`model` with the weights in `file`, in the model's dtype, and notes of what was left out.

    Raises SparsightError in one sentence if they are not those of this encoder.
    """
    tensors = tensors_of(file)
    if not tensors:
        raise SparsightError(f"{file} holds no tensors")
    own = {name for name, _ in model.named_parameters()}
    found = [fit_of(model, tensors, prefix) for prefix in _prefixes(tensors, own)]
    best = min(found, key=lambda fit: fit.faults)
    if best.faults:
        raise SparsightError(_what_is_wrong(best, model, file, len(own)))
    chosen = _one_of([fit for fit in found if not fit.faults], file)
    _check_values(chosen, tensors, file)
    notes = _notes(chosen, tensors, own, file)
    if chosen.model is not None:
        return chosen.model, notes
    resize_head(model, chosen.values)  # another prefix may have been tried after it
    model.load_state_dict(chosen.values, strict=False)
    return model, notes


def _prefixes(tensors: Iterable[str], own: set[str]) -> list[str]:
    """Under which names of the model are found, those with most first; "" in any case."""
    counts: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for place in range(1, len(parts)):
            if ".".join(parts[place:]) in own:
                counts[".".join(parts[:place]) + "."] += 1
    return ["", *(prefix for prefix, _ in counts.most_common(CANDIDATES))]


def _one_of(fitting: list[Fit], file: Path) -> Fit:
    """The one that is meant: alone, without a prefix, or an average over the training."""
    if len(fitting) == 1 or not fitting[0].prefix:
        return fitting[0]
    preferred = [f for f in fitting if any(word in f.prefix for word in PREFERRED)]
    if len(preferred) != 1:
        names = " and ".join(repr(fit.prefix) for fit in fitting[:2])
        raise SparsightError(f"{file} holds several such encoders, at {names}: save one of them alone")
    return preferred[0]


def _check_values(fit: Fit, tensors: Tensors, file: Path) -> None:
    """Refuse weights that are packed or counted in whole numbers, and those with NaN or infinity."""
    for name, value in tensors.items():
        is_weight = name.startswith(fit.prefix) and name.endswith((".weight", ".bias"))
        if is_weight and not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise SparsightError(
                f"{brief(file.name, 60)} has {brief(name, 60)} in {kind}: save the weights in floating "
                "point, before they are quantised"
            )
    for name, value in fit.values.items():
        if value.is_floating_point() and not value.float().isfinite().all():
            raise SparsightError(
                f"{brief(file.name, 60)} has NaN or infinity in {brief(name, 60)}: it is of a training "
                "that failed, or damaged"
            )


def _what_is_wrong(fit: Fit, model: Any, file: Path, count: int) -> str:
    """One sentence: how many names do not fit, one of each, and the likely cause."""
    parts = [
        f"{len(names)} {word} ({brief(names[0], 40)})"
        for names, word in (
            (fit.missing, "missing"), (fit.unexpected, "unexpected"),
            (fit.mismatched, "of another shape"),
        )
        if names
    ]  # fmt: skip
    shard = re.search(r"-\d+-of-0*(\d+)\.safetensors$", file.name)
    if shard:
        cause = f"it is one of {shard[1]} shards: give the .safetensors.index.json beside it"
    elif len(fit.missing) > count / 2:
        cause = "likely another architecture"
    elif fit.mismatched or fit.unexpected:
        cause = "likely another size or variant"
    else:
        cause = "it is not complete"
    return f"{brief(file.name, 60)} does not fit {type(model).__name__}: {', '.join(parts)}; {cause}"


def _notes(fit: Fit, tensors: Tensors, own: set[str], file: Path) -> tuple[str, ...]:
    notes = []
    outside = [name for name in tensors if not name.startswith(fit.prefix)]
    if outside:
        notes.append(
            f"{file.name}: took the weights under {fit.prefix!r}; {len(outside)} other tensors are left "
            f"out, the first: {outside[0]}"
        )
    heads = sorted({name.split(".")[0] for name in own if is_head(name) and name not in fit.values})
    inside = {k.removeprefix(fit.prefix).split(".")[0] for k in tensors if k not in outside}
    if left := sorted(inside & HEADS - {name.split(".")[0] for name in fit.values}):
        notes.append(f"{file.name}: its {', '.join(left)} is left out, an encoder has no use for it")
    elif heads:
        notes.append(f"{file.name} has no weights of {', '.join(heads)}: the encoder runs without")
    return tuple(notes)

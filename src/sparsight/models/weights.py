"""A checkpoint's weights into a model: which of its tensors are the encoder's, by their names.

Training code puts wrappers before every name (`module.`, `teacher.backbone.`), and a whole model's
checkpoint holds the encoder beside other things.  So the prefix is sought under which most names fit.
Names and position embeddings of other editions are converted by the library the model is from.  Every
weight of the encoder must be there, and no weight of another encoder; heads may be missing, or be left
out.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsight.errors import SparsightError
from sparsight.models.files import brief, tensors_of
from sparsight.models.libraries import import_transformers, quiet

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]
# What comes after the final tokens, in timm and transformers; an encoder runs without.
HEADS = frozenset(
    ("head", "head_dist", "fc", "fc_norm", "attn_pool", "pooler", "classifier", "segmentation")
)
# Names that say nothing of a model's shape: constants, and what is for training alone.
IDLE = frozenset(("mask_token", "position_ids", "relative_position_index", "attn_mask", "periods"))
PREFERRED = ("ema", "teacher")  # of several copies in one file, the one that is meant for use
CANDIDATES = 6  # prefixes that are tried, those with most names first


@dataclass
class Fit:
    """How the tensors under one prefix fit a model; `values` by the model's own names."""

    prefix: str
    values: Tensors
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]
    model: Any = None  # with the values, where the library makes a new one

    @property
    def faults(self) -> int:
        """How many names stand in the way."""
        return len(self.missing) + len(self.unexpected) + len(self.mismatched)


def with_weights(model: Any, file: Path) -> tuple[Any, tuple[str, ...]]:
    """`model` with the weights in `file`, in the model's dtype, and notes of what was left out.

    Raises SparsightError in one sentence if they are not those of this encoder.
    """
    tensors = tensors_of(file)
    if not tensors:
        raise SparsightError(f"{file} holds no tensors")
    own = {name for name, _ in model.named_parameters()}
    found = [_fit(model, tensors, prefix) for prefix in _prefixes(tensors, own)]
    best = min(found, key=lambda fit: fit.faults)
    if best.faults:
        raise SparsightError(_what_is_wrong(best, model, file, len(own)))
    chosen = _one_of([fit for fit in found if not fit.faults], file)
    _check_values(chosen, tensors, file)
    notes = _notes(chosen, tensors, own, file)
    if chosen.model is not None:
        return chosen.model, notes
    _resize_head(model, chosen.values)  # another prefix may have been tried after it
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


def _fit(model: Any, tensors: Tensors, prefix: str) -> Fit:
    given = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if type(model).__module__.startswith("transformers."):
        return _by_transformers(model, given, prefix)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            given = convert(dict(given), model)
        except Exception:  # made for the library's own files; anything else may break it anywhere
            return Fit(prefix, {}, sorted(n for n, _ in model.named_parameters()), [], [])
    _resize_head(model, given)
    own = model.state_dict()
    values = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    return Fit(
        prefix, values,
        [name for name, _ in model.named_parameters() if name not in given and not _is_head(name)],
        [name for name in given if name not in own and _is_of_encoder(name, model)],
        [name for name in given if name in own and name not in values and not _is_head(name)],
    )  # fmt: skip


def _by_transformers(model: Any, given: Tensors, prefix: str) -> Fit:
    """Its own loading knows the names of every edition."""
    with quiet(import_transformers()):
        new, info = type(model).from_pretrained(
            None, config=model.config, state_dict=given, dtype=model.dtype, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    mismatched = [row[0] if isinstance(row, tuple) else row for row in info["mismatched_keys"]]
    base = f"{model.base_model_prefix}."
    return Fit(
        prefix, new.state_dict(),
        sorted(k for k in info["missing_keys"] if not _is_head(k)),
        sorted(k for k in info["unexpected_keys"] if _is_of_encoder(k.removeprefix(base), model)),
        sorted(k for k in mismatched if not _is_head(k)),
        new.eval(),
    )  # fmt: skip


def _resize_head(model: Any, given: Tensors) -> None:
    """A classifier of timm with as many classes as the checkpoint has, or none."""
    if not hasattr(model, "reset_classifier") or "segmentation" in model._modules:
        return
    name = (getattr(model, "pretrained_cfg", None) or {}).get("classifier", "head")
    weight = given.get(f"{name}.weight") if isinstance(name, str) else None
    classes = 0 if weight is None else weight.shape[0]
    if classes != model.num_classes:
        model.reset_classifier(classes)


def _is_head(name: str) -> bool:
    parts = name.split(".")
    return parts[0] in HEADS or "pooler" in parts


def _is_of_encoder(name: str, model: Any) -> bool:
    """Whether a tensor that the model has no place for says that it is of another encoder."""
    first, last = name.split(".")[0], name.split(".")[-1]
    if first in HEADS or last in IDLE:
        return False
    return hasattr(model, first) or "token" in first


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
    heads = sorted({name.split(".")[0] for name in own if _is_head(name) and name not in fit.values})
    inside = {k.removeprefix(fit.prefix).split(".")[0] for k in tensors if k not in outside}
    if left := sorted(inside & HEADS - {name.split(".")[0] for name in fit.values}):
        notes.append(f"{file.name}: its {', '.join(left)} is left out, an encoder has no use for it")
    elif heads:
        notes.append(f"{file.name} has no weights of {', '.join(heads)}: the encoder runs without")
    return tuple(notes)

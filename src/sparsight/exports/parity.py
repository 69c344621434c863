"""Is the file the model?  Compared with PyTorch on pictures, on both sides of every branch.

Where a ranking is discrete, the largest difference says little: one token that swaps places with its
neighbour in the ranking moves a few tokens far.  So four things are told:
1. the error with the same kept set: PyTorch is made to keep what the engine kept;
2. the overlap of the kept sets, each by itself;
3. the cosine of the tokens, the mean and the worst, each by itself;
4. that the engine runs in the precision that was asked for.
To see what the engine kept, the same graph is exported once more with the kept sets as outputs.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.errors import SparsightError
from sparsight.exports.capture import written
from sparsight.exports.formats import Engine
from sparsight.exports.graph import Encoder, forced, watched
from sparsight.exports.memory import peak_memory_mb
from sparsight.exports.opened import open_exported
from sparsight.exports.shapes import Shapes
from sparsight.files import write_json
from sparsight.images import Reader
from sparsight.modes import evaluating
from sparsight.stages import timing
from sparsight.stages.measure import fused, name

BATCHES = (1, 3)
CASES = 6  # sizes, at least, where the range has as many
REPEATS = 5
# By dtype: error with the same kept set (largest difference over the features' root mean square),
# overlap, worst cosine.  Half precisions round each value by up to 0.4 % (bfloat16, 8 binary digits).
TOLERANCE = {
    "float32": {"error": 1e-4, "overlap": 0.999, "cosine_worst": 0.999},
    "float16": {"error": 5e-2, "overlap": 0.98, "cosine_worst": 0.99},
    "bfloat16": {"error": 3e-1, "overlap": 0.9, "cosine_worst": 0.95},
}


def parity_place(file: Path) -> Path:
    """Where the report on `file` is."""
    return file.with_name(file.name + ".parity.json")


def check_opens(made: Path) -> None:
    """SparsightError unless the engine opens the file and gives what the manifest promises."""
    opened = open_exported(made)
    shapes = opened.manifest.shapes
    batch = 1 if shapes.batch == "dynamic" else shapes.batch
    found = opened(torch.zeros(batch, shapes.channels, *shapes.smallest))
    if missing := [name for name in opened.manifest.outputs if name not in found]:
        raise SparsightError(f"the engine gives no output {missing[0]!r}: it gives {', '.join(found)}")


def compared(wanted: Any, made: Path, pictures: Any, file: Path) -> None:
    """Write the report beside `made`; SparsightError above the tolerance, the report beside `file`."""
    shapes, form = wanted.shapes, wanted.form
    with tempfile.TemporaryDirectory(dir=made.parent, prefix="probe") as folder:
        probe = Path(folder) / made.name
        encoder = Encoder(wanted.model, ("features",), told=True)
        names = written(encoder, shapes, form, probe, wanted.opset).names
        told = form.opened(probe, wanted.dtype, torch.get_num_threads(), names)
        dense = Path(folder) / f"dense{form.ending}"
        if wanted.plan is not None:
            written(Encoder(wanted.dense, wanted.outputs), shapes, form, dense, wanted.opset)
        report = _report(wanted, made, told, dense if wanted.plan is not None else None, pictures)
    write_json(parity_place(made), report)
    if report["differs"]:
        write_json(parity_place(file), report)
        raise SparsightError(
            f"the {form.name} file is not the model: {report['differs'][0]}; nothing was exported, the "
            f"report is {parity_place(file).name}"
        )


def _report(wanted: Any, made: Path, told: Engine, dense: Path | None, pictures: Any) -> dict[str, Any]:
    opened, shapes = open_exported(made), wanted.shapes
    batches = BATCHES if shapes.batch == "dynamic" else (shapes.batch,)
    given = list(Reader(pictures).spread(max(batches)))
    tolerance, rows = TOLERANCE[wanted.dtype], list[dict[str, Any]]()
    like = next(wanted.model.parameters())
    with evaluating(wanted.model), fused(wanted.model):
        for size in sizes_of(shapes, opened.manifest.prefix_tokens, opened.manifest.kept):
            for batch in batches:
                chosen = torch.stack([given[n % len(given)] for n in range(batch)])
                resized = F.interpolate(chosen, size, mode="bilinear", antialias=True)
                row = _case(wanted, opened, told, resized.to(like.dtype))
                rows.append({"size": name(size), "batch": batch} | row)
    engine = opened.engine.precision
    differs = [
        f"at {row['size']}, batch {row['batch']}, {key.replace('_', ' ')} is {row[key]:.3g}, "
        f"{'over' if key == 'error' else 'under'} {limit:g}"
        for row in rows
        for key, limit in tolerance.items()
        if row[key] is not None
        if (row[key] > limit if key == "error" else row[key] < limit)
    ]
    if engine != wanted.dtype:
        differs.insert(0, f"the engine computes in {engine}, not in {wanted.dtype}")
    return {
        "format": wanted.form.name,
        "file": made.name,
        "plan": opened.manifest.plan_label,
        "protocol": timing.setting(torch.device("cpu"), like.dtype) | {
            "engine": opened.manifest.versions.get(wanted.form.engine), "precision": engine,
            "pictures": len(given), "error": "largest difference over the root mean square of the "
            "features, PyTorch keeping what the engine kept",
        },
        "tolerance": tolerance,
        "cases": rows,
        "differs": differs,
        "speed": _speed(wanted, made, dense, given[0]),
    }  # fmt: skip


@torch.no_grad()
def _case(wanted: Any, opened: Any, told: Engine, pictures: Tensor) -> dict[str, float | None]:
    """One size and batch: the file, the probe that tells what it kept, PyTorch by itself and forced."""
    found = told.run(pictures.float().numpy())
    engine_sets = [torch.from_numpy(found[key]) for key in sorted(
        (key for key in found if key.startswith("kept")), key=lambda key: int(key[4:])
    )]  # fmt: skip
    module, own_sets = Encoder(wanted.model, wanted.outputs), list[Tensor]()
    with watched(own_sets):
        own = module(pictures)
    # Few tokens: PyTorch ran dense and ranked nothing, the graph ranked and kept all.
    is_dense = not own_sets
    if not is_dense and len(own_sets) != len(engine_sets):
        raise SparsightError(
            f"the graph ranks {len(engine_sets)} times where the model ranks {len(own_sets)} times: its "
            "layers do not run sparse at the same sizes, so export for a smaller range"
        )
    if is_dense:
        same = own
    else:
        with forced(engine_sets):
            same = module(pictures)
    got = opened(pictures.float())
    values = [(got[key], same[key].float(), own[key].float()) for key in wanted.outputs]
    errors = [
        ((ours - theirs).abs().max() / theirs.square().mean().sqrt().clamp_min(1e-12)).item()
        for ours, theirs, _ in values
    ]
    cosines = [F.cosine_similarity(ours, alone, dim=-1) for ours, _, alone in values]
    return {
        "error": max(errors),
        # SparseViT's windows are not told: where they differ, the error is large
        "overlap": None if not engine_sets else 1.0 if is_dense else _overlap(engine_sets, own_sets),
        "cosine": min(cosine.mean().item() for cosine in cosines),
        "cosine_worst": min(cosine.min().item() for cosine in cosines),
    }


def _overlap(sets: list[Tensor], others: list[Tensor]) -> float:
    """The share of the kept tokens that both kept, over all rankings and pictures."""
    both = total = 0
    for one, other in zip(sets, others, strict=True):
        for ours, theirs in zip(one.long(), other.long(), strict=True):
            both += int(torch.isin(ours, theirs).sum())
            total += len(theirs)
    return both / max(total, 1)


def sizes_of(shapes: Shapes, prefix: int, kept: Any) -> list[tuple[int, int]]:
    """Ends and corners of the range, both sides of every branch of the kept counts, and some more."""
    small, large = shapes.smallest, shapes.largest
    found = [small, large, (small[0], large[1]), (large[0], small[1])]
    heights, widths = (
        range(low, high + 1, patch)
        for low, high, patch in zip(small, large, shapes.patch_px, strict=True)
    )
    by_tokens: dict[int, tuple[int, int]] = {}
    for height in heights:
        for width in widths:
            rows, columns = shapes.grid((height, width))
            count = prefix + rows * columns
            now = by_tokens.get(count)
            if now is None or abs(height - width) < abs(now[0] - now[1]):
                by_tokens[count] = (height, width)
    counts = sorted(by_tokens)
    for span in (span for one in kept for span in one.spans[1:]):
        below = [count for count in counts if count < span.first]
        above = [count for count in counts if span.first <= count <= span.last]
        found += [by_tokens[count] for count in (*below[-1:], *above[:1])]
    for place in range(1, CASES):
        if len(set(found)) < CASES:
            found.append(by_tokens[counts[len(counts) * place // CASES]])
    return list(dict.fromkeys(found))


def _speed(wanted: Any, made: Path, dense: Path | None, picture: Tensor) -> dict[str, Any]:
    """Milliseconds in the engine itself, dense and sparse in turn, and the memory of one call."""
    batch = 1 if wanted.shapes.batch == "dynamic" else wanted.shapes.batch
    size = wanted.shapes.largest
    many = F.interpolate(picture[None].float(), size, mode="bilinear", antialias=True)
    pictures = many.expand(batch, -1, -1, -1).contiguous().numpy()
    files, threads = {"sparse": made}, torch.get_num_threads()
    if dense is not None:
        files["dense"] = dense
    engines = {
        arm: wanted.form.opened(file, wanted.dtype, threads, wanted.outputs)
        for arm, file in files.items()
    }
    times = timing.interleave(
        {arm: partial(engine.run, pictures) for arm, engine in engines.items()},
        REPEATS, torch.device("cpu"), "Timing",
    )  # fmt: skip
    form, dtype = wanted.form.name, wanted.dtype
    rows: dict[str, dict[str, Any]] = {
        arm: timing.summary(times[arm])
        | {"peak_memory_mb": peak_memory_mb(file, form, dtype, threads, wanted.outputs, pictures.shape)}
        for arm, file in files.items()
    }
    found: dict[str, Any] = {"size": name(size), "batch": batch, "repeats": REPEATS} | rows
    if dense is not None:
        found["speedup"] = rows["dense"]["latency_ms"] / rows["sparse"]["latency_ms"]
    return found

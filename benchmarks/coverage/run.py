"""Which encoders become sparse, by which route, and what that can gain: over timm and transformers.

    python -m benchmarks.coverage.run [--only NAME ...] [--renew] [--minutes M]

Models that have no row yet are looked at, a row is saved after each, and the same command goes on where
it was ended; `--renew` takes those again whose row is of other code, `--only` those that are named.

Models are built at their own size without weights: parameters are zeros that no memory is spent on, as
the dry run does not read those of linear layers.  Each runs in a process of its own, with a limit of
memory and time, so that none can end the others.  Share and limit are counted from the dry run:
attention 4 n^2 d of n tokens, everything else 2 n for each weight of a block.
"""

import argparse
import hashlib
import importlib
import inspect
import json
import multiprocessing
import pkgutil
import resource
import time
from importlib.metadata import version
from typing import Any

import torch
from benchmarks import harness

from sparsight._torchvision import repair
from sparsight.errors import SparsightError
from sparsight.families import encoder_in, family_of
from sparsight.families.dry_run import Seen, dry_run
from sparsight.families.inputs import channels_of, inputs_of, own_size
from sparsight.stages import timing

TIMM = (
    "eva", "naflexvit", "vision_transformer", "qwen3_vit", "gemma4_vit", "deepseek_vit", "deit",
    "vision_transformer_hybrid", "vision_transformer_relpos", "vision_transformer_sam", "beit",
    "vitamin",
    "pit", "hiera", "hieradet_sam2", "swin_transformer", "swin_transformer_v2", "cait", "coat", "convit",
    "crossvit", "davit", "levit", "maxxvit", "mvitv2", "nest", "pvt_v2", "tiny_vit", "tnt", "twins",
    "visformer", "volo", "xcit",
)  # fmt: skip
SIZES, KEEP = (1024, 2048), 1 / 8
SECONDS, GIGABYTES = 300, 8  # that one model may take
DECIDERS = ("families", "ops/segments.py", "ops/partition.py")  # of the package: what a row hangs on
UNLIKE = ("vision_transformer_sam",)  # whose first blocks are others than its last
WHOLE = ("EomtForUniversalSegmentation", "EomtDinov3ForUniversalSegmentation")  # towers by themselves


def candidates() -> list[tuple[str, str, str]]:
    """(library, module, name) of every model that is looked at."""
    repair()
    import timm
    import transformers

    found = []
    for module in pkgutil.iter_modules(transformers.models.__path__):
        path = f"transformers.models.{module.name}.modeling_{module.name}"
        try:
            code = importlib.import_module(path)
        except ImportError:
            continue
        for name in getattr(code, "__all__", ()):
            kind = getattr(code, name)
            if isinstance(kind, type) and ("For" not in name or name in WHOLE) and of_pictures(kind):
                found.append(("transformers", module.name, name))
    return found + [("timm", m, name) for m in TIMM for name in timm.list_models(module=m)]


def of_pictures(kind: type) -> bool:
    """Whether a class's forward begins with pictures, or patches and their grids."""
    names = list(inspect.signature(getattr(kind, "forward", kind)).parameters)[1:]
    return names[:1] == ["pixel_values"] or (names[:1] == ["hidden_states"] and "grid_thw" in names)


def built(library: str, module: str, name: str, real: bool) -> torch.nn.Module:
    """The model at its own size: without memory, or its parameters zeros that take none until read."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=not real):
        if library == "timm":
            repair()
            import timm

            try:  # two blocks tell as much as forty that are alike
                model = timm.create_model(name, **{} if module in UNLIKE else {"depth": 2})
            except (TypeError, ValueError, AssertionError):
                model = timm.create_model(name)
        else:
            code = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
            if hasattr(code, "requires_backends"):
                code.requires_backends = lambda *_: None  # some need a package for their loss alone
            kind = getattr(code, name)
            model = kind(kind.config_class())
    for part in model.modules() if real else ():
        for key, value in part._parameters.items():
            if value is not None:
                one = value.ndim == 2  # of a linear layer: one zero for all, since none is read
                zeros = torch.zeros(() if one else value.shape, dtype=value.dtype).expand(value.shape)
                part._parameters[key] = torch.nn.Parameter(zeros, requires_grad=False)
    return model.eval()


def row(library: str, module: str, name: str) -> dict[str, Any]:
    """What becomes of one model."""
    found: dict[str, Any] = {"library": library, "module": module, "name": name}
    for real in (False, True):  # what reads its pictures' sizes from tensors needs real ones
        try:
            encoder = encoder_in(built(library, module, name, real), None)
            found["encoder"] = type(encoder).__name__
            family = family_of(encoder)
            gained = gains(encoder, family)
            break
        except SparsightError as error:
            failed = {"route": "refused", "why": str(error)}
            if "could not be run" not in str(error):
                return found | failed
        except Exception as error:
            failed = {"route": "not built", "why": f"{type(error).__name__}: {error}"[:200]}
    else:
        if "allocate" in failed["why"]:
            failed = {"route": "not built", "why": f"it needs more than {GIGABYTES} GB"}
        return found | failed
    layers, blocks = family.global_layers(encoder), family.blocks(encoder)
    found |= {
        "route": "sites" if family.name == "sites" else "family", "family": family.name,
        "layers": len(blocks), "sparse": len(layers), "prefix": family.prefix_tokens(encoder),
    }  # fmt: skip
    return found | gained


def gains(encoder: Any, family: Any) -> dict[str, Any]:
    """Share of global attention in the work of the blocks, and the limit, by size."""
    if family.windows is not None:
        return {}
    px = family.patch_px(encoder)
    height, width = own_size(encoder) or (32 * px[0], 32 * px[1])
    flat = True
    if family.name == "sites":
        flat, (height, width) = family.found.flat, family.found.size_px
    device = next(encoder.parameters()).device
    picture = torch.zeros(1, channels_of(encoder), height, width, device=device)
    seen = dry_run(encoder, inputs_of(encoder, picture, flat))
    found: dict[str, Any] = {}
    for size in SIZES:
        wider = size * size / (height * width)
        whole, all_, rest = 0.0, 0.0, 0.0
        for one, block in zip(seen, owners(encoder, family, seen), strict=True):
            tokens = one.tokens * wider
            dim = one.reads[-1] if one.reads else 0
            pairs = sum(b * n * n for b, _, n, _ in one.calls) * wider * (wider if one.whole else 1)
            all_ += 4 * dim * pairs
            whole += 4 * dim * pairs * one.whole
            rest += 2 * tokens * sum(p.numel() for p in block.parameters() if p.ndim > 1)
        total = all_ + rest
        found[str(size)] = {"share": whole / total, "limit": total / (total - whole * (1 - 2 * KEEP))}
    return found


def owners(encoder: Any, family: Any, seen: list[Seen]) -> list[Any]:
    """The block around each of the modules that attend."""
    blocks = [(block, set(block.modules())) for block in family.blocks(encoder)]
    return [next((b for b, inside in blocks if one.module in inside), one.module) for one in seen]


def alone(job: tuple[str, str, str]) -> dict[str, Any]:
    """`row` in a process of its own."""

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (GIGABYTES << 30, GIGABYTES << 30))
        there.send(row(*job))

    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=work)
    process.start()
    there.close()
    try:
        found = here.recv() if here.poll(SECONDS) else None
    except EOFError:
        found = None
    process.kill()
    process.join()
    return found or dict(zip(("library", "module", "name"), job, strict=True)) | {
        "route": "not built", "why": f"it took more than {SECONDS} s or {GIGABYTES} GB",
    }  # fmt: skip


def made_from() -> str:
    """A digest of what a row hangs on: this file, the dry run and the families, and the libraries."""
    digest = hashlib.sha256(f"timm {version('timm')} transformers {version('transformers')}".encode())
    places = [harness.ROOT / "src" / "sparsight" / name for name in DECIDERS]
    files = [f for p in places for f in (sorted(p.rglob("*.py")) if p.is_dir() else [p])]
    for file in (*files, harness.ROOT / "benchmarks" / "coverage.py"):
        digest.update(harness.code_of(file).encode())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="names, again if they have a row")
    parser.add_argument("--renew", action="store_true", help="also those whose row is of other code")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin none after so many")
    given = parser.parse_args()
    torch.set_num_threads(1)
    file, now = harness.RESULTS / "coverage.json", made_from()
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    done = {(r["library"], r["module"], r["name"]): r for r in rows}
    jobs = candidates()
    wanted = [
        job
        for job in jobs
        if (job[2] in given.only if given.only else job not in done)
        or (given.renew and not given.only and done[job].get("made_from") != now)
    ]
    protocol = timing.protocol(
        torch.device("cpu"), torch.float32, keep=KEEP, transformers=version("transformers"),
        command="python -m benchmarks.coverage.run",
    )  # fmt: skip
    end = time.monotonic() + 60 * given.minutes
    for place, job in enumerate(wanted):
        if time.monotonic() > end:
            print(f"{len(wanted) - place} of {len(jobs)} are left: give the same command again")
            break
        done[job] = alone(job) | {"made_from": now}
        print(job[2], done[job]["route"], flush=True)
        kept = [done[one] for one in jobs if one in done]
        harness.save("coverage", __file__, {"protocol": protocol, "rows": kept})

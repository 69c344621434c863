"""Which encoders become sparse, by which route, and what that can gain: over timm and transformers.

    python benchmarks/coverage.py [--only NAME ...]

Models are built at their own size without weights: parameters are zeros that no memory is spent on, as
the dry run does not read those of linear layers.  Each runs in a process of its own, so that none can
end the others.  Share and limit are counted from the dry run: attention 4 n^2 d of n tokens, everything
else 2 n for each weight of a block.
"""

import argparse
import importlib
import inspect
import json
import multiprocessing
import pkgutil
from importlib.metadata import version
from typing import Any

import harness
import torch

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
SIZES, KEEP, SECONDS = (1024, 2048), 1 / 8, 300
WHOLE = ("EomtForUniversalSegmentation", "EomtDinov3ForUniversalSegmentation")  # towers by themselves


def candidates() -> list[tuple[str, str, str]]:
    """(library, module, name) of every model that is looked at."""
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
            import timm

            try:  # two blocks tell as much as forty that are alike
                model = timm.create_model(name, depth=2)
            except (TypeError, ValueError, AssertionError):
                model = timm.create_model(name)
        else:
            kind = getattr(
                importlib.import_module(f"transformers.models.{module}.modeling_{module}"), name
            )
            model = kind(kind.config_class())
    for part in model.modules() if real else ():
        for key, value in part._parameters.items():
            if value is not None:
                zeros = torch.zeros(value.shape, dtype=value.dtype)
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
    flat = family.found.flat if family.name == "sites" else True
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
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=lambda: there.send(row(*job)))
    process.start()
    there.close()
    try:
        found = here.recv() if here.poll(SECONDS) else None
    except EOFError:
        found = None
    process.kill()
    process.join()
    return found or dict(zip(("library", "module", "name"), job, strict=True)) | {
        "route": "not built", "why": f"it took more than {SECONDS} s, or the memory there is",
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="names, to print alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    file, now = harness.RESULTS / "coverage.json", harness.made_from(__file__)
    old = json.loads(file.read_text()) if file.exists() else {}
    rows = old["rows"] if old.get("made_from") == now else []
    done = {(r["library"], r["module"], r["name"]) for r in rows}
    protocol = timing.protocol(
        torch.device("cpu"), torch.float32, keep=KEEP, transformers=version("transformers"),
        command="python benchmarks/coverage.py",
    )  # fmt: skip
    for job in candidates():
        if given.only:
            if job[2] in given.only:
                print(json.dumps(alone(job), indent=1))
        elif job not in done:  # what was cut off goes on
            rows.append(alone(job))
            print(rows[-1]["name"], rows[-1]["route"], flush=True)
            harness.save("coverage", __file__, {"protocol": protocol, "rows": rows})

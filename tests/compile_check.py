"""Compiled against eager, with another picture too: prints the largest relative error of each case."""

import json

import test_apply
import test_spot
import test_windowed
import torch
from conftest import SWIN_GRID, SWINS, WINDOWED, make_images, make_model
from test_apply import GROUPS

import sparsight


def worst(model, grid):
    """The largest error of a compiled model on two pictures of one size."""
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = 0.0
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for seed in (1, 5):
            images = make_images(model, grid=grid, seed=seed)
            wanted, got = (
                out if isinstance(out, torch.Tensor) else out.last_hidden_state
                for out in (model(images), compiled(images))
            )  # fmt: skip
            error = (got - wanted).abs().max() / wanted.abs().max()
            found = max(found, error.item())
    return found


errors = {}
for name in ("dinov2_reg", "dinov3", "siglip", "hf_dinov2_reg", "hf_dinov3", *WINDOWED):
    for kind in (*GROUPS, "spot") if name in ("dinov3", "siglip") else GROUPS:
        model = WINDOWED[name]() if name in WINDOWED else make_model(name)
        tests = test_windowed if name in WINDOWED else test_apply
        if kind == "spot":
            plan = test_spot.make_plan(model)
        else:
            plan = tests.make_plan(model, "sampled", tests.GROUPS[kind])
        sparsight.apply(model, plan)
        errors[f"{name}-{kind}"] = worst(model, (9, 7))
for name, make in SWINS.items():
    model = sparsight.apply(make(), sparsight.SparseViT(sparsity=((0.6,), (0.25, 0.5))))
    errors[name] = worst(model, SWIN_GRID)
print(json.dumps(errors))

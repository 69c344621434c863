"""Compiled against eager, with another picture too: prints the largest relative error of each case."""

import json

import test_apply
import test_spot
import test_windowed
import torch
from conftest import WINDOWED, make_images, make_model
from test_apply import GROUPS

import sparsight

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
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        worst = 0.0
        with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
            for seed in (1, 5):
                images = make_images(model, seed=seed)
                wanted, got = (
                    out if isinstance(out, torch.Tensor) else out.last_hidden_state
                    for out in (model(images), compiled(images))
                )  # fmt: skip
                error = (got - wanted).abs().max() / wanted.abs().max()
                worst = max(worst, error.item())
        errors[f"{name}-{kind}"] = worst
print(json.dumps(errors))

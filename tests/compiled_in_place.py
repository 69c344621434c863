"""What is compiled before or after a plan is applied: prints what went wrong, by case.

In a process of its own: the shape checks of the tests cannot be compiled through.  Compiled as it is
("eager"), so that results are the same bits, and for each size anew, as symbolic sizes take SAM 2
minutes.
"""

import json
import traceback

import torch
from changed_models import COMPILED, Setup
from conftest import blocks_of, run_features

import sparsight
from sparsight.attach import family_in

compiling = {"backend": "eager", "dynamic": False}


def blocks_before(setup):
    for block in blocks_of(setup.model):
        block.compile(**compiling)
    assert all(map(torch.equal, setup.run(setup.model), setup.dense))
    sparsight.apply(setup.model, setup.plan)
    setup.check_sparse()
    setup.check_restored()
    assert all(block._compiled_call_impl for block in blocks_of(setup.model))


def model_before(setup):
    model = setup.model
    wanted = [called(sparsight.apply(model, setup.plan), setup), called(sparsight.restore(model), setup)]
    model.compile(**compiling)
    assert torch.equal(called(model, setup), wanted[1])
    sparsight.apply(model, setup.plan)
    assert torch.equal(called(model, setup), wanted[0])
    setup.check_sparse()
    setup.check_restored()
    assert torch.equal(called(model, setup), wanted[1])
    assert model._compiled_call_impl


@torch.no_grad()
def called(model, setup):
    """What the model's own call gives of a large picture; timm's features come from another method."""
    if family_in(model).library == "timm":
        return model(setup.images[0])
    return run_features(model, setup.images[0])


def parts_after(setup):
    sparsight.apply(setup.model, setup.plan)
    for part in setup.parts():
        part.compile(**compiling)
    setup.check_sparse()
    setup.check_restored()


def forward_after(setup):
    sparsight.apply(setup.model, setup.plan)
    for part in setup.changed():
        part.forward = torch.compile(part.forward, **compiling)
    setup.check_sparse()
    setup.check_restored()


BEFORE, AFTER = (blocks_before, model_before), (parts_after, forward_after)
found = {}
for number, (name, kind) in enumerate(COMPILED):
    turn = number % 2  # so that each kind meets each way
    for way in (BEFORE[turn], AFTER[turn]):
        torch._dynamo.reset()
        try:
            way(Setup(name, kind))
            found[f"{name}-{kind}-{way.__name__}"] = ""
        except Exception:
            found[f"{name}-{kind}-{way.__name__}"] = traceback.format_exc()[-2000:]
print(json.dumps(found))

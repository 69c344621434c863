"""Quantisation beside sparsity: in which order, what is refused, and that it all comes back."""

from importlib.util import find_spec

import pytest
import torch
from conftest import make_images, make_model, plan_of
from test_apply import features, make_plan

import sparsight
from sparsight.exports.graph import forced, watched

pytestmark = [
    pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao"),
    pytest.mark.filterwarnings("ignore"),  # torchao's own, on import
]
CONFIGS = ("Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig", "Float8WeightOnlyConfig")


def quantised(model, config):
    from torchao import quantization

    quantization.quantize_(model, getattr(quantization, config)())
    return model


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", ["dinov2_reg", "hf_dinov3"])
def test_a_sparse_model_is_quantised_and_restored(name, config):
    model = make_model(name)
    images = make_images(model)
    keys, plan = list(model.state_dict()), make_plan(model, "sampled", completion="map")
    exact, sets = features(model, images), []
    sparsight.apply(model, plan)
    with watched(sets):
        own = features(model, images)
    quantised(model, config)
    assert list(model.state_dict()) == keys
    with forced(sets):  # one swap in a ranking of a random model moves more than rounding does
        found = features(model, images)

    restored = features(sparsight.restore(model), images)
    assert torch.equal(restored, features(quantised(make_model(name), config), images))
    # what rounding costs the sparse model is about what it costs the dense one
    error, usual = ((a - b).norm() / b.norm() for a, b in ((found, own), (restored, exact)))
    assert 1e-4 < error < 2 * usual


def test_a_plan_goes_onto_a_quantised_model_unless_it_brings_weights():
    model = quantised(make_model("dinov2_reg"), CONFIGS[0])
    images = make_images(model)
    before = features(model, images)
    assert not torch.equal(features(sparsight.apply(model, plan_of(model, SVE)), images), before)
    assert torch.equal(features(sparsight.restore(model), images), before)
    key = "model.blocks.1.attn.qkv.weight"
    plan = plan_of(model, SVE).with_(weights={key: torch.zeros(144, 48)})
    with pytest.raises(sparsight.SparsightError, match="apply the plan to the plain float model first"):
        sparsight.apply(model, plan)
    assert torch.equal(features(model, images), before)


SVE = sparsight.SVE(layers=(1,), keep=1 / 4, min_tokens=0, sample_every=4)

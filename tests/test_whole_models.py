"""Whole models around a vision encoder: it is found, becomes sparse, and the model runs as before."""

import pytest
import torch
from whole_models import WHOLE, make_whole

import sparsight
from sparsight.attach import applied, dense_calls
from sparsight.families import encoder_in, family_of
from sparsight.families.found import found_in

EVERY = sparsight.SVE(layers="all", keep=1 / 8, score="exact", min_tokens=0)

# name -> where the encoder is, its family, layers that can be sparse, prefix tokens
FOUND = {
    "internvl": ("model.vision_tower", "sites", (0, 1), 1),
    "qwen3_vl": ("model.visual", "sites", (0, 1), 0),
    "depth_anything": ("backbone", "hf_dinov2", (0, 1, 2, 3), 1),
    "sam": ("vision_encoder", "sites", (1,), 0),
    "sam3": ("vision_encoder.backbone", "sites", (1,), 0),  # the other has windows
    "eomt": ("", "sites", (0, 1, 2), 5),  # queries have joined in the last
    "eomt_dinov3": ("", "sites", (0, 1, 2), 5),
    "rf_detr": ("model.backbone.backbone", "sites", (2,), 0),  # class tokens stand in every window
    "dpt": ("dpt", "sites", (0, 1, 2, 3), 1),
    "dpt_dinov2": ("backbone", "hf_dinov2", (0, 1, 2, 3), 1),
    "zoedepth": ("backbone.beit", "sites", (0, 1, 2, 3), 1),
    "upernet": ("backbone", "hf_dinov3", (0, 1, 2, 3), 5),
}


def outputs(model, asked):
    """Everything of numbers that a model returns."""
    return [value for value in model(**asked).values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", WHOLE)
@torch.no_grad()
def test_the_whole_model_runs_with_its_encoder_sparse_and_comes_back(name):
    (model, asked), (path, family, layers, prefix) = make_whole(name), FOUND[name]
    keys, dense = list(model.state_dict()), outputs(model, asked)
    encoder = model.get_submodule(path)
    assert encoder_in(model, None) is encoder  # it need not be named
    found = family_of(encoder)
    assert (found.name, found.global_layers(encoder), found.prefix_tokens(encoder)) == (
        family, layers, prefix,
    )  # fmt: skip
    for given in (None, path or None):
        sparsight.apply(model, EVERY.model_copy(update={"keep": 1.0}), module=given)
        assert all(map(torch.equal, outputs(model, asked), dense))
        sparsight.restore(model, module=given)
        assert sparsight.apply(model, EVERY, module=given) is model
        sparse = outputs(model, asked)
        assert [x.shape for x in sparse] == [x.shape for x in dense]
        assert any((a - b).norm() > 1e-3 * b.norm() for a, b in zip(sparse, dense, strict=True))
        assert not dense_calls(model)
        sparsight.restore(model, module=given)
        assert applied(encoder) is None
    assert list(model.state_dict()) == keys
    assert all(map(torch.equal, outputs(model, asked), dense))


@pytest.mark.parametrize("name", ["internvl", "qwen3_vl"])
@torch.no_grad()
def test_a_vision_language_model_generates_with_its_tower_sparse(name):
    model, asked = make_whole(name)
    dense = model.generate(**asked, max_new_tokens=3, do_sample=False)
    sparsight.apply(model, EVERY, module=FOUND[name][0])
    words = model.generate(**asked, max_new_tokens=3, do_sample=False)
    assert words.shape[1] > asked["input_ids"].shape[1]
    sparsight.restore(model, module=FOUND[name][0])
    assert torch.equal(model.generate(**asked, max_new_tokens=3, do_sample=False), dense)


@pytest.mark.parametrize("masked", [True, False])
def test_blocks_that_queries_have_joined_stay_dense_with_or_without_their_mask(masked):
    model, _ = make_whole("eomt")
    if not masked:  # as its checkpoints are at the end of their training
        model.attn_mask_probs.zero_()
    assert family_of(model).global_layers(model) == (0, 1, 2)


def test_queries_of_a_decoder_are_no_tokens_of_a_picture():
    from transformers import DetrConfig, DetrModel, ResNetConfig

    own = dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads"), 2)
    own |= {"decoder_attention_heads": 2, "d_model": 32, "num_queries": 12}
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
        out_features=["stage2"],
    )  # fmt: skip
    model = DetrModel(
        DetrConfig(**own, backbone_config=backbone, encoder_ffn_dim=48, decoder_ffn_dim=48)
    )
    found = found_in(model.eval())
    assert [site.whole for site in found.sites if "encoder" in site.path] == [True, True]
    assert not any(site.whole for site in found.sites if "decoder" in site.path)

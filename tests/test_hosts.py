"""What transformers offers works with sparse layers or is refused; encoders inside larger models."""

import copy

import pytest
import torch
from conftest import HF_MODELS, HF_SMALL, blocks_of, make_images, make_model, run_features, shaken
from test_apply import GROUPS, features, make_plan, reference

import sparsight
from sparsight.attach import applied, family_in
from sparsight.errors import PlanError, SparsightError, UnsupportedModelError
from sparsight.families import encoder_in, family_of
from sparsight.stages import distil as distilling
from sparsight.stages.measure import fused

TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2,
}  # fmt: skip
IMAGE_TOKEN = 9


def make_llava():
    """A vision-language model around a CLIP tower of 8 x 8 patches."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(**HF_SMALL | {"image_size": 128})
    config = LlavaConfig(
        vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_id=IMAGE_TOKEN
    )
    torch.manual_seed(0)
    return shaken(LlavaForConditionalGeneration(config))


def ask_llava(model):
    """One picture and two words: the logits, and the picture as the language model sees it."""
    words = torch.tensor([[1] + [IMAGE_TOKEN] * 64 + [5]])
    pictures = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        out = model(input_ids=words, pixel_values=pictures)
    return out.logits, out.image_hidden_states


def make_clip():
    from transformers import CLIPConfig, CLIPModel

    vision = HF_SMALL | {"image_size": 128}
    text = TEXT | {"max_position_embeddings": 16, "eos_token_id": 2}
    torch.manual_seed(0)
    return shaken(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)))


SETTINGS = sparsight.SVE(layers=(0, 1, 2), keep=1 / 4, groups=((0, 1),), min_tokens=0)


@pytest.mark.parametrize("path", ["vision_tower", "model.vision_tower"])
def test_the_tower_of_a_vision_language_model_becomes_sparse_in_place(path):
    model = make_llava()
    if path == "vision_tower":
        model = model.model
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    tower = model.get_submodule(path)
    wanted_hidden = []
    plan = make_plan(tower, groups=GROUPS["grouped"])
    reference(tower, plan, images, wanted_hidden)
    with torch.no_grad():
        dense = tower(images).last_hidden_state

    assert sparsight.apply(model, plan, module=path) is model
    assert applied(tower)
    with torch.no_grad():
        found = tower(images, output_hidden_states=True)
    # The language model reads hidden states, which are recorded by class: see output_capturing.py.
    assert len(found.hidden_states) == 5
    for got, wanted in zip(found.hidden_states[1:4], wanted_hidden, strict=True):
        assert (got - wanted).abs().max() <= 2e-5 * wanted.abs().max()
    assert sparsight.restore(model, module=path) is model
    with torch.no_grad():
        assert torch.equal(tower(images).last_hidden_state, dense)


def test_the_whole_vision_language_model_runs_and_comes_back():
    model = make_llava()
    logits, seen = ask_llava(model)
    keys, values = list(model.state_dict()), copy.deepcopy(model.state_dict())
    sparsight.apply(model, SETTINGS, module="model.vision_tower")
    assert list(model.state_dict()) == keys
    sparse_logits, sparse_seen = ask_llava(model)
    assert sparse_logits.shape == logits.shape
    assert (sparse_seen - seen).norm() > 1e-3 * seen.norm()
    assert (sparse_logits - logits).abs().max() > 0
    sparsight.restore(model, module="model.vision_tower")
    assert torch.equal(ask_llava(model)[0], logits)
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())


def test_image_features_of_clip_are_those_of_the_masked_reference():
    model = make_clip()
    images = make_images(model.vision_model, grid=(9, 8))  # it was made for 8 x 8 patches
    plan = make_plan(model.vision_model, "exact")
    with torch.no_grad():
        dense = model.get_image_features(images, interpolate_pos_encoding=True).pooler_output
        tokens = reference(model.vision_model, plan, images)
        pooled = model.vision_model.post_layernorm(tokens[:, 0])
        wanted = model.visual_projection(pooled)
        sparsight.apply(model, plan, module="vision_model")
        got = model.get_image_features(images, interpolate_pos_encoding=True).pooler_output
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert (got - dense).abs().max() > 1e-3 * dense.abs().max()


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("ViTForImageClassification", "vit"),
        ("DeiTForImageClassificationWithTeacher", "deit"),
        ("Dinov2ForImageClassification", "dinov2"),
        ("CLIPVisionModelWithProjection", "vision_model"),
        ("SiglipForImageClassification", "vision_model"),
    ],
)
def test_the_only_encoder_of_a_larger_model_is_found_without_being_named(kind, path):
    import transformers

    host = getattr(transformers, kind)
    config = host.config_class
    made = config(vision_config=HF_SMALL) if "Siglip" in kind else config(**HF_SMALL)
    model = shaken(host(made))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        dense = model(images)[0]
        sparse = sparsight.apply(model, SETTINGS)(images)[0]
        assert sparse.shape == dense.shape
        assert not torch.equal(sparse, dense)
        for module in (None, path):
            with pytest.raises(PlanError, match="already has a plan"):
                sparsight.apply(model, SETTINGS, module=module)
        sparsight.restore(model)
        assert torch.equal(model(images)[0], dense)
        sparsight.apply(model, SETTINGS, module=path)
        assert torch.equal(model(images)[0], sparse)


def test_a_path_that_is_wrong_is_refused_and_so_are_two_encoders_of_which_none_is_named():
    model = make_llava()
    assert encoder_in(model, None) is model.model.vision_tower
    two = torch.nn.ModuleList([model, make_clip()])
    with pytest.raises(UnsupportedModelError, match="holds several: name it with module='0"):
        sparsight.apply(two, SETTINGS)
    with pytest.raises(UnsupportedModelError, match=r"no module 'tower'.* at 'model\.vision_tower'"):
        sparsight.apply(model, SETTINGS, module="tower")
    with pytest.raises(UnsupportedModelError, match=r"LlamaModel of .* is not supported"):
        sparsight.apply(model, SETTINGS, module="model.language_model")
    with pytest.raises(UnsupportedModelError, match="closest family is hf_clip"):
        family_of(make_clip().text_model)


def test_the_stages_take_the_path_and_a_plan_fits_the_encoder_anywhere(tmp_path):
    model, path = make_llava(), "model.vision_tower"
    tower = model.get_submodule(path)
    pictures = list(make_images(tower, batch=3))
    assert sparsight.analyze(model, pictures, module=path) == sparsight.analyze(tower, pictures)
    settings = SETTINGS.model_copy(update={"groups": ()})
    plan = sparsight.optimize(model, pictures, settings, tmp_path, module=path)
    assert plan.recipe["module"] == path
    assert plan.model.family == "hf_clip"
    result = sparsight.measure(model, plan, pictures, resolutions=[(96, 112)], repeats=1, module=path)
    assert {case["arm"] for case in result["cases"]} == {"dense", "sparse"}
    assert applied(tower) is None
    sparsight.apply(copy.deepcopy(tower), tmp_path)
    sparsight.save(sparsight.apply(model, plan, path), tmp_path / "again", module=path)
    assert sparsight.load(tmp_path / "again") == plan


@pytest.mark.parametrize("name", ["hf_vit", "hf_dinov3", "hf_siglip"])
def test_attention_maps_are_refused_where_a_layer_is_sparse(name):
    model = make_model(name)
    model.set_attn_implementation("eager")
    images = make_images(model, grid=(4, 4))
    sparsight.apply(model, make_plan(model))
    with pytest.raises(SparsightError, match="layer 0 is sparse and has no attention map"):
        model(images, output_attentions=True)
    model.config.output_attentions = True
    with pytest.raises(SparsightError, match="layer 0 is sparse"):
        model(images)
    sparsight.restore(model)
    dense = make_plan(model, min_tokens=10_000)
    with torch.no_grad():
        wanted = model(images).attentions
        got = sparsight.apply(model, dense)(images).attentions
    assert len(got) == 4
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("name", ["hf_vit", "hf_deit", "hf_clip", "hf_siglip"])
def test_larger_pictures_need_interpolation_as_before(name):
    model = make_model(name)
    small, large = make_images(model, grid=(4, 4)), make_images(model)
    sparsight.apply(model, make_plan(model))
    with torch.no_grad():
        assert torch.equal(model(small).last_hidden_state, run_features(model, small))
        found = model(large, interpolate_pos_encoding=True).last_hidden_state
        assert torch.equal(found, run_features(model, large))
        with pytest.raises((ValueError, RuntimeError), match="size"):
            model(large)


@pytest.mark.parametrize("name", ["hf_vit", "hf_dinov2"])
def test_a_mask_makes_transformers_layers_run_dense(name):
    model = make_model(name)
    images = make_images(model, grid=(4, 4))
    mask = torch.ones(2, 17)
    mask[:, 5] = 0
    with torch.no_grad():
        unmasked = model(images).last_hidden_state
        wanted = model(images, attention_mask=mask).last_hidden_state
        got = sparsight.apply(model, make_plan(model))(images, attention_mask=mask).last_hidden_state
    assert torch.equal(got, wanted)
    assert not torch.equal(got, unmasked)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_any_attention_implementation_gives_the_same(implementation):
    model = make_model("hf_dinov2")
    images, plan = make_images(model), make_plan(model, "exact")
    wanted = features(sparsight.apply(copy.deepcopy(model), plan), images)
    model.set_attn_implementation(implementation)
    with fused(model):
        assert model.config._attn_implementation == "sdpa"  # what sparse attention is timed against
    assert model.config._attn_implementation == implementation
    got = features(sparsight.apply(model, plan), images)
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("name", HF_MODELS)
def test_gradient_checkpointing_of_transformers_recomputes_to_the_same_gradients(name):
    model = make_model(name)
    images = make_images(model)
    sparsight.apply(model, make_plan(model, groups=GROUPS["grouped"])).train()
    for module in model.modules():
        module.training = module in list(blocks_of(model))  # no drop path, no shifted rotary tables
    runs, gradients = [], []
    # A recomputation ends with what the gradient needs last: before the MLP returns, in some models.
    blocks_of(model)[1].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        run_features(model, images).square().mean().backward()
        gradients.append(next(blocks_of(model)[0].mlp.parameters()).grad.clone())
    assert len(runs) == 3  # once plainly; twice when checkpointed
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)
    sparsight.restore(model)
    assert all(block.gradient_checkpointing for block in blocks_of(model))


def through_checkpoints(model, x, reentrant):
    for block in blocks_of(model):
        x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=reentrant)
    return x


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_groups_have_the_right_gradient_or_are_refused(reentrant):
    model = make_model("hf_vit")
    sparsight.apply(model, make_plan(model, groups=GROUPS["grouped"]))
    one, other = torch.randn(2, 1, 64, 48, generator=torch.Generator().manual_seed(0))
    weight = next(blocks_of(model)[0].mlp.parameters())

    def gradient_of(x):
        model.zero_grad()
        x.square().mean().backward()
        return weight.grad.clone()

    plain = one.clone().requires_grad_()
    for block in blocks_of(model):
        plain = block(plain)
    wanted = gradient_of(plain)
    got = gradient_of(through_checkpoints(model, one.clone().requires_grad_(), reentrant))
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-4)
    first = through_checkpoints(model, one.clone().requires_grad_(), reentrant)
    through_checkpoints(model, other.clone().requires_grad_(), reentrant)
    with pytest.raises(SparsightError, match="call backward after each forward"):
        gradient_of(first)


def test_distillation_uses_the_checkpointing_that_was_enabled():
    model = make_model("hf_dinov2")
    pictures, plan = list(make_images(model, batch=3)), make_plan(model, "exact")
    settings = sparsight.Distillation(steps=4, learning_rate=3e-4)
    plain = distilling.distil(model, plan, pictures, settings)[1]
    model.activation_checkpointing_enable()
    runs = []
    model.encoder.layer[1].mlp.fc1.register_forward_hook(lambda *_: runs.append(1))
    again = distilling.distil(model, plan, pictures, settings)[1]
    # Teacher and student run once a step each, the student a second time for its gradients.
    assert len(runs) == 4 * 3
    assert again == pytest.approx(plain, rel=1e-5)
    assert not model.training
    assert plain[-1] < plain[0]


def test_a_model_spread_over_devices_is_refused_and_one_device_is_left_alone():
    model = make_model("hf_vit")
    model.hf_device_map = {"": "cpu"}
    sparsight.restore(sparsight.apply(model, make_plan(model)))
    assert model.hf_device_map == {"": "cpu"}
    model.layers[2].to("meta")
    with pytest.raises(PlanError, match="blocks of this model are on cpu, meta"):
        sparsight.apply(model, make_plan(model))
    assert applied(model) is None


@pytest.mark.parametrize(
    "settings", [SETTINGS, sparsight.EarlyExit(after=(1,), completion="last", min_tokens=0)]
)
def test_modules_are_still_of_the_hosts_classes_and_called_the_same(settings):
    model = make_model("hf_vit")
    before = {name: type(part) for name, part in model.named_modules()}
    sparsight.apply(model, settings)
    after = dict(model.named_modules())
    assert list(after) == list(before)
    assert all(isinstance(part, before[name]) for name, part in after.items())
    changed = [name for name, part in after.items() if type(part) is not before[name]]
    places = [family_in(model).parts.attention(block) for block in model.layers[:3]]
    wanted = places if settings is SETTINGS else model.layers[2:]
    assert [after[name] for name in changed] == list(wanted)

"""Models as people find them: checkpoints, folders, derived classes, other repositories."""

import json
import types

import pytest
import timm
import torch
from conftest import (
    HF_SMALL,
    SMALL,
    make_hf_swin,
    make_images,
    make_model,
    other_defaults,
    run_features,
    sam2_config,
    shaken,
)
from safetensors.torch import save_file
from timm.models import save_for_hf
from timm.models.vision_transformer import Block, VisionTransformer

import sparsight
from sparsight.attach import applied
from sparsight.errors import SparsightError, UnsupportedModelError
from sparsight.families import family_of
from sparsight.models import load_model
from sparsight.stages.crossover import crossover

SIZE = (64, 64)
LONGEST = 300  # characters of a sentence
SETTINGS = sparsight.SVE(layers="all", keep=1 / 4, min_tokens=0)


@pytest.fixture
def source(tmp_path):
    """A folder of timm with a small ViT of five classes, and the weights for a checkpoint."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=64, **SMALL)
    args = SMALL | {"img_size": 64}
    save_for_hf(model, tmp_path / "vit", model_args=args, safe_serialization=True)
    torch.manual_seed(1)
    other = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=64, **SMALL)
    return str(tmp_path / "vit"), shaken(other).state_dict()


def saved(folder, tensors, name="weights.safetensors"):
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / name)
    return folder / name


def under(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def without_head(tensors):
    return {name: value for name, value in tensors.items() if not name.startswith("head")}


def check_loaded(loaded, wanted, tolerance=0.0):
    found = loaded.model.state_dict()
    for name in without_head(wanted):
        assert found[name].dtype == torch.float32
        smallest = 2**-24 if tolerance else 0.0  # that float16 has
        limit = tolerance * wanted[name].abs().max() + smallest
        assert (found[name] - wanted[name]).abs().max() <= limit


@pytest.mark.parametrize(
    "prefix",
    [
        "module.", "backbone.", "model.", "encoder.", "teacher.backbone.", "student.", "visual.",
        "visual.trunk.", "_orig_mod.", "module._orig_mod.", "any.thing.",
    ],
)  # fmt: skip
def test_a_checkpoint_is_found_under_any_prefix(source, tmp_path, prefix):
    model, wanted = source
    beside = {"decoder.0.weight": torch.zeros(2, 2)}
    file = saved(tmp_path, under(prefix, wanted) | beside)
    check_loaded(load_model(model, SIZE, checkpoint=file), wanted)


def renamed(tensors):
    return {name.replace("blocks.1.", "blocks.1._orig_mod."): v for name, v in tensors.items()}


@pytest.mark.parametrize(
    ("change", "classes", "note", "tolerance"),
    [
        (lambda w: w, 5, None, 0),
        (without_head, 0, "has no weights of head", 0),
        (lambda w: w | {"head.weight": torch.ones(9, 48), "head.bias": torch.ones(9)}, 9, None, 0),
        (lambda w: without_head(w) | {"fc.weight": torch.ones(9, 48)}, 0, "its fc is left out", 0),
        (lambda w: under("backbone.", w) | {"neck.x": torch.ones(1)}, 5, "1 other tensors", 0),
        # bfloat16 keeps 8 bits, float16 11: half of the last one, relative to the largest value
        (lambda w: {k: v.bfloat16() for k, v in w.items()}, 5, None, 2**-8),
        (lambda w: {k: v.half() for k, v in w.items()}, 5, None, 2**-11),
        (renamed, 5, None, 0),
    ],
)
def test_heads_and_number_formats_do_not_matter(source, tmp_path, change, classes, note, tolerance):
    model, wanted = source
    loaded = load_model(model, SIZE, checkpoint=saved(tmp_path, change(wanted)))
    check_loaded(loaded, wanted, tolerance)
    assert loaded.model.num_classes == classes
    assert (note is None) == (not loaded.notes)
    assert note is None or note in loaded.notes[0]


def test_of_several_copies_the_average_is_preferred(source, tmp_path):
    model, wanted = source
    zeros = {name: torch.zeros_like(value) for name, value in wanted.items()}
    training = under("model.", zeros) | under("model_ema.", wanted) | {"optimizer.step": torch.ones(1)}
    check_loaded(load_model(model, SIZE, checkpoint=saved(tmp_path, training)), wanted)
    twice = under("one.", wanted) | under("two.", wanted)
    with pytest.raises(SparsightError, match=r"several such encoders, at 'one\.' and 'two\.'"):
        load_model(model, SIZE, checkpoint=saved(tmp_path, twice))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: {k: v for k, v in w.items() if k != "blocks.2.mlp.fc1.bias"}, "not complete"),
        (lambda w: w | {"blocks.4.norm1.weight": torch.ones(48)}, "1 unexpected .*another size"),
        (lambda w: w | {"reg_token": torch.ones(1, 4, 48)}, r"1 unexpected \(reg_token\)"),
        (lambda w: w | {"blocks.1.norm1.bias": torch.ones(64)}, "1 of another shape"),
        (lambda w: timm.create_model("resnet18").state_dict(), "missing .*another architecture"),
        (lambda w: {}, "holds no tensors"),
    ],
)
def test_a_wrong_checkpoint_is_told_in_one_short_sentence(source, tmp_path, change, says):
    model, wanted = source
    with pytest.raises(SparsightError, match=says) as caught:
        load_model(model, SIZE, checkpoint=saved(tmp_path, change(wanted)))
    assert len(str(caught.value)) <= LONGEST


def test_transformers_weights_load_by_old_names_under_a_prefix_and_in_shards(tmp_path):
    model = make_model("hf_vit")
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    index = tmp_path / "shards" / "model.safetensors.index.json"
    wanted = {name: value + 1 for name, value in model.state_dict().items()}
    old = {
        name.replace("layers.", "encoder.layer.")
        .replace("attention.q_proj", "attention.attention.query")
        .replace("attention.k_proj", "attention.attention.key")
        .replace("attention.v_proj", "attention.attention.value")
        .replace("attention.o_proj", "attention.output.dense")
        .replace("mlp.fc1", "intermediate.dense")
        .replace("mlp.fc2", "output.dense"): value
        for name, value in wanted.items()
    }
    for tensors in (old, under("vit.", old), under("module.vit.", wanted)):
        loaded = load_model(str(tmp_path / "whole"), SIZE, checkpoint=saved(tmp_path, tensors))
        assert torch.equal(loaded.model.layers[2].mlp.fc1.weight, wanted["layers.2.mlp.fc1.weight"])
    again = load_model(str(tmp_path / "whole"), SIZE, checkpoint=index).model
    assert torch.equal(again.layers[2].mlp.fc1.weight, model.layers[2].mlp.fc1.weight)
    shard = sorted(index.parent.glob("model-*.safetensors"))[0]
    with pytest.raises(SparsightError, match=r"one of \d+ shards: give the .*index.json"):
        load_model(str(tmp_path / "whole"), SIZE, checkpoint=shard)
    shard.unlink()
    with pytest.raises(SparsightError, match="which is not there"):
        load_model(str(tmp_path / "whole"), SIZE, checkpoint=index)


@pytest.mark.parametrize(
    ("name", "files", "mean", "std", "note"),
    [
        ("hf_siglip", {"processor_config.json": {"image_processor": {"image_mean": [0.4] * 3,
         "image_std": [0.3] * 3}}}, 0.4, 0.3, None),
        ("hf_siglip", {"preprocessor_config.json": {"image_mean": 0.4, "image_std": 0.3}},
         0.4, 0.3, None),
        ("hf_siglip", {"preprocessor_config.json": {"do_normalize": False}}, 0.0, 1.0, None),
        ("hf_siglip", {"preprocessor_config.json": {"do_rescale": False, "image_mean": [51] * 3,
         "image_std": [102] * 3}}, 0.2, 0.4, None),
        ("hf_siglip", {}, 0.5, 0.5, "usual for siglip: mean 0.5, std 0.5"),
        ("hf_vit", {}, 0.5, 0.5, "usual for vit"),
        ("hf_clip", {}, 0.48145466, 0.26862954, "usual for clip"),
        ("hf_dinov2", {}, 0.485, 0.229, "ImageNet's"),
    ],
)  # fmt: skip
def test_pictures_are_normalised_as_the_folder_says_or_as_is_usual(
    tmp_path, name, files, mean, std, note
):
    make_model(name).save_pretrained(tmp_path)
    for file, settings in files.items():
        (tmp_path / file).write_text(json.dumps(settings))
    loaded = load_model(str(tmp_path), SIZE)
    assert (loaded.mean[0], loaded.std[0]) == pytest.approx((mean, std))
    assert (note is None) == (not loaded.notes)
    assert note is None or note in loaded.notes[0]


VIT = '{"model_type": "vit"}'
FOLDERS = {
    "empty": ({}, "has no config.json: write it"),
    "open_clip": ({"open_clip_config.json": "{}", "open_clip_model.safetensors": ""}, "open_clip's"),
    "open_clip, pickled": ({"open_clip_config.json": "{}", "open_clip.bin": ""}, "open_clip"),
    "run": ({"plan.json": "{}"}, "is a run of sparsight"),
    "adapter": ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, "merge_and_unload"),
    "pickled": ({"config.json": VIT, "pytorch_model.bin": ""}, "only pickled weights"),
    "damaged config": ({"config.json": "{", "model.safetensors": ""}, "cannot read"),
    "list": ({"config.json": "[]", "model.safetensors": ""}, "holds no object"),
    "nothing said": ({"config.json": "{}", "model.safetensors": ""}, "names neither a model_type"),
    "unknown": ({"config.json": '{"model_type": "none"}', "model.safetensors": ""}, "no model of"),
    "odd type": ({"config.json": '{"model_type": [1]}', "model.safetensors": ""}, "no model of"),
    "code": ({"config.json": '{"model_type": "a", "auto_map": {}}', "model.safetensors": ""}, "not run"),
    "damaged weights": ({"config.json": VIT, "model.safetensors": "x"}, "cannot load"),
    "m.gguf": ({"m.gguf": "x"}, "is a model of GGUF"),
    "m.onnx": ({"m.onnx": "x"}, "is a model of ONNX"),
    "m.pth": ({"m.pth": "x"}, "holds weights alone: name their model"),
    "m.safetensors": ({"m.safetensors": "x"}, "holds weights alone"),
    "m.txt": ({"m.txt": "x"}, "is a file: MODEL is"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_no_model_is_told_in_one_sentence(tmp_path, name):
    files, says = FOLDERS[name]
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    with pytest.raises(SparsightError, match=says) as caught:
        load_model(str(tmp_path / name if name in files else tmp_path), SIZE)
    assert len(str(caught.value).replace(str(tmp_path), "")) <= LONGEST


def test_names_without_their_library_are_told_with_it():
    for name, says in (
        ("vit_tiny_patch16_224", "write timm:vit_tiny_patch16_224"),
        ("facebook/dinov2-base", "hf:facebook/dinov2-base --pretrained"),
        ("timm:vit_tiny_patch16_225", "the nearest is timm:vit_tiny_patch16_"),
    ):
        with pytest.raises(SparsightError, match=says):
            load_model(name, SIZE)


def test_sam2_of_the_hub_is_loaded_for_pictures_and_its_video_model_becomes_sparse(tmp_path):
    from transformers import Sam2Model, Sam2VideoConfig, Sam2VideoModel

    video = Sam2VideoModel(Sam2VideoConfig(vision_config=sam2_config())).eval()
    video.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sam2_video"
    assert type(load_model(str(tmp_path), (64, 64)).model) is Sam2Model
    sparsight.apply(video, SETTINGS, module="vision_encoder")
    assert applied(video.vision_encoder)


# Derived classes


class Derived(VisionTransformer):
    """As training code has it: another name and another constructor."""


class Pooling(VisionTransformer):
    """As MAE's classifier: gives no tokens."""

    def forward_features(self, x, **_):
        x = self._pos_embed(self.patch_embed(x))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1:].mean(1)


class Wider(Block):
    """Brings a method of its own, and overrides none."""

    def describe(self):
        return "a block"


class Other(Block):
    """Does something else."""

    def forward(self, x, attn_mask=None, is_causal=False):
        return super().forward(2 * x)


def derived(kind=Derived, block=Block):
    torch.manual_seed(0)
    return shaken(kind(img_size=64, embed_dim=48, depth=4, num_heads=3, block_fn=block, num_classes=0))


@pytest.mark.parametrize(("kind", "block"), [(Derived, Block), (Derived, Wider), (Pooling, Block)])
def test_a_derived_class_with_the_librarys_own_blocks_works(kind, block):
    model, plain = derived(kind, block), derived(VisionTransformer)
    images = make_images(model, grid=(4, 4))
    with torch.no_grad():
        dense = model(images)
        wanted = run_features(sparsight.apply(plain, SETTINGS), images)
        sparse = run_features(sparsight.apply(model, SETTINGS), images)
        if kind is Pooling:
            sparse = model.norm(sparse)
        assert torch.equal(sparse, wanted)
        assert torch.equal(sparsight.restore(model)(images), dense)
    plan = sparsight.optimize(model, list(images), SETTINGS.model_copy(update={"layers": (1, 2)}))
    assert plan.model.kind == "VisionTransformer"
    sparsight.apply(derived(VisionTransformer), plan)


def test_a_block_with_a_forward_of_its_own_is_sparse_at_its_attention_or_refused_by_its_class():
    assert family_of(derived(block=Other)).name == "sites"
    model = make_model("hf_vit")
    model.layers[2].attention = type("Mine", (type(model.layers[2].attention),), {"forward": None})(
        model.config
    )
    with pytest.raises(UnsupportedModelError, match="layer 2 has a Mine of"):
        family_of(model)


# Other repositories


def foreign(path, **parts):
    """An instance of a made-up class "package.module.Class", with submodules."""
    module, _, name = path.rpartition(".")
    kind = type(name, (torch.nn.Module,), {"__module__": module})
    model = kind()
    model.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    for attribute, part in parts.items():
        setattr(model, attribute, part)
    return model


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("dinov2.models.vision_transformer.DinoVisionTransformer", "timm:vit_base_patch14_dinov2"),
        ("depth_anything_v2.dinov2.DinoVisionTransformer", "timm:vit_base_patch14_dinov2"),
        ("dinov3.models.vision_transformer.DinoVisionTransformer", "timm:vit_base_patch16_dinov3"),
        ("clip.model.VisionTransformer", "timm:vit_base_patch16_clip_224"),
        ("open_clip.transformer.VisionTransformer", "timm:vit_base_patch16_clip_224"),
        ("sam2.modeling.backbones.hieradet.Hiera", "transformers' Sam2Model"),
        ("sam2.modeling.sam2_base.SAM2Base", "transformers' Sam2Model"),
        ("segment_anything.modeling.sam.Sam", "transformers' SamModel"),
        ("models_mae.MaskedAutoencoderViT", r"timm:vit_base_patch16_224\.mae"),
        ("models.swin_transformer.SwinTransformer", "timm:swin_base_patch4_window7_224"),
        ("mmseg.models.backbones.swin.SwinTransformer", "these have other names"),
        ("mmpretrain.models.backbones.vision_transformer.VisionTransformer", "these have other names"),
        ("eva_clip.eva_vit_model.EVAVisionTransformer", "timm:eva02_base"),
        ("vision_transformer.VisionTransformer", "timm:vit_base_patch16_224 "),
        ("my.own.Encoder", "Encoder of my.own is not supported, its blocks have no adapter"),
    ],
)
def test_models_of_other_repositories_are_refused_with_the_way_out(path, says):
    model = foreign(path)
    with pytest.raises(UnsupportedModelError, match=says) as caught:
        sparsight.apply(model, SETTINGS)
    text = str(caught.value)
    assert len(text) <= LONGEST
    assert f"{type(model).__name__} of {type(model).__module__}" in text
    if "own" not in path:
        whole = foreign("my.own.Detector", backbone=model)
        with pytest.raises(UnsupportedModelError, match=f"at 'backbone', which cannot .*{says}"):
            sparsight.apply(whole, SETTINGS)


def test_models_of_torch_and_torchvision_are_refused_with_the_way_out():
    from torchvision.models import vision_transformer

    vit = vision_transformer.VisionTransformer(32, 16, 1, 2, 16, 32)
    layer = torch.nn.TransformerEncoderLayer(16, 2)
    for model, says in (
        (vit, "timm:vit_base_patch16_224"),
        (torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), "nn.MultiheadAttention"),
        (torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), "traced or scripted"),
    ):
        with pytest.raises(UnsupportedModelError, match=says):
            sparsight.apply(model, SETTINGS)


def small(kind, **changes):
    import transformers

    host = getattr(transformers, kind)
    torch.manual_seed(0)
    return shaken(host(host.config_class(**HF_SMALL | changes)))


@pytest.mark.parametrize(
    ("backbone", "model"),
    [
        ("Dinov2Backbone", "Dinov2Model"),
        ("Dinov2WithRegistersBackbone", "Dinov2WithRegistersModel"),
        ("DINOv3ViTBackbone", "DINOv3ViTModel"),
    ],
)
def test_backbones_give_the_tokens_of_their_models(backbone, model):
    more = {"num_register_tokens": 2} if "DINOv3" in model else {}
    host, plain = small(backbone, out_features=["stage2", "stage4"], **more), small(model, **more)
    assert not plain.load_state_dict(host.state_dict(), strict=False).missing_keys
    images = make_images(host)
    with torch.no_grad():
        dense = host(images).feature_maps
        assert torch.equal(run_features(host, images), run_features(plain, images))
        wanted = run_features(sparsight.apply(plain, SETTINGS), images)
        assert torch.equal(run_features(sparsight.apply(host, SETTINGS), images), wanted)
        assert all(not torch.equal(a, b) for a, b in zip(host(images).feature_maps, dense, strict=True))
        assert all(map(torch.equal, sparsight.restore(host)(images).feature_maps, dense))


@pytest.mark.parametrize(
    ("module", "kind", "says"),
    [
        ("swin.modeling_swin", "SwinBackbone", "a SwinModel can"),
        ("vit_mae.modeling_vit_mae", "ViTMAEModel", "load as a ViTModel"),
    ],
)
def test_known_towers_of_transformers_are_refused_with_the_reason(module, kind, says):
    from importlib import import_module

    host = getattr(import_module(f"transformers.models.{module}"), kind)
    model = host.__new__(host)
    torch.nn.Module.__init__(model)  # the class is enough
    with pytest.raises(UnsupportedModelError, match=says) as caught:
        sparsight.apply(model, SETTINGS)
    assert len(str(caught.value)) <= LONGEST


# What is handed over in place of a model


def handed_over():
    model = make_model("augreg")
    return {
        "none": (None, "None was given"),
        "name": ("vit_small_patch14_dinov2", "is a name or path"),
        "class": (VisionTransformer, "is a class, not a model"),
        "state dict": (model.state_dict(), "if it is a state dict"),
        "tuple": ((model, None, "x"), "pass its element 0, the VisionTransformer"),
        "predictor": (types.SimpleNamespace(size=3, model=model), r"pass its \.model"),
        "settings": (SETTINGS, "a SVE of"),
        "function": (len, "a builtin_function_or_method of builtins"),
    }


@pytest.mark.parametrize("name", handed_over())
def test_what_is_handed_over_in_place_of_a_model_is_told(name, tmp_path):
    given, says = handed_over()[name]
    pictures = [torch.zeros(3, 64, 64)]
    plan = sparsight.Plan(methods=(SETTINGS,))
    for verb in (
        lambda: sparsight.apply(given, SETTINGS),
        lambda: sparsight.restore(given),
        lambda: sparsight.analyze(given, pictures),
        lambda: sparsight.optimize(given, pictures, SETTINGS),
        lambda: sparsight.measure(given, plan, pictures),
        lambda: sparsight.compare(given, pictures),
        lambda: sparsight.search(given, pictures, sparsight.Budget(speedup=1.1), tmp_path),
        lambda: sparsight.evaluate(given, plan, "features", tmp_path, SIZE),
        lambda: sparsight.finetune(given, tmp_path, SIZE, tmp_path / "out"),
    ):
        with pytest.raises(UnsupportedModelError, match=says) as caught:
            verb()
        assert len(str(caught.value)) <= LONGEST


# Number formats and defaults


@pytest.mark.parametrize(("name", "dtype"), [("augreg", torch.bfloat16), ("hf_dinov2", torch.float16)])
def test_half_models_are_analysed_completed_and_distilled(name, dtype):
    model = make_model(name).to(dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pictures = list(make_images(model, batch=2, grid=(10, 10)))
    settings = sparsight.SVE(layers=(1,), keep=1 / 4, score="linear", completion="map", min_tokens=0)
    steps_ = sparsight.Distillation(steps=2)
    plan = sparsight.optimize(model, pictures, settings, distillation=steps_)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    weights = [value for key, value in plan.weights.items() if key.startswith("model.")]
    assert weights
    assert all(value.dtype == torch.float32 for value in weights)
    sparsight.apply(model, plan)
    with torch.no_grad():
        found = run_features(model, pictures[0][None].to(dtype))
    assert found.dtype == dtype
    assert found.isfinite().all()


def test_half_models_are_adapted_to_dropped_windows():
    model = make_hf_swin().bfloat16()
    pictures = list(torch.randn(2, 3, 92, 76))
    settings = sparsight.SparseViT(sparsity=((0.4,), (0.0, 0.4)))
    plan = sparsight.optimize(model, pictures, settings, adaptation=sparsight.Adaptation(steps=2))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert any(key.startswith("model.") for key in plan.weights)


def test_other_defaults_of_torch_change_nothing():
    model = make_model("augreg")
    pictures = list(make_images(model, batch=2, grid=(10, 10)))
    settings = [sparsight.SVE(layers=(0,), keep=1 / 4, completion="map", min_tokens=0)]
    wanted = sparsight.optimize(model, pictures, settings)
    with other_defaults():
        found = sparsight.optimize(model, pictures, settings)
        sparse = sparsight.apply(model, found)
        with torch.no_grad():
            tokens = run_features(sparse, pictures[0][None])
    assert tokens.dtype == torch.float32
    assert tokens.device.type == "cpu"
    assert found.weights.keys() == wanted.weights.keys()
    assert all(torch.equal(found.weights[key], value) for key, value in wanted.weights.items())


def test_the_crossover_tells_a_fault_from_a_model_of_one_size():
    one_size = shaken(
        timm.create_model("vit_tiny_patch16_224", img_size=64, **SMALL | {"dynamic_img_size": False})
    )
    plan = sparsight.Plan(methods=(SETTINGS,))
    assert crossover(one_size, plan) == (None, [])
    broken = make_model("augreg")
    broken.norm.weight = torch.nn.Parameter(torch.ones(7))
    with pytest.raises(RuntimeError, match="normalized_shape"):
        crossover(broken, plan)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (lambda w: w * float("nan"), r"NaN or infinity in .*fc1.weight"),
        (lambda w: w.to(torch.int8), r"fc1.weight in int8"),
    ],
    ids=["NaN", "quantised"],
)
@pytest.mark.parametrize("prefix", ["", "teacher.backbone."])
def test_weights_that_are_no_numbers_to_run_with_are_refused(source, tmp_path, changed, reason, prefix):
    model, weights = source
    name = "blocks.1.mlp.fc1.weight"
    file = saved(tmp_path, under(prefix, weights | {name: changed(weights[name])}))
    with pytest.raises(SparsightError, match=reason) as refused:
        load_model(model, SIZE, checkpoint=file)
    assert len(str(refused.value)) <= LONGEST


@pytest.mark.parametrize("mean", [[0.5] * 2, "0.5", ["a"] * 3, [1e999] * 3, {"r": 1}])
def test_a_folder_whose_normalisation_is_none_is_refused(source, mean):
    from pathlib import Path

    config = Path(source[0]) / "config.json"
    content = json.loads(config.read_text())
    content["pretrained_cfg"]["mean"] = mean
    config.write_text(json.dumps(content))
    with pytest.raises(SparsightError, match="do not normalise"):
        load_model(source[0], SIZE)
    config.write_text("[" * 100_000)
    with pytest.raises(SparsightError, match=r"cannot read .*config.json"):
        load_model(source[0], SIZE)


def test_a_folder_of_timm_with_sizes_below_nothing_is_refused(source):
    from pathlib import Path

    config = Path(source[0]) / "config.json"
    content = json.loads(config.read_text())
    content["model_args"]["num_heads"] = -1
    config.write_text(json.dumps(content))
    with pytest.raises(SparsightError, match="model_args has num_heads -1, below 0"):
        load_model(source[0], SIZE)


def test_a_model_with_nan_in_its_weights_is_refused_by_analyze():
    model = make_model("augreg")
    model.blocks[1].mlp.fc1.weight.data[0, 0] = float("nan")
    with pytest.raises(sparsight.NotFiniteError, match="NaN or infinity"):
        sparsight.analyze(model, list(make_images(model)))

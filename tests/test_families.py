"""Every family: a block put together from its parts is the block; anything else is refused by name."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from conftest import HF_SMALL, make_images, make_model, run_features

from sparsight.errors import UnsupportedModelError
from sparsight.families import FAMILIES, family_named, family_of


def test_reassembled_blocks_equal_the_blocks(model):
    family = family_of(model)
    seen = []

    def check(block, args, kwargs, output):
        tables = {k: kwargs[k] for k in family.per_token if kwargs.get(k) is not None}
        seen.append((family.parts.reassemble(block, args[0], **tables) - output).abs().max().item())

    for block in family.blocks(model):
        block.register_forward_hook(check, with_kwargs=True)
    with torch.no_grad():
        family.features(model, make_images(model))
    # The same float32 operations in the same order, up to how kernels group sums.
    assert len(seen) == len(family.blocks(model))
    assert max(seen) < 1e-5


def test_facts(model):
    family = family_of(model)
    images = make_images(model)
    patch = family.patch_px(model)
    patches = (images.shape[2] // patch[0]) * (images.shape[3] // patch[1])
    with torch.no_grad():
        features = family.features(model, images)
    assert features.shape == (2, patches + family.prefix_tokens(model), 48)
    assert family.dim(family.blocks(model)[0]) == 48
    assert family.heads(family.blocks(model)[0]) == 3


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("resnet18", {}, "ResNet of timm.models.resnet is not supported, its blocks"),
        ("vit_relpos_small_patch16_224", {}, "cannot become sparse: its attention adds a bias"),
        ("eva_giant_patch14_224", {"depth": 1, "embed_dim": 64, "num_heads": 2}, None),
    ],
)
def test_other_models_are_refused_by_name_and_reason(name, changes, reason):
    try:
        model = timm.create_model(name, **changes)
    except RuntimeError as error:
        pytest.fail(f"this timm has no {name}: {error}")
    if reason is None:
        assert family_of(model).name == "timm_eva"
        return
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        family_of(model)
    assert type(model).__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("CLIPTextModel", {}, "family is hf_clip, .* needs a transformers CLIPVisionModel"),
        ("ViTMAEModel", {}, "same weights load as a ViTModel"),
        (
            "SwinModel",
            {"embed_dim": 48, "depths": [1], "num_heads": [3]},
            "family is hf_swin, .* even number",
        ),
    ],
)
def test_other_models_of_transformers_are_refused_by_name_and_reason(kind, changes, reason):
    import transformers

    host = getattr(transformers, kind)
    if kind != "SwinModel":
        changes = HF_SMALL | changes
    model = host(host.config_class(**changes))
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        family_of(model)
    assert kind in str(caught.value)


def test_a_foreign_block_is_refused():
    model = make_model("hf_vit")
    model.layers[1] = torch.nn.Identity()
    model.layers[2].forward = None
    with pytest.raises(
        UnsupportedModelError,
        match="needs its own ViTLayer or DeiTLayer as every block; layer 1 has a Identity of torch",
    ):
        family_of(model)


def test_wrapped_and_compiled_models_are_refused_with_advice():
    model = make_model("augreg")
    with pytest.raises(UnsupportedModelError, match=r"apply the plan first"):
        family_of(torch.compile(model))
    with pytest.raises(UnsupportedModelError, match=r"pass its \.module"):
        family_of(torch.nn.DataParallel(model))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_a_family_is_copied_and_pickled_by_name(family):
    assert copy.deepcopy(family) is family
    assert pickle.loads(pickle.dumps(family)) is family
    assert family_named(family.name) is family
    with pytest.raises(UnsupportedModelError, match="no family is called"):
        family_named("nothing")


def test_the_page_of_families_shows_the_registry():
    root = Path(__file__).parents[1]
    text = (root / "docs" / "families.md").read_text()
    for family in FAMILIES:
        assert f"| `{family.name}` | {family.library} {family.verified_with} |" in text
    command = [sys.executable, "-m", "benchmarks.render", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "side"),
    [("vit_tiny_r_s16_p8_224", 32), ("vit_base_mci_224", 16), ("vitamin_small_224", 16)],
)
def test_a_token_of_a_hybrid_is_as_large_as_its_convolutions_make_it(name, side):
    model = timm.create_model(name, num_classes=0)
    family = family_of(model)
    assert family.patch_px(model) == (side, side)
    images = make_images(model, batch=1, grid=(224 // side, 224 // side))
    with torch.no_grad():
        tokens = run_features(model, images).shape[1]
    assert tokens == (224 // side) ** 2 + family.prefix_tokens(model)

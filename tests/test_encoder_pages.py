"""The lines of docs/encoders.md, run on small random models in place of the checkpoints they name."""

import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import transformers
from conftest import make_hf_sam2, make_hf_swin, make_model
from site_models import OF_TRANSFORMERS, make_site
from whole_models import PICTURE, WHOLE, make_whole

import sparsight
from sparsight.attach import applied
from sparsight.families import encoder_in
from sparsight.families.inputs import inputs_of

PAGE = Path(__file__).parent.parent / "docs" / "encoders.md"
SECTIONS = re.findall(r"^## (.+?)$.*?```python\n(.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
FAMILIES = {
    "vit_small_patch14_dinov2": lambda: make_model("dinov2", img_size=64, patch_size=8),
    "naflexvit_base_patch16_siglip": lambda: make_site("naflex"),
    "DINOv3ViTModel": lambda: make_model("hf_dinov3"),
    "CLIPVisionModel": lambda: make_model("hf_clip"),
    "SiglipVisionModel": lambda: make_model("hf_siglip"),
    "Sam2VisionModel": make_hf_sam2,
    "SwinModel": make_hf_swin,
} | {kind: partial(make_site, name) for name, (_, kind, _) in OF_TRANSFORMERS.items()}


def small(name):
    """The small model for a class or a name of timm, and what it is asked."""
    if name in FAMILIES:
        return FAMILIES[name](), {}
    for other in WHOLE:
        model, asked = make_whole(other)
        if type(model).__name__ == name:
            return model, asked
    raise LookupError(name)


@pytest.mark.parametrize(("title", "lines"), SECTIONS, ids=[title for title, _ in SECTIONS])
@torch.no_grad()
def test_the_lines_of_a_section_run(title, lines):
    name = re.search(r'transformers\.(\w+)|create_model\("(\w+)"', lines)
    model, asked = small(name[1] or name[2])
    lines = lines[lines.index("model = sparsight") :]  # without the checkpoint
    ours = SimpleNamespace(**{n: getattr(sparsight, n) for n in ("apply", "SparseViT")})
    ours.SVE = lambda **given: sparsight.SVE(**given | {"min_tokens": 0})
    given = {"model": model, "sparsight": ours, "pictures": PICTURE, "asked": asked}
    if "patches, places" in lines:
        own = inputs_of(encoder_in(model, None), torch.randn(1, 3, 72, 72), True)
        given |= {"patches": own["pixel_values"], "places": own["pixel_position_ids"]}
    exec(lines, given)
    assert applied(encoder_in(model, None))


def test_every_name_of_the_page_is_there():
    text = PAGE.read_text()
    for name in re.findall(r"= transformers\.(\w+)\.from_pretrained", text):
        assert hasattr(transformers, name)
    for name in re.findall(r'timm\.create_model\("(\w+)"', text):
        assert name.partition(".")[0] in timm.list_models()

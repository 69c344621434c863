"""transformers `SwinModel` (v1): every block attends within windows, every second one shifted."""

from collections.abc import Iterator
from contextlib import contextmanager

from sparsight.families.base import Family, runs_as
from sparsight.families.hf import MODELS, PLACES, own_forward
from sparsight.families.parts import Parts
from sparsight.families.windows import Nested, Windows, pairs

SWIN = MODELS + "swin.modeling_swin."


def blocks_of(m):
    """All blocks, stage after stage."""
    return Nested([stage.blocks for stage in m.encoder.layers])


def _shifts(m):
    """Whether each block is shifted, as its place says and as it is now."""
    for stage in m.encoder.layers:
        for place, block in enumerate(stage.blocks):
            yield place % 2 == 1, block.shift_size > 0


def _shift(block, grid):
    return (0, 0) if min(grid) <= block.window_size else (block.shift_size, block.shift_size)


@contextmanager
def _steady(block) -> Iterator[None]:
    """`SwinLayer` gives up its shift for good when it meets a map no larger than a window (5.23.0)."""
    before = block.window_size, block.shift_size
    try:
        yield
    finally:
        block.window_size, block.shift_size = before


EVEN = (
    "an even number of blocks in every stage",
    lambda m: all(len(stage.blocks) % 2 == 0 for stage in m.encoder.layers),
)
WINDOWS = Windows(
    stages=lambda m: pairs(len(stage.blocks) for stage in m.encoder.layers),
    size=lambda block: (block.window_size, block.window_size),
    shift=_shift,
    rolls_first=False,
    attend=lambda block, h, mask: block.attention(h, mask)[0],
    mask=lambda block, grid, tokens: block.get_attn_mask(*grid, tokens.dtype, tokens.device),
    grid=lambda x, host: tuple(host["input_dimensions"]),
    result=lambda block, tokens, x: (tokens, None),
    steady=_steady,
)

FAMILY = Family(
    name="hf_swin",
    examples="Swin (v1), and the backbone in its classifiers",
    kinds=(SWIN + "SwinModel",),
    refused="stages with an odd number of blocks; `SwinBackbone`, which returns maps of several stages",
    requirements=(
        own_forward(SWIN + "SwinModel"),
        (
            "its own SwinLayer and SwinAttention as every block",
            lambda m: all(
                runs_as(b, SWIN + "SwinLayer") and runs_as(b.attention, SWIN + "SwinAttention")
                for b in blocks_of(m)
            ),
        ),
        EVEN,
        (
            "its shifted windows: SwinLayer gave up the shift of a block for good when it met a map no "
            "larger than a window (load the model again)",
            lambda m: all(wanted == found for wanted, found in _shifts(m)),
        ),
    ),
    blocks=blocks_of,
    prefix_tokens=lambda m: 0,
    dim=lambda block: block.attention.q_proj.in_features,
    heads=lambda block: block.attention.num_attention_heads,
    features=lambda m, images: m(images, interpolate_pos_encoding=True).last_hidden_state,
    parts=Parts(
        norm=lambda block, x: block.layernorm_before(x),
        attention=lambda block: block.attention,
        residual=lambda block, x, y: x + block.drop_path(block.dropout(y)),
        mlp=lambda block, x: block.dropout(block.mlp(block.layernorm_after(x))) + x,
    ),
    is_global=lambda block: False,
    windows=WINDOWS,
    **PLACES | {"sparse": "windows, in any stage (SparseViT)"},
)

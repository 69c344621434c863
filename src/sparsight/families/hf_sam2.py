"""transformers SAM 2: the Hiera encoder alone, with its neck, or inside the whole `Sam2Model`."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.functional import scaled_dot_product_attention

from sparsight.families.base import Family, is_instance, runs_as
from sparsight.families.hf import own_forward
from sparsight.families.parts import Parts
from sparsight.families.timm_sam2 import BLOCKS, NOT_POOLED
from sparsight.families.windows import Windows, runs

SAM2 = "transformers.models.sam2.modeling_sam2."
KINDS = (SAM2 + "Sam2Model", SAM2 + "Sam2VisionModel", SAM2 + "Sam2HieraDetModel")


def _hiera(model):
    """The Hiera encoder in any of the three models."""
    if is_instance(model, SAM2 + "Sam2Model"):
        model = model.vision_encoder
    return model.backbone if is_instance(model, SAM2 + "Sam2VisionModel") else model


def _is_global(block) -> bool:
    return block.window_size == 0 and not block.query_stride and block.dim == block.dim_out


def _windowed(block) -> tuple[int, int] | None:
    """What is the same of blocks that see the same windows; None of one that has none, or pools."""
    if block.window_size == 0 or block.query_stride or block.dim != block.dim_out:
        return None
    return block.window_size, block.dim


def _patch_px(model) -> tuple[int, int]:
    """The step of the coarsest stage, and of the position embedding that is laid out in tiles."""
    config = _hiera(model).config
    height, width = (
        math.lcm(patch * pool**config.num_query_pool_stages, patch * config.window_size_per_stage[0])
        for patch, pool in zip(config.patch_stride, config.query_stride, strict=True)
    )
    return height, width


def _features(model, images):
    """What the mask decoder reads, the coarsest map of the neck; without a neck, the last tokens."""
    if is_instance(model, SAM2 + "Sam2HieraDetModel"):
        return model(images).last_hidden_state.flatten(1, 2)
    encoder = getattr(model, "vision_encoder", model)
    return encoder(images).fpn_hidden_states[-1].flatten(2).transpose(1, 2)


def _qkv(attn, h):
    b, n, _ = h.shape
    return attn.qkv(h).view(b, n, 3, attn.num_attention_heads, -1).permute(2, 0, 3, 1, 4).unbind()


def _lean_attention(attn, hidden_states, **_):
    """`Sam2MultiScaleAttention.forward` without the softmax that it computes and does not use.

    That is one over the heads of each single token: few operations, but slow ones (5.23.0).
    """
    from transformers.models.sam2.modeling_sam2 import do_pool

    b, height, width, _ = hidden_states.shape
    qkv = attn.qkv(hidden_states).view(b, height * width, 3, attn.num_attention_heads, -1)
    q, k, v = qkv.unbind(2)
    if attn.query_stride:
        pooled = do_pool(q.reshape(b, height, width, -1), attn.query_stride)
        height, width = pooled.shape[1:3]
        q = pooled.reshape(b, height * width, attn.num_attention_heads, -1)
    out = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return attn.proj(out.transpose(1, 2).reshape(b, height, width, -1))


@contextmanager
def _lean(model) -> Iterator[None]:
    kind: Any = type(_hiera(model).blocks[0].attn)
    kind = getattr(kind, "HOST", kind)  # the class's own, which a changed module runs too
    before, kind.forward = kind.forward, _lean_attention
    try:
        yield
    finally:
        kind.forward = before


FAMILY = Family(
    name="hf_sam2",
    library="transformers",
    verified_with="5.23.0",
    examples="SAM 2 and SAM 2.1 (Sam2Model, Sam2VisionModel, Sam2HieraDetModel)",
    kinds=KINDS,
    sparse=BLOCKS,
    refused=NOT_POOLED,
    requirements=(
        own_forward(*KINDS),
        (
            "a Hiera encoder of multi-scale blocks",
            lambda m: all(
                runs_as(b, SAM2 + "Sam2MultiScaleBlock")
                and runs_as(b.attn, SAM2 + "Sam2MultiScaleAttention")
                for b in _hiera(m).blocks
            ),
        ),
        (
            "at least one block that does not pool",
            lambda m: any(_is_global(b) or _windowed(b) for b in _hiera(m).blocks),
        ),
    ),
    blocks=lambda m: _hiera(m).blocks,
    dim=lambda block: block.dim_out,
    prefix_tokens=lambda m: 0,
    patch_px=_patch_px,
    heads=lambda block: block.attn.num_attention_heads,
    parts=Parts(
        norm=lambda block, x: block.layer_norm1(x),
        attention=lambda block: block.attn,
        qkv=_qkv,
        merge=lambda attn, out, h: attn.proj(out.flatten(2)),
        residual=lambda block, x, y: x + y,
        mlp=lambda block, x: x + block.mlp(block.layer_norm2(x)),
    ),
    features=_features,
    is_global=_is_global,
    windows=Windows(
        stages=lambda m: runs(_hiera(m).blocks, _windowed),
        size=lambda block: (block.window_size, block.window_size),
        attend=lambda block, h, mask: block.attn(h.unflatten(1, (block.window_size, -1))).flatten(1, 2),
    ),
    lean=_lean,
)

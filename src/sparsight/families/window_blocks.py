"""Windowed blocks of models that no family describes: SAM 1 and what copied its encoder, and SAM 3.

A block of a class named here can drop windows, whatever model it stands in.  Its own attention module
keeps what belongs to a window: its bias of rows and columns, or its rotations.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsight.families.base import is_instance, runs_as
from sparsight.families.parts import Host
from sparsight.families.windows import Stages, Windows, runs

if TYPE_CHECKING:
    from torch import Tensor

HF = "transformers.models."
VITDET = HF + "vitdet.modeling_vitdet.VitDetLayer"


@dataclass(frozen=True)
class Kind:
    """How blocks of some classes are run; `window_size` is one side, 0 of a block that sees all."""

    classes: tuple[str, ...]
    norm: Callable[[Host, "Tensor"], "Tensor"]
    attend: Callable[[Host, "Tensor"], "Tensor"]  # (w, side, side, c) -> the like
    residual: Callable[[Host, "Tensor", "Tensor"], "Tensor"]
    mlp: Callable[[Host, "Tensor"], "Tensor"]
    channels_first: bool = False  # takes and returns maps (b, c, height, width), in a tuple


KINDS = (
    Kind(
        classes=(
            HF + "sam.modeling_sam.SamVisionLayer",
            HF + "sam_hq.modeling_sam_hq.SamHQVisionLayer",
            HF + "got_ocr2.modeling_got_ocr2.GotOcr2VisionLayer",
            HF + "deepseek_ocr2.modeling_deepseek_ocr2.DeepseekOcr2SamVisionLayer",
            HF + "unlimited_ocr.modeling_unlimited_ocr.UnlimitedOcrSamVisionLayer",
            HF + "slanext.modeling_slanext.SLANeXtVisionLayer",
            HF + "pp_formulanet.modeling_pp_formulanet.PPFormulaNetVisionLayer",
        ),
        norm=lambda block, x: block.layer_norm1(x),
        attend=lambda block, h: block.attn(hidden_states=h)[0],
        residual=lambda block, x, y: x + y,
        mlp=lambda block, x: x + block.mlp(block.layer_norm2(x)),
    ),
    Kind(
        classes=("timm.models.vision_transformer_sam.Block",),
        norm=lambda block, x: block.norm1(x),
        attend=lambda block, h: block.attn(h),
        residual=lambda block, x, y: x + block.drop_path1(block.ls1(y)),
        mlp=lambda block, x: x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))),
    ),
    Kind(
        classes=(HF + "sam3.modeling_sam3.Sam3ViTLayer",),
        norm=lambda block, x: block.layer_norm1(x),
        attend=lambda block, h: block.attention(h, block.rotary_emb(h, block.position_ids))[0],
        residual=lambda block, x, y: x + y,
        mlp=lambda block, x: x + block.dropout(block.mlp(block.layer_norm2(x))),
    ),
    Kind(  # one with a convolution after it drops none
        classes=(VITDET,),
        norm=lambda block, x: block.norm1(x),
        attend=lambda block, h: block.attention(h)[0],
        residual=lambda block, x, y: x + block.drop_path(y),
        mlp=lambda block, x: x + block.drop_path(block.mlp(block.norm2(x))),
        channels_first=True,
    ),
)


def drops_windows(block: Host) -> bool:
    """Whether a block as it came attends within windows, in a way that is known here."""
    return _size(block) is not None and any(runs_as(block, *kind.classes) for kind in KINDS)


def stages(blocks: Iterable[Host]) -> Stages:
    """Of blocks as they came or changed."""
    return runs(blocks, _size)


def _size(block: Host) -> int | None:
    known = any(is_instance(block, *kind.classes) for kind in KINDS)
    if not known or getattr(block, "use_residual_block", False):
        return None
    return block.window_size or None


def _kind(block: Host) -> Kind:
    return next(kind for kind in KINDS if is_instance(block, *kind.classes))


def _attend(block: Host, h: "Tensor", mask: "Tensor | None") -> "Tensor":
    side = block.window_size
    return _kind(block).attend(block, h.unflatten(1, (side, side))).flatten(1, 2)


PARTS: dict[str, Any] = {
    "norm": lambda block, x: _kind(block).norm(block, x),
    "residual": lambda block, x, y: _kind(block).residual(block, x, y),
    "mlp": lambda block, x: _kind(block).mlp(block, x),
}


def rows_of(block: Host, x: "Tensor") -> "Tensor":
    """What a block is given or returns, (b, ..., c)."""
    kind = next((kind for kind in KINDS if is_instance(block, *kind.classes)), None)
    return x.permute(0, 2, 3, 1) if kind is not None and kind.channels_first else x


def _result(block: Host, tokens: "Tensor", x: "Tensor") -> Any:
    """What a block returns: tokens (b, n, c) as a map like `x` (b, height, width, c)."""
    found = tokens.view(x.shape)
    return (found.permute(0, 3, 1, 2),) if _kind(block).channels_first else found


def windows_of(blocks: Callable[[Host], Iterable[Host]]) -> Windows:
    """Of a model whose `blocks` may be such."""
    return Windows(
        stages=lambda m: stages(blocks(m)),
        size=lambda block: (block.window_size, block.window_size),
        attend=_attend,
        result=_result,
    )

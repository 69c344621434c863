"""Attention modules that attend by hand, with all pairs in memory: the same by
`scaled_dot_product_attention`, so that the call can be caught, and the dense baseline is an honest one.

ViTDet (Li et al., 2022): its bias of rows and columns is added as SAM 1 adds it (decomposed.py).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch.nn.functional import scaled_dot_product_attention

from sparsight.families.parts import Host


def _vitdet(attn: Host, hidden_state: Any, output_attentions: bool = False) -> Any:
    """`VitDetAttention.forward` (5.23.0): (b, height, width, c) -> the like, alone in a tuple."""
    from transformers.models.vitdet.modeling_vitdet import get_rel_pos

    if output_attentions:  # nothing else makes a map
        owner = _owner(attn)
        return KEPT.get(owner, owner.forward)(attn, hidden_state, output_attentions)
    b, height, width, c = hidden_state.shape
    n, heads = height * width, attn.num_heads
    q, k, v = attn.qkv(hidden_state).reshape(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind()
    bias = None
    if attn.use_relative_position_embeddings:
        r = q.reshape(b * heads, height, width, -1)
        rows, columns = (
            get_rel_pos(side, side, table).to(r.dtype)
            for side, table in ((height, attn.rel_pos_h), (width, attn.rel_pos_w))
        )
        of_rows = (r @ rows.transpose(1, 2)[None]).unsqueeze(-1)
        of_columns = (r.transpose(1, 2) @ columns.transpose(1, 2)[None]).transpose(1, 2).unsqueeze(-2)
        bias = (of_rows + of_columns).reshape(b, heads, n, n)
    out = scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return (attn.proj(out.transpose(1, 2).reshape(b, height, width, c)),)


FORMS: dict[str, Callable[..., Any]] = {
    "transformers.models.vitdet.modeling_vitdet.VitDetAttention": _vitdet
}
KEPT: dict[Any, Callable[..., Any]] = {}  # the own forward of classes that make the call now


def _owner(attention: Host) -> Any:
    """The class whose forward an attention module has, changed or not."""
    host: type = getattr(type(attention), "HOST", type(attention))
    return next(kind for kind in host.__mro__ if "forward" in vars(kind))


def calling_form(attention: Host) -> Callable[..., Any] | None:
    """What runs an attention module, given it first, by `scaled_dot_product_attention`: of one that
    does not make the call itself, and is known.
    """
    owner = _owner(attention)
    return FORMS.get(f"{owner.__module__}.{owner.__qualname__}")


@contextmanager
def calling(*models: Host) -> Iterator[None]:
    """While in here, all attention modules of models make the call, dense or changed."""
    with ExitStack() as stack:
        for part in (part for model in models for part in model.modules()):
            if (form := calling_form(part)) is not None and (owner := _owner(part)) not in KEPT:
                KEPT[owner], owner.forward = owner.forward, form
                stack.callback(_back, owner)
        yield


def _back(owner: Any) -> None:
    owner.forward = KEPT.pop(owner)

"""What the plain vision encoders of the transformers library have in common."""

from collections.abc import Callable
from typing import Any

from sparsight.families.base import own_method, runs_as
from sparsight.families.parts import Host

MODELS = "transformers.models."
NO_DROPOUT = "attention dropout"


def project(attn, h):
    """Queries, keys and values (b, heads, n, d) of an attention with three projections."""
    b, n, _ = h.shape
    layers = (attn.q_proj, attn.k_proj, attn.v_proj)
    return tuple(layer(h).view(b, n, -1, attn.head_dim).transpose(1, 2) for layer in layers)


def pair(size: Any) -> tuple[int, int]:
    """A size in a config, one number or two, as height and width."""
    return (size, size) if isinstance(size, int) else tuple(size)


def own_forward(*kinds: str) -> tuple[str, Callable[[Host], bool]]:
    """What must hold of a derived class: what it returns is read by its names."""
    return "the forward of the library's own class", lambda m: own_method(m, "forward", *kinds)


def requirements(
    kinds: tuple[str, ...],
    blocks: Callable[[Host], Any],
    layer: tuple[str, ...],
    attention: str,
    scale: str,
    dropout: str,
) -> tuple[tuple[str, Callable[[Host], bool]], ...]:
    """What must hold beside the model's class; names of the layer classes and attention's attributes."""
    attentions = [f"{n.removesuffix('Layer').removesuffix('Encoder')}Attention" for n in layer]
    return (
        own_forward(*kinds),
        (
            f"its own {' or '.join(name.rpartition('.')[2] for name in layer)} as every block",
            lambda m: all(
                runs_as(b, *layer) and runs_as(getattr(b, attention), *attentions) for b in blocks(m)
            ),
        ),
        (
            "attention scaled by 1/sqrt(head width)",
            lambda m: all(
                getattr(a, scale) == a.head_dim**-0.5 for a in (getattr(b, attention) for b in blocks(m))
            ),
        ),
        (
            "attention without dropout",
            lambda m: all(getattr(getattr(b, attention), dropout) == 0 for b in blocks(m)),
        ),
    )


# What the models keep in the same places.
PLACES: dict[str, Any] = {
    "library": "transformers",
    "verified_with": "5.23.0",
    "patch_px": lambda m: pair(m.config.patch_size),
    "mask": "attention_mask",
    "sparse": "global attention of any block",
}

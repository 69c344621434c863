"""What a changed module knows of itself: the state that `inplace.change` puts into it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sparsight.families import Family


@dataclass
class Site:
    """Where a module stands, and how it is to run.  Its tensors are buffers of the module."""

    family: Family
    prefix: int  # tokens before the patches
    config: Any  # of the method's own kind
    layer: int
    depth: int  # layers of the model
    arguments: tuple[str, ...]  # names of what the module's own forward takes
    shared: Any = None  # what modules of one group have in common
    # Attributes that are others while the module calls `scaled_dot_product_attention`.
    settings: dict[str, Any] = field(default_factory=dict)
    # Calls that ran dense although they are long enough, by reason.
    dense: Counter[str] = field(default_factory=Counter)

"""Numbers that follow from a size, in a graph that leaves the size open.

While a model is exported for many sizes, a count of tokens is a symbol.  What follows from it by
branches or 64-bit arithmetic, which engines lack, is worked out beforehand for every size there may be
and read from a table in the graph.
"""

from collections.abc import Callable
from typing import Any

import torch

Number = int | torch.SymInt  # a count, or what stands for one in a graph of many sizes


def most(size: Any) -> int:
    """The largest value that the declared range of a symbol allows; a number is its own."""
    if isinstance(size, int):
        return size
    upper = size.node.shape_env.bound_sympy(size.node.expr).upper
    assert upper.is_Integer, "the range of sizes has no end"
    return int(upper)


def looked_up(size: Any, rule: Callable[[int], int], least: int) -> Any:
    """`rule` of a symbol, which is between `least` and `size`."""
    table = torch.tensor([rule(n) for n in range(most(size) + 1)], device="cpu")
    found = table[size].item()
    torch._check(found >= least)
    torch._check(found <= size)
    return found

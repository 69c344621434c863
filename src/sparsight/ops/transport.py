"""How much each source supplies when its mass is carried to targets: entropic transport by Sinkhorn.

    D[i, j] = || s_i - t_j ||^2 / its mean over all pairs,   K = exp(-D / eps),   marginals 1 / n
    u = (1 / n) / (K v),   v = (1 / n) / (K^T u);   STEPS times, beginning with v = 1
    importance_i = sum over j of u_i K[i, j] v_j

It ends on the update of the targets: after one of the sources every sum would be 1 / n.  K is made anew
for each step, some rows at a time: STEPS + 1 times the products of all pairs, none of them in memory.
"""

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 256  # sources at once
STEPS, EPSILON = 3, 0.1


def importance(source: Float[Tensor, "b n c"], target: Float[Tensor, "b n c"]) -> Float[Tensor, "b n"]:
    """Of each source, times n: about 1."""
    if torch.compiler.is_compiling():
        return _importance(source, target)
    return _streamed(source, target)


@torch.library.custom_op("sparsight::importance", mutates_args=())
def _importance(source: Tensor, target: Tensor) -> Tensor:
    """One opaque step for a compiler, which would unroll the loop."""
    return _streamed(source, target)


@_importance.register_fake
def _(source: Tensor, target: Tensor) -> Tensor:
    return source.new_empty(source.shape[:2], dtype=torch.float32)


@torch.no_grad()  # a ranking has none
def _streamed(source: Tensor, target: Tensor) -> Float[Tensor, "b n"]:
    with torch.autocast(source.device.type, enabled=False):  # importance is 1 but for a few digits
        return _importances(source.float(), target.float())


def _importances(s: Float[Tensor, "b n c"], t: Float[Tensor, "b n c"]) -> Float[Tensor, "b n"]:
    middle = s.mean(1, keepdim=True)  # distances know no origin: less is lost to rounding
    s, t = s - middle, t - middle
    own, other = s.square().sum(2), t.square().sum(2)
    mean = own.mean(1) + other.mean(1) - 2 * (s.mean(1) * t.mean(1)).sum(1)
    scale = -1 / (EPSILON * mean.clamp_min(torch.finfo(torch.float32).tiny))
    n = s.shape[1]
    v = torch.ones_like(other)
    for _ in range(STEPS):
        below = torch.zeros_like(other)
        for rows, square in zip(s.split(CHUNK, dim=1), own.split(CHUNK, dim=1), strict=True):
            kernel = _kernel(rows, square, t, other, scale)
            u = 1 / (n * (kernel @ v[:, :, None]))
            below += (kernel.transpose(1, 2) @ u)[:, :, 0]
        before, v = v, 1 / (n * below)
    found = [
        _supplied(_kernel(rows, square, t, other, scale), before, v)
        for rows, square in zip(s.split(CHUNK, dim=1), own.split(CHUNK, dim=1), strict=True)
    ]
    return torch.cat(found, 1)


def _kernel(
    s: Float[Tensor, "b m c"], own: Float[Tensor, "b m"], t: Float[Tensor, "b n c"],
    other: Float[Tensor, "b n"], scale: Float[Tensor, " b"],
) -> Float[Tensor, "b m n"]:  # fmt: skip
    """Rows of K, each times what makes its largest value 1, which u takes back."""
    squares = own[:, :, None] + other[:, None] - 2 * (s @ t.transpose(1, 2))
    logs = squares.mul_(scale[:, None, None])
    return logs.sub_(logs.amax(2, keepdim=True)).exp_()


def _supplied(kernel: Tensor, before: Tensor, v: Tensor) -> Float[Tensor, "b m"]:
    """sum_j u_i K[i, j] v_j times n, with the u of the last step, which was made from `before`."""
    return ((kernel @ v[:, :, None]) / (kernel @ before[:, :, None]))[:, :, 0]

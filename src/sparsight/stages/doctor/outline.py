"""What a model would do with a picture of some size, counted without doing it.

A copy of the model whose tensors have shapes and no values ("meta") runs in a moment at any resolution.
PyTorch's counter sees its operations, and hooks see what each block is given.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sparsight.attach import apply, family_in
from sparsight.errors import ImagesError
from sparsight.families.inputs import channels_of
from sparsight.fit import named_shapes, with_layers
from sparsight.modes import evaluating
from sparsight.plan import Plan
from sparsight.stages import timing
from sparsight.stages.bench import blank
from sparsight.stages.measure import fused, name

PARTS = ("attention", "linear layers of the attention", "MLP", "everything else")
PAIRWISE = ("scaled_dot_product", "bmm")  # in the names of operations on every pair of tokens
Told = Callable[[Any, Any, float, float], None]  # args, kwargs, GFLOPs, those of them that are pairwise


@dataclass(frozen=True)
class Call:
    """What one block is given and does; tensors have no values."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    gflops: float
    tokens: int  # that the block is given

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for blocks that do the same work."""
        return (tuple(self.args[0].shape), round(self.gflops, 6))


@dataclass(frozen=True)
class Work:
    """What the dense model does with one picture."""

    gflops: float
    parts: dict[str, float]  # GFLOPs of each of PARTS
    calls: tuple[Call, ...]  # by layer


def sharing(model: nn.Module) -> nn.Module:
    """A copy with the very parameters of `model`, so that it costs no memory; buffers are its own.

    It is in evaluation mode, and has no hooks: what others hung on the model must not hear of a copy.
    """
    made = copy.deepcopy(model, {id(p): p for p in model.parameters()}).eval()
    for part in made.modules():
        if "_hf_hook" in part.__dict__:  # accelerate's, which moves what a module is given
            from accelerate.hooks import remove_hook_from_module

            remove_hook_from_module(part)
        for kind, hooks in part.__dict__.items():
            if kind.startswith(("_forward_hooks", "_forward_pre_hooks")):
                hooks.clear()
    return made


def outline(model: nn.Module) -> nn.Module:
    """A copy of `model` whose tensors have shapes and no values."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
        for p in model.parameters()
    }
    memo |= {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}
    return copy.deepcopy(model, memo)


def sparse_copy(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy that shares its parameters with `model`, with `plan` applied; its maps are zeros.

    Raises PlanError if the plan does not fit.
    """
    plan = with_layers(plan.at_any_size(), model, family_in(model))
    return apply(sharing(model), blank(plan, named_shapes(plan, model, family_in(model))))


def gflops_of(model: nn.Module, size: tuple[int, int]) -> float:
    """GFLOPs of one picture of `size`, of a model that may be changed."""
    drawn = outline(model)
    with evaluating(drawn), fused(drawn):
        return timing.gflops(lambda: features(drawn, size))


def work(model: nn.Module, size: tuple[int, int]) -> Work:
    """Counts of the dense `model` for one picture of `size`; ImagesError if it takes none such."""
    drawn, family = outline(model), family_in(model)
    counter = FlopCounterMode(display=False)
    calls: dict[int, Call] = {}
    spent = dict.fromkeys(PARTS, 0.0)

    def counted() -> tuple[float, float]:
        """GFLOPs up to now: all, and of the products of queries with keys and with values."""
        ops = counter.get_flop_counts().get("Global", {})
        pairs = sum(n for op, n in ops.items() if any(word in str(op) for word in PAIRWISE))
        return counter.get_total_flops() / 1e9, pairs / 1e9

    def block(layer: int) -> Told:
        def told(args: Any, kwargs: Any, gflops: float, pairs: float) -> None:
            rows = family.rows(family.blocks(drawn)[layer], args[0])
            calls[layer] = Call(args, kwargs, gflops, int(rows.flatten(1, -2).shape[1]))

        return told

    def attention(args: Any, kwargs: Any, gflops: float, pairs: float) -> None:
        spent[PARTS[0]] += pairs
        spent[PARTS[1]] += gflops - pairs

    def mlp(args: Any, kwargs: Any, gflops: float, pairs: float) -> None:
        spent[PARTS[2]] += gflops

    with evaluating(drawn), fused(drawn), counter, hooked(counted) as hook:
        for layer, part in enumerate(family.blocks(drawn)):
            hook(part, block(layer))
            hook(family.parts.changed(part, "attention"), attention)
            if hasattr(part, "mlp"):
                hook(part.mlp, mlp)
        try:
            features(drawn, size)
        except (AssertionError, RuntimeError, ValueError, TypeError) as error:  # each library its own
            text = " ".join(str(error).split())[:120]
            raise ImagesError(
                f"{type(model).__name__} takes no picture of {name(size)} px ({type(error).__name__}: "
                f"{text}): try another --resolution, or load it for that size"
            ) from error
    whole = counter.get_total_flops() / 1e9
    spent[PARTS[3]] = max(0.0, whole - sum(spent.values()))
    return Work(whole, spent, tuple(calls[layer] for layer in sorted(calls)))


@contextmanager
def hooked(
    counted: Callable[[], tuple[float, float]],
) -> Iterator[Callable[[nn.Module, Told], None]]:
    """Gives a function (module, told): after each call of the module, told hears what was counted."""
    handles: list[Any] = []

    def hook(module: nn.Module, told: Told) -> None:
        started: list[tuple[float, float]] = []

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            started.append(counted())

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            (all_now, pairs_now), (all_then, pairs_then) = counted(), started.pop()
            told(args, kwargs, all_now - all_then, pairs_now - pairs_then)

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))

    try:
        yield hook
    finally:
        for handle in handles:
            handle.remove()


def features(model: nn.Module, size: tuple[int, int]) -> Tensor:
    """Features of a picture of `size` that has no values."""
    like = next(model.parameters())
    floats = like.dtype if like.is_floating_point() else torch.float32
    return family_in(model).features(
        model, torch.empty(1, channels_of(model), *size, device="meta", dtype=floats)
    )

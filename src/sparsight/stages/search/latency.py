"""How long a choice takes: from a table of measured parts, so that a trial need not be timed.

    whole = the dense model + sum over changed blocks of (the block as it would run - the dense block)

A block runs by how many tokens are there, what its attention and its MLP leave out, and who leaves
before it.  Blocks of one shape are timed once for each way of running them, on what they are really
given.  Methods that are not described so are timed as a whole.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparsight.attach import apply, family_in
from sparsight.families import Family
from sparsight.fit import named_shapes, with_layers
from sparsight.methods import SVE, EarlyExit, MLPRouting, Settings
from sparsight.modes import evaluating
from sparsight.ops.partition import kept_count
from sparsight.plan import Plan
from sparsight.stages import timing
from sparsight.stages.bench import blank
from sparsight.stages.measure import fused
from sparsight.stages.search.space import key_of
from sparsight.stages.search.table import LatencyTable

WHOLE = "dense model"
BY_BLOCKS = (SVE, EarlyExit, MLPRouting)
Calls = dict[str, Callable[[], Any]]
Call = tuple[tuple[Any, ...], dict[str, Any]]  # what a block is called with


class Latency:
    """Predicts what settings take on this machine, for one model and picture size."""

    def __init__(self, model: nn.Module, picture: Tensor, plan: Plan, file: Path | None) -> None:
        self.model, self.picture, self.plan = model, picture, plan
        self.family: Family = family_in(model)
        self.dense: Calls = {}  # a dense block of each shape
        setting = timing.setting(picture.device, picture.dtype)
        size = list(picture.shape[2:])
        kept = ("machine", "versions", "dtype", "threads")
        self.table = LatencyTable(
            file,
            {name: setting[name] for name in kept} | {"model": type(model).__name__, "picture_px": size},
        )

    def __call__(self, methods: Sequence[Settings]) -> float:
        """Milliseconds; of no methods, those of the dense model."""
        if all(isinstance(config, BY_BLOCKS) for config in methods):
            return self.by_blocks(methods)
        return self.whole(key_of(methods), methods)

    def whole(self, key: str, methods: Sequence[Settings]) -> float:
        """The model from end to end, timed beside the dense one."""
        if key not in self.table.ms:
            changed = self.changed(methods) if methods else self.model
            with evaluating(self.model), evaluating(changed), fused(self.model, changed):
                calls: Calls = {
                    WHOLE: partial(self.family.features, self.model, self.picture),
                    key: partial(self.family.features, changed, self.picture),
                }
                self.table.measure(calls, self.picture.device, {key: WHOLE})
        return self.table.ms[key]

    def by_blocks(self, methods: Sequence[Settings]) -> float:
        """The dense model, with blocks exchanged."""
        total = self.whole(WHOLE, ())
        ways = {
            layer: f"{self.shape(layer)}: {way}"
            for layer in range(len(self.family.blocks(self.model)))
            if (way := self.way(methods, layer))
        }
        dense = {layer: f"{self.shape(layer)}: dense" for layer in ways}
        new = {key: layer for layer, key in ways.items() if key not in self.table.ms}
        if new:
            self.measure(methods, new, {key: dense[layer] for key, layer in new.items()})
        return total + sum(self.table.ms[ways[n]] - self.table.ms[dense[n]] for n in ways)

    def measure(
        self, methods: Sequence[Settings], new: Mapping[str, int], beside: dict[str, str]
    ) -> None:
        """Time a block for each new key, beside dense ones of their shapes."""
        changed = self.changed(methods)
        shapes = {beside[key]: layer for key, layer in new.items() if beside[key] not in self.dense}
        with evaluating(self.model), evaluating(changed), fused(self.model, changed):
            if shapes:
                self.dense |= self.calls(self.model, shapes)
            calls = {key: self.dense[key] for key in beside.values()} | self.calls(changed, new)
            self.table.measure(calls, self.picture.device, beside)

    def calls(self, model: nn.Module, layers: Mapping[str, int]) -> Calls:
        """By key, the block of that layer on what it is really given."""
        blocks, seen = self.family.blocks(model), dict[int, Call]()
        with watching(blocks, layers.values(), seen.__setitem__):
            self.family.features(model, self.picture)
        return {key: partial(blocks[n], *seen[n][0], **seen[n][1]) for key, n in layers.items()}

    def changed(self, methods: Sequence[Settings]) -> nn.Module:
        """A copy of the model with them, and zeros for maps that they need: the time is the same."""
        plan = with_layers(self.plan.with_(methods=methods), self.model, self.family).at_any_size()
        shapes = named_shapes(plan, self.model, self.family)
        return apply(copy.deepcopy(self.model), blank(plan, shapes))

    @cached_property
    def tokens(self) -> dict[int, int]:
        """How many each block of the dense model is given."""
        blocks, found = self.family.blocks(self.model), dict[int, int]()

        def count(layer: int, call: Call) -> None:
            args, kwargs = call
            found[layer] = next(iter((*args, *kwargs.values())))[..., 0].numel()

        with evaluating(self.model), watching(blocks, range(len(blocks)), count):
            self.family.features(self.model, self.picture)
        return found

    def shape(self, layer: int) -> str:
        """What blocks that take equally long have in common."""
        block = self.family.blocks(self.model)[layer]
        kind = getattr(type(block), "HOST", type(block)).__name__
        return f"{kind} {self.family.dim(block)} wide, {self.tokens[layer]} tokens"

    def way(self, methods: Iterable[Settings], layer: int) -> str:
        """How a block runs, in words; none if it is as it was."""
        words = []
        for config in methods:
            if isinstance(config, SVE) and layer in config.named_layers:
                words.append(attending(config, layer))
            elif isinstance(config, MLPRouting) and layer in config.changed_layers(()):
                share = config.kept_at(layer)
                words.append(f"mlp {share:.6g} by {config.score}, {config.completion}")
            elif isinstance(config, EarlyExit) and layer > config.exits[0]:
                words.append(self.leaving(config, layer))
        return "; ".join(words)

    def leaving(self, config: EarlyExit, layer: int) -> str:
        """How many tokens go on, who ranks them, and how many are completed here."""
        n, prefix = self.tokens[layer], self.family.prefix_tokens(self.model)
        depth = len(self.family.blocks(self.model))

        def there(after: int) -> int:
            return kept_count(n, config.kept_after(after), prefix)

        text = f"{there(layer - 1)} go on"
        if layer - 1 in config.exits:
            more = f" 1/{config.sample_every}, back {config.recover}"
            text += f" of {there(layer - 2)} by {config.score}{more}"
        done = [
            there(exit_ - 1) - there(exit_)
            for exit_ in config.exits
            if exit_ < layer and layer in config.taps_of(exit_, depth)
        ]
        return text + f", {' + '.join(map(str, done))} completed" * bool(done)


def attending(config: SVE, layer: int) -> str:
    """What sparse attention does in a layer."""
    queries, keys = config.kept_at(layer)
    ranks = f"{config.score} 1/{config.sample_every}"
    way = "reuses" if layer in config.followers() else ranks
    return f"queries {queries:.6g} keys {keys:.6g} {config.completion} {way}"


@contextmanager
def watching(blocks: Any, layers: Iterable[int], see: Callable[[int, Call], Any]) -> Iterator[None]:
    """While in here, `see` is told what each of the blocks is called with."""

    def hook_for(layer: int) -> Callable[..., None]:
        def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            see(layer, (args, kwargs))

        return hook

    handles = [
        blocks[layer].register_forward_pre_hook(hook_for(layer), with_kwargs=True) for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""How the kept counts of a plan follow from the number of tokens: which a graph must get right."""

from collections.abc import Iterator
from typing import Any

from sparsight.data import Data
from sparsight.methods import (
    SPOT,
    SVE,
    Bypass,
    ClsTopK,
    EarlyExit,
    MLPRouting,
    Settings,
    method_of,
)
from sparsight.ops.partition import FRIENDLY, WIDE, kept_count
from sparsight.plan import Plan


class Span(Data):
    """Of how many tokens, first to last, a fraction keeps how many."""

    first: int
    last: int
    kept: tuple[int, int]  # of the first and of the last
    rule: str


class Kept(Data):
    """One fraction of a plan, and its spans over the range of a file."""

    method: str
    fraction: float
    spans: tuple[Span, ...]


def counts_of(plan: Plan, prefix: int, tokens: tuple[int, int]) -> tuple[Kept, ...]:
    """For each fraction that a plan keeps somewhere, what that is between the fewest and most tokens."""
    found = []
    for config in plan.methods:
        for fraction in sorted({f for f in _fractions(config) if f < 1}):
            spans = tuple(_spans(fraction, prefix, config.min_tokens, tokens))
            found.append(Kept(method=method_of(config).name, fraction=fraction, spans=spans))
    return tuple(found)


def _fractions(config: Settings) -> Iterator[float]:
    if isinstance(config, SVE):
        for layer in config.named_layers:
            yield from config.kept_at(layer)
    elif isinstance(config, MLPRouting | Bypass):
        yield from (config.kept_at(layer) for layer in config.changed_layers(()))
    elif isinstance(config, EarlyExit):
        yield from (config.kept_after(layer) for layer in config.exits)
    elif isinstance(config, SPOT):
        yield from (config.retained(layer) for layer in config.named_stages)
    elif isinstance(config, ClsTopK):
        yield from (config.keep**n for n in range(1, len(config.stages or ()) + 1))


def _spans(fraction: float, prefix: int, least: int, tokens: tuple[int, int]) -> Iterator[Span]:
    first, rule = tokens[0], ""
    for n in range(tokens[0], tokens[1] + 2):
        here = "" if n > tokens[1] else _rule(n, kept_count(n, fraction, prefix, least))
        if rule and here != rule:
            low, high = (kept_count(m, fraction, prefix, least) for m in (first, n - 1))
            yield Span(first=first, last=n - 1, kept=(low, high), rule=rule)
            first = n
        rule = here


def _rule(tokens: int, count: int) -> Any:
    if count == tokens:
        return "all: dense"
    if count < FRIENDLY * 3 // 2:
        return "the nearest count"
    return f"{WIDE} for {WIDE - FRIENDLY} and {WIDE}" if count == WIDE else f"the nearest {FRIENDLY}"

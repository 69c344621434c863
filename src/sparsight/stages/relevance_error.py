"""Train SPOT's networks to predict the error that a map would leave, in place of gates drawn at random.

    target of token t before stage k = log || x_T - x - [n, 1] W_k ||^2 / mean || x_T ||^2

x is what the dense model has of t there, x_T what it makes of it in the end, W_k the best linear map
between them over all tokens.  A regression of each network alone on cached tokens: no Gumbel noise, no
pass of a sparse model.  Ours; docs/spot.md compares the two.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sparsight.completions.linear import TINY, Regression, log_error, mapped, normalised
from sparsight.families import Family
from sparsight.methods import SPOT, tensor_name
from sparsight.methods.spot.config import network_names
from sparsight.modes import evaluating
from sparsight.ops.dynamics import sampled_statistics
from sparsight.scores.relevance import described, relevance
from sparsight.stages.observe import LayerView, inputs_of, outputs_of, watch
from sparsight.stages.progress import track

TOKENS = 4096  # of all pictures, in one step
RATE = 3e-3


def fit_errors(
    model: nn.Module, family: Family, config: SPOT, pictures: Iterable[Tensor],
    networks: dict[str, Tensor], steps: int, seed: int,
) -> tuple[dict[str, Tensor], list[float]]:  # fmt: skip
    """Networks by their names in a plan, and the mean loss of every step.

    `pictures` (1, 3, height, width) as the model takes them; `networks` are those to start from.
    """
    read, wanted = _cached(model, family, config, pictures)
    trained: dict[str, Tensor] = {}
    losses = [0.0] * steps
    for stage in config.named_stages:
        names = [tensor_name("spot", stage, short) for short in network_names()]
        weights = [networks[name].clone().requires_grad_() for name in names]
        optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
        generator = torch.Generator().manual_seed(seed + stage)
        goal = (wanted[stage] - wanted[stage].mean()) / wanted[stage].std().add(TINY)
        with torch.enable_grad():
            for step in track(range(steps), f"Learning errors, stage {stage}", steps):
                chosen = torch.randint(len(goal), (TOKENS,), generator=generator, device="cpu")
                found = relevance(read[stage][chosen][None], *weights)[0]
                loss = (found - goal[chosen]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses[step] += loss.item() / len(config.named_stages)
        trained |= {name: weight.detach() for name, weight in zip(names, weights, strict=True)}
    return trained, losses


def _cached(
    model: nn.Module, family: Family, config: SPOT, pictures: Iterable[Tensor]
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Of all pictures' patch tokens, by stage: what its network reads, and the log error of the map."""
    prefix, stages = family.prefix_tokens(model), config.named_stages
    last = len(family.blocks(model)) - 1
    noting = sorted({layer for stage in stages for layer in config.noting(stage)})
    seen: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {stage: [] for stage in stages}
    with evaluating(model):
        for picture in pictures:
            notes: dict[int, Tensor] = {}

            def note(view: LayerView, notes: dict[int, Tensor] = notes) -> None:
                notes[view.layer] = sampled_statistics(view.q, view.k, prefix, config.sample).flatten(2)

            with (
                watch(model, noting, note),
                inputs_of(model, stages) as given,
                outputs_of(model, (last,)) as outputs,
            ):
                family.features(model, picture)
            for stage in stages:
                x = given[stage][:, prefix:].float()
                read = described(x, [notes[layer] for layer in config.noting(stage)])
                seen[stage].append((read[0], x[0], outputs[last][0, prefix:].float()))
    found, errors = {}, {}
    for stage, parts in seen.items():
        found[stage], x, end = (torch.cat(columns).cpu() for columns in zip(*parts, strict=True))
        table = Regression(normalised(x), end - x).solved(f"the map of stage {stage}")
        missed = end - x - mapped(normalised(x)[None], table)[0]
        errors[stage] = log_error(missed, end.square().mean())
    return found, errors

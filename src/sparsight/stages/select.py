"""Select: which layers become sparse, and which of them reuse the pattern of the layer before."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from sparsight.attach import apply, family_in, restore
from sparsight.images import Images, Reader
from sparsight.methods import SVE, Settings
from sparsight.modes import evaluating
from sparsight.ops.fidelity import relative_error, salience
from sparsight.plan import Plan
from sparsight.stages.calibrate import Analysis
from sparsight.stages.progress import track

IMAGES = 4  # on which layers are tried


def by_indicator(analysis: Analysis, threshold: float) -> tuple[int, ...]:
    """Layers whose sparsity indicator s exceeds `threshold` (SVE, Sec. 4.1)."""
    return tuple(layer.layer for layer in analysis.layers if layer.indicator > threshold)


class Damage:
    """The mean relative error of the final features that a plan or setting makes on a few pictures.

    Tokens are weighted by how much they stand out: see `salience`.
    """

    def __init__(self, model: nn.Module, images: Images, max_images: int) -> None:
        self.model, self.family = model, family_in(model)
        like = next(model.parameters())
        chosen = Reader(images).spread(max_images)
        self.pictures = [picture[None].to(like.device, like.dtype) for picture in chosen]
        with evaluating(model):
            self.dense = [self.family.features(model, picture) for picture in self.pictures]
        prefix = self.family.prefix_tokens(model)
        self.weights = [salience(wanted, prefix) for wanted in self.dense]

    def __call__(self, what: Settings | Plan) -> float:
        """Of `what`, applied to the model for a moment."""
        apply(self.model, what)
        try:
            with evaluating(self.model):
                errors = [
                    relative_error(self.family.features(self.model, picture), wanted, weight).item()
                    for picture, wanted, weight in zip(
                        self.pictures, self.dense, self.weights, strict=True
                    )
                ]
        finally:
            restore(self.model)
        return sum(errors) / len(errors)


def damage_of(damage: Damage, trials: Sequence[Settings]) -> list[float]:
    """The damage of each setting alone."""
    return [damage(trial) for trial in track(trials, "Trying layers", len(trials))]


def by_damage(
    damage: Damage, config: SVE, damages: Mapping[int, float], max_error: float
) -> tuple[tuple[int, ...], float]:
    """As many of the layers in `damages` as keep their joint error under `max_error`.

    The least harmful come first.  Returns the layers and the error measured with them.  Bisects on
    the number of layers, so it takes log2(depth) measurements; with a single layer above the limit,
    the answer is empty.
    """
    ranking = sorted(damages, key=damages.__getitem__)
    low, high, found = 0, len(ranking), 0.0
    while low < high:
        count = (low + high + 1) // 2
        layers = tuple(sorted(ranking[:count]))
        error = damage(config.model_copy(update={"layers": layers}))
        if error <= max_error:
            low, found = count, error
        else:
            high = count - 1
    return tuple(sorted(ranking[:low])), found


def choose_groups(
    layers: Sequence[int], overlap_of: Callable[[int, int], float], threshold: float
) -> tuple[tuple[int, ...], ...]:
    """Runs of consecutive sparse layers that share their first layer's pattern (SVE, Sec. 4.3).

    A layer joins the run before it if its top set has at least `threshold` in common with that of the
    run's first layer, whose pattern it would use.  Runs of one layer are no groups.
    """
    runs: list[list[int]] = []
    for layer in layers:
        run = runs[-1] if runs else []
        if run and layer == run[-1] + 1 and overlap_of(run[0], layer) >= threshold:
            run.append(layer)
        else:
            runs.append([layer])
    return tuple(tuple(run) for run in runs if len(run) > 1)

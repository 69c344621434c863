"""Calibrate: where is this model's attention sparse?  Exact statistics over unlabelled images."""

from typing import Any

import torch
from torch import Tensor, nn

from sparsight.arguments import checked
from sparsight.attach import family_in
from sparsight.completions.linear import ROWS_PER_UNKNOWN, Regression, normalised
from sparsight.data import Count, Data
from sparsight.errors import NotFiniteError, PlanError
from sparsight.families import encoder_in
from sparsight.images import Reader
from sparsight.modes import evaluating
from sparsight.ops import statistics
from sparsight.ops.statistics import lattice_sample
from sparsight.scores import attention as scores
from sparsight.scores.view import View
from sparsight.stages.observe import LayerView, outputs_of, watch
from sparsight.stages.pictures import pictures_for
from sparsight.stages.progress import Progress, followed, track

TRUE_FRACTION = 1 / 8  # the paper's: the top 1/8 of m is what a scorer has to find
KEPT_FRACTIONS = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2)  # the recall curve's x axis (Fig. 5)
SAMPLE_EVERY = (8, 16, 32)
REST_TOKENS = 2048  # of each picture, that tell how linear the rest of the network is


class LayerAnalysis(Data):
    """Means over the images, of one layer."""

    layer: int
    indicator: float  # s, Eq. 2 with c = 10
    # Error of the best linear map from this layer's result to the last one's, relative to that; None
    # where blocks differ in their tokens.
    linear_rest: float | None = None
    top_share: float  # of all attention, what the top 1/8 of the tokens receives
    recall: dict[str, tuple[float, ...]]  # scorer -> recall at each of KEPT_FRACTIONS


class Analysis(Data):
    """What `analyze` found out about a model's attention, in the layers that can become sparse."""

    layers: tuple[LayerAnalysis, ...]
    overlap: tuple[tuple[float, ...], ...]  # share of the top 1/8 that two of `layers` have in common
    kept_fractions: tuple[float, ...] = KEPT_FRACTIONS
    images: int
    skipped: tuple[str, ...]
    tokens: int  # in the layers that have most
    resolution: tuple[int, int]

    def overlap_of(self, one: int, other: int) -> float:
        """`overlap` by the numbers of the layers."""
        places = {layer.layer: place for place, layer in enumerate(self.layers)}
        return self.overlap[places[one]][places[other]]


@followed
@checked
def analyze(
    model: nn.Module,
    images: Any,
    max_images: Count = 16,
    projectors: "dict[int, Tensor] | None" = None,
    module: str | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """Measure every layer's attention over up to `max_images` images, spread over the whole set.

    `images` are pictures in any form that `optimize` takes.
    `projectors` (layer -> weight) adds the trained scorer's recall of the layers that have one;
    `module` is the path of the vision encoder inside a larger model, which alone is run.
    `progress` is told as by `optimize`.
    Memory above the model: one picture's activations and 64 rows of attention; no N x N map.
    """
    model = encoder_in(model, module)
    family = family_in(model)
    prefix, layers = family.prefix_tokens(model), family.global_layers(model)
    if not layers:
        raise PlanError(
            f"there is no global attention in {family.name} to analyze, its blocks attend within "
            "windows: apply sparsight.SparseViT, which needs no calibration"
        )
    images = pictures_for(model, images, max_images)
    reader, totals = Reader(images), _Totals(layers)
    like = next(model.parameters())
    seen = 0
    with evaluating(model):
        pictures = track(reader.spread(max_images), "Analyzing", min(max_images, len(images)))
        everywhere = family.has_blocks and len(layers) == len(family.blocks(model))
        rest = _Rest(prefix, layers if everywhere else ())
        for picture in pictures:
            views: dict[int, Tensor] = {}

            def see(view: LayerView, views: dict[int, Tensor] = views) -> None:
                views[view.layer] = view.m[0]
                totals.add(view, prefix, (projectors or {}).get(view.layer))

            with watch(model, layers, see), outputs_of(model, rest.layers) as outputs:
                features = family.features(model, picture[None].to(like.device, like.dtype))
            if not features.isfinite().all():
                raise NotFiniteError("NaN or infinity in the final features: check the weights")
            totals.add_overlap([views[layer][prefix:] for layer in layers])
            rest.add(outputs)
            seen += 1
            height, width = picture.shape[1:]
            tokens = max(len(m) for m in views.values())
    return Analysis(
        layers=totals.means(seen, rest.errors()),
        overlap=tuple(map(tuple, (totals.overlap / seen).tolist())),
        images=seen,
        skipped=tuple(reader.skipped.values()),
        tokens=tokens,
        resolution=(height, width),
    )


class _Totals:
    """Sums over images, per layer."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.indicator, self.top_share = dict.fromkeys(layers, 0.0), dict.fromkeys(layers, 0.0)
        self.recall: dict[int, dict[str, Tensor]] = {layer: {} for layer in layers}
        self.overlap = torch.zeros(len(layers), len(layers), dtype=torch.float32, device="cpu")

    def add(self, view: LayerView, prefix: int, projector: Tensor | None) -> None:
        """One image's statistics of one layer; prefix tokens, kept in any case, do not count."""
        m = view.m[:, prefix:]
        self.indicator[view.layer] += statistics.sparsity_indicator(m).item()
        self.top_share[view.layer] += statistics.top_share(m, TRUE_FRACTION).item()

        def seen(every: int = 1, **fitted: Tensor) -> View:
            return View(view.h, view.h, prefix, lambda: (view.q, view.k), every, fitted)

        estimates = {f"sampled 1/{every}": scores.sampled(seen(every)) for every in SAMPLE_EVERY}
        if projector is not None:
            estimates["linear"] = scores.linear(seen(projector=projector))
        for name, estimate in estimates.items():
            curve = _curve(estimate[:, prefix:], m)
            self.recall[view.layer][name] = self.recall[view.layer].get(name, 0) + curve

    def add_overlap(self, maps: list[Tensor]) -> None:
        """One image's maps m (n,) of all layers; those of different token grids have none in common."""
        for count in {len(m) for m in maps}:
            same = [place for place, m in enumerate(maps) if len(m) == count]
            places = torch.tensor(same, device="cpu")
            of_one_grid = torch.stack([maps[place] for place in places])
            shares = statistics.overlap(of_one_grid, TRUE_FRACTION)
            self.overlap[places[:, None], places] += shares.cpu()

    def means(self, images: int, linear: dict[int, float]) -> tuple[LayerAnalysis, ...]:
        return tuple(
            LayerAnalysis(
                layer=layer,
                linear_rest=linear.get(layer),
                indicator=self.indicator[layer] / images,
                top_share=self.top_share[layer] / images,
                recall={k: tuple((v / images).tolist()) for k, v in curves.items()},
            )
            for layer, curves in self.recall.items()
        )


class _Rest:
    """How linear the rest of the network is after each layer: regressions from there to the end."""

    def __init__(self, prefix: int, layers: tuple[int, ...]) -> None:
        self.prefix, self.layers = prefix, layers
        self.sums: dict[int, Regression] = {}
        self.size = 0.0

    def add(self, outputs: dict[int, Tensor]) -> None:
        """One picture: some of its patch tokens are enough."""
        if not self.layers:
            return
        last = outputs[self.layers[-1]]
        every = max(1, last.shape[1] // REST_TOKENS)
        chosen = lattice_sample(last.shape[1], self.prefix, every, last.device)
        final = last[0].index_select(0, chosen).double()
        self.size += final.square().sum().item()
        for layer in self.layers[:-1]:
            x = outputs[layer][0].index_select(0, chosen)
            asked = Regression(normalised(x.float()), final - x.double())
            if layer in self.sums:
                self.sums[layer] += asked
            else:
                self.sums[layer] = asked

    def errors(self) -> dict[int, float]:
        """By layer; none where there are too few tokens to tell."""
        found = {}
        for layer, asked in self.sums.items():
            if asked.count >= ROWS_PER_UNKNOWN * len(asked.gram):
                asked.solved(f"the rest after layer {layer}")
                found[layer] = (asked.left * asked.square.item() / self.size) ** 0.5
        return found


def _curve(estimate: Tensor, m: Tensor) -> Tensor:
    recalls = [statistics.recall(estimate, m, kept, TRUE_FRACTION)[0] for kept in KEPT_FRACTIONS]
    return torch.stack(recalls)

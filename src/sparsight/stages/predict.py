"""Predict: fit the linear projectors that stand in for Q K^T (SVE, Sec. 4.3).

L_proj = CE(m-hat, m), m-hat = softmax over tokens of h w                  (Eq. 15)

h is what the layer's attention reads (the normalised tokens), so no other pass is needed at run time.
For fixed features the loss is convex in w; L-BFGS on a few cached pictures finds its minimum in
seconds and has no learning rate to tune.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sparsight.attach import family_in
from sparsight.images import Images, Reader
from sparsight.methods import tensor_name
from sparsight.modes import evaluating
from sparsight.stages.observe import LayerView, outputs_of, watch
from sparsight.stages.progress import track

CACHE_BYTES = 1 << 30
ITERATIONS = 200
RIDGE = 1e-4  # keeps w finite where the pictures' tokens can be told apart perfectly


def fit_projectors(
    model: nn.Module, images: Images, layers: Iterable[int], max_images: int = 16
) -> dict[str, Tensor]:
    """One weight vector (c,) for each of `layers`, by the name it has in a plan.

    `model` may be dense or have a plan applied; the maps are those of the model as it is, so fit after
    distillation.  Layers are fitted in as many passes over the pictures as the cache needs.
    """
    family, layers = family_in(model), list(layers)
    pictures = min(max_images, len(images))
    like = next(model.parameters())
    with evaluating(model):
        sample = Reader(images).read(0)
        with outputs_of(model, layers) as outputs:
            family.features(model, sample[None].to(like.device, like.dtype))
        at_once = max(1, CACHE_BYTES // (pictures * max(o.numel() for o in outputs.values()) * 4))
        weights: dict[str, Tensor] = {}
        for start in range(0, len(layers), at_once):
            part = layers[start : start + at_once]
            seen: dict[int, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in part}

            def see(view: LayerView, seen: dict[int, list] = seen) -> None:
                seen[view.layer].append((view.h[0].float(), view.m[0]))

            with watch(model, part, see):
                for picture in track(Reader(images).spread(pictures), "Reading maps", pictures):
                    family.features(model, picture[None].to(like.device, like.dtype))
            prefix = family.prefix_tokens(model)
            for layer in part:
                weights[tensor_name("sve", layer, "projector")] = fit_one(seen.pop(layer), prefix)
    return weights


def fit_one(pairs: Sequence[tuple[Tensor, Tensor]], prefix: int) -> Tensor:
    """The w that minimises the mean cross-entropy over pictures; pairs of h (n, c) and m (n,)."""
    hs = [h[prefix:] for h, _ in pairs]
    targets = [m[prefix:] / m[prefix:].sum() for _, m in pairs]
    spread = torch.cat(hs).std(0).clamp_min(1e-6)
    hs = [h / spread for h in hs]
    w = torch.zeros_like(hs[0][0], requires_grad=True)
    solver = torch.optim.LBFGS([w], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = (
            sum(-(t * torch.log_softmax(h @ w, 0)).sum() for h, t in zip(hs, targets, strict=True))
            / len(hs)
            + RIDGE * w.square().sum()
        )
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return (w / spread).detach()

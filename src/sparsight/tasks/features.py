"""Label-free fidelity: how far sparse attention moves the tokens, after every layer and at the end.

    relative error = ||sparse - dense|| / ||dense||;  cosine = mean over tokens, both of one picture

Needs nothing but pictures.  The dense arm's own values are 0 and 1 by definition.
"""

import torch
from torch import Tensor, nn

from sparsight.attach import family_in
from sparsight.errors import NotFiniteError
from sparsight.images import ImageFolder, Reader
from sparsight.ops import fidelity
from sparsight.stages.observe import outputs_of
from sparsight.stages.progress import track
from sparsight.tasks.base import Arms, Outcome, Request
from sparsight.tasks.paired import compare, mean_of, worst_images

METRIC = "means over pictures of relative error (norm of the change / norm) and cosine of the tokens"


def run(arms: Arms, request: Request) -> Outcome:
    """Compare the tokens of both arms on every picture under the data folder."""
    images = ImageFolder(request.data, request.resolution, request.mean, request.std)
    count, reader = min(request.max_images or len(images), len(images)), Reader(images)
    errors: list[Tensor] = []
    cosines: list[Tensor] = []
    places: list[int] = []
    for place, picture in track(reader.placed(count), "Comparing features", count):
        dense, sparse = (outputs(model, picture) for model in arms.both())
        pairs = list(zip(sparse, dense, strict=True))
        if not all(tokens.isfinite().all() for pair in pairs for tokens in pair):
            raise NotFiniteError(
                f"NaN or infinity in the features of {images.paths[place]}: check the weights"
            )
        errors.append(torch.cat([fidelity.relative_error(*pair) for pair in pairs]).cpu())
        cosines.append(torch.cat([fidelity.cosine(*pair) for pair in pairs]).cpu())
        places.append(place)
    error, cosine = torch.stack(errors, 1), torch.stack(cosines, 1)  # (layers + 1, pictures)

    def rows(layer: int, of: str) -> list:
        nothing, whole = torch.zeros_like(error[layer]), torch.ones_like(cosine[layer])
        found = (("relative error", nothing, error[layer]), ("cosine", whole, cosine[layer]))
        return [
            compare(metric, mean_of(dense), mean_of(sparse), len(places), request.seed, of)
            for metric, dense, sparse in found
        ]  # fmt: skip

    files = [request.name_of(images.paths[place]) for place in places]
    return Outcome(
        metric=METRIC,
        scores=rows(-1, "final"),
        details=[row for layer in range(len(error) - 1) for row in rows(layer, f"layer {layer}")],
        images=len(places),
        worst=worst_images(
            files,
            torch.zeros_like(error[-1]),
            error[-1],
            request.worst,
            higher_is_better=False,
        ),
        recipe={"worst": "by the relative error of the final features"},
        skipped=list(reader.skipped.values()),
        passed=files,
    )


def outputs(model: nn.Module, picture: Tensor) -> list[Tensor]:
    """What each layer gives, and the final tokens last; each (1, n, c), grids of tokens in rows."""
    family, like = family_in(model), next(model.parameters())
    layers = range(len(family.blocks(model)))
    with outputs_of(model, layers) as found:
        final = family.features(model, picture[None].to(like.device, like.dtype))
    return [*(found[layer].flatten(1, -2) for layer in layers), final]

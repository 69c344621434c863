"""Held out: the pictures that a training does not see, and how far the final features move on them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsight.attach import family_in
from sparsight.errors import ImagesError
from sparsight.images import Images, Reader, named
from sparsight.ops.fidelity import relative_error, salience

if TYPE_CHECKING:
    from accelerate import Accelerator

HELD_OUT = 16  # pictures at most: each check runs the student on all of them


class Some:
    """Some pictures of a set."""

    def __init__(self, images: Images, places: Sequence[int]) -> None:
        self.images, self.places = images, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[self.places[index]]

    def name_of(self, index: int) -> str:
        """What the set calls it."""
        return named(self.images, self.places[index])


def held_out(count: int, settings: Any) -> tuple[list[int], list[int]]:
    """Of so many pictures, the places of those that are held out, evenly spread, and of the others."""
    if settings.steps is not None:
        return [], list(range(count))
    if count < 2:
        raise ImagesError(
            "a distillation that ends by itself holds pictures out, and there is one alone: give more, "
            "or say how many steps"
        )
    held = max(1, min(HELD_OUT, round(count * settings.held_out), count - 1))
    places = [(2 * n + 1) * count // (2 * held) for n in range(held)]
    return places, [n for n in range(count) if n not in set(places)]


class HeldOut:
    """The relative error of the student's final features, weighted by salience; a mean over pictures."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module, images: Images, accelerator: "Accelerator"
    ) -> None:
        self.student, self.accelerator, self.family = student, accelerator, family_in(teacher)
        like, prefix = next(teacher.parameters()), self.family.prefix_tokens(teacher)
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []  # picture, dense features, weights
        with torch.no_grad():
            for picture in Reader(images).spread(len(images)):
                x = picture[None].to(like.device, like.dtype)
                wanted = self.family.features(teacher, x)
                self.rows.append((x, wanted, salience(wanted, prefix)))

    @torch.no_grad()
    def error(self) -> float:
        """Now; the same in all processes."""
        errors = [
            relative_error(self.family.features(self.student, x), wanted, weights).item()
            for x, wanted, weights in self.rows
        ]
        return self.mean(sum(errors) / len(errors))

    def mean(self, value: float) -> float:
        """Of all processes, so that they end at the same step."""
        figure = torch.tensor(value, dtype=torch.float32, device=self.accelerator.device)
        return float(self.accelerator.reduce(figure, "mean").item())

"""What a task is given, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic.dataclasses
from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor, nn

from sparsight.attach import family_in
from sparsight.data import Count, Seed, Size, complaint
from sparsight.errors import ArgumentError, NotFiniteError
from sparsight.images import IMAGENET_MEAN, IMAGENET_STD
from sparsight.images.names import shown

SHARES_SHOWN = 20  # of classes; the JSON has all


@dataclass(frozen=True)
class Arms:
    """The encoder as it was, and a copy with the plan applied; both in evaluation mode.

    `models` are the whole models they are part of, dense first: the encoders themselves, unless the
    encoder is a module of a larger model.
    """

    dense: nn.Module
    sparse: nn.Module
    models: tuple[nn.Module, nn.Module]

    def both(self) -> tuple[nn.Module, nn.Module]:
        """Dense first."""
        return self.dense, self.sparse


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Request:
    """On what to evaluate, and how.  The second half are options that not every task has a use for."""

    data: Path
    resolution: Size  # height, width; multiples of the patch size
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[Annotated[float, Field(gt=0)], ...] = IMAGENET_STD
    max_images: Count | None = None  # evaluated, spread evenly over the set; None: all
    seed: Seed = 0
    worst: Annotated[int, Field(ge=0)] = 5

    max_train_images: Count | None = None  # None: all
    own_probe: bool = False  # train a second probe on the sparse features and judge them by that
    layout: Literal["ade20k", "voc", "camvid", "cityscapes"] | None = None  # None: told by the folders
    classes: Annotated[int, Field(ge=2)] | None = None
    void: int | None = None
    table: Path | None = None  # of what the numbers or colours in label files mean
    names: Path | None = None  # class names for zero-shot classification
    tokenizer: Any = None  # of the model's text tower

    def name_of(self, path: Path) -> str:
        """A file's path inside the data folder, as people can read it."""
        return shown(path.relative_to(self.data))


def requested(data: Path, size: tuple[int, int], options: dict[str, Any]) -> Request:
    """A request; ArgumentError if an option is not there or out of range."""
    known = {option.name for option in fields(Request)}
    if unknown := sorted(options.keys() - known):
        raise ArgumentError(f"there is no option {unknown[0]!r}")
    try:
        return Request(data, size, **options)
    except ValidationError as error:
        raise ArgumentError(complaint(error)) from None


@dataclass
class Outcome:
    """What a task found: rows of `paired.compare`, and which images lose most."""

    metric: str  # how the figures are defined, in words
    scores: list[dict[str, Any]]
    images: int
    worst: list[dict[str, Any]]
    details: list[dict[str, Any]] = field(default_factory=list)
    recipe: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)  # the images judged, as the sparse arm ran on them
    # Of each split: how much is void and of each class, of all pixels or pictures.
    shares: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One way to judge an encoder."""

    run: Callable[[Arms, Request], Outcome]
    uses: frozenset[str] = frozenset()  # options of `Request` beyond those of every task


def tokens_of(model: nn.Module, picture: Tensor) -> Tensor:
    """The final tokens (n, c) of one picture (3, height, width), in float32."""
    like = next(model.parameters())
    tokens = family_in(model).features(model, picture[None].to(like.device, like.dtype))[0].float()
    if not tokens.isfinite().all():
        raise NotFiniteError("NaN or infinity in the final features: check the weights")
    return tokens


def patches_of(model: nn.Module, picture: Tensor) -> Tensor:
    """The final patch tokens (rows * columns, c) of one picture, in float32."""
    return tokens_of(model, picture)[family_in(model).prefix_tokens(model) :]


def shares_told(shares: Mapping[str, float]) -> str:
    """How much of the labels is void, and of each class, the largest first."""
    told = [f"void {100 * shares['void']:.1f} %"] if "void" in shares else []
    named = sorted(((s, name) for name, s in shares.items() if name != "void"), key=lambda x: -x[0])
    told += [f"{name} {100 * share:.1f} %" for share, name in named[:SHARES_SHOWN]]
    if rest := named[SHARES_SHOWN:]:
        told.append(f"{len(rest)} more classes together {100 * sum(share for share, _ in rest):.1f} %")
    return ", ".join(told)

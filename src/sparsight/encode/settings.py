"""What is encoded and how, as plain data: it travels to other processes and into the sink."""

from math import isqrt
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sparsight.data import Count, Data, Size

Output = Literal["pooled", "cls", "maps"]
Precision = Literal["float32", "bfloat16", "float16"]
BATCH_TOKENS, BATCH_PICTURES = 8192, 32  # of a batch, where its size is not given
ASSUMED_PATCH_PX = 16  # before the model is there


class EncoderSettings(Data):
    """Everything an `Encoder` is made of."""

    model: str  # MODEL as on the command line, or a run folder
    pretrained: bool = False
    checkpoint: str | None = None
    module: str | None = None  # path of the vision encoder in a larger model
    dense: bool = False  # leave the run's plan out: the control
    resolution: Size | None = None  # every picture, height x width in pixels, or the side of a square
    max_tokens: Count | None = None  # each picture at its own size, with at most so many patch tokens
    outputs: tuple[Output, ...] | None = None  # None: pooled, and cls where there is a class token
    taps: tuple[Annotated[int, Field(ge=0)], ...] = ()  # layers whose tokens are given out as well
    dtype: Precision = "float32"  # of weights and computing; vectors are stored as float32
    map_dtype: Literal["float16", "float32"] = "float16"
    batch: Count | None = None  # pictures at a time  (None: by BATCH_TOKENS)
    device: str | None = None  # None: a GPU if there is one
    threads: Count | None = None  # of PyTorch (None: as it comes)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.resolution and self.max_tokens:
            raise ValueError("resolution and max_tokens exclude each other: one size, or each its own")
        if self.outputs == () or len(set(self.outputs or ())) < len(self.outputs or ()):
            raise ValueError("outputs must name each thing once, and at least one")
        if list(self.taps) != sorted(set(self.taps)):
            raise ValueError("taps must rise and not repeat")
        return self

    def batch_of(self, grid: tuple[int, int]) -> int:
        """How many pictures of a grid (rows, columns) go through the model at a time."""
        if self.batch is not None:
            return self.batch
        return max(1, min(BATCH_PICTURES, BATCH_TOKENS // (grid[0] * grid[1])))

    @property
    def usual_side_px(self) -> int:
        """A side to load a model for, where each picture has its own size."""
        assert self.max_tokens is not None
        return max(1, isqrt(self.max_tokens)) * ASSUMED_PATCH_PX

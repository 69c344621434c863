"""What the TOML files here say: encoders, what the paper states of them, and what they are judged by."""

import tomllib
from pathlib import Path
from typing import Literal

from sparsight.data import Data
from sparsight.models import LoadedModel, load_model

HERE = Path(__file__).parent
NAMES = (
    "table1",
    "table2",
    "table3",
    "figure4",
    "figure5",
)  # table4 renders benchmarks/speed/attention.py


class Stated(Data):
    """What the paper states of an encoder's cost; fractions."""

    tflop: float | None = None
    tflop_sve: float | None = None
    saved: float | None = None
    speedup: float


class TaskRow(Data):
    """A task, where its pictures are below --data, and the paper's scores in percent."""

    task: str
    data: str
    images: str  # the unlabelled ones to calibrate and distil on
    score: str  # which of the task's metrics
    dense: float | None = None
    sve: float


class Ablation(Data):
    """Table 3's four scores, in percent."""

    dense: float
    sparse: float
    dense_distilled: float
    sparse_distilled: float


class Encoder(Data):
    """One row of a table, or one curve of a figure."""

    name: str
    model: str
    weights: str  # below --weights: a safetensors file for `model`, or a folder of save_pretrained
    resolution: int
    layers: tuple[int, int] | Literal["all"] | None = None  # first and last, for speed
    score: Literal["linear", "exact"] = "linear"
    finetune: str | None = None  # data to fine-tune on, below --data
    analyze: str | None = None  # pictures of a figure, below --data
    projector: int | None = None  # the layer whose projector a figure is of
    paper: Stated | None = None
    ablation: Ablation | None = None
    tasks: tuple[TaskRow, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.resolution, self.resolution

    def missing(self, weights: Path, *data: Path) -> list[str]:
        """The files and folders that are needed and not there."""
        needed = dict.fromkeys((weights / self.weights, *data))  # each once, in this order
        return [str(path) for path in needed if not path.exists()]

    def load(self, weights: Path) -> LoadedModel:
        """The model with its pretrained weights."""
        path = weights / self.weights
        if path.is_dir():
            return load_model(str(path), self.size)
        return load_model(self.model, self.size, checkpoint=path)


def read(name: str) -> tuple[Encoder, ...]:
    """The encoders of one table or figure."""
    found = tomllib.loads((HERE / f"{name}.toml").read_text(encoding="utf-8"))
    return tuple(Encoder.model_validate(encoder) for encoder in found["encoder"])

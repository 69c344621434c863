"""The state of an unfinished training, in a file that is replaced as a whole."""

import json
import time
from pathlib import Path

import torch
from torch import nn

from sparsight.errors import PlanError
from sparsight.files import check_writable, write_atomically
from sparsight.stages.patience import Patience


class Checkpoint:
    """Weights, optimizer moments and losses so far, as safetensors, replaced as a whole."""

    def __init__(
        self, path: Path | None, what: str, recipe: object, trained: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer, every_s: float, patience: Patience | None = None,
    ) -> None:  # fmt: skip
        if path is not None:
            check_writable(path.parent)
        self.path, self.what = path, what
        self.recipe, self.every_s = json.dumps(recipe), every_s
        self.trained, self.optimizer = trained, optimizer
        self.patience, self.saved = patience, time.monotonic()

    def save(self, losses: list[float], now: bool) -> None:
        """Write, if it is time or `now`."""
        if self.path is None or not (now or time.monotonic() - self.saved >= self.every_s):
            return
        from safetensors.torch import save_file

        tensors = {f"weight.{name}": p.detach().cpu() for name, p in self.trained.items()}
        for name, parameter in self.trained.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}.{name}"] = value.detach().cpu()
        metadata = {"recipe": self.recipe, "losses": json.dumps(losses)}
        if self.patience is not None and self.patience.errors:
            tensors |= {f"best.{name}": value.cpu() for name, value in self.patience.best.items()}
            metadata["patience"] = json.dumps(self.patience.state())
        write_atomically(self.path, lambda path: save_file(tensors, path, metadata))
        self.saved = time.monotonic()

    def resume(self) -> list[float]:
        """Load what was saved, if anything; returns the losses so far."""
        if self.path is None or not self.path.exists():
            return []
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                metadata, names = file.metadata() or {}, set(file.keys())
                if metadata.get("recipe") != self.recipe:
                    raise PlanError(
                        f"{self.path} is a {self.what} with other settings or of another model: delete "
                        "it, or choose another folder"
                    )
                for name, parameter in self.trained.items():
                    parameter.data.copy_(file.get_tensor(f"weight.{name}"))
                    self.optimizer.state[parameter] = {
                        key: file.get_tensor(f"{key}.{name}").to(
                            "cpu" if key == "step" else parameter.device
                        )
                        for key in ("step", "exp_avg", "exp_avg_sq")
                        if f"{key}.{name}" in names
                    }
                if self.patience is not None and "patience" in metadata:
                    best = {name: file.get_tensor(f"best.{name}") for name in self.trained}
                    self.patience.resume(json.loads(metadata["patience"]), best)
                return json.loads(metadata["losses"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise PlanError(f"{self.path} is damaged ({error}): delete it to start again") from None

"""How the tensors under one prefix of a checkpoint fit a model, by the names of its library."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsight.models.libraries import import_transformers, quiet

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]
# What comes after the final tokens, in timm and transformers; an encoder runs without.
HEADS = frozenset(
    ("head", "head_dist", "fc", "fc_norm", "attn_pool", "pooler", "classifier", "segmentation")
)
# Names that say nothing of a model's shape: constants, and what is for training alone.
IDLE = frozenset(("mask_token", "position_ids", "relative_position_index", "attn_mask", "periods"))


@dataclass
class Fit:
    """How the tensors under one prefix fit a model; `values` by the model's own names."""

    prefix: str
    values: Tensors
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]
    model: Any = None  # with the values, where the library makes a new one

    @property
    def faults(self) -> int:
        """How many names stand in the way."""
        return len(self.missing) + len(self.unexpected) + len(self.mismatched)


def fit_of(model: Any, tensors: Tensors, prefix: str) -> Fit:
    """How the tensors whose names begin with `prefix` fit `model`."""
    given = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if type(model).__module__.startswith("transformers."):
        return _by_transformers(model, given, prefix)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            given = convert(dict(given), model)
        except Exception:  # made for the library's own files; anything else may break it anywhere
            return Fit(prefix, {}, sorted(n for n, _ in model.named_parameters()), [], [])
    resize_head(model, given)
    own = model.state_dict()
    values = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    return Fit(
        prefix, values,
        [name for name, _ in model.named_parameters() if name not in given and not is_head(name)],
        [name for name in given if name not in own and _is_of_encoder(name, model)],
        [name for name in given if name in own and name not in values and not is_head(name)],
    )  # fmt: skip


def _by_transformers(model: Any, given: Tensors, prefix: str) -> Fit:
    """Its own loading knows the names of every edition."""
    with quiet(import_transformers()):
        new, info = type(model).from_pretrained(
            None, config=model.config, state_dict=given, dtype=model.dtype, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    mismatched = [row[0] if isinstance(row, tuple) else row for row in info["mismatched_keys"]]
    base = f"{model.base_model_prefix}."
    return Fit(
        prefix, new.state_dict(),
        sorted(k for k in info["missing_keys"] if not is_head(k)),
        sorted(k for k in info["unexpected_keys"] if _is_of_encoder(k.removeprefix(base), model)),
        sorted(k for k in mismatched if not is_head(k)),
        new.eval(),
    )  # fmt: skip


def resize_head(model: Any, given: Tensors) -> None:
    """A classifier of timm with as many classes as the checkpoint has, or none."""
    if not hasattr(model, "reset_classifier") or "segmentation" in model._modules:
        return
    name = (getattr(model, "pretrained_cfg", None) or {}).get("classifier", "head")
    weight = given.get(f"{name}.weight") if isinstance(name, str) else None
    classes = 0 if weight is None else weight.shape[0]
    if classes != model.num_classes:
        model.reset_classifier(classes)


def is_head(name: str) -> bool:
    """Whether a tensor is of what comes after the final tokens."""
    parts = name.split(".")
    return parts[0] in HEADS or "pooler" in parts


def _is_of_encoder(name: str, model: Any) -> bool:
    """Whether a tensor that the model has no place for says that it is of another encoder."""
    first, last = name.split(".")[0], name.split(".")[-1]
    if first in HEADS or last in IDLE:
        return False
    return hasattr(model, first) or "token" in first

"""Plan: the one artefact that flows through the stages.  Plain data, JSON in and out.

In JSON: `{"type": "sparsight.plan", "version": 2, "data": {...}}`, and likewise for the settings of each
method inside it.  An unknown key or type is an error: a setting silently dropped would change what the
model computes.  Plans of version 1 are read by plan_v1.py.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import Field, PrivateAttr, SerializeAsAny, ValidationError

from sparsight.arguments import checked
from sparsight.data import Count, Data, complaint
from sparsight.errors import PlanError
from sparsight.methods import METHODS, SVE, Settings, method_of
from sparsight.plan_v1 import upgraded

if TYPE_CHECKING:
    from torch import Tensor

PLAN_TYPE, VERSION = "sparsight.plan", 2
MAX_PLAN_BYTES = 16_000_000
MOST_REASONS = 3  # that are printed: a plan says in ten lines what it does


Kind = TypeVar("Kind", bound=Settings)


class ModelIdentity(Data):
    """Enough of a model to tell whether a plan was made for it, whatever its dtype or head."""

    family: str
    kind: str
    depth: Count
    dim: Count | tuple[Count, ...]  # one for all blocks, or one for each
    heads: Count | tuple[Count, ...]
    prefix_tokens: Annotated[int, Field(ge=0)]
    patch_px: tuple[int, int]
    weight_samples: tuple[tuple[float, ...], ...]  # a few weights of each block, before any change
    tensor_samples: dict[str, tuple[float, ...]] = Field(default_factory=dict)  # of "3.attn.qkv.weight"


class TensorInfo(Data):
    """Shape and dtype of one tensor of the run folder."""

    shape: tuple[int, ...]
    dtype: str


class LayerReason(Data):
    """What was measured of one layer and what was decided."""

    layer: int
    sparse: bool
    role: str  # "dense", "predicts", "reuses layer 4"
    indicator: float | None = None
    damage: float | None = None  # relative error of the final features with this layer alone sparse
    overlap: float | None = None  # of its top set with that of the global layer before
    recall: dict[str, float] = Field(
        default_factory=dict
    )  # scorer -> share of the true top 1/8 in its top 1/8


class Plan(Data):
    """What is done to a model, why, and what it was made for."""

    methods: Annotated[tuple[SerializeAsAny[Settings], ...], Field(min_length=1)]
    model: ModelIdentity | None = None  # None: made by hand, fits any model with these layers
    source: str | None = None  # MODEL as given on the command line
    resolution: tuple[int, int] | None = None  # pictures it was calibrated on, height x width
    versions: dict[str, str] = Field(default_factory=dict)
    layers: tuple[LayerReason, ...] = ()
    reasons: tuple[str, ...] = ()
    recipe: dict[str, Any] = Field(default_factory=dict)  # settings of the stages that were run
    tensors: dict[str, TensorInfo] = Field(default_factory=dict)

    _weights: dict[str, "Tensor"] = PrivateAttr(default_factory=dict)

    @property
    def weights(self) -> dict[str, "Tensor"]:
        """The changed weights ("model.<key>") and the method's own tensors; not part of the JSON."""
        return self._weights

    def find(self, kind: type[Kind]) -> Kind | None:
        """The settings of a method, if it is one of the plan's."""
        return next((method for method in self.methods if isinstance(method, kind)), None)

    def one(self, kind: type[Kind]) -> Kind:
        """The same where there is no other way; PlanError if the plan has no such method."""
        found = self.find(kind)
        if found is None:
            raise PlanError(f"this is done for {kind.__name__} alone, and the plan has {self.name}")
        return found

    @property
    def sve(self) -> SVE:
        """SVE's settings; PlanError if the plan has none."""
        return self.one(SVE)

    @property
    def name(self) -> str:
        """The names of its methods."""
        return " + ".join(method_of(method).name for method in self.methods)

    @property
    def label(self) -> str:
        """What distinguishes its settings, in a few words."""
        return "; ".join(method.label() for method in self.methods)

    def __str__(self) -> str:
        """What it does and what it was made for, in a few lines."""
        lines = [f"Plan: {self.name}"]
        lines += [f"  {method_of(one).name}: {one.label()}; dense below {one.min_tokens} tokens"
                  for one in self.methods]  # fmt: skip
        if (made := self.model) is not None:
            lines.append(f"  for a {made.kind} of {made.depth} layers ({self.source or 'in memory'})")
        if self.resolution:
            lines.append("  made on pictures of {}x{} px".format(*self.resolution))
        if self.tensors:
            size = sum(t.numel() * t.element_size() for t in self.weights.values()) / 1e6
            lines.append(f"  with {len(self.tensors)} tensors of its own, {size:.1f} MB")
        shown = self.reasons[:MOST_REASONS]
        lines += [f"  {reason}" for reason in shown]
        if more := len(self.reasons) - len(shown):
            lines.append(f"  and {more} more reasons in plan.reasons")
        return "\n".join(lines)

    def changed(self, new: Settings) -> Self:
        """With other settings for the method of the same kind."""
        return self.with_(methods=[new if type(m) is type(new) else m for m in self.methods])

    def at_any_size(self) -> Self:
        """Without a dense fallback, for adapting and judging the sparse path itself."""
        return self.with_(methods=[method.at_any_size() for method in self.methods])

    def __eq__(self, other: object) -> bool:
        """Equal in what they say and in every tensor."""
        if not isinstance(other, Plan) or self.to_json() != other.to_json():
            return False
        mine, theirs = self._weights, other._weights
        return mine.keys() == theirs.keys() and all(mine[k].equal(theirs[k]) for k in mine)

    __hash__ = None  # type: ignore[assignment]

    def with_(self, weights: dict[str, "Tensor"] | None = None, **changes: Any) -> Self:
        """A copy with other fields; tensors are carried over, and `weights` added to them."""
        kept = dict(self._weights) | (weights or {})
        info = {
            k: TensorInfo(shape=tuple(v.shape), dtype=str(v.dtype).removeprefix("torch."))
            for k, v in kept.items()
        }
        plan = type(self).model_validate(
            {name: getattr(self, name) for name in type(self).model_fields} | changes | {"tensors": info}
        )
        plan._weights.update(kept)
        return plan

    def to_json(self) -> str:
        """As text; `from_json` gives an equal plan back."""
        data = self.model_dump(mode="json")
        data["methods"] = [
            {"type": method_of(method).name, "version": VERSION, "data": settings}
            for method, settings in zip(self.methods, data["methods"], strict=True)
        ]
        envelope = {"type": PLAN_TYPE, "version": VERSION, "data": data}
        return json.dumps(envelope, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    @checked
    def from_json(cls, text: str, where: str = "the plan") -> Self:
        """Read a plan; raises PlanError that says which key is wrong and how."""
        try:
            data = _opened(upgraded(json.loads(text), where), where, {PLAN_TYPE})[1]
            given = data.get("methods")
            if not isinstance(given, list):
                raise PlanError(f"{where}: methods must be a list")
            opened = [_opened(one, f"{where}, key 'methods'", set(METHODS)) for one in given]
            data["methods"] = [METHODS[name].config.model_validate(s) for name, s in opened]
            return cls.model_validate(data)
        except (json.JSONDecodeError, RecursionError) as error:
            raise PlanError(f"{where} is not JSON: {error}") from None
        except ValidationError as error:
            raise PlanError(f"{where}: {complaint(error)}") from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """`from_json` of a file."""
        try:
            if path.stat().st_size > MAX_PLAN_BYTES:
                raise PlanError(f"{path} is larger than any plan ({MAX_PLAN_BYTES} bytes)")
            return cls.from_json(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"cannot read {path}: {error}") from None


def _opened(envelope: Any, where: str, types: set[str]) -> tuple[str, dict[str, Any]]:
    """Type and data of a `{type, version, data}` envelope."""
    if not isinstance(envelope, dict) or set(envelope) != {"type", "version", "data"}:
        raise PlanError(f"{where} must be an object with the keys type, version and data")
    if not isinstance(envelope["type"], str) or envelope["type"] not in types:
        raise PlanError(f"{where} has type {envelope['type']!r}; known: {', '.join(sorted(types))}")
    if envelope["version"] != VERSION:
        raise PlanError(
            f"{where} has version {envelope['version']!r}; this sparsight reads versions 1 and {VERSION}"
        )
    if not isinstance(envelope["data"], dict):
        raise PlanError(f"{where}: data must be an object")
    return envelope["type"], dict(envelope["data"])

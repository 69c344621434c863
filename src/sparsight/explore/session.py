"""What the explorer does, without its page: a setting and a picture become maps and figures."""

import copy
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from torch import Tensor, nn

from sparsight.attach import apply, family_in
from sparsight.errors import SparsightError
from sparsight.explore.pictures import One
from sparsight.explore.setting import OWN, SCORES, Setting, global_layers, methods_of
from sparsight.fit import named_shapes, resolve, with_layers
from sparsight.identity import identity
from sparsight.images import named, to_tensor
from sparsight.methods import METHODS
from sparsight.modes import evaluating
from sparsight.plan import Plan
from sparsight.run import save_plan
from sparsight.stages import timing
from sparsight.stages.bench import Bench, bench_of
from sparsight.stages.complete import complete
from sparsight.stages.look import look
from sparsight.stages.measure import fused

REPEATS, REMEMBERED = 3, 32
FITTED_ON = 8  # pictures, at most: a map should be there as fast as a slider is let go


@dataclass(frozen=True)
class Seen:
    """One setting on one picture."""

    look: dict[str, Any]  # as the report reads it
    dense_ms: float
    sparse_ms: float
    notes: tuple[str, ...] = ()  # what is not as one might expect


@dataclass
class Session:
    """A dense model, the plan it came with, and where settings are saved."""

    model: nn.Module
    resolution: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    out: Path
    plan: Plan | None = None
    source: str | None = None
    images: Any = None  # of the given folder
    module: str | None = None  # path of `model` in the larger model that `source` names
    _lock: Any = field(default_factory=threading.Lock)  # one computation at a time
    _seen: OrderedDict[Any, Seen] = field(default_factory=OrderedDict)
    _plans: OrderedDict[Setting, Plan] = field(default_factory=OrderedDict)  # with fitted maps
    _bench: Bench | None = None  # what they are fitted on

    def methods(self) -> list[str]:
        """Those that fit the model, a trained one only with a run of it; first the run as it is."""
        own = [OWN] if self.plan else []
        return own + [name for name in METHODS if self._fits(Setting(name, keep=0.5))]

    def layers(self) -> tuple[int, ...]:
        """The layers SVE can have."""
        return global_layers(self.model)

    def scores(self) -> list[str]:
        """How SVE can rank here: by a projector only if the run has some."""
        found = [name for name in SCORES if self._fits(Setting(score=name))]
        return sorted(found, key=lambda name: name != "sampled")

    def _fits(self, setting: Setting) -> bool:
        try:
            self._drafted(setting, completed=False)
        except (SparsightError, ValueError):  # ValueError: settings that this model cannot even have
            return False
        return True

    def plan_of(self, setting: Setting) -> Plan:
        """The plan a setting stands for; PlanError if it does not fit the model."""
        if setting.method != "early-exit" or setting.keep == 1:  # nothing is to be fitted
            return self._drafted(setting, completed=False)
        if setting not in self._plans:
            self._plans[setting] = self._completed(setting)
            while len(self._plans) > REMEMBERED:
                self._plans.popitem(last=False)
        return self._plans[setting]

    def _completed(self, setting: Setting) -> Plan:
        """With maps fitted on the folder's pictures; without, and saying why, where that cannot be."""
        if self.images is None:
            why = "there are no pictures to fit a map on (--images DIR)"
        else:
            try:
                self._bench = self._bench or bench_of(self.model, self.images, FITTED_ON)
                return complete(self._bench, self._drafted(setting, completed=True))
            except SparsightError as error:
                why = str(error)
        plan = self._drafted(setting, completed=False)
        return plan.with_(reasons=(*plan.reasons, f"tokens that left keep their last value: {why}"))

    def _drafted(self, setting: Setting, completed: bool) -> Plan:
        """The plan with what the run brings for it, checked but for maps that are still to be fitted."""
        family = family_in(self.model)
        plan = Plan(
            methods=methods_of(setting, self.model, self.plan, completed), source=self.source,
            resolution=self.resolution, model=identity(self.model, family), versions=timing.versions(),
            reasons=("chosen in the explorer",),
            recipe={"module": self.module} if self.module else {},
        )  # fmt: skip
        plan = with_layers(plan, self.model, family)
        if self.plan and all(self.plan.find(type(method)) for method in plan.methods):
            wanted = named_shapes(plan, self.model, family)
            weights = self.plan.weights.items()
            plan = plan.with_({k: v for k, v in weights if k in wanted or k.startswith("model.")})
        return plan if completed else resolve(plan, self.model, family)

    def names(self) -> list[str]:
        """The pictures of the given folder."""
        return [] if self.images is None else [named(self.images, n) for n in range(len(self.images))]

    def tensor_of(self, picture: Image.Image) -> Tensor:
        """Filled into the model's size, cut at the edges, normalised: (3, height, width)."""
        height, width = self.resolution
        fitted = ImageOps.fit(picture.convert("RGB"), (width, height), Image.Resampling.BICUBIC)
        return to_tensor(fitted, self.mean, self.std)

    def see(self, picture: Tensor, name: str, setting: Setting, layer: int) -> Seen:
        """A setting on a picture (3, height, width): maps of `layer`, features, time; remembered."""
        key = (name, hash(picture.numpy().tobytes()), setting, layer)
        with self._lock:
            if key not in self._seen:
                self._seen[key] = self._compute(picture, name, setting, layer)
                while len(self._seen) > REMEMBERED:
                    self._seen.popitem(last=False)
            return self._seen[key]

    def _compute(self, picture: Tensor, name: str, setting: Setting, layer: int) -> Seen:
        plan = self.plan_of(setting)
        # Weights that the plan changes are copied, or applying it would change the dense model too.
        shared = {
            id(weight): weight
            for name, weight in self.model.named_parameters()
            if f"model.{name}" not in plan.weights
        }
        sparse = apply(copy.deepcopy(self.model, shared), plan)
        family, like = family_in(self.model), next(self.model.parameters())
        shown = [layer] if layer in self.layers() else []
        one = next(look(self.model, sparse, One(picture, self.mean, self.std, name), [0], shown))
        x = picture[None].to(like.device, like.dtype)
        arms = {
            arm: lambda model=model: family.features(model, x)
            for arm, model in (("dense", self.model), ("sparse", sparse))
        }
        with evaluating(self.model), evaluating(sparse), fused(self.model, sparse):
            times = timing.interleave(arms, REPEATS, like.device)
        facts = {
            "name": one.name, "relative_error": one.relative_error, "cosine": one.cosine,
            "maps": {key: value.numpy() for key, value in one.maps.items()},
            "recalls": {str(n): value for n, value in one.recalls.items()},
        }  # fmt: skip
        dense, fast = (timing.summary(times[arm])["latency_ms"] for arm in ("dense", "sparse"))
        return Seen(facts, dense, fast, plan.reasons[1:])

    def save(self, setting: Setting) -> Path:
        """A setting as a run folder under `out`, numbered; `sparsight measure` takes it."""
        with self._lock:
            plan = self.plan_of(setting)
        numbers = [int(p.name) for p in self.out.glob("[0-9]*") if p.name.isdigit()]
        return save_plan(plan, self.out / f"{max(numbers, default=-1) + 1:02d}")

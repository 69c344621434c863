"""What the explorer does, without its page: a setting and a picture become maps and figures."""

import copy
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from torch import Tensor, nn

from sparsight.attach import apply, family_in, identity, resolve
from sparsight.errors import ImagesError, PlanError, SparsightError
from sparsight.images import named, read_picture, to_tensor
from sparsight.methods import METHODS, SPOT, SVE, ClsTopK, Settings, SparseViT, ToMe
from sparsight.plan import Plan
from sparsight.run import save_plan
from sparsight.stages import timing
from sparsight.stages.look import look
from sparsight.stages.measure import fused
from sparsight.stages.observe import evaluating

MAX_PIXELS = 80_000_000  # of a picture that is dropped in
REPEATS, REMEMBERED = 3, 32
OWN = "as in the run"  # what the run does, whatever the other controls say


@dataclass(frozen=True)
class Setting:
    """What one side of the page says."""

    method: str = "sve"
    keep: float = 1 / 8
    scorer: str = "sampled"
    layers: tuple[int, ...] = ()  # of SVE; none: every layer it can have


@dataclass(frozen=True)
class Seen:
    """One setting on one picture."""

    look: dict[str, Any]  # as the report reads it
    dense_ms: float
    sparse_ms: float


@dataclass(frozen=True)
class One:
    """A single picture as the stages take images."""

    picture: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Tensor:
        return self.picture

    def name_of(self, index: int) -> str:
        """Its name."""
        return self.name


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

    def methods(self) -> list[str]:
        """Those that fit the model, a trained one only with a run of it; first the run as it is."""
        own = [OWN] if self.plan else []
        return own + [name for name in METHODS if self._fits(name)]

    def _fits(self, method: str) -> bool:
        try:
            self.plan_of(Setting(method=method, keep=0.5))
        except (SparsightError, ValueError):  # ValueError: settings that this model cannot even have
            return False
        return True

    def layers(self) -> tuple[int, ...]:
        """The layers SVE can have."""
        return family_in(self.model).global_layers(self.model)

    def scorers(self) -> list[str]:
        """How SVE can rank: by a projector only if the run has some."""
        trained = (
            any(name.startswith("sve.projector") for name in self.plan.weights) if self.plan else False
        )
        return ["sampled", "exact", *(["linear"] if trained else [])]

    def plan_of(self, setting: Setting) -> Plan:
        """The plan a setting stands for; PlanError if it does not fit the model."""
        method = self._method_of(setting)
        own = self.plan if self.plan and isinstance(method, type(self.plan.method)) else None
        plan = Plan(
            method=method, source=self.source, resolution=self.resolution,
            model=identity(self.model, family_in(self.model)), versions=timing.versions(),
            reasons=("chosen in the explorer",),
            recipe={"module": self.module} if self.module else {},
        ).with_(weights=own.weights if own else None)  # fmt: skip
        return plan.with_(method=resolve(plan, self.model, family_in(self.model)).method)

    def _method_of(self, setting: Setting) -> Settings:
        """Keep, as each method counts it; the run's own settings are taken whole."""
        if setting.method == OWN and self.plan:
            return self.plan.method.at_any_size()
        if setting.method == "sve":
            own = self.plan.method if self.plan and isinstance(self.plan.method, SVE) else None
            layers = setting.layers or (own.named_layers if own else self.layers())
            given = {"layers": layers, "keep": setting.keep, "scorer": setting.scorer, "min_tokens": 0}
            return SVE.model_validate(given)
        if setting.method == "tome":  # so that `keep` of the tokens are left at the end
            depth = len(family_in(self.model).blocks(self.model))
            return ToMe(merge=min(0.5, max(1e-6, (1 - setting.keep) / depth)), min_tokens=0)
        if setting.method == "cls-topk":
            return ClsTopK(keep=setting.keep, min_tokens=0)
        if setting.method == "sparsevit":
            return SparseViT(sparsity=round(min(0.9, 1 - setting.keep), 2))
        if setting.method == "spot" and self.plan and isinstance(self.plan.method, SPOT):
            return self.plan.method.model_copy(update={"rho": setting.keep, "min_tokens": 0})
        raise PlanError(f"{setting.method} is not for the explorer: it needs a run of it, or is no plan")

    def opened(self, path: str | Path) -> Image.Image:
        """A picture that was dropped in; ImagesError if it is none or too large."""
        try:
            with Image.open(path) as file:
                if file.size[0] * file.size[1] > MAX_PIXELS:
                    raise ImagesError(f"the picture has more than {MAX_PIXELS // 10**6} million pixels")
            return read_picture(Path(path))
        except (OSError, ImagesError, Image.DecompressionBombError) as error:
            # By its name alone: where uploads are kept means nothing to who dropped it in.
            raise ImagesError(str(error).replace(str(path), Path(path).name)) from None

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
        return Seen(facts, dense, fast)

    def save(self, setting: Setting) -> Path:
        """A setting as a run folder under `out`, numbered; `sparsight measure` takes it."""
        plan = self.plan_of(setting)
        numbers = [int(p.name) for p in self.out.glob("[0-9]*") if p.name.isdigit()]
        return save_plan(plan, self.out / f"{max(numbers, default=-1) + 1:02d}")


def layers_from(text: str, available: tuple[int, ...]) -> tuple[int, ...]:
    """Layer numbers from "4-11" or "3, 4, 8"; "" or "all" means every one that can be."""
    found: list[int] = []
    for part in text.replace("all", "").replace(" ", "").split(","):
        if part:
            first, _, last = part.partition("-")
            if not (first.isdigit() and (last or first).isdigit()):
                raise PlanError(f"layers {text!r}: not like 4-11 or 3, 4, 8")
            found += range(int(first), int(last or first) + 1)
    if missing := sorted(set(found) - set(available)):
        raise PlanError(f"layer {missing[0]} cannot be sparse here: choose from {available}")
    return tuple(sorted(set(found)))

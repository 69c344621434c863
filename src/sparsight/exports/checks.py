"""What can leave Python, and what cannot, with the reason: asked before any work."""

from typing import Any

from torch import nn

from sparsight.errors import PlanError, UnsupportedModelError
from sparsight.exports.shapes import Shapes
from sparsight.inplace import Change
from sparsight.methods import SPOT, DensityPeaks, LocalAttention, MutualPairs, SparseViT, ToMe
from sparsight.plan import Plan
from sparsight.scores import SCORES

HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip


def check_model(model: nn.Module) -> None:
    """UnsupportedModelError if something was done to the model that a graph would lose or bake in."""
    for name, part in model.named_modules():
        where = f"{name!r} of this model" if name else "this model"
        if any(getattr(part, hooks, None) for hooks in HOOKS) or "_hf_hook" in part.__dict__:
            raise UnsupportedModelError(
                f"{where} has a hook, which a graph would not run as you mean it: remove it, then export"
            )
        if type(part).__name__ == "OptimizedModule" or getattr(part, "_compiled_call_impl", None):
            raise UnsupportedModelError(
                f"{where} is compiled: export the model it was made from, before torch.compile"
            )
        if "forward" in part.__dict__ and not isinstance(part, Change):
            raise UnsupportedModelError(
                f"{where} has a forward of its own, set on the module: take it off, then export"
            )
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_inference():
            raise UnsupportedModelError(
                f"{name!r} of this model was made in inference mode, which cannot be traced: make it "
                "outside of torch.inference_mode"
            )
        if value.device.type == "meta":
            raise UnsupportedModelError(
                f"{name!r} of this model is on the meta device: load its weights"
            )


def check_plan(plan: Plan, shapes: Shapes) -> None:
    """PlanError if a method of the plan has no form as a graph."""
    for config in plan.methods:
        reason = _against(config, shapes.is_dynamic)
        if reason:
            raise PlanError(f"{type(config).__name__} does not export as it is: {reason}")


def _against(config: Any, is_dynamic: bool) -> str | None:
    if isinstance(config, ToMe):
        return (
            "it compares half of the tokens with the other half, in a graph as one large "
            "matrix; SVE and EarlyExit export"
        )
    if isinstance(config, MutualPairs):
        return "how many pairs merge depends on the picture; SVE and EarlyExit export"
    if isinstance(config, DensityPeaks):
        return "it compares tokens with all centres, as one large matrix; SVE and EarlyExit export"
    score = SCORES.get(getattr(config, "score", ""))
    if score is not None and score.no_graph:
        return f"score={score.name!r}: {score.no_graph}; score='sampled' exports"
    if config.depends_on_picture:
        return (
            "the kept count depends on the picture (a bound, a threshold), and a graph's may depend on "
            "its size alone; EarlyExit with keep=... exports"
        )
    if isinstance(config, SPOT):
        return "what its layers note of their attention does not get into a graph; EarlyExit exports"
    by_places = isinstance(config, SparseViT | LocalAttention)
    if is_dynamic and (by_places or getattr(config, "score", None) == "lattice"):
        return "it is laid out for one size of picture: give sizes, one file is made for each"
    return None


def takes_any_size(model: nn.Module) -> bool:
    """Whether the model takes pictures of several sizes: timm's models do if they were made so."""
    patches = getattr(model, "patch_embed", None)
    return not getattr(patches, "strict_img_size", False)


def check_sizes(model: nn.Module, shapes: Shapes) -> None:
    """UnsupportedModelError if the model itself takes one size only, and another is wanted."""
    own = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if takes_any_size(model) or own is None:
        return
    if shapes.is_dynamic or tuple(own) != tuple(shapes.largest):
        raise UnsupportedModelError(
            f"this {type(model).__name__} takes pictures of {own[0]}x{own[1]} alone: make it with "
            "dynamic_img_size=True, or export for that size"
        )

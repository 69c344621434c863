"""The rungs of the speed ladder and the peers beside it, each a function that builds a model's call."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import sparsight
from benchmarks.harness import Build, Hole
from sparsight.attach import as_plan, family_in
from sparsight.fit import named_shapes, with_layers
from sparsight.methods import LowerResolution, ToMe
from sparsight.stages.arm import arm_of

KEEP, MLP_KEEP, EXIT_KEEP = 1 / 8, 1 / 4, 0.4
DENSE = "dense, SDPA"  # what every speedup is relative to


@dataclass(frozen=True)
class Subject:
    """A dense model and the pictures it is timed on."""

    model: nn.Module
    pictures: Tensor  # (b, 3, height, width)

    def sparse_layers(self) -> tuple[int, ...]:
        """Global layers from a third of the depth on; of Hiera, which has few, all."""
        layers = family_in(self.model).global_layers(self.model)
        depth = len(family_in(self.model).blocks(self.model))
        return tuple(n for n in layers if n >= depth // 3)

    def sparse(self, what: Any) -> nn.Module:
        """A copy of the model with `what` applied, its projectors and maps made up."""
        family = family_in(self.model)
        plan = with_layers(as_plan(what), self.model, family)
        made = {
            name: torch.randn(shape) / max(1, *shape) if shape else torch.tensor(0.0)
            for name, shape in named_shapes(plan, self.model, family).items()
        }
        return sparsight.apply(self.copied(), plan.with_(weights=made))

    def copied(self) -> nn.Module:
        """The model's modules anew, attention fused, around the same weights."""
        model = copy.deepcopy(self.model, {id(p): p for p in self.model.parameters()})
        for module in model.modules():
            if getattr(module, "fused_attn", True) is False:
                module.fused_attn = True
        return model

    def changed(self, what: Any) -> nn.Module:
        """A copy with `what` applied, or the dense model if that is None."""
        return self.copied() if what is None else self.sparse(what)

    def call(self, model: nn.Module) -> Callable[[], Any]:
        """What is timed: the features of the pictures."""
        return partial(family_in(model).features, model, self.pictures)


class Features(nn.Module):
    """A model's features as its forward pass, which is what a compiler takes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return family_in(self.model).features(self.model, images)


def ladder(subject: Subject) -> dict[str, Build]:
    """One row for each technique, each on top of the one before, and the dense rows they stand on."""
    sparse, leaving = settings(subject), fewer_tokens(subject)
    sampled, routed = next(iter(sparse.values())), list(sparse.values())[-1]
    return {
        "dense, attention not fused": partial(unfused, subject),
        DENSE: partial(applied, subject, None),
        "dense, compiled": partial(compiled, subject, None),
        **{name: partial(applied, subject, what) for name, what in sparse.items()},
        **{name: partial(applied, subject, what) for name, what in leaving.items()},
        "routed, compiled": partial(compiled, subject, routed),
        **{f"{name}, compiled": partial(compiled, subject, what) for name, what in leaving.items()},
        "dense, bfloat16": partial(bfloat16, subject, None),
        "sampled, bfloat16": partial(bfloat16, subject, sampled),
        "routed, bfloat16": partial(bfloat16, subject, routed),
        "routed, CUDA graph": no_cuda,
    }


def settings(subject: Subject) -> dict[str, Any]:
    """What is applied, rung by rung."""
    if family_in(subject.model).windows is not None:
        return {
            f"{10 * n} % of windows dropped": sparsight.SparseViT(sparsity=n / 10) for n in (3, 5, 7)
        }
    layers = subject.sparse_layers()
    plain = sparsight.SVE(layers=layers, keep=KEEP)
    projected = plain.model_copy(update={"score": "linear"})
    runs = list(range(layers[0], layers[0] + len(layers))) == list(layers)
    reused = projected.model_copy(update={"groups": (layers,)} if runs else {})
    return {
        "sparse attention, sampled": plain,
        "sparse attention, sampled, map": plain.completed(),
        "+ projector": projected,
        **({"+ reuse": reused} if runs else {}),
        "+ MLP routing": (reused, sparsight.MLPRouting(layers=layers, keep=MLP_KEEP)),
    }


def fewer_tokens(subject: Subject) -> dict[str, Any]:
    """Early exit after a sixth of the layers, alone and with sparse attention before it."""
    family, model = family_in(subject.model), subject.model
    depth = len(family.blocks(model))
    if len(family.global_layers(model)) < depth:
        return {}
    after = depth // 6
    leaving = sparsight.EarlyExit(after=(after,), keep=EXIT_KEEP)
    before = sparsight.SVE(layers=range(after + 1), keep=KEEP)
    return {"early exit": leaving, "sparse attention, then early exit": (before, leaving)}


def peers(subject: Subject) -> dict[str, Build]:
    """What a user would try instead."""
    layers = len(family_in(subject.model).blocks(subject.model))
    return {
        "ToMe, half the tokens at the end": partial(applied, subject, ToMe(merge=0.5 / layers)),
        "lower resolution, 3/4": partial(lower, subject),
        "dense, int8 (torchao), compiled": partial(int8, subject, None),
        "routed, int8 (torchao), compiled": partial(int8, subject, list(settings(subject).values())[-1]),
        "dense, float8 (torchao)": no_cuda,
    }


def applied(subject: Subject, config: Any) -> Callable[[], Any]:
    return subject.call(subject.changed(config))


def unfused(subject: Subject) -> Callable[[], Any]:
    """The dense model with attention as written: the map is built."""
    model = subject.copied()
    switched = [m for m in model.modules() if hasattr(m, "fused_attn")]
    if not switched:
        raise Hole("attention is fused whatever one asks for")
    for module in switched:
        module.fused_attn = False
    return subject.call(model)


def compiled(subject: Subject, config: Any) -> Callable[[], Any]:
    torch._dynamo.reset()
    run = torch.compile(Features(subject.changed(config)), fullgraph=True)
    return lambda: run(subject.pictures)


def bfloat16(subject: Subject, config: Any) -> Callable[[], Any]:
    if subject.pictures.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise Hole("this processor has no bfloat16 arithmetic")
    model = copy.deepcopy(subject.changed(config)).to(torch.bfloat16)
    return partial(family_in(model).features, model, subject.pictures.to(torch.bfloat16))


def int8(subject: Subject, config: Any) -> Callable[[], Any]:
    """Dynamic quantisation of activations, weights by channel."""
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ModuleNotFoundError:
        raise Hole("torchao is not installed") from None
    torch._dynamo.reset()
    model = copy.deepcopy(subject.changed(config))
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    run = torch.compile(Features(model), fullgraph=True)
    return lambda: run(subject.pictures)


def lower(subject: Subject) -> Callable[[], Any]:
    height, width = subject.pictures.shape[2:]
    arm = arm_of(subject.copied(), as_plan(LowerResolution(scale=3 / 4)), (height, width))
    return lambda: arm(subject.pictures)


def no_cuda() -> Callable[[], Any]:
    raise Hole("not written: there was no NVIDIA GPU to test it on")

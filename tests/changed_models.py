"""Small models with a change of every kind, in every family that can have it: for test_inplace.py.

The checks raise; scripts use them too, in processes where nothing else is patched.
"""

import copy

import torch
from conftest import SWIN_GRID, SWINS, WINDOWED, make_images, make_model, plan_of

import sparsight
from sparsight.attach import family_in
from sparsight.inplace import BUFFER, STATE, is_changed

FEW = 40  # tokens, below which layers run dense: between those of the small and the large pictures
PLAIN = ("augreg", "dinov3", "hf_vit", "hf_dinov2", "hf_dinov3", "hf_clip", "hf_siglip")  # by family


def sve(model):
    layers = family_in(model).global_layers(model)[:3]
    return sparsight.SVE(
        layers=layers, groups=(layers[:2],), keep=1 / 4, sample_every=4, completion="map", min_tokens=FEW
    )


def routing(model):
    return sparsight.MLPRouting(keep=1 / 3, score="map-error", min_tokens=FEW)


def leaving(model):
    return sparsight.EarlyExit(after=(0, 2), keep=1 / 2, taps=(1,), min_tokens=FEW)


def windows(model):
    # Of the maps of the first stage: a small picture has 90 tokens there, a large one 437 and then 120.
    return sparsight.SparseViT(sparsity=((0.6,), (0.25, 0.5)), completion="map", min_tokens=100)


KINDS = {
    "attention": sve,
    "mlp": routing,
    "exit": leaving,
    "merging": lambda model: sparsight.ToMe(merge=1 / 10, min_tokens=FEW),
    "pruning": lambda model: sparsight.ClsTopK(stages=(1, 2), keep=0.6, min_tokens=FEW),
    "spot": lambda model: sparsight.SPOT(stages=(1, 3), hidden=8, sample=9, min_tokens=FEW),
    "windows": windows,
}
# Every family with every kind of module that can be changed in it; the other block methods too.
CASES = [
    *((name, kind) for name in PLAIN for kind in ("attention", "mlp", "exit")),
    *((name, kind) for name in WINDOWED for kind in ("attention", "mlp")),
    *((name, "windows") for name in SWINS),
    *((name, "merging") for name in ("augreg", "hf_dinov3")),
    ("dinov3", "pruning"),
    ("hf_dinov3", "spot"),
]
# Compiling takes a second or two a case: every kind of module in both libraries.
COMPILED = [
    ("augreg", "attention"), ("hf_dinov3", "attention"), ("dinov3", "mlp"), ("hf_clip", "mlp"),
    ("dinov3", "exit"), ("hf_vit", "exit"), ("hf_sam2", "attention"), ("timm_swin", "windows"),
]  # fmt: skip


def make(name):
    makers = WINDOWED | SWINS
    return makers[name]() if name in makers else make_model(name)


def pictures(model, kind):
    """A large one, and a small one where the host takes several sizes."""
    if kind != "windows":
        return make_images(model, 2), make_images(model, 2, (3, 3) if "SAM2" in _name(model) else (5, 6))
    large = make_images(model, 2, SWIN_GRID)
    return (large, make_images(model, 2, (10, 9))) if "SwinModel" in _name(model) else (large,)


def _name(model):
    return type(model).__name__.replace("Hiera", "SAM2").replace("Sam2", "SAM2")


class Setup:
    """A model, its plan, pictures, and what comes out dense and sparse."""

    def __init__(self, name, kind):
        self.model, self.kind = make(name), kind
        self.family = family_in(self.model)
        self.plan = plan_of(self.model, KINDS[kind](self.model))
        self.images = pictures(self.model, kind)
        self.dense = self.run(self.model)
        twin = sparsight.apply(copy.deepcopy(self.model), self.plan)
        self.sparse = self.run(twin)
        # The large picture is sparse, a small one is dense.
        assert not torch.allclose(self.sparse[0], self.dense[0], rtol=1e-3)
        assert all(map(torch.equal, self.sparse[1:], self.dense[1:]))

    @torch.no_grad()
    def run(self, model):
        # By the family of before: after restore a module may still have a class that others made.
        return [self.family.features(model, images) for images in self.images]

    def parts(self):
        """Attention, MLP and block of every block that is changed or has a changed module."""
        found = []
        for block in self.family.blocks(self.model):
            three = [self.family.parts.attention(block), getattr(block, "mlp", None), block]
            if any(part is not None and is_changed(part) for part in three):
                found += [part for part in three if part is not None]
        return found

    def changed(self):
        return [part for part in self.model.modules() if is_changed(part)]

    def check_sparse(self):
        """Small pictures first: what recursed without end did it in the dense fallback."""
        got = self.run(self.model)[::-1]
        assert all(map(torch.equal, got, self.sparse[::-1]))

    def check_restored(self):
        sparsight.restore(self.model)
        assert not self.changed()
        assert all(map(torch.equal, self.run(self.model), self.dense))
        assert not [name for name, _ in self.model.named_buffers() if BUFFER in name]
        assert not [m for m in self.model.modules() if STATE in m.__dict__]


def facts(model):
    """What must be as it was, by module: class, attributes, hooks, tensors."""
    return {
        name: (
            type(part),
            {k: v for k, v in part.__dict__.items() if not k.startswith("_") or k == "_old_forward"},
            {k: id(v) for k, v in (*part._parameters.items(), *part._buffers.items())},
            dict(part._forward_hooks),
            set(part._non_persistent_buffers_set),
            {k: id(v) for k, v in part._modules.items()},
        )
        for name, part in model.named_modules()
    }

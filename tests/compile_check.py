"""Compiled against eager: prints the largest relative error of each case, and how often sizes compile.

A model of every family takes another picture of the same size without recompilation.  Then one model
takes pictures of many sizes, twice: as it is, and its blocks alone.
"""

import json

import test_apply
import test_spot
import test_windowed
import torch
from conftest import SWIN_GRID, SWINS, WINDOWED, make_images, make_model, plan_of, run_features
from site_models import make_site
from test_apply import GROUPS
from torch._dynamo.testing import CompileCounter

import sparsight
from sparsight.attach import family_in

# Every family is there, with layers that reuse a ranking.
NAMES = (
    "dinov2_reg", "dinov3", "siglip", "hf_dinov2_reg", "hf_dinov3", *WINDOWED,
    "hf_vit", "hf_clip", "hf_siglip",
)  # fmt: skip
# And with layers that each rank.
ALONE = ("dinov2_reg", "dinov3", "siglip", "hf_dinov2_reg", "hf_dinov3", *WINDOWED)
TOKENS = (197, 301, 512, 901, 1025, 1300, 2000, 5477, 6001)  # 96 and 704 are kept somewhere between


class Features(torch.nn.Module):
    """A model as its family runs it, on pictures of any size."""

    def __init__(self, model, run):
        super().__init__()
        self.model, self.run = model, run

    def forward(self, images):
        return self.run(self.model, images)


def worst(model, grid, run=run_features, backend="aot_eager"):
    """The largest error of a compiled model on two pictures of one size."""
    torch._dynamo.reset()
    compiled = torch.compile(Features(model, run), fullgraph=True, backend=backend)
    found = 0.0
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for seed in (1, 5):
            images = make_images(model, grid=grid, seed=seed)
            wanted, got = run(model, images), compiled(images)
            error = (got - wanted).abs().max() / wanted.abs().max()
            found = max(found, error.item())
    return found


def compilations(module, inputs):
    """How many graphs a module is compiled to over inputs of many sizes."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    with torch.no_grad():
        for x in inputs:
            compiled(x)
    return counter.frame_count


def combined(model):
    """Sparse attention, then fewer tokens, then some of them through the MLP; all completed."""
    sve = sparsight.SVE(layers=(0, 1), groups=((0, 1),), keep=1 / 4, completion="map", min_tokens=0)
    leave = sparsight.EarlyExit(after=(1,), keep=1 / 2, score="map-error", taps=(2,), min_tokens=0)
    return plan_of(model, sve, leave, sparsight.MLPRouting(layers=(2, 3), keep=1 / 3, min_tokens=0))


def scored(model):
    """Sparse attention and leaving tokens by scores whose loops no compiler unrolls."""
    sve = sparsight.SVE(layers=(0, 1), keep=1 / 4, score="contribution", min_tokens=0)
    leave = sparsight.EarlyExit(
        after=(1,), keep=1 / 2, score="diversity-rounds", recover=4, min_tokens=0
    )
    return plan_of(model, sve, leave)


def pruned(model):
    """By what an earlier layer notes."""
    return plan_of(model, sparsight.ClsTopK(stages=(2,), score="vtc-cls", history=2, min_tokens=0))


def pattern(kind):
    """Local attention with its map, and lattice keys in another layer."""
    local = sparsight.LocalAttention(layers=(0, 1), pattern=kind, size=3, completion="map", min_tokens=0)
    lattice = sparsight.SVE(layers=(3,), keep=1 / 4, score="lattice", min_tokens=0)
    return lambda model: plan_of(model, local, lattice)


OTHER_PLANS = {
    "spot": test_spot.make_plan,
    "combined": combined,
    "scored": scored,
    "pruned": pruned,
    "tome": lambda model: plan_of(model, sparsight.ToMe(merge=0.1, min_tokens=0)),
    "windows": pattern("windows"),
    "stripes": pattern("stripes"),
    "peaks": lambda model: plan_of(
        model, sparsight.DensityPeaks(after=0, completion="map", min_tokens=0)
    ),
    "bypass": lambda model: plan_of(model, sparsight.Bypass(layers=(1, 3), keep=1 / 3, min_tokens=0)),
}
OF_OTHERS = {
    "dinov3": ["spot", "combined", "scored", "pruned", "tome", "windows", "peaks"],
    "siglip": ["combined", "stripes"],
    "hf_dinov3": ["combined", "bypass"],
}
errors, families = {}, set()
for name in NAMES:
    kinds = list(GROUPS) if name in ALONE else ["grouped"]
    for kind in (*kinds, *OF_OTHERS.get(name, ())):
        model = WINDOWED[name]() if name in WINDOWED else make_model(name)
        tests = test_windowed if name in WINDOWED else test_apply
        if kind in OTHER_PLANS:
            plan = OTHER_PLANS[kind](model)
        else:
            plan = test_apply.make_plan(model, "sampled", tests.GROUPS[kind])
        sparsight.apply(model, plan)
        # Through AOTAutograd too in one of two groupings: the other differs in what Dynamo sees, and not
        # in the operations.
        backend = "eager" if kind == "alone" else "aot_eager"
        errors[f"{name}-{kind}"] = worst(model, (9, 7), backend=backend)
        families.add(family_in(model).name)
for name, make in SWINS.items():
    for completion in ("last", "map"):
        model = make()
        config = sparsight.SparseViT(sparsity=((0.6,), (0.25, 0.5)), completion=completion)
        sparsight.apply(model, plan_of(model, config))
        errors[f"{name}-{completion}"] = worst(model, SWIN_GRID)
    families.add(family_in(model).name)

for name in ("samvit", "parallel"):  # no family; the first adds a bias, of rows and columns
    model = make_site(name)
    sparsight.apply(model, sparsight.SVE(layers="all", min_tokens=0))
    errors[name] = worst(model, (8, 8), lambda model, images: model.forward_features(images))

sizes = {}
dense, sparse = make_model("augreg"), make_model("augreg")
sve = sparsight.SVE(layers=(1, 2, 3), min_tokens=0)
sparsight.apply(
    sparse, plan_of(sparse, sve, sparsight.MLPRouting(layers=(1, 2, 3), keep=0.25, min_tokens=0))
)
tokens = [torch.randn(1, n, dense.embed_dim) for n in TOKENS]
images = [make_images(dense, batch=1, grid=(side, side + 2)) for side in (7, 9, 12, 15)]
for kind, model in (("dense", dense), ("sparse", sparse)):
    sizes[f"blocks-{kind}"] = compilations(model.blocks, tokens)
    sizes[f"model-{kind}"] = compilations(model, images)
print(json.dumps({"errors": errors, "families": sorted(families), "sizes": sizes}))

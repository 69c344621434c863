"""Tokens that merge before a block, by density peaks or as mutual pairs, and those that bypass one."""

import copy

import pytest
import torch
from conftest import blocks_of, make_images, make_model, make_timm_sam2, plan_of, run_features
from test_apply import mapped_by_hand, scored, tensors_of
from test_complete import moved, pictures_of
from test_reduced import attend, pick
from torch.nn.functional import layer_norm

import sparsight
from sparsight.attach import applied, as_plan
from sparsight.families import family_of
from sparsight.methods.reduced import CARRY
from sparsight.ops.merging import assigned, density_peaks, means, mutual_pairs
from sparsight.ops.partition import kept_count
from sparsight.stages.bench import bench_of
from sparsight.stages.complete import complete

PEAKS = sparsight.DensityPeaks(after=0, keep=0.4, radius=2, nearest=3, min_tokens=0)
PAIRS = sparsight.MutualPairs(layers=(1, 3), min_tokens=0)
BYPASS = sparsight.Bypass(layers=(1, 3), keep=0.4, min_tokens=0)
MERGING = {"density-peaks": PEAKS, "mutual-pairs": PAIRS}
EVERY = MERGING | {"bypass": BYPASS}
MODELS = ("siglip", "augreg", "dinov3", "hf_dinov3")  # prefixes of 0, 1 and 5; rotary tables
GRID = (9, 7)


@torch.no_grad()
def features(model, images):
    return run_features(model, images)


def close(got, wanted, tolerance=2e-5):
    # A few blocks of float32, the same sums grouped otherwise; another choice would show as 1e-3.
    return (got - wanted).abs().max() <= tolerance * wanted.abs().max()


def with_(config, **changes):
    return type(config).model_validate(config.model_dump() | changes)


# The choices, token by token


def peaks_by_hand(normal, grid, radius, nearest, count):
    """Centres in their order, and for every token its centre, both as places; normal (p, c)."""
    p = len(normal)
    apart = ((normal[:, None] - normal[None]) ** 2).mean(2)
    near = [
        [
            j for j in range(p) if j != i and abs(i // grid[1] - j // grid[1]) <= radius
            and abs(i % grid[1] - j % grid[1]) <= radius
        ]
        for i in range(p)
    ]  # fmt: skip
    rho = []
    for i in range(p):
        closest = sorted(apart[i, near[i]].tolist())[:nearest]
        rho.append(torch.tensor(-sum(closest) / len(closest)).exp().item())
    largest = max(apart[i, near[i]].max().item() for i in range(p))
    scores = []
    for i in range(p):
        denser = [apart[i, j].item() for j in near[i] if rho[j] > rho[i]]
        scores.append(rho[i] * (min(denser) if denser else largest))
    centres = sorted(sorted(range(p), key=lambda i: -scores[i])[:count])
    into = []
    for i in range(p):
        among = [j for j in near[i] if j in centres] or centres
        into.append(i if i in centres else min(among, key=lambda j: apart[i, j].item()))
    return centres, into


def pairs_by_hand(tokens):
    """For every token the place of the one it goes into; tokens (p, c)."""
    unit = tokens / tokens.norm(dim=1, keepdim=True)
    alike = unit @ unit.T - 10 * torch.eye(len(unit))
    best = [int(row.argmax()) for row in alike]
    return [min(i, b) if best[b] == i else i for i, b in enumerate(best)]


@pytest.mark.parametrize("grid", [(9, 7), (3, 20), (2, 2), (16, 5)])
@pytest.mark.parametrize(("radius", "nearest"), [(1, 3), (3, 5), (2, 50)])
def test_density_peaks_are_those_by_hand(grid, radius, nearest):
    p = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(p + radius)
    normal = layer_norm(torch.randn(2, p, 12, generator=generator), (12,))
    peaks = density_peaks(normal, grid, radius, nearest)
    for share in (0.05, 0.4):
        count = max(1, round(share * p))
        centres = peaks.score.topk(count, 1).indices.sort(1).values
        into = centres.gather(1, assigned(normal, peaks, centres))
        for picture in range(2):
            wanted = peaks_by_hand(normal[picture], grid, radius, nearest, count)
            assert (centres[picture].tolist(), into[picture].tolist()) == wanted


def test_tokens_that_are_alike_have_peaks_too():
    normal = torch.zeros(1, 36, 4)
    peaks = density_peaks(normal, (6, 6), 2, 3)
    assert peaks.score.isfinite().all()
    assert (peaks.score == 0).all()


@pytest.mark.parametrize("p", [1, 2, 63, 600])
def test_mutual_pairs_are_those_by_hand_and_who_is_not_there_has_none(p):
    tokens = torch.randn(2, p, 8, generator=torch.Generator().manual_seed(p))
    there = torch.ones(2, p, dtype=torch.bool)
    there[1, p // 2 + 1 :] = False
    found = mutual_pairs(tokens, there)
    for picture, count in enumerate(there.sum(1).tolist()):
        part = found[picture, :count]
        places = torch.arange(count)
        assert torch.equal(part[part], places)  # mutual
        assert part.minimum(places).tolist() == pairs_by_hand(tokens[picture, :count])
        assert torch.equal(found[picture, count:], torch.arange(count, p))


def test_means_are_weighted_and_in_float32():
    x, group = torch.randn(2, 9, 4).to(torch.bfloat16), torch.randint(0, 3, (2, 9))
    group[:, :3] = torch.arange(3)
    weight = torch.rand(2, 9)
    mean, total = means(x, group, 4, weight)
    assert mean.dtype == torch.bfloat16
    for picture in range(2):
        for number in range(3):
            mine = group[picture] == number
            shares = weight[picture, mine] / weight[picture, mine].sum()
            wanted = (x[picture, mine].float() * shares[:, None]).sum(0).to(torch.bfloat16)
            torch.testing.assert_close(mean[picture, number], wanted)
            torch.testing.assert_close(total[picture, number], weight[picture, mine].sum())
    assert not mean[:, 3].any()  # of nobody
    assert not total[:, 3].any()


# Whole models


class ByHand:
    """One image through a model, groups as Python lists; a forward hook on every block."""

    def __init__(self, model, plan):
        (self.config,), self.family = plan.methods, family_of(model)
        self.prefix, self.depth = self.family.prefix_tokens(model), len(blocks_of(model))
        self.table = next(iter(plan.weights.values()), None)
        self.members = self.beside = None

    def block(self, layer):
        def hook(block, args, kwargs, output):
            x, n = args[0], args[0].shape[1]
            if not self.merges(layer) and self.members is None:
                return output
            if self.members is None:
                self.members, self.beside = [[i] for i in range(n)], torch.zeros_like(x)
            tokens = x[:, [members[0] for members in self.members]]
            if self.merges(layer):
                tokens = self.merged(tokens)
            rows = [members[0] for members in self.members]
            tables = {k: kwargs[k] for k in self.family.per_token if kwargs.get(k) is not None}
            sizes = torch.tensor([float(len(members)) for members in self.members])
            weight = sizes.log()[None, None, None] if isinstance(self.config, type(PEAKS)) else None
            tokens, *_ = attend(self.family, block, tokens, pick(tables, rows, self.prefix), weight)
            tokens, full = self.family.parts.mlp(block, tokens), x.clone()
            for place, members in enumerate(self.members):
                full[0, members] = tokens[0, place]
            if layer == self.depth - 1 and self.config.completion != "last":
                own = self.beside[:, self.prefix :]
                own = own if self.table is None else mapped_by_hand(own, self.table)
                full[:, self.prefix :] += own
            return full

        return hook

    def merges(self, layer):
        if isinstance(self.config, type(PEAKS)):
            return layer == self.config.after + 1
        return layer in self.config.layers

    def merged(self, tokens):
        prefix, patches = self.prefix, tokens[0, self.prefix :]
        if isinstance(self.config, type(PEAKS)):
            normal = layer_norm(patches, patches.shape[1:])
            count = kept_count(tokens.shape[1], self.config.keep, prefix) - prefix
            _, into = peaks_by_hand(normal, GRID, self.config.radius, self.config.nearest, count)
        else:
            into = pairs_by_hand(patches)
        into = [*range(prefix), *(place + prefix for place in into)]
        first, values = sorted(set(into)), []
        members = []
        for place in first:
            group = [i for i, j in enumerate(into) if j == place]
            group.sort(key=lambda i: i != place)  # the place of the merged token is its centre's
            mean = tokens[0, group].mean(0)
            values.append(mean)
            members.append([m for i in group for m in self.members[i]])
            for i in group:
                apart = tokens[0, i] - mean
                if self.config.completion == "map":
                    apart = layer_norm(tokens[0, i], mean.shape) - layer_norm(mean, mean.shape)
                self.beside[0, self.members[i]] += apart
        self.members = members
        return torch.stack(values)[None]


def by_hand(model, plan, images):
    results = []
    for image in images:
        state = ByHand(model, plan)
        handles = [
            block.register_forward_hook(state.block(n), with_kwargs=True)
            for n, block in enumerate(blocks_of(model))
        ]
        results.append(features(model, image[None]))
        for handle in handles:
            handle.remove()
    return torch.cat(results)


@pytest.mark.parametrize("method", MERGING)
@pytest.mark.parametrize(
    ("name", "completion"),
    [*((name, "map") for name in MODELS), ("augreg", "last"), ("hf_dinov3", "residual")],
)
def test_merged_tokens_equal_the_reference_by_hand(name, method, completion):
    model = make_model(name)
    images = make_images(model, grid=GRID)
    plan = plan_of(model, with_(MERGING[method], completion=completion))
    wanted, dense = by_hand(model, plan, images), features(model, images)
    got = features(sparsight.apply(model, plan), images)
    assert got.shape == dense.shape
    assert close(got, wanted)
    assert (got - dense).abs().max() > 1e-3 * dense.abs().max()


@pytest.mark.parametrize("name", ["siglip", "hf_dinov3"])
@pytest.mark.parametrize("settings", [{}, {"completion": "last"}, {"score": "map-error"}])
def test_who_bypasses_a_block_is_copied_or_completed(name, settings):
    model = make_model(name)
    family, images = family_of(model), make_images(model, grid=GRID)
    plan, prefix = plan_of(model, with_(BYPASS, **settings)), family.prefix_tokens(model)
    config = plan.one(sparsight.Bypass)
    dense = features(model, images)

    def hook_for(layer):
        tensors = tensors_of(plan, "bypass", layer)

        def hook(block, args, kwargs, output):
            x = args[0]
            normal = layer_norm(x, x.shape[2:])
            score = scored(config.score, normal, prefix, tensors)
            score[:, :prefix] = torch.inf
            kept = kept_count(x.shape[1], 0.4, prefix)
            table = tensors.get(f"map.{layer}")
            full = x + mapped_by_hand(normal, table) if table is not None else x.clone()
            for image, order in enumerate(score.argsort(1, descending=True)[:, :kept]):
                rows = order.sort().values.tolist()
                tables = {k: kwargs[k] for k in family.per_token if kwargs.get(k) is not None}
                tables = {
                    k: tuple(t[image : image + 1] if t.ndim == 4 else t for t in v)
                    if isinstance(v, tuple) else v[image : image + 1] if v.ndim == 4 else v
                    for k, v in tables.items()
                }  # fmt: skip
                part, *_ = attend(family, block, x[image : image + 1, rows], pick(tables, rows, prefix))
                full[image, rows] = family.parts.mlp(block, part)[0]
            return full

        return hook

    handles = [blocks_of(model)[n].register_forward_hook(hook_for(n), with_kwargs=True) for n in (1, 3)]
    wanted = features(model, images)
    for handle in handles:
        handle.remove()
    got = features(sparsight.apply(model, plan), images)
    assert close(got, wanted)
    assert (got - dense).abs().max() > 1e-3 * dense.abs().max()


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("name", ["dinov3", "hf_vit"])
def test_batches_restore_and_keys(name, method):
    model = make_model(name)
    images, keys, dense = make_images(model), list(model.state_dict()), None
    dense = features(model, images)
    sparsight.apply(model, plan_of(model, EVERY[method].completed()))
    together = features(model, images)
    assert close(together, torch.cat([features(model, image[None]) for image in images]))
    assert list(model.state_dict()) == keys
    assert torch.equal(features(sparsight.restore(model), images), dense)
    assert applied(model) is None


def test_pictures_of_a_batch_may_have_other_numbers_of_pairs():
    model = sparsight.apply(make_model("dinov2_reg"), PAIRS)
    images = make_images(model, batch=3)
    images[1] = images[1, :, :1, :1]  # all alike: few are most like each other
    counts = []
    blocks_of(model)[3].register_forward_hook(
        lambda block, args, out: counts.append(getattr(out, CARRY).rows.shape[1])
    )
    together = features(model, images)
    assert close(together, torch.cat([features(model, image[None]) for image in images]))
    assert len(set(counts[1:])) > 1
    assert counts[0] == max(counts[1:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", EVERY)
def test_half_precision(method, dtype):
    model = make_model("dinov2_reg").to(dtype)
    images = make_images(model).to(dtype)
    dense = features(model, images)
    got = features(sparsight.apply(model, plan_of(model, EVERY[method].completed())), images)
    assert got.dtype == dtype
    assert got.isfinite().all()
    assert not torch.equal(got, dense)


@pytest.mark.parametrize("config", [with_(PEAKS, keep=1.0), with_(BYPASS, keep=1.0)])
def test_keeping_everything_equals_dense(config):
    model = make_model("augreg")
    images = make_images(model)
    dense = features(model, images)
    assert torch.equal(features(sparsight.apply(model, plan_of(model, config)), images), dense)


@pytest.mark.parametrize("method", EVERY)
def test_maps_lower_the_error_on_pictures_they_have_not_seen_and_are_saved(method, tmp_path):
    model = make_model("augreg")
    config = EVERY[method].completed()
    plan = complete(bench_of(model, pictures_of(model, 4)), as_plan(config))
    wanted = {"bypass": {"bypass.1.map.1", "bypass.3.map.3"}}
    assert set(plan.weights) == wanted.get(method, {f"{method}.3.map"})
    plain = as_plan(with_(plan.methods[0], completion="last"))
    errors = [moved(model, p, pictures_of(model, 2, seed=9)) for p in (plain, plan)]
    assert errors[1] < 0.8 * errors[0]
    sparsight.save(plan, tmp_path / "run")
    images = make_images(model)
    wanted = features(sparsight.apply(copy.deepcopy(model), plan), images)
    assert torch.equal(features(sparsight.apply(model, tmp_path / "run"), images), wanted)


@pytest.mark.parametrize("method", MERGING)
def test_gradients_flow(method):
    model = sparsight.apply(make_model("augreg"), MERGING[method])
    run_features(model, make_images(model)).square().mean().backward()
    assert model.patch_embed.proj.weight.grad.abs().sum() > 0


REFUSED = {
    "windows": (make_timm_sam2, PEAKS, "merging by density peaks needs global attention in every"),
    "windows, pairs": (make_timm_sam2, PAIRS, "merging mutual pairs needs global attention in every"),
    "windows, bypass": (make_timm_sam2, BYPASS, "a bypass needs global attention in every"),
    "no grid": (lambda: make_model("hf_siglip2"), PEAKS, "no convolution that cuts pictures"),
    "nothing left": (
        lambda: make_model("augreg"), with_(PEAKS, after=3), "after layer 3 nothing is left to skip"
    ),
    "no such layer": (
        lambda: make_model("augreg"), with_(PAIRS, layers=(2, 9)), "has layers 0 to 3"
    ),
    "no class token": (
        lambda: make_model("siglip"), with_(BYPASS, score="class-attention"), "this model has none"
    ),
    "no map": (lambda: make_model("augreg"), BYPASS, "run sparsight.optimize"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_the_reason(case):
    make, config, says = REFUSED[case]
    model = make()
    with pytest.raises(sparsight.PlanError, match=says) as caught:
        sparsight.apply(model, config)
    assert applied(model) is None
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sparsight.DensityPeaks(radius=0), lambda: sparsight.DensityPeaks(keep=0),
        lambda: sparsight.MutualPairs(layers=()), lambda: sparsight.MutualPairs(layers=(2, 1)),
        lambda: sparsight.Bypass(layers=(1, 2), keep=(0.5,)),
        lambda: sparsight.Bypass(score="map-error", completion="last"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(make):
    with pytest.raises(sparsight.ArgumentError):
        make()

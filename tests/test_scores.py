"""Scores of the related methods: each against its definition, and what methods let them see."""

import itertools
import math

import pytest
import torch
from conftest import blocks_of, make_images, make_model, plan_of
from site_models import make_site
from test_apply import features
from torch.utils._python_dispatch import TorchDispatchMode

import sparsight
from sparsight.attach import applied
from sparsight.families import family_of
from sparsight.families.calls import Caught, sdpa_settings, with_settings
from sparsight.methods import METHODS
from sparsight.methods.reduced import CARRY
from sparsight.ops.partition import kept_count, with_stride
from sparsight.ops.statistics import lattice_sample
from sparsight.scores import SCORES, Score
from sparsight.scores.view import View
from sparsight.stages.observe import outputs_of, stages_left

ATTENTION = ("contribution", "contribution-bound", "as-vit", "class-attention", "vtc-cls")
TOKENS = ("diversity", "diversity-rounds", "transport")


def made(n=331, prefix=1, batch=2, heads=3, d=8, c=20, dtype=torch.float32, count=None, seed=0):
    """A View of random tokens; more of them than any chunk, and odd numbers throughout."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    q, k, v = 2 * draw(batch, heads, n, d), draw(batch, heads, n, d), draw(batch, heads, n, d)
    tokens, before, weight = draw(batch, n, c), draw(batch, n, c), draw(c, heads * d) / 5
    out = draw(batch, n, heads, d)
    notes = tuple(draw(batch, n - prefix, 1).abs() / n for _ in range(2))
    normal = torch.nn.functional.layer_norm(tokens, (c,))
    return View(
        tokens, normal, prefix, lambda: (q, k), 4, notes=notes, count=count or n // 3,
        values=lambda: v, projection=lambda: weight, heads=lambda: out, before=lambda: before,
    )  # fmt: skip


def defined(name, view):
    """A score (b, n) from its definition, with all pairs in memory, in float64."""
    tokens, prefix = view.tokens.double(), view.prefix
    if name == "transport":
        return torch.stack([transported(*pair, prefix) for pair in zip(*sides(view), strict=True)])
    q, k = (x.double() for x in view.attention())
    a = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(3)  # (b, heads, n, n)
    if name in ("diversity", "diversity-rounds"):
        pivots = a[:, :, 0].mean(1) if prefix else spread_out(view.normal.double())
        steps = 1 if name == "diversity" else math.ceil((view.count - prefix) / 16)
        found = [picked(x, p, prefix, view.count, steps) for x, p in zip(tokens, pivots, strict=True)]
        return torch.stack(found)
    if name == "class-attention":
        return a[:, :, 0].mean(1)
    if name == "vtc-cls":
        own, (first, second) = a[:, :, 0].mean(1), view.notes
        own[:, prefix:] = (own[:, prefix:] + first[..., 0] + second[..., 0]) / 3
        return own
    if name == "as-vit":
        size = view.heads().double().norm(dim=3)  # (b, n, heads)
        return (size / size.sum(2, keepdim=True) * a[:, :, 0].transpose(1, 2)).sum(2)
    v, weight = view.values().double(), view.projection().double()
    d, rows = v.shape[3], lattice_sample(q.shape[2], prefix, view.sample_every)
    by_head = [v[:, h] @ weight[:, h * d : (h + 1) * d].T for h in range(v.shape[1])]  # (b, n, c)
    if name == "contribution-bound":
        return sum(a[:, h, rows].mean(1) * by_head[h].norm(dim=2) for h in range(v.shape[1]))
    moved = sum(a[:, h, rows, :, None] * by_head[h][:, None] for h in range(v.shape[1]))
    return moved.norm(dim=3).mean(1)


def spread_out(normal):
    return (normal - normal.mean(1, keepdim=True)).square().sum(2)


def picked(x, pivot, prefix, count, at_once):
    """ToDRE's greedy selection of one picture, in Python: how early each token is taken."""
    unit = torch.nn.functional.normalize(x[prefix:], dim=1)
    cosine, wanted = unit @ unit.T, count - prefix
    chosen = [int(pivot[prefix:].argmax())]
    while len(chosen) < wanted:
        left = [n for n in range(len(unit)) if n not in chosen]
        left.sort(key=lambda n: cosine[n, chosen].sum().item())
        chosen += left[: min(at_once, wanted - len(chosen))]
    found = x.new_zeros(len(x))
    found[[n + prefix for n in chosen]] = torch.arange(wanted, 0, -1, dtype=x.dtype)
    return found


def sides(view):
    normal = torch.nn.functional.layer_norm(view.before(), view.before().shape[2:])
    return normal.double(), view.normal.double()


def transported(source, target, prefix):
    """Sinkhorn's plan of one picture, as a matrix; its row sums times n."""
    distance = torch.cdist(source[prefix:], target[prefix:]).square()
    kernel, n = torch.exp(-distance / distance.mean() / 0.1), len(distance)
    v = torch.ones(n, dtype=kernel.dtype)
    for _ in range(3):
        u = 1 / n / (kernel @ v)
        v = 1 / n / (kernel.T @ u)
    plan = u[:, None] * kernel * v
    assert torch.allclose(plan.sum(0), torch.full_like(v, 1 / n))  # it ends on the targets' marginal
    return torch.cat([plan.new_zeros(prefix), plan.sum(1) * n])


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("name", [*ATTENTION, *TOKENS])
def test_a_score_equals_its_definition(name, prefix):
    if prefix == 0 and "class token" in SCORES[name].needs:
        pytest.skip("needs a class token")
    view = made(prefix=prefix)
    got, wanted = SCORES[name](view), defined(name, view)
    assert (got.shape, got.dtype) == (wanted.shape, torch.float32)
    if name.startswith("diversity"):
        # Sums of a hundred cosines in float32: picks agree but for ties to the last digits, of which
        # these tokens have none.
        assert torch.equal(got.double(), wanted)
        return
    # float32 against float64.  The exact contribution is the root of a difference of squares, which
    # halves the digits where heads cancel; transport divides sums of exp(-10 x).
    tolerance = 1e-4 if name in ("contribution", "transport") else 1e-5
    assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("name", [*ATTENTION, "transport"])
def test_half_precision_ranks_nearly_alike(name):
    view = made(dtype=torch.bfloat16)
    got, wanted = SCORES[name](view), defined(name, view)
    assert got.dtype == torch.float32
    share = [set(g.topk(80).indices.tolist()) & set(w.topk(80).indices.tolist())
             for g, w in zip(got, wanted, strict=True)]  # fmt: skip
    # Queries times keys have 8 bits: of the best 80 those at the border may change.
    assert min(map(len, share)) >= 70


def test_heads_that_cancel_show_in_the_exact_contribution_alone():
    view = made(heads=2)
    exact, bound = SCORES["contribution"](view), SCORES["contribution-bound"](view)
    assert (exact <= bound * (1 + 1e-5)).all()  # the triangle inequality
    q, k = view.attention()
    q, k, v = (torch.cat([x[:, :1], x[:, :1]], 1) for x in (q, k, view.values()))
    weight = view.projection()[:, :8]
    opposed = View(
        view.tokens, view.normal, 1, lambda: (q, k), 4,
        values=lambda: v, projection=lambda: torch.cat([weight, -weight], 1),
    )  # fmt: skip
    bound = SCORES["contribution-bound"](opposed)
    assert SCORES["contribution"](opposed).max() < 1e-2 * bound.max()  # a root of rounding errors


class Largest(TorchDispatchMode):
    """The most numbers that any result has."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor):
            self.count = max(self.count, found.numel())
        return found


@pytest.mark.parametrize("name", [*ATTENTION, *TOKENS])
def test_no_score_has_all_pairs_in_memory(name):
    counts = {}
    for n in (1024, 2048):
        view = made(n=n, batch=1, count=100)
        with Largest() as largest:
            SCORES[name](view)
        counts[n] = largest.count
    assert counts[1024] < 1024**2
    assert counts[2048] <= 2.1 * counts[1024]  # it grows with n, not with its square


def test_greedy_picks_are_the_same_however_many_are_wanted():
    few, many = (SCORES["diversity"](made(count=n)) for n in (20, 90))
    first = [row.topk(19).indices.tolist() for row in few]
    assert first == [row.topk(19).indices.tolist() for row in many]


@pytest.mark.parametrize("shape", [(64, 20, 0), (63, 20, 1), (331, 101, 5), (50, 14, 1), (40, 40, 3)])
def test_one_in_so_many_of_the_others_comes_back(shape):
    n, count, prefix = shape
    score = torch.rand(2, n, generator=torch.Generator().manual_seed(1))
    found = with_stride(score, count, prefix, 4)
    assert found.shape == (2, count)
    for row, values in zip(found.tolist(), score, strict=True):
        assert len(set(row)) == count
        assert set(range(prefix)) <= set(row)
        order = [i for i in values.argsort(descending=True).tolist() if i >= prefix]
        # The fewest of the best, so that with every fourth of the others there are enough.
        best = next(t for t in range(n) if t + (n - prefix - t) // 4 >= count - prefix)
        others = sorted(set(range(prefix, n)) - set(order[:best]))
        assert set(row) == {*range(prefix), *order[:best], *others[3::4]}
    assert torch.equal(with_stride(score, count, prefix, None), with_stride(score, count, prefix, n))


# What a method lets a score see


class Spy(Score):
    """A score that keeps what it was shown."""

    def __call__(self, view):
        SEEN.append(view)
        return super().__call__(view)


SEEN = []


@pytest.fixture
def spied(monkeypatch):
    for name, score in SCORES.items():
        spy = Spy(score.name, score.function, score.needs, score.tensors, score.untrained)
        monkeypatch.setitem(SCORES, name, spy)
    SEEN.clear()
    yield SEEN
    SEEN.clear()


def settings_of(method, score, **more):
    """A method that ranks by `score`, small and at any size."""
    kinds = {
        "sve": {"layers": (1, 2), "keep": 1 / 4},
        "early-exit": {"after": (0, 1), "keep": (0.7, 0.5)},
        "cls-topk": {"stages": (1, 2), "keep": 0.7},
    }
    given = kinds[method] | {"sample_every": 4} | more
    return METHODS[method].config(score=score, min_tokens=0, **given)


def reads_heads(attention, args, kwargs, weight):
    """The largest error of `weight` as what an attention module makes of its heads' results."""
    given = []

    class Other:
        def attend(self, q, k, v, *more, **named):
            given.append(torch.randn(*q.shape[:-1], v.shape[-1]))
            return given[-1]

    results = []
    for _ in range(2):
        with (
            torch.no_grad(),
            with_settings(attention, sdpa_settings(attention)),
            Caught(Other(), attention),
        ):
            found = attention(*args, **kwargs)
            results.append(found[0] if isinstance(found, tuple) else found)
    moved = (given[1] - given[0]).transpose(1, 2).flatten(2)
    error = (results[1] - results[0]).reshape(-1, len(weight)) - (moved @ weight.T).view(-1, len(weight))
    return (error.abs().max() / results[0].abs().max()).item()


def calls_of(model, layers, images):
    """What the attention modules of `layers` are called with."""
    family, calls = family_of(model), {}
    handles = [
        family.parts.attention(family.blocks(model)[n]).register_forward_pre_hook(
            lambda m, args, kwargs, n=n: calls.update({n: (m, args, kwargs)}), with_kwargs=True
        )
        for n in layers
    ]
    features(model, images)
    for handle in handles:
        handle.remove()
    return calls


def shown(model, config, images):
    """What a score is shown in each layer that ranks, with the layer before and after which it is."""
    sparsight.apply(model, plan_of(model, config))
    SEEN.clear()
    features(model, images)
    views = list(SEEN)
    sparsight.restore(model)
    return views


FAMILIES = ("augreg", "siglip", "eva02", "dinov3", "hf_dinov2_reg", "hf_clip", "hf_dinov3")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_output_projection_is_told_in_every_family(name, spied):
    model = make_model(name)
    images, family = make_images(model), family_of(model)
    for layer, (attention, args, kwargs) in calls_of(model, (1, 2), images).items():
        weight = attention.get_parameter(family.projection(model, layer))
        assert reads_heads(attention, args, kwargs, weight) < 1e-5
    for method in ("sve", "early-exit", "cls-topk"):
        views = shown(model, settings_of(method, "contribution"), images)
        assert len(views) == 2
        for layer, view in enumerate(views, 1):
            attention = family.parts.attention(blocks_of(model)[layer])
            name = family.projection(model, layer)
            assert view.projection() is attention.get_parameter(name)
            assert view.values().shape == view.attention()[1].shape


def test_the_first_layer_that_ranks_sees_the_host_s_values_and_results(spied):
    """Up to there everything is dense, so the family's parts tell what they are."""
    model = make_model("dinov3")
    images, family = make_images(model), family_of(model)
    (attention, args, kwargs) = calls_of(model, (1,), images)[1]
    with torch.no_grad():
        q, k, v = family.parts.qkv(attention, args[0], kwargs["rope"])
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    for method in ("sve", "early-exit", "cls-topk"):
        view = shown(model, settings_of(method, "contribution"), images)[0]
        for got, wanted in zip((*view.attention(), view.values()), (q, k, v), strict=True):
            torch.testing.assert_close(got, wanted)
    view = shown(model, settings_of("cls-topk", "as-vit"), images)[0]
    torch.testing.assert_close(view.heads(), out)
    after = family.parts.residual(
        blocks_of(model)[1], view.before(), family.parts.merge(attention, out, args[0])
    )
    torch.testing.assert_close(view.tokens, after)
    n = view.tokens.shape[1]
    assert view.count == kept_count(n, 0.7, 5)


SITES = ("aimv2", "blip2", "gemma4", "internvl", "qwen2_5_vl", "sam3", "parallel", "differential")


@pytest.mark.parametrize("name", SITES)
def test_a_site_s_projection_reads_its_heads_or_the_score_is_refused(name):
    model, config = make_site(name), sparsight.SVE(layers="all", score="contribution", min_tokens=0)
    family = family_of(model)
    layers = family.global_layers(model)
    if name == "differential":  # two attentions, subtracted and normalised
        with pytest.raises(sparsight.PlanError, match="has no single weight that reads what its heads"):
            sparsight.apply(model, config)
        assert applied(model) is None
        return
    side = 96 if name == "gemma4" else 64  # it pools three by three patches of 8
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    for layer, (attention, args, kwargs) in calls_of(model, layers, images).items():
        weight = attention.get_parameter(family.projection(model, layer))
        assert reads_heads(attention, args, kwargs, weight) < 1e-5
    dense = features(model, images)
    moved = features(sparsight.apply(model, config), images) - dense
    assert moved.abs().max() > 1e-4 * dense.abs().max()


def test_what_stands_between_the_heads_and_the_projection_is_refused_by_name():
    model = make_model("gated")
    for method in ("sve", "early-exit", "cls-topk"):
        config = settings_of(method, "contribution-bound")
        with pytest.raises(sparsight.PlanError, match=r"layer \d has no single weight .* \(a norm"):
            sparsight.apply(model, plan_of(model, config))
    adapted = make_model("dinov2")
    proj = adapted.blocks[2].attn.proj

    class LoRA(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.nn.functional.linear(x, self.weight) / 10

    proj.__class__ = LoRA
    with pytest.raises(sparsight.PlanError, match="layer 2 has no single weight"):
        sparsight.apply(adapted, sparsight.SVE(layers=(1, 2), score="contribution"))
    sparsight.apply(adapted, sparsight.SVE(layers=(1,), score="contribution"))


def test_a_look_at_a_picture_shows_how_contribution_ranks():
    from sparsight.stages.look import look

    dense, sparse = make_model("dinov3"), make_model("dinov3")
    images = make_images(dense, batch=1)
    sparsight.apply(sparse, plan_of(sparse, settings_of("sve", "contribution")))
    (found,) = look(dense, sparse, list(images), [0], [1])
    kept = kept_count(9 * 7 + 5, 1 / 4, 5) - 5
    assert int((found.maps["layer 1 kept"] > 0).sum()) == kept
    assert found.maps["layer 1 predicted"].flatten().topk(kept).values.min() > 0


class Packed(torch.Tensor):
    """A weight that linear layers can use, and nothing else: as of a quantised model."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.linear:
            plain = [a.as_subclass(torch.Tensor) if isinstance(a, Packed) else a for a in args]
            return func(*plain, **(kwargs or {}))
        if func in (torch.Tensor.float, torch.Tensor.to, torch.Tensor.matmul):
            raise TypeError(f"{func} of a packed weight")
        return super().__torch_function__(func, types, args, kwargs)


def test_a_packed_projection_is_read_as_a_linear_layer_does():
    model = make_model("dinov2")
    images, config = make_images(model), settings_of("sve", "contribution")
    wanted = features(sparsight.apply(model, config), images)
    sparsight.restore(model)
    for block in model.blocks:
        weight = block.attn.proj.weight
        block.attn.proj.weight = torch.nn.Parameter(weight.detach().as_subclass(Packed))
    found = features(sparsight.apply(model, config), images)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


# What goes on

ALL = [
    (method, name)
    for method in ("sve", "early-exit", "cls-topk")
    for name, score in SCORES.items()
    if score.needs <= METHODS[method].provides and not score.tensors(1)
]


@pytest.mark.parametrize(("method", "name"), ALL)
def test_the_best_by_every_score_go_on_and_a_batch_is_its_pictures(method, name, spied):
    host = "siglip" if name == "diversity" else "hf_dinov3"  # where it finds its pivot otherwise
    model = make_model(host)
    images, prefix = make_images(model), family_of(model).prefix_tokens(model)
    config = settings_of(method, name)
    dense = features(model, images)
    sparsight.apply(model, plan_of(model, config))
    SEEN.clear()
    together = features(model, images)
    view = SEEN[0]
    with torch.no_grad():
        score = SCORES[name](view)
    n = view.tokens.shape[1] if method != "sve" else view.attention()[0].shape[2]
    assert score.shape == (2, n)
    alone = torch.cat([features(model, images[:1]), features(model, images[1:])])
    # Matrix products of other shapes round differently; a different kept set would show as 1e-3.
    assert (together - alone).abs().max() <= 1e-5 * alone.abs().max()
    assert (together - dense).abs().max() > 1e-3 * dense.abs().max()
    if method == "sve":
        return
    with outputs_of(model, (1,)) as outputs:
        features(model, images)
    count = kept_count(n, 0.7, prefix)
    for kept, values in zip(getattr(outputs[1], CARRY).rows.tolist(), score, strict=True):
        values[:prefix] = torch.inf
        assert set(kept) == set(values.topk(count).indices.tolist())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision_rank_by_every_score(dtype):
    images = make_images(make_model("dinov2"))
    for method, name in ALL:
        model = make_model("dinov2").to(dtype)
        sparsight.apply(model, plan_of(model, settings_of(method, name)))
        found = features(model, images.to(dtype))
        assert found.dtype == dtype
        assert found.isfinite().all()


@pytest.mark.parametrize("name", [*ATTENTION, *TOKENS])
def test_mixed_precision_does_not_blur_a_score(name):
    view = made()
    wanted = SCORES[name](view)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = SCORES[name](view)
    if name in TOKENS:  # of sums in which few digits tell tokens apart
        assert torch.equal(got, wanted)
    assert (got - wanted).abs().max() <= 0.02 * wanted.abs().max()  # products with 8 bits


@pytest.mark.parametrize("method", ["early-exit", "cls-topk"])
def test_recovered_tokens_go_on_among_those_that_are_kept(method):
    model = make_model("dinov2")
    images = make_images(model)
    plain, recovered = (settings_of(method, "magnitude", recover=every) for every in (None, 4))
    found = []
    for config in (plain, recovered):
        sparsight.apply(model, plan_of(model, config))
        found.append(stages_left(model, images) != 1)
        sparsight.restore(model)
    assert found[0].sum(1).tolist() == found[1].sum(1).tolist()
    assert not torch.equal(*found)
    for settings, reason in (
        ({"recover": 2, "keep": 0.4}, "recover=2 alone keeps 1/2 of the tokens there, and 0.4 of them"),
        ({"recover": 1}, "greater than or equal to 2"),
    ):
        with pytest.raises(sparsight.ArgumentError, match=reason):
            METHODS[method].config(**settings)
    with pytest.raises(sparsight.ArgumentError, match="and not with a bound"):
        sparsight.EarlyExit(score="map-error", bound="calibrated", recover=4)


# What is refused

NOT_FOR = [
    (method, name)
    for method, name in itertools.product(("sve", "early-exit", "cls-topk", "mlp-routing"), SCORES)
    if not SCORES[name].needs <= METHODS[method].provides
]


def test_a_score_that_a_method_cannot_feed_is_refused_in_one_sentence():
    model = make_model("dinov2")
    modules = [type(part) for part in model.modules()]
    assert len(NOT_FOR) > len(SCORES)
    for method, name in NOT_FOR:
        config = METHODS[method].config(score=name, **({"layers": (1,)} if method == "sve" else {}))
        said = f"{method} cannot rank by '{name}', which needs"
        with pytest.raises(sparsight.PlanError, match=said) as refused:
            sparsight.apply(model, config)
        assert len(str(refused.value)) <= 300
        assert [type(part) for part in model.modules()] == modules
    model = make_model("siglip")
    for method, name in ALL:
        if "class token" in SCORES[name].needs:
            with pytest.raises(sparsight.PlanError, match="this model has none"):
                sparsight.apply(model, plan_of(model, settings_of(method, name)))


def test_a_score_of_one_s_own_is_used_by_its_name(monkeypatch):
    def first(view):
        places = torch.arange(view.tokens.shape[1], 0, -1, dtype=torch.float32)
        return places.expand(len(view.tokens), -1)

    monkeypatch.setitem(SCORES, "first", Score("first", first, frozenset({"tokens"})))
    model = make_model("augreg")
    images = make_images(model)
    sparsight.apply(model, plan_of(model, settings_of("cls-topk", "first")))
    stays = stages_left(model, images) != 1
    count = int(stays[0].sum())
    assert count < stays.shape[1]
    assert stays[:, :count].all()
    with pytest.raises(sparsight.ArgumentError, match="no score is called 'last'; there are exact, "):
        sparsight.SVE(score="last")

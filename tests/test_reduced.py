"""Methods that go on with fewer tokens, ToMe and pruning by class attention, against references."""

import pytest
import torch
from conftest import MODELS, blocks_of, make_images, make_model, run_features
from torch.nn.functional import scaled_dot_product_attention as sdpa

import sparsight
from sparsight.attach import applied
from sparsight.families import family_of
from sparsight.methods.reduced import CARRY
from sparsight.ops.partition import kept_count

TOME = sparsight.ToMe(merge=1 / 10, min_tokens=0)
TOPK = sparsight.ClsTopK(stages=(1, 2), keep=0.6, min_tokens=0)
METHODS = {"tome": TOME, "cls-topk": TOPK}
WITH_CLS = [name for name in MODELS if name != "siglip"]
CASES = [(m, method) for method in METHODS for m in (MODELS if method == "tome" else WITH_CLS)]


def features(model, images):
    with torch.no_grad():
        return run_features(model, images)


def attend(family, block, x, tables, weight=None):
    """Tokens after a block's attention, and its queries and keys; `weight` is added to the scores."""
    parts, attn = family.parts, family.parts.attention(block)
    h = parts.norm(block, x)
    q, k, v = parts.qkv(attn, h, **tables)
    out = sdpa(q, k, v, attn_mask=weight).transpose(1, 2)
    return parts.residual(block, x, parts.merge(attn, out, h)), q, k


def pick(tables, rows, prefix):
    """Tables of the tokens `rows` of one image."""
    patches = [r - prefix for r in rows[prefix:]]
    return {
        name: tuple(t[..., patches, :] for t in table)
        if isinstance(table, tuple)
        else table[..., patches, :]
        for name, table in tables.items()
    }


class ByHand:
    """One image through a model, token by token in Python lists; a forward hook on every block."""

    def __init__(self, model, config):
        self.family, self.config = family_of(model), config
        self.prefix = self.family.prefix_tokens(model)
        self.members = None  # of every token that goes on, the original tokens it is made of

    def block(self, layer):
        def hook(block, args, kwargs, output):
            x, n, p = args[0], args[0].shape[1], self.prefix
            if self.members is None:
                self.members = [[i] for i in range(n)]
            rows = [members[0] for members in self.members]
            tables = {k: kwargs[k] for k in self.family.per_token if kwargs.get(k) is not None}
            step = self.merging if isinstance(self.config, sparsight.ToMe) else self.pruning
            if not (stepped := step(layer, block, x, rows, pick(tables, rows, p))):
                return output
            full, tokens = stepped
            tokens = self.family.parts.mlp(block, tokens)
            for place, members in enumerate(self.members):
                full[0, members] = tokens[0, place]
            return full

        return hook

    def merging(self, layer, block, x, rows, tables):
        sizes = torch.tensor([float(len(members)) for members in self.members])
        tokens, _, k = attend(self.family, block, x[:, rows], tables, sizes.log()[None, None, None])
        keys = torch.nn.functional.normalize(k.mean(1)[0], dim=1)
        patches = list(range(self.prefix, len(rows)))
        a, b = patches[::2], patches[1::2]
        r = min(round(self.config.merge * (x.shape[1] - self.prefix)), len(patches) // 2)
        joints = [(max((float(keys[i] @ keys[j]), -j) for j in b), i) for i in a]
        joints.sort(key=lambda joint: -joint[0][0])
        gone = {i: -best[1] for best, i in joints[:r]}
        kept = [*range(self.prefix), *(i for i in a if i not in gone), *b]
        values, members = [], []
        for i in kept:
            group = [i, *(j for j, into in gone.items() if into == i)]
            weights = sizes[group] / sizes[group].sum()
            values.append((tokens[0, group] * weights[:, None]).sum(0))
            members.append([m for j in group for m in self.members[j]])
        self.members = members
        return x.clone(), torch.stack(values)[None]

    def pruning(self, layer, block, x, rows, tables):
        begun = sum(stage <= layer for stage in self.config.stages)
        if not begun:
            return None
        tokens, q, k = attend(self.family, block, x[:, rows], tables)
        full = x.clone()
        full[:, rows] = tokens
        if layer in self.config.stages:
            count = kept_count(x.shape[1], self.config.keep**begun, self.prefix)
            score = (q[:, :, :1] @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1).mean((0, 1, 2))
            score[: self.prefix] = torch.inf
            kept = sorted(range(len(rows)), key=lambda i: -score[i].item())[:count]
            self.members = [self.members[i] for i in kept]
            tokens = tokens[:, kept]
        return full, tokens


def by_hand(model, config, images):
    """The features of each image from the reference."""
    results = []
    for image in images:
        state = ByHand(model, config)
        blocks = state.family.blocks(model)
        handles = [
            block.register_forward_hook(state.block(n), with_kwargs=True)
            for n, block in enumerate(blocks)
        ]
        results.append(features(model, image[None]))
        for handle in handles:
            handle.remove()
    return torch.cat(results)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_equals_the_reference_by_hand(name, method):
    model = make_model(name)
    images = make_images(model)
    wanted, dense = by_hand(model, METHODS[method], images), features(model, images)
    got = features(sparsight.apply(model, METHODS[method]), images)
    # Four blocks of float32; sparse and dense differ a thousand times more, so a wrong set shows.
    scale = wanted.abs().max()
    assert (got - wanted).abs().max() <= 2e-5 * scale
    assert (got - dense).abs().max() > 1e-3 * scale
    assert got.shape == dense.shape


@pytest.mark.parametrize("method", METHODS)
def test_counts_prefix_and_restore(method):
    model = make_model("dinov2_reg")
    images, keys = make_images(model), list(model.state_dict())
    dense = features(model, images)
    n = dense.shape[1]
    sparsight.apply(model, METHODS[method])
    counts = []
    for block in blocks_of(model):
        block.register_forward_hook(
            lambda block, args, out: (
                counts.append(getattr(out, CARRY).rows) if hasattr(out, CARRY) else None
            )
        )
    features(model, images)
    if method == "tome":
        r = round(TOME.merge * (n - 5))
        assert [len(rows[0]) for rows in counts] == [n - r, n - 2 * r, n - 3 * r, n - 4 * r]
    else:
        wanted = [kept_count(n, 0.6**k, 5) for k in (1, 2, 2)]
        assert [len(rows[0]) for rows in counts] == wanted
    for rows in counts:
        assert rows[:, :5].tolist() == [[0, 1, 2, 3, 4]] * 2  # class token and registers go on
        assert all(len(set(row)) == len(row) for row in rows.tolist())
    assert list(model.state_dict()) == keys
    for block in blocks_of(model):
        block._forward_hooks.clear()
    assert torch.equal(features(sparsight.restore(model), images), dense)
    assert applied(model) is None


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_two_equals_two_batches_of_one(method):
    model = sparsight.apply(make_model("dinov3"), METHODS[method])
    images = make_images(model)
    together = features(model, images)
    alone = torch.cat([features(model, images[:1]), features(model, images[1:])])
    assert (together - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_keeping_everything_equals_dense():
    model = make_model("dinov2")
    images = make_images(model)
    dense = features(model, images)
    assert torch.equal(
        features(sparsight.apply(model, TOPK.model_copy(update={"keep": 1.0})), images), dense
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_dropped_token_keeps_its_last_value_and_a_merged_one_its_group_s(method):
    model = sparsight.apply(make_model("augreg"), METHODS[method])
    seen = []
    for block in blocks_of(model):
        block.register_forward_hook(lambda block, args, out: seen.append(out))
    features(model, make_images(model, batch=1))
    last, before = seen[-1][0], seen[-2][0]
    state = getattr(seen[-1], CARRY)
    if method == "tome":
        assert len(last.unique(dim=0)) == state.rows.shape[1]
    else:
        gone = sorted(set(range(len(last))) - set(state.rows[0].tolist()))
        assert gone
        assert torch.equal(last[gone], before[gone])


def test_what_does_not_fit_is_refused_with_the_reason():
    from conftest import make_timm_sam2

    with pytest.raises(sparsight.PlanError, match="global attention in every layer"):
        sparsight.apply(make_timm_sam2(), TOME)
    with pytest.raises(sparsight.PlanError, match="this model has none"):
        sparsight.apply(make_model("siglip"), TOPK)
    with pytest.raises(sparsight.PlanError, match="layer 9, but this model has layers 0 to 3"):
        sparsight.apply(make_model("augreg"), sparsight.ClsTopK(stages=(9,)))
    for stages, words in ((), "stages is empty"), ((2, 1), "stages must rise"):
        with pytest.raises(sparsight.ArgumentError, match=words):
            sparsight.ClsTopK(stages=stages)

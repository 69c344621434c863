"""Models that no family describes: sparse where they attend, found by a dry run."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from conftest import make_model, plan_of, run_features
from site_models import SITES, VIT, make_site
from torch.overrides import TorchFunctionMode

import sparsight
from sparsight.attach import applied, dense_calls, family_in
from sparsight.errors import PlanError, SparsightError, UnsupportedModelError
from sparsight.families import family_of
from sparsight.families import found as finding
from sparsight.families.by_hand import calling
from sparsight.families.decomposed import Decomposed
from sparsight.families.inputs import inputs_of
from sparsight.ops.partition import kept_count
from sparsight.ops.segments import Segment, segments_of
from sparsight.stages.fallback import fallback_notes
from sparsight.stages.pictures import noise

TOLERANCE = 1e-5  # relative, float32: the same sums, grouped otherwise
EXACT = sparsight.SVE(layers="all", keep=1 / 8, score="exact", min_tokens=0)


# Of towers that have them in one of their two layers, in tokens
BIASED = ("sam", "sam_hq", "samvit", "deepseek_ocr2", "vitdet")  # by rows and columns
WINDOWS = {"qwen2_5_vl": 64, "sam3": 16} | dict.fromkeys(BIASED, 16)


class Reference(TorchFunctionMode):
    """Every call on more than `above` tokens by Eq. 3-9 as they stand, with a map of N x N.

    A mask is a bias, unless `pieces` tell what it keeps apart.

    `pieces` are the pictures (row, start, stop) that a mask keeps apart.
    """

    def __init__(self, prefix, above=0, pieces=None):
        super().__init__()
        self.prefix, self.above, self.pieces = prefix, above, pieces

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return self.attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def attend(self, q, k, v, attn_mask=None, *_, scale=None, **__):
        if q.ndim == 3:  # heads and a batch of one, together
            one, more = (x[None] for x in (q, k, v)), None if attn_mask is None else attn_mask[None]
            return self.attend(*one, more, scale=scale)[0]
        if (len(q) != 1 and self.pieces is None) or q.shape[2] <= self.above or k.shape[2] != q.shape[2]:
            return F.scaled_dot_product_attention(q, k, v, attn_mask, scale=scale)
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        out = torch.zeros(*q.shape[:3], v.shape[3])
        for row, start, stop in self.pieces or [(slice(None), 0, q.shape[2])]:
            one = (x[row, :, start:stop] for x in (q, k, v))
            bias = 0 if self.pieces or attn_mask is None else attn_mask
            out[row, :, start:stop] = self.masked(*one, scale, bias)
        return out

    def masked(self, q, k, v, scale, bias):
        n = q.shape[2]
        scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale) + bias
        average = scores.softmax(-1).mean((1, 2))
        average[:, : self.prefix] = torch.inf
        kept = average.topk(kept_count(n, 1 / 8, self.prefix), 1).indices
        top = torch.zeros(len(q), n, dtype=torch.bool).scatter_(1, kept, True)
        seen = top[:, None, :, None] | top[:, None, None, :]
        return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v


def close(got, wanted):
    assert (got - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


def picture(model, side=8, seed=1):
    torch.manual_seed(seed)
    height, width = family_in(model).patch_px(model)
    return noise(model, (side * height, side * width))


@pytest.mark.parametrize("name", SITES)
@torch.no_grad()
def test_every_layout_equals_the_masked_reference_and_is_restored(name):
    model = make_site(name)
    family, images = family_of(model), picture(model)
    keys, dense = list(model.state_dict()), run_features(model, images)
    layers = family.global_layers(model)
    assert family.name == "sites"
    sides = [(site.heads, site.dim) for site in family.found.sites]
    assert [(family.heads(b), family.dim(b)) for b in family.blocks(model)] == sides
    windows = WINDOWS.get(name, 0)  # tokens
    assert len(layers) == (1 if windows else 2)  # the other one has windows
    sparsight.apply(model, EXACT.model_copy(update={"keep": 1.0}))
    assert torch.equal(run_features(model, images), dense)
    sparsight.restore(model)
    sparsight.apply(model, EXACT)
    sparse = run_features(model, images)
    sparsight.restore(model)
    assert list(model.state_dict()) == keys
    assert torch.equal(run_features(model, images), dense)
    with calling(model), Reference(family.prefix_tokens(model), windows):
        wanted = run_features(model, images)
    close(sparse, wanted)
    assert (sparse - dense).abs().max() > 1e-4 * dense.abs().max()


# Packed and padded pictures

SIDES = ((8, 6), (4, 10), (12, 8))  # patches


def final(model, one):
    """What the tower returns of one picture, (n, c)."""
    given = inputs_of(model, one, family_in(model).found.flat)
    return model(**given).last_hidden_state.flatten(0, -2)


@pytest.mark.parametrize("name", ["qwen3_vl", "glm4v", "paddleocr", "pixtral"])
@torch.no_grad()
def test_a_packed_batch_equals_its_pictures_one_by_one(name):
    model = make_site(name)
    family, px = family_of(model), 8
    pictures = [noise(model, (rows * px, columns * px)) for rows, columns in SIDES]
    sparsight.apply(model, EXACT.model_copy(update={"layers": (0, 1), "groups": ((0, 1),)}))
    if name == "pixtral":  # one row of all, behind a mask that is block-diagonal
        sizes = [one.shape[2:] for one in pictures]
        tall, wide = (max(side) for side in zip(*sizes, strict=True))
        padded = torch.cat([F.pad(p, (0, wide - p.shape[3], 0, tall - p.shape[2])) for p in pictures])
        packed = model(padded, image_sizes=sizes).last_hidden_state[0]
    else:
        given = [inputs_of(model, one, family.found.flat) for one in pictures]
        first = next(iter(given[0]))
        along = 1 if name == "paddleocr" else 0
        joined = torch.cat([one[first] for one in given], along)
        output = model(**{first: joined, "grid_thw": torch.cat([one["grid_thw"] for one in given])})
        packed = output.last_hidden_state.flatten(0, -2)
    close(packed, torch.cat([final(model, one) for one in pictures]))


@torch.no_grad()
def test_padded_rows_of_siglip2_are_sparse_within_their_lengths():
    model, lengths = make_model("hf_siglip2"), (63, 45)
    patches, shapes = torch.randn(2, 63, 768), torch.tensor([[9, 7], [9, 5]])
    mask = torch.tensor([[1] * 63, [1] * 45 + [0] * 18])
    dense = model(patches, mask, shapes).last_hidden_state
    sparsight.apply(model, EXACT)
    together = model(patches, mask, shapes).last_hidden_state
    for row, length in enumerate(lengths):
        alone = model(patches[row : row + 1, :length], None, shapes[row : row + 1]).last_hidden_state
        close(together[row, :length], alone[0])
        assert not torch.equal(together[row], dense[row])
    assert not dense_calls(model)
    sparsight.restore(model)
    assert torch.equal(model(patches, mask, shapes).last_hidden_state, dense)


@torch.no_grad()
def test_padded_rows_of_naflex_are_sparse_within_their_lengths_also_with_maps():
    model, sides = make_site("naflex"), ((6, 10), (8, 4))
    most = max(rows * columns for rows, columns in sides)
    patches = torch.randn(2, most, 768)
    valid = torch.zeros(2, most, dtype=torch.bool)
    places = torch.zeros(2, most, 2, dtype=torch.long)
    for row, (rows, columns) in enumerate(sides):
        valid[row, : rows * columns] = True
        grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        places[row, : rows * columns] = torch.stack(grid, -1).view(-1, 2)

    def run(rows, length):
        given = [x[rows, :length] for x in (patches, places, valid)]
        return model.forward_features(given[0], patch_coord=given[1], patch_valid=given[2])["patches"]

    config = EXACT.model_copy(update={"completion": "map"})
    sparsight.apply(model, plan_of(model, config))
    together = run(slice(None), most)
    for row, (rows, columns) in enumerate(sides):
        close(together[row, : rows * columns], run(slice(row, row + 1), rows * columns)[0])
    assert not dense_calls(model)


@pytest.mark.parametrize("name", BIASED)
@torch.no_grad()
def test_a_bias_of_rows_and_columns_is_never_made_for_all_pairs(name, monkeypatch):
    model = make_site(name)
    images = noise(model, (64, 96 if name == "samvit" else 64)).repeat(
        2, 1, 1, 1
    )  # others take one size
    images[1] *= 0.5
    config = EXACT.model_copy(update={"score": "sampled", "sample_every": 4, "completion": "map"})
    sparsight.apply(model, plan_of(model, config))
    monkeypatch.setattr(Decomposed, "sum", None)  # which would make it
    together = run_features(model, images)
    assert not dense_calls(model)
    for row in (0, 1):
        close(together[row], run_features(model, images[row : row + 1])[0])
    sparsight.restore(model)
    assert not torch.equal(run_features(model, images), together)


@torch.no_grad()
def test_other_masks_run_dense_and_are_counted():
    model = make_model("augreg")
    images = picture(model)
    mask = torch.ones(65, 65, dtype=torch.bool).tril()
    dense = model.forward_features(images, attn_mask=mask)
    sparsight.apply(model, EXACT)
    assert torch.equal(model.forward_features(images, attn_mask=mask), dense)
    assert dense_calls(model) == {"masked": 4}
    model.forward_features(images)
    assert dense_calls(model) == {"masked": 4}


def test_what_runs_dense_behind_a_mask_is_not_told_to_keep_all(monkeypatch):
    model = sparsight.apply(make_model("augreg"), EXACT)
    assert fallback_notes(model, (64, 64)) == []
    usual = model.forward_features
    mask = torch.ones(17, 17, dtype=torch.bool).tril()
    monkeypatch.setattr(model, "forward_features", lambda x: usual(x, attn_mask=mask))
    (told,) = fallback_notes(model, (64, 64))
    assert "there are 17 tokens, attended to in a way that sve leaves as it is (masked)" in told


def test_masks_are_split_into_their_pictures_or_not_at_all():
    block = torch.block_diag(torch.ones(3, 3), torch.ones(2, 2)).bool()
    two = (Segment(None, 0, 3, 3), Segment(None, 3, 5, 5))
    assert segments_of(block, 1, 5) == two
    assert segments_of(block[None, None].expand(2, 4, 5, 5), 2, 5) == (
        *(s._replace(row=0) for s in two), *(s._replace(row=1) for s in two),
    )  # fmt: skip
    additive = torch.zeros(5, 5).masked_fill(~block, torch.finfo(torch.float32).min)
    assert segments_of(additive, 1, 5) == two
    keys = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()[:, None, None]
    assert segments_of(keys, 2, 5) == (Segment(0, 0, 5, 5), Segment(1, 0, 2, 5))
    both = keys & keys.transpose(2, 3)
    assert segments_of(both, 2, 5) == (Segment(0, 0, 5, 5), Segment(1, 0, 2, 2))
    gap = block.clone()
    gap[:, 1] = False
    for other in (block.tril(), gap, additive - 0.5, torch.randn(1, 3, 5, 5), keys.flip(3)):
        assert segments_of(other, len(other) if other.ndim == 4 else 1, 5) is None
    changed = additive.clone()
    assert segments_of(changed, 1, 5) == two
    changed.zero_()  # the same tensor with other values is read anew
    assert segments_of(changed, 1, 5) == (Segment(None, 0, 5, 5),)


# Everything that is not as it should be


def test_a_plan_is_made_for_a_model_that_no_family_describes(tmp_path):
    for name in ("qwen3_vl", "naflex"):
        model = make_site(name)
        pictures = [picture(model, 10, seed)[0] for seed in range(3)]
        plan = sparsight.optimize(model, pictures, "sve", tmp_path / name, max_error=10.0)
        assert plan.model.family == "sites"
        found = sparsight.load(tmp_path / name)
        assert found == plan
        size = pictures[0].shape[1:]
        result = sparsight.measure(model, found, pictures, resolutions=[size], repeats=1)
        assert {case["arm"] for case in result["cases"]} == {"dense", "sparse"}
        other = make_site(name)
        again = copy.deepcopy(sparsight.apply(other, found))
        with torch.no_grad():
            wanted = run_features(other, pictures[0][None])
            assert torch.equal(run_features(again, pictures[0][None]), wanted)
            assert torch.equal(
                run_features(pickle.loads(pickle.dumps(other)), pictures[0][None]), wanted
            )
        assert applied(sparsight.restore(again)) is None


def test_a_dry_run_is_made_once_and_again_when_modules_were_replaced(monkeypatch):
    model, runs = make_site("aimv2"), []
    usual = finding.dry_run
    monkeypatch.setattr(finding, "dry_run", lambda *given: runs.append(1) or usual(*given))
    first = family_in(model)
    assert family_in(model).found is first.found
    assert len(runs) == 2  # at the model's own size and at half of it
    name, part = next((n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear))
    model.set_submodule(name, copy.deepcopy(part))
    assert family_in(model).found == first.found
    assert len(runs) == 4


@pytest.mark.parametrize(
    "settings",
    [sparsight.MLPRouting(layers=(0,)), sparsight.EarlyExit(after=(0,)), sparsight.ToMe()],
    ids=lambda s: type(s).__name__,
)
def test_what_needs_blocks_says_so(settings):
    with pytest.raises(PlanError, match="works on whole blocks, which a family describes"):
        sparsight.apply(make_site("aimv2"), settings)


def test_a_bias_or_what_cannot_be_run_is_refused_by_name():
    biased = make_site("beit", use_relative_position_bias=True)
    with pytest.raises(UnsupportedModelError, match="adds a bias or a mask to every pair of query"):
        family_of(biased)
    model = make_site("aimv2")
    model.encoder.forward = lambda **_: 1 / 0
    with pytest.raises(UnsupportedModelError, match="could not be run on a picture of 64 x 64") as told:
        family_of(model)
    assert len(str(told.value)) <= 300


@torch.no_grad()
def test_frames_of_a_clip_are_sparse_one_by_one_and_short_ones_dense():
    model = make_site("qwen3_vl")
    family, frames = family_of(model), [noise(model, (64, 64)) * scale for scale in (1.0, 0.5, 0.2)]
    given = [inputs_of(model, one, family.found.flat) for one in frames]
    clip = torch.cat([one["hidden_states"] for one in given])
    grid = torch.tensor([[3, 8, 8]])
    dense = model(clip, grid_thw=grid).last_hidden_state
    sparsight.apply(model, EXACT)
    close(model(clip, grid_thw=grid).last_hidden_state, torch.cat([final(model, f) for f in frames]))
    sparsight.restore(model)
    # Each frame has 64 tokens: below what pays there is nothing to gain, however many frames.
    sparsight.apply(model, EXACT.model_copy(update={"min_tokens": 65}))
    assert torch.equal(model(clip, grid_thw=grid).last_hidden_state, dense)
    assert not dense_calls(model)


@pytest.mark.parametrize("kind", ["VideoMAEModel", "VivitModel", "TimesformerModel"])
def test_what_takes_clips_alone_is_refused_in_a_sentence(kind):
    import transformers

    host = getattr(transformers, kind)
    settings = VIT | {"patch_size": 16, "num_frames": 4}
    with pytest.raises(UnsupportedModelError, match="takes clips of several frames") as told:
        sparsight.apply(host(host.config_class(**settings)), EXACT)
    assert len(str(told.value)) <= 300


@torch.no_grad()
def test_a_config_that_others_share_is_not_touched():
    from transformers import Aimv2VisionModel

    one = make_site("aimv2")
    two = Aimv2VisionModel(one.config).eval()
    one.set_attn_implementation("eager")
    images = torch.randn(1, 3, 64, 64)
    dense = two(images, output_attentions=True)
    sparsight.apply(one, EXACT)
    one(images)
    assert one.config._attn_implementation == "eager"
    again = two(images, output_attentions=True)
    assert all(map(torch.equal, again.attentions, dense.attentions))
    assert torch.equal(again.last_hidden_state, dense.last_hidden_state)


@torch.no_grad()
def test_a_tower_asked_for_flash_attention_is_sparse_within_its_padding_all_the_same():
    model = make_model("hf_siglip2")
    patches, shapes = torch.randn(2, 63, 768), torch.tensor([[9, 7], [9, 5]])
    mask = torch.tensor([[1] * 63, [1] * 45 + [0] * 18])
    sparsight.apply(model, EXACT)
    wanted = model(patches, mask, shapes).last_hidden_state
    sparsight.restore(model)
    model.config._attn_implementation_internal = "flash_attention_2"  # as if it were installed
    sparsight.apply(model, EXACT)  # in all its layers, of which none calls it
    close(model(patches, mask, shapes).last_hidden_state[0], wanted[0])
    close(model(patches, mask, shapes).last_hidden_state[1, :45], wanted[1, :45])
    assert not dense_calls(model)


@torch.no_grad()
def test_an_implementation_that_is_switched_runs_dense_and_says_so():
    model = make_site("internvl")
    images = picture(model)
    sparsight.apply(model, EXACT)
    sparse = run_features(model, images)
    model.set_attn_implementation("eager")
    with pytest.warns(UserWarning, match="layer . runs dense: its attention is no longer"):
        switched = run_features(model, images)
    assert not torch.equal(switched, sparse)
    assert dense_calls(model) == {"no call": 2}
    model.set_attn_implementation("sdpa")
    assert torch.equal(run_features(model, images), sparse)
    sparsight.restore(model)
    model.set_attn_implementation("eager")  # asked for before: sparse layers call SDPA all the same
    sparsight.apply(model, EXACT)
    close(run_features(model, images), sparse)
    with pytest.raises(SparsightError, match="layer 0 is sparse and has no attention map"):
        model(images, output_attentions=True)


@pytest.mark.parametrize("name", ["qwen3_vl", "pixtral", "minicpm", "gemma4", "samvit"])
def test_doctor_reads_a_tower_or_says_in_a_sentence_why_it_cannot(name):
    model = make_site(name)
    if name == "samvit":
        assert sparsight.doctor(model, (64, 64))["model"]
        return
    side = 72 if name == "gemma4" else 64  # it pools 3 x 3 patches
    with pytest.raises(PlanError, match="reads the sizes of its pictures from tensors: make") as told:
        sparsight.doctor(model, (side, side))
    assert len(str(told.value)) <= 300

"""The tasks on small models: figures by hand, probes that learn, and dense against dense."""

import numpy as np
import pytest
import torch
from conftest import make_model, other_defaults, plan_of
from task_data import class_folder, salient_folder, save, segmentation_folder, squares
from torchmetrics.classification import MulticlassJaccardIndex

import sparsight
from sparsight.errors import ImagesError, LabelsError, SparsightError
from sparsight.images import ImageFiles
from sparsight.ops.grids import grid_of
from sparsight.plan import Plan
from sparsight.stages.kept import counted
from sparsight.tasks import TASKS, classification, probe, segmentation
from sparsight.tasks.base import Request, tokens_of
from sparsight.tasks.dense_probe import Judged, largest, patch_shares

SIZE = (64, 96)
SAME = sparsight.SVE(layers="all", keep=1.0, min_tokens=0)  # keeps every token: dense, by the short cut
HALF = sparsight.SVE(layers="all", keep=0.25, min_tokens=0)


@pytest.fixture(scope="module")
def model():
    return make_model("augreg")


@pytest.fixture
def colours(tmp_path):
    return segmentation_folder(tmp_path / "colours")


FOLDERS = {
    "features": segmentation_folder, "segmentation": segmentation_folder,
    "classification": class_folder, "salient": salient_folder,
}  # fmt: skip
OPTIONS = {"segmentation": {"classes": 3}}


@pytest.mark.parametrize("task", FOLDERS)
def test_dense_against_dense_differs_by_exactly_nothing(model, tmp_path, task):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = sparsight.evaluate(model, SAME, task, FOLDERS[task](tmp_path), SIZE, **OPTIONS.get(task, {}))
    for row in [*found["scores"], *found["details"]]:
        assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)
    assert all(image["difference"] == 0 for image in found["worst"])
    assert {"machine", "versions", "dtype", "data", "seed", "metric", "plan"} <= set(found["protocol"])
    assert set(found["shares"]) == (set() if task == "features" else {"train", "val"})
    assert all(sum(shares.values()) == pytest.approx(1) for shares in found["shares"].values())
    after = model.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)


@pytest.mark.parametrize("task", FOLDERS)
def test_sparse_is_judged_by_its_own_features(model, tmp_path, task):
    found = sparsight.evaluate(model, HALF, task, FOLDERS[task](tmp_path), SIZE, **OPTIONS.get(task, {}))
    with other_defaults():  # a figure is the same whatever is set for the user's own tensors
        again = sparsight.evaluate(
            model, HALF, task, FOLDERS[task](tmp_path), SIZE, **OPTIONS.get(task, {})
        )
    assert found == again
    names = [image["image"] for image in found["worst"]]
    assert len(set(names)) == len(names) == 5
    if task == "features":
        assert found["scores"][0]["sparse"] > 0
        assert len(found["details"]) == 2 * len(model.blocks)
        # What is wrong in a layer is carried on, so the last layer's tokens are never untouched.
        assert all(row["sparse"] != row["dense"] for row in found["details"])


@pytest.mark.parametrize("task", FOLDERS)
def test_under_a_bound_what_each_judged_picture_kept_is_told(model, tmp_path, task, monkeypatch):
    monkeypatch.setattr("sparsight.methods.mlp_routing.mlp.TOKENS_A_STEP", 2)  # of 25
    settings = sparsight.MLPRouting(layers=(1,), score="map-error", bound="calibrated", min_tokens=0)
    plan, folder = plan_of(model, settings), FOLDERS[task](tmp_path)
    own = {"own_probe": True} if task in ("segmentation", "classification") else {}  # and its passes
    found = sparsight.evaluate(model, plan, task, folder, SIZE, **OPTIONS.get(task, {}), **own)
    kept, sparse = found["kept_by_image"], sparsight.apply(make_model("augreg"), plan)
    assert len(kept) == found["protocol"]["images"]
    images = ImageFiles([folder / name for name in kept], SIZE)
    with counted(sparse) as alone:
        for picture in images:
            tokens_of(sparse, picture)
    assert alone.pictures == list(kept.values())
    shares = [share["mlp-routing"] for share in kept.values()]
    assert len(set(shares)) > 1
    spread = found["kept"]["mlp-routing"]
    assert (spread["min"], spread["max"]) == (min(shares), max(shares))
    assert all(row["kept"] == kept[row["image"]] for row in found["worst"])


def test_features_are_those_of_measure(model, colours):
    from sparsight.stages.measure import compare_features

    found = sparsight.evaluate(model, HALF, "features", colours / "val" / "images", SIZE)
    images = sparsight.ImageFolder(colours / "val" / "images", SIZE)
    sparse = sparsight.apply(make_model("augreg"), HALF)
    wanted = compare_features(model, sparse, images, 100)
    assert found["scores"][0]["sparse"] == pytest.approx(wanted["relative_error"])
    assert found["scores"][1]["sparse"] == pytest.approx(wanted["cosine"])
    assert found["worst"][0]["sparse"] == pytest.approx(wanted["relative_error_worst"])
    assert found["worst"][0]["image"] == images.paths[wanted["relative_error_worst_image"]].name


def test_the_probe_learns_what_can_be_learnt_and_nothing_else(model, tmp_path, colours):
    def shuffled(rng, labels):
        return squares(rng)[1]

    learnt = sparsight.evaluate(model, SAME, "segmentation", colours, SIZE, classes=3)["scores"]
    spoilt = sparsight.evaluate(
        model, SAME, "segmentation", segmentation_folder(tmp_path / "b", labels_of=shuffled), SIZE,
        classes=3,
    )["scores"]  # fmt: skip
    # Squares are whole patches of one colour; only their bilinear borders may be wrong.
    assert learnt[0]["dense"] > 0.7
    assert learnt[1]["dense"] > 0.85
    # Three classes by chance: accuracy 1/3 and IoU 1/5; 144 squares leave a spread of 0.04.
    assert spoilt[0]["dense"] < 0.35
    assert spoilt[1]["dense"] < 0.5


def test_whole_pictures_are_learnt_and_shuffled_ones_are_not(model, tmp_path):
    learnt = sparsight.evaluate(model, SAME, "classification", class_folder(tmp_path / "a"), (48, 48))
    assert [row["dense"] for row in learnt["scores"]] == [1, 1]
    spoilt = sparsight.evaluate(
        model, SAME, "classification", class_folder(tmp_path / "b", 10, 10, shuffled=True), (48, 48)
    )
    # One colour gets one answer, so by chance 0, 1/3, 2/3 or rarely 1; seed 0 gives no full house.
    assert all(row["dense"] < 0.9 for row in spoilt["scores"])


def test_objects_are_found(model, tmp_path):
    found = sparsight.evaluate(model, SAME, "salient", salient_folder(tmp_path), SIZE)
    assert found["protocol"]["images"] == 5  # every second of ten
    assert found["scores"][0]["dense"] > 0.6  # borders are bilinear between patches


def test_an_own_probe_makes_good_what_a_shared_one_cannot(model, colours):
    shared, own = (
        sparsight.evaluate(model, HALF, "segmentation", colours, SIZE, classes=3, own_probe=own)
        for own in (False, True)
    )
    assert shared["scores"][0]["dense"] == own["scores"][0]["dense"]
    assert shared["scores"][0]["sparse"] != own["scores"][0]["sparse"]


def test_miou_by_hand_and_by_torchmetrics():
    truth = torch.tensor([[0, 0, 1, 1], [0, 2, 2, -1]])
    found = torch.tensor([[0, 1, 1, 1], [0, 2, 0, 2]])
    parts = [[], [], []]
    for t, f in zip(truth, found, strict=True):
        known = t >= 0
        for k in range(4):
            hits = ((t == k) & (f == k) & known).sum()
            union = (((t == k) | (f == k)) & known).sum()
            for part, value in zip(parts, (hits, union, (t == k).sum()), strict=True):
                part.append(value)
    judged = Judged(*(torch.tensor(part).double().view(2, 4) for part in parts))
    every = torch.ones(1, 2, dtype=torch.float64)
    # Class 0: 2 of 4, class 1: 2 of 3, class 2: 1 of 2, class 3 has no pixel and does not count.
    assert segmentation.miou_of(judged)(every).item() == pytest.approx((2 / 4 + 2 / 3 + 1 / 2) / 3)
    assert segmentation.accuracy_of(judged)(every).item() == pytest.approx(5 / 7)
    metric = MulticlassJaccardIndex(3, ignore_index=-1)
    assert segmentation.miou_of(judged)(every).item() == pytest.approx(metric(found, truth).item())
    # Drawn twice, the first image counts twice: class 0 is 3 of 6, class 1 is 4 of 6.
    twice = torch.tensor([[2.0, 0.0], [2.0, 1.0]]).double()
    assert segmentation.iou_of(judged, 0)(twice).tolist() == pytest.approx([2 / 4, 3 / 6])
    assert segmentation.iou_of(judged, 2)(twice)[0].isnan()


def test_judged_pictures_agree_with_torchmetrics(model, colours):
    from sparsight.tasks.base import Arms
    from sparsight.tasks.dense_probe import fit_probes, judge, label_map
    from sparsight.tasks.labels import LabelledFiles
    from sparsight.tasks.layouts import SEGMENTATION
    from sparsight.tasks.numbers import class_numbers

    request = Request(colours, SIZE)
    arms = Arms(model, model, (model, model))
    train, val = (
        LabelledFiles(SEGMENTATION["camvid"].pairs(colours, split), request, class_numbers(3, 255))
        for split in ("train", "val")
    )
    with torch.no_grad():
        fitting = fit_probes(arms, train, request, 3)
        (dense, _), places, _ = judge(arms, fitting.probes, val, request, 3)
        metric = MulticlassJaccardIndex(3)
        for place in places:
            picture, labels = val[place]
            metric.update(label_map(model, fitting.probes[0], picture, tuple(labels.shape)), labels)
    every = torch.ones(1, len(places), dtype=torch.float64)
    assert segmentation.miou_of(dense)(every).item() == pytest.approx(metric.compute().item(), abs=1e-6)


def test_patch_shares_count_every_pixel():
    labels = torch.tensor([[0, 0, 1, 1], [0, -1, 1, 2], [2, 2, -1, -1], [2, 2, -1, -1]])
    shares = patch_shares(labels, (2, 2), 3)
    assert shares.tolist() == [[0.75, 0, 0], [0, 0.75, 0.25], [0, 0, 1], [0, 0, 0]]
    odd = torch.randint(-1, 3, (13, 29), generator=torch.Generator().manual_seed(0))
    sizes = torch.bincount(
        torch.cat([((torch.arange(13) * 2 + 1) * 4 // 26)[:, None].expand(13, 29).flatten()])
    )
    assert sizes.sum() == 13 * 29
    assert patch_shares(odd, (4, 7), 3).sum(1).max() <= 1
    assert patch_shares(torch.zeros(1, 5).long(), (3, 3), 2).sum() == 3  # one row of patches has pixels


def test_largest_equals_the_plain_argmax():
    logits = torch.randn(1, 37, 5, 3, generator=torch.Generator().manual_seed(0))
    whole = torch.nn.functional.interpolate(logits, (23, 31), mode="bilinear")[0].argmax(0)
    assert torch.equal(largest(logits, (23, 31)), whole)


def test_the_probe_is_at_the_minimum_of_its_loss(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, generator=generator) * torch.tensor([1, 10, 0.1, 1, 100.0]) + 3
    targets = torch.randint(3, (300,), generator=generator)
    shares = torch.nn.functional.one_hot(targets, 3).float()
    fitted, soft = probe.fit(x, targets, 3), probe.fit(x, shares, 3)
    assert torch.allclose(fitted(x), soft(x), atol=1e-3)
    monkeypatch.setattr(probe, "ROWS_AT_ONCE", 64)
    assert torch.allclose(fitted(x), probe.fit(x, targets, 3)(x), atol=1e-3)
    z = (x - x.mean(0)) / x.std(0, correction=0)
    weight = (fitted.weight * x.std(0, correction=0)[:, None]).requires_grad_()
    bias = (fitted.bias + x.mean(0) @ fitted.weight).requires_grad_()
    loss = torch.nn.functional.cross_entropy(z @ weight + bias, targets)
    (loss + probe.RIDGE * weight.square().sum()).backward()
    # At the minimum the gradient is nought, up to L-BFGS's own tolerance and float32.
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 1e-3


def test_a_channel_that_hardly_moves_is_not_blown_up():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator)
    targets = (x[:, 0] > 0).long()
    still = torch.full((200, 1), 1000.0)
    fitted = probe.fit(torch.cat([x, still], 1), targets, 2)
    moved = torch.cat([x, still + 0.1], 1)  # a ten-thousandth, as sparse attention may move it
    assert (fitted(moved).argmax(1) == targets).float().mean() > 0.95


def test_knn_votes_by_hand():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    truth = torch.tensor([0, 1, 1])
    # exp(cos / 0.07) makes one near neighbour outvote two far ones.
    queries = torch.tensor([[0.9, 0.1], [0.1, 5.0]])
    assert classification.knn(queries, bank, truth, 2).tolist() == [0, 1]
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(70, 8, generator=generator), torch.randn(130, 8, generator=generator)
    truth = torch.randint(5, (70,), generator=generator)
    wanted = []
    for q in queries:
        cosine = torch.nn.functional.cosine_similarity(q[None], bank)
        near = cosine.argsort(descending=True)[:20]
        votes = [(cosine[near][truth[near] == k] / 0.07).exp().sum() for k in range(5)]
        wanted.append(int(torch.stack(votes).argmax()))
    assert classification.knn(queries, bank, truth, 5).tolist() == wanted


def test_grids():
    assert grid_of(24, SIZE) == (4, 6)
    assert grid_of(1, (16, 16)) == (1, 1)
    with pytest.raises(SparsightError, match="no grid of squares"):
        grid_of(23, SIZE)


def test_bad_pictures_are_skipped_and_counted(model, colours):
    for split in ("train", "val"):
        (colours / split / "images" / "1.png").write_bytes(b"broken")
    labels = np.full((64, 96), 11, np.uint8)
    save(labels, colours / "val" / "labels" / "2.png")
    found = sparsight.evaluate(model, SAME, "segmentation", colours, SIZE)
    assert found["protocol"]["images"] == 4
    assert found["protocol"]["training_images"] == 11
    assert len(found["skipped"]) == 3
    assert "1.png" in found["skipped"][0]
    assert "2.png has no labelled pixel" in found["skipped"][2]


def test_classes_without_a_pixel_are_left_out_and_named(model, colours):
    found = sparsight.evaluate(model, SAME, "segmentation", colours, SIZE, classes=5, void=9)
    three = sparsight.evaluate(model, SAME, "segmentation", colours, SIZE, classes=3)
    # A probe with idle classes has other logits, so equal only nearly.
    assert found["scores"][0]["dense"] == pytest.approx(three["scores"][0]["dense"], abs=0.02)
    assert any("classes [3, 4]" in note for note in found["notes"])
    for number in range(12):  # no class 2 in training
        path = colours / "train" / "labels" / f"{number}.png"
        save(np.arange(96)[None] // 48 * np.ones((64, 1)), path)
    unlearnt = sparsight.evaluate(model, SAME, "segmentation", colours, SIZE, classes=3)
    assert any("never found: classes [2]" in note for note in unlearnt["notes"])


def test_empty_masks_are_skipped_and_counted(model, tmp_path):
    folder = salient_folder(tmp_path)
    for number in (1, 3):  # of those judged: every second
        save(np.zeros((64, 96)), folder / "gt" / f"{number}.png")
    found = sparsight.evaluate(model, SAME, "salient", folder, SIZE)
    assert found["protocol"]["images"] == 3
    assert [s for s in found["skipped"] if "is an empty mask" in s] == found["skipped"]
    assert len(found["skipped"]) == 2


def test_an_answer_that_is_always_the_same_is_noted(model, tmp_path):
    """One class nearly fills the labels and the other is where nothing shows it."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(2):
            labels = np.zeros((64, 96))
            labels[30:33, 30:33] = 1
            picture = rng.integers(0, 255, (64, 96, 3))
            save(picture, tmp_path / split / "images" / f"{number}.png")
            save(labels, tmp_path / split / "labels" / f"{number}.png")
    save(picture, tmp_path / "train" / "images" / "0.png")  # the last one judged
    found = sparsight.evaluate(model, SAME, "segmentation", tmp_path, SIZE, classes=2)
    assert "the dense arm finds class 0 in every pixel" in found["notes"]
    assert "the sparse arm finds class 0 in every pixel" in found["notes"]
    assert any("1 of the 2 pictures judged are also among" in note for note in found["notes"])
    assert any("class 0 has 99.9 %" in note for note in found["notes"])


def test_notes_of_classes_that_are_not_judged_or_not_learnt(model, tmp_path):
    folder = class_folder(tmp_path, train=2, val=1)
    for path in (folder / "val" / "red").iterdir():
        path.unlink()
    for path in (folder / "train" / "green").iterdir():
        path.unlink()
    found = sparsight.evaluate(model, SAME, "classification", folder, (48, 48))
    assert "no picture in val/ of 1 classes, the first: red" in found["notes"]
    assert any("train/ of 1 classes, never found, the first: green" in n for n in found["notes"])
    assert found["shares"]["train"] == {"blue": 0.5, "green": 0, "red": 0.5}
    assert found["labels"]["train"] == "blue 50.0 %, red 50.0 %, green 0.0 %"


@pytest.mark.parametrize("task", FOLDERS)
def test_features_that_are_not_finite_are_refused(tmp_path, task):
    broken = make_model("augreg")
    broken.norm.weight.data[3] = float("nan")
    with pytest.raises(sparsight.NotFiniteError, match="NaN or infinity"):
        sparsight.evaluate(
            broken, SAME, task, FOLDERS[task](tmp_path), SIZE, **OPTIONS.get(task, {})
        )  # fmt: skip


def test_a_plan_that_runs_dense_at_this_size_is_told(model, colours):
    plan = HALF.model_copy(update={"min_tokens": 1000})
    found = sparsight.evaluate(model, plan, "features", colours, SIZE)
    assert any("25 tokens, fewer than the 1000" in note for note in found["notes"])
    assert found["scores"][0]["sparse"] == 0
    quiet = sparsight.evaluate(model, HALF, "features", colours, SIZE)
    assert quiet["notes"] == []
    mixed = sparsight.SVE(layers=(0, 1), keep=(1.0, 0.25), min_tokens=0)
    told = "at 64x96 there are 25 tokens, of which sve keeps all: it ran dense in 1 of its 2 layers"
    assert sparsight.evaluate(model, mixed, "features", colours, SIZE)["notes"] == [told]
    assert sparsight.measure(model, Plan(methods=(mixed,)), resolutions=[SIZE], repeats=1)["notes"] == [
        told
    ]


def test_methods_are_judged_together_and_one_that_runs_dense_is_named(model, colours):
    exits = sparsight.EarlyExit(after=(1,), keep=0.5, completion="last", min_tokens=1000)
    both = [HALF.model_copy(update={"layers": (0,)}), exits]
    found = sparsight.evaluate(model, both, "features", colours, SIZE)
    assert found["protocol"]["plan"] == ("1 layer keep 0.25, sampled; after 1 keep 0.5, standout, last")
    assert found["notes"] == [
        "at 64x96 there are 25 tokens, fewer than the 1000 from which early-exit is sparse: it ran dense"
    ]
    leaving = sparsight.evaluate(model, [both[0], exits.at_any_size()], "features", colours, SIZE)
    assert leaving["notes"] == []
    errors, more = (
        [row["sparse"] for row in one["details"] if row["metric"] == "relative error"]
        for one in (found, leaving)
    )
    assert errors[:2] == more[:2]  # until tokens leave
    assert all(own != other for own, other in zip(errors[2:], more[2:], strict=True))


def test_the_plan_is_named_with_its_layers(model, colours):
    found = sparsight.evaluate(model, HALF, "features", colours, SIZE)
    assert found["protocol"]["plan"] == "4 layers keep 0.25, sampled"  # `layers` was "all"


def test_what_does_not_fit_is_refused(model, tmp_path, colours):
    def refused(task, data, size=SIZE, **options):
        return sparsight.evaluate(model, SAME, task, data, size, **options)

    with pytest.raises(SparsightError, match="no task 'chess'"):
        refused("chess", colours)
    with pytest.raises(SparsightError, match="no use for the option void"):
        refused("features", colours, void=3)
    with pytest.raises(SparsightError, match="no option 'viod'"):
        refused("segmentation", colours, viod=3)
    for option, value in (("max_images", 0), ("max_train_images", -1), ("classes", 1), ("worst", -1)):
        with pytest.raises(SparsightError, match=f"{option}: Input should be greater .* not {value}"):
            refused("segmentation", colours, **{option: value})
    with pytest.raises(SparsightError, match="there is no folder"):
        refused("features", tmp_path / "none")
    with pytest.raises(ImagesError, match="nearest that is: 64x96"):
        refused("features", colours, (64, 90))
    with pytest.raises(ImagesError, match="nearest that is: 16x16"):
        refused("features", colours, (8, 8))
    with pytest.raises(LabelsError, match="neither im/ and gt/"):
        refused("salient", colours)
    with pytest.raises(LabelsError, match="wanted train/CLASS"):
        refused("classification", tmp_path)
    classes = class_folder(tmp_path / "classes")
    save(np.zeros((8, 8, 3)), classes / "val" / "mauve" / "0.png")
    with pytest.raises(LabelsError, match="'mauve', and train/ has no such folder"):
        refused("classification", classes)
    with pytest.raises(sparsight.PlanError, match="does not say for which resolution"):
        sparsight.evaluate(model, SAME, "features", colours)
    with pytest.raises(sparsight.UnsupportedModelError, match="no module 'tower'"):
        refused("features", colours, module="tower")
    changed = sparsight.apply(make_model("augreg"), SAME)
    with pytest.raises(sparsight.PlanError, match="restore the model first"):
        sparsight.evaluate(changed, SAME, "features", colours, SIZE)


def test_the_encoder_may_be_a_module_of_a_larger_model(model, colours):
    larger = torch.nn.ModuleDict({"tower": make_model("augreg"), "head": torch.nn.Linear(2, 2)})
    inside = sparsight.evaluate(larger, HALF, "features", colours, SIZE, module="tower")
    alone = sparsight.evaluate(model, HALF, "features", colours, SIZE)
    assert inside["scores"] == alone["scores"]


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (3, 5)])
def test_pictures_smaller_than_a_patch_are_judged(model, tmp_path, size):
    for split in ("train", "val"):
        for number in range(2):
            half = np.zeros(size, np.uint8)
            half[number % size[0] :, size[1] // 2 :] = 1
            save(np.zeros((*size, 3)), tmp_path / split / "images" / f"{number}.png")
            save(half, tmp_path / split / "labels" / f"{number}.png")
    found = sparsight.evaluate(model, SAME, "segmentation", tmp_path, SIZE)
    assert found["protocol"]["images"] == 2
    assert 0 <= found["scores"][0]["dense"] <= 1


def test_every_task_has_a_file_and_known_options():
    from sparsight.tasks import task_named

    for name in TASKS:
        assert task_named(name).uses <= set(Request.__dataclass_fields__)

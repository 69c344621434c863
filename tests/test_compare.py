"""The comparison of all methods with the dense model and a lower resolution."""

import contextlib
import json

import pytest
import torch
from conftest import SWINS, make_hf_sam2, make_images, make_model, make_timm_sam2, run_features
from typer.testing import CliRunner

import sparsight
from sparsight.attach import as_plan, family_in
from sparsight.cli import app
from sparsight.errors import SparsightError
from sparsight.methods import METHODS
from sparsight.ops.grids import regrid
from sparsight.plan import Plan
from sparsight.stages.arm import Arm, arm_of
from sparsight.stages.compare import COMBINED, WITH_WINDOWS, combined, compare, line_up, with_windows


def test_a_lower_resolution_is_the_model_on_a_smaller_picture_with_enlarged_features():
    model = make_model("augreg")
    pictures = make_images(model, grid=(8, 12))
    arm = arm_of(model, Plan(methods=(sparsight.LowerResolution(scale=0.5),)), (128, 192))
    with torch.no_grad():
        own = arm(pictures)
        full = arm.full_size(pictures)
        small_pictures = torch.nn.functional.interpolate(
            pictures, (64, 96), mode="bilinear", antialias=True
        )
        wanted = model.forward_features(small_pictures)
    assert own.size == (64, 96)
    assert torch.equal(own.tokens, wanted)
    assert full.shape == (2, 1 + 8 * 12, 48)
    assert torch.equal(full[:, 0], wanted[:, 0])
    # Bilinear with half the size: the mean of a map stays, and every value lies within its range.
    grid = wanted[:, 1:]
    assert (full[:, 1:].mean(1) - grid.mean(1)).abs().max() < 1e-5
    assert full[:, 1:].max() <= grid.max()


def test_regrid_of_the_same_grid_changes_nothing():
    tokens = torch.randn(2, 3 + 5 * 7, 4)
    assert torch.equal(regrid(tokens, 3, (5, 7), (5, 7)), tokens)


def test_a_model_of_one_size_is_told_the_lower_one():
    model = make_model("dinov2", dynamic_img_size=False, img_size=112)
    arm = arm_of(model, Plan(methods=(sparsight.LowerResolution(scale=0.5),)), (112, 112))
    with torch.no_grad():
        assert arm.full_size(torch.randn(1, 3, 112, 112)).shape == (1, 65, 48)
        assert model.forward_features(torch.randn(1, 3, 112, 112)).shape == (1, 65, 48)


def test_a_lower_resolution_cannot_be_applied():
    with pytest.raises(sparsight.PlanError, match="changes the pictures and not the model"):
        sparsight.apply(make_model("augreg"), sparsight.LowerResolution())


def by_neighbours(low, grid, new):
    """For each place of the new grid five old tokens, interpolated one by one; low (r, s, c)."""
    rows = []
    for row in range(new[0]):
        for column in range(new[1]):
            found = []
            for y, x in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
                value = 0
                at = [
                    min(max((place + 0.5) * old / many - 0.5, 0), old - 1)
                    for place, old, many in ((row, grid[0], new[0]), (column, grid[1], new[1]))
                ]
                for dy in (0, 1):
                    for dx in (0, 1):
                        r, c = int(at[0]) + dy, int(at[1]) + dx
                        weight = (1 - abs(at[0] - r)) * (1 - abs(at[1] - c))
                        r, c = (min(p, side - 1) for p, side in zip((r, c), grid, strict=True))
                        r, c = (min(max(p, 0), s - 1) for p, s in zip((r + y, c + x), grid, strict=True))
                        value = value + weight * low[r, c]
                found.append(value)
            rows.append(torch.cat(found))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["siglip", "augreg", "hf_dinov3"])
def test_a_taught_lower_resolution_is_a_map_of_tokens_and_their_neighbours(name, tmp_path):
    model = make_model(name)
    pictures = make_images(model, batch=25, grid=(12, 14))
    size, prefix = tuple(pictures.shape[2:]), family_in(model).prefix_tokens(model)
    keys, before = list(model.state_dict()), run_features(model, pictures[:1])
    settings = sparsight.LowerResolution(scale=0.5, completion="map")
    plan = sparsight.optimize(model, list(pictures[:24]), settings, tmp_path / "run", max_images=24)
    assert list(model.state_dict()) == keys
    assert torch.equal(run_features(model, pictures[:1]), before)
    assert set(plan.weights) == {"lower-resolution.3.map"}
    assert plan.weights["lower-resolution.3.map"].shape == (5 * 48 + 1, 48)
    plan = sparsight.load(tmp_path / "run")
    plain = as_plan(sparsight.LowerResolution(scale=0.5))
    arm, plain = arm_of(model, plan, size), arm_of(model, plain, size)
    with torch.no_grad():
        own, full = plain(pictures[24:]), arm.full_size(pictures[24:])
        assert torch.equal(full, arm(pictures[24:]).tokens)
        assert arm(pictures[24:]).size == size
        wanted = run_features(model, pictures[24:])
    low = own.tokens[0, prefix:].unflatten(0, (6, 7))
    table = plan.weights["lower-resolution.3.map"]
    mapped = by_neighbours(low, (6, 7), (12, 14)) @ table[:-1] + table[-1]
    assert torch.equal(full[:, :prefix], own.tokens[:, :prefix])
    assert (full[0, prefix:] - mapped).abs().max() <= 1e-4 * mapped.abs().max()
    # Random pictures: what half of the pixels tell is little, and the mean is something.
    enlarged = plain.full_size(pictures[24:])
    errors = [(got - wanted)[:, prefix:].norm() for got in (full, enlarged)]
    assert errors[0] < 0.97 * errors[1]
    entries, _ = line_up(model, list(pictures[:2]), [plan], [], size)
    assert [entry.setting for entry in entries] == ["", "scale 0.5, map"]


def test_a_lower_resolution_that_cannot_be_taught_or_combined_is_refused():
    model = make_model("augreg")
    few = list(make_images(model, batch=1, grid=(6, 6)))
    taught = sparsight.LowerResolution(scale=0.5, completion="map")
    with pytest.raises(sparsight.PlanError, match="cannot be fitted to 36"):
        sparsight.optimize(model, few, taught)
    with pytest.raises(sparsight.PlanError, match="goes with no other method"):
        sparsight.optimize(model, few, [taught, sparsight.SVE(layers=(1,))])
    with pytest.raises(sparsight.PlanError, match=r"run sparsight\.optimize"):
        arm_of(model, as_plan(taught), (96, 96))
    with pytest.raises(sparsight.PlanError, match="are of 24 channels and its last block of 128"):
        sparsight.optimize(make_hf_sam2(), list(torch.randn(1, 3, 288, 224)), taught)


def test_compare_has_a_row_for_every_method_that_fits():
    model = make_model("augreg")
    images = make_images(model, batch=2, grid=(33, 32))
    result = compare(model, images, repeats=1, max_images=2)
    rows = result["rows"]
    found = {row["method"] for row in rows}
    assert {"dense", "lower-resolution", "tome", "cls-topk", "sve", COMBINED} <= found
    assert {"mlp-routing", "early-exit", "bypass", "density-peaks", "mutual-pairs"} <= found
    assert "local-attention" in found
    assert found - {"dense", COMBINED} | result["left_out"].keys() == METHODS.keys() | {WITH_WINDOWS}
    assert set(result["left_out"]) == {"spot", "sparsevit", WITH_WINDOWS}
    assert result["left_out"][WITH_WINDOWS] == "the model has no layers for both"
    assert result["left_out"]["spot"] == "needs training: give a run of it"
    dense = rows[0]
    assert (dense["method"], dense["speedup"], dense["relative_error"]) == ("dense", 1.0, 0.0)
    for row in rows[1:]:
        assert row["gflops"] < dense["gflops"]
        assert 0 < row["relative_error"] <= row["relative_error_worst"]
        assert row["quality_worst"] <= row["quality"] < dense["quality"]
        assert not row["trained"]
        assert row["setting"]
    by_method = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    for method in ("tome", "cls-topk", "mlp-routing", "early-exit"):
        counts = [row["gflops"] for row in by_method[method]]
        assert counts == sorted(counts, reverse=True)  # ladders go from mild to hard
    for method in ("sve", "lower-resolution", "density-peaks"):
        published = [row for row in by_method[method] if "map" not in row["setting"]]
        counts = [row["gflops"] for row in published]
        assert counts == sorted(counts, reverse=True)
    by_setting = {row["setting"]: row for row in by_method["lower-resolution"]}
    assert {"scale 0.75", "scale 0.75, map", "scale 0.5, map"} <= by_setting.keys()
    taught, plain = by_setting["scale 0.75, map"], by_setting["scale 0.75"]
    assert taught["gflops"] > plain["gflops"]
    assert taught["relative_error"] < plain["relative_error"]
    published = [row for row in by_method["sve"] if "map" not in row["setting"]]
    completed = by_method["sve"][len(published) :]
    for plain, whole in zip(published[-len(completed) :], completed, strict=True):
        assert whole["setting"] == f"{plain['setting']}, map"
        assert plain["gflops"] < whole["gflops"]
        assert whole["relative_error"] < plain["relative_error"]


def test_methods_are_combined_from_mild_to_hard_and_by_a_bound_on_the_error():
    rows = combined(make_model("augreg"), (0, 1, 2, 3))
    assert {row[0].layers for row in rows} == {(0, 1)}
    *leaving, bounded = [row[1] for row in rows]
    assert len(leaving) >= 2
    assert {row.after for row in (*leaving, bounded)} == {(1,)}
    kept = [row.keep for row in leaving]
    assert kept == sorted(kept, reverse=True)
    assert {row.bound for row in leaving} == {None}
    assert bounded.bound == "calibrated"
    hiera = make_timm_sam2()
    assert combined(hiera, (5, 6, 8)) == []  # tokens cannot leave where there are windows
    rows = with_windows(hiera, (5, 6, 8))
    assert {sve.layers for sve, _ in rows} == {(5, 6, 8)}
    assert [sve.keep for sve, _ in rows] == sorted((sve.keep for sve, _ in rows), reverse=True)
    assert [windows.sparsity for _, windows in rows] == sorted(windows.sparsity for _, windows in rows)
    assert with_windows(make_model("augreg"), (0, 1)) == []


def test_a_completed_method_that_pictures_do_not_determine_is_left_out_with_the_reason():
    model = make_model("augreg")
    entries, left_out = line_up(model, make_images(model, batch=1), [], ["early-exit"], (144, 112))
    assert [entry.method for entry in entries] == ["dense"]
    assert "give more or larger pictures" in left_out["early-exit"]
    # Where harder settings skip enough tokens for a map, those have a row.
    entries, left_out = line_up(model, make_images(model, batch=3), [], ["early-exit"], (144, 112))
    assert "keep 0.3" in entries[-1].setting
    assert 1 < len(entries) < 1 + len(sparsight.EarlyExit.ladder(()))
    assert not left_out


def test_a_run_is_compared_too_and_a_method_that_does_not_fit_is_left_out_with_the_reason():
    model = make_model("siglip")
    images = make_images(model, batch=1)
    plan = Plan(methods=(sparsight.SVE(layers=(1,), min_tokens=0),)).with_(
        weights={"model.blocks.1.norm1.bias": torch.zeros(48)}, recipe={"distillation": {}}
    )
    entries, left_out = line_up(model, images, [plan], ["cls-topk", "tome"], (144, 112))
    assert [e.method for e in entries if e.trained] == ["sve"]
    assert "has none" in left_out["cls-topk"]
    assert isinstance(entries[0].arm, Arm)


def test_unknown_methods_and_changed_models_are_refused():
    model = make_model("augreg")
    images = make_images(model, batch=1)
    with pytest.raises(sparsight.PlanError, match="no method is called 'evit'"):
        compare(model, images, methods=["evit"])
    sparsight.apply(model, sparsight.SVE(layers=(1,)))
    with pytest.raises(sparsight.PlanError, match="restore the model first"):
        compare(model, images)


def test_the_command_writes_figures_and_picture(tmp_path):
    file = tmp_path / "compare.json"
    command = ["compare", "demo", "--json", str(file), "--resolution", "256", "--max-images", "1"]
    done = CliRunner().invoke(app, [*command, "--repeats", "1", "--method", "tome"])
    assert done.exit_code == 0, done.output
    result = json.loads(file.read_text())
    assert {row["method"] for row in result["rows"]} == {"dense", "tome"}
    keys = {
        "method", "setting", "trained", "latency_ms", "speedup", "gflops", "quality", "quality_name",
        "relative_error",
    }  # fmt: skip
    assert all(keys <= row.keys() for row in result["rows"])
    assert result["rows"][0]["quality_name"] == "mIoU"
    assert "<svg" in (tmp_path / "compare.svg").read_text()

    done = CliRunner().invoke(app, ["compare", "timm:vit_tiny_patch16_224", "--json", str(file)])
    assert done.exit_code == 1
    assert "--images DIR" in done.output


def test_a_setting_that_would_leave_no_window_is_left_out_and_the_others_are_compared():
    model = SWINS["timm_swin"](size_px=(32, 40))
    pictures = [torch.rand(3, 32, 40) for _ in range(2)]  # 2 x 2 windows, then one
    ladder = sparsight.SparseViT.ladder(())
    with torch.no_grad():
        fits = []
        for settings in ladder:
            with contextlib.suppress(SparsightError), sparsight.sparse(model, settings):
                model(pictures[0][None])
                fits.append(settings)
    assert len(fits) < len(ladder)  # or this test tests nothing
    found = compare(model, pictures, methods={"sparsevit"}, repeats=1)
    assert found["rows"][0]["method"] == "dense"
    assert len(found["rows"]) == 1 + len(fits)
    assert ("sparsevit" in found["left_out"]) == (not fits)

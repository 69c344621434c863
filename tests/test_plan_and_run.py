"""Plans and run folders: what is saved comes back; what is damaged or hostile is refused by name."""

import json

import pytest
import torch
from conftest import make_images, make_model, plan_of
from safetensors.torch import save_file
from test_apply import features, make_plan

import sparsight
from sparsight.families import family_of
from sparsight.identity import identity
from sparsight.methods import METHODS
from sparsight.plan import Plan
from sparsight.run import weights_file


def full_plan(model):
    """A plan with everything in it: identity, groups, projectors and a changed weight."""
    plan = make_plan(model, "linear", ((0, 1),))
    changed = {"model.blocks.1.mlp.fc1.bias": model.blocks[1].mlp.fc1.bias.detach() + 0.5}
    return plan.with_(
        weights=changed, model=identity(model, family_of(model)), source="timm:x",
        resolution=(64, 96), reasons=("because",), recipe={"a": [1, 2]}, versions={"torch": "2"},
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_methods_default_settings_survive_json(method):
    plan = Plan(methods=(method.config(),))
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.name == method.name


def test_a_plan_of_several_methods_survives_json_and_finds_each():
    sve, routing = sparsight.SVE(layers=(0, 1)), sparsight.MLPRouting(keep=(1 / 2, 1 / 4), layers=(2, 3))
    plan = Plan(methods=(sve, routing))
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.methods == (sve, routing)
    assert (again.sve, again.find(sparsight.MLPRouting), again.find(sparsight.ToMe)) == (
        sve,
        routing,
        None,
    )
    assert again.name == "sve + mlp-routing"
    assert again.label == f"{sve.label()}; {routing.label()}"
    with pytest.raises(sparsight.PlanError, match=r"for ToMe alone, and the plan has sve \+ mlp-rou"):
        again.one(sparsight.ToMe)
    fewer = routing.model_copy(update={"layers": (3,), "keep": 1 / 8})
    assert again.changed(fewer).methods == (sve, fewer)
    assert [method.min_tokens for method in again.at_any_size().methods] == [0, 0]
    assert [method.min_tokens for method in again.methods] == [1024, 1024]


def test_a_printed_plan_says_in_ten_lines_what_it_does():
    model = make_model("dinov2_reg")
    told = str(full_plan(model).with_(reasons=tuple(f"because {n}" for n in range(9))))
    lines = told.splitlines()
    assert len(lines) <= 10
    assert lines[0] == "Plan: sve"
    assert full_plan(model).label in told
    for words in ("64x96 px", "tensors of its own", "because 2", "6 more reasons", "4 layers (timm:x)"):
        assert words in told
    assert "because 3" not in told


def test_a_saved_run_gives_the_same_model(tmp_path):
    model = make_model("dinov2_reg")
    images, plan = make_images(model), full_plan(model)
    wanted = features(sparsight.apply(model, plan), images)
    assert sparsight.save(model, tmp_path / "run") == tmp_path / "run"
    sparsight.restore(model)

    loaded = sparsight.load(tmp_path / "run")
    assert loaded == plan
    assert loaded.weights.keys() == plan.weights.keys()
    for what in (loaded, tmp_path / "run", str(tmp_path / "run")):
        assert torch.equal(features(sparsight.apply(model, what), images), wanted)
        sparsight.restore(model)
    # Only what changed is on disk: two vectors of 48 and one bias of 192, not 4 blocks.
    assert sum(f.stat().st_size for f in (tmp_path / "run").iterdir()) < 20_000
    assert not list(tmp_path.rglob("*.pt")) + list(tmp_path.rglob("*.bin"))


def test_saving_again_replaces_the_weights(tmp_path):
    model = make_model("augreg")
    sparsight.save(full_plan(model), tmp_path)
    other = full_plan(model).with_(reasons=("another",))
    sparsight.save(other, tmp_path)
    assert sparsight.load(tmp_path) == other
    assert [p.name for p in tmp_path.glob("weights-*")] == [weights_file(other.to_json())]


def test_a_failed_save_keeps_the_old_run(tmp_path, monkeypatch):
    model = make_model("augreg")
    plan = full_plan(model)
    sparsight.save(plan, tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(sparsight.SparsightError, match=r"cannot write .*No space left"):
        sparsight.save(plan.with_(reasons=("new",)), tmp_path)
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert sparsight.load(tmp_path) == plan


def test_a_plan_for_another_model_is_refused_precisely():
    plan = full_plan(make_model("augreg"))
    cases = {
        "family 'timm_vit' there, 'timm_eva' here": make_model("dinov3"),
        "prefix tokens 1 there, 5 here": make_model("dinov2_reg", patch_size=16),
        "depth 4 there, 3 here": make_model("augreg", depth=3),
        "dim 48 there, 96 here": make_model("augreg", embed_dim=96),
        "block 0 of this model differs": make_model("augreg", seed=9),
    }
    for reason, model in cases.items():
        with pytest.raises(sparsight.PlanError, match=reason):
            sparsight.apply(model, plan)
    fine_tuned = make_model("augreg")
    fine_tuned.blocks[2].mlp.fc1.weight.data += 0.1
    with pytest.raises(sparsight.PlanError, match="block 2 of this model differs"):
        sparsight.apply(fine_tuned, plan)
    sparsight.apply(make_model("augreg").bfloat16(), plan)  # the same weights in another dtype fit


def test_a_plan_with_samples_of_fewer_blocks_is_damaged():
    model = make_model("augreg")
    plan = full_plan(model)
    fewer = plan.model.model_copy(update={"weight_samples": plan.model.weight_samples[:-1]})
    with pytest.raises(sparsight.PlanError, match="has samples of 3 blocks of 4"):
        sparsight.apply(model, plan.with_(model=fewer))


def test_tensors_that_do_not_fit_are_refused_by_name():
    model = make_model("augreg")
    plan = full_plan(model)
    for weights, reason in (
        ({"model.blocks.9.norm1.bias": torch.zeros(48)}, "changes 'blocks.9.norm1.bias'"),
        ({"model.norm.bias": torch.zeros(7)}, r"'norm.bias' has shape \(48,\) .* \(7,\)"),
        ({"sve.0.projector": torch.zeros(5)}, r"shape \(5,\), not \(48,\)"),
        ({"model.norm.bias": torch.full((48,), torch.nan)}, "not finite"),
    ):
        with pytest.raises(sparsight.PlanError, match=reason):
            sparsight.apply(model, plan.with_(weights=weights))


def edit(folder, change):
    """Change the JSON of a saved plan."""
    path = folder / "plan.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


DAMAGE = {
    "no plan": (lambda f: (f / "plan.json").unlink(), "plan.json is missing"),
    "not JSON": (lambda f: (f / "plan.json").write_text("{"), "is not JSON"),
    "deep JSON": (lambda f: (f / "plan.json").write_text("[" * 100_000), "is not JSON"),
    "a list": (lambda f: (f / "plan.json").write_text("[]"), "must be an object"),
    "not text": (lambda f: (f / "plan.json").write_bytes(b"\xff\xfe\x00"), "cannot read"),
    "no version": (lambda f: edit(f, lambda d: d.pop("version")), "keys type, version and data"),
    "new version": (lambda f: edit(f, lambda d: d.update(version=3)), "reads versions 1 and 2"),
    "other type": (lambda f: edit(f, lambda d: d.update(type="x")), "has type 'x'"),
    "odd type": (lambda f: edit(f, lambda d: d.update(type=["x"])), "has type"),
    "unknown key": (lambda f: edit(f, lambda d: d["data"].update(evil=1)), "evil: Extra"),
    "unknown method": (lambda f: edit(f, lambda d: d["data"]["methods"][0].update(type="x")), "'x'"),
    "wrong type": (
        lambda f: edit(f, lambda d: d["data"]["methods"][0]["data"].update(keep="lots")),
        "keep: Input",
    ),
    "out of range": (
        lambda f: edit(f, lambda d: d["data"]["methods"][0]["data"].update(keep=2)),
        "keep: Input",
    ),
    "missing key": (lambda f: edit(f, lambda d: d["data"].pop("methods")), "methods must be a list"),
    "no methods": (lambda f: edit(f, lambda d: d["data"].update(methods=[])), "methods: Tuple"),
    "half a version 1": (lambda f: edit(f, lambda d: d.update(version=1)), "version 1 and damaged"),
    "newer release": (
        lambda f: edit(f, lambda d: d["data"]["versions"].update(sparsight="9.0.0")),
        "made by sparsight 9.0.0",
    ),
    "no release": (
        lambda f: edit(f, lambda d: d["data"]["versions"].update(sparsight="new")),
        "which is no version",
    ),
    "no weights": (lambda f: next(f.glob("weights-*")).unlink(), "safetensors is missing"),
    "cut weights": (lambda f: cut(next(f.glob("weights-*"))), "is damaged"),
    "huge shape": (lambda f: huge(next(f.glob("weights-*"))), "is damaged"),
    "other tensor": (
        lambda f: save_file({"x": torch.zeros(1)}, next(f.glob("weights-*"))),
        "'model.blocks.1.mlp.fc1.bias' is missing from weights",
    ),
    "link out": (lambda f: link_out(f), "not a plain file inside"),
}


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def huge(path):
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def link_out(folder):
    weights = next(folder.glob("weights-*"))
    elsewhere = folder.parent / "elsewhere.safetensors"
    weights.rename(elsewhere)
    weights.symlink_to(elsewhere)


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_and_hostile_runs_are_refused_in_one_sentence(tmp_path, damage, reason):
    folder = tmp_path / "run"
    sparsight.save(full_plan(make_model("augreg")), folder)
    damage(folder)
    with pytest.raises(sparsight.PlanError, match=reason) as caught:
        sparsight.load(folder)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"layers": ()}, "layers is empty"),
        ({"layers": (3, 1)}, "must rise"),
        ({"layers": (-1,)}, "greater than or equal to 0"),
        ({"layers": "most"}, "layers"),
        ({"layers": (1, 2, 4), "groups": ((1, 2, 4),)}, "consecutive"),
        ({"layers": (1, 2), "groups": ((2, 3),)}, r"not sparse: \[3\]"),
        ({"layers": (1, 2), "groups": ((1, 2), (2,))}, "two groups"),
        ({"layers": "all", "groups": ((1, 2),)}, "groups need layers"),
        ({"keep": 0}, "greater than 0"),
        ({"keep": 1.5}, "less than or equal to 1"),
        ({"score": "guess"}, "score"),
        ({"scorer": "exact"}, "scorer"),
        ({"completion": "last"}, "completion"),
        ({"keeep": 0.5}, "keeep"),
    ],
)
def test_wrong_settings_are_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        sparsight.SVE(**settings)


def test_a_run_of_a_release_with_fewer_settings_still_loads(tmp_path):
    plan = full_plan(make_model("augreg"))
    text = plan.to_json()
    older = json.loads(text)
    del older["data"]["methods"][0]["data"]["completion"]  # as written before there was such a setting
    written = json.dumps(older, indent=2, sort_keys=True) + "\n"
    sparsight.save(plan, tmp_path)
    (tmp_path / "plan.json").write_text(written)
    (tmp_path / weights_file(text)).rename(tmp_path / weights_file(written))
    assert sparsight.load(tmp_path) == plan


def version_1(folder, plan, **settings):
    """A run folder as the first edition wrote it, of a plan with SVE."""
    from sparsight.run import save_plan

    save_plan(plan, folder)
    content = json.loads((folder / "plan.json").read_text())
    content["version"], data = 1, content["data"]
    (method,) = data.pop("methods")
    kept = {name: method["data"][name] for name in ("groups", "keep", "keep_queries", "layers")}
    kept |= {name: method["data"][name] for name in ("min_tokens", "sample_every")}
    kept |= {"scorer": method["data"]["score"], **settings}
    data["method"] = {"type": "sve", "version": 1, "data": kept}
    data["tensors"] = {old_name(name): info for name, info in data["tensors"].items()}
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    (folder / "plan.json").write_text(text)
    next(folder.glob("weights-*")).unlink()
    tensors = {old_name(name): value.contiguous() for name, value in plan.weights.items()}
    save_file(tensors, folder / weights_file(text))


def old_name(name):
    """ "sve.3.projector" was "sve.projector.3"."""
    parts = name.split(".")
    return f"sve.projector.{parts[1]}" if name.startswith("sve.") else name


@pytest.mark.parametrize(
    "settings", [{}, {"mlp_keep": 1.0, "mlp_by": "salience"}, {"mlp_keep": [1, 1, 1]}]
)
def test_a_run_of_version_1_gives_the_same_model(tmp_path, settings):
    model = make_model("augreg")
    images, plan = make_images(model), full_plan(model)
    version_1(tmp_path, plan, **settings)
    assert '"scorer": "linear"' in (tmp_path / "plan.json").read_text()
    loaded = sparsight.load(tmp_path)
    assert loaded == plan
    wanted = features(sparsight.apply(model, plan), images)
    sparsight.restore(model)
    assert torch.equal(features(sparsight.apply(model, tmp_path), images), wanted)


@pytest.mark.parametrize("share", [0.25, [1, 0.5, 1]])
def test_a_run_of_version_1_that_routes_mlps_is_refused_with_the_command(tmp_path, share):
    version_1(tmp_path, full_plan(make_model("augreg")), mlp_keep=share)
    command = "sparsight optimize timm:x --images DIR --method sve --method mlp-routing --out RUN"
    with pytest.raises(sparsight.PlanError, match=f"version 1 .*make it anew with {command}"):
        sparsight.load(tmp_path)


def test_runs_of_other_methods_of_version_1_are_read():
    spot = Plan(methods=(sparsight.SPOT(stages=(1, 2), rho=0.5),))
    content = json.loads(spot.to_json())
    (method,) = content["data"].pop("methods")
    for name in ("completion", "taps"):  # there were none
        del method["data"][name]
    content["version"], content["data"]["method"] = 1, method | {"version": 1}
    assert Plan.from_json(json.dumps(content)) == spot


def test_tensors_of_every_method_are_saved_and_loaded(tmp_path):
    model = make_model("augreg")
    sve = sparsight.SVE(layers=(0,), completion="map", score="linear", min_tokens=0)
    leave = sparsight.EarlyExit(after=(1,), score="map-error", bound="calibrated", min_tokens=0)
    plan = plan_of(model, sve, leave, sparsight.MLPRouting(layers=(2,), score="map-error"))
    names = {"sve.0.map", "sve.0.projector", "early-exit.2.bound", "early-exit.2.error",
             "early-exit.2.map.3", "mlp-routing.2.map", "mlp-routing.2.error"}  # fmt: skip
    assert set(plan.weights) == names
    sparsight.save(plan, tmp_path)
    assert sparsight.load(tmp_path) == plan

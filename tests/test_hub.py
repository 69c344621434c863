"""Runs on the hub: what is sent and what never is, what comes back, and every way it can go wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_images, make_model, run_features
from hub_stub import lay_cache, serving
from PIL import Image
from test_cli import run  # noqa: F401  (a fixture)
from test_plan_and_run import full_plan

import sparsight
from sparsight.cli.report import finish
from sparsight.files import write_json
from sparsight.hub import Reference, referred
from sparsight.images import ImageFolder
from sparsight.run import PLAN_FILE
from sparsight.stages.measure import measure
from sparsight.tasks.evaluate import evaluate

# huggingface_hub sends large files by an argument that httpx2 is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

COMMIT = "0123456789" * 4
BASE = f"hf:owner/base@{COMMIT}"
TOKEN = "hf_" + "x" * 34
NAME = "my secret holiday"  # of pictures
SECRETS = (NAME, "private album", TOKEN)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run with everything a run can have, and the folder of pictures it was measured on."""
    folder = tmp_path_factory.mktemp("home of a user")
    pictures, place = folder / "private album", folder / "run"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{NAME} {i}.png")
    model = make_model("augreg")
    plan = full_plan(model).at_any_size().with_(source=BASE, versions={"sparsight": "0.2.0"})
    sparsight.save(plan, place)
    (place / "command.txt").write_text(f"sparsight optimize --images {pictures} --token {TOKEN}\n")
    images = ImageFolder(pictures, (64, 96))
    measured = measure(model, plan, images, [(64, 96)], repeats=1)
    write_json(place / "measure.json", measured)
    finish(place, model, plan, images, measured=measured)
    result = evaluate(model, plan, "features", pictures)
    result["skipped"] = [f"cannot read {pictures / NAME}: truncated"]
    write_json(place / "evaluate-features.json", result)
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stub of the hub, an empty cache, and a token."""
    from huggingface_hub import constants, hf_api

    with serving() as (stub, address):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(hf_api.api, "endpoint", address)  # which it took when it was made
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield stub


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No hub, and a cache that is empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sent_text(files):
    """All that is in files, as text."""
    return "\n".join(data.decode("latin-1") for data in files.values())


def pushed_files(home, **how):
    """What a push would send, by name, without a hub."""
    from tempfile import TemporaryDirectory

    from sparsight.share.contents import contents_of

    with TemporaryDirectory() as place:
        contents_of(home / "run", "me/run", Path(place), how.get("base"), how.get("pictures", False))
        return {path.name: path.read_bytes() for path in Path(place).iterdir()}


def test_a_pushed_run_comes_back_to_the_bit_and_moves_the_delta_alone(home, hub):
    model = make_model("augreg")
    images, plan = make_images(model), sparsight.load(home / "run")
    wanted = run_features(sparsight.apply(model, plan), images)
    sparsight.restore(model)
    said = []
    done = sparsight.push(home / "run", "me/run", say=said.append)

    got = hub.files("me/run")
    assert {name: len(data) for name, data in got.items() if name in done.files} == done.files
    assert all(
        any(f"{size:,} bytes  {name}" in line for line in said) for name, size in done.files.items()
    )
    assert done.commit.endswith(hub.repos["me/run"]["refs"]["main"])
    hub.sent.clear()
    back = sparsight.from_pretrained("me/run")
    assert back.methods == plan.methods
    assert (back.source, back.model) == (plan.source, plan.model)
    assert torch.equal(run_features(sparsight.apply(model, back), images), wanted)
    fetched = sum(size for path, size in hub.sent if "/resolve/" in path)
    names = [name for name in done.files if name.startswith(("plan", "weights", "config"))]
    assert len(names) == 3
    assert fetched == sum(done.files[name] for name in names)
    hub.sent.clear()
    sparsight.restore(model)
    sparsight.apply(model, "hub:me/run@" + hub.repos["me/run"]["refs"]["main"])  # all of it is cached
    assert not [path for path, _ in hub.sent if "/resolve/" in path]


def test_the_same_in_a_new_process_with_an_empty_cache(home, tmp_path):
    with serving() as (stub, address):
        stub.make("me/run", pushed_files(home))
        code = (
            "import sparsight; p = sparsight.from_pretrained('me/run');"
            "print(sorted(p.weights), float(p.weights['model.blocks.1.mlp.fc1.bias'].sum()))"
        )
        away = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | away | {"HF_HUB_DISABLE_XET": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    plan = sparsight.load(home / "run")
    total = float(plan.weights["model.blocks.1.mlp.fc1.bias"].sum())
    assert done.stdout.strip() == f"{sorted(plan.weights)} {total}", done.stderr


def test_nothing_of_the_user_is_sent_unless_asked(home):
    files = pushed_files(home)
    weights = next(name for name in files if name.startswith("weights"))
    assert set(files) == {
        "README.md", "config.json", "evaluate-features.json", "measure.json", "plan.json", weights,
    }  # fmt: skip
    everything = sent_text(files)
    for secret in (*SECRETS, str(home), str(Path.home()), "truncated"):
        assert secret not in everything


def test_with_pictures_their_names_go_but_no_place_of_this_machine(home):
    files = pushed_files(home, pictures=True)
    assert {"look.safetensors", "report.html"} < set(files)
    assert "command.txt" not in files
    everything = sent_text(files)
    assert f"{NAME} 0.png" in everything
    for secret in (str(home), str(Path.home()) + "/", TOKEN):
        assert secret not in everything


def test_the_card_tells_what_was_measured(home):
    from huggingface_hub import ModelCard

    card = ModelCard(pushed_files(home)["README.md"].decode())
    assert card.data.library_name == "sparsight"
    assert (card.data.base_model, card.data.base_model_relation) == ("owner/base", "adapter")
    measured = json.loads((home / "run" / "measure.json").read_text())
    sparse, fidelity, protocol = measured["cases"][1], measured["fidelity"], measured["protocol"]
    row = next(line for line in card.text.splitlines() if "| sparse |" in line)
    for figure in (
        f"{sparse['latency_ms']:.1f} ms", f"{sparse['speedup']:.2f}x",
        f"{100 * fidelity['relative_error']:.1f} %", f"{100 * fidelity['relative_error_worst']:.1f} %",
    ):  # fmt: skip
        assert figure in row
    for said in (protocol["machine"], protocol["dtype"], protocol["baseline"], BASE, COMMIT):
        assert said in card.text
    assert "### features, on 3 pictures (of which data, is not told)" in card.text
    assert (
        "Other machines, number formats and resolutions than those named: **not measured**" in card.text
    )


def test_the_card_says_what_was_not_measured(tmp_path):
    sparsight.save(full_plan(make_model("augreg")), tmp_path)
    card = sparsight.push(tmp_path, "me/run", dry_run=True).card
    for said in ("Speed: **not measured**", "features move: **not measured**", "by a task"):
        assert said in card
    assert "not pinned" in card


def test_a_case_that_ran_dense_and_results_of_another_plan_are_told(home, tmp_path):
    plan = sparsight.load(home / "run")
    measured = json.loads((home / "run" / "measure.json").read_text())
    measured["cases"][1]["gflops"] = measured["cases"][0]["gflops"]
    sparsight.save(plan, tmp_path)
    write_json(tmp_path / "measure.json", measured)
    assert "the plan **ran dense**" in sparsight.push(tmp_path, "me/run", dry_run=True).card
    sparsight.save(plan.changed(plan.sve.model_copy(update={"keep": 0.9})), tmp_path)
    done = sparsight.push(tmp_path, "me/run", dry_run=True)
    assert "measure.json" not in done.files
    assert "Speed: **not measured**" in done.card
    assert any("of other settings than plan.json" in note for note in done.notes)


def test_a_dry_run_speaks_to_no_hub(home, hub, run):  # noqa: F811
    code, out, err = run("push", home / "run", "me/run", "--dry-run")
    assert code == 0, err
    assert out.startswith("---\n")
    assert re.search(r"[\d,]+ bytes in 6 files to me/run", err)
    assert not hub.requests


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"reasons": ("made in /home/someone/secret/place",)}, "would tell a place of this machine"),
        ({"reasons": (r"made in C:\Users\someone\x",)}, "would tell a place of this machine"),
        ({"reasons": (f"the worst is {NAME} 0.png",)}, "would tell the name of a picture"),
        ({"reasons": ("the worst is Übergröße.png",)}, "would tell the name of a picture"),
        ({"recipe": {"how": {"out": "/made in/here"}}}, "would tell a place of this machine"),
        ({"reasons": (f"with {TOKEN}",)}, "would tell a token"),
    ],
)
def test_what_came_into_a_plan_by_another_way_is_refused(
    home, hub, tmp_path, monkeypatch, change, reason
):
    (tmp_path / "made in" / "here").mkdir(parents=True)
    monkeypatch.chdir(made := tmp_path / "made in" / "here")
    change = json.loads(json.dumps(change).replace("/made in/here", str(made)))
    sparsight.save(sparsight.load(home / "run").with_(**change), tmp_path / "run")
    measured = json.loads((home / "run" / "measure.json").read_text())
    measured["fidelity"]["by_image"][1]["name"] = "album/Übergröße.png"
    write_json(tmp_path / "run" / "measure.json", measured)
    with pytest.raises(sparsight.SparsightError, match=reason) as caught:
        sparsight.push(tmp_path / "run", "me/run")
    assert "nothing was sent" in str(caught.value)
    assert not hub.requests


@pytest.mark.parametrize(
    "damage", [{"cases": [{"arm": "dense"}]}, {"cases": 3}, {"protocol": []}, {"fidelity": 1}]
)
def test_results_of_another_kind_are_refused(home, tmp_path, damage):
    measured = json.loads((home / "run" / "measure.json").read_text())
    sparsight.save(sparsight.load(home / "run"), tmp_path)
    write_json(tmp_path / "measure.json", measured | damage)
    with pytest.raises(sparsight.SparsightError, match="not what this version writes"):
        sparsight.push(tmp_path, "me/run", dry_run=True)


def test_pictures_without_names_are_no_secret_and_damaged_results_are_told(home, tmp_path):
    measured = json.loads((home / "run" / "measure.json").read_text())
    for place, row in enumerate(measured["fidelity"]["by_image"]):
        row["name"] = f"picture {place}"
    sparsight.save(sparsight.load(home / "run"), tmp_path)
    write_json(tmp_path / "measure.json", measured)
    (tmp_path / "evaluate-features.json").write_text("{")
    done = sparsight.push(tmp_path, "me/run", dry_run=True)
    assert "measure.json" in done.files
    assert any("evaluate-features.json cannot be read" in note for note in done.notes)


@pytest.mark.parametrize(
    ("source", "base", "told", "repo", "note"),
    [
        (BASE, None, BASE, "owner/base", None),
        ("/home/someone/model", None, None, None, "does not say which model"),
        ("models/mine", None, None, None, "does not say which model"),
        ("timm:local-dir:models/mine", None, None, None, "does not say which model"),
        (None, BASE, BASE, "owner/base", None),
        ("/home/someone/model", BASE, BASE, "owner/base", None),
        ("demo", None, "demo", None, None),
        ("hf:owner/base", None, "hf:owner/base", "owner/base", "names no commit"),
        (
            f"timm:vit_tiny_patch16_224@{COMMIT}", None, f"timm:vit_tiny_patch16_224@{COMMIT}",
            "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", None,
        ),
        (
            f"timm:hf-hub:owner/base@{COMMIT}", None, f"timm:hf-hub:owner/base@{COMMIT}", "owner/base",
            None,
        ),
    ],
)  # fmt: skip
def test_the_base_is_told_as_others_can_find_it(source, base, told, repo, note):
    from sparsight.share.base import base_of

    found = base_of(full_plan(make_model("augreg")).with_(source=source), base)
    assert (found.source, found.repo) == (told, repo)
    assert len(found.fingerprint) == 64
    assert found.note is None if note is None else note in found.note


@pytest.mark.parametrize(
    "base", ["/home/someone/model", "owner/base", "hf:", "hf:../x", "timm:local-dir:x"]
)
def test_a_base_that_others_do_not_have_is_refused(home, base):
    with pytest.raises(sparsight.SparsightError, match="no model that others have"):
        sparsight.push(home / "run", "me/run", base=base, dry_run=True)


def test_pushing_again_leaves_nothing_of_before(home, hub):
    sparsight.push(home / "run", "me/run", with_pictures=True)
    before = set(hub.files("me/run"))
    hub.commit("me/run", {"LICENSE": b"mine"})
    sparsight.push(home / "run", "me/run")
    after = set(hub.files("me/run"))
    assert {"report.html", "look.safetensors"} <= before - after
    assert after - before == {"LICENSE"}


def test_no_token_is_in_any_file_or_body(home, hub, tmp_path):
    sparsight.push(home / "run", "me/run")
    sparsight.from_pretrained("me/run")
    assert all(TOKEN.encode() not in body for _, _, body, _ in hub.requests)
    assert any(token == f"Bearer {TOKEN}" for *_, token in hub.requests)
    assert TOKEN not in sent_text(hub.files("me/run"))
    for path in (tmp_path / "cache").rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


PUSH_REFUSED = {
    "something else there": (
        lambda hub: hub.make("me/run", {"model.safetensors": b"x"}), {},
        "holds something else than a run",
    ),
    "a public one": (lambda hub: hub.make("me/run"), {"private": True}, "is there already and public"),
    "a hub that fails": (lambda hub: setattr(hub, "failing", 503), {}, "the hub answered 503"),
    "a hub that forbids": (lambda hub: setattr(hub, "failing", 403), {}, "does not let you"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "how", "reason"), PUSH_REFUSED.values(), ids=PUSH_REFUSED)
def test_a_push_that_may_not_be_sends_nothing(home, hub, before, how, reason):
    before(hub)
    known = {name: hub.files(name) for name in hub.repos}
    with pytest.raises(sparsight.HubError, match=reason):
        sparsight.push(home / "run", "me/run", **how)
    assert {name: hub.files(name) for name in hub.repos} == known


def test_a_push_without_a_token_or_online_says_so(home, hub, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(sparsight.HubError, match="log in with: hf auth login"):
        sparsight.push(home / "run", "me/run")
    assert not hub.repos
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(sparsight.HubError, match="HF_HUB_OFFLINE is set"):
        sparsight.push(home / "run", "me/run")


def foreign_config(files):
    return {"config.json": b'{"model_type": "vit"}', "model.safetensors": b"x"}


FETCH_REFUSED = {
    "absent": (lambda hub, files: None, "me/run", "there is no model me/run"),
    "gated": (lambda hub, files: hub.make("me/run", gated=True), "me/run", "is gated"),
    "no run": (
        lambda hub, files: hub.make("me/run", foreign_config(files)), "me/run",
        "holds no run of sparsight: there is no plan.json in it; a model is given as MODEL",
    ),
    "empty": (lambda hub, files: hub.make("me/run"), "me/run", "holds no run of sparsight"),
    "no such branch": (
        lambda hub, files: hub.make("me/run", files), "me/run@gone", "no revision 'gone'",
    ),
    "no such commit": (
        lambda hub, files: hub.make("me/run", files), f"me/run@{COMMIT}", f"no revision '{COMMIT}'",
    ),
    "no weights": (
        lambda hub, files: hub.make("me/run", {"plan.json": files["plan.json"]}), "me/run",
        r"weights-\w+.safetensors is missing",
    ),
    "a hub that fails": (lambda hub, files: setattr(hub, "failing", 500), "me/run", "answered 500"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "repo", "reason"), FETCH_REFUSED.values(), ids=FETCH_REFUSED)
def test_what_cannot_be_fetched_is_told_in_one_sentence(home, hub, before, repo, reason):
    before(hub, pushed_files(home))
    for fetch in (sparsight.from_pretrained, lambda name: sparsight.load(f"hub:{name}")):
        with pytest.raises(sparsight.SparsightError, match=reason) as caught:
            fetch(repo)
        assert len(str(caught.value)) <= 300


def tampered(files, name, change):
    """With one file of a pushed run changed."""
    found = next(one for one in files if one.startswith(name))
    return files | {found: change(files[found])}


TAMPERED = {
    "the plan": ("plan.json", lambda data: data.replace(b'"because"', b'"becausf"')),
    "one bit of the weights": ("weights", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
}


@pytest.mark.parametrize(("name", "change"), TAMPERED.values(), ids=TAMPERED)
def test_a_file_that_is_not_what_was_pushed_is_refused(home, offline, name, change):
    snapshot = lay_cache(offline, "me/run", tampered(pushed_files(home), name, change))
    for place in ("hub:me/run", snapshot):
        with pytest.raises(sparsight.PlanError, match=f"{name}.*is not what was pushed"):
            sparsight.load(place)


def test_runs_in_the_cache_are_read_where_they_lie(home, offline):
    files = pushed_files(home)
    deeper = {f"best/{name}": data for name, data in files.items()}
    snapshot = lay_cache(offline, "me/run", files | deeper)
    plan, model = sparsight.load(home / "run"), make_model("augreg")
    for place in ("hub:me/run", "hub:me/run@" + "a" * 40, snapshot, snapshot / "best"):
        assert sparsight.load(place).methods == plan.methods
        sparsight.restore(sparsight.apply(model, place))


def test_the_verbs_that_only_read_take_a_run_by_its_name_on_the_hub(offline, tmp_path):
    from sparsight.encode.loading import open_model
    from sparsight.encode.settings import EncoderSettings

    plan = sparsight.Plan(methods=(sparsight.SVE(layers=(0, 1)),), source="demo", resolution=(256, 256))
    sparsight.save(plan, tmp_path / "run")
    files = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    lay_cache(offline, "me/run", files)
    loaded = open_model(EncoderSettings(model="hub:me/run"))
    assert (loaded.plan, loaded.source, loaded.resolution) == (plan, "demo", (256, 256))


@pytest.mark.parametrize("name", ["plan.json", "weights"])
def test_a_link_of_the_cache_to_anywhere_else_is_refused(home, offline, tmp_path, name):
    snapshot = lay_cache(offline, "me/run", pushed_files(home))
    link = next(path for path in snapshot.iterdir() if path.name.startswith(name))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(link.read_bytes())
    link.unlink()
    link.symlink_to(elsewhere)
    with pytest.raises(sparsight.PlanError, match="is not a plain file inside"):
        sparsight.from_pretrained("me/run")


def test_blobs_that_repositories_share_are_the_caches_own(home, offline):
    snapshot = lay_cache(offline, "me/run", pushed_files(home))
    for blob in list((offline / "models--me--run" / "blobs").iterdir()):
        shared = offline / "blobs" / blob.name[:2] / blob.name
        shared.parent.mkdir(parents=True, exist_ok=True)
        blob.rename(shared)
        blob.symlink_to(os.path.relpath(shared, blob.parent))
    assert sparsight.load(snapshot).source == BASE


def test_a_folder_here_is_told_where_the_hub_has_none(home, hub, monkeypatch):
    monkeypatch.chdir(home)
    (home / "me" / "run").mkdir(parents=True)
    with pytest.raises(sparsight.HubError, match=r"there is no model me/run .* sparsight\.load"):
        sparsight.from_pretrained("me/run")


def test_a_run_that_is_not_cached_is_not_fetched_while_offline(offline):
    with pytest.raises(sparsight.HubError, match=r"is not in the cache .* HF_HUB_OFFLINE"):
        sparsight.from_pretrained("me/run")


def test_a_hub_that_is_not_there_is_told_unless_the_cache_has_the_run(home, hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(
        sparsight.HubError, match="cannot be reached, and the cache does not have me/run"
    ):
        sparsight.from_pretrained("me/run")
    lay_cache(constants.HF_HUB_CACHE, "me/run", pushed_files(home))
    assert sparsight.from_pretrained("me/run").source == BASE


def test_a_cache_that_cannot_be_written_is_read_or_told(home, hub, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    whole = huggingface_hub.snapshot_download

    def read_only(*arguments, local_files_only=False, **how):
        if not local_files_only:
            raise OSError(30, "Read-only file system")
        return whole(*arguments, local_files_only=True, **how)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", read_only)
    with pytest.raises(sparsight.HubError, match=r"cannot use the hub's cache .*Read-only .* HF_HOME"):
        sparsight.from_pretrained("me/run")
    lay_cache(constants.HF_HUB_CACHE, "me/run", pushed_files(home))
    assert sparsight.from_pretrained("me/run").source == BASE


@pytest.mark.parametrize("name", ["mlp.fc1.weight", "attn.qkv.weight", "attn.proj.bias", "norm2.weight"])
def test_a_base_that_changed_is_refused_by_the_tensor_that_differs(home, offline, name):
    lay_cache(offline, "me/run", pushed_files(home))
    model = make_model("augreg")
    model.blocks[2].get_parameter(name).data += 0.1
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        sparsight.PlanError, match=rf"block 2 of this model differs, at {re.escape(name)} "
    ):
        sparsight.apply(model, "hub:me/run")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "name",
    ["", "run", "a/b/c", "/run", "me/", "me/ru n", "../run", "me/..", "me/run@", "me/run.git", "me/a--b",
     "me/run\n", "https://huggingface.co/me/run", "m" * 97 + "/run", "me/run@../../x", "me/run@a b"],
)  # fmt: skip
def test_names_that_are_none_are_refused_before_any_request(hub, name):
    for call in (sparsight.from_pretrained, lambda name: sparsight.load("hub:" + name)):
        with pytest.raises(sparsight.HubError, match=r"names no repository|is no revision"):
            call(name)
    assert not hub.requests


def test_references():
    assert referred("hub:me/run@v1.0") == Reference("me/run", "v1.0")
    assert referred(Path("hub:me/run")) == Reference("me/run")
    assert referred("runs/mine") is None
    assert Reference.read("me/run", "v1") == Reference("me/run", "v1")
    with pytest.raises(sparsight.HubError, match="names one revision"):
        sparsight.from_pretrained("me/run@v1", revision="v2")


def test_verbs_that_write_into_the_run_ask_for_a_copy_and_pull_makes_it(home, offline, tmp_path, run):  # noqa: F811
    snapshot = lay_cache(offline, "me/run", pushed_files(home))
    before = {path: path.read_bytes() for path in offline.rglob("*") if path.is_file()}
    for verb in (["measure"], ["report"], ["evaluate", "--task", "features", "--data", home]):
        for place in ("hub:me/run", snapshot):
            code, _, err = run(*verb[:1], place, *verb[1:])
            assert code == 1
            assert "take a copy with sparsight pull" in err
    with pytest.raises(sparsight.PlanError, match="in the hub's cache, where nothing is written"):
        sparsight.save(sparsight.load(snapshot), snapshot)
    assert {path: path.read_bytes() for path in offline.rglob("*") if path.is_file()} == before
    code, _, err = run("pull", "me/run", "--out", tmp_path / "mine")
    assert code == 0, err
    assert sparsight.load(tmp_path / "mine") == sparsight.load("hub:me/run")
    assert not any(path.is_symlink() for path in (tmp_path / "mine").iterdir())
    assert (tmp_path / "mine" / "measure.json").is_file()
    assert run("report", tmp_path / "mine")[0] == 0
    code, _, err = run("pull", "me/run", "--out", tmp_path / "mine")
    assert (code, "is not empty" in err) == (1, True)
    assert sorted(os.listdir(tmp_path)) == ["cache", "mine"]
    assert PLAN_FILE in os.listdir(tmp_path / "mine")


def small_hf(seed):
    """A small model of transformers as the hub has it, by file."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as place:
        make_model("hf_dinov2", seed=seed).save_pretrained(place)
        return {path.name: path.read_bytes() for path in Path(place).iterdir()}


def small_timm(seed):
    """timm's smallest model, by file."""
    import timm
    from safetensors.torch import save

    torch.manual_seed(seed)
    return {"model.safetensors": save(timm.create_model("test_vit").state_dict())}


@pytest.mark.parametrize(
    ("name", "repo", "files"),
    [
        ("hf:owner/base", "owner/base", small_hf),
        ("timm:test_vit", "timm/test_vit.r160_in1k", small_timm),
    ],
)
def test_a_model_of_the_hub_is_known_by_its_commit_and_stays_when_the_name_moves_on(
    hub, name, repo, files
):
    from sparsight.models import load_model

    first = hub.make(repo, files(0))
    loaded = load_model(name, (160, 160), pretrained=True)
    assert loaded.source == f"{name}@{first}"
    wanted = {key: value.clone() for key, value in loaded.model.state_dict().items()}
    second = hub.commit(repo, files(1))
    again = load_model(loaded.source, (160, 160), pretrained=True)
    assert again.source == loaded.source
    assert all(torch.equal(value, wanted[key]) for key, value in again.model.state_dict().items())
    moved = load_model(f"{name}@main", (160, 160), pretrained=True)
    assert moved.source == f"{name}@{second}"
    assert not all(torch.equal(value, wanted[key]) for key, value in moved.model.state_dict().items())
    with pytest.raises(sparsight.SparsightError, match="cannot load") as caught:
        load_model(f"{name}@{COMMIT}", (160, 160), pretrained=True)
    assert len(str(caught.value)) <= 300
    with pytest.raises(sparsight.SparsightError, match="with --pretrained only"):
        load_model(loaded.source, (160, 160))


@pytest.mark.parametrize("name", ["timm:test_convnext4@main", "timm:vit_giant_patch14_224@main"])
def test_a_revision_of_what_is_not_on_the_hub_is_refused(name):
    from sparsight.models import load_model

    with pytest.raises(sparsight.SparsightError, match=r"no revisions there|no model"):
        load_model(name, (160, 160), pretrained=True)

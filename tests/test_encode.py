"""Encoding a folder: each picture once, the same to the bit after any interruption, or with a reason."""

import importlib
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("pyarrow")

import pyarrow.dataset
import pyarrow.parquet
from conftest import heed_interrupts
from encode_data import BROKEN, COUNT, SIZES, SPARSE_FROM, content_of, encode, fill_folder, make_run
from safetensors.torch import load_file
from test_cli import run as command  # noqa: F401  # a fixture

import sparsight
from sparsight.attach import as_plan
from sparsight.encode import EncoderSettings, How
from sparsight.encode import encode as run_encode
from sparsight.encode.encoder import Encoder
from sparsight.encode.ledger import Ledger
from sparsight.encode.sizes import grid_within
from sparsight.errors import ImagesError, NotFiniteError, PlanError, SparsightError
from sparsight.extras import extra
from sparsight.families import family_of
from sparsight.identity import identity
from sparsight.images import ImageFolder
from sparsight.models import load_model
from sparsight.stages.bench import bench_of
from sparsight.stages.complete import complete
from sparsight.stages.observe import stages_left


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, a folder of pictures, and both encoded with everything there is."""
    place = tmp_path_factory.mktemp("encode")
    run, images = make_run(place), fill_folder(place / "images")
    summary = encode(run, images, place / "sink", outputs=("pooled", "cls", "maps"), taps=(1,))
    return run, images, place / "sink", summary


def rows_of(sink):
    return pyarrow.dataset.dataset(sink / "features").to_table().to_pylist()


def test_every_picture_is_there_once_or_has_a_reason(made):
    _, images, sink, summary = made
    rows = rows_of(sink)
    left = pyarrow.parquet.read_table(sink / "quarantine.parquet").to_pylist()
    ids = [row["id"] for row in rows] + [row["id"] for row in left]
    assert sorted(ids) == sorted(str(p.relative_to(images)) for p in images.rglob("*.png"))
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)  # in the source's order
    assert sorted(int(row["id"][-7:-4]) for row in left) == list(BROKEN)
    assert {row["reason"].partition(" (")[0] for row in left} == {
        "no picture of a known kind",
        "truncated",
    }
    assert (summary["sink"]["pictures"], summary["sink"]["quarantined"]) == (COUNT - 2, 2)
    small = [row for row in rows if (row["height"], row["width"]) == SIZES[2]]
    assert summary["sink"]["ran_dense"] == len(small)
    for row in rows:
        assert row["ran_dense"] == (row["grid_rows"] * row["grid_columns"] < SPARSE_FROM)


def test_what_is_stored_is_what_the_model_says(made):
    """Against the model run by hand on one picture: vectors, maps and taps."""
    run, images, sink, _ = made
    row = next(r for r in rows_of(sink) if (r["height"], r["width"]) == SIZES[0])
    plan = sparsight.load(run)
    loaded = load_model(plan.source, plan.resolution)
    pictures = ImageFolder(images, SIZES[0], loaded.mean, loaded.std)
    place = [pictures.name_of(n) for n in range(len(pictures))].index(row["id"])
    model, caught = sparsight.apply(loaded.model, plan), {}
    model.blocks[1].register_forward_hook(lambda m, a, out: caught.update(tap=out))
    with torch.inference_mode():
        tokens = model.forward_features(pictures[place][None])
    assert torch.allclose(torch.tensor(row["cls"]), tokens[0, 0], atol=1e-4)
    assert torch.allclose(torch.tensor(row["pooled"]), tokens[0, 1:].mean(0), atol=1e-4)
    assert torch.allclose(torch.tensor(row["tap1"]), caught["tap"][0, 1:].mean(0), atol=1e-4)
    maps = load_file(sink / row["map"])
    wanted = tokens[0, 1:].view(6, 8, -1)
    found = maps[f"map/{row['id']}"]
    assert found.dtype == torch.float16
    assert torch.allclose(found.float(), wanted, atol=2e-3 * wanted.abs().max().item())
    assert maps[f"map_tap1/{row['id']}"].shape == (6, 8, 48)


# Where a run is stopped: the call that raises, and how often it goes well before.
STOPS = {
    "before a part": ("sparsight.encode.batches.look", 9),
    "before its maps": ("sparsight.encode.sinks.parquet.write_maps", 1),
    "before its table": ("sparsight.encode.sinks.parquet.table_of", 1),
    "before its marker": ("sparsight.encode.ledger.Ledger.mark", 2),
    "before the listing": ("sparsight.encode.ledger.Ledger.add", 0),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("stop", STOPS)
def test_interrupted_and_resumed_it_is_the_same_to_the_bit(made, tmp_path, monkeypatch, stop, error):
    run, images, straight, _ = made
    name, good = STOPS[stop]
    owner, _, attribute = name.rpartition(".")
    holder = Ledger if owner.endswith("Ledger") else importlib.import_module(owner)
    usual, calls = getattr(holder, attribute), []

    def stopped(*args):
        calls.append(1)
        if len(calls) > good:
            raise error
        return usual(*args)

    kept = {"outputs": ("pooled", "cls", "maps"), "taps": (1,)}
    with monkeypatch.context() as patch:
        patch.setattr(holder, attribute, stopped)
        with pytest.raises((KeyboardInterrupt, OSError)):
            encode(run, images, tmp_path / "sink", **kept)
    there = len(list((tmp_path / "sink" / "done").glob("*.json")))
    summary = encode(run, images, tmp_path / "sink", **kept)
    assert content_of(tmp_path / "sink") == content_of(straight)
    assert summary["run"]["pictures"] < COUNT - 2 if there else summary["run"]["pictures"] == COUNT - 2
    assert not list((tmp_path / "sink").rglob("*.tmp"))


def test_killed_it_goes_on(made, tmp_path):
    run, images, straight, _ = made
    out = tmp_path / "sink"
    line = [
        sys.executable, "-m", "sparsight", "encode", run, "--images", images, "--out", out, "--part", 7,
        "--max-tokens", 48, "--batch", 3, "--threads", 1, "--output", "pooled", "--output", "cls",
        "--output", "maps", "--taps", 1,
    ]  # fmt: skip
    process = subprocess.Popen([*map(str, line)], stderr=subprocess.PIPE, preexec_fn=heed_interrupts)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (out / "done" / "000000.json").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    encode(run, images, out, outputs=("pooled", "cls", "maps"), taps=(1,))
    assert content_of(out) == content_of(straight)


def test_a_finished_sink_is_left_alone_and_what_is_new_is_added(made, tmp_path):
    run, _, _, _ = made
    images, out = fill_folder(tmp_path / "images", 10), tmp_path / "sink"
    encode(run, images, out)
    before = content_of(out)
    assert encode(run, images, out)["run"]["pictures"] == 0
    assert content_of(out) == before
    fill_folder(images, 12)  # which writes the first ten anew: another date, the same content
    repaired = images / "b" / "005.png"
    repaired.write_bytes((images / "b" / "003.png").read_bytes())
    summary = encode(run, images, out)
    assert summary["run"]["pictures"] == 3
    assert (summary["sink"]["pictures"], summary["sink"]["quarantined"]) == (12, 0)
    ids = [row["id"] for row in rows_of(out)]
    assert sorted(ids) == sorted(str(p.relative_to(images)) for p in images.rglob("*.png"))
    assert {name: content_of(out)[name] for name in before if name != "quarantine"} == {
        name: value for name, value in before.items() if name != "quarantine"
    }


def test_a_picture_that_changes_is_refused_after_and_left_out_before(made, tmp_path, monkeypatch):
    run, _, _, _ = made
    images, out = fill_folder(tmp_path / "images", 9), tmp_path / "sink"
    usual = Ledger.mark

    def meanwhile(ledger, part, tally):
        (images / "b" / "007.png").write_bytes(b"other")
        (images / "b" / "003.png").unlink(missing_ok=True)
        usual(ledger, part, tally)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "mark", meanwhile)
        summary = encode(run, images, out, How(part_pictures=3))
    reasons = summary["sink"]["reasons"]
    assert any("changed after it was listed" in reason for reason in reasons)
    assert any("No such file" in reason for reason in reasons)
    (images / "a" / "000.png").write_bytes((images / "a" / "004.png").read_bytes())
    before = content_of(out)
    with pytest.raises(
        ImagesError, match=r"1 pictures changed since they were encoded, the first: a/000.png"
    ):
        encode(run, images, out)
    assert content_of(out) == before


def test_a_source_that_is_gone_stops_the_run_and_fills_no_quarantine(made, tmp_path, monkeypatch):
    run, _, _, _ = made
    images, out = fill_folder(tmp_path / "images", 9), tmp_path / "sink"
    usual = Ledger.mark

    def meanwhile(ledger, part, tally):
        usual(ledger, part, tally)
        images.rename(tmp_path / "elsewhere") if images.exists() else None

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "mark", meanwhile)
        with pytest.raises(SparsightError, match=r"(?i)what was encoded is kept"):
            encode(run, images, out, How(part_pictures=3))
    (tmp_path / "elsewhere").rename(images)
    assert encode(run, images, out)["sink"]["pictures"] == 8


OTHER = {
    "size": ({"max_tokens": 40}, "features of other size"),
    "precision": ({"dtype": "bfloat16"}, "features of other precision"),
    "plan": ({"dense": True}, "features of other plan"),
    "outputs": ({"outputs": ("pooled",)}, "features of other outputs"),
    "taps": ({"taps": ()}, "features of other taps"),
    "class token": ({"outputs": ("cls", "cls")}, "must name each thing once"),
    "layer": ({"taps": (9,)}, "there is no layer 9 to tap"),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_features_never_mix(made, name):
    run, images, sink, _ = made
    changes, says = OTHER[name]
    before = content_of(sink)
    with pytest.raises((SparsightError, ValueError), match=says):
        encode(run, images, sink, **{"outputs": ("pooled", "cls", "maps"), "taps": (1,)} | changes)
    assert content_of(sink) == before


def test_another_model_and_a_foreign_sink_are_refused(made, tmp_path):
    run, images, _, _ = made
    plan = sparsight.load(run)
    model = load_model(plan.source, (64, 64)).model
    moved = identity(model, family_of(model)).model_copy(update={"dim": 64})
    other = sparsight.save(plan.with_(model=moved), tmp_path / "other")
    with pytest.raises(PlanError, match="made for another model"):
        encode(other, images, tmp_path / "sink")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(SparsightError, match=r"holds other things \(thesis.txt\)"):
        encode(run, images, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_two_runs_on_one_sink_refuse_each_other(made, tmp_path):
    run, images, _, _ = made
    with (
        Ledger(tmp_path / "sink").locked(),
        pytest.raises(SparsightError, match="another run is writing"),
    ):
        encode(run, images, tmp_path / "sink")
    assert encode(run, images, tmp_path / "sink")["sink"]["pictures"] == COUNT - 2


def test_features_that_are_not_finite_are_never_stored(made, tmp_path, monkeypatch):
    run, images, _, _ = made
    usual = Encoder.__call__

    def spoiled(encoder, batch, grid):
        found = usual(encoder, batch, grid)
        if grid == (4, 4):
            found["pooled"] = found["pooled"] * float("nan")
        return found

    monkeypatch.setattr(Encoder, "__call__", spoiled)
    summary = encode(run, images, tmp_path / "sink")
    assert summary["sink"]["reasons"]["the features are not finite"] > 0
    assert torch.isfinite(torch.tensor([row["pooled"] for row in rows_of(tmp_path / "sink")])).all()

    def all_spoiled(encoder, batch, grid):
        return {name: value * float("nan") for name, value in usual(encoder, batch, grid).items()}

    monkeypatch.setattr(Encoder, "__call__", all_spoiled)
    with pytest.raises(NotFiniteError, match="the features are not finite: check the weights"):
        encode(run, images, tmp_path / "none")


def test_sizes_are_kept_in_shape_and_within_the_budget():
    assert grid_within((96, 128), (16, 16), 48) == (6, 8)
    assert grid_within((4, 5), (16, 16), 48) == (1, 1)
    rows, columns = grid_within((3000, 4000), (16, 16), 1024)
    assert rows * columns <= 1024
    assert rows * columns > 0.93 * 1024  # two sides rounded down lose less than a patch each
    assert abs(rows / columns - 0.75) < 0.03
    with pytest.raises(ImagesError, match="too long and thin"):
        grid_within((1, 100_000), (16, 16), 1024)


def test_maps_take_no_more_than_was_said(made, tmp_path):
    run, images, _, _ = made
    said = []
    settings = EncoderSettings(model=str(run), resolution=(96, 128), outputs=("maps",))
    run_encode(settings, images, tmp_path / "sink", say=said.append)
    taken = sum(p.stat().st_size for p in (tmp_path / "sink").rglob("*") if p.is_file())
    words = next(text for text in said if "at most" in text).split("at most ")[1].split()
    most = float(words[0]) * {"kB,": 1e3, "MB,": 1e6}[words[1]]
    maps = COUNT * 6 * 8 * 48 * 2
    assert maps * 22 / 24 < taken < most * 1.005  # it is told with three digits


def test_the_command_line(made, command, tmp_path):  # noqa: F811
    run, images, _, _ = made
    line = ["encode", run, "--images", images, "--out", tmp_path / "sink", "--json", tmp_path / "s.json"]
    code, _, err = command(*line, "--resolution", "96x128", "--compare-dense", 4)
    assert code == 0, err
    assert "22 pictures encoded" in err
    assert "2 left out" in err
    written = json.loads((tmp_path / "s.json").read_text())
    assert written["compare_dense"]["pictures"] == 4
    assert written == json.loads((tmp_path / "sink" / "summary.json").read_text())
    page = (tmp_path / "sink" / "report.html").read_text()
    assert "a second over 4 pictures, decoding included" in page
    assert "http:" not in page
    assert "https:" not in page


REFUSED = {
    "no source": (["--images", "nowhere"], "there are no pictures at nowhere"),
    "odd source": (["--images", __file__], "is no source of pictures"),
    "patch size": (["--resolution", "100"], "the nearest that is: 96x96"),
    "both sizes": (["--resolution", "96", "--max-tokens", "9"], "exclude each other"),
    "taps": (["--taps", "x"], "not like 5,8"),
    "column": (["--column", "image"], "--column and --id are of tables"),
    "device": (["--device", "cuda:7"], "cannot be put on cuda:7"),
    "full disk": (["--out", "/dev/full/sink"], "/dev/full"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence(made, command, tmp_path, name):  # noqa: F811
    run, images, _, _ = made
    changes, says = REFUSED[name]
    given = {"--images": str(images), "--out": str(tmp_path / "sink")}
    given |= dict(zip(changes[::2], changes[1::2], strict=True))
    code, _, err = command("encode", run, *[word for pair in given.items() for word in pair])
    assert code == 1
    assert says in err
    assert "Traceback" not in err
    assert len(err) < 400


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(SparsightError, match=r"pip install 'sparsight\[lance\]'"):
        extra("lance")


def test_under_a_bound_each_picture_keeps_its_own_and_how_much_is_told(made, tmp_path):
    size, photos = (256, 320), tmp_path / "photos"
    photos.mkdir()
    for number, contrast in enumerate((1, 4, 12, 30, 60, 127)):
        pixels = np.random.default_rng(number).normal(127, contrast, (*size, 3)).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(photos / f"{number}.png")
    source = sparsight.load(made[0]).source
    loaded = load_model(source, size)
    model, images = loaded.model, ImageFolder(photos, size, loaded.mean, loaded.std)
    settings = sparsight.EarlyExit(
        after=(0,), keep=0.5, score="map-error", bound="calibrated", min_tokens=0
    )
    plan = complete(bench_of(model, images), as_plan(settings)).with_(source=source, resolution=size)
    run = sparsight.save(plan, tmp_path / "run")
    summary = encode(run, photos, tmp_path / "sink", max_tokens=320, batch=6)
    sparse = sparsight.apply(model, plan)
    kept = [round(100 * (stages_left(sparse, x[None]) == 0).float().mean().item()) for x in images]
    low, *_, high = sorted(kept)
    assert summary["sink"]["kept"] == {
        "early-exit": {"min": low, "median": sorted(kept)[2], "max": high}
    }
    assert low < high
    assert summary["sink"]["ran_dense"] == 0
    encode(run, photos, tmp_path / "alone", max_tokens=320, batch=1)
    both = [rows_of(tmp_path / sink) for sink in ("sink", "alone")]
    for together, alone in zip(*both, strict=True):
        assert together["id"] == alone["id"]
        # Products of other shapes round differently; another kept set would show as 1e-3.
        assert together["pooled"] == pytest.approx(alone["pooled"], abs=1e-5)

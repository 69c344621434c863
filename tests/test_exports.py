"""Out of Python: exported files against PyTorch, what they say of themselves, and what is refused."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jaxtyping
import pytest
import torch
from conftest import make_hf_swin, make_model, plan_of
from torch.export import Dim

import sparsight
from sparsight.attach import family_in
from sparsight.errors import SparsightError
from sparsight.exports import capture, formats, front, memory, parity
from sparsight.exports.counts import counts_of
from sparsight.exports.judged import judged_by_task
from sparsight.exports.standin import stand_in
from sparsight.identity import identity
from sparsight.ops import partition
from sparsight.ops.statistics import lattice_sample
from sparsight.stages.measure import measure


@pytest.fixture(autouse=True)
def unchecked():
    """The shape checks of the tests cannot be traced through: they would ask sizes that are open."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def memory_unmeasured(monkeypatch):
    """The memory of a call is measured in a process of its own, seconds for each file: in one test."""
    monkeypatch.setattr(parity, "peak_memory_mb", lambda *given: None)


ROOT = Path(__file__).parents[1]
SVE = sparsight.SVE(
    layers=(0,), keep=1 / 2, keep_queries=1 / 4, min_tokens=30, sample_every=4, completion="map"
)
LEAVING = sparsight.EarlyExit(after=(0,), keep=0.5, min_tokens=30)
RANGE = ((64, 80), (160, 144))  # 4 x 5 to 10 x 9 patches: on both sides of 30 tokens


def small(name="hf_dinov3"):
    changes = {"num_hidden_layers": 2} if name.startswith("hf") else {"depth": 2}
    return make_model(name, **changes)


def pictures(count=3, size=(160, 144)):
    return list(torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(5)))


def needs(*packages):
    """Skips by name what the machine has no package for."""
    missing = [name for name in packages if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


ENGINES = [
    "pt2",
    pytest.param("onnx", marks=needs("onnx", "onnxscript", "onnxruntime")),
    pytest.param("openvino", marks=needs("openvino")),
]


class Counting(torch.nn.Module):
    """Kept counts and the sample of a picture's tokens, as the methods have them."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        count = partition.kept_count(x.shape[1], 1 / 8, 5, 1024)
        chosen = partition.top(x, count, 5)
        return {
            "top": chosen, "others": partition.others(chosen, x.shape[1]),
            "in_order": partition.in_order(chosen, x.shape[1]),
            "sample": lattice_sample(x.shape[1], 5, 16),
        }  # fmt: skip


def test_one_graph_of_many_sizes_is_right_on_both_sides_of_every_branch():
    shapes = ({0: Dim.DYNAMIC, 1: Dim("n", min=40, max=7000)},)
    program = torch.export.export(Counting(), (torch.randn(2, 2001),), dynamic_shapes=shapes).module()
    # dense below 1024; 704 becomes 768 from 5376 on and 768 is 768 anyway from 5888 on
    for n in (40, 767, 1023, 1024, 5375, 5376, 5887, 5888, 7000):
        x = torch.randn(3, n)
        wanted, found = Counting()(x), program(x)
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), n


def test_the_branches_of_a_count_are_named():
    plan = sparsight.Plan(methods=(sparsight.SVE(layers=(0,), keep=1 / 8),))
    (kept,) = counts_of(plan, 1, (257, 7000))
    assert [(span.first, span.rule) for span in kept.spans] == [
        (257, "all: dense"), (1024, "the nearest 64"), (5372, "768 for 704 and 768"),
        (6396, "the nearest 64"),
    ]  # fmt: skip
    for span in kept.spans:
        assert span.kept == tuple(
            partition.kept_count(n, 1 / 8, 1, 1024) for n in (span.first, span.last)
        )


@pytest.mark.parametrize("format", ENGINES)
def test_one_file_for_a_range_of_sizes_equals_pytorch(format, tmp_path):
    model = small()
    plan = plan_of(model, SVE)
    (file,) = sparsight.export(
        model, plan, tmp_path, format, sizes=RANGE, dynamic=True, batch="dynamic",
        outputs=("features", "pooled", "map"), images=pictures(),
    )  # fmt: skip
    report = json.loads(parity.parity_place(file).read_text())
    assert not report["differs"]
    sizes = {row["size"] for row in report["cases"]}
    assert len(sizes) >= parity.CASES
    assert {"64x80", "160x144", "64x144", "160x80"} <= sizes
    assert {row["batch"] for row in report["cases"]} == {1, 3}
    assert all(row["error"] <= 1e-4 and row["overlap"] >= 0.999 for row in report["cases"])
    assert report["protocol"]["precision"] == "float32"

    opened = sparsight.open_exported(file)
    picture = torch.randn(2, 3, 96, 128)
    found, sparse = opened(picture), sparsight.apply(model, plan)
    with torch.no_grad():
        tokens = family_in(sparse).features(sparse, picture)
    torch.testing.assert_close(found["features"], tokens, atol=1e-3, rtol=1e-3)
    assert found["map"].shape == (2, 6, 8, 48)
    torch.testing.assert_close(found["map"].mean((1, 2)), found["pooled"], atol=1e-4, rtol=1e-3)
    with pytest.raises(SparsightError, match="takes pictures of 64x80 to 160x144, not 176x144"):
        opened(torch.randn(1, 3, 176, 144))
    with pytest.raises(SparsightError, match="16"):
        opened(torch.randn(1, 3, 100, 128))
    kinds = {place.name for place in tmp_path.iterdir()}
    assert kinds - {file.name, f"{file.name}.json", f"{file.name}.parity.json"} <= {"encoder.bin"}


PLANS = {
    "reuse and mlp": (
        sparsight.SVE(layers=(0, 1), keep=1 / 2, groups=((0, 1),), min_tokens=0, sample_every=4),
        sparsight.MLPRouting(keep=1 / 2, min_tokens=0),
    ),
    "leaving": (SVE.model_copy(update={"score": "linear"}), LEAVING),
    "pruning": (sparsight.ClsTopK(stages=(1,), min_tokens=0),),
    "pruning by several layers": (
        sparsight.ClsTopK(stages=(1,), score="vtc-cls", history=2, min_tokens=0),
    ),
    "moved": (
        sparsight.SVE(layers=(0,), keep=1 / 2, score="contribution", min_tokens=0, sample_every=4),
        sparsight.EarlyExit(
            after=(0,), keep=1 / 2, score="contribution-bound", sample_every=4, recover=4, min_tokens=0
        ),
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_every_method_that_exports_is_the_same_in_a_graph_of_many_sizes(name, tmp_path):
    model = small("dinov2_reg")
    plan = plan_of(model, *PLANS[name])
    (file,) = sparsight.export(
        model,
        plan,
        tmp_path / "m.pt2",
        "pt2",
        sizes=((56, 70), (140, 126)),
        dynamic=True,
        batch="dynamic",
    )
    opened, sparse = sparsight.open_exported(file), sparsight.apply(model, plan)
    for size in ((56, 70), (140, 126), (84, 112)):
        picture = torch.randn(3, 3, *size)
        with torch.no_grad():
            wanted = family_in(sparse).features(sparse, picture)
        torch.testing.assert_close(opened(picture)["features"], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("format", ENGINES)
def test_windows_that_are_skipped_export_for_one_size(format, tmp_path):
    model, windows = make_hf_swin(), sparsight.SparseViT(min_tokens=0)
    with pytest.raises(SparsightError, match="laid out for one size of picture: give sizes"):
        sparsight.export(model, windows, tmp_path, format, sizes=RANGE, dynamic=True)
    (file,) = sparsight.export(
        model, windows, tmp_path, format, sizes=[(92, 76)], images=pictures(2, (92, 76))
    )
    (case,) = json.loads(parity.parity_place(file).read_text())["cases"]
    assert case["error"] <= 1e-4
    assert case["overlap"] is None  # nothing is told of windows, so no figure claims it


@pytest.mark.parametrize(
    ("format", "ending"),
    [("aoti", ".aoti.pt2"), pytest.param("executorch", ".pte", marks=needs("executorch"))],
)
def test_a_format_of_one_size_makes_a_file_for_each(format, ending, tmp_path):
    model = small()
    plan = plan_of(model, SVE)
    for words, open_ in ("give sizes", {"dynamic": True}), ("number of pictures", {"batch": "dynamic"}):
        with pytest.raises(SparsightError, match=words):
            sparsight.export(model, plan, tmp_path, format, sizes=RANGE, **open_)
    outputs = ("map", "features")
    (file,) = sparsight.export(model, plan, tmp_path, format, sizes=RANGE[1:], batch=2, outputs=outputs)
    assert file.name == f"encoder-160x144{ending}"
    opened, sparse = sparsight.open_exported(file), sparsight.apply(model, plan)
    picture = torch.randn(2, 3, 160, 144)
    with torch.no_grad():
        wanted = family_in(sparse).features(sparse, picture)
    found = opened(picture)
    torch.testing.assert_close(found["features"], wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["map"].flatten(1, 2), found["features"][:, 5:])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model, its plan and a file of both for one size."""
    model, folder = small(), tmp_path_factory.mktemp("exported")
    plan = plan_of(model, SVE)
    (file,) = sparsight.export(model, plan, folder / "one.pt2", "pt2", sizes=[(160, 144)])
    return model, plan, file


def test_a_file_runs_where_there_is_no_sparsight(exported):
    _, _, file = exported
    script = (
        "import sys; sys.modules['sparsight'] = None; import torch;"
        f"m = torch.export.load({str(file)!r}).module();"
        "print(m(pixel_values=torch.zeros(1, 3, 160, 144))['features'].shape[1])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == str(10 * 9 + 5)


def test_a_file_is_an_arm_of_measure(exported):
    model, plan, file = exported
    stands = stand_in(model, sparsight.open_exported(file))
    ours = measure(model, plan, pictures(2), [(160, 144)], repeats=1, engine=stands)
    its = measure(model, plan, pictures(2), [(160, 144)], repeats=1)
    assert [case["arm"] for case in ours["cases"]] == ["dense", "sparse"]
    assert ours["fidelity"]["relative_error"] == pytest.approx(
        its["fidelity"]["relative_error"], rel=1e-3
    )
    assert ours["fidelity"]["relative_error"] > 0.01


def test_a_damaged_file_is_refused(exported, tmp_path):
    _, _, file = exported
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    with pytest.raises(SparsightError, match="is missing, which says what"):
        sparsight.open_exported(copy)
    manifest = copy.with_name(f"{copy.name}.json")
    manifest.write_text(file.with_name(f"{file.name}.json").read_text())
    sparsight.open_exported(copy)
    copy.write_bytes(copy.read_bytes()[:-100])
    with pytest.raises(SparsightError, match="changed or damaged"):
        sparsight.open_exported(copy)
    manifest.write_text("{")
    with pytest.raises(SparsightError, match="is damaged"):
        sparsight.open_exported(copy)


def hooked(model):
    model.register_forward_hook(lambda *given: None)


def compiled(model):
    model.norm.compile()


REFUSED = {
    "hook": (hooked, {}, "has a hook"),
    "compiled": (compiled, {}, "is compiled"),
    "tome": (None, {"what": sparsight.ToMe()}, "ToMe does not export"),
    "spot": (None, {"what": sparsight.SPOT()}, "SPOT does not export"),
    "pairs": (None, {"what": sparsight.MutualPairs()}, "depends on the picture"),
    "peaks": (None, {"what": sparsight.DensityPeaks()}, "DensityPeaks does not export"),
    "exact": (None, {"what": sparsight.SVE(layers=(0,), score="exact")}, "score='sampled' exports"),
    "bound": (
        None, {"what": sparsight.EarlyExit(score="map-error", bound="calibrated")}, "keep=... exports",
    ),
    "format": (None, {"format": "caffe"}, "there is no format 'caffe'"),
    "ending": (None, {"out": "model.onnx"}, "ends in .pt2"),
    "patches": (None, {"sizes": [(100, 144)]}, "16"),
    "output": (None, {"outputs": ("tap7",)}, "there is no output 'tap7'"),
    "several": (None, {"sizes": [(160, 144), (64, 80)], "out": "one.pt2"}, "give a folder"),
    "dtype": (None, {"format": "onnx", "dtype": "bfloat16"}, "not in bfloat16|needs onnx"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_leave_is_refused_before_any_work(name, tmp_path, monkeypatch):
    change, given, words = REFUSED[name]
    model = small()
    if change is not None:
        change(model)
    monkeypatch.setattr(front, "written", None)  # nothing gets so far
    arguments = {"what": SVE.model_copy(update={"completion": "none"}), "format": "pt2"} | given
    arguments = {"sizes": [(160, 144)], "out": ""} | arguments
    arguments["out"] = tmp_path / "here" / arguments["out"]
    with pytest.raises(SparsightError, match=words) as caught:
        sparsight.export(model, **arguments)
    assert len(str(caught.value)) <= 300
    assert not list(tmp_path.rglob("*.*"))


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(formats.base, "find_spec", lambda name: None)
    with pytest.raises(SparsightError, match=r"pip install 'sparsight\[openvino\]'"):
        sparsight.export(small(), SVE, tmp_path, "openvino", sizes=[(160, 144)])


PLACES = {
    "windows": sparsight.LocalAttention(size=4, min_tokens=30),
    "stripes": sparsight.LocalAttention(pattern="stripes", size=3, min_tokens=30),
    "lattice": SVE.model_copy(update={"score": "lattice"}),
}
BYPASS = sparsight.Bypass(layers=(1,), min_tokens=30)


@pytest.mark.parametrize("kind", [*PLACES, "bypass"])
def test_patterns_leave_for_one_size_each_and_a_bypass_for_many(kind, tmp_path):
    model = small() if kind == "bypass" else make_model("hf_dinov3", num_hidden_layers=1)
    plan = plan_of(model, PLACES.get(kind, BYPASS))
    if kind in PLACES:
        with pytest.raises(SparsightError, match="laid out for one size of picture"):
            sparsight.export(model, plan, tmp_path, "pt2", sizes=RANGE, dynamic=True)
    (file,) = sparsight.export(
        model, plan, tmp_path, "pt2", images=pictures(1),
        **({"sizes": [(160, 144)]} if kind in PLACES else {"sizes": RANGE, "dynamic": True}),
    )  # fmt: skip
    assert file.suffix == ".pt2"  # which is compared with PyTorch before it is handed out


@pytest.mark.parametrize(
    ("error", "words"),
    [(MemoryError(), "out of memory"), (KeyError("aten.odd"), "failed with KeyError")],
)
def test_a_failure_leaves_what_was_there(error, words, tmp_path, monkeypatch):
    def fails(*given, **more):
        raise error

    monkeypatch.setattr(capture.Format, "program", fails)
    place = tmp_path / "m.pt2"
    place.write_text("before")
    with pytest.raises(SparsightError, match=words):
        sparsight.export(small(), None, place, "pt2", sizes=[(160, 144)])
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt2"]
    assert place.read_text() == "before"


def test_a_file_that_differs_is_not_handed_out(tmp_path, monkeypatch):
    nothing = {"error": -1.0, "overlap": 0.999, "cosine_worst": 0.999}
    monkeypatch.setitem(parity.TOLERANCE, "float32", nothing)
    with pytest.raises(SparsightError, match="is not the model: at 160x144, batch 1, error is"):
        sparsight.export(
            small(), None, tmp_path / "m.pt2", "pt2", sizes=[(160, 144)], images=pictures(1)
        )
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt2.parity.json"]


EXAMPLES = [
    pytest.param("onnxruntime", "onnx", marks=needs("onnx", "onnxscript", "onnxruntime")),
    pytest.param("openvino", "openvino", marks=needs("openvino")),
]


@pytest.mark.parametrize(("example", "format"), EXAMPLES)
def test_an_example_encodes_a_folder_without_pytorch(example, format, tmp_path):
    import numpy as np
    from PIL import Image

    model = small()
    (file,) = sparsight.export(
        model, plan_of(model, SVE), tmp_path, format, sizes=[(160, 144)], outputs=("pooled",)
    )
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.effect_mandelbrot((200, 150), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(folder / "a.png")
    script = ROOT / "examples" / example / "encode.py"
    code = (
        "import sys, runpy; sys.modules['torch'] = sys.modules['sparsight'] = None;"
        f"sys.argv[1:] = [{str(file)!r}, {str(folder)!r}, {str(tmp_path / 'v.npz')!r}];"
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert np.load(tmp_path / "v.npz")["a.png"].shape == (48,)


def test_the_verbs_export_and_take_the_file_as_an_arm(tmp_path, monkeypatch):
    """On the embedded encoder, whose report draws its own scenes."""
    monkeypatch.setattr(parity, "peak_memory_mb", memory.peak_memory_mb)
    from typer.testing import CliRunner

    from sparsight.cli import app
    from sparsight.demo import encoder

    def said(code, *words):
        done = CliRunner().invoke(app, list(map(str, words)))
        assert done.exit_code == code, done.output
        return done.output

    model = encoder.load()
    few = sparsight.SVE(layers=(0,), keep=1 / 2, min_tokens=0, sample_every=4)
    plan = plan_of(model, few).with_(
        source="demo", resolution=(64, 96), model=identity(model, family_in(model))
    )
    run = sparsight.save(plan, tmp_path / "run")
    file = run / "encoder.pt2"
    assert "written" in said(0, "export", run, "--out", file, "--format", "pt2", "--report")
    page = (run / "report.html").read_text()
    assert "Exported to pt2 in float32" in page
    assert "Segmentation on 16 pictures of scenes" in page
    report = json.loads((run / "parity-pt2.json").read_text())
    assert all(report["speed"][arm]["peak_memory_mb"] > 0 for arm in ("dense", "sparse"))
    (score,) = report["task"]["scores"]
    assert score["engine"] == pytest.approx(score["pytorch"], abs=1e-3)  # a few pixels at an edge
    assert score["dense"] > 0.3  # a sixteenth of the usual resolution
    scenes = tmp_path / "scenes"
    words = ["--layout", "salient", "--resolution", "64x96", "--train", 3, "--val", 2]
    said(0, "scenes", "--out", scenes, *words)
    words = ["--out", tmp_path / "b.pt2", "--format", "pt2", "--report"]
    assert "--data DIR together" in said(1, "export", run, *words, "--task", "salient")
    for score in judged_by_task(file, model, plan, "salient", scenes)["scores"]:
        assert score["engine"] == pytest.approx(score["pytorch"], abs=1e-2)
    said(0, "measure", file, "--repeats", 1, "--max-images", 1, "--json", tmp_path / "m.json")
    found = json.loads((tmp_path / "m.json").read_text())
    assert found["format"] == "pt2"
    assert 0 < found["fidelity"]["relative_error"] < 0.2
    assert "takes pictures of 64x96, not 96x96" in said(1, "measure", file, "--resolution", "96")
    assert "takes 1 pictures at once" in said(1, "measure", file, "--batch", 2)
    assert "judge it by" in said(1, "evaluate", file, "--task", "features", "--data", run)
    assert "give sizes" in said(1, "export", run, "--out", run, "--format", "aoti", "--dynamic")

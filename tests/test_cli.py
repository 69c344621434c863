"""The command line as a user meets it: what it prints, writes and refuses."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import SMALL, heed_interrupts
from safetensors.torch import save_file
from task_data import salient_folder, segmentation_folder
from test_images import fill

import sparsight
from sparsight import cli


@pytest.fixture
def run(monkeypatch, capsys):
    """Run one command in this process; gives exit code, standard output and standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sparsight", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A small model as a folder of timm's save_for_hf."""
    import timm
    from timm.models import save_for_hf

    folder = tmp_path_factory.mktemp("checkpoint")
    arguments = {k: v for k, v in SMALL.items() if k != "dynamic_img_size"}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **arguments)
    save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def hf_checkpoint(tmp_path_factory):
    """A small CLIP (both towers) as a folder of save_pretrained, with its normalisation."""
    from test_hosts import make_clip

    folder = tmp_path_factory.mktemp("hf") / "clip"
    make_clip().save_pretrained(folder)
    normal = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps(normal))
    return folder


@pytest.fixture
def images(tmp_path):
    """A folder of three pictures of noise."""
    import numpy as np
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def test_help_names_every_verb_and_is_quick():
    began = os.times().children_user
    done = subprocess.run(
        [sys.executable, "-m", "sparsight", "--help"], capture_output=True, text=True, check=True
    )
    # The aim is one second on an idle machine; of the processor's time, for a busy one adds waiting.
    assert os.times().children_user - began < 3
    for verb in ("demo", "analyze", "optimize", "measure", "evaluate", "finetune", "scenes"):
        assert verb in done.stdout


@pytest.mark.parametrize("verb", ["demo", "analyze", "optimize", "measure", "evaluate", "finetune"])
def test_help_of_each_verb_explains_its_options(run, verb):
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert "--json" in out
    assert "--resolution" in out


def test_analyze_prints_and_writes_every_layer(run, checkpoint, images, tmp_path):
    result = tmp_path / "analysis.json"
    code, out, err = run(
        "analyze", checkpoint, "--images", images, "--resolution", "96x128", "--json", result
    )
    assert code == 0, err
    written = json.loads(result.read_text())
    assert [layer["layer"] for layer in written["layers"]] == [0, 1, 2, 3]
    assert written["resolution"] == [96, 128]
    assert written["images"] == 3
    assert "indicator" in out


@pytest.mark.usefixtures("crossover_at_few_tokens")
def test_optimize_then_measure(run, checkpoint, images, tmp_path):
    out_folder, result = tmp_path / "run", tmp_path / "measure.json"
    code, out, err = run(
        "optimize", checkpoint, "--images", images, "--resolution", "128", "--layers", "1-2",
        "--keep", "0.25", "--out", out_folder,
    )  # fmt: skip
    assert code == 0, err
    assert "layers [1, 2]: named by the user" in out
    plan = sparsight.load(out_folder)
    assert plan.sve.layers == (1, 2)
    assert plan.sve.completion == "map"
    assert {"sve.1.map", "sve.2.map"} == set(plan.weights)
    assert plan.source == str(checkpoint)
    code, out, err = run(
        "measure", out_folder, "--images", images, "--repeats", 2, "--json", result,
        "--resolution", "128", "--resolution", "64x96", "--batch", 1, "--batch", 2,
    )  # fmt: skip
    assert code == 0, err
    written = json.loads(result.read_text())
    assert json.loads((out_folder / "measure.json").read_text()) == written
    assert {(c["resolution"], c["batch"], c["arm"]) for c in written["cases"]} == {
        (r, b, a) for r in ("128x128", "64x96") for b in (1, 2) for a in ("dense", "sparse")
    }
    assert written["fidelity"]["images"] == 3
    assert {"machine", "versions", "dtype", "threads", "repeats"} <= set(written["protocol"])


@pytest.fixture
def sparse_run(checkpoint, tmp_path):
    """A run folder of the small model, sparse at any size."""
    from sparsight.models import load_model

    model = load_model(str(checkpoint), (64, 96)).model
    method = sparsight.SVE(layers=(1, 2), keep=0.25, min_tokens=0)
    plan = sparsight.Plan(methods=(method,), source=str(checkpoint), resolution=(64, 96))
    sparsight.apply(model, plan)
    return sparsight.save(model, tmp_path / "run")


def test_evaluate_prints_and_writes_both_arms(run, sparse_run, tmp_path):
    data = segmentation_folder(tmp_path / "data")
    (data / "val" / "images" / "3.png").write_bytes(b"broken")
    code, out, err = run(
        "evaluate", sparse_run, "--task", "segmentation", "--data", data, "--classes", 4, "--void", 9,
        "--max-images", 5, "--max-train-images", 8, "--worst", 2, "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert code == 0, err
    words = ("labels of train: void 0.0 %, class ", "labels of val: void 0.0 %, class ")
    for word in (*words, "mIoU", "class 2: IoU", "pixel accuracy", "lose most", "classes [3]"):
        assert word in out
    assert "left out 1: 1 no picture of a known kind" in err
    written = json.loads((tmp_path / "out.json").read_text())
    assert written == json.loads((sparse_run / "evaluate-segmentation.json").read_text())
    told = f"labels of val: {written['labels']['val']}"
    assert told in (sparse_run / "report.html").read_text()
    assert written["protocol"]["images"] == 4
    assert written["protocol"]["training_images"] == 8
    assert len(written["worst"]) == 2
    assert written["protocol"]["data"] == "data"


def test_evaluate_at_another_resolution(run, sparse_run, tmp_path):
    images = segmentation_folder(tmp_path / "data") / "val" / "images"
    code, out, err = run(
        "evaluate", sparse_run, "--task", "features", "--data", images, "--resolution", "48"
    )
    assert code == 0, err
    assert "48x48" in out
    assert "final: relative error" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--task", "features", "--void", "3"], "no use for the option void"),
        (["--task", "segmentation"], "has the label 7"),
        (["--task", "salient"], "neither im/ and gt/"),
        (["--task", "prompted"], "takes no prompts"),
        (["--task", "classification", "--names", "names.txt"], "has no text tower"),
        (["--task", "features", "--resolution", "50"], "the nearest that is: 48x48"),
    ],
)
def test_evaluate_refuses_in_one_sentence(run, sparse_run, tmp_path, arguments, says):
    data = segmentation_folder(tmp_path / "data", labels_of=lambda rng, labels: 0 * labels + 7)
    if "segmentation" in arguments:
        arguments = [*arguments, "--classes", "3"]
    code, _, err = run("evaluate", sparse_run, "--data", data, *arguments)
    assert code == 1
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("layout", "task", "train"),
    # Sixty pictures of one object each show all ten kinds.
    [("camvid", "segmentation", 4), ("imagefolder", "classification", 60), ("salient", "salient", 4)],
)
def test_scenes_fit_their_task(run, sparse_run, tmp_path, layout, task, train):
    out = tmp_path / "scenes"
    code, _, err = run(
        "scenes", "--out", out, "--layout", layout, "--resolution", "128x192", "--train", train,
        "--val", 3,
    )  # fmt: skip
    assert code == 0, err
    files = len(list(out.rglob("*.png")))
    assert files == (train + 3) * (1 if layout == "imagefolder" else 2)
    code, _, err = run("evaluate", sparse_run, "--task", task, "--data", out)
    assert code == 0, err
    assert json.loads((sparse_run / f"evaluate-{task}.json").read_text())["protocol"]["images"] == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--learning-rate", "0"], "learning_rate: Input should be greater than 0"),
        (["--learning-rate", "-1"], "learning_rate: Input should be greater than 0"),
        (["--learning-rate", "nan"], "learning_rate: Input should be"),
        (["--learning-rate", "inf"], "learning_rate: Input should be a finite number"),
        (["--batch", "9"], "a batch of 9 is more than the 5 pictures"),
    ],
)
def test_finetune_refuses_settings_in_one_sentence(run, tmp_path, options, says):
    data, out = salient_folder(tmp_path / "data"), tmp_path / "tuned"
    code, _, err = run(
        "finetune", "demo", "--data", data, "--resolution", "64x96", "--out", out, *options
    )
    assert code == 1
    assert says in err
    assert err.count("\n") == 1
    assert not out.exists()


def test_names_that_are_no_unicode_are_judged_and_shown(run, sparse_run, tmp_path):
    data = tmp_path / b"caf\xe9".decode("utf-8", "surrogateescape")
    pictures = segmentation_folder(tmp_path / "a") / "val" / "images"
    for number, image in enumerate(sorted(pictures.iterdir())):
        data.mkdir(exist_ok=True)
        os.rename(image, os.fsencode(data / str(number)) + b"\xe9.png")
    code, out, err = run("evaluate", sparse_run, "--task", "features", "--data", data)
    assert code == 0, err
    assert "0\ufffd.png" in out


def test_finetune_then_analyze(run, tmp_path):
    data = salient_folder(tmp_path / "data")
    out = tmp_path / "tuned"
    options = ["--data", data, "--resolution", "64x96", "--steps", 2, "--out", out]
    code, _, err = run("finetune", "demo", *options)
    assert code == 0, err
    assert f"weights in {out}" in err
    weights = ["--checkpoint", out / "model.safetensors", "--resolution", "64x96"]
    code, printed, err = run("analyze", "demo", *weights, "--images", data / "im")
    assert code == 0, err
    assert "indicator" in printed


def test_the_encoder_of_a_transformers_folder_is_optimized_and_measured(
    run, hf_checkpoint, images, tmp_path
):
    folder, options = tmp_path / "run", ("--images", images, "--resolution", "96x128")
    code, _, err = run("analyze", hf_checkpoint, *options)  # the one encoder in it
    assert code == 0, err
    code, _, err = run("analyze", hf_checkpoint, *options, "--module", "vision_model")
    assert code == 0, err
    code, _, err = run(
        "optimize", hf_checkpoint, *options, "--module", "vision_model", "--layers", "1-2",
        "--out", folder,
    )  # fmt: skip
    assert code == 0, err
    plan = sparsight.load(folder)
    assert (plan.model.kind, plan.recipe["module"]) == ("CLIPVisionModel", "vision_model")
    code, _, err = run("measure", folder, "--images", images, "--repeats", 1)
    assert code == 0, err
    assert "transformers" in json.loads((folder / "measure.json").read_text())["protocol"]["versions"]


def test_a_transformers_folder_brings_its_weights_and_normalisation(hf_checkpoint):
    from safetensors.torch import load_file

    from sparsight.models import load_model

    loaded = load_model(str(hf_checkpoint), (96, 96))
    assert (loaded.mean, loaded.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    saved = load_file(hf_checkpoint / "model.safetensors")
    found = loaded.model.state_dict()
    assert saved
    assert all(torch.equal(found[key], value) for key, value in saved.items())
    assert not loaded.model.training


def test_optimize_with_distillation(run, checkpoint, images, tmp_path):
    code, _, err = run(
        "optimize", checkpoint, "--images", images, "--resolution", "128", "--layers", "0,2",
        "--score", "linear", "--distill", "--steps", 2, "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    plan = sparsight.load(tmp_path / "run")
    assert {"sve.0.projector", "sve.2.projector", "sve.0.map", "sve.2.map"} <= set(plan.weights)
    assert any(name.startswith("model.blocks.2.") for name in plan.weights)


def test_any_name_of_a_folder_is_worked_on_shown_and_kept(run, checkpoint, images, tmp_path, no_heic):
    from sparsight.cli.report import remembered
    from sparsight.run import COMMAND_FILE

    odd = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        images.rename(odd)
    except OSError:
        pytest.skip("this file system has no such names")
    (odd / "1.png").write_bytes((odd / "1.png").read_bytes()[:2000])
    (odd / os.fsdecode(b"\xe9.jpg")).write_bytes(b"")
    for name in ("a.heic", "b.heic", "._0.png"):
        (odd / name).write_bytes(b"x")
    code, _, err = run(
        "analyze", checkpoint, "--images", odd, "--resolution", "64", "--json", tmp_path / "a.json"
    )
    assert code == 0, err
    assert (
        "left out 5: 2 .heic (pip install 'sparsight[heic]'), 1 hidden, 1 truncated, 1 an empty" in err
    )
    assert "caf\ufffd" in (tmp_path / "a.json").read_text().encode().decode("unicode_escape")
    with remembered(tmp_path):
        pass
    assert "caf\ufffd" in (tmp_path / COMMAND_FILE).read_text(encoding="utf-8")


def test_a_folder_of_nothing_but_damaged_files_is_told_before_anything_is_written(
    run, checkpoint, images, tmp_path
):
    for path in images.iterdir():
        path.write_bytes(b"broken")
    out = tmp_path / "run"
    code, _, err = run("optimize", checkpoint, "--images", images, "--resolution", "64", "--out", out)
    assert (code, out.exists()) == (1, False)
    assert "none of the 3 images can be read: cannot read" in err


def test_bad_images_are_counted(run, checkpoint, images):
    (images / "1.png").write_bytes(b"broken")
    code, _, err = run("analyze", checkpoint, "--images", images, "--resolution", "64")
    assert code == 0
    assert "left out 1: 1 no picture of a known kind" in err
    assert "1.png" in err


def refusals(checkpoint, hf_checkpoint, images, tmp_path):
    """Commands that must fail, with what they must say."""
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file").write_text("")
    pickled, bare, lacking = tmp_path / "pickled", tmp_path / "bare", tmp_path / "lacking"
    for folder in (pickled, bare, lacking):
        folder.mkdir()
        (folder / "config.json").write_text((hf_checkpoint / "config.json").read_text())
    (pickled / "pytorch_model.bin").write_bytes(b"")
    torch.save({"weight": torch.nn.Linear(1, 1)}, tmp_path / "a.pth")
    save_file({"logit_scale": torch.zeros(())}, lacking / "model.safetensors", {"format": "pt"})
    analyze = ["analyze", checkpoint, "--images", images]
    optimize = ["optimize", checkpoint, "--images", images, "--resolution", "64", "--out"]
    return {
        "no image": (["analyze", checkpoint, "--images", empty], "holds no image"),
        "no folder": (["analyze", checkpoint, "--images", tmp_path / "x"], "there is no folder"),
        "patch size": ([*analyze, "--resolution", "100"], "the nearest that is: 96x96"),
        "resolution": ([*analyze, "--resolution", "big"], "neither like 1024"),
        "model": (["analyze", "something", "--images", images], "MODEL 'something' is neither"),
        "timm name": (["analyze", "timm:no_such", "--images", images], "timm has no model 'no_such'"),
        "not a ViT": (
            ["analyze", "timm:resnet18", "--images", images],
            "ResNet of timm.models.resnet is not supported",
        ),
        "pickle": (
            [
                "analyze",
                "timm:vit_tiny_patch16_224",
                "--checkpoint",
                tmp_path / "a.pth",
                "--images",
                images,
            ],
            "a.pth is a pickle, and pickles are not read",
        ),
        "no checkpoint": (
            ["analyze", "demo", "--checkpoint", "a.safetensors", "--images", images],
            "there is no file a.safetensors",
        ),
        "other checkpoint": (
            ["analyze", "demo", "--checkpoint", checkpoint / "model.safetensors", "--images", images],
            "does not fit VisionTransformer: 96 missing",
        ),
        "pickled folder": (
            ["analyze", pickled, "--images", images],
            "only pickled weights (pytorch_mod",
        ),
        "no weights": (["analyze", bare, "--images", images], "has no weights"),
        "weights missing": (["analyze", lacking, "--images", images], "weights, the first: "),
        "hub": (["analyze", "hf:a/b", "--images", images], "with --pretrained only"),
        "hub offline": (["analyze", "hf:a/b", "--pretrained", "--images", images], "cannot load a/b"),
        "no module": (
            ["analyze", hf_checkpoint, "--images", images, "--module", "tower"],
            "has no module 'tower'; supported encoders are at 'vision_model'",
        ),
        "no config": (["analyze", empty, "--images", images], "has no config.json"),
        "layers": ([*optimize, tmp_path / "o", "--layers", "9"], "names layer 9"),
        "layer words": ([*optimize, tmp_path / "o", "--layers", "x"], "not like 6-11"),
        "keep": ([*optimize, tmp_path / "o", "--keep", "7"], "keep: Input should be less"),
        "method": ([*optimize, tmp_path / "o", "--method", "evit"], "no method is called 'evit'"),
        "no layers": (
            [*optimize, tmp_path / "o", "--method", "tome", "--layers", "1"],
            "--layers is sve's: use --set, as in --set early-exit.after=[2]",
        ),
        "set": ([*optimize, tmp_path / "o", "--set", "keep=1"], "not like METHOD.KEY=VALUE with one of"),
        "set another": (
            [*optimize, tmp_path / "o", "--set", "tome.keep=0.5"],
            "--set 'tome.keep=0.5': not like METHOD.KEY=VALUE with one of sve",
        ),
        "set unknown": (
            [*optimize, tmp_path / "o", "--set", "sve.kept=1"],
            "kept: Extra inputs are not",
        ),
        "score": ([*optimize, tmp_path / "o", "--score", "rollout"], "no score is called 'rollout'"),
        "score of others": (
            [*optimize, tmp_path / "o", "--score", "relevance"],
            "sve cannot rank by 'relevance', which needs statistics of the attention",
        ),
        "two that take": (
            [*optimize, tmp_path / "o", "--method", "tome", "--method", "early-exit"],
            "ToMe and EarlyExit both take tokens or windows out",
        ),
        "distill": (
            [*optimize, tmp_path / "o", "--method", "early-exit", "--distill"],
            "--distill adapts the weights to sve or sparsevit",
        ),
        "few tokens": (
            [*optimize, tmp_path / "o", "--method", "early-exit"],
            "the map of early-exit in layer 1 cannot be fitted to",
        ),
        "no images": (["optimize", checkpoint, "--out", tmp_path / "o"], "--images DIR"),
        "out is a file": ([*optimize, tmp_path / "file"], "is a file, not a folder"),
        "no run": (["measure", tmp_path / "none"], "no run folder"),
        "empty run": (["measure", empty], "plan.json is missing"),
    }


NAMES = (
    "no image", "no folder", "patch size", "resolution", "model", "timm name", "not a ViT",
    "pickle", "no checkpoint", "other checkpoint", "pickled folder", "no weights",
    "weights missing", "hub", "hub offline", "no module", "no config", "layers", "layer words",
    "keep", "method", "no layers", "set", "set another", "set unknown", "score", "score of others",
    "two that take", "distill", "few tokens", "no images", "out is a file", "no run", "empty run",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_one_sentence_and_a_nonzero_exit(
    run, checkpoint, hf_checkpoint, images, tmp_path, name
):
    cases = refusals(checkpoint, hf_checkpoint, images, tmp_path)
    assert set(cases) == set(NAMES)
    arguments, says = cases[name]
    code, _, err = run(*arguments)
    assert code == 1
    assert says in err
    assert "Traceback" not in err
    assert err.count("\n") <= 2


def test_a_full_disk_is_told_before_the_work(run, checkpoint, images, tmp_path):
    code, _, err = run(
        "optimize", checkpoint, "--images", images, "--resolution", "64", "--out", "/dev/full/run"
    )
    assert code == 1
    assert "/dev/full" in err
    assert "Traceback" not in err


METHODS = {
    "early-exit": (["--method", "early-exit", "--keep", "0.3"], {"early-exit.1.map.3"}),
    "mlp-routing": (
        ["--method", "mlp-routing", "--set", "mlp-routing.layers=[1,2]"],
        {"mlp-routing.1.map", "mlp-routing.2.map"},
    ),
    "published": (["--method", "early-exit", "--published"], set()),
    "routing published": (["--method", "mlp-routing", "--published"], set()),
    "sve published": (["--published"], set()),
    "tome": (["--method", "tome"], set()),
    "scored": (["--method", "cls-topk", "--score", "vtc-cls"], set()),
    "asvit published": (
        ["--method", "asvit", "--set", "asvit.stages=[1,3]", "--published"],
        {"asvit.1.threshold", "asvit.3.threshold"},
    ),
    "density-peaks": (["--method", "density-peaks"], {"density-peaks.3.map"}),
    "together": (
        ["--method", "sve", "--method", "early-exit", "--layers", "0-1", "--set", "early-exit.after=[1]",
         "--set", "early-exit.score=magnitude", "--keep", "0.25"],
        {"sve.0.map", "sve.1.map", "early-exit.2.map.3"},
    ),
    "spot": (
        ["--method", "spot", "--set", "spot.stages=[1]", "--set", "spot.rho=0.3", "--steps", "2"],
        {"spot.1.inner.weight", "spot.1.inner.bias", "spot.1.outer.weight", "spot.1.map.3"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_optimize_by_any_method_measures_and_reports(run, checkpoint, images, tmp_path, name):
    more, brought = METHODS[name]
    command = [
        "optimize",
        checkpoint,
        "--images",
        images,
        "--resolution",
        "144",
        "--out",
        tmp_path / "run",
    ]
    code, _, err = run(*command, *more)
    assert code == 0, err
    assert "could not be measured" not in err
    plan = sparsight.load(tmp_path / "run")
    assert set(plan.weights) == brought
    assert plan.resolution == (144, 144)
    assert {"plan.json", "report.html", "measure.json", "command.txt"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    code, _, err = run("measure", tmp_path / "run", "--repeats", 1)
    assert code == 0, err
    if name == "together":
        assert (plan.sve.keep, plan.sve.layers) == (0.25, (0, 1))
        leaving = plan.one(sparsight.EarlyExit)
        assert (leaving.after, leaving.keep, leaving.score) == ((1,), 0.4, "magnitude")


def test_a_taught_lower_resolution_is_saved_and_compared(run, tmp_path):
    command = ["optimize", "demo", "--resolution", "384", "--out", tmp_path / "run", "--max-images", "6"]
    code, out, err = run(*command, "--method", "lower-resolution", "--set", "lower-resolution.scale=0.5")
    assert code == 0, err
    assert "next: sparsight compare demo --run" in out + err
    command = ["compare", "demo", "--resolution", "384", "--max-images", "1", "--repeats", "1"]
    run_too = ["--run", tmp_path / "run", "--json", tmp_path / "c.json"]
    code, _, err = run(*command, "--method", "tome", *run_too)
    assert code == 0, err
    rows = json.loads((tmp_path / "c.json").read_text())["rows"]
    assert "scale 0.5, map" in [row["setting"] for row in rows]
    code, _, err = run("measure", tmp_path / "run", "--repeats", 1)
    assert (code, "nothing to apply" in err) == (1, True)


def test_the_demo_is_optimized_without_pictures(run, tmp_path):
    command = ["optimize", "demo", "--resolution", "256", "--out", tmp_path, "--max-images", "2"]
    code, _, err = run(*command, "--method", "early-exit")
    assert code == 0, err
    plan = sparsight.load(tmp_path)
    assert (plan.source, plan.recipe["calibration_images"]) == ("demo", 2)


@pytest.mark.parametrize(
    ("verb", "shows"),
    [
        ("optimize", ("sve", "the method's", "what suits the model's width", "measured, in --out")),
        ("measure", ("the run's", "1")),
        ("compare", ("all",)),
        ("explore", ("the run's, or 512",)),
        ("evaluate", ("the run's", "all", "by its folders", "the layout's")),
    ],
)
def test_help_shows_defaults_that_are_words(run, monkeypatch, verb, shows):
    monkeypatch.setenv("COLUMNS", "300")
    out = run(verb, "--help")[1]
    for words in shows:
        assert f"[default: {words}]" in out


def test_help_of_optimize_names_methods_that_there_are(run):
    from sparsight.methods import METHODS as known

    code, out, _ = run("optimize", "--help")
    assert code == 0
    for word in ("--method", "--keep", "--score", "--set", "--published", "--layers", "--distill"):
        assert word in out
    named = out[out.index("sve, early-exit") :].partition("...")[0]
    names = [word.strip("│ \n") for word in named.split(",")[:-1]]
    assert len(names) == 5
    assert set(names) <= known.keys()


STAGES = {  # what shows that a stage has begun, what is then there
    "analyze": (lambda folder: folder.is_dir(), set()),
    "complete": (
        lambda folder: (folder / "completion.safetensors").exists(),
        {"completion.safetensors"},
    ),
    "distil": (lambda folder: (folder.parent / "stepped").exists(), {"distillation.safetensors"}),
}
# The program, which says by a file when a training has made its first step: a training writes nothing
# by itself before a minute is over.
TOLD = """
import sys
from pathlib import Path
from sparsight.__main__ import main
from sparsight.stages.checkpoint import Checkpoint

sign, usual = Path(sys.argv.pop(1)), Checkpoint.save


def save(*args, **kwargs):
    usual(*args, **kwargs)
    sign.touch()


Checkpoint.save = save
main()
"""
LONGEST_S = 120  # for what takes a second or two, however busy the machine is


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_says_so_and_leaves_nothing_half_written(checkpoint, tmp_path, stage):
    begun, brings = STAGES[stage]
    images, folder = fill(tmp_path / "images", 40, (400, 300)), tmp_path / "run"
    command = [
        sys.executable, "-c", TOLD, tmp_path / "stepped", "optimize", checkpoint, "--images", images,
        "--out", folder, "--resolution", "512", "--layers", "0-3", "--distill", "--steps", "100000",
        "--max-images", "4" if stage == "distil" else "40",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)
    deadline = time.monotonic() + LONGEST_S
    try:
        while time.monotonic() < deadline and not begun(folder):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LONGEST_S)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.strip().endswith("goes on from there")
    assert "Traceback" not in err
    left = {p.name for p in folder.iterdir()}
    assert brings <= left
    kept = {"command.txt", "unfinished", "completion.safetensors", "distillation.safetensors"}
    assert left <= kept
    assert ("distillation.safetensors" in left) == (stage == "distil")
    assert not list(folder.rglob("*.tmp"))


def test_the_same_command_goes_on_after_ctrl_c(run, checkpoint, tmp_path, monkeypatch):
    from sparsight.stages import complete

    images = fill(tmp_path / "images", 4, (200, 150))

    def command(out):
        return [
            "optimize", checkpoint, "--images", images, "--resolution", "144", "--out", out,
            "--method", "mlp-routing", "--keep", "0.3",
        ]  # fmt: skip

    usual, calls = complete._Saved.add, []

    def stopped(saved, place, new):
        calls.append(place.layer)
        if place.layer == 2:
            raise KeyboardInterrupt
        return usual(saved, place, new)

    with monkeypatch.context() as patch:
        patch.setattr(complete._Saved, "add", stopped)
        code, _, err = run(*command(tmp_path / "run"))
    assert code == 130
    assert "the same command goes on from there" in err
    for out in ("run", "straight"):
        code, _, err = run(*command(tmp_path / out))
        assert code == 0, err
    plans = [sparsight.load(tmp_path / out) for out in ("run", "straight")]
    assert plans[0] == plans[1]


def test_an_unfinished_run_of_another_command_is_one_sentence(run, checkpoint, tmp_path, monkeypatch):
    from sparsight.stages.steps import STEPS

    images = fill(tmp_path / "images", 4, (200, 150))

    def interrupted(bench, plan):
        raise KeyboardInterrupt

    monkeypatch.setitem(STEPS, "crossover", interrupted)
    command = [
        "optimize", checkpoint, "--images", images, "--resolution", "144", "--out", tmp_path / "run",
        "--method", "mlp-routing", "--keep",
    ]  # fmt: skip
    assert run(*command, "0.3")[0] == 130
    code, _, err = run(*command, "0.4")
    assert code == 1
    assert "holds an unfinished run with other settings" in err
    assert err.count("\n") <= 2

"""The command line as a user meets it: what it prints, writes and refuses."""

import json
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
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "sparsight", "--help"], capture_output=True, text=True, check=True
    )
    # The aim is one second on an idle machine; the test allows for a busy one.
    assert time.monotonic() - began < 5
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


def test_optimize_then_measure(run, checkpoint, images, tmp_path):
    out_folder, result = tmp_path / "run", tmp_path / "measure.json"
    code, out, err = run(
        "optimize", checkpoint, "--images", images, "--resolution", "128", "--layers", "1-2",
        "--keep", "0.25", "--out", out_folder,
    )  # fmt: skip
    assert code == 0, err
    assert "layers [1, 2]: named by the user" in out
    plan = sparsight.load(out_folder)
    assert plan.method.layers == (1, 2)
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
    plan = sparsight.Plan(method=method, source=str(checkpoint), resolution=(64, 96))
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
    for word in ("mIoU", "class 2: IoU", "pixel accuracy", "lose most", "classes [3]"):
        assert word in out
    assert "1 pictures were skipped" in err
    written = json.loads((tmp_path / "out.json").read_text())
    assert written == json.loads((sparse_run / "evaluate-segmentation.json").read_text())
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
    code, _, err = run("analyze", hf_checkpoint, *options)
    assert code == 1
    assert "name it with module='vision_model' (on the command line --module)" in err
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
        "--scorer", "linear", "--distill", "--steps", 2, "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    plan = sparsight.load(tmp_path / "run")
    assert {"sve.projector.0", "sve.projector.2"} <= set(plan.weights)
    assert any(name.startswith("model.blocks.2.") for name in plan.weights)


def test_bad_images_are_counted(run, checkpoint, images):
    (images / "1.png").write_bytes(b"broken")
    code, _, err = run("analyze", checkpoint, "--images", images, "--resolution", "64")
    assert code == 0
    assert "1 unreadable images were skipped" in err
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
    save_file({"logit_scale": torch.zeros(())}, lacking / "model.safetensors", {"format": "pt"})
    analyze = ["analyze", checkpoint, "--images", images]
    optimize = ["optimize", checkpoint, "--images", images, "--resolution", "64", "--out"]
    return {
        "no image": (["analyze", checkpoint, "--images", empty], "holds no image"),
        "no folder": (["analyze", checkpoint, "--images", tmp_path / "x"], "there is no folder"),
        "patch size": ([*analyze, "--resolution", "100"], "the nearest that is: 96x96"),
        "resolution": ([*analyze, "--resolution", "big"], "neither like 1024"),
        "model": (["analyze", "something", "--images", images], "MODEL 'something' is neither"),
        "timm name": (["analyze", "timm:no_such", "--images", images], "cannot load no_such"),
        "not a ViT": (["analyze", "timm:resnet18", "--images", images], "ResNet is not supported"),
        "pickle": (
            ["analyze", "timm:vit_tiny_patch16_224", "--checkpoint", "a.pth", "--images", images],
            "not a .safetensors file",
        ),
        "no checkpoint": (
            ["analyze", "demo", "--checkpoint", "a.safetensors", "--images", images],
            "there is no file a.safetensors",
        ),
        "other checkpoint": (
            ["analyze", "demo", "--checkpoint", checkpoint / "model.safetensors", "--images", images],
            "cannot load",
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
        "out is a file": ([*optimize, tmp_path / "file"], "is a file, not a folder"),
        "no run": (["measure", tmp_path / "none"], "no run folder"),
        "empty run": (["measure", empty], "plan.json is missing"),
    }


NAMES = (
    "no image", "no folder", "patch size", "resolution", "model", "timm name", "not a ViT",
    "pickle", "no checkpoint", "other checkpoint", "pickled folder", "no weights",
    "weights missing", "hub", "hub offline", "no module", "no config", "layers", "layer words",
    "keep", "out is a file", "no run", "empty run",
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


@pytest.mark.parametrize("stage", ["analysis", "distillation"])
def test_ctrl_c_says_so_and_leaves_nothing_half_written(checkpoint, tmp_path, stage):
    images = fill(tmp_path / "images", 40, (400, 300))
    command = [
        sys.executable, "-m", "sparsight", "optimize", checkpoint, "--images", images, "--out",
        tmp_path / "run", "--resolution", "512", "--layers", "0-3", "--distill", "--steps", "100000",
        "--max-images", "4" if stage == "distillation" else "40",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        begun = (tmp_path / "run").is_dir()
        analyzed = (tmp_path / "run" / "analysis.json").exists()
        if analyzed if stage == "distillation" else begun:
            break
        time.sleep(0.05)
    time.sleep(3 if stage == "distillation" else 0.3)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.strip().endswith("goes on from there")
    assert "Traceback" not in err
    left = {p.name for p in (tmp_path / "run").iterdir()}
    assert left <= {"command.txt", "analysis.json", "distillation.safetensors"}
    assert ("distillation.safetensors" in left) == (stage == "distillation")

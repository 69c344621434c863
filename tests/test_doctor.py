"""Doctor: what it counts is exact, it changes nothing, keeps its budget, and what it advises runs."""

import json
import shlex
import time

import numpy as np
import pytest
import timm
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from conftest import SWINS, WINDOWED, blocks_of, make_model, make_timm_swin
from PIL import Image
from test_hosts import make_clip
from torch import nn
from typer.testing import CliRunner

import sparsight
from sparsight.attach import family_in
from sparsight.cli import app
from sparsight.errors import ImagesError, PlanError
from sparsight.images import ImageFolder
from sparsight.stages import doctor as stage
from sparsight.stages import timing
from sparsight.stages.doctor import blocks, facts, pictures, sizes, verdict, ways
from sparsight.stages.doctor.clock import Clock
from sparsight.stages.doctor.outline import outline, work
from sparsight.stages.measure import fused

CASES = {  # name -> how to make it, and a picture's size
    "timm_vit": (lambda: make_model("dinov2_reg", depth=3), (112, 98)),
    "hf_siglip2": (lambda: make_model("hf_siglip2", num_hidden_layers=3), (128, 112)),
    "timm_swin": (SWINS["timm_swin"], (92, 76)),
    "hf_sam2": (WINDOWED["hf_sam2"], (128, 128)),
}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Seconds are not needed to test it: nothing here asks how fast something is."""
    monkeypatch.setattr(stage, "BUDGET_S", 0.2)


@pytest.fixture(params=CASES)
def case(request):
    make, size = CASES[request.param]
    return make(), size


def counted(model, size):
    """GFLOPs as the real model's run has them."""
    family, picture = family_in(model), torch.randn(1, 3, *size)
    with fused(model):
        return timing.gflops(lambda: family.features(model, picture))


def test_counts_are_those_of_the_model_run_in_full(case):
    model, size = case
    done = work(model, size)
    assert done.gflops == pytest.approx(counted(model, size), rel=1e-9)
    assert sum(done.parts.values()) == pytest.approx(done.gflops, rel=1e-9)
    assert min(done.parts.values()) >= 0
    assert len(done.calls) == len(blocks_of(model))
    for way in ways.ways(model, size):
        if way.sparse is not None and way.name in (*ways.OURS, "spot"):
            assert way.gflops == pytest.approx(counted(way.sparse, size), rel=1e-9), way.name


def test_attention_is_counted_as_its_formula_has_it():
    model = make_model("augreg")
    done = work(model, (64, 96))
    n, c, depth = 4 * 6 + 1, 48, 4
    assert done.parts["attention"] == pytest.approx(4 * n * n * c * depth / 1e9)  # Q K^T and P V
    assert done.parts["linear layers of the attention"] == pytest.approx(8 * n * c * c * depth / 1e9)
    assert done.parts["MLP"] == pytest.approx(16 * n * c * c * depth / 1e9)


def test_the_model_is_as_it_was_and_the_result_plain_data_of_a_steady_layout(case):
    model, size = case
    model.train()
    kinds = [(name, type(part), part.training) for name, part in model.named_modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attributes, random = [dict(part.__dict__) for part in model.modules()], torch.get_rng_state()
    steady(sparsight.doctor(model, size))
    assert [(name, type(part), part.training) for name, part in model.named_modules()] == kinds
    assert [part.__dict__.keys() for part in model.modules()] == [a.keys() for a in attributes]
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(torch.get_rng_state(), random)


def test_blocks_of_several_kinds():
    """The block where tokens leave is of another kind than most: those after it cannot run alone."""
    model = make_model("augreg", depth=6)
    model.blocks[2].mlp = timm.layers.Mlp(48, 96)
    found = sparsight.doctor(model, 96)
    assert {len(kind["layers"]) for kind in found["dense"]["blocks"]} == {1, 5}
    assert found["verdict"]["worth"] in ("yes", "little", "no", "unknown")


def test_hooks_on_the_model_hear_nothing():
    heard, model = [], make_model("augreg", depth=3)
    model.blocks[1].attn.register_forward_hook(lambda *args: heard.append(1))
    model.blocks[1].register_forward_pre_hook(lambda *args, **more: heard.append(2), with_kwargs=True)
    add_hook_to_module(model.blocks[2], AlignDevicesHook(execution_device="cpu"))
    assert sparsight.doctor(model, 96)["supported"]
    assert heard == []
    model(torch.randn(1, 3, 96, 96))
    assert heard == [2, 1]


def test_layers_that_can_become_sparse_are_named():
    hiera = facts.of_family(model := WINDOWED["timm_sam2"](), family_in(model))
    assert (hiera["attention"], hiera["sparse_layers"]) == ("global and windows", [0, 2, 3, 5, 6, 8])
    assert (hiera["window_layers"], hiera["dense_layers"]) == ([0, 2, 3], [1, 4, 7])
    swin = facts.of_family(model := make_timm_swin(), family_in(model))
    assert (swin["attention"], swin["sparse_layers"]) == ("windows", [*range(6)])
    found = ways.ways(model, (92, 76))
    assert {way.name for way in found if not way.refused} == {"lower-resolution", "sparsevit"}
    plain = ways.ways(make_model("siglip", depth=2), (96, 96))
    why = {way.name: way.refused for way in plain if way.refused}
    assert why.keys() == {"cls-topk", "asvit", "mutual-pairs", "sparsevit"}
    assert "none: use another score" in why["cls-topk"]  # it has no class token
    assert "no layer to leave tokens out of, with 2 layers" in why["asvit"]
    known = {way.name: way for way in ways.ways(make_model("augreg", depth=4), (96, 96))}
    assert "keeps as many tokens as a picture needs" in known["asvit"].refused
    assert known["asvit"].gflops is None


KEYS = {
    "": {"version", "supported", "module", "model", "machine", "resolution", "work", "methods", "dense",
         "by_size", "verdict", "notes", "pictures", "seconds"},
    "model": {"class", "library", "parameters", "dtypes", "devices", "family", "verified_with", "blocks",
              "dim", "heads", "prefix_tokens", "patch_px", "attention", "sparse_layers",
              "window_layers", "dense_layers"},
    "machine": {"name", "device", "instruction_sets", "threads", "bfloat16", "load", "versions"},
    "work": {"tokens", "tokens_by_layer", "gflops", "gflops_by_part"},
    "dense": {"dtype", "whole_ms", "timed_share", "forms", "blocks"},
    "verdict": {"worth", "why", "first", "settings", "python"},
}  # fmt: skip


def steady(found):
    """Plain data of the layout that docs/doctor.md names."""
    found = json.loads(json.dumps(found))
    assert (found["version"], found["supported"]) == (1, True)
    assert found["verdict"]["worth"] in ("yes", "little", "no", "unknown")
    for name, keys in KEYS.items():
        assert (found[name] if name else found).keys() == keys, name
    for row in found["methods"]:
        assert row.keys() == {
            "method", "setting", "gflops", "flop_limit", "trained", "refused", "estimate",
            "pays_from_tokens", "sizes_timed",
        }  # fmt: skip
        assert (row["refused"] is None) == (row["flop_limit"] is not None)
    assert {form["form"] for form in found["dense"]["forms"]} >= {"float32", "bfloat16", "compiled"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    found = sparsight.doctor(make_model("dinov2", depth=2).to(dtype), (112, 112))
    name = str(dtype).removeprefix("torch.")
    assert found["model"]["dtypes"].keys() == {name}
    assert found["dense"]["dtype"] == name
    assert "float32" in {form["form"] for form in found["dense"]["forms"]}


def test_other_channels():
    model = make_model("augreg", in_chans=4)
    more = 2 * 16 * 16 * 48 * 36 / 1e9  # one channel more, of 36 patches
    assert work(model, (96, 96)).gflops - work(make_model("augreg"), (96, 96)).gflops == (
        pytest.approx(more)
    )


def test_what_is_not_supported_is_a_result():
    found = sparsight.doctor(torch.nn.ModuleList([make_clip(), make_clip()]))
    assert not found["supported"]
    assert found["modules"] == ["0.vision_model", "1.vision_model"]
    assert "'1.vision_model'" in found["refusal"]
    inside = sparsight.doctor(make_clip(), (32, 32))
    assert inside["supported"]
    assert inside["module"] == "vision_model"
    assert "module='vision_model'" in inside["verdict"]["python"]
    net = sparsight.doctor(timm.create_model("test_resnet"))
    assert (net["supported"], net["modules"]) == (False, [])
    assert "ResNet of timm.models.resnet is not supported" in net["refusal"]


def test_what_does_not_go_is_refused_in_a_sentence():
    model = make_model("augreg")
    with pytest.raises(ImagesError, match="the nearest that is: 96x96"):
        sparsight.doctor(model, 100)
    with pytest.raises(ImagesError, match="there is no folder"):
        sparsight.doctor(model, 96, images="/none")
    fixed = make_model("augreg", dynamic_img_size=False, img_size=64)
    with pytest.raises(ImagesError, match="takes no picture of 96x96 px") as told:
        sparsight.doctor(fixed, 96)
    assert len(str(told.value)) <= 300
    with pytest.raises(PlanError, match="are on meta"):
        sparsight.doctor(outline(model), 96)
    sparsight.apply(model, sparsight.SVE(layers=(1,)))
    with pytest.raises(PlanError, match="restore"):
        sparsight.doctor(model, 96)


def test_without_a_resolution_it_takes_what_the_patches_divide():
    assert stage.size_for(family_in(model := make_model("dinov2")), model, None) == (1022, 1022)
    assert stage.size_for(family_in(model := make_model("augreg")), model, None) == (1024, 1024)


def test_layers_that_cannot_be_changed_are_noted():
    model = make_model("augreg")
    model.blocks[2].attn.forward = lambda x, **more: x
    found = sparsight.doctor(model, 96)
    assert any("layer 2 has a forward of its own" in note for note in found["notes"])
    refused = {row["method"] for row in found["methods"] if row["refused"]}
    assert {"sve", "tome"} <= refused


def photos(folder):
    """Three sizes, and files that are none."""
    folder.mkdir()
    for number, (height, width) in enumerate([(40, 60), (40, 60), (200, 300), (90, 30)]):
        pixels = np.full((height, width, 3), number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"junk")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_pictures_are_counted_with_the_reasons(tmp_path):
    found = sparsight.doctor(make_model("augreg"), 96, images=photos(tmp_path / "p"))["pictures"]
    assert (found["files"], found["decoded"], found["usable"]) == (5, 5, 4)
    assert [one["file"] for one in found["unread"]] == ["broken.jpg"]
    assert found["unread"][0]["why"].startswith("cannot read ")
    assert found["passed"] == {".txt": 1}
    assert found["left_out"].startswith("2: ")  # the text and the junk
    assert found["smallest"] == {
        "size": [40, 60], "pictures": 2, "fitting": [32, 64], "tokens": 1 + 2 * 4,
    }  # fmt: skip
    assert found["largest"]["size"] == [200, 300]
    assert found["largest"]["tokens"] == 1 + 12 * 19  # 192 x 304 in patches of 16
    assert found["enlarged"] == 3


def test_pictures_that_there_is_no_time_for_are_said_to_be_left(tmp_path):
    folder = ImageFolder(photos(tmp_path / "p"), (96, 96))
    found = pictures.look_at(folder, (16, 16), 3, 37, 1, budget_s=0)
    assert (found["files"], found["decoded"]) == (5, 1)
    assert sorted(pictures._spread(10)) == [*range(10)]
    assert pictures._spread(10)[:3] == [0, 4, 8]


def test_nothing_is_begun_that_does_not_fit_into_the_budget():
    """The first arm says it does one GFLOP and takes 10 ms: 100 GFLOPs a second."""
    device, ran = torch.device("cpu"), []

    def arm(name):
        def run():
            ran.append(name)
            time.sleep(0.01)

        return run

    arms = {"dense": arm("dense"), "sparse": arm("sparse")}
    clock = Clock(1.0, device)
    clock.rate = 0.5  # so that the first is said to take two seconds
    assert clock.time(arms, {"dense": 1.0, "sparse": 1.0}, 1.0) == {}
    assert not ran
    clock = Clock(1.0, device)
    assert clock.time(arms, {"dense": 1.0, "sparse": 1000.0}, 1.0).keys() == {"dense"}
    assert set(ran) == {"dense"}
    assert 0 < clock.rate <= 100  # on a busy machine less
    clock = Clock(60.0, device)
    assert clock.time(arms, {"dense": 1.0, "sparse": 1.0}, 1.0).keys() == {"dense", "sparse"}
    assert ran.count("sparse") == 6  # one warms up
    assert Clock(0, device).time(arms, {"dense": 1.0, "sparse": 1.0}, 1.0) == {}


def test_without_time_it_tells_what_it_counted(monkeypatch):
    monkeypatch.setattr(stage, "BUDGET_S", 0)
    found = sparsight.doctor(make_model("augreg"), 96)
    assert found["verdict"]["worth"] == "unknown"
    assert found["dense"]["whole_ms"] is None
    assert found["by_size"] == []
    least = min((row["gflops"], row["method"]) for row in found["methods"] if row["method"] in ways.OURS
                and not row["refused"])  # fmt: skip
    assert found["verdict"]["first"] == least[1]


def test_the_whole_is_scaled_from_what_was_timed():
    kinds = [blocks.Kind(((0,), (1,)), 3.0, ms=30.0), blocks.Kind(((2,),), 2.0)]
    done = type("Done", (), {"gflops": 10.0})()
    assert blocks.whole_ms(done, kinds) == (pytest.approx(100.0), pytest.approx(0.6))
    assert blocks.whole_ms(done, [blocks.Kind(((0,),), 3.0)]) == (None, 0.0)


def test_what_a_way_takes_off_is_counted_for_every_unit_of_its_kind():
    """Early exit after layer 0 of four: three blocks are like the one that was timed."""
    model = make_model("augreg")
    done, family = work(model, (96, 96)), family_in(model)
    exits = next(way for way in ways.ways(model, (96, 96)) if way.name == "early-exit")
    kinds = blocks.kinds_of(family.units(model), done)
    assert [kind.units for kind in kinds] == [((0,), (1,), (2,), (3,))]

    class Told:
        def time(self, arms, gflops, share):
            return dict(zip(arms, [10.0, 4.0], strict=True))

    timed = blocks.time_kinds(model, family, [exits], done, kinds, Told(), {})
    assert timed.saved == {"early-exit": pytest.approx(18.0)}
    assert timed.units(0) == {"early-exit": 4.0}


def test_a_method_pays_from_where_it_stays_faster():
    rows = [
        {"tokens": n, "ms": {"dense": 10.0, "sve": sparse}}
        for n, sparse in ((256, 8), (576, 12), (1024, 9), (2304, 7))
    ]
    assert sizes.pays_from(rows, "sve") == 1024
    assert sizes.pays_from(rows[:2], "sve") is None


FORMS = [{"form": "float32", "speedup": 1.0}, {"form": "bfloat16", "speedup": None}]


@pytest.mark.parametrize(
    ("gain", "worth", "says"), [(1.6, "yes", "1.60x"), (1.15, "little", "is little"), (1.0, "no", "too")]
)
def test_the_verdict_follows_from_the_estimate(gain, worth, says):
    way = ways.Way("sve", (sparsight.SVE(layers="all"),))
    found = verdict.judge([way], {"sve": gain}, {"sve": 2304}, 576, FORMS, "336x336")
    assert (found["worth"], found["first"]) == (worth, "sve")
    assert says in found["why"]
    assert ("from about 2304 tokens on" in found["why"]) == (worth == "no")
    faster = [*FORMS[:1], {"form": "bfloat16", "speedup": 1.9}]
    assert "1.90x as fast in bfloat16" in verdict.judge(
        [way], {"sve": gain}, {}, 576, faster, "336x336"
    )["why"]  # fmt: skip
    assert verdict.judge([], {}, {}, 576, FORMS, "336x336")["first"] is None


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small model as a folder of timm's save_for_hf."""
    from timm.models import save_for_hf

    folder = tmp_path_factory.mktemp("checkpoint")
    arguments = {"embed_dim": 24, "depth": 4, "num_heads": 3}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **arguments)
    save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return folder


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_that_is_advised_runs(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("sparsight.cli.optimize.finish", lambda *args, **more: None)  # the page
    folder = photos(tmp_path / "photos")
    done = run("doctor", checkpoint, "--resolution", 128, "--images", folder)
    assert done.exit_code == 0, done.stderr
    for words in ("4 of 5 files decoded are usable", "GFLOPs (counted)", "worth it here", "timed"):
        assert words in done.stdout
    advised = next(line for line in done.stdout.splitlines() if line.startswith("try first "))
    words = shlex.split(advised.removeprefix("try first "))
    assert words[:3] == ["sparsight", "optimize", str(checkpoint)]
    monkeypatch.chdir(tmp_path)
    done = run(*words[1:])
    assert done.exit_code == 0, done.stderr
    plan = sparsight.load(tmp_path / "runs" / "first")
    assert len(plan.methods) >= 1


def test_json_is_one_object_and_an_unsupported_model_ends_in_1(checkpoint):
    done = run("doctor", checkpoint, "--resolution", 96, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["source"] == str(checkpoint)
    assert found["verdict"]["command"].startswith("sparsight optimize ")
    done = run("doctor", "timm:test_resnet", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["supported"] is False
    assert done.stderr.startswith("sparsight: ResNet of timm.models.resnet is not supported")
    done = run("doctor", "timm:test_resnet")
    assert (done.exit_code, "not supported: " in done.stdout) == (1, True)


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.eyes, self.more = make_model("augreg"), make_model("hf_vit")


def test_every_supported_module_inside_is_named():
    assert sparsight.doctor(Around())["modules"] == ["eyes", "more"]


def test_counting_runs_nothing():
    """At full size, of a model whose weights have no values to run with."""
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch14_dinov2", img_size=1036, dynamic_img_size=True)
    done = work(model, (1036, 1036))
    n, c, depth = 74 * 74 + 1, 768, 12
    assert done.calls[0].tokens == n
    assert done.parts["attention"] == pytest.approx(4 * n * n * c * depth / 1e9)

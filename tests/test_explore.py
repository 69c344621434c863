"""The explorer: what a setting becomes, without a page and in a browser."""

import builtins
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from browser import browser, needs_chromium, requests_of, weak_text
from conftest import SWINS, heed_interrupts, make_images, make_model, plan_of
from PIL import Image

import sparsight
from sparsight.attach import family_in
from sparsight.errors import ImagesError, PlanError, SparsightError
from sparsight.explore.page import _saved, _shown, build, figures, told
from sparsight.explore.pictures import opened
from sparsight.explore.session import Session
from sparsight.explore.setting import OWN, Setting, layers_from
from sparsight.images import ImageFolder
from sparsight.ops.partition import kept_count
from sparsight.plan import Plan
from sparsight.run import load

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
LONGEST_S = 120  # for what takes a second or two, however busy the machine is


@pytest.fixture
def session(tmp_path):
    return make_session(make_model("augreg"), tmp_path)


def make_session(model, out, side=10):
    height, width = family_in(model).patch_px(model)
    return Session(model, (side * height, side * width), MEAN, STD, out / "plans")


def picture_of(session):
    pixels = torch.randint(
        0, 255, (90, 120, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return session.tensor_of(Image.fromarray(pixels.numpy()))


def test_kept_tokens_are_counted_and_keeping_all_changes_nothing(session):
    picture = picture_of(session)
    seen = session.see(picture, "a", Setting(keep=0.25), 2)
    kept = seen.look["maps"]["layer 2 kept"]
    assert (kept > 0).sum() == kept_count(1 + 100, 0.25, 1) - 1  # the class token has no place
    assert seen.look["relative_error"] > 0
    whole = session.see(picture, "a", Setting(keep=1.0), 2)
    assert whole.look["relative_error"] == 0
    assert whole.look["maps"]["features difference"].max() == 0


def test_what_was_seen_is_remembered(session):
    picture = picture_of(session)
    first = session.see(picture, "a", Setting(keep=0.25), 1)
    assert session.see(picture, "a", Setting(keep=0.25), 1) is first
    assert session.see(picture, "a", Setting(keep=0.5), 1) is not first


def test_a_saved_setting_is_a_run_with_the_same_features(session):
    picture, setting = picture_of(session), Setting(keep=0.25, layers=(1, 2))
    seen = session.see(picture, "a", setting, 1)
    one, two = session.save(setting), session.save(Setting("tome", 0.5))
    assert (one.name, two.name) == ("00", "01")
    dense = family_in(session.model).features(session.model, picture[None]).detach()
    sparse = sparsight.apply(session.model, load(one))
    got = family_in(sparse).features(sparse, picture[None]).detach()
    error = ((got - dense).norm() / dense.norm()).item()
    assert error == pytest.approx(seen.look["relative_error"], rel=1e-4)  # another order of sums


def test_a_plan_with_weights_of_its_own_leaves_the_dense_model_alone(session):
    model, picture = session.model, picture_of(session)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    name = next(name for name, value in model.named_parameters() if value.ndim == 2)
    given = Plan(methods=(sparsight.SVE(layers=(1, 2)),))
    session.plan = given.with_(weights={f"model.{name}": 2 * before[name]})
    # Keeping everything, only the plan's own weight sets the two models apart.
    assert session.see(picture, "a", Setting(keep=1.0), 1).look["relative_error"] > 0
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    sparsight.apply(model, load(session.save(Setting(keep=0.5))))  # of the model as it came


def test_a_saved_setting_says_where_the_encoder_is(session):
    session.module = "vision_tower"
    assert load(session.save(Setting())).recipe == {"module": "vision_tower"}


def test_pictures_called_the_same_are_told_apart(session, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "photos" / folder / "a.png")
    session.images = ImageFolder(tmp_path / "photos", session.resolution)
    assert session.names() == ["one/a.png", "two/a.png"]


def test_the_methods_are_those_that_fit(session, tmp_path):
    # SPOT needs training, SparseViT windows.
    assert session.methods() == ["sve", "early-exit", "tome", "cls-topk"]
    swin = make_session(SWINS["timm_swin"](), tmp_path, side=20)
    assert swin.methods() == ["sparsevit"]
    moved = ["contribution", "contribution-bound"]
    every = ["sampled", "exact", "class-attention", *moved, "standout", "magnitude", "lattice"]
    assert session.scores() == every  # no projector without a run
    run = plan_of(session.model, sparsight.SVE(layers="all", score="linear"))
    session.plan = run
    assert session.scores() == ["sampled", "exact", "linear", *every[2:]]
    assert session.plan_of(Setting(score="linear")).weights.keys() == run.weights.keys()
    no_class = make_session(make_model("siglip"), tmp_path)
    assert no_class.scores() == ["sampled", "exact", *moved, "standout", "magnitude", "lattice"]
    with pytest.raises(PlanError, match="windows"):
        session.plan_of(Setting("sparsevit"))


def test_a_run_is_shown_and_saved_as_it_is(session):
    own = plan_of(
        session.model,
        sparsight.SVE(layers=(0, 1), keep=(0.5, 0.25), keep_queries=0.1, groups=((0, 1),),
                      sample_every=4, completion="map"),
        sparsight.MLPRouting(layers=(0, 2), keep=0.5),
        sparsight.EarlyExit(after=(2,), keep=0.5),
    )  # fmt: skip
    session.plan = own
    assert session.methods()[0] == OWN
    saved = load(session.save(Setting(OWN, keep=0.9)))
    assert saved.methods == own.at_any_size().methods
    assert saved.weights.keys() == own.weights.keys()
    assert all(saved.weights[name].equal(value) for name, value in own.weights.items())
    one = session.plan_of(Setting(keep=0.9))
    assert one.sve.named_layers == (0, 1)  # as the run has it, where the page names none
    assert one.methods == (one.sve,)
    assert one.weights == {}


def test_tokens_that_exit_are_completed_on_the_pictures_of_the_session(session):
    setting, picture = Setting("early-exit", keep=0.5), picture_of(session)
    last = session.see(picture, "a", setting, 1)
    assert session.plan_of(setting).one(sparsight.EarlyExit).completion == "last"
    assert "keep their last value: there are no pictures" in told(last)
    tokens, left = 1 + 100, last.look["maps"]["left"]
    assert (left == 0).sum() == kept_count(tokens, 0.5, 1) - 1
    assert (left == 1).sum() == tokens - kept_count(tokens, 0.5, 1)

    with_pictures = make_session(session.model, session.out)
    with_pictures.images = make_images(session.model, batch=4, grid=(10, 10))
    found = with_pictures.plan_of(setting)
    assert found.one(sparsight.EarlyExit).completion == "map"
    assert found.recipe["completion"][0]["left"] < 1
    assert with_pictures.plan_of(setting) is found  # fitted once
    own = with_pictures.images[0]
    better, worse = with_pictures.see(own, "b", setting, 1), session.see(own, "b", setting, 1)
    assert better.look["relative_error"] < 0.8 * worse.look["relative_error"]
    assert better.look["maps"]["left"].tolist() == worse.look["maps"]["left"].tolist()
    assert "last value" not in told(better)
    saved = load(with_pictures.save(setting))
    assert all(saved.weights[name].equal(value) for name, value in found.weights.items())


def test_too_few_pictures_for_a_map_are_told(session):
    session.images = make_images(session.model, batch=1, grid=(10, 10))
    seen = session.see(picture_of(session), "a", Setting("early-exit", keep=0.9), 1)
    assert "cannot be fitted to" in told(seen)
    whole = session.see(picture_of(session), "a", Setting("early-exit", keep=1.0), 1)
    assert whole.look["relative_error"] == 0
    assert "Note" not in told(whole)  # nothing is left to complete


def test_a_run_brings_its_weights_to_the_method_that_has_them(session):
    model = session.model
    name, weight = next((name, p) for name, p in model.named_parameters() if p.ndim == 2)
    run = plan_of(model, sparsight.SVE(layers=(0,), score="linear"), sparsight.EarlyExit(after=(1,)))
    session.plan = run.with_(weights={f"model.{name}": 2 * weight.detach()})
    assert set(session.plan_of(Setting(score="linear")).weights) == {
        "sve.0.projector", f"model.{name}"
    }  # fmt: skip
    assert session.plan_of(Setting("tome")).weights == {}


def test_a_disk_that_refuses_is_one_sentence(session, tmp_path):
    (tmp_path / "file").write_text("")
    session.out = tmp_path / "file" / "plans"
    assert _saved(session, "sve", 0.5, "sampled", "").startswith("**Not saved:**")


def test_layers_are_understood_or_refused():
    assert layers_from("", (0, 1)) == layers_from("all", (0, 1)) == ()
    assert layers_from("1-3, 5", (0, 1, 2, 3, 4, 5)) == (1, 2, 3, 5)
    with pytest.raises(PlanError, match="not like"):
        layers_from("one", (0, 1))
    with pytest.raises(PlanError, match="layer 7 cannot"):
        layers_from("7", (0, 1))


def test_wrong_pictures_are_one_sentence(session, tmp_path):
    broken = tmp_path / "<b>broken.png"
    broken.write_bytes(b"no picture")
    images, said = _shown(session, str(broken), None, "1", "sve", 0.25, "sampled", "")
    assert images == ""
    assert said.startswith("**Not possible:**")
    assert "<b>" not in said
    assert "Traceback" not in said
    assert str(tmp_path) not in said
    large = tmp_path / "large.png"
    Image.new("1", (9_000, 9_000)).save(large)
    with pytest.raises(ImagesError, match="million pixels"):
        opened(large)
    assert _shown(session, None, None, "1", "sve", 0.25, "sampled", "") == (
        "",
        "Drop in a picture first.",
    )


def test_names_are_text(session):
    seen = session.see(picture_of(session), '<img src=x onerror="1">', Setting(keep=0.5), 1)
    assert "<img src=x" not in figures(seen)


def test_without_gradio_it_is_one_sentence(session, monkeypatch):
    real = builtins.__import__

    def no_gradio(name, *rest):
        if name == "gradio":
            raise ModuleNotFoundError("no gradio", name="gradio")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_gradio)
    with pytest.raises(SparsightError, match=r"pip install 'sparsight\[explore\]'"):
        build(session)


def test_it_listens_to_this_machine_alone():
    import inspect

    from sparsight.cli.explore import explore

    assert inspect.signature(explore).parameters["host"].default == "127.0.0.1"


@contextmanager
def served(out):
    """`sparsight explore demo` as a user runs it; ended by Ctrl-C, which has to end it cleanly."""
    command = [sys.executable, "-m", "sparsight", "explore", "demo", "--resolution", "320"]
    command += ["--out", str(out)]
    uploads = out.parent / "uploads"
    uploads.mkdir()
    place = os.environ | {"TMPDIR": str(uploads)}
    server = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=place, preexec_fn=heed_interrupts
    )
    said = []
    try:
        for line in server.stderr:  # up to where it listens: at the first port that is free
            said.append(line)
            if found := re.search(r"the page is at (\S+);", line):
                yield found[1]
                break
        else:
            pytest.fail("it ended: " + "".join(said))
    finally:
        server.send_signal(signal.SIGINT)
        try:
            said.append(server.communicate(timeout=LONGEST_S)[1])
        finally:
            server.kill()  # a server that will not end fails this test, not the next
            server.wait()
        assert "Traceback" not in "".join(said)
        assert not list(uploads.rglob("*.png"))  # what was dropped in is gone


@needs_chromium
def test_in_a_browser(tmp_path):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    Image.new("RGB", (80, 60), "orange").save(tmp_path / "dropped.png")
    with served(tmp_path / "plans") as address, browser(1600) as driver:
        wait = WebDriverWait(driver, LONGEST_S, ignored_exceptions=[StaleElementReferenceException])

        def text(place):
            return driver.find_element(By.ID, place).text

        driver.get(address)
        wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "input[type=file]"))
        wait.until(lambda d: "features moved" in text("told-A"))  # it opens with a picture
        upload = driver.find_element(By.CSS_SELECTOR, "input[type=file]")
        upload.send_keys(str(tmp_path / "dropped.png"))
        for side in "AB":  # both sides follow the picture
            wait.until(
                lambda d, side=side: (
                    "dropped"
                    in d.find_element(By.CSS_SELECTOR, f"#images-{side} img").get_attribute("alt")
                )
            )
        assert list((tmp_path / "uploads").rglob("dropped.png"))  # deleted at the end: see `served`
        before = text("told-A")
        slider = driver.find_element(By.CSS_SELECTOR, "input[type=range]")
        slider.send_keys(*[Keys.ARROW_RIGHT] * 20)
        wait.until(lambda d: "features moved" in text("told-A") and text("told-A") != before)
        images = driver.find_elements(By.CSS_SELECTOR, "#images-A img")
        assert len(images) == 7  # picture, exact, predicted, kept, features twice, their difference
        assert all(image.get_attribute("alt") for image in images)
        buttons = driver.find_elements(By.TAG_NAME, "button")
        next(button for button in buttons if button.text.startswith("Save A")).click()
        wait.until(lambda d: "sparsight measure" in text("saved-A"))
        saved = load(tmp_path / "plans" / "00").sve
        assert saved.keep == pytest.approx(0.125 + 20 * 0.01, abs=0.011)  # 20 steps; the first may round
        unlabelled = driver.execute_script(
            "return [...document.querySelectorAll('input:not([type=file]), textarea')]"
            ".filter((e) => e.checkVisibility() && !e.labels?.length && !e.ariaLabel).length"
        )
        assert unlabelled == 0
        assert weak_text(driver) == []
        elsewhere = [u for u in requests_of(driver) if u.startswith("http") and "127.0.0.1" not in u]
        assert elsewhere == []
        severe = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert severe == []
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 1600
        (tmp_path / "broken.png").write_bytes(b"no picture")
        driver.find_element(By.CSS_SELECTOR, "[aria-label='Clear'], [aria-label^='Remove']").click()
        wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "input[type=file]"))
        broken = driver.find_element(By.CSS_SELECTOR, "input[type=file]")
        broken.send_keys(str(tmp_path / "broken.png"))
        wait.until(lambda d: "Not possible: " in text("told-A"))


def test_pictures_of_a_folder_can_be_chosen(session):
    session.images = make_images(session.model, batch=2, grid=(10, 10))
    images, said = _shown(session, None, "picture 1", "1", "sve", 0.5, "exact", "1-2")
    assert "picture 1" in images
    assert "features moved by" in said

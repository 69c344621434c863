"""The report: what it says of complete, partial, old and hostile runs, and how fast it is written."""

import copy
import html
import json
import re
import time

import pytest
import torch
from browser import browser, needs_chromium, requests_of, weak_text
from conftest import SWIN_GRID, SWINS, make_images, make_model

import sparsight
from sparsight.errors import SparsightError
from sparsight.files import write_json
from sparsight.ops.partition import kept_count
from sparsight.report import write_report
from sparsight.report.answer import spans
from sparsight.report.charts import charts_of
from sparsight.report.data import read_run
from sparsight.report.plotly import figure
from sparsight.run import save_plan
from sparsight.stages.calibrate import analyze
from sparsight.stages.look import look, save_looks
from sparsight.stages.measure import measure
from sparsight.stages.optimize import optimize

HOSTILE = '</script><img src=x onerror="alert(1)">&' + "日本語" * 40 + ".png"


class Named(list):
    """Pictures with file names, as a folder has them."""

    def name_of(self, index):
        return f"{index} {HOSTILE}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole run of a small model: optimized, distilled, measured at two sizes, looked at."""
    folder = tmp_path_factory.mktemp("run")
    model = make_model("augreg")
    images = Named(make_images(model, batch=3, grid=(14, 14)))
    method = sparsight.SVE(layers=(1, 2, 3), keep=1 / 4, scorer="linear", min_tokens=0)
    training = sparsight.Distillation(steps=3)
    plan = optimize(model, images, method, folder, training, source="timm:" + HOSTILE)
    plan = plan.with_(method=plan.method.at_any_size())
    save_plan(plan, folder)
    sizes = [(96, 96), (224, 224)]
    measured = measure(model, plan, images, sizes, repeats=1)
    write_json(folder / "measure.json", measured)
    sparse = sparsight.apply(copy.deepcopy(model), plan)
    save_looks(list(look(model, sparse, images, [0, 2], (1, 3))), folder)
    (folder / "command.txt").write_text("sparsight optimize <model>\n")
    return folder


def text_of(path):
    return path.read_text(encoding="utf-8")


def test_a_whole_run_is_told(run, tmp_path):
    began = time.perf_counter()
    write_report(run)
    assert time.perf_counter() - began < 3  # what a reader waits for
    path = write_report(run, tmp_path / "figures", tmp_path / "all.json")
    page = text_of(path)
    fidelity = json.loads(text_of(run / "measure.json"))["fidelity"]
    assert "3 of 4 layers are sparse (1-3)" in page
    assert (
        f"{100 * fidelity['relative_error_worst']:.1f} %" in page
    )  # the worst picture, not only the mean
    assert "sparsight optimize &lt;model&gt;" in page
    names = {chart.name for chart in charts_of(read_run(run))}
    expected = {"time", "size-latency_ms", "size-peak_memory_mb", "images", "indicator", "overlap"}
    assert expected | {"recall", "loss"} <= names
    written = {file.name for file in (tmp_path / "figures").iterdir()}
    assert written == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert set(json.loads(text_of(tmp_path / "all.json"))["charts"]) == names
    write_report(run, tmp_path / "again")  # the same figures give the same files
    for file in written:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "figures" / file).read_bytes()
    assert path.stat().st_size < 8_000_000


def test_strings_of_others_are_text(run):
    page = text_of(write_report(run))
    assert "<img src=x" not in page
    assert html.escape("onerror") in page  # it is there, as text
    inside = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(inside[1])["plan"]["source"] == "timm:" + HOSTILE


def test_kept_masks_are_the_top_scores(run):
    one = read_run(run).looks[0]["maps"]
    ranked, kept = one["layer 1 predicted"], one["layer 1 kept"]
    assert ranked[kept > 0].min() >= ranked[kept == 0].max()
    assert (kept > 0).sum() == kept_count(1 + 14 * 14, 1 / 4, 1) - 1  # the class token is not shown
    assert kept.size == 14 * 14


def test_an_interrupted_run_says_what_is_missing(run, tmp_path):
    (tmp_path / "analysis.json").write_text(text_of(run / "analysis.json"))
    page = text_of(write_report(tmp_path))
    assert "the run was interrupted" in page
    assert "Not measured: time, memory and fidelity" in page


def test_other_versions_and_damage_are_told(run, tmp_path):
    for name in ("plan.json", "analysis.json"):
        (tmp_path / name).write_text(text_of(run / name))
    found = json.loads(text_of(tmp_path / "analysis.json"))
    del found["overlap"]
    write_json(tmp_path / "analysis.json", found)
    (tmp_path / "losses.json").write_text("[1, 2")
    (tmp_path / "look.safetensors").write_bytes(b"no tensors")
    page = text_of(write_report(tmp_path))
    assert "Not shown: what layers look at in common" in page
    assert "losses.json cannot be read" in page
    assert "look.safetensors cannot be read" in page
    old = json.loads(text_of(run / "measure.json"))
    del old["cases"]
    write_json(tmp_path / "measure.json", old)
    page = text_of(write_report(tmp_path))
    assert "Not told: speed, memory and the machine" in page
    assert "3 of 4 layers are sparse (1-3)" in page  # what can be read is told
    old["fidelity"]["by_image"][0]["name"] = "not UTF-8 \udcff.png"
    write_json(tmp_path / "measure.json", old)
    (tmp_path / "losses.json").write_text("[1.0, NaN]")
    page = text_of(write_report(tmp_path))
    assert "NaN is no number" in page
    assert "not UTF-8 ?.png" in page


def test_settings_of_other_methods_are_words(tmp_path):
    save_plan(sparsight.Plan(method=sparsight.SPOT(stages=(3, 4, 9), rho=0.65)), tmp_path)
    page = text_of(write_report(tmp_path))
    assert "Method: spot, with hidden 32; history 1; rho 0.65; sample 32; stages 3-4, 9." in page


def test_before_a_plan_no_layer_is_called_sparse(run, tmp_path):
    (tmp_path / "analysis.json").write_text(text_of(run / "analysis.json"))
    chart = next(c for c in charts_of(read_run(tmp_path)) if c.name == "indicator")
    assert [series.name for series in chart.series] == ["stays dense"]


def test_settings_side_by_side_have_their_quality(tmp_path):
    protocol = {"machine": "m", "dtype": "float32", "threads": 2, "versions": {"torch": "2"}}
    same = {"quality_name": "mIoU", "relative_error": 0.1, "relative_error_worst": 0.2}
    rows = [
        same | {"method": name, "setting": "s", "latency_ms": ms, "speedup": 9 / ms, "quality": quality}
        for name, ms, quality in (("dense", 9, 0.8), ("sve", 6, 0.79), ("lower-resolution", 3, 0.4))
    ]
    write_json(tmp_path / "compare.json", {"protocol": protocol, "rows": rows})
    page = text_of(write_report(tmp_path / "compare.json"))
    assert "sve s; mIoU 0.7900, dense 0.8000; features moved 10.0 %, on the worst picture 20.0 %" in page
    assert "a lower resolution, the fastest" in page
    assert "not measured: sparsight measure" not in page


def test_long_series_are_thinned_where_they_are_drawn(run, tmp_path):
    (tmp_path / "plan.json").write_text(text_of(run / "plan.json"))
    write_json(tmp_path / "losses.json", [1 / (n + 1) for n in range(60_000)])
    chart = next(c for c in charts_of(read_run(tmp_path)) if c.name == "loss")
    drawn = figure(chart)["data"][0]
    assert len(drawn["x"]) == 2_000
    assert (drawn["x"][0], drawn["x"][-1]) == (1, 60_000)
    assert write_report(tmp_path).stat().st_size < 8_000_000


def test_nothing_to_report_is_refused(tmp_path):
    with pytest.raises(SparsightError, match="nothing to report"):
        write_report(tmp_path)
    with pytest.raises(SparsightError, match="no run at"):
        write_report(tmp_path / "none")


def test_a_full_disk_leaves_the_old_page(run, monkeypatch):
    path = write_report(run)
    before = text_of(path)

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(SparsightError, match="No space left"):
        write_report(run)
    monkeypatch.undo()
    assert text_of(path) == before


def test_no_picture_and_one_picture(tmp_path):
    model = make_model("augreg")
    images = make_images(model, batch=1)
    plan = sparsight.apply(copy.deepcopy(model), sparsight.SVE(layers=(1,), min_tokens=0))
    from sparsight.attach import applied

    save_plan(applied(plan).plan, tmp_path)
    write_json(tmp_path / "analysis.json", analyze(model, images).model_dump(mode="json"))
    page = text_of(write_report(tmp_path))
    assert "No picture was looked at" in page
    save_looks(list(look(model, plan, images, [0])), tmp_path)
    assert "picture 0" in text_of(write_report(tmp_path))


@pytest.mark.parametrize("name", SWINS)
def test_skipped_windows_are_the_share_that_was_dropped(name):
    dense = SWINS[name]()
    sparse = sparsight.apply(copy.deepcopy(dense), sparsight.SparseViT(sparsity=((0.6,), (0.25, 0.5))))
    maps = next(look(dense, sparse, make_images(dense, batch=1, grid=SWIN_GRID), [0])).maps
    # Windows at the edge hold fewer tokens: the share of tokens is only near that of windows.
    assert maps["stage 1 skipped"].mean().item() == pytest.approx(0.6, abs=0.15)
    assert set(maps["stage 1 skipped"].unique().tolist()) <= {0.0, 0.5, 1.0}


def test_time_of_a_thousand_pictures(run, tmp_path):
    """Six seconds are what a reader waits for a page; the demo's is half of that."""
    for file in run.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    measured = json.loads(text_of(run / "measure.json"))
    one = measured["fidelity"]["by_image"][0]
    generator = torch.Generator().manual_seed(0)
    errors = torch.rand(1000, generator=generator).tolist()
    measured["fidelity"]["by_image"] = [
        one | {"place": n, "relative_error": e} for n, e in enumerate(errors)
    ]
    write_json(tmp_path / "measure.json", measured)
    began = time.perf_counter()
    path = write_report(tmp_path)
    assert time.perf_counter() - began < 6
    assert path.stat().st_size < 8_000_000


def test_spans():
    assert spans([3, 4, 5, 8]) == "3-5, 8"


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1600, False)])
def test_in_a_browser(run, width, dark):
    path = write_report(run)
    with browser(width, dark) as driver:
        driver.get(path.as_uri())
        plots = driver.execute_script("return document.querySelectorAll('.plot').length")
        drawn = driver.execute_script(
            "return document.querySelectorAll('.plot svg.main-svg .xy').length"
        )
        assert plots == len(charts_of(read_run(run)))
        assert drawn >= plots
        assert driver.get_log("browser") == []
        assert [
            url for url in requests_of(driver) if not url.startswith(("file:", "data:", "blob:"))
        ] == []
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert weak_text(driver) == []
        unnamed = "return [...document.images].filter((e) => !e.alt).length"
        assert driver.execute_script(unnamed) == 0
        assert driver.execute_script("return document.documentElement.lang") == "en"
        if width > 500:  # a telephone has neither a mouse nor a keyboard
            _hover(driver)
            _keyboard(driver)
        _print(driver)


def _print(driver):
    """On paper plots are black on white and fit the page, whatever the screen is like."""
    state = """
        const box = document.querySelector('#plot-recall svg.main-svg');
        return [box.clientWidth, getComputedStyle(box.querySelector('.xtick text')).fill]"""
    before = driver.execute_script(state)
    driver.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert driver.execute_script(state) == [640, "rgb(0, 0, 0)"]
    driver.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert driver.execute_script(state) == before


def _hover(driver):
    """The mouse over the heat map tells two layers and what they have in common."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    box = driver.find_element(By.CSS_SELECTOR, "#plot-overlap .nsewdrag")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    ActionChains(driver).move_to_element_with_offset(box, 5, 5).move_to_element(box).perform()
    told = "#plot-overlap .hoverlayer .hovertext"
    WebDriverWait(driver, 5).until(
        lambda d: "layers" in "".join(e.text for e in d.find_elements(By.CSS_SELECTOR, told))
    )


def _keyboard(driver):
    """Tab goes to the link that skips to the answer, and on to the figures below the plots."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    driver.execute_script("window.scrollTo(0, 0); document.activeElement.blur()")
    reached = []
    for _ in range(12):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        reached.append(driver.execute_script("return document.activeElement.tagName"))
    assert reached[0] == "A"
    assert "SUMMARY" in reached

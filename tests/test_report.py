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
from sparsight.attach import applied, as_plan
from sparsight.cli.report import shown_layers
from sparsight.errors import SparsightError
from sparsight.files import write_json
from sparsight.methods.sve import attending
from sparsight.ops.partition import kept_count
from sparsight.plan import Plan
from sparsight.report import write_report
from sparsight.report.chart import Chart, Series
from sparsight.report.charts import charts_of
from sparsight.report.data import read_run
from sparsight.report.pictures import panels
from sparsight.report.plotly import figure
from sparsight.report.words import spans
from sparsight.run import save_plan
from sparsight.stages.bench import bench_of
from sparsight.stages.calibrate import analyze
from sparsight.stages.complete import complete
from sparsight.stages.look import look, save_looks
from sparsight.stages.measure import measure
from sparsight.stages.optimize import optimize

HOSTILE = '</script><img src=x onerror="alert(1)">&' + "日本語" * 40 + ".png"


COMMAND = "sparsight optimize '<model>  of mine' --out run"


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
    method = sparsight.SVE(layers=(1, 2, 3), keep=1 / 4, score="linear", min_tokens=0)
    training = sparsight.Distillation(steps=3)
    plan = optimize(model, images, method, folder, training, source="timm:" + HOSTILE)
    plan = plan.at_any_size()
    save_plan(plan, folder)
    sizes = [(96, 96), (224, 224)]
    measured = measure(model, plan, images, sizes, repeats=1)
    write_json(folder / "measure.json", measured)
    sparse = sparsight.apply(copy.deepcopy(model), plan)
    save_looks(list(look(model, sparse, images, [0, 2], (1, 3))), folder)
    (folder / "command.txt").write_text(COMMAND + "\n")
    return folder


def text_of(path):
    return path.read_text(encoding="utf-8")


def test_a_whole_run_is_told(run, tmp_path):
    began = time.process_time()  # what others do on the machine does not count
    write_report(run)
    assert time.process_time() - began < 3  # what a reader waits for
    path = write_report(run, tmp_path / "figures", tmp_path / "all.json")
    page = text_of(path)
    (shown,) = re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    assert html.unescape(re.sub("</?span>", "", shown)).strip() == COMMAND  # as it is copied
    assert "&lt;model&gt;" in shown
    fidelity = json.loads(text_of(run / "measure.json"))["fidelity"]
    assert "3 of 4 layers are sparse (1-3)" in page
    assert (
        f"{100 * fidelity['relative_error_worst']:.1f} %" in page
    )  # the worst picture, not only the mean
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


def test_kept_masks_are_what_a_group_really_shares(monkeypatch):
    used, usual = [], attending.sparse_attention

    def spied(q, k, v, *chosen):
        used.append(chosen)
        return usual(q, k, v, *chosen)

    monkeypatch.setattr(attending, "sparse_attention", spied)
    dense = make_model("augreg")
    settings = sparsight.SVE(
        layers=(1, 2), groups=((1, 2),), keep=1 / 4, keep_queries=1 / 8, min_tokens=0
    )
    sparse = sparsight.apply(copy.deepcopy(dense), settings)
    maps = next(look(dense, sparse, make_images(dense, batch=1), [0], (1, 2))).maps
    assert maps["layer 2 predicted"].equal(maps["layer 1 predicted"])
    assert not maps["layer 2 exact"].equal(maps["layer 1 exact"])
    (ranked, queries, keys, *_), follower = used  # layer 1 and layer 2
    assert ranked.equal(follower[0])
    assert (queries, keys) == tuple(kept_count(1 + 9 * 7, share, 1) for share in (1 / 8, 1 / 4))
    kept = maps["layer 2 kept"].flatten()
    # The class token is the first of the ranked, and has no place on the grid.
    assert set((kept > 0).nonzero()[:, 0].tolist()) == set((ranked[0, 1:keys] - 1).tolist())
    assert set((kept > 1).nonzero()[:, 0].tolist()) == set((ranked[0, 1:queries] - 1).tolist())


def test_where_tokens_exit_is_shown_beside_what_sve_keeps():
    dense = make_model("augreg")
    methods = [
        sparsight.SVE(layers=(0,), keep=1 / 4, min_tokens=0),
        sparsight.EarlyExit(after=(0, 2), keep=(0.5, 0.25), completion="last", min_tokens=0),
    ]
    sparse = sparsight.apply(copy.deepcopy(dense), methods)
    maps = next(
        look(dense, sparse, make_images(dense, batch=1), [0], shown_layers(applied(sparse).plan))
    ).maps
    assert {"layer 0 exact", "layer 0 predicted", "layer 0 kept", "left"} <= set(maps)
    tokens, counts = 1 + 9 * 7, [(maps["left"] == n).sum().item() for n in (1, 2, 0)]
    after = [kept_count(tokens, share, 1) for share in (0.5, 0.25)]
    assert counts == [tokens - after[0], after[0] - after[1], after[1] - 1]
    assert panels({"maps": {k: v.numpy() for k, v in maps.items()}, "name": "a"})[4].caption.startswith(
        "When each token left"
    )


def test_what_completion_repaired_is_told(tmp_path):
    model = make_model("augreg")
    images = make_images(model, batch=3, grid=(14, 14))
    methods = [
        sparsight.SVE(layers=(0,), keep=1 / 4, completion="map", min_tokens=0),
        sparsight.EarlyExit(after=(1,), keep=0.5, min_tokens=0),
    ]
    plan = complete(bench_of(model, images), as_plan(methods))
    save_plan(plan, tmp_path)
    found = analyze(model, images)
    write_json(tmp_path / "analysis.json", found.model_dump(mode="json"))
    page = text_of(write_report(tmp_path, data=tmp_path / "all.json"))
    assert "Combined: sve and early-exit." in page
    assert "1 layer is sparse (0)" in page
    assert "What the other queries miss is completed by a linear map" in page
    assert "After layer 1 tokens leave the network: 50 % of the tokens stay, chosen by standout" in page
    rows = plan.recipe["completion"]
    for where, row in zip(("0, attention", "2 and all after it"), rows, strict=True):
        cells = (where, row["method"], "100 %", f"{100 * row['left']:.1f} %")
        cells += (f"{100 * (1 - row['left']):.1f} %", str(row["tokens"]))
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page
    before, after = json.loads(text_of(tmp_path / "all.json"))["charts"]["completion"]["series"]
    assert before["y"] == [1, 1]
    assert after["y"] == [row["left"] for row in rows]
    assert after["x"] == ["0, attention", "2 and all after it"]
    rest = next(chart for chart in charts_of(read_run(tmp_path)) if chart.name == "linear-rest")
    assert rest.series[0].x == [0, 1, 2]  # after the last layer there is no rest
    assert rest.series[0].y == [layer.linear_rest for layer in found.layers[:3]]


def version_1(folder, method, **settings):
    envelope = {"type": method, "version": 1, "data": settings}
    write_json(
        folder / "plan.json", {"type": "sparsight.plan", "version": 1, "data": {"method": envelope}}
    )


def test_plans_of_version_1_are_told(run, tmp_path):
    routed = {"mlp_by": "attention", "mlp_rest": "residual"}
    old = {"layers": [1, 2, 3], "keep": 0.25, "scorer": "exact", "min_tokens": 7} | routed
    version_1(tmp_path, "sve", **old, mlp_keep=1.0)
    page = text_of(write_report(tmp_path))
    assert "3 layers are sparse (1-3)" in page
    assert "ranked by exact" in page
    assert "fewer than 7 tokens" in page
    version_1(tmp_path, "sparsevit", sparsity=0.5)
    assert "Windows of small activations skip whole blocks; see the pictures." in text_of(
        write_report(tmp_path)
    )
    version_1(tmp_path, "sve", **old, mlp_keep=0.5)
    with pytest.raises(SparsightError, match=r"plan\.json is of version 1"):
        write_report(tmp_path)  # and there is nothing else
    (tmp_path / "analysis.json").write_text(text_of(run / "analysis.json"))
    page = text_of(write_report(tmp_path))
    assert "Not told: what was done (plan.json is of version 1" in page
    assert "Where attention is sparse" in page
    assert "was interrupted" not in page


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            [sparsight.MLPRouting(layers=(2, 3), keep=0.25)],
            "In layers 2-3 25 % of the tokens go through the MLP, chosen by standout; the others get a "
            "linear map instead, fitted on pictures.",
        ),
        (
            [sparsight.EarlyExit(after=(1, 2), keep=(0.5, 0.25), completion="last", score="magnitude")],
            "After layers 1-2 tokens leave the network: 25 % to 50 % of the tokens stay, chosen by "
            "magnitude; the others keep their last value.",
        ),
        (
            [sparsight.EarlyExit(after=(1,), bound=0.3, score="map-error", taps=(2, 3))],
            "After layer 1 tokens leave the network: those stay whose predicted error is above 0.3; the "
            "others are finished by a linear map, fitted on pictures, in the results of layers 2-3 too.",
        ),
        (
            [sparsight.SparseViT(score="standout", completion="map")],
            "Windows of a low score (standout) skip whole blocks; a linear map stands in for these, "
            "fitted on pictures; see the pictures.",
        ),
        (
            [sparsight.SVE(layers=(0,), min_tokens=5), sparsight.ToMe(min_tokens=9)],
            "Fewer than 9 tokens run dense, without tome.",
        ),
    ],
)
def test_every_method_is_told_in_words(settings, words, tmp_path):
    save_plan(Plan(methods=tuple(settings)), tmp_path)
    assert html.escape(words) in text_of(write_report(tmp_path))


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
    save_plan(Plan(methods=(sparsight.SPOT(stages=(3, 4, 9), rho=0.65),)), tmp_path)
    page = text_of(write_report(tmp_path))
    assert "Before layers 3-4, 9 tokens leave the network: a trained network chooses the 65 %" in page
    save_plan(Plan(methods=(sparsight.ClsTopK(keep=0.65, stages=(3, 4, 9)),)), tmp_path)
    page = text_of(write_report(tmp_path))
    assert (
        "In layers 3-4, 9 65 % of the tokens there go on, chosen by class-attention; the others" in page
    )
    for config, words in (
        (
            sparsight.ClsTopK(score="vtc-cls", recover=4),
            "In three of the layers 70 % of the tokens there go on, chosen by vtc-cls over 3 layers but "
            "for one in 4 of the others, evenly spread; the others keep their last value.",
        ),
        (
            sparsight.ASViT(stages=(4, 7)),
            "Before layers 4, 7 tokens below a threshold leave the network, as many as leave 65 % of",
        ),
        (sparsight.ToMe(merge=0.125), "Method: tome, with merge 0.125."),
    ):
        save_plan(Plan(methods=(config,)), tmp_path)
        assert words in text_of(write_report(tmp_path))


def test_before_a_plan_no_layer_is_called_sparse(run, tmp_path):
    (tmp_path / "analysis.json").write_text(text_of(run / "analysis.json"))
    chart = next(c for c in charts_of(read_run(tmp_path)) if c.name == "indicator")
    assert [series.name for series in chart.series] == ["stays dense"]


@pytest.mark.parametrize("setting", [3, ["s"], {"a": 1}])
def test_a_result_of_another_kind_is_one_sentence_and_no_page(tmp_path, setting):
    protocol = {"machine": "m", "dtype": "float32", "threads": 2, "versions": {"torch": "2"}}
    row = {
        "method": "sve", "setting": setting, "latency_ms": 1.0, "speedup": 2.0, "quality": 0.5,
        "quality_name": "mIoU", "relative_error": 0.1, "relative_error_worst": 0.2,
    }  # fmt: skip
    rows = [row | {"method": "dense"}, row]
    write_json(tmp_path / "compare.json", {"protocol": protocol, "rows": rows})
    with pytest.raises(SparsightError, match="is not what this version writes") as refused:
        write_report(tmp_path / "compare.json")
    assert len(str(refused.value)) <= 300
    assert [path.name for path in tmp_path.iterdir()] == ["compare.json"]


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


def test_layers_are_whole_numbers_and_many_are_not_all_named():
    def axis(xs):
        chart = Chart("a", "a", "a", "layer", "y", (Series("s", xs, [0.0] * len(xs)),))
        return figure(chart)["layout"]["xaxis"]

    assert axis([0, 1, 2])["dtick"] == 1
    assert "dtick" not in axis(list(range(40)))
    assert "dtick" not in axis([0.1, 0.5])


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

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(SparsightError, match="No space left"):
        write_report(run)
    monkeypatch.undo()
    assert text_of(path) == before


def test_no_picture_and_one_picture(tmp_path):
    model = make_model("augreg")
    images = make_images(model, batch=1)
    plan = sparsight.apply(copy.deepcopy(model), sparsight.SVE(layers=(1,), min_tokens=0))
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
    began = time.process_time()
    path = write_report(tmp_path)
    assert time.process_time() - began < 6
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
    WebDriverWait(driver, 60).until(
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

"""The benchmark harness: what fails is a hole with a reason, and the suite goes on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_model

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def tiny_model():
    return make_model("augreg")


@pytest.fixture(autouse=True)
def _no_collecting(monkeypatch):
    """It takes a third of a second for each arm."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


def test_holes_are_recorded_and_the_others_measured():
    from benchmarks import harness

    def no_memory():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nand a stack")

    def no_dtype():
        raise harness.Hole("this processor has no such arithmetic")

    def fails_when_called():
        def call():
            raise PermissionError(13, "Permission denied: the compile cache")

        return call

    x = torch.randn(64, 64)
    arms = {
        "dense": lambda: lambda: x @ x, "memory": no_memory, "dtype": no_dtype,
        "cache": fails_when_called, "twice": lambda: lambda: (x @ x) @ x,
    }  # fmt: skip
    rows = harness.measure(arms, 0.01, "trial", torch.device("cpu"))
    harness.speedups(rows, "dense")
    by_name = {row["arm"]: row for row in rows}
    assert list(by_name) == list(arms)
    assert by_name["memory"]["hole"] == "RuntimeError: DefaultCPUAllocator: can't allocate memory"
    assert by_name["dtype"]["hole"] == "this processor has no such arithmetic"
    assert "compile cache" in by_name["cache"]["hole"]
    assert by_name["dense"]["speedup"] == 1
    assert by_name["dense"]["repeats"] >= 3
    assert by_name["twice"]["gflops"] == pytest.approx(2 * by_name["dense"]["gflops"])


def test_a_compiled_arm_tells_its_first_call_and_its_graphs():
    from benchmarks import harness

    def two_graphs():
        def run(x):
            torch._dynamo.graph_break()
            return x + 1

        return torch.compile(lambda x: run(x * 2), backend="eager")

    build = two_graphs()
    x = torch.ones(3)
    (row,) = harness.measure({"two, compiled": lambda: lambda: build(x)}, 0.01, "t", torch.device("cpu"))
    assert row["graphs"] == 2
    assert row["cold_start_s"] > 0
    assert "gflops" not in row


def test_memory_that_runs_out_late_is_a_hole_too():
    from benchmarks import harness

    left = iter(range(2))  # the passes that count FLOPs and memory

    def call():
        if next(left, None) is None:
            raise RuntimeError("can't allocate memory")

    rows = harness.measure({"dense": lambda: call}, 0.01, "trial", torch.device("cpu"))
    assert rows == [{"arm": "dense", "hole": "RuntimeError: can't allocate memory"}]


def test_without_its_baseline_there_is_no_speedup():
    from benchmarks import harness

    rows = [{"arm": "dense", "hole": "no memory"}, {"arm": "sparse", "latency_ms": 5.0}]
    harness.speedups(rows, "dense")
    assert "speedup" not in rows[1]


def test_only_what_changed_is_run_again(tmp_path, monkeypatch):
    from benchmarks import harness
    from benchmarks.run import is_current

    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    script, result = tmp_path / "one.py", tmp_path / "one.json"
    script.write_text("1")
    assert not is_current(harness.made_from(script), result)
    harness.save("one", str(script), {"rows": []})
    assert is_current(harness.made_from(script), result)
    script.write_text('"""What it does."""\n1  # one')
    assert is_current(harness.made_from(script), result)
    script.write_text("2")
    assert not is_current(harness.made_from(script), result)


def test_commands_are_run_again_when_anything_they_use_changes(tmp_path, monkeypatch):
    from benchmarks import harness, run

    monkeypatch.setattr(harness, "ROOT", tmp_path)
    for place in ("src/sparsight/ops/one.py", "src/sparsight/report/page.py", "constraints.txt"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("1")
    monkeypatch.setattr(harness, "SPEED_DECIDERS", ("ops",))
    weights, result = tmp_path / "src/sparsight/weights.safetensors", tmp_path / "result.json"
    weights.write_bytes(b"1")
    (tmp_path / "work.py").write_text("print(open('result.json', 'w').write('{\"rows\": [1]}'))")
    commands = ("python -m work",)
    assert run.made(commands, result)
    assert json.loads(result.read_text())["rows"] == [1]
    assert run.is_current(run.of_package(commands), result)
    (tmp_path / "src/sparsight/report/page.py").write_text("2")  # decides no figure
    assert run.is_current(run.of_package(commands), result)
    for changed in (weights, tmp_path / "src/sparsight/ops/one.py", tmp_path / "work.py"):
        changed.write_text("2")
        assert not run.is_current(run.of_package(commands), result)
        changed.write_text("1" if changed != tmp_path / "work.py" else "raise SystemExit(1)")
    assert not run.made(commands, result)  # what failed does not count as made
    assert not run.is_current(run.of_package(commands), result)


def test_a_suite_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    from benchmarks import harness
    from benchmarks.run import is_current

    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    script, result = tmp_path / "one.py", tmp_path / "one.json"
    script.write_text("1")
    protocol = dict.fromkeys(harness.MACHINE, "this")
    done = []

    def case(name, fails=False):
        def measured():
            if fails:
                raise KeyboardInterrupt
            done.append(name)
            return [{"arm": name}]

        return measured

    with pytest.raises(KeyboardInterrupt):
        harness.run("one", str(script), {"a": case("a"), "b": case("b", fails=True)}, protocol)
    assert not is_current(harness.made_from(script), result)  # it has one of two cases
    cases = {name: case(name) for name in "ab"}
    harness.run("one", str(script), cases, protocol)
    assert done == ["a", "b"]
    assert [row["case"] for row in json.loads(result.read_text())["rows"]] == ["a", "b"]
    assert is_current(harness.made_from(script), result)

    script.write_text("2")
    harness.run("one", str(script), cases, protocol, only="b")
    assert done == ["a", "b", "b"]
    assert not is_current(harness.made_from(script), result)  # "a" is still of what was there before
    another = protocol | {"machine": "another"}
    harness.run("one", str(script), cases, another, only="b")
    rows = json.loads(result.read_text())["rows"]
    assert [row["case"] for row in rows] == ["b"]  # no row of one machine beside those of another


def test_the_exponent_of_a_power_is_the_power():
    from benchmarks.tables.speed import exponent

    rows = [{"arm": "a", "tokens": n, "latency_ms": 3 * n**1.7} for n in (4096, 8192, 65536)]
    rows.append({"arm": "a", "tokens": 1024, "latency_ms": 99.0})  # too small to be fitted
    assert exponent(rows, "a", 4096) == pytest.approx(1.7)


def test_tables_show_the_holes():
    from benchmarks.tables import speed

    protocol = {
        "machine": "m",
        "threads": 2,
        "dtype": "float32",
        "versions": {"torch": "2", "timm": "1"},
    }
    at = {"model": "timm:vit", "resolution": "518x518", "batch": 1, "revision": "abc", "case": "c"}
    measured = {"latency_ms": 10.0, "latency_q1_ms": 9.0, "latency_q3_ms": 11.0, "peak_memory_mb": 1.0}
    rows = [
        at | measured | {"arm": "dense, SDPA", "speedup": 1.0, "repeats": 3, "gflops": 9.0},
        at | measured | {"arm": "sparse", "speedup": 1.4, "repeats": 3, "gflops": 6.0},
        at | measured | {"arm": "dense, compiled", "speedup": 1.1, "cold_start_s": 12.3, "graphs": 1},
        at | {"arm": "routed, CUDA graph", "hole": "needs an NVIDIA GPU"},
    ]
    table = speed.ladder({"protocol": protocol, "rows": rows})
    assert "needs an NVIDIA GPU" in table
    assert "medians of 3 interleaved" in table
    assert "at abc" in table
    assert "| 1.40x | 1.50x | 6 |" in table
    assert "| 12 s, 1 graph |" in table


def test_every_rung_runs_on_a_model_that_can_take_it(tiny_model):
    from benchmarks import arms

    subject = arms.Subject(tiny_model, torch.randn(1, 3, 128, 128))
    rungs = arms.settings(subject) | arms.fewer_tokens(subject)
    assert "+ MLP routing" in rungs
    assert "sparse attention, then early exit" in rungs
    with torch.no_grad():
        wanted = subject.call(tiny_model)()
        for name, what in rungs.items():
            methods = what if isinstance(what, tuple) else (what,)
            changed = subject.changed([method.at_any_size() for method in methods])
            found = subject.call(changed)()
            assert found.shape == wanted.shape, name
            assert not torch.equal(found, wanted), name


def test_a_module_is_measured_as_a_plan_would_run_it():
    from benchmarks.speed import attention

    block = attention.Block(48, 2, qkv_bias=True).eval()
    h = torch.randn(1, 65, 48)
    with torch.inference_mode():
        calls = {name: build() for name, build in attention.module_arms(block, h, 8).items()}
        results = {name: call() for name, call in calls.items() if name.startswith("module")}
    assert results.keys() >= {"module dense", "module sampled 1/16", "module linear", "module reuse"}
    assert all(result.shape == h.shape for result in results.values())
    assert not torch.equal(results["module reuse"], results["module dense"])


def test_plans_and_parts_of_a_result_are_kept_for_the_next_run(tiny_model, tmp_path, monkeypatch):
    from benchmarks import rows

    import sparsight
    from sparsight.stages.bench import bench_of

    monkeypatch.setattr(rows, "code", lambda: "one")
    pictures = [torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(n)) for n in range(16)]
    bench = bench_of(tiny_model, pictures)
    exit_ = sparsight.EarlyExit(after=(0,), keep=0.2)
    plan, seconds = rows.completed(bench, exit_, tmp_path / "plan")
    again = rows.completed(bench, exit_, tmp_path / "plan")
    assert again == (plan, seconds)
    other, _ = rows.completed(bench, exit_.model_copy(update={"keep": 0.3}), tmp_path / "plan")
    assert other != plan

    made = []

    def make():
        made.append(1)
        return {"value": len(made)}

    file = tmp_path / "part.json"
    assert rows.kept(file, make, "key", (1, 2)) == {"value": 1}
    assert rows.kept(file, make, "key", (1, 2)) == {"value": 1}
    assert rows.kept(file, make, "another", (1, 2)) == {"value": 2}
    monkeypatch.setattr(rows, "code", lambda: "two")
    assert rows.kept(file, make, "another", (1, 2)) == {"value": 3}


PROTOCOL = {
    "machine": "m", "threads": 2, "dtype": "float32", "versions": {"torch": "2", "timm": "1"},
    "resolution": "64x64", "scenes": 2, "calibration_pictures": 2, "resolution_scenes": 2,
    "timed_pictures": 1, "calibration": "a mixture",
}  # fmt: skip
ROW = {
    "method": "sve", "setting": "9 layers", "latency_ms": 5.0, "latency_q1_ms": 4.0,
    "latency_q3_ms": 6.0, "speedup": 2.0, "gflops": 1.0, "miou": 0.5, "miou_low": -0.25,
    "miou_high": 0.125, "accuracy": 0.75, "relative_error": 0.25, "relative_error_worst": 0.5,
    "completing_s": 3.0,
}  # fmt: skip


def test_tables_of_quality_show_the_worst_picture_and_the_interval():
    from benchmarks.tables import quality as tables

    table = tables.completion({"protocol": PROTOCOL, "rows": [ROW]})
    assert "| -0.2500 to +0.1250 |" in table
    assert "| 0.250 | 0.500 | 3 s |" in table
    level = {"level": "usual", "objects_share": 0.03, "arm": "dense", "staying": 1.0}
    full = level | {"level": "full", "miou": 0.25}
    own = [ROW | level | {"setting": ""}, ROW | full | {"setting": ""}]
    own += [ROW | level | {"arm": "a", "miou": 0.49}, ROW | full | {"arm": "a", "speedup": 1.0}]
    table = tables.fuller({"protocol": PROTOCOL, "rows": own})
    assert "| `sve` 9 layers | 1.50x | 100 % | 2.00x | -1.0 | 0.250 | 100 % | 1.00x | +0.0 |" in table


def test_a_page_without_its_result_says_what_is_missing(tmp_path):
    from benchmarks import render

    page = "<!-- results: completion -->\nold\n<!-- end -->\n"
    lacking = []
    assert render.rendered(page, tmp_path, lacking) == page
    assert "'completion' needs" in lacking[0]
    assert "completion-cpu.json" in lacking[0]
    result = tmp_path / "completion-cpu.json"
    result.write_text(json.dumps({"protocol": PROTOCOL, "rows": [{"name": "of another edition"}]}))
    lacking = []
    assert render.rendered(page, tmp_path, lacking) == page
    assert "cannot read" in lacking[0]
    result.write_text(json.dumps({"protocol": PROTOCOL, "rows": [ROW]}))
    lacking = []
    assert "| `sve` | 9 layers |" in render.rendered(page, tmp_path, lacking)
    assert not lacking


def test_every_block_of_the_pages_has_a_table():
    from benchmarks import render

    for page in (render.ROOT / "README.md", *(render.ROOT / "docs").glob("*.md")):
        for match in render.BLOCK.finditer(page.read_text(encoding="utf-8")):
            assert match["name"] in render.REGISTRIES.keys() | render.TABLES.keys(), page.name


def test_the_tables_of_methods_and_scores_have_a_row_for_each():
    from benchmarks.tables import method

    from sparsight.methods import METHODS
    from sparsight.scores import SCORES

    for table, known in ((method.methods(), METHODS), (method.scores(), SCORES)):
        lines = table.split("\n")[2:]
        assert [line.split("`")[1] for line in lines] == list(known)
        cells = [line.replace("\\|", "").strip("| ").split(" | ") for line in lines]
        assert len({len(row) for row in cells}) == 1
        assert all(cell for row in cells for cell in row)
    assert "| 1.77x, +0.4 points |" in method.methods()  # of compare-demo.json, rounded


def test_results_name_their_revision_and_machine():
    for name in ("ladder-cpu-avx2", "attention-cpu"):
        protocol = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())["protocol"]
        assert {"machine", "versions", "dtype", "threads", "device", "revision"} <= protocol.keys()


def test_the_judge_of_hostile_inputs_can_fail():
    """Each kind of fault, injected, is counted as that; a right answer and a sentence are not."""
    from benchmarks.hostile.judge import Case, judge

    import sparsight

    def raising(error):
        def call():
            raise error

        return call

    def changing():
        left.append(1)
        raise sparsight.PlanError("a sentence")

    def forever():
        while True:
            pass

    left = []
    sentence = raising(sparsight.PlanError("a sentence"))
    faults = {
        "right": Case("", lambda: 2, lambda answer: "" if answer == 2 else "not two"),
        "refused": Case("", sentence),
        "traceback": Case("", raising(KeyError("a"))),
        "wrong": Case("", lambda: 3, lambda answer: "" if answer == 2 else "not two"),
        "hang": Case("", forever),
    }
    limits = {"hang": 0.2}  # of the others, longer than any machine is busy
    found = {name: judge(case, limits.get(name, 60))["outcome"] for name, case in faults.items()}
    assert found == {name: name for name in faults}
    assert judge(Case("", sentence, must="work"))["outcome"] == "wrong"
    assert judge(Case("", lambda: 2, must="refuse"))["outcome"] == "wrong"
    assert judge(Case("", changing, state=lambda: len(left)))["outcome"] == "wrong"
    untrimmed = type("Long", (sparsight.PlanError,), {"__str__": lambda self: "x" * 301})()
    assert judge(Case("", raising(untrimmed)))["outcome"] == "long"


@pytest.mark.parametrize("kind", ["picture_files", "picture_objects", "run_folders", "arguments"])
def test_some_hostile_inputs_of_each_quick_kind(kind):
    """The campaign's first inputs make no fault, and are the same at every run."""
    from benchmarks.hostile.judge import FAULTS
    from benchmarks.hostile.run import tried

    found = [tried(kind, number) for number in range(12)]
    assert [row for row in found if row["outcome"] in FAULTS] == []
    differing = {"ms": 0, "detail": ""}  # the time it took, and the temporary folder in a sentence
    assert tried(kind, 3) | differing == found[3] | differing


def test_a_campaign_that_was_cut_off_goes_on_and_counts_what_ended_it(tmp_path):
    from benchmarks.hostile.run import Log, counted

    log = Log(tmp_path, "mark")
    log.begin("commands", 0)
    log.add({"kind": "commands", "number": 0, "outcome": "right", "detail": "", "ms": 1.0})
    log.begin("commands", 1)  # and the process is gone
    again = Log(tmp_path, "mark")
    (row,) = [row for row in counted(again.rows) if row["kind"] == "commands"]
    assert (row["inputs"], row["right"], row["crash"]) == (2, 1, 1)


def test_the_gpu_plan_is_tried_on_a_cpu(tmp_path, monkeypatch):
    from benchmarks.gpu import run, sizes

    # On a CPU it is a profile, which takes a second for each arm; on a GPU it is a counter.
    monkeypatch.setattr(run.timing, "peak_memory_mb", lambda call, device: (call(), 0.0)[1])
    one_model = replace(sizes.TINY, models=sizes.TINY.models[:1])
    told = run.run(600.0, tmp_path, one_model, torch.device("cpu"))
    assert all(text.startswith("measured in") for text in told.values()), told
    assert {path.stem for path in tmp_path.iterdir()} == {*told, "parts"}

    def rows(part):
        return json.loads((tmp_path / f"{part}.json").read_text())["rows"]

    checked = {(row["operation"], row["format"]): row for row in rows("checks")}
    # Rounding of the format, times the square root of what is summed: at most the 101 tokens.
    for kind, digits in (("float32", 24), ("bfloat16", 8), ("float16", 11)):
        errors = [row["mean"] for (_, found), row in checked.items() if found == kind]
        assert len(errors) == 5
        assert max(errors) < 101**0.5 * 2.0**-digits
    found = {row["arm"]: row for row in rows("dinov2-tiny-float32")}
    assert "latency_ms" in found["dense, compiled"]
    assert "CUDA GPU" in found["dense, CUDA graph"]["hole"]
    assert sum("speedup" in row for row in found.values()) > 5
    assert {row["arm"] for row in rows("profile")} >= {"module dense", "module reuse"}


def test_the_gpu_plan_ends_in_time_and_says_what_it_left(tmp_path):
    from benchmarks.gpu import run, sizes

    told = run.run(0.0, tmp_path, sizes.TINY, torch.device("cpu"))
    assert set(told.values()) == {"not measured: the time was up"}
    assert json.loads((tmp_path / "parts.json").read_text())["parts"] == told

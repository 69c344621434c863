"""The benchmark harness: what fails is a hole with a reason, and the suite goes on."""

import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def suite(monkeypatch):
    """The modules of the benchmarks, importable as their scripts import one another."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("harness", "arms", "run", "scaling", "speed_tables", "markdown"):
        sys.modules.pop(name, None)


def test_holes_are_recorded_and_the_others_measured(suite):
    import harness

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


def test_memory_that_runs_out_late_is_a_hole_too(suite):
    import harness

    left = iter(range(2))  # the passes that count FLOPs and memory

    def call():
        if next(left, None) is None:
            raise RuntimeError("can't allocate memory")

    rows = harness.measure({"dense": lambda: call}, 0.01, "trial", torch.device("cpu"))
    assert rows == [{"arm": "dense", "hole": "RuntimeError: can't allocate memory"}]


def test_without_its_baseline_there_is_no_speedup(suite):
    import harness

    rows = [{"arm": "dense", "hole": "no memory"}, {"arm": "sparse", "latency_ms": 5.0}]
    harness.speedups(rows, "dense")
    assert "speedup" not in rows[1]


def test_only_what_changed_is_run_again(suite, tmp_path, monkeypatch):
    import harness
    from run import is_current

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


def test_commands_are_run_again_when_anything_they_use_changes(suite, tmp_path, monkeypatch):
    import harness
    import run

    monkeypatch.setattr(harness, "ROOT", tmp_path)
    for place in ("src/sparsight/ops/one.py", "src/sparsight/report/page.py", "constraints.txt"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("1")
    monkeypatch.setattr(harness, "SPEED_DECIDERS", ("ops",))
    weights, result = tmp_path / "src/sparsight/weights.safetensors", tmp_path / "result.json"
    weights.write_bytes(b"1")
    (tmp_path / "work.py").write_text("print(open('result.json', 'w').write('{\"rows\": [1]}'))")
    commands = ("python work.py",)
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


def test_a_suite_that_was_cut_off_goes_on(suite, tmp_path, monkeypatch):
    import harness
    from run import is_current

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


def test_the_exponent_of_a_power_is_the_power(suite):
    from speed_tables import exponent

    rows = [{"arm": "a", "tokens": n, "latency_ms": 3 * n**1.7} for n in (4096, 8192, 65536)]
    rows.append({"arm": "a", "tokens": 1024, "latency_ms": 99.0})  # too small to be fitted
    assert exponent(rows, "a", 4096) == pytest.approx(1.7)


def test_tables_show_the_holes(suite):
    import speed_tables

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
        at | {"arm": "routed, CUDA graph", "hole": "needs an NVIDIA GPU"},
    ]
    table = speed_tables.ladder({"protocol": protocol, "rows": rows})
    assert "needs an NVIDIA GPU" in table
    assert "medians of 3 interleaved" in table
    assert "at abc" in table
    assert "| 1.40x | 1.50x | 6 |" in table


def test_results_name_their_revision_and_machine():
    for name in ("ladder-cpu", "attention-cpu"):
        protocol = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())["protocol"]
        assert {"machine", "versions", "dtype", "threads", "device", "revision"} <= protocol.keys()

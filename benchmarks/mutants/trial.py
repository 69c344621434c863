"""Tests in a copy of the tree: which lines each runs, and whether a changed file makes one of them fail.

The libraries are imported once, here; each trial is a fork, which imports the package from the copy.
"""

import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coverage
import pytest
from benchmarks.mutants.drawn import Mutant
from benchmarks.mutants.known import function_of

from sparsight._torchvision import repair

repair()
import beartype  # noqa: E402, F401
import timm  # noqa: E402, F401
import transformers  # noqa: E402, F401

START_S = 20.0  # of the processor, in which a trial imports the package and collects, with room
Send = Callable[[Any], None]
LOG = "last.log"  # what the last process of pytest printed
SLOWER = 4.0  # times what the tests took as they are, and a mutant is out of time
OPTIONS = (
    "-x", "-p", "no:xdist", "-p", "no:cacheprovider", "--hypothesis-seed=0",
    "-W", "ignore::pytest.PytestAssertRewriteWarning",  # of plugins whose libraries are imported here
    "-W", "ignore::coverage.exceptions.CoverageWarning",  # no line of the files is run
)  # fmt: skip


class _Watching:
    """Of pytest: the lines of `files` that each test runs, and its seconds, if it passes."""

    def __init__(self, files: list[str], send: Send) -> None:
        self.files, self.send, self.seconds = files, send, {}
        self.coverage = coverage.Coverage(data_file=None, include=files)

    def pytest_sessionstart(self) -> None:
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        self.coverage.switch_context(item.nodeid)
        began = time.process_time()
        try:
            done = yield
            self.seconds[item.nodeid] = time.process_time() - began
            return done
        finally:
            self.coverage.switch_context("")

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {file: data.contexts_by_lineno(str(Path(file).resolve())) for file in self.files}
        self.send({"seconds": self.seconds, "lines": lines})


class _Trial:
    """Of pytest: only these tests, in this order; sends the name of each that begins."""

    def __init__(self, chosen: list[str], send: Send) -> None:
        self.place, self.send = {name: n for n, name in enumerate(chosen)}, send

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self.place]
        items.sort(key=lambda item: self.place[item.nodeid])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.send(nodeid)


def copied(root: Path, tree: Path) -> Path:
    """A copy of what git knows or does not ignore, with the times of the files, so that caches hold."""
    listing = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(listing, cwd=root, capture_output=True, text=True, check=True).stdout
    for name in listed.split("\0"):
        if (root / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, tree / name)
    return tree


def watched(tree: Path, test: str, files: list[str]) -> dict[str, Any]:
    """Of each test of a file that passes: its seconds, and the lines it runs."""
    _, sent = _forked(tree, [test], lambda send: _Watching(files, send), None)
    if not sent or not sent[0]["seconds"]:
        raise SystemExit(f"no test of {test} passes here: {tree.with_name(LOG)} says why")
    return sent[0]


def tried(
    tree: Path, mutant: Mutant, chosen: list[str], seconds: dict[str, float]
) -> tuple[int, list[str]]:
    """What pytest ended with on a changed file, and the tests that began."""
    file = tree / mutant.file
    code, times = file.read_text(encoding="utf-8"), file.stat()
    limit = START_S + SLOWER * sum(seconds[name] for name in chosen)
    try:
        file.write_text(mutant.code, encoding="utf-8")
        names = list(dict.fromkeys(map(function_of, chosen)))
        return _forked(tree, names, lambda send: _Trial(chosen, send), limit)
    finally:
        file.write_text(code, encoding="utf-8")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def _forked(
    tree: Path, names: list[str], plugin: Callable[[Send], object], limit_s: float | None
) -> tuple[int, list[Any]]:
    """pytest in a process that imports the package from `tree`; its end, and what its plugin sent.

    With a limit of seconds of the processor it is a trial, and leaves no compiled files.
    """
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)

    def work() -> None:
        os.chdir(tree)
        os.environ["PYTHONPATH"] = str(tree / "src")
        sys.path.insert(0, str(tree / "src"))
        for name in [name for name in sys.modules if name.split(".")[0] == "sparsight"]:
            if name != "sparsight._torchvision":  # what it declares, it declares once
                del sys.modules[name]
        sys.dont_write_bytecode = limit_s is not None
        if limit_s is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit_s), int(limit_s) + 5))
        with open(tree.with_name(LOG), "w", encoding="utf-8") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.exit(pytest.main([*OPTIONS[limit_s is None :], *names], plugins=[plugin(sending.send)]))

    process = context.Process(target=work)
    process.start()
    sending.close()
    sent = []
    try:
        while True:
            sent.append(receiving.recv())
    except EOFError:
        process.join()
    finally:
        process.kill()  # of what was interrupted
    if process.exitcode == pytest.ExitCode.INTERNAL_ERROR:
        raise SystemExit(f"pytest failed: {tree.with_name(LOG)} says why")
    return process.exitcode or 0, sent

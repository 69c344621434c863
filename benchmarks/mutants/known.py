"""What is known of the tests, and which of them a mutant is tried with."""

import ast
import re
import signal
from collections import Counter
from dataclasses import dataclass
from typing import Any


@dataclass
class Known:
    """What is known of the tests: seconds of the processor, and which run a line of a file."""

    of_tests: str  # a digest of them
    seconds: dict[str, float]
    lines: dict[str, dict[int, set[str]]]

    def add(self, found: dict[str, Any]) -> None:
        """What `watched` returned of one file of tests."""
        self.of_tests = f"{self.of_tests}{found['of']}"
        self.seconds |= found["seconds"]
        for file, lines in found["lines"].items():
            for line, names in lines.items():
                passed = {name for name in names if name in found["seconds"]}
                self.lines.setdefault(file, {}).setdefault(int(line), set()).update(passed)

    def of(self, file: str, code: str, line: int, budget: float) -> list[str]:
        """Those that run a line of a file, `code`, in `budget` seconds, in the order of `_turns`.

        Any line of the same statement will do.  Of what runs when the file is imported: those that run a
        line with the constant's name, else all of the file.
        """
        run, lines = self.lines.get(file, {}), code.split("\n")
        statement, in_function = statement_at(code, line)
        names = set().union(*(run.get(n, ()) for n in statement)) if in_function else set()
        if not names and (constant := re.match(r"(\w+)(: .*)? = ", lines[line - 1])):
            read = re.compile(rf"\b{constant[1]}\b")
            reading = [n for n in run if n not in statement and read.search(lines[n - 1])]
            names = set().union(*(run[n] for n in reading))
        if not names and not in_function:
            names = set().union(*run.values())
        chosen, spent = [], 0.0
        for name in self._turns(names, lines[line - 1]):
            spent += self.seconds[name]
            if chosen and spent > budget:
                break
            chosen.append(name)
        return chosen

    def _turns(self, names: set[str], text: str) -> list[str]:
        """One of each function first, the fastest first; before all, cases of a name in `text`."""
        words, turns, order = re.findall(r'"([\w-]+)"', text), Counter[str](), []
        for name in sorted(names, key=lambda name: (self.seconds[name], name)):
            function, _, case = name.partition("[")
            turns[function] += 1
            named = any(word in case for word in words)
            order.append((not named, turns[function], self.seconds[name], name))
        return [name for *_, name in sorted(order)]


def statement_at(code: str, line: int) -> tuple[range, bool]:
    """The lines of the innermost statement that has this one, but its body's; is it in a function?"""
    found, in_function = range(0), False
    for node in ast.walk(ast.parse(code)):  # outer ones first
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            body = getattr(node, "body", None)
            last = max(node.lineno, body[0].lineno - 1 if body else node.end_lineno or 0)
            if line <= last:
                found = range(node.lineno, last + 1)
            else:
                in_function |= isinstance(node, ast.FunctionDef)
    return found, in_function


def function_of(test: str) -> str:
    """A test's name without its parameters."""
    return test.split("[")[0]


def verdict(code: int) -> str:
    """What a process of pytest ended with, as a word."""
    if code in (0, 5):  # 5: its parameters have other names now, and none was left to run
        return "survived"
    return "time" if code == -signal.SIGXCPU else "killed"

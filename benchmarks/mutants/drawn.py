"""Mutants of a source: mutmut's operators at every node, less those no test could tell by their kind."""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

import libcst as cst
from benchmarks.mutants.bare import bare
from mutmut.mutation.mutators import mutation_operators


@dataclass(frozen=True)
class Mutant:
    """One change of one file: what of which line, and the whole file as it is then."""

    file: str
    operator: str
    line: int
    diff: tuple[str, ...]  # the lines without their indent; "-" those that go, "+" those that come
    code: str

    @property
    def key(self) -> str:
        """The same for the same change of the same file."""
        return hashlib.sha256(f"{self.file}\n{self.code}".encode()).hexdigest()[:16]


def candidates(code: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Every change: the operator's name, and what makes the changed code."""
    module = cst.parse_module(code)
    waiting: list[cst.CSTNode] = [module]
    while waiting:
        node = waiting.pop()
        waiting += reversed(node.children)
        for kind, operator in mutation_operators:
            for new in operator(node) if isinstance(node, kind) else ():
                name = operator.__name__.removeprefix("operator_")
                yield name, lambda node=node, new=new: module.deep_replace(node, new).code


def drawn(
    root: Path, files: Sequence[str], count: int, seed: int
) -> tuple[list[Mutant], dict[str, int]]:
    """`count` mutants, all as likely; and how many there are, and were drawn and left out."""
    found: list[Mutant] = []
    codes = {file: (root / file).read_text(encoding="utf-8") for file in files}
    bares = {file: bare(code) for file, code in codes.items()}
    every = [(file, *made) for file in files for made in candidates(codes[file])]
    random.Random(seed).shuffle(every)
    tried = 0
    for file, operator, change in every:
        if len(found) == count:
            break
        code, tried = change(), tried + 1
        if bare(code) == bares[file]:
            continue
        diff = list(unified_diff(codes[file].split("\n"), code.split("\n"), n=0, lineterm=""))[2:]
        line = int(diff[0].split()[1].removeprefix("-").split(",")[0])
        told = tuple(f"{part[0]} {part[1:].strip()}" for part in diff if part[0] in "+-")
        found.append(Mutant(file, operator, line, told, code))
    return found, {"candidates": len(every), "left_out": tried - len(found)}

"""Pictures in memory: what people hand over in Python where a sequence of tensors is wanted.

Known: if it is taken, the answer is that of the same pictures as normalised float tensors; what is no
picture at all, or NaN, is never taken.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.hostile.judge import Case
from benchmarks.hostile.small import SIZE, features, fingerprint, model, odd, pictures, short
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import sparsight

# Forms whose answer is not that of the plain pictures: others, fewer, in no order, of the model's size.
UNLIKE = (
    "NaN",
    "one odd",
    "odd",
    "two sizes",
    "files",
    "long length",
    "integers",
    "bool",
    "model",
    "PIL",
    "set",
)
PLAN = sparsight.SVE(layers=(1,), min_tokens=0)


class Items:
    """A data set of the user's own."""

    def __init__(self, items: list[Any], length: Any = None) -> None:
        self.items, self.length = items, length

    def __len__(self) -> Any:
        return len(self.items) if self.length is None else self.length

    def __getitem__(self, index: int) -> Any:
        if not isinstance(index, int):
            raise TypeError("an index is a number")
        return self.items[index]


class Failing(Items):
    """One whose items cannot be read."""

    def __getitem__(self, index: int) -> Any:
        raise OSError(5, "Input/output error")


def bytes_of(plain: list[torch.Tensor]) -> list[np.ndarray]:
    """Pictures as (h, w, 3) bytes, as the model's mean and std of 0.5 have them."""
    made = [(255 * (p * 0.5 + 0.5)).round().to(torch.uint8) for p in plain]
    return [p.permute(1, 2, 0).contiguous().numpy() for p in made]


def forms(rng: random.Random, plain: list[torch.Tensor]) -> dict[str, tuple[Any, bool | None]]:
    """Name -> what is handed over, and whether it must be taken (None: either, but then rightly)."""
    raw = bytes_of(plain)
    n = len(plain)
    bad = rng.randrange(n)

    def one(value: Any) -> list[Any]:
        return [value if place == bad else p for place, p in enumerate(plain)]

    nan = plain[0].clone()
    nan[rng.randrange(3), 0, 0] = rng.choice((torch.nan, torch.inf, -torch.inf))
    return {
        "list": (plain, True), "tuple": (tuple(plain), True), "own set": (Items(plain), True),
        "a batch": (torch.stack(plain), None), "array batch": (torch.stack(plain).numpy(), None),
        "loader": (DataLoader(plain, batch_size=2), None),  # type: ignore[arg-type]
        "tensor data set": (TensorDataset(torch.stack(plain)), None),
        "pairs": ([(p, 3) for p in plain], None), "dicts": ([{"image": p} for p in plain], None),
        "pixel_values": ([{"pixel_values": p[None]} for p in plain], None),
        "PIL": ([Image.fromarray(p) for p in raw], None), "bytes": (raw, None),
        "uint8 tensors": ([torch.from_numpy(p).permute(2, 0, 1) for p in raw], None),
        "float arrays": ([p.numpy() for p in plain], None), "generator": ((p for p in plain), None),
        "float64": ([p.double() for p in plain], None), "half": ([p.half() for p in plain], None),
        "batches of one": ([p[None] for p in plain], None), "set": (set(plain), None),
        "dict": (dict(enumerate(plain)), None), "one picture": (plain[0], None),
        "hwc": ([p.permute(1, 2, 0) for p in plain], False),
        "grey": ([p[:1] for p in plain], False), "four bands": ([torch.cat([p,
            p[:1]]) for p in plain], False),
        "flat": ([p.flatten() for p in plain], False), "no pixels": ([p[:, :0] for p in plain], False),
        "not of patches": ([p[:, :-3] for p in plain], False), "NaN": (one(nan),
        False if n == 1 else None),
        "integers": ([p.long() for p in plain], None), "bool": ([p > 0 for p in plain], None),
        "complex": ([p + 0j for p in plain], False), "paths": (["a.png"] * n, False),
        "one odd": (one(odd(rng)), False if n == 1 else None), "odd": (odd(rng), None),
        "no length": (iter(plain), None), "failing": (Failing(plain), False),
        "negative length": (Items(plain, -1), False), "long length": (Items(plain, 10**6), None),
        "no items": ([], False), "empty set": (Items([]), False),
        "gradient": ([p.clone().requires_grad_() for p in plain], None),
        "meta": ([p.to("meta") for p in plain], False), "sparse": ([p.to_sparse() for p in plain], None),
        "strided": ([p.expand(3, *p.shape[1:])[:, ::1] for p in plain], True),
        "two sizes": ([plain[0], *(torch.cat([p, p], 1) for p in plain[1:])], None),
        "files": (["\0", *plain], None), "model": (model(), None), "string": ("pictures", False),
    }  # fmt: skip


def verbs(rng: random.Random) -> dict[str, Any]:
    """Verbs that take pictures, each giving something to compare."""
    of = model()
    count = rng.choice((1, 2, 5))

    def features_of(plan: sparsight.Plan) -> Any:
        sparse = sparsight.apply(of, plan.at_any_size())
        try:
            return features(sparse)
        finally:
            sparsight.restore(of)

    exit_ = sparsight.EarlyExit(after=(0,), keep=0.5, completion="last")
    return {
        "analyze": lambda images: sparsight.analyze(of, images, count).model_dump(exclude={"skipped",
        "images"}),
        "optimize": lambda images: features_of(sparsight.optimize(of, images, exit_, max_images=count)),
        "measure": lambda images: sparsight.measure(
            of, sparsight.Plan(methods=(PLAN,)), images, ((32, 32),), repeats=1, max_images=count
        )["fidelity"]["cosine"],
    }  # fmt: skip


def drawn(count: int, size: tuple[int, int]) -> list[torch.Tensor]:
    """Normalised pictures that were bytes once."""
    return [(x.clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1 for x in pictures(count, size)]


def make(rng: random.Random, place: Path) -> Case:
    """One verb on one form of pictures."""
    name = rng.choice(("analyze",) * 6 + ("optimize", "measure"))
    verb = verbs(rng)[name]
    plain = drawn(rng.choice((1, 1, 2, 3)), rng.choice((SIZE, SIZE, (16, 16), (48, 32))))
    every = forms(rng, plain)
    form = rng.choice(list(every))
    given, taken = every[form]
    before = fingerprint(model())

    def flaw(answer: Any) -> str:
        if fingerprint(model()) != before:
            return "the model was changed"
        if form in UNLIKE:
            return ""
        same = plain if form not in ("one picture",) else [plain[0]]
        return "" if near(answer, verb(same)) else "another answer than of the same pictures as tensors"

    what = f"{name}({form} of {len(plain)} {tuple(plain[0].shape)}" + (
        f", {short(given)})" if form == "odd" else ")"
    )
    must = {True: "work", False: "refuse", None: ""}[taken]
    return Case(what, lambda: verb(given), flaw, must, lambda: fingerprint(model()))  # type: ignore[arg-type]


def near(one: Any, other: Any, tolerance: float = 0.03) -> bool:
    """Equal as far as bytes and half precision can be."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(near(one[k], other[k], tolerance) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(
            near(a, b, tolerance) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, torch.Tensor):
        return bool((one.float() - other.float()).norm() <= tolerance * other.float().norm())
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= tolerance * max(1.0, abs(other))
    return bool(one == other)

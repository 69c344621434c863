"""Changes of JSON and of tensors: what a hand, another version or a disk makes of them."""

import copy
import random
from typing import Any

import torch
from torch import Tensor

JSON: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 10**9, 10**30, 0.5, -0.5, 1e308, 1e-300, "", "x", "1", "sve",
    "ü", "../../x",
    "a" * 3000, [], {}, [0], [1, 1], [-1], ["x"], [None], [0.5] * 3, {"a": 1}, [[]], [[0, 1], [1,
    2]], "auto",
    "all", "map", "last",
)  # fmt: skip


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in JSON, not too many of a long list."""
    found = [path] if path else []
    if isinstance(data, dict):
        for key, value in data.items():
            found += places(value, (*path, key))
    if isinstance(data, list):
        for number, value in list(enumerate(data))[:4]:
            found += places(value, (*path, number))
    return found


def changed(rng: random.Random, data: Any, times: int = 1) -> tuple[str, Any]:
    """What was done, and `data` with some values replaced, removed, renamed, added or moved."""
    data, said = copy.deepcopy(data), []
    for _ in range(times):
        every = places(data)
        if not every:
            break
        path = rng.choice(every)
        holder = data
        for key in path[:-1]:
            holder = holder[key]
        name, old = path[-1], holder[path[-1]]
        way = rng.choice(("replace", "replace", "replace", "nudge", "remove", "rename", "add"))
        if way == "replace":
            holder[name] = rng.choice(JSON)
        elif way == "nudge":
            holder[name] = nudged(rng, old)
        elif way == "remove":
            holder.pop(name)
        elif isinstance(holder, dict):
            if way == "rename":
                holder[f"{name}_"] = holder.pop(name)
            else:
                holder["of_mine"] = rng.choice(JSON)
        else:
            holder.insert(0, rng.choice(JSON))
        told = f" = {holder[name]!r}"[:40] if way in ("replace", "nudge") else ""
        said.append(f"{way} {'.'.join(map(str, path))}{told}"[:90])
    return "; ".join(said), data


def nudged(rng: random.Random, old: Any) -> Any:
    """A value near the old one, of its kind."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int | float):
        return rng.choice((old + 1, old - 1, -old, old * 2, old * 1.0, old + 0.5, str(old)))
    if isinstance(old, str):
        return rng.choice((old + "x", old.upper(), old[:-1], [old], " " + old))
    if isinstance(old, list):
        return rng.choice((old[:-1], old + old[:1], old[::-1], [old]))
    if isinstance(old, dict):
        return rng.choice(({}, [old], list(old)))
    return 0


def other_tensors(rng: random.Random, tensors: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """What was done, and tensors with one missing, renamed, added, of another shape, dtype or value."""
    name = rng.choice(list(tensors))
    value, rest = tensors[name], {k: v for k, v in tensors.items() if k != name}
    nan = value.clone()
    nan.view(-1)[-1] = rng.choice((torch.nan, torch.inf))
    ways: dict[str, dict[str, Tensor]] = {
        "missing": rest, "renamed": rest | {f"{name}x": value},
        "added": tensors | {"sve.9.map": value.clone()},
        "weight added": tensors | {"model.nothing": value.clone()}, "NaN": tensors | {name: nan},
        "narrower": tensors | {name: value[..., :-1].contiguous()},
        "flat": tensors | {name: value.flatten()[None].clone()},
        "half": tensors | {name: value.half()}, "integer": tensors | {name: value.long()},
        "none": {}, "empty": tensors | {name: value[:0].clone()},
            "double": tensors | {name: value.double()},
    }  # fmt: skip
    way = rng.choice(list(ways))
    return f"{way} {name}", ways[way]

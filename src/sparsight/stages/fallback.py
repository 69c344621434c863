"""Does a model run dense?  A changed module does where tokens are few, or all are kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.attach import family_in
from sparsight.inplace import STATE, is_changed
from sparsight.methods import method_of
from sparsight.stages.pictures import noise


@contextmanager
def dense_runs(model: nn.Module) -> Iterator[dict[nn.Module, int]]:
    """While in here: for each changed module that was called, on how many tokens it last ran dense.

    That is: its host's own code on all the tokens (of a picture) it was given; 0 if it was sparse.
    """
    found, given = dict[nn.Module, int](), dict[nn.Module, int]()

    def called(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found[module], given[module] = 0, tokens_of(module.bound(args, kwargs)[0])

    def watched(module: Any) -> dict[str, Callable[..., Any]]:
        usual: Any = module.dense
        usually_attended: Any = getattr(module, "attended", None)

        def dense(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            found[module] = given[module] if tokens_of(x) == given[module] else 0
            return usual(x, *args, **kwargs)

        def attended(*args: Any) -> Any:  # the dense code, of which attention may be another's
            result, run = usually_attended(*args)
            found[module] = 0 if run.skipped else given[module]
            return result, run

        return {"dense": dense} | ({"attended": attended} if usually_attended else {})

    changed = [part for part in model.modules() if is_changed(part)]
    handles = [part.register_forward_pre_hook(called, with_kwargs=True) for part in changed]
    own = [watched(part) for part in changed]
    for part, methods in zip(changed, own, strict=True):
        part.__dict__.update(methods)
    try:
        yield found
    finally:
        for part, methods, handle in zip(changed, own, handles, strict=True):
            handle.remove()
            for name in methods:
                del part.__dict__[name]


def tokens_of(x: Tensor) -> int:
    """Of one picture, in (b, n, c) or (b, height, width, c); of all, where they are packed (n, c)."""
    return x.shape[1:-1].numel() if x.ndim > 2 else len(x)


def fallback_notes(sparse: nn.Module, resolution: tuple[int, int]) -> list[str]:
    """A sentence for each method that runs dense in some of its layers at a resolution."""
    with torch.inference_mode(), dense_runs(sparse) as found:
        family_in(sparse).features(sparse, noise(sparse, resolution))
    sites = [(module.__dict__[STATE], tokens) for module, tokens in found.items()]
    notes = []
    for config in dict.fromkeys(site.config for site, _ in sites):
        own = [(site, tokens) for site, tokens in sites if site.config == config]
        dense = [tokens for _, tokens in own]
        if not any(dense):
            continue
        name, most = method_of(config).name, max(dense)
        told = dict.fromkeys(why for site, tokens in own if tokens for why in site.dense)
        if most < config.min_tokens:
            reason = f"fewer than the {config.min_tokens} from which {name} is sparse"
        elif told:
            reason = f"attended to in a way that {name} leaves as it is ({', '.join(told)})"
        elif config.depends_on_picture:
            continue  # of noise it may keep all, which says nothing of pictures
        else:
            reason = f"of which {name} keeps all"
        where = "" if all(dense) else f" in {sum(map(bool, dense))} of its {len(dense)} layers"
        height, width = resolution
        notes.append(f"at {height}x{width} there are {most} tokens, {reason}: it ran dense{where}")
    return notes

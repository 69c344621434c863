"""Image classification: k-NN and a linear probe, top-1, on frozen features of whole pictures.

Weighted k-NN (DINO, Caron et al. 2021): the k nearest training pictures by cosine s vote for their class
with weight exp(s / T).  The linear probe sees the same embedding.  With class names and a model that has
a text tower, zero-shot instead (zeroshot.py).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsight.attach import family_in
from sparsight.errors import LabelsError
from sparsight.images import ImageFiles, Reader
from sparsight.stages.progress import track
from sparsight.tasks import probe, zeroshot
from sparsight.tasks.base import Arms, Outcome, Request, tokens_of
from sparsight.tasks.layouts import class_folders
from sparsight.tasks.overlap import overlap
from sparsight.tasks.paired import compare, mean_of, worst_images
from sparsight.tasks.top1 import constant, right, shares

USES = frozenset({"max_train_images", "own_probe", "names", "tokenizer"})
NEIGHBOURS, TEMPERATURE = 20, 0.07
QUERIES_AT_ONCE = 64
METRIC = "top-1: share of the pictures whose class was found"


def run(arms: Arms, request: Request) -> Outcome:
    """Embed the training pictures, then judge both arms on the validation pictures."""
    if request.names is not None:
        return zeroshot.run(arms, request)
    train, val = (class_folders(request.data / split) for split in ("train", "val"))
    names = sorted(train)
    for name in val:
        if name not in train:
            near = next((other for other in names if other.casefold() == name.casefold()), None)
            raise LabelsError(
                f"{request.data}/val has the class {name!r}, and train/ has no such folder"
                + (f", only {near!r}: give both one name" if near else "")
            )
    if sum(map(bool, train.values())) < 2:
        raise LabelsError(f"{request.data}/train has pictures of one class alone: nothing to tell apart")

    models = arms.both() if request.own_probe else (arms.dense,)
    banks, truth, _, missing = embed(models, train, names, request, request.max_train_images)
    queries, wanted, files, skipped = embed(arms.both(), val, names, request, request.max_images)
    linear = [probe.fit(bank, truth, len(names)) for bank in banks]
    answers = {
        "k-NN top-1": [knn(q, bank, truth, len(names)) for q, bank in _each(queries, banks)],
        "linear top-1": [fitted(q).argmax(1) for q, fitted in _each(queries, linear)],
    }
    found = {
        metric: [right(answer, wanted, len(names)) for answer in both]
        for metric, both in answers.items()
    }
    dense, sparse = found["k-NN top-1"]
    images, told = len(files), [request.name_of(file) for file in files]
    return Outcome(
        metric=METRIC,
        scores=[
            compare(metric, mean_of(one), mean_of(two), images, request.seed)
            for metric, (one, two) in found.items()
        ],
        images=images,
        worst=worst_images(told, dense, sparse, request.worst),
        recipe=probe.RECIPE
        | {
            "neighbours": NEIGHBOURS, "temperature": TEMPERATURE, "classes": len(names),
            "training_images": len(truth), "worst": "by k-NN: right is 1, wrong is 0",
        },
        skipped=[*missing, *skipped],
        passed=told,
        notes=[
            *_notes(train, val),
            *overlap([p for paths in train.values() for p in paths], files),
            *constant(answers, names),
        ],
        shares={split: shares(folders) for split, folders in (("train", train), ("val", val))},
    )  # fmt: skip


def _notes(train: dict[str, list[Path]], val: dict[str, list[Path]]) -> list[str]:
    """Classes that cannot be learnt, or are not judged."""
    notes = []
    absent = [name for name in train if not val.get(name)]
    unseen = [name for name in val if val[name] and not train[name]]
    if absent:
        notes.append(f"no picture in val/ of {len(absent)} classes, the first: {absent[0]}")
    if unseen:
        notes.append(
            f"no picture in train/ of {len(unseen)} classes, never found, the first: {unseen[0]}"
        )
    if sum(map(bool, val.values())) == 1:
        notes.append("val/ has pictures of one class alone: the same answer for all would be right")
    return notes


def embed(
    models: Sequence[nn.Module],
    folders: dict[str, list[Path]],
    names: list[str],
    request: Request,
    most: int | None,
) -> tuple[list[Tensor], Tensor, list[Path], list[str]]:
    """Embeddings (n, c) by each model, class numbers (n,), files, and what could not be read."""
    labelled = [(path, names.index(name)) for name, paths in folders.items() for path in paths]
    images = ImageFiles([path for path, _ in labelled], request.resolution, request.mean, request.std)
    reader, count = Reader(images), min(most or len(images), len(images))
    found: list[list[Tensor]] = [[] for _ in models]
    places: list[int] = []
    for place, picture in track(reader.placed(count), "Embedding pictures", count):
        for seen, model in zip(found, models, strict=True):
            seen.append(embedding(model, tokens_of(model, picture)))
        places.append(place)
    classes = torch.tensor([labelled[place][1] for place in places], device=found[0][0].device)
    files = [labelled[place][0] for place in places]
    return [torch.stack(seen) for seen in found], classes, files, list(reader.skipped.values())


def embedding(model: nn.Module, tokens: Tensor) -> Tensor:
    """One vector (c,) for a picture, from its final tokens (n, c).

    The model's own pooling where it is timm's (which knows class tokens, means and attention pooling);
    else the first prefix token, or the mean of the patches where there is none.
    """
    pool: Callable[..., Tensor] | None = getattr(model, "forward_head", None)
    if pool is not None:
        like = next(model.parameters())
        return pool(tokens[None].to(like.dtype), pre_logits=True)[0].float()
    return tokens[0] if family_in(model).prefix_tokens(model) else tokens.mean(0)


def knn(queries: Tensor, bank: Tensor, truth: Tensor, classes: int) -> Tensor:
    """The class (q,) of `queries` (q, c) by the votes of the nearest in `bank` (n, c), classes (n,)."""
    k = min(NEIGHBOURS, len(bank))
    bank, answers = F.normalize(bank, dim=1), []
    for part in F.normalize(queries, dim=1).split(QUERIES_AT_ONCE):
        similarity, near = (part @ bank.T).topk(k, dim=1)
        votes = torch.zeros(len(part), classes, dtype=similarity.dtype, device=bank.device)
        votes.scatter_add_(1, truth[near], (similarity / TEMPERATURE).exp())
        answers.append(votes.argmax(1))
    return torch.cat(answers)


def _each(queries: list[Tensor], trained: list) -> list[tuple]:
    """Dense with the first of `trained`, sparse with the last (the same, unless each has its own)."""
    return [(queries[0], trained[0]), (queries[1], trained[-1])]

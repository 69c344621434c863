"""Zero-shot classification with a model's own text tower (CLIP, SigLIP), top-1.

    class = argmax over classes of cosine(image features, text features of "a photo of a NAME.")

Needs transformers' `get_image_features` and `get_text_features`; the text tower stays dense.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsight.errors import LabelsError, SparsightError, UnsupportedModelError
from sparsight.images import ImageFiles, Reader
from sparsight.stages.progress import track
from sparsight.tasks.base import Arms, Outcome, Request
from sparsight.tasks.layouts import class_folders
from sparsight.tasks.paired import compare, mean_of, worst_images
from sparsight.tasks.pairs import composed
from sparsight.tasks.top1 import constant, right, shares

PROMPT = "a photo of a {}."
METRIC = "zero-shot top-1: share of the pictures whose class was found by its name"


def run(arms: Arms, request: Request) -> Outcome:
    """Judge both arms on val/CLASS/*.jpg by the names in `request.names`."""
    if not hasattr(arms.models[0], "get_text_features"):
        raise UnsupportedModelError(
            f"{type(arms.models[0]).__name__} has no text tower: zero-shot classification needs a "
            "transformers CLIP or SigLIP model; leave out the class names for k-NN and a linear probe"
        )
    if request.tokenizer is None:
        raise SparsightError(
            "zero-shot classification needs the tokenizer of the model's text tower: save it in the "
            "model's folder (tokenizer_config.json)"
        )
    folders = class_folders(request.data / "val")
    names = class_names(request.names or Path(), list(folders))
    labelled = [(path, k) for k, paths in enumerate(folders.values()) for path in paths]
    images = ImageFiles([path for path, _ in labelled], request.resolution, request.mean, request.std)
    reader, count = Reader(images), min(request.max_images or len(images), len(images))
    texts = text_features(arms.models[0], request.tokenizer, [names[folder] for folder in folders])
    answers: tuple[list[Tensor], list[Tensor]] = ([], [])
    places: list[int] = []
    for place, picture in track(reader.placed(count), "Classifying", count):
        for seen, model in zip(answers, arms.models, strict=True):
            seen.append((image_features(model, picture) @ texts.T).argmax())
        places.append(place)
    wanted = torch.tensor([labelled[place][1] for place in places], device=texts.device)
    dense, sparse = (right(torch.stack(seen), wanted, len(names)) for seen in answers)
    files = [request.name_of(labelled[place][0]) for place in places]
    return Outcome(
        metric=METRIC,
        scores=[compare("zero-shot top-1", mean_of(dense), mean_of(sparse), len(files), request.seed)],
        images=len(files),
        worst=worst_images(files, dense, sparse, request.worst),
        recipe={"prompt": PROMPT, "classes": len(names), "worst": "right is 1, wrong is 0"},
        skipped=list(reader.skipped.values()),
        passed=files,
        notes=constant({"zero-shot": [torch.stack(seen) for seen in answers]}, list(folders)),
        shares={"val": shares(folders)},
    )


def tokenizer_in(folder: str) -> Any:
    """The tokenizer of a folder written by save_pretrained, or None if it holds none."""
    if not (Path(folder) / "tokenizer_config.json").is_file():
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def class_names(file: Path, folders: list[str]) -> dict[str, str]:
    """Folder -> name, from lines of FOLDER, a tab and NAME, or of names in the order of the folders."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"cannot read the class names in {file}: {error}") from None
    lines = [composed(line) for line in lines if line]
    with_tab = ["\t" in line for line in lines]
    if all(with_tab):
        named: dict[str, str] = {}
        for folder, name in (map(str.strip, line.split("\t", 1)) for line in lines):
            if named.setdefault(folder, name) != name:
                raise LabelsError(f"{file} has two names for the class {folder!r}")
    elif any(with_tab):
        raise LabelsError(
            f"{file} has lines with a tab and lines without, as {lines[with_tab.index(False)]!r}: give "
            "FOLDER, a tab and NAME in each, or names alone"
        )
    elif len(lines) == len(folders):
        named = dict(zip(folders, lines, strict=True))
    else:
        raise LabelsError(
            f"{file} has {len(lines)} class names for {len(folders)} folders: give one for each, or "
            "lines of FOLDER, a tab and NAME"
        )
    for folder in folders:
        if not named.get(folder):
            raise LabelsError(f"{file} has no name for the class {folder!r}")
    return {folder: named[folder] for folder in folders}


def text_features(model: nn.Module, tokenizer: Any, names: list[str]) -> Tensor:
    """One unit vector for each name, (k, c)."""
    host: Any = model
    tokens = tokenizer(
        [PROMPT.format(name) for name in names], padding="max_length", truncation=True,
        max_length=host.config.text_config.max_position_embeddings, return_tensors="pt",
    )  # fmt: skip
    device = next(model.parameters()).device
    return _unit(host.get_text_features(**{name: value.to(device) for name, value in tokens.items()}))


def image_features(model: nn.Module, picture: Tensor) -> Tensor:
    """The unit vector (c,) of one picture."""
    host: Any = model
    like = next(model.parameters())
    pixels = picture[None].to(like.device, like.dtype)
    return _unit(host.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True))[0]


def _unit(features: Any) -> Tensor:
    """Normalised rows of what transformers gives: a tensor, or since 5.0 an output that holds one."""
    return F.normalize(getattr(features, "pooler_output", features).float(), dim=-1)

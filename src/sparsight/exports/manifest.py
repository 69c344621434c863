"""What an exported file is, in a file beside it: `FILE.json`."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sparsight.data import Data, complaint
from sparsight.errors import SparsightError
from sparsight.exports.counts import Kept
from sparsight.exports.shapes import Shapes
from sparsight.files import write_json
from sparsight.plan import Plan

TYPE, VERSION = "sparsight.export", 1
MAX_BYTES = 16_000_000


class Manifest(Data):
    """Enough to use a file rightly without the model, and to judge it with the model."""

    format: str
    files: dict[str, str]  # the file itself first, then what lies beside it -> SHA-256
    shapes: Shapes
    outputs: dict[str, str]  # name -> what it is, in words
    dtype: str
    mean: tuple[float, ...]  # pictures are (x - mean) / std, x in 0..1
    std: tuple[float, ...]
    model: str  # its class
    source: str | None  # MODEL on the command line
    module: str | None  # the encoder's path in it
    plan: dict[str, Any] | None  # None: dense
    plan_label: str
    weights: str  # SHA-256 of names, shapes and values of the model's tensors, changed ones included
    prefix_tokens: int
    kept: tuple[Kept, ...] = ()
    opset: int | None = None
    versions: dict[str, str]

    def as_plan(self) -> Plan | None:
        """The plan; its tensors are in the file alone."""
        return None if self.plan is None else Plan.from_json(json.dumps(self.plan), "the manifest")


def place_of(file: Path) -> Path:
    """Where the manifest of `file` is."""
    return file.with_name(file.name + ".json")


def write_manifest(manifest: Manifest, file: Path) -> None:
    """Beside `file`."""
    envelope = {"type": TYPE, "version": VERSION, "data": manifest.model_dump(mode="json")}
    write_json(place_of(file), envelope)


def read_manifest(file: Path) -> Manifest:
    """Of an exported file, after its content was compared; SparsightError in one sentence."""
    place = place_of(file)
    if not file.is_file():
        raise SparsightError(f"there is no file {file}")
    try:
        if place.stat().st_size > MAX_BYTES:
            raise SparsightError(f"{place} is larger than any manifest")
        envelope = json.loads(place.read_text(encoding="utf-8"))
        if (envelope["type"], envelope["version"]) != (TYPE, VERSION):
            raise SparsightError(f"{place} is no manifest that this version reads: export anew")
        manifest = Manifest.model_validate(envelope["data"])
    except FileNotFoundError:
        raise SparsightError(
            f"{place} is missing, which says what {file.name} is: keep both in one folder"
        ) from None
    except ValidationError as error:
        raise SparsightError(f"{place} is damaged: {complaint(error)}") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SparsightError(f"{place} is damaged: {error}") from None
    for name, digest in manifest.files.items():
        own = file.with_name(name) if name == Path(name).name else Path(name)
        if not own.is_file():
            raise SparsightError(f"{own} is missing, which belongs to {file.name}: export anew")
        if digest_of(own) != digest:
            raise SparsightError(f"{own} was changed or damaged since it was exported: export anew")
    if file.name not in manifest.files:
        raise SparsightError(
            f"{place} is the manifest of {next(iter(manifest.files))}, not of {file.name}"
        )
    return manifest


def digest_of(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of_tensors(tensors: dict[str, Any]) -> str:
    """Of tensors by name, whatever device they are on."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()

"""What MODEL means on the command line: `demo`, `timm:NAME`, `hf:NAME`, or a local folder.

NAME@REVISION is that revision of the weights on the hub.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparsight.errors import SparsightError
from sparsight.models import folders, libraries, normalisation, revisions
from sparsight.models.weights import with_weights

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LoadedModel", "load_model"]


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, and how its pictures are normalised."""

    model: "nn.Module"
    source: str  # as given; with the commit, where weights came from the hub
    mean: tuple[float, ...]
    std: tuple[float, ...]
    random_weights: bool
    notes: tuple[str, ...] = ()  # what was assumed or left out, for the user to read


def load_model(
    source: str,
    resolution: tuple[int, int],
    pretrained: bool = False,
    checkpoint: Path | None = None,
) -> LoadedModel:
    """Load MODEL for pictures of `resolution`.

    `timm:NAME` has seeded random weights unless `pretrained` (fetched from the hub) or `checkpoint` is
    given; `hf:NAME` is a model of transformers, only with `pretrained`.  Either may end in @REVISION, a
    commit, tag or branch of the hub.  A folder needs the config.json and safetensors that timm's
    `save_for_hf` or transformers' `save_pretrained` writes.  `checkpoint` is a local safetensors file,
    or the index of its shards, with other weights for MODEL, under any prefix and with any head or
    none.  No pickle is read, and no code of a checkpoint is run.  Raises SparsightError.
    """
    loaded = _loaded(source, resolution, pretrained, other_weights=checkpoint is not None)
    if checkpoint is None:
        return loaded
    model, notes = with_weights(loaded.model, checkpoint)
    return replace(loaded, model=model, random_weights=False, notes=(*loaded.notes, *notes))


def _loaded(
    source: str, resolution: tuple[int, int], pretrained: bool, other_weights: bool
) -> LoadedModel:
    kind, _, name = source.partition(":")
    if source == "demo":
        from sparsight.demo import encoder

        return LoadedModel(encoder.load(), source, encoder.MEAN, encoder.STD, False)
    if kind == "timm" and name:
        pretrained = pretrained and not other_weights
        if revisions.split(name)[1] and not (pretrained or other_weights):
            raise SparsightError(
                f"{source} is of weights on the hub, which are fetched with --pretrained only"
            )
        model = libraries.of_timm(name, resolution, pretrained)
        pinned = revisions.pinned_timm(name, model) if pretrained else name
        return LoadedModel(model, f"timm:{pinned}", *normalisation.of_timm(model), not pretrained)
    if kind == "hf" and name:
        if not pretrained:
            raise SparsightError(
                f"{source} is fetched from the hub, which is done with --pretrained only; or give a "
                "folder written by save_pretrained"
            )
        loaded = _of_transformers(name, source, local=False)
        return replace(loaded, source=f"hf:{revisions.pinned(name)}")
    if not source or not Path(source).is_dir():
        raise folders.refuse(source)
    folder = Path(source)
    if libraries.type_of_folder(folder, folders.config_of(folder)) is not None:
        return _of_transformers(source, source, local=True)
    model = libraries.of_timm(f"local-dir:{folder}", resolution, not other_weights)
    return LoadedModel(model, source, *normalisation.of_timm(model), False)


def _of_transformers(name: str, source: str, local: bool) -> LoadedModel:
    model = libraries.of_transformers(name, local)
    kind = getattr(model.config, "model_type", "")
    normal, note = normalisation.of_transformers(name, kind, local)
    return LoadedModel(model, source, *normal, False, (note,) if note else ())

"""Models as timm and transformers make them: by a name, from the hub, or from a folder."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsight.errors import SparsightError, brief
from sparsight.extras import extra
from sparsight.families.base import is_instance
from sparsight.models.revisions import split, timm_repo

if TYPE_CHECKING:
    from torch import nn

SWINS = (
    "timm.models.swin_transformer.SwinTransformer",
    "timm.models.swin_transformer_v2.SwinTransformerV2",
)
VIDEO = "sam2_video"  # what the hub's SAM 2 checkpoints say they are, for pictures too


def import_transformers() -> Any:
    """transformers, with a clear sentence if it is not there."""
    from sparsight._torchvision import repair

    repair()
    return extra("transformers")


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """While in here, transformers prints no report of weights, which whoever loads them looks at."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)


def import_timm() -> Any:
    """timm, with a clear sentence if it is not there."""
    from sparsight._torchvision import repair

    repair()
    return extra("timm")


def of_timm(name: str, resolution: tuple[int, int], pretrained: bool) -> "nn.Module":
    """A model of timm for pictures of `resolution`, seeded where its weights are random."""
    import torch

    timm = import_timm()
    build = partial(timm.create_model, name, pretrained=pretrained)
    plain, revision = split(name)
    if revision is not None and ":" not in name:  # timm itself knows them of hf-hub:NAME alone
        build = partial(timm.create_model, plain, pretrained=pretrained)
        if pretrained:
            weights = {"hf_hub_id": f"{timm_repo(plain)}@{revision}"}
            build = partial(build, pretrained_cfg_overlay=weights)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                model = build(img_size=resolution, dynamic_img_size=True)
                if is_instance(model, *SWINS):
                    # For one size, Swin makes its masks once; for any, at every call.
                    model = build(img_size=resolution)
                return model.eval()
            except TypeError:  # SAM 2's encoder takes any size and has no argument for it
                return build().eval()
    except Exception as error:  # timm, the hub and safetensors each have their own kinds
        if "Unknown model" in str(error):
            near = difflib.get_close_matches(name, timm.list_models(), 1)
            hint = f", the nearest is timm:{near[0]}" if near else ""
            raise SparsightError(f"timm has no model {brief(name, 60)!r}{hint}") from None
        raise SparsightError(f"cannot load {brief(name, 80)}: {brief(error)}") from None


def of_transformers(name: str, local: bool) -> "nn.Module":
    """A model of transformers, in float32, of a folder or the hub; SAM 2 for video as for pictures."""
    transformers = import_transformers()
    how: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    given = name
    if not local:
        name, how["revision"] = split(name)
    try:
        kind = transformers.AutoModel
        if transformers.PretrainedConfig.get_config_dict(name, **how)[0].get("model_type") == VIDEO:
            kind = transformers.Sam2Model
            how.pop("trust_remote_code")
        with quiet(transformers):
            model, info = kind.from_pretrained(
                name, use_safetensors=True, dtype="float32", output_loading_info=True, **how
            )
    except Exception as error:  # transformers, the hub and safetensors each have their own kinds
        raise SparsightError(f"cannot load {brief(given, 100)}: {brief(error)}") from None
    # A classifier's backbone has no trained pooler; anything else missing would be random.
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if missing:
        raise SparsightError(f"{name} lacks {len(missing)} weights, the first: {missing[0]}")
    return model.eval()


def type_of_folder(folder: Path, config: dict[str, Any]) -> str | None:
    """Its model_type if it is of transformers, None if of timm; SparsightError if of neither."""
    kind = config.get("model_type")
    if kind is None:
        if "architecture" not in config:
            raise SparsightError(
                f"{folder}/config.json names neither a model_type (transformers) nor an architecture "
                "(timm): write it with save_pretrained or save_for_hf"
            )
        sizes = config.get("model_args") or {}
        for name, value in sizes.items() if isinstance(sizes, dict) else ():
            if isinstance(value, int | float) and value < 0:
                raise SparsightError(f"{folder}/config.json: model_args has {name} {value}, below 0")
        return None
    transformers = import_transformers()
    if isinstance(kind, str) and kind in transformers.models.auto.configuration_auto.CONFIG_MAPPING:
        return kind
    what = (
        "and the code it brings is not run" if "auto_map" in config
        else "of this version at least: upgrade it, or load the model in Python"
    )  # fmt: skip
    raise SparsightError(f"{folder} holds a {kind!r}, which is no model of transformers, {what}")

"""How a model's pictures are normalised: (x - mean) / std of pixels x in 0..1, for each colour."""

import math
from typing import Any

from sparsight.errors import SparsightError, brief
from sparsight.images import IMAGENET_MEAN, IMAGENET_STD, normal_of
from sparsight.models.libraries import import_transformers
from sparsight.models.revisions import split

Normal = tuple[tuple[float, ...], tuple[float, ...]]
# Whose published weights were trained with ImageNet's figures, where transformers' class has others.
IMAGENET = frozenset(("deit", "dinov2", "dinov2_with_registers", "swin"))


def of_transformers(name: str, model_type: str, local: bool) -> tuple[Normal, str | None]:
    """As its processor's file says; else as is usual for the kind of model, and a note of that."""
    from transformers.models.auto.image_processing_auto import get_image_processor_config

    plain, revision = (name, None) if local else split(name)
    try:
        settings = get_image_processor_config(plain, local_files_only=local, revision=revision)
        found = _of_settings(settings)
    except Exception as error:  # the hub, JSON and files each have their own kinds
        raise SparsightError(
            f"cannot read how pictures are normalised in {brief(name, 100)}: {brief(error, 100)}"
        ) from None
    if found is not None:
        return found, None
    (mean, std), of = usual(model_type)
    return (mean, std), (
        f"{brief(name, 80)} does not say how pictures are normalised; taken is {of}: mean "
        f"{_text(mean)}, std {_text(std)}"
    )


def of_timm(model: Any) -> Normal:
    """As timm's configuration of the model says."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    given = (cfg.get(name) for name in ("mean", "std"))
    mean, std = (
        usual if value is None else value
        for value, usual in zip(given, (IMAGENET_MEAN, IMAGENET_STD), strict=True)
    )
    return normal_of(mean, std)


def usual(model_type: str) -> tuple[Normal, str]:
    """What transformers' own image processor of a kind of model does, and whose figures they are."""
    import_transformers()
    from transformers.models.auto import image_processing_auto as auto

    kind = model_type.removesuffix("_vision_model")
    names = auto.IMAGE_PROCESSOR_MAPPING_NAMES.get(kind)
    if kind in IMAGENET or not names:
        return (IMAGENET_MEAN, IMAGENET_STD), "ImageNet's"
    processor = auto.get_image_processor_class_from_name(next(iter(names.values())))
    settings = {
        key: getattr(processor, key, None)
        for key in ("image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor")
    }
    found = _of_settings({key: value for key, value in settings.items() if value is not None})
    if found is None:
        return (IMAGENET_MEAN, IMAGENET_STD), "ImageNet's"
    return found, f"what is usual for {kind}"


def _of_settings(settings: dict[str, Any]) -> Normal | None:
    """From an image processor's settings; None if they say nothing of it, ValueError if they are odd."""
    if settings.get("do_normalize") is False:
        mean, std = _three(0), _three(1)
    elif settings.get("image_mean") is None or settings.get("image_std") is None:
        return None
    else:
        mean, std = _three(settings["image_mean"]), _three(settings["image_std"])
    # It works on bytes, times a factor that is usually 1/255; we on pixels in 0..1.
    rescaled = settings.get("do_rescale") is not False
    scale = 255 * float(settings.get("rescale_factor", 1 / 255)) if rescaled else 255.0
    if not scale > 0 or not all(value > 0 for value in std):
        raise ValueError("a standard deviation or scale is not positive")
    return tuple(m / scale for m in mean), tuple(s / scale for s in std)


def _three(value: Any) -> tuple[float, ...]:
    values = tuple(map(float, [value] * 3 if isinstance(value, int | float) else value))
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise ValueError(f"{value!r} is no figure for each of three colours")
    return values


def _text(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else ", ".join(f"{v:.3f}" for v in values)

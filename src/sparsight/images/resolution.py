"""Resolutions: height and width in pixels, and whether a model takes them."""

from sparsight.errors import ImagesError


def parse_resolution(text: str) -> tuple[int, int]:
    """Height and width in pixels from "1024" (square) or "768x1024" (height x width)."""
    sides = [side.strip() for side in text.lower().split("x")]
    if len(sides) > 2 or not all(side.isdecimal() and len(side) < 7 and int(side) > 0 for side in sides):
        raise ImagesError(f"resolution {text!r} is neither like 1024 nor like 768x1024 (height x width)")
    return int(sides[0]), int(sides[-1])


def check_resolution(resolution: tuple[int, int], patch_px: tuple[int, int]) -> None:
    """Refuse a resolution that the patch size does not divide, naming the nearest that it does."""
    if all(side > 0 and side % patch == 0 for side, patch in zip(resolution, patch_px, strict=True)):
        return
    nearest = [
        max(1, round(side / patch)) * patch for side, patch in zip(resolution, patch_px, strict=True)
    ]
    raise ImagesError(
        f"resolution {resolution[0]}x{resolution[1]} is not a multiple of the model's patch size "
        f"{patch_px[0]}x{patch_px[1]}; the nearest that is: {nearest[0]}x{nearest[1]}"
    )

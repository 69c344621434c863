"""The user's pictures with what the model did on them, as PNG and JPEG inside the page."""

import base64
import io
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

SIDE_PX = 300  # the longer side of a map in the page
# Cividis at nine places: even in lightness, and the same to colour-blind readers.
CIVIDIS = np.array(
    [[0, 32, 77], [0, 55, 110], [55, 74, 108], [87, 93, 109], [112, 113, 115], [139, 133, 119],
     [168, 154, 112], [203, 180, 91], [255, 234, 70]], dtype=np.float32
)  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One image of the page: what is below it, and what it says to who cannot see it."""

    image: Image.Image
    caption: str
    alt: str

    @property
    def uri(self) -> str:
        """The image itself, inside a page."""
        buffer = io.BytesIO()
        self.image.save(buffer, "JPEG", quality=85)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def panels(look: dict[str, Any]) -> list[Panel]:
    """All images of one picture."""
    maps, name = look["maps"], look["name"]
    base = Image.fromarray(maps["picture"])
    found = [_panel(base, "The picture", f"{name}")]
    for layer in sorted({int(m[1]) for key in maps if (m := re.match(r"layer (\d+) ", key))}):
        exact, guess, kept = (
            maps.get(f"layer {layer} {what}") for what in ("exact", "predicted", "kept")
        )
        found.append(
            _panel(coloured(exact, base.size), f"Layer {layer}: attention each place receives, exact",
                   f"Average attention of layer {layer} over {name}")
        )  # fmt: skip
        if guess is not None and kept is not None:
            share = 100 * float((kept > 0).mean())
            hit = look.get("recalls", {}).get(str(layer))
            said = f"; {100 * hit:.0f} % of the true top eighth found" if hit is not None else ""
            found.append(
                _panel(coloured(guess, base.size), f"Layer {layer}: the score the sparse model ranks by",
                       f"Predicted attention of layer {layer} over {name}")
            )  # fmt: skip
            found.append(
                _panel(masked(base, kept), f"Layer {layer}: bright = kept, {share:.0f} %{said}",
                       f"Tokens kept in layer {layer} over {name}, {share:.0f} percent")
            )  # fmt: skip
    if (left := maps.get("left")) is not None:
        found.append(
            _panel(coloured(np.where(left == 0, left.max() + 1, left), base.size),
                   "When each token left: dark = early, bright = stayed to the end",
                   f"Stage at which each token of {name} left")
        )  # fmt: skip
    for key, skipped in maps.items():
        if key.startswith("stage "):
            found.append(
                _panel(masked(base, 1 - skipped), f"{key.capitalize()}: dark windows are skipped in "
                       f"{100 * float(skipped.mean()):.0f} % of the blocks", f"{key} over {name}")
            )  # fmt: skip
    for kind in ("dense", "sparse"):
        colours = Image.fromarray(maps[f"features {kind}"]).resize(base.size, Image.Resampling.NEAREST)
        found.append(
            _panel(colours, f"Final features, {kind}: like colours, like features",
                   f"Main components of the {kind} features of {name} as colours")
        )  # fmt: skip
    moved = maps["features difference"]
    found.append(
        _panel(coloured(moved, base.size, top=max(0.5, float(moved.max()))),
               f"How far features moved: {100 * float(moved.mean()):.0f} % on average, at most "
               f"{100 * float(moved.max()):.0f} % of a token's size", f"Difference of features, {name}")
    )  # fmt: skip
    return found


def coloured(values: np.ndarray, size: tuple[int, int], top: float | None = None) -> Image.Image:
    """A map (rows, columns) in cividis at `size` (width, height), from 0 to `top` or its own range."""
    values = np.nan_to_num(values.astype(np.float32))
    low = 0.0 if top is not None else float(values.min())
    high = top if top is not None else float(np.quantile(values, 0.99))
    place = np.clip((values - low) / max(high - low, 1e-12), 0, 1) * (len(CIVIDIS) - 1)
    first = np.minimum(place.astype(int), len(CIVIDIS) - 2)
    rest = (place - first)[..., None]
    colours = CIVIDIS[first] * (1 - rest) + CIVIDIS[first + 1] * rest
    return Image.fromarray(colours.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)


def masked(base: Image.Image, kept: np.ndarray) -> Image.Image:
    """The picture, dark where `kept` (rows, columns) is 0."""
    grey = Image.fromarray((np.clip(kept, 0, 1) * 255).astype(np.uint8))
    light = (
        np.asarray(grey.resize(base.size, Image.Resampling.NEAREST), dtype=np.float32)[..., None] / 255
    )
    return Image.fromarray((np.asarray(base) * (0.12 + 0.88 * light)).astype(np.uint8))


def _panel(image: Image.Image, caption: str, alt: str) -> Panel:
    scale = min(1.0, SIDE_PX / max(image.size))
    size = [max(1, round(side * scale)) for side in image.size]
    return Panel(image.resize(size, Image.Resampling.LANCZOS), caption, alt)

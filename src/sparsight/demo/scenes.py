"""Procedural high-resolution scenes with exact labels: nothing downloaded, nothing licensed.

A scene is a textured, cluttered background with a few small objects of ten kinds.  Sizes are in
pixels, not in fractions of the picture, so a larger picture shows more background around objects of
the same size: high resolution matters, and most of the picture does not.  A kind has its shape and its
range of hues; the clutter takes every hue, so colour alone does not tell an object from a blot.  The
same seed and size give the same scene.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

KINDS = (
    "disc", "ring", "square", "triangle", "cross",
    "star", "crescent", "hexagon", "bars", "checker",
)  # fmt: skip
BACKGROUND = 0  # label of every pixel that is no object; kind k has label k + 1
RADIUS_PX = (22.0, 48.0)
HUE_JITTER = 0.05  # of the colour circle, each way; neighbouring kinds are 0.1 apart
PIXELS_PER_OBJECT = 110_000  # a 1024 x 1024 scene has 9 or 10 objects on average
OUTLINE_PX = 2.0


class Scene(NamedTuple):
    """One picture and what is in it."""

    image: NDArray[np.uint8]  # (height, width, 3)
    labels: NDArray[np.uint8]  # (height, width): BACKGROUND or kind + 1
    kinds: NDArray[np.bool_]  # (10,): which kinds are visible


@dataclass(frozen=True)
class SceneSet:
    """`count` scenes of one size, drawn when asked for; scene i has seed `first_seed + i`."""

    count: int
    size: tuple[int, int]
    first_seed: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Scene:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return draw(self.first_seed + index, self.size)


def draw(seed: int, size: tuple[int, int], objects: int | None = None) -> Scene:
    """Draw one scene of `size` = (height, width) pixels, with `objects` objects or a usual number."""
    rng = np.random.default_rng(seed)
    image = _background(rng, size)
    _clutter(rng, image)
    labels = np.zeros(size, np.uint8)
    if objects is None:
        objects = max(1, int(rng.poisson(size[0] * size[1] / PIXELS_PER_OBJECT)))
    for _ in range(objects):
        _object(rng, image, labels)
    image += rng.normal(0, rng.uniform(2, 9), (*size, 1)).astype(np.float32)
    present = np.isin(np.arange(1, len(KINDS) + 1), labels)
    return Scene(np.clip(image, 0, 255).astype(np.uint8), labels, present)


def _background(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """Colour clouds at four scales, each a coarse random grid enlarged smoothly."""
    height, width = size
    image = np.full((height, width, 3), rng.uniform(60, 180, 3), np.float32)
    for cell_px, strength in ((256, 45), (64, 25), (16, 14), (4, 8)):
        grid = (height // cell_px + 2, width // cell_px + 2)
        channels = 3 if cell_px >= 64 else 1
        for c in range(channels):
            coarse = Image.fromarray(rng.normal(0, strength, grid).astype(np.float32))
            cloud = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
            image[:, :, slice(None) if channels == 1 else c] += (
                cloud[..., None] if channels == 1 else cloud
            )
    return image


def _clutter(rng: np.random.Generator, image: NDArray[np.float32]) -> None:
    """Long strokes and irregular blots of any colour: none of them is an object."""
    height, width = image.shape[:2]
    for _ in range(int(rng.poisson(height * width / 40_000)) + 1):
        centre = rng.uniform(0, (height, width))
        colour = _rgb(rng.uniform(), rng.uniform(0.2, 0.9), rng.uniform(0.3, 1.0))
        if rng.uniform() < 0.5:
            length, thick = rng.uniform(30, 160), rng.uniform(1.0, 4.0)
            y, x, window = _window(centre, length, (height, width), rng.uniform(0, np.pi))
            mask = np.clip(thick - np.abs(y), 0, 1) * (np.abs(x) < length)
        else:
            reach = rng.uniform(8, 40)
            y, x, window = _window(centre, 1.6 * reach, (height, width), 0.0)
            angle, waves = np.arctan2(y, x), rng.uniform(0, 2 * np.pi, 3)
            edge = reach * (1 + sum(0.2 * np.sin((k + 2) * angle + w) for k, w in enumerate(waves)))
            mask = np.clip((edge - np.hypot(y, x)) / rng.uniform(1, 12), 0, 1)
        mask = (mask * rng.uniform(0.4, 1.0))[..., None].astype(np.float32)
        image[window] = image[window] * (1 - mask) + colour * mask


def _object(rng: np.random.Generator, image: NDArray[np.float32], labels: NDArray[np.uint8]) -> None:
    """Paint one object wholly inside the picture, over whatever is there."""
    kind = int(rng.integers(len(KINDS)))
    radius = rng.uniform(*RADIUS_PX)
    size = labels.shape
    margin = np.minimum(radius + OUTLINE_PX, np.array(size) / 2)
    centre = rng.uniform(margin, np.array(size) - margin)
    y, x, window = _window(centre, radius + OUTLINE_PX, size, rng.uniform(0, 2 * np.pi))
    distance, shade = _shape(KINDS[kind], y / radius, x / radius)
    distance = distance * radius

    hue = kind / len(KINDS) + rng.uniform(-HUE_JITTER, HUE_JITTER)
    value = rng.uniform(0.55, 1.0)
    fill = _rgb(hue, rng.uniform(0.5, 1.0), value)
    rim = _rgb(hue, 0.6, value * 0.35)
    inside = np.clip(0.5 - distance, 0, 1)[..., None]
    body = np.clip(0.5 - distance - OUTLINE_PX, 0, 1)[..., None]
    paint = rim * (1 - body) + fill * (1 - 0.55 * shade[..., None]) * body
    image[window] = image[window] * (1 - inside) + paint * inside
    labels[window][distance <= 0] = kind + 1


def _window(
    centre: NDArray[np.float64], reach: float, size: tuple[int, int], angle: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[slice, slice]]:
    """The part of a picture within `reach` of `centre`, and its turned coordinates (y, x) in pixels."""
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.minimum(np.ceil(centre + reach) + 1, size).astype(int)
    y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
    y, x = (y - centre[0]).astype(np.float32), (x - centre[1]).astype(np.float32)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return y * cos - x * sin, y * sin + x * cos, (slice(low[0], high[0]), slice(low[1], high[1]))


def _polygon(y: NDArray, x: NDArray, sides: int) -> NDArray:
    """Signed distance to a regular polygon of unit circumradius (exact along its sides)."""
    sector = 2 * np.pi / sides
    angle = np.mod(np.arctan2(y, x), sector) - sector / 2
    return np.hypot(y, x) * np.cos(angle) - np.cos(sector / 2)


def _shape(kind: str, y: NDArray, x: NDArray) -> tuple[NDArray, NDArray]:
    """Signed distance (negative inside) and shade (0 light, 1 dark) of a unit-sized shape."""
    r, plain = np.hypot(y, x), np.zeros(np.broadcast(y, x).shape, np.float32)
    box = np.maximum(np.abs(y), np.abs(x)) - 0.8
    if kind == "disc":
        return r - 1, plain
    if kind == "ring":
        return np.abs(r - 0.74) - 0.26, plain
    if kind == "square":
        return box, plain
    if kind == "triangle":
        return _polygon(y, x, 3), plain
    if kind == "cross":
        a, b = np.abs(y), np.abs(x)
        return np.maximum(np.minimum(a, b) - 0.32, np.maximum(a, b) - 0.95), plain
    if kind == "star":
        angle = np.abs(np.mod(np.arctan2(y, x), 2 * np.pi / 5) - np.pi / 5)
        return (r - (0.45 + 0.55 * np.abs(angle) / (np.pi / 5))) * 0.7, plain
    if kind == "crescent":
        return np.maximum(r - 1, 0.75 - np.hypot(y, x - 0.5)), plain
    if kind == "hexagon":
        return _polygon(y, x, 6), (r < 0.45).astype(np.float32)
    if kind == "bars":
        return r - 1, (np.mod(x * 2.0, 1) < 0.5).astype(np.float32)
    if kind == "checker":
        return box, ((np.mod(x * 1.25, 1) < 0.5) ^ (np.mod(y * 1.25, 1) < 0.5)).astype(np.float32)
    raise ValueError(f"unknown kind of object: {kind!r}")


def _rgb(hue: float, saturation: float, value: float) -> NDArray[np.float32]:
    """One colour, 0 to 255, from hue (in turns), saturation and value (0 to 1)."""
    ramp = np.abs(np.mod(hue + np.array([0, 2 / 3, 1 / 3]), 1) * 6 - 3) - 1
    colour = 255 * value * (1 - saturation + saturation * np.clip(ramp, 0, 1))
    return colour.astype(np.float32)

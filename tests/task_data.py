"""Small folders of pictures and labels for the tests of the tasks."""

import numpy as np
from PIL import Image

PATCH_PX = 16
COLOURS = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200)], np.uint8)


def squares(rng, grid=(4, 6)):
    """A picture (height, width, 3) of squares in the colour of their class, and its labels."""
    classes = rng.integers(len(COLOURS), size=grid)
    labels = classes.repeat(PATCH_PX, 0).repeat(PATCH_PX, 1).astype(np.uint8)
    noise = rng.integers(0, 20, (*labels.shape, 3), dtype=np.uint8)
    return COLOURS[labels] + noise, labels


def save(pixels, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def segmentation_folder(folder, train=12, val=6, seed=0, labels_of=lambda rng, labels: labels):
    """CamVid's layout; `labels_of` may spoil the labels of the training pictures."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            picture, labels = squares(rng)
            if split == "train":
                labels = labels_of(rng, labels)
            save(picture, folder / split / "images" / f"{number}.png")
            save(labels, folder / split / "labels" / f"{number}.png")
    return folder


def class_folder(folder, train=6, val=4, seed=0, shuffled=False):
    """ImageNet's layout: pictures of one colour, in a folder named after it, or after any."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for k, name in enumerate(("red", "green", "blue")):
            for number in range(count):
                colour = rng.integers(3) if shuffled and split == "train" else k
                pixels = COLOURS[colour] + rng.integers(0, 40, (48, 48, 3), dtype=np.uint8)
                save(pixels, folder / split / name / f"{number}.png")
    return folder


def salient_folder(folder, count=10, seed=0):
    """im/ and gt/: a red rectangle of whole patches on blue."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        mask = np.zeros((4, 6), np.uint8)
        top, left = rng.integers(0, 3), rng.integers(0, 4)
        mask[top : top + 2, left : left + 2] = 1
        mask = mask.repeat(PATCH_PX, 0).repeat(PATCH_PX, 1)
        picture = COLOURS[2 - 2 * mask] + rng.integers(0, 20, (*mask.shape, 3), dtype=np.uint8)
        save(picture, folder / "im" / f"{number}.png")
        save(255 * mask, folder / "gt" / f"{number}.png")
    return folder

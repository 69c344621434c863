"""Encode a folder of pictures with an exported file: needs openvino, numpy and Pillow, no PyTorch.

sparsight export runs/demo --format openvino --dynamic --output pooled --out encoder.xml
python encode.py encoder.xml photos/ vectors.npz
"""

import json
import sys
from pathlib import Path

import numpy as np
import openvino
from PIL import Image


def picture(file: Path, manifest: dict) -> np.ndarray:
    """A picture (1, 3, height, width) of the largest size that the file takes, normalised."""
    height, width = manifest["shapes"]["largest"]
    image = Image.open(file).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float32) / 255
    normal = (pixels - np.float32(manifest["mean"])) / np.float32(manifest["std"])
    return normal.transpose(2, 0, 1)[None]


def main(model: str, folder: str, out: str) -> None:
    """One vector for each picture, by its name."""
    manifest = json.loads(Path(model + ".json").read_text())["data"]
    precision = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[manifest["dtype"]]
    hints = {"INFERENCE_PRECISION_HINT": precision}  # else it may take bfloat16 by itself
    run = openvino.Core().compile_model(model, "CPU", hints)
    vectors = {}
    for file in sorted(Path(folder).iterdir()):
        if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
            vector = run(picture(file, manifest))["pooled"]
            vectors[file.name] = vector[0]
    np.savez(out, **vectors)
    print(f"{len(vectors)} pictures in {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Tables of which encoders become sparse, from benchmarks/results/coverage.json."""

import re
from typing import Any

from benchmarks.tables.markdown import NONE, number, rows, setting

ROUTES = ("family", "sites", "refused", "not built")
REASONS = (  # a pattern in the refusal, and the same in a few words
    ("bias", "a bias on every pair"),
    ("within windows", "windows, or attention to other tokens alone"),
    ("could not be run", "takes other inputs than pictures alone"),
    ("cosines", "compares by cosines"),
    ("clips of several", "takes clips alone"),
    ("at random", "drops patches at random"),
    ("holds several", "several encoders"),
    ("SwinModel can", "returns maps, a SwinModel can"),
    ("channels first", "maps with channels first"),
    ("needs", "differs from its family"),
)


# Sections of docs/encoders.md: name -> classes of transformers and names of timm
PAGES = {
    "dinov2": ("Dinov2Model", "Dinov2WithRegistersModel", "vit_small_patch14_dinov2"),
    "dinov3": ("DINOv3ViTModel", "vit_base_patch16_dinov3"),
    "clip": ("CLIPVisionModel", "vit_base_patch16_clip_224"),
    "siglip": ("SiglipVisionModel", "Siglip2VisionModel", "vit_base_patch16_siglip_224"),
    "sam": ("SamVisionModel", "samvit_base_patch16", "samvit_huge_patch16"),
    "sam2": ("Sam2VisionModel", "sam2_hiera_tiny", "sam2_hiera_large"),
    "sam3": ("Sam3ViTModel",),
    "swin": ("SwinModel", "swin_base_patch4_window7_224"),
    "qwen": ("Qwen3VLVisionModel", "Qwen2_5_VisionTransformerPretrainedModel"),
    "internvl": ("InternVLVisionModel",),
    "depth": ("Dinov2Backbone", "DPTModel"),
    "radio": ("RadioModel",),
    "aimv2": ("Aimv2VisionModel",),
    "sapiens2": ("Sapiens2Model",),
    "pixtral": ("PixtralVisionModel",),
    "gemma": ("Gemma4VisionModel", "SiglipVisionModel"),
    "naflex": ("naflexvit_base_patch16_siglip",),
    "rfdetr": ("RfDetrModel",),
    "eomt": ("EomtForUniversalSegmentation", "EomtDinov3ForUniversalSegmentation"),
}


def figures(result: dict[str, Any], page: str) -> str:
    """Share and limit of one section's encoders."""
    found = {name: row for row in result["rows"] for name in (row.get("encoder"), row["name"])}
    lines = []
    for name in PAGES[page]:
        row = found.get(name, {})
        spans = [
            f"{100 * row[size]['share']:.0f} %, {row[size]['limit']:.2f}x" if size in row else NONE
            for size in ("1024", "2048")
        ]
        route = row.get("family", "refused") if row else "not in the table"
        lines.append([f"`{name}`", route, str(row.get("prefix", NONE)), *spans])
    return rows(["", "route", "prefix", "share and limit, 1024 px", "2048 px"], lines)


def summary(result: dict[str, Any]) -> str:
    """How many of each library, by route."""
    lines = []
    for library in ("timm", "transformers"):
        found = attending(result, library)
        counts = [sum(row["route"] == route for row in found) for route in ROUTES]
        lines.append([library, str(len(found)), *map(str, counts)])
    header = ["library", "looked at", "family", "sites", "refused", "not built by its defaults"]
    return rows(header, lines)


def of_timm(result: dict[str, Any]) -> str:
    """By module: how many by each route, and what there is to gain."""
    lines = []
    found = attending(result, "timm")
    for module in dict.fromkeys(row["module"] for row in found):
        own = [row for row in found if row["module"] == module]
        counts = [str(sum(row["route"] == route for row in own)) for route in ROUTES[:3]]
        why = dict.fromkeys(reason(row) for row in own if row["route"] == "refused")
        lines.append([f"`{module}`", *counts, span(own, "1024"), span(own, "2048"), "; ".join(why)])
    header = ["module", "family", "sites", "refused", "limit, 1024 px", "limit, 2048 px", "refused for"]
    return rows(header, lines)


def of_transformers(result: dict[str, Any]) -> str:
    """Each tower."""
    lines, seen = [], set()
    for row in attending(result, "transformers"):
        encoder = row.get("encoder", row["name"])
        if row["route"] == "not built" or encoder in seen:
            continue
        seen.add(encoder)
        if row["route"] == "refused":
            lines.append([f"`{encoder}`", "-", "", "", "", "", reason(row)])
            continue
        route = row["family"] if row["route"] == "family" else "sites"
        figures = [
            f"{100 * row[size]['share']:.0f} %, {row[size]['limit']:.2f}x" if size in row else ""
            for size in ("1024", "2048")
        ]
        sparse = f"{row['sparse']} of {row['layers']}"
        lines.append([f"`{encoder}`", route, sparse, str(row["prefix"]), *figures, ""])
    header = [
        "encoder", "route", "can be sparse", "prefix", "share and limit, 1024 px", "2048 px",
        "refused for",
    ]  # fmt: skip
    return rows(header, lines)


def attending(result: dict[str, Any], library: str) -> list[dict[str, Any]]:
    """The rows of models that have attention at all."""
    return [
        row
        for row in result["rows"]
        if row["library"] == library and "is not supported, its blocks" not in row.get("why", "")
    ]


def reason(row: dict[str, Any]) -> str:
    """Of a refusal, in a few words."""
    return next((words for part, words in REASONS if re.search(part, row["why"])), row["why"])


def span(found: list[dict[str, Any]], size: str) -> str:
    """The smallest and largest limit."""
    limits = sorted(row[size]["limit"] for row in found if size in row)
    if not limits:
        return ""
    ends = [f"{limits[0]:.2f}x", f"{limits[-1]:.2f}x"]
    return " to ".join(dict.fromkeys(ends))


def speed(result: dict[str, Any]) -> str:
    """Encoders at true width, dense and sparse where they attend."""
    header = ["", "resolution", "", "latency", "speedup", "the FLOPs allow"]
    lines = [
        [
            row["model"], row["resolution"], row["arm"],
            *([f"{row['latency_ms'] / 1e3:.2f} s", f"{row['speedup']:.2f}x"] if "speedup" in row
              else [row.get("hole", NONE), NONE]),
            number(row.get("limit"), ".2f") + "x" * ("limit" in row),
        ]
        for row in result["rows"]
    ]  # fmt: skip
    return (
        setting(result["protocol"], "random weights: only speed is meant")
        + "\n\n"
        + rows(header, lines, 3)
    )

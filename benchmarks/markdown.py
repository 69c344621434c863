"""Pieces every rendered table is made of."""

from typing import Any


def rows(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    marks = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, marks, *lines])


def setting(protocol: dict[str, Any], *more: str) -> str:
    """One line that says what the figures below it hold for."""
    versions = protocol["versions"]
    parts = [protocol["machine"], f"{protocol['threads']} threads", protocol["dtype"]]
    if "batch" in protocol:
        parts.append(f"batch {protocol['batch']}")
    parts.append(f"PyTorch {versions['torch']}, timm {versions['timm']}")
    if "repeats" in protocol:  # else each row has its own
        parts.append(f"medians of {protocol['repeats']} interleaved repeats")
    if protocol.get("revision"):
        parts.append(f"at {protocol['revision']}")
    return "*" + "; ".join([*parts, *more]) + ".*"

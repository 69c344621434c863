"""Pieces every rendered table is made of."""

from typing import Any

NONE = "-"


def rows(header: list[str], lines: list[list[str]], words: int = 1) -> str:
    """A Markdown table; the first `words` columns to the left, the others, numbers, to the right."""
    marks = ["---"] * words + ["---:"] * (len(header) - words)
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


def number(value: float | None, form: str) -> str:
    """As `form` has it, or nothing where there is none."""
    return NONE if value is None else format(value, form)


def span(row: dict[str, Any], form: str = "+.4f") -> str:
    """The interval of a difference."""
    low, high = row["miou_low"], row["miou_high"]
    return NONE if low is None else f"{low:{form}} to {high:{form}}"


def share(value: float) -> str:
    """In percent."""
    return f"{100 * value:.0f} %"


def took(row: dict[str, Any]) -> list[str]:
    """Latency, speedup, GFLOPs."""
    return [f"{row['latency_ms']:.0f} ms", f"{row['speedup']:.2f}x", f"{row['gflops']:.1f}"]


TOOK = ["latency", "speedup", "GFLOPs"]


def moved(row: dict[str, Any]) -> list[str]:
    """Feature errors: the mean picture and the worst."""
    return [f"{row['relative_error']:.3f}", f"{row['relative_error_worst']:.3f}"]


MOVED = ["feature error, mean", "worst image"]

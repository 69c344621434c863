"""Tables of bulk encoding: killed and resumed, and beside a plain loop."""

from typing import Any

from benchmarks.tables.markdown import rows, setting, share


def once(result: dict[str, Any]) -> str:
    """Each source and driver: what is in the sink after kills at random moments."""
    header = [
        "source", "driver", "kills", "pictures", "in the sink", "once", "quarantined",
        "equal to the bit",
    ]  # fmt: skip
    lines = [
        [
            row["source"], row["driver"], str(row["kills"]), str(row["pictures"]), str(row["rows"]),
            "yes" if row["rows"] == row["distinct"] else "NO", str(row["quarantined"]),
            "yes" if row["bitwise_equal"] else "NO",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    p = result["protocol"]
    sizes = ", ".join(f"{height}x{width}" for height, width in p["sizes"])
    return setting(p, f"scenes of {sizes}, {p['broken']} broken") + "\n\n" + rows(header, lines)


def rates(result: dict[str, Any]) -> str:
    """Rates, memory, and the speedup that is left end to end."""
    p, against, ray = result["protocol"], result["compare_dense"], result["ray"]
    count = p["pictures"]
    turns = len(result["seconds"]["loop"])
    peaks = " and ".join(f"{peak:.0f} MB" for peak in result["peak_mb"].values())
    lines = [
        [f"rate, of the plain loop's ({turns} turns)", share(result["share_of_loop"])],
        ["peak memory of the process, plain loop and encoder", peaks],
        ["sparse over dense, models alone", f"{result['speedup_of_models']:.2f}x"],
        ["sparse over dense, end to end", f"{against['speedup']:.2f}x"],
        ["pictures a second, sparse", f"{against['sparse_pictures_per_s']:.2f}"],
    ]
    maps = result["maps"]
    lines.append(
        [
            f"dense maps of {maps['pictures']} pictures at 1024 px, written and said before",
            f"{maps['written_mb']:.0f} MB and {maps['said_mb']:.0f} MB",
        ]
    )
    if ray:
        name = f"Ray, {ray['actors']} actors with a thread each: rate, of as many plain loops'"
        lines.append([name, share(ray["share_of_loops"])])
    return setting(p, f"{count} scenes of {p['sizes']}") + "\n\n" + rows(["", ""], lines)

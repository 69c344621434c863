"""What labels probably are where they are not classes, and what is odd about those that are."""

from sparsight.errors import LabelsError
from sparsight.tasks.numbers import not_a_class
from sparsight.tasks.survey import Seen
from sparsight.tasks.table import HOW

HALF, MOST = 0.5, 0.95  # of the pixels: beyond, void and a class are worth a word


def check(found: list[Seen], classes: int, void: int) -> None:
    """Refuse labels that are no classes, with the likeliest reason, or of one class alone."""
    for seen in found:
        named = seen.named(void)
        strange = {k: n for k, n in named.items() if not 0 <= k < classes}
        if strange:
            number = max(strange, key=lambda k: strange[k])
            said = not_a_class(str(seen.file_of[number]), number, classes, void)
            raise LabelsError(f"{said}: {_hint(seen, strange, classes, void)}")
    for seen in found:
        named, total = seen.named(void), seen.pixels.total()
        if len(named) < 2:
            left = f"only class {next(iter(named))} is" if named else "no class is"
            hidden = 1 - sum(named.values()) / total
            raise LabelsError(
                f"{left} in the labels of {seen.split}, and {100 * hidden:.0f} % of the pixels are void "
                f"(label {void}), so there is nothing to tell apart: set --void (-1: none is void), "
                "--classes or --table"
            )


def _hint(seen: Seen, strange: dict[int, int], classes: int, void: int) -> str:
    """What labels out of range probably are, and what to do."""
    named = seen.named(void)
    if seen.pixels.keys() <= {0, 255}:
        return "black and white masks are for --task salient, or give --table with lines 0 0 and 255 1"
    if min(named) == 1 and max(named) == classes:
        trimap = " (or, if these are trimaps with 3 as border, --void 3)" if classes == 3 else ""
        return f"classes seem to begin at 1, so set --classes {classes + 1}{trimap}"
    if max(strange) > 255:
        return "so large numbers are of instances, and wanted is the class alone of each pixel"
    if seen.has_room and not strange.keys() & seen.areas:
        return (
            "such labels are nowhere 3 pixels wide and high, as if resized with interpolation or kept "
            "in a lossy format: make them again by the nearest pixel"
        )
    if any(number in seen.palettes for number in strange):
        return f"it is a place in a palette; if its colours are meant, give --table: {HOW}"
    return "set --classes and --void, or give --table of what the labels mean"


def notes(found: list[Seen], void: int) -> list[str]:
    """What is to be known before figures on these labels are believed."""
    said = []
    for seen in found:
        shares, named = seen.shares(void), seen.named(void)
        if shares["void"] > HALF:
            said.append(
                f"{100 * shares['void']:.0f} % of the pixels of {seen.split} are void (label {void}), "
                "and count for nothing: if that is a class, set --void and --classes"
            )
        largest = max(named, key=lambda k: named[k])
        share = named[largest] / sum(named.values())
        if share > MOST:
            said.append(
                f"class {largest} has {100 * share:.1f} % of the labelled pixels of {seen.split}: pixel "
                "accuracy says little"
            )
        if named.keys() == {1, 2, 3}:
            said.append(
                f"the labels of {seen.split} are 1, 2 and 3, as those of trimaps: if 3 is the border, "
                "set --void 3"
            )
        thin = sorted(named.keys() - seen.areas)
        if seen.has_room and thin:
            said.append(
                f"nowhere 3 pixels wide and high in {seen.split}, as after interpolation or a lossy "
                f"format: classes {thin}"
            )
    return said

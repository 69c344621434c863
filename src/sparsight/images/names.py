"""Names of files as people can read them: a name may hold bytes that are no text, or a line break."""

import unicodedata
from os import PathLike, fsdecode

UNSHOWN = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, line and paragraph ends
LONGEST, HEAD = 90, 30  # characters of a name in a sentence


def shown(name: "str | PathLike[str]") -> str:
    """`name` with a replacement character for whatever cannot be printed or written as UTF-8."""
    return "".join(
        "\ufffd" if unicodedata.category(character) in UNSHOWN else character
        for character in fsdecode(name)
    )


def short_name(name: "str | PathLike[str]") -> str:
    """`shown`, short enough for a sentence: the middle of a long name is left out."""
    text = shown(name)
    return text if len(text) <= LONGEST else f"{text[:HEAD]}…{text[HEAD - LONGEST + 1 :]}"

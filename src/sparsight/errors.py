"""What can go wrong, by name.  Every message says what was wrong, where, and what to do about it."""

LONGEST = 300  # characters of a message; a longer one loses the middle of its paths, then its own
SHORTEST, CUT = 40, "..."  # characters that are left of a path, and what stands for the others


class SparsightError(Exception):
    """Base of every error the package raises on purpose; the command line shows its text alone."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class ArgumentError(SparsightError, ValueError):
    """An argument or a setting is not what it has to be; nothing was changed."""


class MissingPackageError(SparsightError, ImportError):
    """A package is not installed that this needs; the message says which extra brings it."""


class UnsupportedModelError(SparsightError):
    """The model is none of the supported families; nothing was changed."""


class PlanError(SparsightError):
    """A plan or run folder is damaged, or does not fit this model; nothing was changed."""


class HubError(SparsightError):
    """A hub has no such run, refuses it or cannot be reached; nothing was changed."""


class ImagesError(SparsightError):
    """There is no usable image, or a resolution does not fit the model."""


class LabelsError(SparsightError):
    """Labels or masks do not fit their pictures, or the options given for them."""


class NotFiniteError(SparsightError):
    """NaN or infinity appeared in a model's features."""


def one_line(text: str) -> str:
    """A message as one line of at most `LONGEST` characters that any terminal can show.

    Names of files may hold line breaks and bytes that are no text, and be long.
    """
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text.strip())
    for word in sorted(shown.split(), key=len, reverse=True):  # paths first: their middle says least
        over = len(shown) - LONGEST
        if over <= 0 or len(word) <= SHORTEST:
            break
        room = max(SHORTEST, len(word) - over) - len(CUT)
        shown = shown.replace(word, word[: room // 4] + CUT + word[room // 4 - room :], 1)
    if len(shown) <= LONGEST:
        return shown
    end = LONGEST // 3
    return f"{shown[: LONGEST - end - len(CUT)]}{CUT}{shown[-end:]}"


def brief(text: object, most: int = 150) -> str:
    """`text`, mostly the message of another library, in one line, cut at a word where it grows long."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 4].rsplit(" ", 1)[0] + " ..."

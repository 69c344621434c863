"""What names a run on the hub: `hub:OWNER/NAME[@REVISION]`."""

import os
import re
from dataclasses import dataclass
from typing import Self

from sparsight.errors import HubError

PREFIX = "hub:"
PART = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
REPO = re.compile(rf"{PART}/{PART}", re.ASCII)
UNSOUND = re.compile(r"--|\.\.|\.git$")
LONGEST_PART = 96  # characters of OWNER or NAME, as the hub has it


@dataclass(frozen=True)
class Reference:
    """A repository, and a commit, tag or branch of it."""

    repo: str
    revision: str | None = None

    @classmethod
    def read(cls, text: str, revision: str | None = None) -> Self:
        """From `[hub:]OWNER/NAME[@REVISION]`; HubError if it is not like that."""
        repo, at, own = text.removeprefix(PREFIX).partition("@")
        sound = REPO.fullmatch(repo) and not UNSOUND.search(repo) and bool(at) == bool(own)
        if not sound or max(map(len, repo.split("/"))) > LONGEST_PART:
            raise HubError(
                f"{text[:120]!r} names no repository of the hub: write OWNER/NAME or OWNER/NAME@REVISION"
            )
        if own and revision and own != revision:
            raise HubError(f"{text} names one revision and revision={revision!r} another: give one")
        revision = own or revision or None
        if revision and (not re.fullmatch(r"[\w./-]+", revision) or ".." in revision):
            raise HubError(f"{revision!r} is no revision of {repo}: give a commit, a tag or a branch")
        return cls(repo, revision)

    def __str__(self) -> str:
        return PREFIX + self.repo + (f"@{self.revision}" if self.revision else "")


def referred(place: "str | os.PathLike[str]") -> Reference | None:
    """The run on the hub that `place` names, or None if it is a folder here."""
    text = os.fspath(place)
    return Reference.read(text) if text.startswith(PREFIX) else None

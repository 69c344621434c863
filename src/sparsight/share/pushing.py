"""A run to the hub: shown before, and nothing that the user did not mean."""

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sparsight.arguments import checked
from sparsight.errors import HubError
from sparsight.hub import Reference, referred
from sparsight.share.contents import CARD_FILE, contents_of
from sparsight.share.upload import upload


@dataclass(frozen=True)
class Pushed:
    """What was sent, or would be; `commit` is its address on the hub, None of a dry run."""

    repo: str
    files: dict[str, int]  # bytes by name
    card: str
    notes: tuple[str, ...]
    commit: str | None


@checked
def push(
    run: "str | PathLike[str]",
    repo: str,
    base: str | None = None,
    private: bool = False,
    with_pictures: bool = False,
    dry_run: bool = False,
    say: Callable[[str], Any] = lambda text: None,
) -> Pushed:
    """Upload a run folder to `repo` (OWNER/NAME) on the hub, as a delta beside its base model.

    `base`           MODEL as others have it, with its commit: `hf:OWNER/NAME@COMMIT` or
                     `timm:NAME@COMMIT`; the run's own unless given
    `private`        make the repository private; refused if it is there already and public
    `with_pictures`  upload the pictures of the report too, and the names of pictures and classes
    `dry_run`        say what would be sent, and do not speak to the hub
    `say`            gets each file with its bytes before anything is sent

    Sent are the plan, its tensors, the figures that were measured, and a card made of them.  The hub
    knows you by `hf auth login` or HF_TOKEN; no token is taken or kept here.  Raises SparsightError.
    """
    target = Reference.read(repo)
    if target.revision:
        raise HubError(
            f"{repo} names a revision, and a run is pushed to the main branch: give OWNER/NAME"
        )
    if reference := referred(run):
        raise HubError(f"{reference} is on the hub already: give a run folder of this machine")
    with TemporaryDirectory(prefix="sparsight-push-") as place:
        contents = contents_of(Path(run), target.repo, Path(place), base, with_pictures)
        files = contents.files
        for name, size in files.items():
            say(f"{size:>12,} bytes  {name}")
        kind = "private" if private else "public, unless it is private already"
        say(f"{sum(files.values()):>12,} bytes in {len(files)} files to {target.repo} ({kind})")
        for note in contents.notes:
            say(f"note: {note}")
        card = (contents.folder / CARD_FILE).read_text(encoding="utf-8")
        commit = None if dry_run else upload(contents, target.repo, private)
    return Pushed(target.repo, files, card, tuple(contents.notes), commit)

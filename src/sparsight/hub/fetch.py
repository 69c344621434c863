"""The files of a run on the hub, in the cache: only those that are asked for.

This is `snapshot_download` and not `ModelHubMixin.from_pretrained`.  The mixin reads config.json and
everything else in requests of their own, which may be of different commits; it takes a folder here in
place of the repository, if one happens to have its name; and it stands for a whole model, where a run is
what is changed in one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sparsight.errors import HubError
from sparsight.hub.digests import CONFIG_FILE
from sparsight.hub.reference import Reference
from sparsight.hub.sentences import told

PLAN_FILE = "plan.json"
NEEDED = (CONFIG_FILE, PLAN_FILE, "weights-*.safetensors")  # nothing that could be run


def fetch(what: Reference, also: Sequence[str] = ()) -> Path:
    """The snapshot of a run in the hub's cache, fetched as far as it is not there.

    `also` are patterns of further files.  Raises HubError.
    """
    with told(what.repo, what.revision), _quiet():
        folder = Path(_snapshot(what, [*NEEDED, *also]))
    if not (folder / PLAN_FILE).exists():
        hint = "; a model is given as MODEL, hf:OWNER/NAME" if (folder / CONFIG_FILE).exists() else ""
        raise HubError(f"{what} holds no run of sparsight: there is no {PLAN_FILE} in it{hint}")
    return folder


def _snapshot(what: Reference, patterns: list[str]) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return snapshot_download(what.repo, revision=what.revision, allow_patterns=patterns)
    except (HfHubHTTPError, LocalEntryNotFoundError):
        raise
    except OSError as error:  # a cache that cannot be written may still hold it
        try:
            return snapshot_download(
                what.repo, revision=what.revision, allow_patterns=patterns, local_files_only=True
            )
        except OSError:
            raise error from None


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars for files of a few kilobytes, as the caller had it afterwards."""
    from huggingface_hub import utils

    silent = utils.are_progress_bars_disabled()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        if not silent:
            utils.enable_progress_bars()

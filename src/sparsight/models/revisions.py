"""NAME@REVISION: which weights on the hub, so that the same are found again when the name moves on."""

from pathlib import Path
from typing import Any

from sparsight.errors import SparsightError

COMMIT = 40  # hexadecimal digits


def split(name: str) -> tuple[str, str | None]:
    """The name, and the revision if there is one."""
    plain, _, revision = name.partition("@")
    return plain, revision or None


def is_commit(revision: str | None) -> bool:
    """A commit stays what it is; a branch or a tag moves."""
    return revision is not None and len(revision) == COMMIT and not revision.strip("0123456789abcdef")


def pinned(name: str) -> str:
    """A repository on the hub, with the commit that was just loaded; as given if that is not known."""
    repo, revision = split(name)
    if is_commit(revision):
        return name
    commit = _cached_commit(repo, revision or "main")
    return f"{repo}@{commit}" if commit else name


def pinned_timm(name: str, model: Any) -> str:
    """The same for a model of timm with pretrained weights, which knows where they came from."""
    plain, revision = split(name)
    repo = (getattr(model, "pretrained_cfg", None) or {}).get("hf_hub_id")
    if is_commit(revision) or not repo:
        return name
    _, commit = split(pinned(repo))
    return f"{plain}@{commit}" if is_commit(commit) else name


def timm_repo(name: str) -> str:
    """Where on the hub the weights of one of timm's models are; SparsightError if they are not there."""
    from sparsight._torchvision import repair

    repair()
    from timm.models import get_pretrained_cfg

    plain = name.removeprefix("hf-hub:").removeprefix("hf_hub:")
    if plain != name:
        return plain
    try:
        repo = getattr(get_pretrained_cfg(name), "hf_hub_id", None)
    except RuntimeError:
        repo = None
    if not repo:
        raise SparsightError(f"timm:{name} has no weights on the hub, so it has no revisions there")
    return str(repo)


def _cached_commit(repo: str, revision: str) -> str | None:
    """What a branch or tag was when the cache last saw it."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE) / ("models--" + repo.replace("/", "--"))
    try:
        commit = (cache / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError, ValueError):
        return None
    return commit if is_commit(commit) else None

"""The hub's cache as it lies on the disk, where every file of a snapshot is a link.

models--OWNER--NAME/refs/main             the commit that a branch was
models--OWNER--NAME/snapshots/COMMIT/...  links: ../../blobs/ETAG
models--OWNER--NAME/blobs/ETAG            the contents, or a link to where repositories share them:
blobs/XX/HASH                             the contents
"""

from pathlib import Path


def _repository(folder: Path) -> Path | None:
    """The repository of the cache that a folder is a snapshot of, None if it is none."""
    for snapshots in folder.absolute().parents:
        if snapshots.name == "snapshots" and (snapshots.parent / "blobs").is_dir():
            return snapshots.parent
    return None


def is_snapshot(folder: Path) -> bool:
    """Whether a folder is a part of the cache, which no one but the hub's client writes into."""
    return _repository(folder) is not None


def may_link(path: Path) -> bool:
    """Whether a file of a snapshot is a link to one of the cache's own blobs, and to nowhere else."""
    repository, target = _repository(path.parent), path.resolve()
    if repository is None:
        return False
    own, shared = (repository / "blobs").resolve(), (repository.parent / "blobs").resolve()
    return target.parent == own or target.parent.parent == shared

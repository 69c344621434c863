"""One commit to the hub, that has exactly what was shown.

This is `HfApi` and not `ModelHubMixin.push_to_hub`, which makes the repository before it knows whether
there is anything to put in, writes over whatever is there, and leaves what an earlier push had.
"""

from fnmatch import fnmatch

from sparsight import __version__
from sparsight.errors import HubError
from sparsight.hub import PLAN_FILE, told
from sparsight.share.contents import Contents

OURS = (
    PLAN_FILE, "weights-*.safetensors", "measure.json", "evaluate-*.json", "look.safetensors",
    "report.html", "config.json", "README.md",
)  # fmt: skip
ANYBODYS = (".gitattributes", "README.md", "LICENSE*", ".gitignore")  # of a repository just made


def upload(contents: Contents, repo: str, private: bool) -> str:
    """Make the repository unless it is there, and commit; returns the commit's address.

    Raises HubError, with nothing sent, if the repository holds something else than a run.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(library_name="sparsight", library_version=__version__)
    with told(repo):
        there, parent = _there(api, repo, private)
        if there is None:
            api.create_repo(repo, private=private or None)
        new = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=contents.folder / name)
            for name in contents.files
        ]
        gone = [
            CommitOperationDelete(path_in_repo=name)
            for name in there or ()
            if name not in contents.files and _is_one(name, OURS)
        ]
        done = api.create_commit(
            repo, [*new, *gone], commit_message=f"A run of sparsight {__version__}", parent_commit=parent
        )
    return str(done.commit_url)


def _there(api, repo: str, private: bool) -> tuple[list[str] | None, str | None]:
    """The files of the repository and its commit; None if there is no such repository."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = api.model_info(repo)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None, None
    names = [file.rfilename for file in info.siblings or ()]
    foreign = [name for name in names if not _is_one(name, ANYBODYS)]
    if foreign and PLAN_FILE not in names:
        raise HubError(
            f"{repo} holds something else than a run ({foreign[0]}): nothing was sent; take another name"
        )
    if private and not info.private:
        raise HubError(
            f"{repo} is there already and public: nothing was sent; make it private on the hub first"
        )
    return names, info.sha


def _is_one(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)

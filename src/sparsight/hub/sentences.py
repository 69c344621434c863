"""What the hub, the way to it or the cache says when something is wrong, in one sentence each."""

from collections.abc import Iterator
from contextlib import contextmanager

from sparsight.errors import HubError

LOGIN = "log in with: hf auth login (or set HF_TOKEN)"


@contextmanager
def told(repo: str, revision: str | None = None) -> Iterator[None]:
    """Whatever goes wrong in here with the hub's client is raised as HubError."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        sentence = _sentence(error, repo, revision)
        if sentence is None:
            raise
        raise HubError(sentence) from None


def _sentence(error: Exception, repo: str, revision: str | None) -> str | None:
    """None of what is not the hub's; no token is in what is told, as no header is."""
    from huggingface_hub import constants, errors

    endpoint = constants.ENDPOINT
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # of one file
        return _sentence(error.__cause__, repo, revision) or f"the hub did not take {repo}: {error}"
    status = _status(error) or _status(error.__cause__)
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated: ask for access at {endpoint}/{repo}, and {LOGIN}"
    if status in (401, 403) and not isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub does not let you ({status}) at {repo}: {LOGIN} with a token that may do this"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no model {repo} at {endpoint}, or it is private: check the name, or {LOGIN}"
    if isinstance(error, errors.RevisionNotFoundError):
        name = revision or constants.DEFAULT_REVISION
        return f"{repo} has no revision {name!r} (any more): name another"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"the hub is not asked for {repo} while HF_HUB_OFFLINE is set: unset it"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"the hub does not know you: {LOGIN}"
    if constants.is_offline_mode() and isinstance(error, OSError):
        what = f"{repo}@{revision}" if revision else repo
        return (
            f"{what} is not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE keeps from "
            "fetching it: unset it, or fetch it once while online"
        )
    if status is not None:
        return f"the hub answered {status} at {repo}: try again, or see https://status.huggingface.co"
    if _is_of_network(error):
        return f"{endpoint} cannot be reached, and the cache does not have {repo}: try again later"
    if isinstance(error, OSError):
        why = error.strerror or " ".join(str(error).split())[:100]
        place = constants.HF_HUB_CACHE
        return f"cannot use the hub's cache ({place}): {why}; set HF_HOME to another place"
    return None


def _status(error: BaseException | None) -> int | None:
    """What the hub answered, if it did."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_of_network(error: BaseException) -> bool:
    """Also where the client wrapped it in an error of its own."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    kinds = (ConnectionError, TimeoutError, HfHubHTTPError, LocalEntryNotFoundError)
    return isinstance(error, kinds) or type(error).__module__.startswith(("httpx", "httpcore"))

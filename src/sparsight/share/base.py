"""What a run was made for: the base model, its repository and revision on the hub, and a fingerprint."""

import hashlib
import re
from dataclasses import dataclass

from sparsight.errors import SparsightError
from sparsight.models.revisions import is_commit, split, timm_repo
from sparsight.plan import Plan

NAMED = re.compile(r"(hf|timm):(?!/|\.|~|local-dir:)[^\s\\]+$")  # timm:local-dir:DIR is a folder


@dataclass(frozen=True)
class Base:
    """None is what is not known of it."""

    source: str | None  # MODEL, as the command line takes it
    repo: str | None
    revision: str | None
    fingerprint: str | None  # of the facts and weights by which `apply` knows the model

    @property
    def note(self) -> str | None:
        """What is missing, for who pushes; None if nothing is."""
        if self.source == "demo":
            return None
        if self.source is None:
            return (
                "the run does not say which model on the hub it is of: name it with --base "
                "hf:OWNER/NAME@COMMIT or timm:NAME@COMMIT"
            )
        if not is_commit(self.revision):
            return f"{self.source} names no commit, and may move on: pin it with --base NAME@COMMIT"
        return None


def base_of(plan: Plan, given: str | None = None) -> Base:
    """The base of a plan; `given` is a MODEL to name in its place.

    A folder of this machine says nothing to others, and is not told.
    """
    if given not in (None, "demo") and not NAMED.match(str(given)):
        raise SparsightError(
            f"--base {given!r} is no model that others have: give hf:OWNER/NAME@COMMIT or "
            "timm:NAME@COMMIT"
        )
    source = given or plan.source
    if source != "demo" and not NAMED.match(source or ""):
        source = None
    repo = revision = None
    if source and source != "demo":
        kind, _, name = source.partition(":")
        name, revision = split(name)
        try:
            repo = timm_repo(name) if kind == "timm" else name
        except SparsightError:  # weights that are not on the hub
            repo = None
    return Base(source, repo, revision, fingerprint(plan))


def fingerprint(plan: Plan) -> str | None:
    """SHA-256 of what `apply` compares; None of a plan that fits any model."""
    return hashlib.sha256(plan.model.model_dump_json().encode()).hexdigest() if plan.model else None

"""Runs on the hub, as far as reading goes: what `hub:OWNER/NAME[@REVISION]` names, and its files.

What is uploaded, and what is not, is in `sparsight.share`.
"""

from sparsight.hub.cache import is_snapshot, may_link
from sparsight.hub.digests import CONFIG_FILE, check_digests, digest
from sparsight.hub.fetch import PLAN_FILE, fetch
from sparsight.hub.reference import Reference, referred
from sparsight.hub.sentences import told

__all__ = [
    "CONFIG_FILE", "PLAN_FILE", "Reference", "check_digests", "digest", "fetch", "is_snapshot",
    "may_link", "referred", "told",
]  # fmt: skip

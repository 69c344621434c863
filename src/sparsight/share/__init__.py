"""Runs to the hub and from it: what is uploaded, what never is, and the card that says what it is worth.

contents.py  which files of a run, cleaned of what is the user's own (clean.py, leaks.py)
card.py      README.md, from the run's own measurements
upload.py    one commit to the hub
pushing.py   all of it; pulling.py is the way back
"""

from sparsight.share.pulling import pull
from sparsight.share.pushing import Pushed, push

__all__ = ["Pushed", "pull", "push"]

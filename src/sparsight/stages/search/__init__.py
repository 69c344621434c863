"""Search: the settings that are fastest for what they cost in quality, under a budget."""

from sparsight.stages.search.budget import Budget
from sparsight.stages.search.run import search
from sparsight.stages.search.trials import Search

__all__ = ["Budget", "Search", "search"]

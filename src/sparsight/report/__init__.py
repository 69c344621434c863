"""The page every run ends in: reads run folders, never a model."""

from sparsight.report.page import write_report

__all__ = ["write_report"]

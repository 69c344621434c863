"""Density peaks: tokens of the grid merge into the densest of their surroundings, once."""

from sparsight.methods.density_peaks.config import DensityPeaks

__all__ = ["DensityPeaks"]

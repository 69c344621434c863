"""The stages: calibrate, select, distil, predict, measure; `optimize` runs all but the last."""

"""The stages of the pipeline: calibrate, select, distil, predict, reuse, measure; `optimize` runs them."""

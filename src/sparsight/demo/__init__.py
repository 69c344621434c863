"""The embedded encoder, the scenes it was trained on, and the pipeline run on them."""

"""Commands that measure: see README.md beside this file."""

from sparsight._torchvision import repair

repair()  # before any of them imports timm

"""`python -m sparsight`."""

from sparsight.cli import main

main()

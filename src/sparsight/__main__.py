"""`python -m sparsight`, and the program `sparsight`."""

import sys


def main() -> None:
    """Run the command line, which an extra brings."""
    from sparsight.extras import missing

    try:
        from sparsight.cli import main as run
    except ImportError as error:
        sys.exit(f"sparsight: {missing(error) or error}")
    run()


if __name__ == "__main__":
    main()

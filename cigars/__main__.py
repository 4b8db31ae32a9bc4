"""`python -m cigars` and the console script."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from cigars.cli import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()

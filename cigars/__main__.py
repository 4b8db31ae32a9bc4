"""`python -m cigars` and the console script."""

import os
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit with its code."""
    from cigars.cli import main as run

    code = run()
    if code == INTERRUPTED:  # threads may still compute, and taking the interpreter down beneath them can crash
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()

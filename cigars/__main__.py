"""`python -m cigars` and the console script."""

import os
import signal
import sys

INTERRUPTED, TERMINATED = 130, 143


def main() -> None:
    """Run the command line and exit with its code; what ends a job, as `timeout` and Slurm do, ends it as Ctrl-C does, with code 143."""
    from cigars.cli import main as run

    asked = []  # to end

    def end(number: int, _: object) -> None:
        asked.append(signal.signal(number, signal.SIG_DFL))  # a second one ends it at once
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    code = run()
    if code == INTERRUPTED:  # threads may still compute, and taking the interpreter down beneath them can crash
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(TERMINATED if asked else code)
    sys.exit(code)


if __name__ == "__main__":
    main()

"""Put a finished run into the package: is it whole, at most 10 MB, and does the copy give the same posterior?

usage: python benchmarks/ship_pretrained.py RUN NAME
"""

from __future__ import annotations

import sys

from cigars.pretrained import ship


def main(arguments: list[str]) -> int:
    """Exit code; what is wrong is one line on standard error."""
    if len(arguments) != 2:
        print("usage: python benchmarks/ship_pretrained.py RUN NAME", file=sys.stderr)
        return 2
    try:
        folder = ship(*arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1024**2
    print(f"{arguments[1]}: {size:.1f} MB in {folder}; `cigars infer --pretrained {arguments[1]} CATALOGUE -o p.nc` uses it")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Memory between what is kept is given back, on Linux with glibc, where it is not by itself."""

import platform

import psutil
import pytest

from cigars.memory import gives_back

PIECE, PIECES = 65_000, 2000  # below what the allocator asks the system for one by one, 128 KiB


def every_other():
    """Half of many pieces, so that each of the others leaves a hole."""
    return [b"x" * PIECE for _ in range(PIECES)][::2]


def growth(function):
    """Resident memory that a call leaves, relative to what it returns; holes of before are emptied first."""
    gives_back(lambda: None)()
    process = psutil.Process()
    before = process.memory_info().rss
    kept = function()
    return (process.memory_info().rss - before) / sum(len(piece) for piece in kept)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_holes_are_given_back():
    """Of 16 pages of a piece, one holds its neighbours' ends, too: 1/16 of the holes stays."""
    assert growth(every_other) == pytest.approx(2, abs=0.2)
    assert growth(gives_back(every_other)) == pytest.approx(1 + 1 / 16, abs=0.1)


def test_values_and_errors_pass():
    assert gives_back(divmod)(7, 4) == (1, 3)
    with pytest.raises(ZeroDivisionError):
        gives_back(divmod)(7, 0)

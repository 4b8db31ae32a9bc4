"""Where the optional specification data lie: beside the repository, never in it."""

from pathlib import Path

import pytest

_FOLDER = Path(__file__).resolve().parents[2] / "shared"
SHARED: Path | None = _FOLDER if (_FOLDER / "data").is_dir() else None
needs_shared = pytest.mark.skipif(SHARED is None, reason=f"needs the specification data in {_FOLDER.name}/ beside the repository")


def shared_data(name: str) -> Path:
    """Path of a specification data file, for tests marked `needs_shared`."""
    if SHARED is None:
        pytest.skip(f"needs {name} of the specification data beside the repository")
    return SHARED / "data" / name

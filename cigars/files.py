"""Writing a file so that a reader sees the old content, the new content or nothing, never a part of it.

The new content goes to a temporary file in the same folder (same file system), is flushed to disk, and takes its place by
`os.replace`, which POSIX makes atomic (rename(2)); then the folder is flushed, so that what was reported written outlasts a power cut.
"""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["FileError", "check_writable", "refuse_existing", "replacing", "write_json"]


class FileError(ValueError):
    """A file that cannot be read or written; the message is one line for people, whatever the names in the file contain."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


@contextmanager
def replacing(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path with the suffix of `path`; on a clean exit it becomes `path`, on any error it is removed.

    Raises:
        FileError: `path` exists and `overwrite` is false, its folder is missing, or the system refuses the write.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    temporary = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=f".partial{path.suffix}")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _flush(temporary)
        refuse_existing(path, overwrite)
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes it private
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise FileError(explain(path, error)) from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def check_writable(path: str | Path, overwrite: bool = False) -> None:
    """Raise FileError where `replacing` would: before the work whose result the file shall hold, which would be lost."""
    path = Path(path)
    refuse_existing(path, overwrite)
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise FileError(explain(path, error)) from None


def write_json(path: str | Path, content: Mapping[str, Any], overwrite: bool = False) -> None:
    """Write JSON: named tuples as objects, arrays as lists, and numbers that are not finite, which JSON has not, as null.

    Raises FileError as `replacing`.
    """
    with replacing(path, overwrite) as temporary:
        temporary.write_text(json.dumps(_valid(content), indent=1, ensure_ascii=False) + "\n")


def _valid(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {name: _valid(leaf) for name, leaf in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(leaf) for leaf in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def explain(path: Path, error: OSError) -> str:
    """One line on why `path` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path}: no space left on the device; nothing was written: free some space or name another folder"
    if error.errno == errno.ENOENT and not path.parent.is_dir():
        return f"{path}: folder {str(path.parent)!r} does not exist; make it first"
    return f"{path}: cannot write: {error.strerror or error}"


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise FileError where `path` is a folder, or a file that may not be replaced."""
    if path.is_dir():
        raise FileError(f"{path}: expected a file, got a folder")
    if path.exists() and not overwrite:
        raise FileError(f"{path}: exists already and is left as it is; name another file or allow overwriting (--overwrite)")


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems refuse, and have no need of it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

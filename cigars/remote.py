"""Whole files on any file system that fsspec knows, with errors in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cigars.files import FileError, replacing

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["asked", "file_system", "put"]


def file_system(url: str | Path) -> tuple[AbstractFileSystem, str]:
    """File system of a folder or address, and its path there; raises FileError where its protocol is unknown, not installed or refuses."""
    from fsspec.core import url_to_fs

    fs, root = asked(str(url), url_to_fs, str(url), to="reach it")
    return fs, root.rstrip("/")


def asked(name: str, function: Callable[..., Any], *arguments: Any, to: str = "read", **options: Any) -> Any:
    """What a file system answers about `name`; raises FileError where it refuses `to` do it."""
    try:
        return function(*arguments, **options)
    except Exception as error:  # of the system, or the library behind it: of botocore's, some have no other base
        raise FileError(f"{name}: cannot {to}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}") from None


def put(fs: AbstractFileSystem, path: str, content: bytes) -> None:
    """Write a file whole or not at all: locally through a temporary name, on object stores because that is how they write."""
    asked(path, fs.makedirs, path.rsplit("/", 1)[0], exist_ok=True, to="write")
    if "file" not in fs.protocol:
        asked(path, fs.pipe_file, path, content, to="write")
        return
    with replacing(path, overwrite=True) as temporary:
        temporary.write_bytes(content)

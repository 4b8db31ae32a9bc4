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
    """File system of a folder or address, and its path there; raises FileError where the protocol is unknown or not installed."""
    from fsspec.core import url_to_fs

    try:
        fs, root = url_to_fs(str(url))
    except (ImportError, ValueError) as error:
        raise FileError(f"{url}: cannot reach it: {error}") from None
    return fs, root.rstrip("/")


def asked(name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a file system answers about `name`; raises FileError where it refuses."""
    try:
        return function(*arguments, **options)
    except OSError as error:
        raise FileError(f"{name}: cannot read: {error.strerror or error}") from None


def put(fs: AbstractFileSystem, path: str, content: bytes) -> None:
    """Write a file whole or not at all: locally through a temporary name, on object stores because that is how they write."""
    try:
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if "file" not in fs.protocol:
            fs.pipe_file(path, content)
            return
        with replacing(path, overwrite=True) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise FileError(f"{path}: cannot write: {error.strerror or error}") from None

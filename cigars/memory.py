"""Memory that is free, given back to the system.

The allocator of glibc keeps what is freed between what is not, for requests to come, in an arena for each of many threads. A process that
trains again and again grows by it although nothing more is in use (`benchmarks/soak.py`). `malloc_trim(3)` returns its whole pages.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["gives_back"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def gives_back(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, after which, its own variables gone, free memory is given back; other allocators than glibc's are left alone."""

    @functools.wraps(function)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        finally:
            _trim()

    return wrapped


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)

"""The next batch in the making while a network works on this one.

A thread suffices: simulating and reading release the interpreter, and on an accelerator the thread alone waits for the batch. On CPUs
simulator and network both use every core, and to have them do so at once costs a tenth of the time (`benchmarks/overlap.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["ahead", "one_ahead"]

Batch = TypeVar("Batch")


def ahead(device: str | torch.device, end: int) -> int:
    """The `end` of `one_ahead` for networks on a device: 0, nothing ahead, on a CPU."""
    return 0 if torch.device(device).type == "cpu" else end


@contextmanager
def one_ahead(make: Callable[[int], Batch], end: int) -> Iterator[Callable[[int], Batch]]:
    """`make` as a function that, asked for number n, also starts on n + 1 if that is below `end`; one at a time, in a thread.

    Args:
        make: a function of the number alone, so that what is made does not depend on when. What it raises reaches whoever asks
            for that number, and nobody where no one does.
        end: one more than the largest number to be made before it is asked for.

    Yields:
        The function; the thread ends with the context, after what it is making.
    """
    pool, started = ThreadPoolExecutor(1, "one-ahead"), dict[int, Future[Batch]]()

    def ask(number: int) -> Batch:
        mine = started.pop(number, None) or pool.submit(make, number)
        started.clear()  # another order than expected: made in vain
        if number + 1 < end:
            started[number + 1] = pool.submit(make, number + 1)
        return mine.result()

    try:
        yield ask
    finally:
        pool.shutdown(cancel_futures=True)

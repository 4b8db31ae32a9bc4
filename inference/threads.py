"""Work on a CPU shared out by items or tasks rather than by the rows of each matrix: what fits into a cache is not worth splitting."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from .batches import Packed, select

__all__ = ["beside", "by_surveys", "one_core", "side_by_side"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_core() -> Iterator[None]:
    """Torch on one core: threads that meet after every operation on a small matrix take longer than one alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def beside(work: Callable[[Callable[[], None]], Result], apart: bool) -> Iterator[Callable[[], Result]]:
    """Work done while the body does something else; yields a function that waits for its result, to be called in the body.

    Args:
        work: called with a function that raises CancelledError once the body has failed, which is then waited for no longer.
        apart: on a thread of its own, each with one core; otherwise only when the result is asked for.
    """
    if not apart:
        yield lambda: work(lambda: None)
        return
    failed = threading.Event()

    def go_on() -> None:
        if failed.is_set():
            raise CancelledError

    with one_core(), ThreadPoolExecutor(1) as pool:  # a number of threads set by either holds for the matrix products of both
        result = pool.submit(work, go_on)
        try:
            yield result.result
        except BaseException:  # Ctrl-C too
            failed.set()
            raise


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The function of each item, in order, by as many threads as torch has, each with one core."""
    threads = torch.get_num_threads()
    with one_core(), ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def by_surveys(function: Callable[[Packed], Tensor], packed: Packed) -> Tensor:
    """A function of packed surveys, row by row a survey; on a CPU each thread takes a run of them with its share of the objects."""
    threads = min(torch.get_num_threads(), len(packed.lengths))
    if packed.lengths.device.type != "cpu" or threads < 2:
        return function(packed)
    before = packed.lengths.cumsum(0) - packed.lengths
    # an empty survey at the end begins behind the last object, which no thread has
    owner = (before * threads // max(int(packed.lengths.sum()), 1)).clamp(max=threads - 1)
    runs = [rows for k in range(threads) if len(rows := (owner == k).nonzero()[:, 0])]
    return torch.cat(list(side_by_side(lambda rows: function(select(packed, rows)), runs)))

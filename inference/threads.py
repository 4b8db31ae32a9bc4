"""Work on a CPU shared out by items rather than by the rows of each matrix: what fits into a cache is not worth splitting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from .batches import Packed, select

__all__ = ["by_surveys", "side_by_side"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The function of each item, in order, by as many threads as torch has, each with one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            waiting: deque[Future[Result]] = deque()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)


def by_surveys(function: Callable[[Packed], Tensor], packed: Packed) -> Tensor:
    """A function of packed surveys, row by row a survey; on a CPU each thread takes a run of them with its share of the objects."""
    threads = min(torch.get_num_threads(), len(packed.lengths))
    if packed.lengths.device.type != "cpu" or threads < 2:
        return function(packed)
    before = packed.lengths.cumsum(0) - packed.lengths
    owner = before * threads // max(int(packed.lengths.sum()), 1)
    runs = [rows for k in range(threads) if len(rows := (owner == k).nonzero()[:, 0])]
    return torch.cat(list(side_by_side(lambda rows: function(select(packed, rows)), runs)))

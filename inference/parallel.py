"""Several processes of one training: each takes its share of every batch, and gradients are means over all (torch DistributedDataParallel).

Started by `torchrun`, which sets RANK and WORLD_SIZE. A process that is alone takes everything, and nothing here changes what it does.
All must see the run folder: process 0 writes it, parts of a table are written by whoever made them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["from_first", "joined", "mean_loss", "processes", "rank", "share", "span", "wait_for_all"]

Value = TypeVar("Value")


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def joined(device: str | torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, by nccl between GPUs and gloo otherwise; without torchrun nothing happens."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    # torchrun ends the others where one fails, so that nobody waits for it: a part of a table may take as long as it needs
    dist.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo", timeout=timedelta(days=1))
    try:
        yield
    finally:
        dist.destroy_process_group()


def share(rows: Tensor) -> Tensor:
    """This process's share of the rows of a batch."""
    return rows[rank() :: processes()]


def span(total: int) -> tuple[int, int]:
    """First and number of this process's share of `total` surveys; raises ValueError where they cannot be shared evenly."""
    if total % processes():
        raise ValueError(f"training.batch_surveys: expected a multiple of the {processes()} processes, got {total}; change either")
    each = total // processes()
    return rank() * each, each


def wait_for_all() -> None:
    """Return when every process has come here."""
    if processes() > 1:
        dist.barrier()


def from_first(make: Callable[[], Value]) -> Value:
    """What process 0 makes, for all of them; where it raises a ValueError, a message for people, all do."""
    if processes() == 1:
        return make()
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = make()
        except ValueError as error:
            box[1] = error
    dist.broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    return box[0]


class _Loss(nn.Module):
    """A loss as a forward pass, whose gradients DistributedDataParallel knows how to share."""

    def __init__(self, module: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, *arguments: Any) -> Tensor:
        return self.loss(*arguments)


def mean_loss(module: nn.Module, loss: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The mean of a loss over the items of all processes: a tensor whose gradients add up to those of the mean, and its value.

    Args:
        module: what is trained, the same in all processes; process 0's weights are taken.
        loss: of the module, one value an item; processes may have different numbers of items.
    """
    if processes() == 1:

        def alone(*arguments: Any) -> tuple[Tensor, Tensor]:
            value = loss(*arguments).mean()
            return value, value.detach()

        return alone
    # a static graph: some weights, as of an encoder beside its head, never have a part in the loss
    shared = DistributedDataParallel(_Loss(module, loss), static_graph=True)

    def together(*arguments: Any) -> tuple[Tensor, Tensor]:
        values = shared(*arguments)
        sums = torch.stack([values.detach().sum(), torch.full((), len(values), dtype=values.dtype, device=values.device)])
        dist.all_reduce(sums)
        return values.sum() * (processes() / sums[1]), sums[0] / sums[1]  # gradients are averaged over processes

    return together

"""A small training that one or several processes do; run as a script, it writes what this process has seen: `FOLDER [STEPS]`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from cigars.files import FileError
from inference import parallel
from inference.train import Settings, optimise, shuffled

DATA = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
TARGET = DATA @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]]) + 0.1
TRAINED = 384


class Network(nn.Module):
    """With a part that the loss does not use, as the encoder while the head is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 1))
        self.unused = nn.Linear(2, 2)


def train(folder: Path | None = None, batch: int = 33, stop: int | None = None, mean_of_means: bool = False) -> tuple[dict, Network]:
    """Train on a linear problem: history and network; `stop` interrupts there as Ctrl-C does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(parallel.rank())  # process 0's weights are those of all
        net = Network()
    rows = shuffled(TRAINED, batch, seed=3)

    def batches(step: int) -> tuple[torch.Tensor]:
        if step == stop:
            raise KeyboardInterrupt
        return (rows(step),)

    def loss(i: torch.Tensor) -> torch.Tensor:
        each = (net.used(DATA[i]) - TARGET[i]).square().sum(-1)
        return each.mean()[None] if mean_of_means else each

    def validate() -> float:
        return float((net.used(DATA[TRAINED:]) - TARGET[TRAINED:]).square().mean())

    history = optimise(net, loss, batches, validate, Settings(96, 12, 1e-2), folder and folder / "training.pt")
    return asdict(history) | {"seconds": 0.0}, net


def refusal() -> None:
    raise FileError(f"refused by process {parallel.rank()}")


def main(folder: Path) -> None:
    with parallel.joined("cpu"):
        mine = folder / str(parallel.rank())
        whole, net = train(mine / "whole")
        try:
            train(mine / "broken", stop=53)
        except KeyboardInterrupt:
            resumed, again = train(mine / "broken")
        try:
            said = str(parallel.from_first(refusal))
        except FileError as error:
            said = str(error)
        seen = {
            "said": said,
            "processes": parallel.processes(),
            "whole": whole,
            "resumed": resumed,
            "same": all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True)),
            "wrong": train(mean_of_means=True)[0],
            "weights": [p.tolist() for p in net.parameters()],
            "share": shuffled(TRAINED, 33, seed=3)(0).tolist(),
            "files": sorted(p.name for p in mine.rglob("*.pt")),
            "span": parallel.span(64),
        }
        (folder / f"{parallel.rank()}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Does the local posterior gain from the summary of the whole survey, beside the data of the object and Θ? Expected: nothing.

Given Θ the objects are independent, so the rest of the survey says nothing more of one of them; a network might still profit. Two
local flows with the same seed, objects and steps, one with the whitened summary of its survey as a further input, are compared on
held-out surveys. Objects and summaries are those that a training left in its run folder.

usage: python benchmarks/local_condition.py RUN [--objects 200000] [--passes 6] [--output benchmarks/local_condition.json]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from common import write_result
from torch import Tensor, nn

from cigars.schema import Observations
from inference.batches import Packed, join
from inference.embedding import ResidualMLP
from inference.local import Conditions, LocalEstimator, local_marginals, local_values
from inference.model import load_run
from inference.priors import Prior
from inference.stages import LOCAL_RATE, random_hiding, unpack
from inference.standardise import Whitening
from inference.train import Settings, load_checkpoint, optimise, shuffled

HELD = 60  # surveys
BATCH = 1024


class Informed(LocalEstimator):
    """A local flow that also sees what is put into `beside`, [object, column]."""

    def __init__(self, *args: Any, columns: int) -> None:
        super().__init__(*args)
        self.objects = ResidualMLP(self.standardiser.features + columns, 128, self.size * self.hidden + self.rank)
        self.beside = torch.empty(0, columns)

    def conditions(self, observations: Observations) -> Conditions:
        known, mean, spread = self._spectroscopic(observations)
        hidden = self.objects(torch.cat([self.standardiser(observations), self.beside], -1))
        return Conditions(hidden, torch.where(known, mean, 0.0), torch.where(known, spread.log(), 0.0))


def stored(run: Path) -> tuple[Tensor, Packed]:
    """Summaries of the surveys of a training, and the objects that were kept of each."""
    parts = [load_checkpoint(p) for p in sorted((run / "checkpoints").glob("summaries-*.pt"))]
    if not parts:
        raise ValueError(f"run folder {run}: expected the checkpoints of its training, got none; train again without removing them")
    return torch.cat([p["summary"] for p in parts]), join([unpack(p["objects"]) for p in parts])


def train(net: LocalEstimator, objects: Packed, summary: Tensor, held: int, passes: int) -> float:
    """Best held-out loss of a local flow, in nats an object."""
    values, theta = local_values(objects.latents), objects.theta.repeat_interleave(objects.lengths, 0)
    observations, rows = objects.observations, shuffled(len(values) - held, BATCH, 3)
    test = random_hiding(_cut(observations, slice(0, held)), 0.1, 0.5, torch.Generator().manual_seed(2))

    def loss(y: Tensor, o: Observations, t: Tensor, s: Tensor) -> Tensor:
        if isinstance(net, Informed):
            net.beside = s
        return net.loss(y, o, t)

    def batch(step: int) -> tuple[Tensor, Observations, Tensor, Tensor]:
        i = rows(step) + held
        return values[i], random_hiding(_cut(observations, i), 0.1, 0.5), theta[i], summary[i]

    def validate() -> float:
        parts = [slice(i, min(i + 4096, held)) for i in range(0, held, 4096)]
        return float(torch.cat([loss(values[p], _cut(test, p), theta[p], summary[p]) for p in parts]).mean())

    every = (len(values) - held) // BATCH
    return optimise(net, loss, batch, validate, Settings(passes * every, every, LOCAL_RATE, patience=passes, seed=1)).best


def _cut(observations: Observations, rows: Any) -> Observations:
    return Observations(*(leaf[rows] for leaf in observations))


def main() -> None:
    """Train both, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--objects", type=int, default=200_000)
    parser.add_argument("--passes", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    table, objects = stored(arguments.run)
    surveys = int((objects.lengths.cumsum(0) < arguments.objects).sum()) + 1
    kept = int(objects.lengths[:surveys].sum())
    objects = objects._replace(
        observations=_cut(objects.observations, slice(0, kept)), latents=type(objects.latents)(*(v[:kept] for v in objects.latents)),
        theta=objects.theta[:surveys], lengths=objects.lengths[:surveys],
    )  # fmt: skip
    held, trained = int(objects.lengths[:HELD].sum()), load_run(arguments.run)
    white = Whitening.fit(table[HELD:])(table[:surveys])
    summary = white.repeat_interleave(objects.lengths, 0)
    reference, prior = Prior(local_marginals(local_values(objects.latents))), trained.prior
    losses = {}
    for name, columns in (("object and Θ", 0), ("object, Θ and the summary of its survey", summary.shape[1])):
        torch.manual_seed(0)
        bands = objects.observations.mag.shape[-1]
        net: nn.Module = Informed(reference, prior, bands, columns=columns) if columns else LocalEstimator(reference, prior, bands)
        net.standardiser.fit(objects.observations)  # type: ignore[union-attr,operator]
        losses[name] = train(net, objects, summary, held, arguments.passes)  # type: ignore[arg-type]
        print(f"{name:<44} held-out loss {losses[name]:.3f} nats an object", flush=True)
    found = {"objects": kept - held, "held_out": held, "passes": arguments.passes, "loss": losses}
    write_result(arguments.output, str(__doc__).splitlines()[0], found)


if __name__ == "__main__":
    main()

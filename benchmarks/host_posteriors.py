r"""How well does a run recover redshifts and hosts, and how much does the light of the supernova help?

On fresh mocks at the fiducial Θ, each inferred as a catalogue would be: NMAD, outliers (> 0.15) and bias of Δz/(1+z), rms of the posterior
means and that over the widths stated, pulls, and those of a draw in place of the truth (they scatter by more than 1 where right posteriors
have long tails), and a Kolmogorov-Smirnov test of the probability integral transforms of every unknown, all objects together.
The objects of a mock share the errors of Θ, so that their transforms depend on each other, and at one Θ alone no posterior owes uniform
ones. So the test is made at the true Θ too, and on one object of each of many surveys from the prior, each with draws of its own survey's
posterior of Θ: these transforms are independent, and uniform if the joint posterior is right.
Beside it photometric redshifts of the same objects from host magnitudes alone: a random forest, a neural spline flow, both trained on
`--objects` simulated ones, and the run itself with the light hidden.

usage: python benchmarks/host_posteriors.py RUN [--mocks 10] [--draws 200] [--objects 400000] [--surveys 10000] [--output FILE]
RUN of host_posteriors.json: cigars train benchmarks/limit_box.toml -o RUN
RUN of host_posteriors_shipped.json: cigars/pretrained_runs/lsst, with --surveys 0
RUN of host_posteriors_cigars1.json (published files E, B and D): the same with --set hosts.backend=emulator --set hosts.emulator_file=E
--set hosts.bands_file=B --set 'hosts.bands=["u","g","r","i","z","y"]' --set selection.detection=table --set selection.detection_file=D
--set hosts.effective_hosts=3e5 --set training.encoder=moments
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result

STREAM = "host-posteriors"
FEWEST_STEPS, PASSES, BATCH = 6000, 8, 1024  # of the flow on magnitudes: passes as the local flow of limit_box.toml


def mocks(config: Any, count: int) -> Any:
    """Packed fresh surveys at the fiducial Θ."""
    from cigars.schema import FIDUCIAL
    from cigars.surveys import survey_source
    from inference.batches import join, pack

    source = survey_source(config, STREAM, FIDUCIAL)
    return join([pack(source(i, 1), tuple(config.marginals)) for i in range(count)])


def drawn(trained: Any, packed: Any, draws: int, at_truth: bool = False) -> np.ndarray:
    """Joint draws [draw, object, unknown] of every mock, one after another; `at_truth` draws the objects at the true Θ."""
    from inference.batches import select
    from inference.posterior import GlobalPosterior, LocalPosterior

    parts, local = [], LocalPosterior(trained)
    for k in range(len(packed.lengths)):
        one = select(packed, [k])
        theta = one.theta.expand(draws, -1) if at_truth else GlobalPosterior(trained).sample(draws, one, seed=k)[:, 0]
        parts.append(local.sample(one.observations, theta, seed=k).numpy())
    return np.concatenate(parts, 1)


def from_prior(trained: Any, config: Any, surveys: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Joint draws [draw, object, unknown] and truths of one random object of each of many fresh surveys of the prior."""
    import torch

    from cigars.surveys import survey_source
    from inference.batches import pack, select, subset
    from inference.local import local_values
    from inference.posterior import GlobalPosterior, LocalPosterior

    source, batch = survey_source(config, f"{STREAM}-prior"), config.training.batch_surveys
    posterior, local, parts, truths = GlobalPosterior(trained), LocalPosterior(trained), [], []
    for first in range(0, surveys, batch):
        packed = pack(source(first, batch), trained.names)
        theta = posterior.sample(draws, packed, seed=first)
        one = subset(packed, 1, torch.Generator().manual_seed(first))
        for k in range(min(batch, surveys - first)):
            parts.append(local.sample(select(one, [k]).observations, theta[:, k], seed=first + k).numpy())
        truths.append(local_values(one.latents).double().numpy())
    return np.concatenate(parts, 1), np.concatenate(truths)[:surveys]


def hidden(packed: Any) -> Any:
    """The surveys without supernova light and spectroscopic redshifts: what a photometric redshift code sees."""
    import torch

    from inference.batches import hide

    every = torch.ones(len(packed.observations.m), dtype=torch.bool)
    return packed._replace(observations=hide(packed.observations, None, every, every))


def redshifts(z: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """NMAD, outliers, bias, worst of Δz/(1+z)."""
    from cigars.report.statistics import redshift_statistics

    s = redshift_statistics(z, truth)
    return {"nmad": s.nmad, "outliers": s.outliers, "bias": s.bias, "worst": float(np.abs((z - truth) / (1 + truth)).max())}


def judged(draws: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """rms of the posterior mean, over the widths stated, the pulls, and the KS test of the PIT, with its distance from uniform."""
    from scipy import stats

    from cigars.report.statistics import error_ratio, pulls

    mean, pull = draws.mean(0), -pulls(draws, truth)
    rank = (draws < truth).sum(0) + np.random.default_rng(0).uniform(size=len(truth))  # ranks made continuous
    test = stats.kstest(rank / (len(draws) + 1), "uniform")
    return {
        "rms": float(np.sqrt(np.mean((mean - truth) ** 2))), "error_ratio": error_ratio(draws, truth),
        "pull_mean": float(pull.mean()), "pull_sd": float(pull.std()),
        "pull_sd_of_draws": float(pulls(draws[1:], draws[0]).std()),
        "ks_distance": float(test.statistic), "ks_p": float(test.pvalue),
    }  # fmt: skip


def training_objects(config: Any, count: int) -> Any:
    """Fresh objects from the prior, as the run was trained on."""
    from cigars.surveys import survey_source
    from inference.batches import join, pack

    source, parts, have = survey_source(config, f"{STREAM}-training"), [], 0
    while have < count:
        parts.append(pack(source(16 * len(parts), 16), tuple(config.marginals)))
        have += len(parts[-1].observations.m)
    return hidden(join(parts))


def magnitudes(packed: Any) -> np.ndarray:
    """One magnitude and the colours of each object."""
    mag = packed.observations.mag.numpy()
    return np.column_stack([mag[:, mag.shape[1] // 2], mag[:, :-1] - mag[:, 1:]])


def forest(x: np.ndarray, z: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Redshifts by scikit-learn's random forest."""
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(60, min_samples_leaf=3, max_features=0.7, n_jobs=-1, random_state=0).fit(x, z).predict(new)


def flow(x: np.ndarray, z: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Posterior-mean redshifts by a neural spline flow (zuko) on magnitudes."""
    import torch
    import zuko

    from inference.train import Settings, optimise, shuffled

    torch.manual_seed(0)
    mean, sd = x.mean(0), x.std(0)
    u, t, v = (torch.tensor(a, dtype=torch.float32) for a in ((x - mean) / sd, (z - z.mean()) / z.std(), (new - mean) / sd))
    net = zuko.flows.NSF(1, x.shape[1], transforms=2, bins=16, hidden_features=(128, 128, 128))
    held, rows = len(u) // 20, shuffled(len(u) - len(u) // 20, BATCH, 1)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        i = rows(step) + held
        return t[i, None], u[i]

    def loss(y: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return -net(c).log_prob(y)

    steps = max(PASSES * len(u) // BATCH, FEWEST_STEPS)
    optimise(net, loss, batch, lambda: float(loss(t[:held, None], u[:held]).mean()), Settings(steps, steps // 10, 2e-3, patience=10))
    with torch.no_grad():
        drawn = torch.cat([net(c).sample((200,)).mean(0)[:, 0] for c in v.split(4096)])
    return drawn.double().numpy() * z.std() + z.mean()


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--mocks", type=int, default=10)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--objects", type=int, default=400_000)
    parser.add_argument("--surveys", type=int, default=10_000, help="of the prior, one object of each; 0 leaves them out")
    parser.add_argument("--exposure", type=float, default=1.0, help="of all surveys, relative to the configured size")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    from cigars.runs import run_config
    from cigars.schema import LOCALS
    from inference.local import local_values
    from inference.model import load_run

    config, trained = run_config(arguments.run).updated(**{"size.exposure": (arguments.exposure,) * 2}), load_run(arguments.run)
    packed = mocks(config, arguments.mocks)
    truth, start = local_values(packed.latents).double().numpy(), time.monotonic()
    draws = drawn(trained, packed, arguments.draws).astype(np.float64)
    seconds = time.monotonic() - start
    rows: dict[str, Any] = {
        "redshifts": {"joint posterior": redshifts(draws[..., 0].mean(0), truth[:, 0])},
        "unknowns": {name: judged(draws[..., k], truth[:, k]) for k, name in enumerate(LOCALS)},
    }
    given = drawn(trained, packed, arguments.draws, at_truth=True).astype(np.float64)
    rows["unknowns at the true Θ"] = {name: judged(given[..., k], truth[:, k]) for k, name in enumerate(LOCALS)}
    if arguments.surveys:
        joint, own = from_prior(trained, config, arguments.surveys, arguments.draws)
        rows["unknowns, one object of each survey of the prior"] = {n: judged(joint[..., k], own[:, k]) for k, n in enumerate(LOCALS)}
    dark = drawn(trained, hidden(packed), arguments.draws)[..., 0].astype(np.float64)
    rows["redshifts"]["the same without supernova light"] = redshifts(dark.mean(0), truth[:, 0])
    if arguments.objects:
        objects = training_objects(config, arguments.objects)
        x, z, new = magnitudes(objects), objects.latents.z.double().numpy(), magnitudes(packed)
        for name, code in (("random forest on magnitudes", forest), ("flow on magnitudes", flow)):
            began = time.monotonic()
            rows["redshifts"][name] = redshifts(code(x, z, new), truth[:, 0]) | {"seconds": time.monotonic() - began}
    for title, group in rows.items():
        print(title)
        for name, values in group.items():
            print(f"{name:<36}" + "  ".join(f"{k} {v:.4g}" for k, v in values.items()), flush=True)
    found = {"run": config.name, "mocks": arguments.mocks, "objects": len(truth), "draws": arguments.draws, "inference_s": seconds, **rows}
    write_result(arguments.output, str(__doc__).splitlines()[0], found)


if __name__ == "__main__":
    main()

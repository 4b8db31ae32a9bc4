r"""Does a trained global posterior reach the information limit, and is it calibrated?

On 20 mocks at the fiducial Θ: mean √det of the (Ω_m, Ω_Λ) covariance, widths, pulls and their joint χ² by the covariance of the draws (as
large as the number of parameters where the likelihood is normal and no prior counts), beside the widths published for one mock of the same
size (Karchev+25; forward model and size as in `lsst` and `lsst-16k`) and the linear limit of the learned score: with T the survey's
score at the fiducial Θ and its number N, the information is G^T Cov(T)^{-1} G, G = dE[T]/dΘ by central differences of the simulator
with common random numbers, Cov(T) by its objects one by one, plus the prior's. It is that of this score: a better one could know more,
and a posterior that reads more than T can be below it. On fresh surveys of the run's own prior: ranks, coverage, TARP, and the mean pull
of those whose posterior mean is that of the mocks.

usage: python benchmarks/information_limit.py RUN [--size 1] [--surveys 500] [--mocks 20] [--output benchmarks/limit.json]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result

__all__ = ["calibrate", "fiducial_widths", "information", "linear_limit", "packed_surveys"]

PUBLISHED = {  # standard deviations at N = 1,600 and at N = 16,000
    "Om0": (0.102, 0.032), "Ode0": (0.159, 0.052), "dtd_logA": (0.0175, 0.0065), "dtd_slope": (0.045, 0.0156), "M0": (0.053, 0.0137),
    "sigma_int": (0.0088, 0.0026), "alpha": (0.0062, 0.0017), "beta": (0.063, 0.018), "alpha_c": (0.0030, 0.0009),
    "mass_step": (0.051, 0.015), "mass_step_loc": (None, 0.107), "gamma_Z": (0.052, 0.015), "gamma_age": (0.0060, 0.0017),
}  # fmt: skip
DRAWS = 1000


def packed_surveys(config: Any, stream: str, count: int, theta: Any = None, batch: int = 16) -> Any:
    """Surveys of a stream of their own, packed."""
    from cigars.surveys import survey_source
    from inference.batches import join, pack

    source = survey_source(config, stream, theta)
    return join([pack(source(i, min(batch, count - i)), tuple(config.marginals)) for i in range(0, count, batch)])


def _sampled(trained: Any, packed: Any, draws: int) -> Any:
    import torch

    from inference.batches import select
    from inference.posterior import GlobalPosterior

    posterior, count = GlobalPosterior(trained), len(packed.lengths)
    return torch.cat([posterior.sample(draws, select(packed, range(i, min(i + 32, count))), seed=i) for i in range(0, count, 32)], 1)


def fiducial_widths(trained: Any, packed: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Mean width, spread of the pulls and √det(Ω_m, Ω_Λ) over mocks at the fiducial Θ."""
    from cigars.schema import FIDUCIAL

    draws = _sampled(trained, packed, DRAWS).numpy()
    width = draws.std(0)
    off = draws.mean(0) - np.array([getattr(FIDUCIAL, k) for k in names])
    pull = off / width
    chi2 = [float(one @ np.linalg.solve(np.cov(draws[:, s].T), one)) for s, one in enumerate(off)]
    area = [float(np.linalg.det(np.cov(draws[:, s, :2].T)) ** 0.5) for s in range(draws.shape[1])]
    return {
        "sqrt_det": float(np.mean(area)), "sqrt_det_error": float(np.std(area) / len(area) ** 0.5), "mocks": len(area),
        "chi2": float(np.mean(chi2)), "chi2_error": float(np.std(chi2) / len(chi2) ** 0.5),
        "mean": dict(zip(names, draws.mean((0, 1)).tolist(), strict=True)),
        "width": dict(zip(names, width.mean(0).tolist(), strict=True)),
        "pull_mean": dict(zip(names, pull.mean(0).tolist(), strict=True)),
        "pull_sd": dict(zip(names, pull.std(0, ddof=1).tolist(), strict=True)),
    }  # fmt: skip


def linear_limit(trained: Any, config: Any, widths: dict[str, float], surveys: int) -> dict[str, Any]:
    """Widths from the information of the learned score and N at the fiducial Θ, prior included.

    The objects of a survey are a Poisson process, so that the covariance of a sum over them is the expected sum of products: one survey
    has some 1,600 terms of it, and noise is left in the slopes alone.
    """
    import torch

    from cigars.schema import FIDUCIAL, Globals
    from inference.batches import select

    one, names = trained.summary, tuple(config.marginals)
    at = one.score.standardise(torch.tensor([[getattr(FIDUCIAL, k) for k in names]]))

    def statistic(**changes: float) -> tuple[np.ndarray, np.ndarray]:
        """Score and number of each survey [survey, column], and the covariance of such a row [column, column]."""
        packed = packed_surveys(config, "limit", surveys, Globals(**{**FIDUCIAL._asdict(), **changes}))
        rows, products = [], 0.0
        for i in range(0, surveys, 32):
            part = select(packed, range(i, min(i + 32, surveys)))
            score = one.of_objects(part, at.expand(len(part.lengths), -1)).double()
            score = torch.cat([score, torch.ones_like(score[:, :1])], 1)
            products = products + (score.T @ score).numpy() / surveys
            rows.append(torch.stack([of_survey.sum(0) for of_survey in score.split(part.lengths.tolist())]).numpy())
        return np.concatenate(rows), np.asarray(products)

    (_, covariance), slopes = statistic(), []
    for k in names:
        step = 0.7 * widths[k]
        (up, _), (down, _) = (statistic(**{k: getattr(FIDUCIAL, k) + s * step}) for s in (1, -1))
        slopes.append((up - down) / (2 * step))
    slope, prior = np.stack(slopes, 1), np.diag(1 / trained.prior.variance.numpy())

    def limit(rows: np.ndarray) -> np.ndarray:
        return np.linalg.inv(information(covariance, slope[rows]) + prior)

    every, generator = limit(np.arange(surveys)), np.random.default_rng(0)
    # half of the surveys, without replacement: a sample with repetitions would multiply the noise of a slope by itself
    areas = [np.linalg.det(limit(generator.permutation(surveys)[: surveys // 2])[:2, :2]) for _ in range(100)]
    return {
        "sqrt_det": float(np.linalg.det(every[:2, :2]) ** 0.5), "surveys": surveys,
        "sqrt_det_error": float(np.std(np.sqrt(np.maximum(areas, 0)))),
        "width": dict(zip(names, np.sqrt(np.diag(every)).tolist(), strict=True)),
    }  # fmt: skip


def information(covariance: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Fisher information [parameter, parameter] of a statistic, without the bias that the noise of its slopes gives.

    The square of a noisy slope is too large by its noise: slopes of one half of the surveys are multiplied by those of the other.

    Args:
        covariance: of the statistic [column, column]; columns that others give already count once.
        slope: its derivative in each parameter, survey by survey [survey, parameter, column].
    """
    scale = np.sqrt(np.diag(covariance))
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    # the score of the amplitude is the same for all objects: N has it already
    known = values > 1e-7 * values.max()
    whitened = (slope / scale) @ (vectors[:, known] / np.sqrt(values[known]))
    product = whitened[::2].mean(0) @ whitened[1::2].mean(0).T
    return (product + product.T) / 2


def pulls_at(draws: np.ndarray, theta: np.ndarray, mean: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean pull, and its error, of surveys of the prior whose posterior mean is a given one, by linear regression on that mean.

    The right posterior has zero here whatever the prior, unlike the mean pull at a given truth.
    """
    pull = (draws.mean(0) - theta) / draws.std(0)
    design = np.concatenate([np.ones((len(theta), 1)), (draws.mean(0) - mean) / width], 1)
    coefficients, *_ = np.linalg.lstsq(design, pull, rcond=None)
    left = (pull - design @ coefficients).std(0, ddof=design.shape[1])
    return coefficients[0], left * np.linalg.inv(design.T @ design)[0, 0] ** 0.5


def calibrate(trained: Any, packed: Any, names: tuple[str, ...], mocks: dict[str, Any]) -> dict[str, Any]:
    """Ranks, coverage of the 68 % interval, TARP and held-out loss on surveys of the run's prior, and pulls of those like the mocks."""
    from inference.diagnostics import calibration, tarp
    from inference.posterior import GlobalPosterior

    draws = _sampled(trained, packed, 255)
    result = calibration(draws, packed.theta)
    inside = np.abs((draws < packed.theta).float().mean(0).numpy() - 0.5) < 0.34
    band = tarp(draws, packed.theta)
    inside_each = bool(((band.credibility >= band.low) & (band.credibility <= band.high)).all())
    loss = -GlobalPosterior(trained).log_prob(packed.theta[None], packed)[0].double().numpy()
    spread = np.log(np.sqrt(trained.prior.variance.numpy())).sum()
    there = ([mocks[key][name] for name in names] for key in ("mean", "width"))
    pull, error = pulls_at(draws.double().numpy(), packed.theta.double().numpy(), *map(np.array, there))
    return {
        "pull_at_mocks": dict(zip(names, pull.tolist(), strict=True)),
        "pull_at_mocks_error": dict(zip(names, error.tolist(), strict=True)), "pull_at_mocks_chi2": float(((pull / error) ** 2).sum()),
        "surveys": len(packed.lengths), "sbc_p_value": dict(zip(names, result.p_value.tolist(), strict=True)),
        "rank_spread": dict(zip(names, result.spread.tolist(), strict=True)), "coverage_68": float(inside.mean()),
        "bins_outside_99": int(((result.counts < result.low) | (result.counts > result.high)).sum()), "bins": int(result.counts.size),
        "tarp_deviation": band.deviation, "tarp_p_value": band.p_value, "tarp_inside_99_at_each_level": inside_each,
        "held_out_nats": float(loss.mean() - spread), "held_out_nats_error": float(loss.std() / len(loss) ** 0.5),
    }  # fmt: skip


def cost(run: Path, config: Any) -> dict[str, Any]:
    """Surveys that a training simulated, without those of its local regressor, and its seconds since it was last resumed."""
    from cigars.runs import read_calibration
    from inference.one_step import CENTRE

    t = config.training
    pilots = (1 + t.refinements + CENTRE) * t.pilot_surveys if t.encoder == "score" else 0
    _, seconds = read_calibration(run)
    return {"surveys": t.surveys + pilots + t.validation_surveys + t.calibration_surveys, "seconds": seconds, "ensemble": t.ensemble}


def main() -> None:
    """Measure a run and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--size", type=float, default=1.0, help="exposure of the fiducial mocks relative to the run's size")
    parser.add_argument("--surveys", type=int, default=500)
    parser.add_argument("--mocks", type=int, default=20)
    parser.add_argument("--limit-surveys", type=int, default=256, help="per point of the linear limit; 0 leaves it out")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("information_limit.json"))
    arguments = parser.parse_args()
    from cigars.runs import run_config
    from cigars.schema import FIDUCIAL, Globals
    from inference.model import load_run

    trained, config = load_run(arguments.run), run_config(arguments.run)
    names = tuple(trained.names)
    size = config.size.model_copy(update={"exposure": (arguments.size, arguments.size)})
    at_size = config.model_copy(update={"size": size})
    mocks = fiducial_widths(trained, packed_surveys(at_size, "limit-mocks", arguments.mocks, Globals(**FIDUCIAL._asdict())), names)
    limit = linear_limit(trained, at_size, mocks["width"], arguments.limit_surveys) if arguments.limit_surveys else None
    fresh = calibrate(trained, packed_surveys(config, "limit-fresh", arguments.surveys), names, mocks)
    published = 1 if config.size.expected_supernovae and config.size.expected_supernovae * arguments.size > 5000 else 0
    print(f"sqrt det (Om0, Ode0): {mocks['sqrt_det']:.2e}" + (f", linear limit {limit['sqrt_det']:.2e}" if limit else ""))
    for k in names:
        bound = f"{limit['width'][k]:.4f}" if limit else "-"
        pull = f"{mocks['pull_mean'][k]:+.2f} ± {mocks['pull_sd'][k]:.2f}"
        said = PUBLISHED.get(k, (None, None))[published]
        rank = f"rank spread {fresh['rank_spread'][k]:.3f}  SBC p {fresh['sbc_p_value'][k]:.3f}"
        print(f"{k:14s} width {mocks['width'][k]:.4f}  limit {bound}  published {said}  pull {pull}  {rank}")
    print({k: v for k, v in fresh.items() if not isinstance(v, dict)})
    numbers = {
        "name": config.name,
        "cost": cost(arguments.run, config),
        "exposure": arguments.size,
        "fiducial": mocks,
        "linear_limit": limit,
        "fresh": fresh,
    }
    write_result(arguments.output, "Does the global posterior reach the information limit, calibrated?", numbers)


if __name__ == "__main__":
    main()

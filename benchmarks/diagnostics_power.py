r"""Which check of `inference.checks` catches which fault of a posterior, and how often does it cry wolf?

The posterior of the linear-Gaussian survey (`linear_gaussian.py`, about 20 objects, three parameters) is known. Drawn from as it is and
with faults, 500 surveys at a time, it goes through all checks. A rate is the share of repetitions in which a test's own p-value, corrected
for its parameters, is below the level, and for `family` that in which Holm's rule over all tests rejects any: what `cigars validate` does.
Expected: the exact posterior is refused by the family in at most the level, within the error of the repetitions; each fault of 20 % or
0.2 sd by the family nearly always; wrong correlations by `correlations` and the joint tests, and by no test of single parameters.

usage: python benchmarks/diagnostics_power.py [--repetitions 200] [--local-repetitions 40]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference.checks import Check, joint_checks, judge, marginal_checks
from inference.local_check import local_check

__all__ = ["FAULTS", "Known", "checks", "local_rate", "rates", "states"]

SURVEYS, DRAWS, LEVEL = 500, 399, 0.01
NAMES = ("M0", "alpha", "beta")


class Known(NamedTuple):
    """Truths [survey, parameter] and the exact posterior of each survey: mean and lower Cholesky factor of the covariance."""

    truth: Tensor
    mean: Tensor
    factor: Tensor


Fault = Callable[[Known, torch.Generator], Known]


def scaled(by: float) -> Fault:
    """Widths times a number."""
    return lambda known, _: known._replace(factor=known.factor * by)


def shifted(by: float) -> Fault:
    """Every parameter displaced by a number of its posterior sd."""
    return lambda known, _: known._replace(mean=known.mean + by * torch.linalg.vector_norm(known.factor, dim=-1))


def correlated(by: float) -> Fault:
    """Correlations times a number in [-1, 1], variances as they are."""

    def fault(known: Known, _: torch.Generator) -> Known:
        covariance = known.factor @ known.factor.transpose(1, 2)
        diagonal = torch.diag_embed(covariance.diagonal(dim1=1, dim2=2))
        # the sign of one parameter turned keeps the matrix positive definite, and turns the sign of two correlations of three
        sign = torch.tensor([1.0, -1.0, 1.0], dtype=covariance.dtype) if by < 0 else torch.ones(3, dtype=covariance.dtype)
        turned = sign[:, None] * covariance * sign
        return known._replace(factor=torch.linalg.cholesky(diagonal + abs(by) * (turned - diagonal)))

    return fault


def uneven(by: float) -> Fault:
    """Widths too small by a share in one half of the surveys and too large in the other."""

    def fault(known: Known, generator: torch.Generator) -> Known:
        sign = 2.0 * torch.randint(2, (len(known.truth), 1, 1), generator=generator) - 1
        return known._replace(factor=known.factor * (1 + by * sign))

    return fault


FAULTS: dict[str, Fault] = {
    "exact": lambda known, _: known,
    "10 % too narrow": scaled(0.9), "20 % too narrow": scaled(0.8), "10 % too wide": scaled(1.1), "20 % too wide": scaled(1.2),
    "shifted by 0.1 sd": shifted(0.1), "shifted by 0.2 sd": shifted(0.2),
    "correlations halved": correlated(0.5), "correlations left out": correlated(0.0), "correlations of other sign": correlated(-1.0),
    "widths off by 20 % either way": uneven(0.2), "widths off by 40 % either way": uneven(0.4),
}  # fmt: skip


def states(survey: Any, first: int, count: int = SURVEYS) -> Known:
    """Surveys of a `linear_gaussian.GaussianSurvey` by number, and their exact posteriors."""
    batch = survey(first, count)
    mean, covariance = survey.posterior(batch)
    truth = np.stack([getattr(batch.theta, k) for k in NAMES], -1).astype(float)
    return Known(*(torch.tensor(a) for a in (truth, mean, np.linalg.cholesky(covariance))))


def checks(stated: Known, generator: torch.Generator, draws: int = DRAWS) -> tuple[Tensor, list[Check]]:
    """Draws of the stated posteriors, and all checks but L-C2ST."""
    noise = torch.randn(draws, *stated.mean.shape, generator=generator, dtype=stated.mean.dtype)
    sample = stated.mean + (stated.factor @ noise[..., None])[..., 0]
    delta = torch.linalg.solve_triangular(stated.factor, (stated.truth - stated.mean)[..., None], upper=False)[..., 0]
    seed = int(torch.randint(2**31, (1,), generator=generator))
    found = marginal_checks(sample, stated.truth, NAMES, seed=seed)
    # ln q up to what is the same for all Θ of a survey
    return sample, found + joint_checks(sample, stated.truth, -(noise**2).sum(-1), -(delta**2).sum(-1), seed)


def rates(survey: Any, fault: Fault, repetitions: int, level: float = LEVEL, first: int = 0, surveys: int = SURVEYS) -> dict[str, float]:
    """Share of repetitions in which each test alone, and Holm's rule over all of them, reject."""
    rejected: dict[str, list[bool]] = {}
    for k in range(repetitions):
        generator = torch.Generator().manual_seed(first + k)
        _, found = checks(fault(states(survey, (first + k) * surveys, surveys), generator), generator)
        rows = judge(found, level)
        for row in rows:
            rejected.setdefault(row.worst.test, []).append(row.p_value <= level)
        rejected.setdefault("family", []).append(any(not row.passed for row in rows))
    return {test: float(np.mean(hits)) for test, hits in rejected.items()}


def local_rate(survey: Any, fault: Fault, repetitions: int, level: float = LEVEL, first: int = 0) -> float:
    """Share of repetitions in which L-C2ST rejects at one more survey, of the middle of the prior."""
    rejected = []
    for k in range(repetitions):
        generator = torch.Generator().manual_seed(first + k)
        stated = fault(states(survey, (first + k) * SURVEYS), generator)
        sample, _ = checks(stated, generator)
        middle = int(torch.linalg.vector_norm((stated.mean - stated.mean.mean(0)) / stated.mean.std(0), dim=-1).argmin())
        others = [i for i in range(SURVEYS) if i != middle]
        rejected.append(local_check(sample[:, others], stated.truth[others], sample[:, middle], seed=k).p_value <= level)
    return float(np.mean(rejected))


def main() -> None:
    """Measure, print the table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--local-repetitions", type=int, default=40)
    arguments = parser.parse_args()
    from common import write_result
    from linear_gaussian import GaussianSurvey

    survey, table = GaussianSurvey(20), {}
    for name, fault in FAULTS.items():
        table[name] = rates(survey, fault, arguments.repetitions) | {"L-C2ST": local_rate(survey, fault, arguments.local_repetitions)}
        print(f"{name:30s}", "  ".join(f"{test} {rate:.2f}" for test, rate in table[name].items()), flush=True)
    alarms = {str(level): rates(survey, FAULTS["exact"], arguments.repetitions, level, first=10_000) for level in (0.01, 0.05)}
    print("exact, rates by level:", alarms)
    numbers = {
        "surveys": SURVEYS, "draws": DRAWS, "level": LEVEL, "repetitions": arguments.repetitions,
        "local_repetitions": arguments.local_repetitions, "rejection_rate": table, "false_alarms": alarms,
    }  # fmt: skip
    write_result(Path(__file__).with_suffix(".json"), str(__doc__).splitlines()[0], numbers)


if __name__ == "__main__":
    main()

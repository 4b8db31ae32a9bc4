"""How often does `cigars check` reject a survey that is wrong in a known way, and how often one that is right?

Mocks at the fiducial Θ, unchanged and wronged, are compared with surveys simulated at draws of the posterior of one of them: the
residuals that `cigars check` judges are of statistics given the posterior mean, so that surveys simulated once serve all mocks. Rejected
at level 5 %.

usage: python benchmarks/misspecification_power.py [RUN] [--mocks 40] [--surveys 400] [--output benchmarks/misspecification_power.json]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result

LEVEL = 0.05
ZERO_POINT = 0.03  # mag, in g
CONTAMINATION = 0.05, 1.0, 0.8  # share of core-collapse supernovae, how much fainter, their scatter in mag
QUESTION = "How often is a survey that is wrong in a known way rejected, and how often one that is right?"


def wronged(change: Callable[[dict[str, np.ndarray], Any], None]) -> Callable[[Any, int], Any]:
    """A survey with `change` applied to its observations."""

    def apply(survey: Any, seed: int) -> Any:
        leaves = {k: np.array(v) for k, v in survey.observations._asdict().items()}
        change(leaves, np.random.default_rng(seed))
        return survey._replace(observations=type(survey.observations)(**leaves))

    return apply


def zero_point(o: dict[str, np.ndarray], rng: Any) -> None:
    """Magnitudes in g are off."""
    o["mag"][..., 1] += ZERO_POINT


def core_collapse(o: dict[str, np.ndarray], rng: Any) -> None:
    """Some supernovae are fainter, scatter more and are redder."""
    share, fainter, scatter = CONTAMINATION
    other = rng.uniform(size=o["m"].shape) < share
    o["m"] += np.where(other, fainter + scatter * rng.normal(size=other.shape), 0).astype(np.float32)
    o["c"] += np.where(other, 0.1, 0).astype(np.float32)


def underestimated(o: dict[str, np.ndarray], rng: Any) -> None:
    """Stated host errors are half the true ones."""
    o["mag"] += (3**0.5 * o["mag_err"] * rng.normal(size=o["mag"].shape)).astype(np.float32)


CASES: dict[str, tuple[dict[str, Any], Callable[[Any, int], Any]]] = {
    "right": ({}, wronged(lambda o, rng: None)),
    f"zero point of g off by {ZERO_POINT} mag": ({}, wronged(zero_point)),
    "5 % core-collapse, a magnitude fainter": ({}, wronged(core_collapse)),
    "host errors twice what is stated": ({}, wronged(underestimated)),
    "hosts without nebular emission": ({"hosts.nebular": False}, wronged(lambda o, rng: None)),
    "stellar populations in the other convention": ({"hosts.convention": "fsps"}, wronged(lambda o, rng: None)),
    "dust of the supernova is its host's": ({"supernovae.dust": "host"}, wronged(lambda o, rng: None)),
}


def main() -> None:
    """Simulate once, wrong and judge, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--mocks", type=int, default=40)
    parser.add_argument("--surveys", type=int, default=400)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    from cigars.check import compared, references
    from cigars.config import load_config
    from cigars.pipeline import run_config, survey_source
    from cigars.pretrained import path
    from cigars.schema import FIDUCIAL
    from inference.checks import judge
    from inference.model import load_run

    run = arguments.run or path("lsst")
    config, trained = run_config(run), load_run(run)
    config = config.model_copy(update={"size": config.size.model_copy(update={"exposure": (1.0, 1.0), "capacity": 8192})})
    source = survey_source(config, "misspecification", FIDUCIAL)
    found = references(trained, source(0, 1), config, 1.0, arguments.surveys, 0)
    results = {}
    for name, (settings, change) in CASES.items():
        changed = load_config("lsst", **settings)
        changed = config.model_copy(update={"hosts": changed.hosts, "supernovae": changed.supernovae})
        mock = source if not settings else survey_source(changed, "misspecification", FIDUCIAL)
        tests: dict[str, list[bool]] = {}
        for k in range(1, arguments.mocks + 1):
            checks, _ = compared(found, trained, change(mock(k, 1), k), config, k)
            rows = judge(checks, LEVEL)
            for row in rows:
                tests.setdefault(row.worst.test, []).append(row.p_value <= LEVEL)
            tests.setdefault("any (Holm)", []).append(not all(row.passed for row in rows))
        results[name] = {test: float(np.mean(hits)) for test, hits in tests.items()}
        print(f"{name:45s}", {k: round(v, 2) for k, v in results[name].items()}, flush=True)
        numbers = {"run": config.name, "mocks": arguments.mocks, "surveys": arguments.surveys, "level": LEVEL, "rejected": results}
        write_result(arguments.output, QUESTION, numbers)


if __name__ == "__main__":
    main()

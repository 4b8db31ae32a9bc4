"""What a report is made of: a posterior, the truth of a mock, prior, training and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from cigars.posterior import Posterior
from cigars.schema import LOCALS, Latents, Marginal

__all__ = [
    "FEWEST_RANKS",
    "ReportInputs",
    "calibration_gap",
    "local_parameters",
    "reference_redshift",
    "spread_parameters",
    "training_gap",
]

FEWEST_RANKS = 20
"""Ranks below which a histogram says nothing."""

_EMPTY: Mapping[str, Any] = MappingProxyType({})


class ReportInputs(NamedTuple):
    """Content of a report.

    posterior: draws and catalogue; attributes `config` (JSON), `fingerprint`, `versions` (JSON), `seed`, `created`, `command`.
    truth, theta_true: latents of each object, aligned with the coordinate `object`, and Θ of a mock; None for real data.
    prior: marginal prior of each free parameter.
    cut: whether that is only what training in rounds left of the configured prior.
    curves: stage of training -> {"train": losses, "validation": losses}, one number an epoch, in nats.
    sbc_ranks: [survey, parameter] ranks of the truth among `sbc_draws` posterior draws, columns `sbc_names`; None if not run.
    timings: step -> seconds.
    validation: what `cigars validate` wrote of the run; empty if it has not been run.
    check: what `cigars check` wrote of the catalogue; empty if it has not been run.
    """

    posterior: Posterior
    truth: Latents | None = None
    theta_true: Mapping[str, float] | None = None
    prior: Mapping[str, Marginal] = _EMPTY
    curves: Mapping[str, Mapping[str, Sequence[float]]] = _EMPTY
    sbc_ranks: np.ndarray | None = None
    sbc_draws: int = 0
    sbc_names: tuple[str, ...] = ()
    timings: Mapping[str, float] = _EMPTY
    validation: Mapping[str, Any] = _EMPTY
    check: Mapping[str, Any] = _EMPTY
    cut: bool = False


def spread_parameters(inputs: ReportInputs) -> tuple[str, ...]:
    """Of the free parameters those that differ between draws: all, unless the posterior is a conditional one."""
    return tuple(n for n in inputs.posterior.names if np.ptp(inputs.posterior[n]) > 0)


def local_parameters(inputs: ReportInputs) -> tuple[str, ...]:
    """Per-object quantities that the posterior holds, in schema order."""
    return tuple(name for name in LOCALS if name in inputs.posterior)


def training_gap(inputs: ReportInputs) -> str:
    """Why there is nothing to say about the training; "" where it is at hand."""
    if inputs.posterior.attributes.get("method") == "exact":
        return "no network made this posterior"
    return "" if inputs.curves else "the run that made this posterior was not found; name its folder with --run"


def calibration_gap(inputs: ReportInputs) -> str:
    """Why there is nothing to say about calibration; "" when there are ranks enough."""
    if inputs.sbc_ranks is None:
        return training_gap(inputs) or "simulation-based calibration was not run for this posterior"
    surveys = len(inputs.sbc_ranks)
    return f"{surveys} surveys are too few for rank histograms, which need {FEWEST_RANKS}" if surveys < FEWEST_RANKS else ""


def reference_redshift(inputs: ReportInputs) -> tuple[str, np.ndarray] | None:
    """Redshifts to compare with, [object], NaN where unknown: ("true", z) of a mock, else ("spectroscopic", z); None without any."""
    if inputs.truth is not None:
        return "true", np.asarray(inputs.truth.z, dtype=np.float64)
    z_spec = np.asarray(inputs.posterior.observations.z_spec, dtype=np.float64)
    return ("spectroscopic", z_spec) if np.isfinite(z_spec).any() else None

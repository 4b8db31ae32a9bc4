"""What a report is made of, and how the figures read it: posterior draws, truth, prior, training and calibration.

Everything is plain numpy behind an ArviZ `InferenceData`, so a posterior of any origin can be reported. The `posterior`
group holds the free parameters of `schema.GLOBALS` (chain, draw) and, where the local posterior was sampled, the
per-object quantities of `schema.LOCALS` (chain, draw, object); `observed_data` holds the catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cigars.convergence import convergence
from cigars.posterior import Posterior
from cigars.schema import GLOBALS, LOCALS, Latents, Marginal

if TYPE_CHECKING:
    import arviz

__all__ = [
    "FEWEST_RANKS",
    "ReportInputs",
    "attribute",
    "calibration_gap",
    "effective_draws",
    "free_parameters",
    "global_draws",
    "has_locals",
    "local_draws",
    "local_parameters",
    "observed",
    "parameters",
    "reference_redshift",
    "spread_parameters",
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

    posterior: arviz.InferenceData
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


def free_parameters(inputs: ReportInputs) -> tuple[str, ...]:
    """Global parameters that the posterior holds, in schema order."""
    return tuple(c.name for c in GLOBALS if c.name in inputs.posterior["posterior"])


def spread_parameters(inputs: ReportInputs) -> tuple[str, ...]:
    """Of the free parameters those that differ between draws: all, unless the posterior is a conditional one."""
    return tuple(n for n in free_parameters(inputs) if np.ptp(global_draws(inputs, n)) > 0)


def local_parameters(inputs: ReportInputs) -> tuple[str, ...]:
    """Per-object quantities that the posterior holds, in schema order."""
    return tuple(name for name in LOCALS if name in inputs.posterior["posterior"])


def effective_draws(inputs: ReportInputs) -> float:
    """Number of independent draws that those of the posterior are worth: fewer where chains or weights made them."""
    sizes, chains = inputs.posterior["posterior"].sizes, convergence(inputs.posterior)
    weighted = attribute(inputs, "effective_draws")
    least = min(chains.n_eff.values()) if chains else math.inf
    return min(float(sizes["chain"] * sizes["draw"]), least, float(weighted) if weighted else math.inf)


def has_locals(inputs: ReportInputs) -> bool:
    """Whether redshifts of the objects were sampled."""
    return "z" in inputs.posterior["posterior"]


def global_draws(inputs: ReportInputs, name: str) -> np.ndarray:
    """Posterior draws of a global parameter, chains one after another, shape [draw]."""
    return np.asarray(inputs.posterior["posterior"][name].values, dtype=np.float64).reshape(-1)


def local_draws(inputs: ReportInputs, name: str) -> np.ndarray:
    """Posterior draws of a per-object quantity, shape [draw, object]."""
    values = inputs.posterior["posterior"][name].transpose("chain", "draw", "object").values
    return values.reshape(-1, values.shape[-1])


def observed(inputs: ReportInputs, name: str) -> np.ndarray | None:
    """A catalogue column, shape [object] or [object, band]; None where the catalogue has none."""
    group = getattr(inputs.posterior, "observed_data", None)
    return None if group is None or name not in group else np.asarray(group[name].values)


def attribute(inputs: ReportInputs, name: str) -> str:
    """An attribute of the posterior file as text ("" where absent), looked up on the file and then on its posterior group."""
    for attributes in (inputs.posterior.attrs, inputs.posterior["posterior"].attrs):
        if name in attributes:
            return str(attributes[name])
    return ""


def calibration_gap(inputs: ReportInputs) -> str:
    """Why there is nothing to say about calibration; "" when there are ranks enough."""
    if inputs.sbc_ranks is None:
        return "simulation-based calibration was not run for this posterior"
    surveys = len(inputs.sbc_ranks)
    return f"{surveys} surveys are too few for rank histograms, which need {FEWEST_RANKS}" if surveys < FEWEST_RANKS else ""


def reference_redshift(inputs: ReportInputs) -> tuple[str, np.ndarray] | None:
    """Redshifts to compare with, [object], NaN where unknown: ("true", z) of a mock, else ("spectroscopic", z); None without any."""
    if inputs.truth is not None:
        return "true", np.asarray(inputs.truth.z, dtype=np.float64)
    z_spec = observed(inputs, "z_spec")
    return None if z_spec is None or not np.isfinite(z_spec).any() else ("spectroscopic", z_spec.astype(np.float64))


def parameters(inputs: ReportInputs) -> dict[str, np.ndarray]:
    """Draws of every global parameter of the model, shape [draw] each, whether sampled, fixed or implied by a flat cosmology.

    Raises FileError where the posterior holds no configuration that can be read.
    """
    return Posterior(inputs.posterior).parameters()

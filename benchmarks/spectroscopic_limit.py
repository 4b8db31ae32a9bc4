"""How narrow is the posterior of Θ at 1,600 supernovae whose hosts are known, and with it redshift, mass, metallicity and ages?

One mock at the fiducial Θ under the prior of `lsst`, from a bank of 1e5 effective hosts: widths from the information of light and hosts
(`simulators.spectroscopic`) at the fiducial Θ, with the place of the mass step known. Expected: the published widths from photometry alone
(also one mock) are at or above these, but for the scatter of single mocks. It is no floor for them, only the limit of the supernova light
with its hosts known: host magnitudes, which measure distance where hosts are recognised, are not in it. Draws: spectroscopic_networks.py.

usage: python benchmarks/spectroscopic_limit.py [--number 0]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result

PUBLISHED = {
    "Om0": 0.102, "Ode0": 0.159, "dtd_logA": 0.0175, "dtd_slope": 0.045, "M0": 0.053, "sigma_int": 0.0088, "alpha": 0.0062, "beta": 0.063,
    "alpha_c": 0.0030, "mass_step": 0.051, "gamma_Z": 0.052, "gamma_age": 0.0060,
}  # fmt: skip
"""Standard deviations of Karchev, Trotta & Jimenez (2026) at 1,600 supernovae, from photometry alone."""

PUBLISHED_AREA = 6.8e-3  # √det of the covariance of (Ω_m, Ω_Λ)


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()

    import jax

    from cigars.config import load_config
    from cigars.schema import FIDUCIAL, Observations
    from simulators.hosts import load_bank
    from simulators.spectroscopic import information
    from simulators.survey import draw_surveys, prepare

    config = load_config("lsst", **{"hosts.effective_hosts": 1e5, "size.capacity": 4096})
    simulator = prepare(config, load_bank(config.hosts))
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    survey = jax.device_get(draw_surveys(key, jax.numpy.arange(arguments.number, arguments.number + 1), simulator, config, FIDUCIAL))
    seen = survey.observed[0]
    observations = Observations(*(leaf[0][seen] for leaf in survey.observations))
    numbers: dict[str, Any] = {"objects": int(seen.sum()), "published": {**PUBLISHED, "sqrt_det_Om0_Ode0": PUBLISHED_AREA}}
    still = config.updated(**{"prior.mass_step_loc": {"fixed": FIDUCIAL.mass_step_loc}})
    start = time.monotonic()
    covariance = np.linalg.inv(information(observations, survey.host[0][seen], simulator, still))
    numbers |= {"information": widths(list(still.marginals), covariance), "seconds": time.monotonic() - start}
    write_result(arguments.output, str(__doc__).splitlines()[0], numbers)


def widths(names: list[str], covariance: np.ndarray) -> dict[str, Any]:
    """Standard deviations by name, beside the published ones, and √det of (Ω_m, Ω_Λ)."""
    sd = dict(zip(names, np.sqrt(np.diag(covariance)).tolist(), strict=True))
    for name, value in sd.items():
        print(f"{name:14s} {value:.4f}" + (f"  {value / PUBLISHED[name]:.2f} of the published" if name in PUBLISHED else ""), flush=True)
    dark = np.ix_([names.index("Om0"), names.index("Ode0")], [names.index("Om0"), names.index("Ode0")])
    area = float(np.sqrt(np.linalg.det(covariance[dark])))
    correlation = float(covariance[dark][0, 1] / sd["Om0"] / sd["Ode0"])
    print(f"√det(Ω_m, Ω_Λ) {area:.2e}, published {PUBLISHED_AREA:.1e}", flush=True)
    return {"sd": sd, "sqrt_det_Om0_Ode0": area, "correlation_Om0_Ode0": correlation}


if __name__ == "__main__":
    main()

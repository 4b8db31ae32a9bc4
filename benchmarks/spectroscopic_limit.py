"""How narrow is the posterior of Θ at 1,600 supernovae whose hosts are known, and with it redshift, mass, metallicity and ages?

One mock at the fiducial Θ under the prior of `lsst`, from a bank of 1e5 effective hosts; the likelihood of light, hosts and number with the
hosts given (`simulators.spectroscopic`). Widths from the information of the survey at the fiducial Θ, with the place of the mass step
known, and by NUTS unless --draws is 0. Expected: a floor, so that the published widths from photometry alone (also one mock) are at or
above these, but for the scatter of single mocks.

usage: python benchmarks/spectroscopic_limit.py [--draws 500] [--warmup 400]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--warmup", type=int, default=400)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()

    import jax

    chains = 2
    jax.config.update("jax_num_cpu_devices", min(chains, len(os.sched_getaffinity(0))))

    from cigars.config import load_config
    from cigars.schema import FIDUCIAL, Observations
    from simulators.hosts import load_bank
    from simulators.spectroscopic import count_surface_around, information, sample_spectroscopic
    from simulators.survey import draw_surveys, prepare

    config = load_config("lsst", **{"hosts.effective_hosts": 1e5, "size.capacity": 4096})
    simulator = prepare(config, load_bank(config.hosts))
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    survey = jax.device_get(draw_surveys(key, jax.numpy.arange(arguments.number, arguments.number + 1), simulator, config, FIDUCIAL))
    seen = survey.observed[0]
    observations = Observations(*(leaf[0][seen] for leaf in survey.observations))
    numbers: dict[str, Any] = {"objects": int(seen.sum()), "published": {**PUBLISHED, "sqrt_det_Om0_Ode0": PUBLISHED_AREA}}
    still = config.updated(**{"prior.mass_step_loc": {"fixed": FIDUCIAL.mass_step_loc}})
    with measured(numbers, "information"):
        covariance = np.linalg.inv(information(observations, survey.host[0][seen], simulator, still))
        numbers["information"] = widths(list(still.marginals), covariance)
    write_result(arguments.output, str(__doc__).splitlines()[0], numbers)
    if not arguments.draws:
        return
    with measured(numbers, "nuts"):
        host = survey.host[0][seen]
        surface = count_surface_around(information(observations, host, simulator, config), simulator, config)
        found = sample_spectroscopic(
            observations, host, simulator, config, draws=arguments.draws, warmup=arguments.warmup, chains=chains, surface=surface
        )
        theta = found.theta.reshape(-1, len(found.names)).astype(float)
        truth = np.array([getattr(FIDUCIAL, name) for name in found.names])
        numbers["nuts"] = widths(list(found.names), np.cov(theta.T)) | {
            "pull": dict(zip(found.names, ((theta.mean(0) - truth) / theta.std(0)).tolist(), strict=True)),
            "r_hat": dict(zip(found.names, found.r_hat.tolist(), strict=True)),
            "n_eff": dict(zip(found.names, found.n_eff.tolist(), strict=True)),
            "divergences": found.divergences, "chains": chains, "draws": arguments.draws, "warmup": arguments.warmup,
            "error_of_N_ln_count": numbers["objects"] * surface.error,
        }  # fmt: skip
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


@contextmanager
def measured(numbers: dict[str, Any], what: str) -> Iterator[None]:
    """Seconds of wall and processor time, compilation included."""
    wall, processor = time.monotonic(), time.process_time()
    yield
    numbers.setdefault("seconds", {})[what] = {"wall": time.monotonic() - wall, "processor": time.process_time() - processor}


if __name__ == "__main__":
    main()

"""How narrow is the posterior of Θ at 1,600 supernovae whose hosts are known, and with it redshift, mass, metallicity and ages?

One mock at the fiducial Θ under the prior of `lsst`, from a bank of 1e5 effective hosts; the likelihood of light, hosts and number with the
hosts given (`simulators.spectroscopic`), by NUTS. Expected: a floor, so that the published widths from photometry alone (also one mock)
are at or above these, but for the scatter of single mocks.

usage: python benchmarks/spectroscopic_limit.py [--draws 500] [--warmup 400]
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

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
    from simulators.spectroscopic import LARGE, SAMPLE, sample_spectroscopic
    from simulators.survey import draw_surveys, prepare

    config = load_config("lsst", **{"hosts.effective_hosts": 1e5, "size.capacity": 4096})
    simulator = prepare(config, load_bank(config.hosts))
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    survey = jax.device_get(draw_surveys(key, jax.numpy.arange(arguments.number, arguments.number + 1), simulator, config, FIDUCIAL))
    seen = survey.observed[0]
    observations = Observations(*(leaf[0][seen] for leaf in survey.observations))
    wall, processor = time.monotonic(), time.process_time()
    found = sample_spectroscopic(
        observations, survey.host[0][seen], simulator, config, draws=arguments.draws, warmup=arguments.warmup, chains=chains
    )
    seconds = {"wall": time.monotonic() - wall, "processor": time.process_time() - processor}
    theta = found.theta.reshape(-1, len(found.names))
    mean, sd = theta.mean(0), theta.std(0, ddof=1)
    rows = {}
    for k, name in enumerate(found.names):
        truth, published = getattr(FIDUCIAL, name), PUBLISHED.get(name)
        rows[name] = {
            "mean": float(mean[k]), "sd": float(sd[k]), "published_photometric": published, "pull": float((mean[k] - truth) / sd[k]),
            "r_hat": float(found.r_hat[k]), "n_eff": float(found.n_eff[k]),
        }  # fmt: skip
        said = f"{sd[k] / published:.2f} of the published {published}" if published else "none published"
        print(f"{name:14s} {mean[k]:9.4f} ± {sd[k]:.4f}  {said}; R̂ {found.r_hat[k]:.3f}, {found.n_eff[k]:.0f} effective", flush=True)
    dark = [found.names.index(name) for name in ("Om0", "Ode0")]
    covariance = np.cov(theta[:, dark].T)
    numbers = {
        "objects": int(seen.sum()), "parameters": rows, "sqrt_det_Om0_Ode0": float(np.sqrt(np.linalg.det(covariance))),
        "published_sqrt_det": PUBLISHED_AREA, "correlation_Om0_Ode0": float(np.corrcoef(theta[:, dark].T)[0, 1]),
        "divergences": found.divergences, "chains": chains, "draws": arguments.draws, "warmup": arguments.warmup,
        "count_sample": [SAMPLE, LARGE], "seconds": seconds,
    }  # fmt: skip
    print(f"√det {numbers['sqrt_det_Om0_Ode0']:.2e} (published {PUBLISHED_AREA:.1e}); {found.divergences} divergences; {seconds}")
    write_result(arguments.output, str(__doc__).splitlines()[0], numbers)


if __name__ == "__main__":
    main()

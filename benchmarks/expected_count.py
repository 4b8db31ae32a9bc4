r"""How rough is the expected count from a sample, in units of N ln Λ for 1,600 objects, and how good is a fitted surface?

Samples of increasing size against one of 2^20, at single Θ a posterior width or two from the fiducial one, in the box of limit_box.toml
with a bank of 1e5 effective hosts. Expected: errors of the order of one for sizes that a chain can afford, as 1/√size; below 0.1 for the
surface (`simulators.count_surface`), which is fitted to the largest in minutes.

usage: python benchmarks/expected_count.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import write_result

NUMBER = 1600
SIZES, LARGEST = (1 << 13, 1 << 16, 1 << 18), 1 << 20
PLACES = [{"M0": -19.4}, {"M0": -19.6}, {"Om0": 0.1, "Ode0": 0.4}, {"Om0": 0.5, "Ode0": 1.0}, {"Om0": 0.5, "Ode0": 0.6}]


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()

    import jax
    import jax.numpy as jnp

    from cigars.config import load_config
    from cigars.schema import FIDUCIAL, Globals, Observations
    from simulators.count_surface import ln_expected
    from simulators.counts import expected_count
    from simulators.hosts import load_bank
    from simulators.spectroscopic import count_surface_around, information
    from simulators.survey import draw_surveys, prepare

    changes = {"hosts.effective_hosts": 1e5, "prior.mass_step_loc": {"fixed": FIDUCIAL.mass_step_loc}}
    config = load_config(str(Path(__file__).with_name("limit_box.toml")), **changes)
    simulator = prepare(config, load_bank(config.hosts))

    def ln_count(size: int, theta: Globals) -> float:
        return float(jnp.log(expected_count(Globals(*(jnp.float32(v) for v in theta)), simulator, config, size)))

    there = [FIDUCIAL._replace(**place) for place in PLACES]
    changed = {size: NUMBER * np.array([ln_count(size, t) - ln_count(size, FIDUCIAL) for t in there]) for size in (*SIZES, LARGEST)}
    survey = jax.device_get(draw_surveys(jax.random.key(0), jnp.arange(1), simulator, config, FIDUCIAL))
    seen = survey.observed[0]
    observations = Observations(*(leaf[0][seen] for leaf in survey.observations))
    surface = count_surface_around(information(observations, survey.host[0][seen], simulator, config), simulator, config)
    fitted = NUMBER * np.array([float(ln_expected(t, surface) - ln_expected(FIDUCIAL, surface)) for t in there])
    errors = {str(size): (changed[size] - changed[LARGEST]).tolist() for size in SIZES} | {"surface": (fitted - changed[LARGEST]).tolist()}
    for name, values in errors.items():
        print(
            f"{name:8s} " + " ".join(f"{value:+.2f}" for value in values) + f"  rms {np.sqrt(np.mean(np.square(values))):.2f}", flush=True
        )
    numbers = {
        "objects": NUMBER, "places": PLACES, "largest": LARGEST, "change_of_N_ln_count": changed[LARGEST].tolist(), "errors": errors,
        "surface_error_of_N_ln_count": NUMBER * surface.error,
    }  # fmt: skip
    write_result(arguments.output, str(__doc__).splitlines()[0], numbers)


if __name__ == "__main__":
    main()

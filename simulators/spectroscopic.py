r"""The spectroscopic limit: posterior of Θ where the host of every supernova is known, and with it redshift, mass, metallicity and ages.

$\ln L(\Theta) = \sum_i \ln \lambda(m_i, x_i, c_i, h_i \mid \Theta) - \Lambda(\Theta)$: the rate of the known host in the place of the sum
over hosts of `simulators.likelihood`, and Λ, the expected count, integrates over selection. It is the limit of the supernova light
with its hosts known, not of photometry: host magnitudes, which measure distance where hosts are recognised, are not in it.

The information of a Poisson process is $\int \lambda\, s s^T$ with the score $s = \nabla \ln\lambda$: the sum of $s s^T$ over the objects
of a survey estimates it, and so the widths, without the expected count (Streit 10, chapter 4). It does not contain the thresholds of host
magnitudes: a known host that passes one, its absolute magnitude known too, puts a sharp limit on its distance, so that posteriors with
thresholds are narrower than the inverse of the information.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cigars.schema import FIDUCIAL, Globals, Observations
from simulators.candidates import Matches, known_hosts
from simulators.count_surface import CountSurface, fit_count_surface
from simulators.exact import ExactPosterior, sample_exact, stacked
from simulators.likelihood import ln_rates
from simulators.simulator import Simulator

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["count_surface_around", "information", "sample_spectroscopic", "scores"]

SAMPLE, POINTS, WIDER = 1 << 20, 320, 2.0  # behind the expected count: size, number of Θ, and their spread in posterior widths


def scores(
    observations: Observations, hosts: Int[np.ndarray, "sn"], simulator: Simulator, config: Config, near: Globals = FIDUCIAL
) -> Float[np.ndarray, "sn parameter"]:
    """∂ ln λ/∂Θ of each object, the free parameters in the order of `config.marginals`; arguments as for `sample_spectroscopic`."""
    matches = known_hosts(observations, hosts, simulator, config)
    free = {name: getattr(near, name) for name in config.marginals}
    theta = Globals(*(jnp.asarray(value, jnp.float32) for value in config.globals_of(free)))

    def direction(name: str) -> Globals:
        unit = {field: jnp.float32(field == name) for field in Globals._fields}
        return Globals(**unit | ({"Ode0": -unit["Om0"]} if config.flat else {}))

    columns = (_slope(theta, direction(name), matches, config) for name in config.marginals)
    return np.stack([np.asarray(column, np.float64) for column in columns], -1)


@jax.jit(static_argnames=("config",))
def _slope(theta: Globals, step: Globals, matches: Matches, config: Config) -> Float[Array, "sn"]:
    return jax.jvp(lambda t: ln_rates(t, matches, config), (theta,), (step,))[1]


def information(
    observations: Observations, hosts: Int[np.ndarray, "sn"], simulator: Simulator, config: Config, near: Globals = FIDUCIAL
) -> Float[np.ndarray, "parameter parameter"]:
    """Information on the free parameters at Θ, priors of kind "normal" included: the inverse of the covariance that can be reached.

    Parameters and arguments as for `scores`.
    """
    score = scores(observations, hosts, simulator, config, near)
    prior = [marginal.scale**-2 if marginal.kind == "normal" else 0.0 for marginal in config.marginals.values()]
    return score.T @ score + np.diag(prior)


def count_surface_around(
    information: Float[np.ndarray, "parameter parameter"],
    simulator: Simulator,
    config: Config,
    near: Globals = FIDUCIAL,
    *,
    points: int = POINTS,
    sample: int = SAMPLE,
    seed: int = 0,
) -> CountSurface:
    """The expected count where a posterior of this information is, at twice its width: minutes, and good for all surveys alike.

    Raises ValueError as `count_surface.fit_count_surface`.
    """
    names, bounds = tuple(config.marginals), np.array([[m.low, m.high] for m in config.marginals.values()])
    centre = np.array([getattr(near, name) for name in names])
    rows = np.random.default_rng(seed).multivariate_normal(centre, WIDER**2 * np.linalg.inv(information), points)
    return fit_count_surface(stacked(np.clip(rows, *bounds.T), config), simulator, config, sample)


def sample_spectroscopic(
    observations: Observations,
    hosts: Int[np.ndarray, "sn"],
    simulator: Simulator,
    config: Config,
    *,
    near: Globals = FIDUCIAL,
    draws: int = 500,
    warmup: int = 300,
    chains: int = 2,
    seed: int = 0,
    exposure: float = 1.0,
    pilot: ExactPosterior | None = None,
    surface: CountSurface | None = None,
) -> ExactPosterior:
    """Draws of Θ given m, x, c with their errors and the hosts; `hosts` of the result repeats them.

    Args:
        observations: the detected objects of one survey, leaves [sn] or [sn, band], no padding.
        hosts: row of `simulator.table` of each object, `Survey.host` of a mock.
        simulator: as `survey.prepare` gives it.
        config: of the same simulator; its prior is that of Θ.
        near: a Θ near the posterior, around which the expected count is fitted; of it the free parameters are read.
        draws, warmup, chains, seed, exposure, pilot: as for `sample_exact`.
        surface: of the expected count, `count_surface_around` unless given.

    Raises:
        ValueError: as `candidates.known_hosts`, and if no parameter is free.
    """
    matches = known_hosts(observations, hosts, simulator, config)
    if surface is None:
        surface = count_surface_around(information(observations, hosts, simulator, config, near), simulator, config, near)
    return sample_exact(
        matches, simulator, config, draws=draws, warmup=warmup, chains=chains, seed=seed, exposure=exposure, pilot=pilot, surface=surface
    )

"""The generative model of supernovae in hosts, in numpyro: what is random, given what, under which name.

    Θ ~ prior;  for each supernova: host, age_bin ∝ R_{hi}(Θ);  age | age_bin;  light | host, age, Θ;  data | light;  detected | data

`simulators.survey` draws the detected objects of the same model exactly and fast; this module states it, so that numpyro's
handlers can fix, condition and score it. Everything with an equals sign is a pure function elsewhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpyro.distributions import constraints

from cigars.schema import Globals
from simulators.priors import distribution
from simulators.rates import age_bounds_gyr, ln_bin_ages, ln_rate_per_bin
from simulators.selection import detection_probability, host_efficiency
from simulators.simulator import Simulator, transverse_modulus, unpack
from simulators.supernovae import A_V_MEAN, COLOUR_SD, R_V_LOW, R_V_MEAN, R_V_SD, brightness_shift, mean_absolute_magnitude

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["HostDistribution", "globals_model", "supernova_model"]


class HostDistribution(dist.Distribution):
    """Row of `Simulator.table` with probability proportional to exp(`ln_weights`) (float32 [host]).

    Drawn through the cumulative sum of row totals, made at each call, for weights that depend on Θ: O(bank), for scoring and small surveys.
    """

    arg_constraints = {"ln_weights": constraints.real_vector}  # noqa: RUF012
    support = constraints.nonnegative_integer

    def __init__(self, ln_weights: Float[Array, "host"], *, validate_args: bool | None = None) -> None:
        self.ln_weights = ln_weights
        super().__init__(batch_shape=(), event_shape=(), validate_args=validate_args)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Int[Array, "..."]:
        """Indices of shape `sample_shape`."""
        width = math.ceil(math.sqrt(self.ln_weights.size))
        rows = -(-self.ln_weights.size // width)
        weights = (
            jnp.zeros(rows * width).at[: self.ln_weights.size].set(jnp.exp(self.ln_weights - self.ln_weights.max())).reshape(rows, width)
        )
        row_key, column_key = jax.random.split(key)
        totals = jnp.cumsum(weights.sum(1))
        row = jnp.searchsorted(totals, jax.random.uniform(row_key, sample_shape) * totals[-1], side="right").clip(0, rows - 1)
        inside = jnp.cumsum(weights, 1)[row]
        column = jnp.sum(inside <= jax.random.uniform(column_key, (*sample_shape, 1)) * inside[..., -1:], -1)
        return row * width + column.clip(0, width - 1)

    def log_prob(self, value: Int[Array, "..."]) -> Float[Array, "..."]:
        """ln of the normalised weight."""
        return self.ln_weights[value] - jax.nn.logsumexp(self.ln_weights)


def globals_model(config: Config) -> Globals:
    """Θ: one site for each free parameter; fixed ones are constants, and a flat cosmology has Ω_Λ = 1 − Ω_m.

    Raises:
        ValueError: for a prior with a region, whose edges no site states.
    """
    if config.prior.region is not None:
        raise ValueError("prior.region: expected none in a model for chains, which would not see its edges; leave it out")
    values: dict[str, Any] = {name: numpyro.sample(name, distribution(m)) for name, m in config.marginals.items()}
    values |= {name: jnp.asarray(value, jnp.float32) for name, value in config.fixed.items()}
    if config.flat:
        values["Ode0"] = numpyro.deterministic("Ode0", 1 - values["Om0"])
    return Globals(**values)


def _check_stated(config: Config) -> None:
    o = config.observation
    given = {
        "supernovae.dust": (config.supernovae.dust, "independent"),
        "observation.host_errors": (o.host_errors, "constant"),
        "observation.sn_correlation": (o.sn_correlation, (0.0, 0.0, 0.0)),
        "observation.spectroscopic_fraction": (o.spectroscopic_fraction, 0.0),
        "observation.missing_probability": (o.missing_probability, 0.0),
        **{f"observation.{name}.floor": (getattr(o, name).floor, 0.0) for name in ("sn_m", "sn_x", "sn_c")},
    }
    for name, (value, stated) in given.items():
        if value != stated:
            raise ValueError(f"supernova_model: expected {name} = {stated!r}, got {value!r}; draw that variant with simulate")


def supernova_model(simulator: Simulator, config: Config, number: int) -> None:
    """`number` supernovae of the population with their hosts, data and whether each is in the catalogue, `detected`.

    Conditioning on `detected = 1` and drawing the number from Poisson(expected_count) gives a survey. Sites carry the
    schema's names; `host` is the row of `Simulator.table`. Complete data with `independent` dust, constant host errors and uncorrelated
    supernova errors; raises ValueError for what it does not state.
    """
    _check_stated(config)
    theta = globals_model(config)
    bank = unpack(simulator.table, len(config.hosts.bands))
    z_max, o = config.hosts.z_max, config.observation
    ln_rates = ln_rate_per_bin(bank.ln_mass, ln_bin_ages(bank.z), theta.dtd_slope)
    # simulator.ln_weight is R⁰/p: R(s)/p is that times R(s)/R⁰
    ln_weights = simulator.ln_weight + jax.nn.logsumexp(ln_rates, axis=-1) - bank.ln_rate0
    with numpyro.plate("sn", number):
        host = numpyro.sample("host", HostDistribution(ln_weights))
        h = unpack(simulator.table[host], len(config.hosts.bands))
        age_bin = numpyro.sample("age_bin", dist.Categorical(logits=ln_rates[host]))
        young, old = (jnp.take_along_axis(edge, age_bin[:, None], 1)[:, 0] for edge in age_bounds_gyr(h.z))
        age = numpyro.sample("age_gyr", dist.Uniform(young, old))
        delta_m = numpyro.deterministic("delta_M", brightness_shift(theta, h.mass_log10_msun, h.metallicity_log10_zsun, age))
        x_int = numpyro.sample("x_int", dist.Normal(0.0, 1.0))
        c_int = numpyro.sample("c_int", dist.Normal(theta.alpha_c * x_int, COLOUR_SD))
        intrinsic = numpyro.sample("M_int", dist.Normal(mean_absolute_magnitude(theta, delta_m, x_int, c_int), theta.sigma_int))
        r_v = numpyro.sample("R_V", dist.TruncatedNormal(R_V_MEAN, R_V_SD, low=R_V_LOW))
        a_v = numpyro.sample("A_V", dist.Exponential(1 / A_V_MEAN))
        modulus = transverse_modulus(theta, h.z, z_max)
        truth = {"m": intrinsic + (r_v + 1) * a_v / r_v + modulus + 5 * jnp.log10(1 + h.z), "x": x_int, "c": c_int + a_v / r_v}
        data = {}
        for name, errors in (("m", o.sn_m), ("x", o.sn_x), ("c", o.sn_c)):
            mean = errors.offset + errors.slope * (truth["m"] - errors.pivot)
            variance = numpyro.sample(f"var_{name}", dist.LogNormal(mean, errors.scatter))
            data[name] = numpyro.sample(name, dist.Normal(truth[name], jnp.sqrt(variance)))
        magnitude = h.magnitude + modulus[:, None]
        numpyro.sample("mag", dist.Normal(magnitude, o.host_sigma).to_event(1))
        seen = detection_probability(h.z, data["m"], config.selection, simulator.detection)
        seen = seen * host_efficiency(magnitude, config.selection, config.band_names)
        numpyro.sample("detected", dist.Bernoulli(probs=jnp.where(modulus < h.faintest, seen, 0.0)))

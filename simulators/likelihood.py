r"""The exact likelihood of one survey, given a fixed bank of hosts: a Poisson process over objects.

$\ln L(\Theta) = \sum_i \ln \lambda(d_i \mid \Theta) - \Lambda(\Theta)$, with Λ the expected count (`counts.expected_count`) and

$\lambda(d \mid \Theta) = T\, 10^{\log A} \sum_h p_h^{-1}\, p_{\rm det}(z_h, m)\, N({\rm mag}; M_h + \mu_M(z_h), \sigma^2)
\sum_i R_{hi}(s) \int p(m, x, c, W \mid z_h, {\rm age}, A_V, R_V, \Theta)\, d{\rm age}\, dA_V\, dR_V$ over hosts that pass their thresholds.

Given age and dust the light is linear and Gaussian: v = (m, x, c, ln(W − floor²) …) has the mean κ h + E e beyond constants, with
κ = M_0 + δM + μ(z) the magnitude of the mean supernova, E the colour excess, h = (1, 0, 0, slopes), and one covariance for all hosts:
variances whose mean grows with the true magnitude are observations of it. The integral over A_V ~ Exp(τ) is closed,

$\int_0^\infty e^{-A/\tau - (q - 2bA + aA^2)/2} dA/\tau = \sqrt{2\pi/a}\; e^{(t^2 - q)/2}\, \Phi(t)/\tau$ with $t = (b - 1/\tau)/\sqrt a$,

R_V is a Gauss rule of its truncated normal and age a Gauss-Legendre rule in its bin. λ is a density in these v, host magnitudes and
z_spec; which bands are missing, and variances that do not depend on magnitude, have a probability free of Θ that is left out.

The two steps of the model, the host thresholds and the mass step, are smoothed by `counts.SOFTNESS` in λ as they are in Λ. Exactness is
for the given bank: of hosts that are not in it the likelihood knows nothing (Loredo 04; Mandel+19 for the selection).
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Int, Key
from scipy.special import erfcx

from cigars.schema import Globals
from simulators.candidates import BATCH, Matches, informative_errors
from simulators.constants import LN10
from simulators.count_surface import CountSurface, ln_expected
from simulators.counts import SAMPLE, SOFTNESS, expected_count
from simulators.rates import age_bounds_gyr, ln_bin_ages, ln_rate_per_bin
from simulators.simulator import Hosts, Simulator, transverse_modulus, unpack
from simulators.small_matrices import cholesky, product, solve_lower
from simulators.supernovae import A_V_MEAN, COLOUR_SD, R_V_LOW, R_V_MEAN, R_V_SD, brightness_shift, host_dust

if TYPE_CHECKING:
    from cigars.config import Config

__all__ = ["draw_hosts", "host_probabilities", "light_model", "ln_likelihood", "ln_rates", "ln_terms"]

AGE_NODES, R_V_NODES = (1, 2, 3, 5, 3), 4  # nodes of each age bin: the fourth is several Gyr wide
REACH, KNOTS = 64.0, 1024  # of a table of the light: Gaussian widths to either side, and how many in all
WORTH = 0.1  # pairs a knot from which a table is less work than its pairs
MILLS_SCALE = 0.35


@jax.jit(static_argnames=("config", "sample"))
def ln_likelihood(
    theta: Globals,
    matches: Matches,
    simulator: Simulator,
    config: Config,
    exposure: float = 1.0,
    sample: int = SAMPLE,
    surface: CountSurface | None = None,
) -> Float[Array, ""]:
    """ln L of a survey at Θ (scalars), up to a constant: differentiable in every parameter.

    `exposure` is relative to the configured size, `sample` the size of the fixed sample behind the expected count, unless a `surface`
    gives that.
    """
    expected = exposure * (expected_count(theta, simulator, config, sample) if surface is None else jnp.exp(ln_expected(theta, surface)))
    number = jnp.sum(jnp.any(matches.place >= 0, -1), dtype=jnp.float32)  # the others are padding
    return jnp.sum(ln_rates(theta, matches, config)) + number * jnp.log(jnp.asarray(exposure, jnp.float32)) - expected


@jax.jit(static_argnames=("config",))
def ln_rates(theta: Globals, matches: Matches, config: Config) -> Float[Array, "sn"]:
    """ln λ(d_i | Θ) of each object for an exposure of 1; 0 for one without a pair, which is padding."""
    none = jnp.all(matches.place < 0, -1, keepdims=True)
    return jax.nn.logsumexp(jnp.where(none, -math.log(matches.place.shape[-1]), ln_terms(theta, matches, config)), -1)


@jax.jit(static_argnames=("config",))
def host_probabilities(theta: Globals, matches: Matches, config: Config) -> Float[Array, "sn candidate"]:
    """Posterior of each object's host, a row `matches.row` of `Simulator.table`, at Θ; so of its redshift, mass and metallicity."""
    return jax.nn.softmax(ln_terms(theta, matches, config), -1)


@jax.jit(static_argnames=("config",))
def draw_hosts(key: Key[Array, ""], theta: Globals, matches: Matches, config: Config) -> Int[Array, "sn"]:
    """Rows of `Simulator.table`, one drawn from each object's `host_probabilities`."""
    picked = jax.random.categorical(key, ln_terms(theta, matches, config), -1)
    return jnp.take_along_axis(matches.row, picked[:, None], 1)[:, 0]


@functools.cache
def _age_rule(nodes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which bin each node is in, where in it, from 0 to 1, and its weight."""
    place, weight = np.concatenate([np.polynomial.legendre.leggauss(number) for number in nodes], axis=1)
    return np.repeat(np.arange(len(nodes)), nodes), 0.5 + 0.5 * place, 0.5 * weight


@functools.cache
def _r_v_rule(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss's rule for the truncated normal of R_V, by Lanczos on a fine grid (Golub & Welsch 69)."""
    grid = np.linspace(R_V_LOW, R_V_MEAN + 8 * R_V_SD, 20_001)
    weight = np.exp(-0.5 * ((grid - R_V_MEAN) / R_V_SD) ** 2)
    weight[[0, -1]] /= 2
    root = np.sqrt(weight / weight.sum())
    powers = ((grid - R_V_MEAN) / R_V_SD)[:, None] ** np.arange(nodes)
    basis, _ = np.linalg.qr(root[:, None] * powers)
    node, vectors = np.linalg.eigh(basis.T @ (grid[:, None] * basis))
    return node, (vectors.T @ (basis.T @ root)) ** 2


class _Quadratic(NamedTuple):
    """Products in the metric of C⁻¹, [sn]; u is the light less its projection on h, which lies at κ = m + centre."""

    centre: Array
    ln_norm: Array  # ln of the Gaussian at its peak over κ without dust
    hh: Array
    he: Array
    ee: Array
    ue: Array


class _LightTable(NamedTuple):
    """ln p(v | κ) of every object at the knots."""

    value: Float[Array, "sn*knot"]
    per_mag: Float[Array, "sn"]  # knots a magnitude of κ


def light_model(theta: Globals, config: Config) -> tuple[Float[Array, "v 3"], Float[Array, "v"], Float[Array, "v"]]:
    """How the light v depends on the standard normals of stretch, colour and scatter (columns), on κ, and on the colour excess."""
    slopes = [model.slope for model in informative_errors(config).values()]
    h, e = jnp.asarray([1.0, 0.0, 0.0, *slopes], jnp.float32), jnp.zeros(3 + len(slopes), jnp.float32).at[2].set(1.0)
    zero, one = jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32)
    m = jnp.stack([theta.alpha + theta.beta * theta.alpha_c, COLOUR_SD * theta.beta, theta.sigma_int])
    x, c = jnp.stack([one, zero, zero]), jnp.stack([theta.alpha_c, COLOUR_SD * one, zero])
    return jnp.stack([m, x, c, *(slope * m for slope in slopes)]), h, e


def _quadratic(theta: Globals, matches: Matches, config: Config) -> _Quadratic:
    mixing, h, e = light_model(theta, config)
    size = len(h)
    root = cholesky(matches.noise + product(mixing, mixing.T)[None])
    right = jnp.stack(jnp.broadcast_arrays(matches.light, h[None], e[None]), -1)
    white = solve_lower(root, right)
    u, h, e = (white[..., k] for k in range(3))
    hh = jnp.sum(h * h, -1)
    centre = jnp.sum(u * h, -1) / hh
    u = u - centre[:, None] * h
    ln_norm = -0.5 * (jnp.sum(u * u, -1) + size * math.log(2 * math.pi)) - jnp.sum(jnp.log(jnp.diagonal(root, axis1=1, axis2=2)), -1)
    return _Quadratic(centre, ln_norm, hh, jnp.sum(h * e, -1), jnp.sum(e * e, -1), jnp.sum(u * e, -1))


def ln_terms(theta: Globals, matches: Matches, config: Config) -> Float[Array, "sn candidate"]:
    """ln of each candidate host's part of λ, −∞ in the padding; some pairs at a time, which derivatives compute again."""
    theta = Globals(*(jnp.asarray(value, jnp.float32) for value in theta))
    moduli = transverse_modulus(theta, unpack(matches.hosts, len(config.hosts.bands)).z, config.hosts.z_max)
    forms = _quadratic(theta, matches, config)
    table = _light_table(forms) if _tabulated(matches, config) else None

    def one(pair: tuple) -> Float[Array, ""]:
        host, owner, ln_fixed, grey = pair
        h = jax.tree.map(lambda leaf: leaf[0], unpack(matches.hosts[host][None], len(config.hosts.bands)))
        m, precision, centre = matches.m[owner], matches.precision[owner], forms.centre[owner]
        offset, ln_rate = _ages(theta, moduli[host], h, m + centre)
        if table is not None:
            ln_light = _interpolated(table, owner, offset)
        else:
            ln_light = _ln_light(jax.tree.map(lambda leaf: leaf[owner], forms), offset, h, config)
        ln_pair = LN10 * theta.dtd_logA + jax.nn.logsumexp(ln_rate + ln_light) + _ln_enters(h, moduli[host], config)
        return ln_fixed - 0.5 * precision * (grey - moduli[host]) ** 2 + ln_pair

    terms = jax.lax.map(jax.checkpoint(one), (matches.host, matches.owner, matches.ln_fixed, matches.grey), batch_size=BATCH)
    return jnp.where(matches.place >= 0, terms[matches.place], -jnp.inf)


def _ages(theta: Globals, modulus: Array, h: Hosts, peak: Array) -> tuple[Float[Array, "age"], Float[Array, "age"]]:
    """κ less its `peak`, and ln of the rate times the weight of the rule, at each age that a supernova of a host can have."""
    in_bin, place, weight = _age_rule(AGE_NODES)
    young, old = age_bounds_gyr(h.z)
    age = young[in_bin] + (old - young)[in_bin] * jnp.asarray(place, jnp.float32)
    shift = brightness_shift(theta, h.mass_log10_msun, h.metallicity_log10_zsun, age, SOFTNESS)
    ln_rate = ln_rate_per_bin(h.ln_mass, ln_bin_ages(h.z), theta.dtd_slope)[in_bin] + jnp.asarray(np.log(weight), jnp.float32)
    return theta.M0 + modulus + 5 * jnp.log10(1 + h.z) - peak + shift, ln_rate


def _ln_enters(h: Hosts, modulus: Array, config: Config) -> Float[Array, ""]:
    """ln probability that a host enters: thresholds smoothed as in the expected count, and the configured efficiency."""
    passes = log_ndtr((h.faintest - modulus) / SOFTNESS)
    if config.selection.host_efficiency is None:
        return passes
    band, m50, width = config.selection.host_efficiency
    return passes + log_ndtr((m50 - h.magnitude[config.band_names.index(band)] - modulus) / width)


def _ln_light(forms: _Quadratic, offset: Float[Array, "age"], h: Hosts, config: Config) -> Float[Array, "age"]:
    """ln p(v | κ) of one object at offsets of κ from its peak, behind dust."""
    return _ln_over_dust(forms, offset) if config.supernovae.dust == "independent" else _ln_behind_host_dust(forms, offset, h)


def _ln_behind_host_dust(forms: _Quadratic, offset: Float[Array, "age"], h: Hosts) -> Float[Array, "age"]:
    """ln p(v | κ), κ at `offset` from the peak, behind the dust of the host."""
    r_v, a_v = host_dust(h.dust_tau2, h.dust_index)
    excess, dim = a_v / r_v, a_v * (1 + 1 / r_v)
    ln_light = -0.5 * forms.hh * (offset + dim) ** 2 - (offset + dim) * forms.he * excess
    return forms.ln_norm - 0.5 * excess * (forms.ee * excess - 2 * forms.ue) + ln_light


def _ln_over_dust(forms: _Quadratic, offset: Float[Array, "offset"]) -> Float[Array, "offset"]:
    """ln p(v | κ) with A_V and R_V integrated out: A_V dims v by g = (1 + 1/R_V) h + e/R_V.

    With R(t) = Φ(−t)/φ(t), Mills' ratio, √(2π) e^{t²/2} Φ(t) is R(−t) for t < 0 and √(2π) e^{t²/2} − R(t) above: one
    exponential each, taken relative to the largest.
    """
    r_v, weight = (jnp.asarray(v, jnp.float32) for v in _r_v_rule(R_V_NODES))
    dim, redden = 1 + 1 / r_v, 1 / r_v
    a = dim**2 * forms.hh + 2 * dim * redden * forms.he + redden**2 * forms.ee
    root = jax.lax.rsqrt(a)
    slope = (dim * forms.hh + redden * forms.he) * root
    t = ((redden * forms.ue - 1 / A_V_MEAN) * root)[None] - jnp.multiply.outer(offset, slope)
    above = 0.5 * jnp.maximum(t, 0.0) ** 2
    largest = jax.lax.stop_gradient(jnp.max(above, -1, keepdims=True))
    tail = jnp.exp(-largest) * _mills_ratio(jnp.abs(t))
    dusty = jnp.where(t > 0, math.sqrt(2 * math.pi) * jnp.exp(above - largest) - tail, tail)
    return forms.ln_norm - 0.5 * forms.hh * offset**2 + largest[:, 0] + jnp.log(product(dusty, weight * root / A_V_MEAN))


def _tabulated(matches: Matches, config: Config) -> bool:
    """Whether ln p(v | κ), which but for the dust of its host is one function of κ for an object, is worth a table of it."""
    return config.supernovae.dust == "independent" and len(matches.host) > WORTH * KNOTS * len(matches.m)


def _light_table(forms: _Quadratic) -> _LightTable:
    """`_ln_over_dust` of each object at equal steps of κ over ± REACH of its Gaussian widths 1/√hh."""
    knots = jnp.linspace(-REACH, REACH, KNOTS, dtype=jnp.float32)
    value = jax.vmap(lambda f: _ln_over_dust(f, knots * jax.lax.rsqrt(f.hh)))(forms)
    return _LightTable(value.ravel(), jnp.sqrt(forms.hh) * ((KNOTS - 1) / (2 * REACH)))


def _interpolated(table: _LightTable, owner: Int[Array, ""], offset: Float[Array, "age"]) -> Float[Array, "age"]:
    """Cubic through the four nearest knots of one object; straight beyond them, as the tail behind dust is."""
    place = offset * table.per_mag[owner] + 0.5 * (KNOTS - 1)
    knot = jnp.clip(jnp.floor(jax.lax.stop_gradient(place)), 1, KNOTS - 3)
    at, first = place - knot, owner * KNOTS + knot.astype(jnp.int32) - 1
    a, b, c, d = (table.value[first + k] for k in range(4))
    t = jnp.clip(at, 0, 1)
    cubic = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return cubic + (at - t) * (c - b)


@functools.cache
def _mills_polynomial() -> np.ndarray:
    """R(t) / u in powers of 2u − 1, u = 1/(1 + 0.35 t), by Chebyshev fit: relative error of R 8e-7 in float32."""
    u = 0.5 + 0.5 * np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    ratio = math.sqrt(math.pi / 2) * erfcx((1 / u - 1) / (MILLS_SCALE * math.sqrt(2))) / u
    return np.polynomial.chebyshev.cheb2poly(np.polynomial.chebyshev.chebfit(2 * u - 1, ratio, 8, w=1 / ratio))[::-1]


@jax.custom_jvp
def _mills_ratio(t: Array) -> Array:
    """Φ(−t)/φ(t) for t ≥ 0."""
    u = 1 / (1 + MILLS_SCALE * t)
    return u * jnp.polyval(jnp.asarray(_mills_polynomial(), t.dtype), 2 * u - 1)


@_mills_ratio.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (t,), (tangent,) = primals, tangents
    ratio = _mills_ratio(t)
    return ratio, (t * ratio - 1) * tangent

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
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtr
from jaxtyping import Array, Float, Int, Key
from scipy.special import erfcx

from cigars.schema import FIDUCIAL, Globals, Observations
from simulators.constants import LN10
from simulators.counts import SAMPLE, SOFTNESS, expected_count
from simulators.rates import age_bounds_gyr, ln_bin_ages, ln_rate_per_bin
from simulators.selection import detection_probability
from simulators.simulator import Hosts, Simulator, transverse_modulus, unpack
from simulators.supernovae import A_V_MEAN, COLOUR_SD, R_V_LOW, R_V_MEAN, R_V_SD, host_dust

if TYPE_CHECKING:
    from cigars.config import Config, ErrorModel

__all__ = ["Matches", "candidates", "draw_hosts", "host_probabilities", "ln_likelihood", "ln_rates"]

AGE_NODES, R_V_NODES = (1, 2, 3, 5, 3), 4  # nodes of each age bin: the fourth is several Gyr wide
MILLS_SCALE = 0.35
BATCH = 1 << 10  # pairs at a time: what stays in a cache


class Matches(NamedTuple):
    """The objects of one survey and the hosts that each can have: a flat list of pairs, and where in it those of each object are."""

    m: Float[Array, "sn"]
    light: Float[Array, "sn v"]  # x, c and ln(W − floor²) less its mean at true magnitude m, after a zero in the place of m
    noise: Float[Array, "sn v v"]
    precision: Float[Array, "sn"]  # inverse variance of `grey`, mag⁻²
    hosts: Float[Array, "host column"]  # rows of `Simulator.table`: those that any object can have
    host: Int[Array, "pair"]  # which of `hosts`
    owner: Int[Array, "pair"]  # which object
    ln_fixed: Float[Array, "pair"]  # every factor of λ that does not depend on Θ
    grey: Float[Array, "pair"]  # weighted mean of mag − M_h over bands, what μ_M(z_h, Θ) is compared with
    place: Int[Array, "sn candidate"]  # index of the pair, −1 in the padding
    row: Int[Array, "sn candidate"]  # row of the bank, any in the padding


def candidates(
    observations: Observations, simulator: Simulator, config: Config, *, sigmas: float = 6.0, grey: tuple[float, float] | None = None
) -> Matches:
    """Hosts that each object can have at some Θ: by colours, spectroscopic redshift, and a grey offset that any Θ of the prior allows.

    A host stays if its χ² is within `sigmas`² of the least; bands that are NaN count for nothing.

    Args:
        observations: the detected objects of one survey, leaves [sn] or [sn, band], no padding.
        simulator: the bank, as `survey.prepare` gives it.
        config: of the same simulator.
        sigmas: how far a host may be from an object.
        grey: range of μ_M(z; Θ) − μ_M(z; fiducial), mag; default: at each redshift what the corners of the prior reach (5 standard
            deviations of a normal one).

    Raises:
        ValueError: for a variant of the model without this likelihood, and for objects without data or without any host.
    """
    _check_covered(config)
    o = Observations(*(np.asarray(leaf, np.float64) for leaf in observations))
    light, noise = _light(o, config)
    bank: Any = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), unpack(simulator.table, len(config.hosts.bands)))
    limits = _modulus_limits(config, simulator, bank.z, grey)
    ln_weight = np.asarray(simulator.ln_weight, np.float64)
    ln_weight = ln_weight - np.log(np.exp(ln_weight).sum()) - bank.ln_rate0 + float(simulator.ln_total)
    found = [_match(i, o, bank, limits, ln_weight, sigmas) for i in range(len(o.m))]
    rows, ln_fixed, offset = (np.concatenate(columns) for columns in zip(*found, strict=True))
    owner = np.repeat(np.arange(len(o.m)), [len(f[0]) for f in found])
    seen = _detection(bank.z[rows], o.m[owner], config, simulator)
    rows, ln_fixed, offset, owner, seen = (v[seen > 0] for v in (rows, ln_fixed, offset, owner, seen))
    if len(none := np.setdiff1d(np.arange(len(o.m)), owner)):
        raise ValueError(f"object {none[0]}: expected a host that can show it at m = {o.m[none[0]]:.2f}, got none; check the selection")
    place = _places(owner)
    row, host = np.unique(rows, return_inverse=True)
    real, whole = functools.partial(jnp.asarray, dtype=jnp.float32), functools.partial(jnp.asarray, dtype=jnp.int32)
    return Matches(
        m=real(o.m),
        light=real(light),
        noise=real(noise),
        precision=real(np.nansum(np.where(np.isfinite(o.mag), o.mag_err, np.nan) ** -2, -1)),
        hosts=simulator.table[row],
        host=whole(_whole_batches(host)),
        owner=whole(_whole_batches(owner)),
        ln_fixed=real(_whole_batches(ln_fixed + np.log(seen))),
        grey=real(_whole_batches(offset)),
        place=whole(place),
        row=whole(rows[place]),
    )


@jax.jit(static_argnames=("config", "sample"))
def ln_likelihood(
    theta: Globals, matches: Matches, simulator: Simulator, config: Config, exposure: float = 1.0, sample: int = SAMPLE
) -> Float[Array, ""]:
    """ln L of a survey at Θ (scalars), up to a constant: differentiable in every parameter.

    `exposure` is relative to the configured size, `sample` the size of the fixed sample behind the expected count.
    """
    expected = exposure * expected_count(theta, simulator, config, sample)
    return jnp.sum(ln_rates(theta, matches, config)) + len(matches.m) * jnp.log(jnp.asarray(exposure, jnp.float32)) - expected


@jax.jit(static_argnames=("config",))
def ln_rates(theta: Globals, matches: Matches, config: Config) -> Float[Array, "sn"]:
    """ln λ(d_i | Θ) of each object for an exposure of 1."""
    return jax.nn.logsumexp(_ln_terms(theta, matches, config), -1)


@jax.jit(static_argnames=("config",))
def host_probabilities(theta: Globals, matches: Matches, config: Config) -> Float[Array, "sn candidate"]:
    """Posterior of each object's host, a row `matches.row` of the bank, at Θ; so of its redshift, mass and metallicity."""
    return jax.nn.softmax(_ln_terms(theta, matches, config), -1)


@jax.jit(static_argnames=("config",))
def draw_hosts(key: Key[Array, ""], theta: Globals, matches: Matches, config: Config) -> Int[Array, "sn"]:
    """Rows of the bank, one drawn from each object's `host_probabilities`."""
    picked = jax.random.categorical(key, _ln_terms(theta, matches, config), -1)
    return jnp.take_along_axis(matches.row, picked[:, None], 1)[:, 0]


# What does not depend on Θ, in float64


def _check_covered(config: Config) -> None:
    o = config.observation
    if config.supernovae.dust == "local":
        raise ValueError("exact likelihood: expected supernovae.dust 'independent' or 'host', got 'local'; use simulation-based inference")
    if o.host_errors != "constant":  # errors that follow the true magnitude are themselves data on it
        raise ValueError(
            f"exact likelihood: expected observation.host_errors 'constant', got {o.host_errors!r}; use simulation-based inference"
        )
    for name, model in (("sn_m", o.sn_m), ("sn_x", o.sn_x), ("sn_c", o.sn_c)):
        if model.slope != 0 and model.scatter == 0:
            raise ValueError(
                f"exact likelihood: expected observation.{name} with scatter > 0 where its slope is not zero, got 0; set the scatter"
            )


def _informative(config: Config) -> dict[str, ErrorModel]:
    """Error models of the variances that tell about the true magnitude."""
    o = config.observation
    models = {"var_m": o.sn_m, "var_x": o.sn_x, "var_c": o.sn_c}
    return {name: model for name, model in models.items() if model.slope != 0}


def _light(o: Observations, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """v less its constants and less κ = m, and the covariance of its noise."""
    columns = np.stack([o.m, o.x, o.c, o.var_m, o.var_x, o.var_c, o.cov_mx, o.cov_mc, o.cov_xc], -1)
    if not len(columns):
        raise ValueError("observations: expected at least one object, got none; an empty survey has the likelihood of its expected count")
    if not np.isfinite(columns).all():
        others = int((~np.isfinite(columns)).sum())
        raise ValueError(f"observations: expected finite m, x, c and their covariances, got {others} others; leave those objects out")
    informative = _informative(config)
    light = np.stack([np.zeros_like(o.m), o.x, o.c, *(_ln_excess(o, name, model) for name, model in informative.items())], -1)
    noise = np.zeros((len(o.m), light.shape[1], light.shape[1]))
    noise[:, 0, 0], noise[:, 1, 1], noise[:, 2, 2] = o.var_m, o.var_x, o.var_c
    for (i, j), covariance in {(0, 1): o.cov_mx, (0, 2): o.cov_mc, (1, 2): o.cov_xc}.items():
        noise[:, i, j] = noise[:, j, i] = covariance
    for k, model in enumerate(informative.values(), start=3):
        noise[:, k, k] = model.scatter**2
    return light, noise


def _ln_excess(o: Observations, name: str, model: ErrorModel) -> np.ndarray:
    excess = getattr(o, name) - model.floor**2
    if not (excess > 0).all():
        raise ValueError(f"observations: expected {name} above its floor² = {model.floor**2:.3g}, got {excess.min() + model.floor**2:.3g}")
    return np.log(excess) - model.offset - model.slope * (o.m - model.pivot)


def _modulus_limits(config: Config, simulator: Simulator, z: np.ndarray, grey: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest μ_M(z) to allow for, mag."""
    if grey is not None:
        fiducial = np.asarray(transverse_modulus(FIDUCIAL, jnp.asarray(z, jnp.float32), config.hosts.z_max), np.float64)
        return fiducial + grey[0], fiducial + grey[1]
    flat = config.supernovae.cosmology != "LCDM"
    corners = [_corner(c, flat) for c in itertools.product(*(_bounds(config, name) for name in ("Om0", "Ode0", "w0", "wa")))]
    at = jax.jit(lambda theta: transverse_modulus(theta, jnp.asarray(z, jnp.float32), config.hosts.z_max))
    moduli = np.stack([np.asarray(at(corner), np.float64) for corner in dict.fromkeys(corners)])
    return moduli.min(0), moduli.max(0)


def _corner(values: tuple[float, ...], flat: bool) -> Globals:
    om, ode, w0, wa = values
    return FIDUCIAL._replace(Om0=om, Ode0=1 - om if flat else ode, w0=w0, wa=wa)


def _bounds(config: Config, name: str) -> tuple[float, float]:
    marginal = config.marginals.get(name)
    if marginal is None:
        return (config.fixed.get(name, getattr(FIDUCIAL, name)),) * 2
    if marginal.kind == "uniform":
        return marginal.low, marginal.high
    return max(marginal.low, marginal.loc - 5 * marginal.scale), min(marginal.high, marginal.loc + 5 * marginal.scale)


def _match(
    i: int, o: Observations, bank: Hosts, limits: tuple[np.ndarray, np.ndarray], ln_weight: np.ndarray, sigmas: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the bank that object i can have, the ln of their fixed factors and their grey offsets."""
    band = np.isfinite(o.mag[i]) & np.isfinite(o.mag_err[i])
    weight, offset = o.mag_err[i, band] ** -2, o.mag[i, band] - bank.magnitude[:, band]
    grey = offset @ weight / max(weight.sum(), np.finfo(float).tiny)
    chi2 = (offset - grey[:, None]) ** 2 @ weight
    ln_constant = 0.5 * np.log(weight / (2 * np.pi)).sum()
    if np.isfinite(o.z_spec[i]):
        chi2 = chi2 + ((o.z_spec[i] - bank.z) / o.z_spec_err[i]) ** 2
        ln_constant -= 0.5 * math.log(2 * math.pi) + math.log(o.z_spec_err[i])
    outside = np.maximum(np.maximum(limits[0] - grey, grey - limits[1]), 0.0)
    least = chi2 + weight.sum() * outside**2
    rows = np.nonzero(least <= least.min() + sigmas**2)[0]
    return rows, (ln_weight - 0.5 * chi2)[rows] + ln_constant, grey[rows]


def _places(owner: Int[np.ndarray, "pair"]) -> Int[np.ndarray, "sn candidate"]:
    """Indices of each object's pairs, which follow each other, −1 beyond the last."""
    number = np.bincount(owner)
    column = np.arange(number.max())
    return np.where(column < number[:, None], (np.cumsum(number) - number)[:, None] + column, -1)


def _whole_batches(values: np.ndarray) -> np.ndarray:
    """Repeats of the first pair, which no `place` names, so that no batch is left over and compiled for itself."""
    return np.concatenate([values, np.repeat(values[:1], -len(values) % BATCH)])


def _detection(z: np.ndarray, m: np.ndarray, config: Config, simulator: Simulator) -> np.ndarray:
    probability = detection_probability(jnp.asarray(z, jnp.float32), jnp.asarray(m, jnp.float32), config.selection, simulator.detection)
    return np.asarray(probability, np.float64)


@functools.cache
def _age_rule(nodes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which bin each node is in and where in it, from 0 to 1, both as matrices [bin, node], and its weight."""
    rules = [np.polynomial.legendre.leggauss(number) for number in nodes]
    in_bin = np.repeat(np.eye(len(nodes)), nodes, axis=1)
    return in_bin, in_bin * (0.5 + 0.5 * np.concatenate([r[0] for r in rules])), 0.5 * np.concatenate([r[1] for r in rules])


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


# What depends on Θ


class _Quadratic(NamedTuple):
    """Products in the metric of C⁻¹, [sn]; u is the light less its projection on h, which lies at κ = m + centre."""

    centre: Array
    ln_norm: Array  # ln of the Gaussian at its peak over κ without dust
    hh: Array
    he: Array
    ee: Array
    ue: Array


def _quadratic(theta: Globals, matches: Matches, config: Config) -> _Quadratic:
    slopes = [model.slope for model in _informative(config).values()]
    size = 3 + len(slopes)
    h, e = jnp.asarray([1.0, 0.0, 0.0, *slopes], jnp.float32), jnp.zeros(size, jnp.float32).at[2].set(1.0)
    zero, one = jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32)
    # columns: standard normals of stretch, colour and scatter; rows: m, x, c and the ln variances that follow m
    m = jnp.stack([theta.alpha + theta.beta * theta.alpha_c, COLOUR_SD * theta.beta, theta.sigma_int])
    x, c = jnp.stack([one, zero, zero]), jnp.stack([theta.alpha_c, COLOUR_SD * one, zero])
    mixing = jnp.stack([m, x, c, *(slope * m for slope in slopes)])
    root = jnp.linalg.cholesky(matches.noise + (mixing @ mixing.T)[None])
    right = jnp.stack(jnp.broadcast_arrays(matches.light, h[None], e[None]), -1)
    white = jax.scipy.linalg.solve_triangular(root, right, lower=True)
    u, h, e = (white[..., k] for k in range(3))
    hh = jnp.sum(h * h, -1)
    centre = jnp.sum(u * h, -1) / hh
    u = u - centre[:, None] * h
    ln_norm = -0.5 * (jnp.sum(u * u, -1) + size * math.log(2 * math.pi)) - jnp.sum(jnp.log(jnp.diagonal(root, axis1=1, axis2=2)), -1)
    return _Quadratic(centre, ln_norm, hh, jnp.sum(h * e, -1), jnp.sum(e * e, -1), jnp.sum(u * e, -1))


def _ln_terms(theta: Globals, matches: Matches, config: Config) -> Float[Array, "sn candidate"]:
    """ln of each candidate host's part of λ, −∞ in the padding; some pairs at a time, which derivatives compute again."""
    theta = Globals(*(jnp.asarray(value, jnp.float32) for value in theta))
    moduli = transverse_modulus(theta, unpack(matches.hosts, len(config.hosts.bands)).z, config.hosts.z_max)
    per_object = (_quadratic(theta, matches, config), matches.m, matches.precision)

    def one(pair: tuple) -> Float[Array, ""]:
        host, owner, ln_fixed, grey = pair
        forms, m, precision = jax.tree.map(lambda leaf: leaf[owner], per_object)
        h = jax.tree.map(lambda leaf: leaf[0], unpack(matches.hosts[host][None], len(config.hosts.bands)))
        return ln_fixed - 0.5 * precision * (grey - moduli[host]) ** 2 + _ln_pair(theta, moduli[host], h, forms, m, config)

    terms = jax.lax.map(jax.checkpoint(one), (matches.host, matches.owner, matches.ln_fixed, matches.grey), batch_size=BATCH)
    return jnp.where(matches.place >= 0, terms[matches.place], -jnp.inf)


def _ln_pair(theta: Globals, modulus: Array, h: Hosts, forms: _Quadratic, m: Array, config: Config) -> Float[Array, ""]:
    """ln of the rate at which one host makes one object's light and enters."""
    step = theta.mass_step * ndtr((h.mass_log10_msun - theta.mass_step_loc) / SOFTNESS)
    mean = theta.M0 + theta.gamma_Z * h.metallicity_log10_zsun + step + modulus + 5 * jnp.log10(1 + h.z) - (m + forms.centre)
    in_bin, place, weight = (jnp.asarray(v, jnp.float32) for v in _age_rule(AGE_NODES))
    young, old = age_bounds_gyr(h.z)
    offset = mean + theta.gamma_age * (young @ in_bin + (old - young) @ place)
    ln_rate = ln_rate_per_bin(h.ln_mass, ln_bin_ages(h.z), theta.dtd_slope) @ in_bin + jnp.log(weight)
    over_dust = _ln_over_dust if config.supernovae.dust == "independent" else _ln_behind_host_dust
    return LN10 * theta.dtd_logA + over_dust(forms, offset, ln_rate, h) + _ln_enters(h, modulus, config)


def _ln_enters(h: Hosts, modulus: Array, config: Config) -> Float[Array, ""]:
    """ln probability that a host enters: thresholds smoothed as in the expected count, and the configured efficiency."""
    passes = log_ndtr((h.faintest - modulus) / SOFTNESS)
    if config.selection.host_efficiency is None:
        return passes
    band, m50, width = config.selection.host_efficiency
    return passes + log_ndtr((m50 - h.magnitude[config.band_names.index(band)] - modulus) / width)


def _ln_behind_host_dust(forms: _Quadratic, offset: Float[Array, "age"], ln_rate: Float[Array, "age"], h: Hosts) -> Float[Array, ""]:
    """ln Σ rate × p(v | κ) over ages, κ at `offset` from the peak, behind the dust of the host."""
    r_v, a_v = host_dust(h.dust_tau2, h.dust_index)
    excess, dim = a_v / r_v, a_v * (1 + 1 / r_v)
    ln_light = -0.5 * forms.hh * (offset + dim) ** 2 - (offset + dim) * forms.he * excess
    return forms.ln_norm - 0.5 * excess * (forms.ee * excess - 2 * forms.ue) + jax.nn.logsumexp(ln_rate + ln_light)


def _ln_over_dust(forms: _Quadratic, offset: Float[Array, "age"], ln_rate: Float[Array, "age"], h: Hosts) -> Float[Array, ""]:
    """ln Σ rate × p(v | κ) over ages, with A_V and R_V integrated out: A_V dims v by g = (1 + 1/R_V) h + e/R_V.

    With R(t) = Φ(−t)/φ(t), Mills' ratio, √(2π) e^{t²/2} Φ(t) is R(−t) for t < 0 and √(2π) e^{t²/2} − R(t) above: one
    exponential each, taken relative to the largest.
    """
    r_v, weight = (jnp.asarray(v, jnp.float32) for v in _r_v_rule(R_V_NODES))
    dim, redden = 1 + 1 / r_v, 1 / r_v
    a = dim**2 * forms.hh + 2 * dim * redden * forms.he + redden**2 * forms.ee
    root = jax.lax.rsqrt(a)
    slope = (dim * forms.hh + redden * forms.he) * root
    t = ((redden * forms.ue - 1 / A_V_MEAN) * root)[None] - jnp.multiply.outer(offset, slope)
    exponent = ln_rate - 0.5 * forms.hh * offset**2
    above = exponent[..., None] + 0.5 * jnp.maximum(t, 0.0) ** 2
    largest = jax.lax.stop_gradient(jnp.max(above))
    tail = jnp.exp(exponent - largest)[..., None] * _mills_ratio(jnp.abs(t))
    dusty = jnp.where(t > 0, math.sqrt(2 * math.pi) * jnp.exp(above - largest) - tail, tail)
    return forms.ln_norm + largest + jnp.log(jnp.sum(dusty * (weight * root / A_V_MEAN)[None]))


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

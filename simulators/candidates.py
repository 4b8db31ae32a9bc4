r"""Which hosts of the bank each object of a survey can have, with every factor of the likelihood that does not depend on Θ (float64).

The sum over hosts in `simulators.likelihood` runs over these pairs alone: hosts whose colours, and redshift where one is known, are within
6 σ of the object's, whatever common offset in magnitude any Θ of the prior gives them.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cigars.schema import COSMOLOGY, FIDUCIAL, Globals, Observations
from simulators.selection import detection_probability
from simulators.simulator import Simulator, transverse_modulus, unpack

if TYPE_CHECKING:
    from cigars.config import Config, ErrorModel

__all__ = [
    "BATCH",
    "Matches",
    "Reach",
    "candidates",
    "check_covered",
    "informative_errors",
    "known_hosts",
    "places",
    "reach",
    "whole_batches",
]

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
    row: Int[Array, "sn candidate"]  # row of `Simulator.table`, any in the padding


class Reach(NamedTuple):
    """How a bank covers one object."""

    hosts: int  # that it can have
    distance: float  # σ by which the nearest that can show it misses its photometry and spectroscopic redshift


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
    check_covered(config)
    o = _double(observations)
    light, noise = _light(o, config)
    bank = _bank(simulator, config)
    limits = _modulus_limits(config, bank.z, grey)
    ln_weight = _ln_weight(simulator, bank)
    found = [_match(i, o, bank, limits, ln_weight, sigmas) for i in range(len(o.m))]
    rows, ln_fixed, offset = (np.concatenate(columns) for columns in zip(*found, strict=True))
    owner = np.repeat(np.arange(len(o.m)), [len(f[0]) for f in found])
    seen = _detection(bank.z[rows], o.m[owner], config, simulator)
    rows, ln_fixed, offset, owner, seen = (v[seen > 0] for v in (rows, ln_fixed, offset, owner, seen))
    if len(none := np.setdiff1d(np.arange(len(o.m)), owner)):
        raise ValueError(f"object {none[0]}: expected a host that can show it at m = {o.m[none[0]]:.2f}, got none; check the selection")
    precision = np.nansum(np.where(np.isfinite(o.mag), o.mag_err, np.nan) ** -2, -1)
    return _matches(o, light, noise, precision, simulator, rows, owner, ln_fixed + np.log(seen), offset)


def known_hosts(observations: Observations, rows: Int[np.ndarray, "sn"], simulator: Simulator, config: Config) -> Matches:
    """Each object with the one host that is known to be its own, as by a spectrum; host magnitudes and z_spec are not used.

    Args:
        observations: the detected objects of one survey, leaves [sn] or [sn, band], no padding.
        rows: of `simulator.table`, the host of each: `Survey.host` of a mock.
        simulator: as `survey.prepare` gives it.
        config: of the same simulator.

    Raises:
        ValueError: as `candidates`, and for rows that the table does not have.
    """
    check_covered(config, photometry=False)
    o, rows = _double(observations), np.asarray(rows)
    light, noise = _light(o, config)
    if rows.shape != o.m.shape or rows.min() < 0 or rows.max() >= len(simulator.table):
        raise ValueError(f"known hosts: expected a row below {len(simulator.table)} for each of {len(o.m)} objects, got {rows}")
    bank = _bank(simulator, config)
    seen = _detection(bank.z[rows], o.m, config, simulator)
    if not (seen > 0).all():
        raise ValueError(f"known hosts: expected objects that can be detected, got {int((seen == 0).sum())} others; leave them out")
    nothing, owner = np.zeros(len(rows)), np.arange(len(rows))
    return _matches(o, light, noise, nothing, simulator, rows, owner, _ln_weight(simulator, bank)[rows] + np.log(seen), nothing)


def reach(observations: Observations, simulator: Simulator, config: Config, *, sigmas: float = 6.0) -> Iterator[Reach]:
    """How many hosts `candidates` would find for each object in turn, and how far the nearest is, without keeping them.

    Raises:
        ValueError: for a variant of the model without this likelihood, and for objects without data.
    """
    check_covered(config)
    o = _double(observations)
    _light(o, config)
    bank = _bank(simulator, config)
    limits = _modulus_limits(config, bank.z)
    for i in range(len(o.m)):
        least, seen = _distances(i, o, bank, limits).least, _detection(bank.z, np.full_like(bank.z, o.m[i]), config, simulator) > 0
        near = seen & (least <= least.min() + sigmas**2)
        yield Reach(int(near.sum()), float(np.sqrt(least[seen].min())) if seen.any() else math.inf)


def _double(observations: Observations) -> Observations:
    return Observations(*(np.asarray(leaf, np.float64) for leaf in observations))


def _bank(simulator: Simulator, config: Config) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), unpack(simulator.table, len(config.hosts.bands)))


def _ln_weight(simulator: Simulator, bank: Any) -> np.ndarray:
    """ln of T / p of each host, which its rate per unit amplitude is multiplied by."""
    ln_weight = np.asarray(simulator.ln_weight, np.float64)
    return ln_weight - np.log(np.exp(ln_weight).sum()) - bank.ln_rate0 + float(simulator.ln_total)


def _matches(
    o: Observations,
    light: np.ndarray,
    noise: np.ndarray,
    precision: np.ndarray,
    simulator: Simulator,
    rows: np.ndarray,
    owner: np.ndarray,
    ln_fixed: np.ndarray,
    offset: np.ndarray,
) -> Matches:
    place = places(owner)
    row, host = np.unique(rows, return_inverse=True)
    real, whole = functools.partial(jnp.asarray, dtype=jnp.float32), functools.partial(jnp.asarray, dtype=jnp.int32)
    return Matches(
        m=real(o.m),
        light=real(light),
        noise=real(noise),
        precision=real(precision),
        hosts=simulator.table[row],
        host=whole(whole_batches(host)),
        owner=whole(whole_batches(owner)),
        ln_fixed=real(whole_batches(ln_fixed)),
        grey=real(whole_batches(offset)),
        place=whole(place),
        row=whole(rows[place]),
    )


def check_covered(config: Config, photometry: bool = True) -> None:
    """Raise ValueError in one line for a variant of the model without this likelihood, of the light alone or of `photometry` too."""
    o = config.observation
    if config.supernovae.dust == "local":
        raise ValueError("exact likelihood: expected supernovae.dust 'independent' or 'host', got 'local'; use simulation-based inference")
    if photometry and o.host_errors != "constant":  # errors that follow the true magnitude are themselves data on it
        raise ValueError(
            f"exact likelihood: expected observation.host_errors 'constant', got {o.host_errors!r}; use simulation-based inference"
        )
    for name, model in (("sn_m", o.sn_m), ("sn_x", o.sn_x), ("sn_c", o.sn_c)):
        if model.slope != 0 and model.scatter == 0:
            raise ValueError(
                f"exact likelihood: expected observation.{name} with scatter > 0 where its slope is not zero, got 0; set the scatter"
            )


def informative_errors(config: Config) -> dict[str, ErrorModel]:
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
    informative = informative_errors(config)
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


def _modulus_limits(config: Config, z: np.ndarray, grey: tuple[float, float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest μ_M(z) to allow for, mag."""
    if grey is not None:
        fiducial = np.asarray(transverse_modulus(FIDUCIAL, jnp.asarray(z, jnp.float32), config.hosts.z_max), np.float64)
        return fiducial + grey[0], fiducial + grey[1]
    corners = [_corner(c, config.flat) for c in itertools.product(*(config.reach(name) for name in COSMOLOGY))]
    at = jnp.asarray(z, jnp.float32)
    moduli = np.stack([np.asarray(_jitted_modulus(corner, at, config.hosts.z_max), np.float64) for corner in dict.fromkeys(corners)])
    return moduli.min(0), moduli.max(0)


_jitted_modulus = jax.jit(transverse_modulus, static_argnums=2)  # one for all catalogues, as `hosts._jitted_ln_rate` for all banks


def _corner(values: tuple[float, ...], flat: bool) -> Globals:
    om, ode, w0, wa = values
    return FIDUCIAL._replace(Om0=om, Ode0=1 - om if flat else ode, w0=w0, wa=wa)


class _Distances(NamedTuple):
    """How far every host of a bank is from one object."""

    grey: np.ndarray  # weighted mean of mag − M_h, mag
    chi2: np.ndarray  # of the colours and the spectroscopic redshift
    least: np.ndarray  # the same with the grey offset at its best within the limits
    ln_constant: float


def _distances(i: int, o: Observations, bank: Any, limits: tuple[np.ndarray, np.ndarray]) -> _Distances:
    band = np.isfinite(o.mag[i]) & np.isfinite(o.mag_err[i])
    weight, offset = o.mag_err[i, band] ** -2, o.mag[i, band] - bank.magnitude[:, band]
    grey = offset @ weight / max(weight.sum(), np.finfo(float).tiny)
    chi2 = (offset - grey[:, None]) ** 2 @ weight
    ln_constant = 0.5 * np.log(weight / (2 * np.pi)).sum()
    if np.isfinite(o.z_spec[i]):
        chi2 = chi2 + ((o.z_spec[i] - bank.z) / o.z_spec_err[i]) ** 2
        ln_constant -= 0.5 * math.log(2 * math.pi) + math.log(o.z_spec_err[i])
    outside = np.maximum(np.maximum(limits[0] - grey, grey - limits[1]), 0.0)
    return _Distances(grey, chi2, chi2 + weight.sum() * outside**2, ln_constant)


def _match(
    i: int, o: Observations, bank: Any, limits: tuple[np.ndarray, np.ndarray], ln_weight: np.ndarray, sigmas: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of `Simulator.table` that object i can have, the ln of their fixed factors and their grey offsets."""
    d = _distances(i, o, bank, limits)
    rows = np.nonzero(d.least <= d.least.min() + sigmas**2)[0]
    return rows, (ln_weight - 0.5 * d.chi2)[rows] + d.ln_constant, d.grey[rows]


def places(owner: Int[np.ndarray, "pair"]) -> Int[np.ndarray, "sn candidate"]:
    """Indices of each object's pairs, which follow each other, −1 beyond the last."""
    number = np.bincount(owner)
    column = np.arange(number.max())
    return np.where(column < number[:, None], (np.cumsum(number) - number)[:, None] + column, -1)


def whole_batches(values: np.ndarray) -> np.ndarray:
    """Repeats of the first pair, which no `place` names, so that no batch is left over and compiled for itself."""
    return np.concatenate([values, np.repeat(values[:1], -len(values) % BATCH)])


def _detection(z: np.ndarray, m: np.ndarray, config: Config, simulator: Simulator) -> np.ndarray:
    probability = detection_probability(jnp.asarray(z, jnp.float32), jnp.asarray(m, jnp.float32), config.selection, simulator.detection)
    return np.asarray(probability, np.float64)

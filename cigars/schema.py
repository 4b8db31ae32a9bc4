"""Names, units and array layouts of everything that crosses a package boundary.

This is the only table of column names: a numpyro site, a prior key, a catalogue or truth column and a report label
all use the names below. The module is a leaf: it imports numpy alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "CATALOGUE",
    "COSMOLOGY",
    "FIDUCIAL",
    "GLOBALS",
    "HUBBLE_DISTANCE_MPC",
    "LATENTS",
    "LOCALS",
    "RANDOM_STREAM",
    "Column",
    "DistanceTable",
    "Galaxies",
    "Globals",
    "Latents",
    "Marginal",
    "Observations",
    "Survey",
    "column",
]

COSMOLOGY = ("Om0", "Ode0", "w0", "wa")
"""The parameters of the expansion history."""

HUBBLE_DISTANCE_MPC = 299_792.458 / 70.0
"""c / H_0, with a fixed H_0, which is degenerate with the standard absolute magnitude (forward model §1)."""

RANDOM_STREAM = 5
"""Raised whenever the simulator makes another survey of the same key: a part of fingerprints, so that a store or a training begun with the
simulator of before is not continued."""

Array = Any  # a numpy, JAX or torch array: the schema does not choose the framework


class Column(NamedTuple):
    """A named quantity: unit as astropy writes it ("" for a pure number), meaning in words, label for figures (LaTeX)."""

    name: str
    unit: str
    meaning: str
    label: str


class Globals(NamedTuple):
    """Global parameters Θ of a survey, each a scalar or an array over surveys (forward model §1)."""

    Om0: Array
    Ode0: Array
    w0: Array
    wa: Array
    dtd_logA: Array
    dtd_slope: Array
    M0: Array
    sigma_int: Array
    alpha: Array
    beta: Array
    alpha_c: Array
    mass_step: Array
    mass_step_loc: Array
    gamma_Z: Array
    gamma_age: Array


class Galaxies(NamedTuple):
    """Host galaxies of the population (forward model §3); leading axes are free, `sfr_ratios_log10` has six trailing entries."""

    z: Array
    mass_log10_msun: Array  # total stellar mass formed
    metallicity_log10_zsun: Array
    sfr_ratios_log10: Array  # log10(SFR_i / SFR_{i+1}) of adjacent age bins, youngest first
    dust_tau2: Array
    dust_index: Array
    dust_ratio: Array
    gas_metallicity_log10_zsun: Array
    agn_fraction_ln: Array
    agn_tau_ln: Array


class Observations(NamedTuple):
    """What a survey records of each supernova and its host; NaN marks what was not observed.

    All have shape [..., sn] except `mag` and `mag_err`, [..., sn, band] in the order of the configured bands (AB mag).
    """

    mag: Array
    mag_err: Array
    m: Array
    x: Array
    c: Array
    var_m: Array
    var_x: Array
    var_c: Array
    cov_mx: Array
    cov_mc: Array
    cov_xc: Array
    z_spec: Array
    z_spec_err: Array


class Latents(NamedTuple):
    """Truth of each supernova and its host, shape [..., sn]; saved beside a mock and never given to inference."""

    z: Array
    mass_log10_msun: Array
    metallicity_log10_zsun: Array
    dust_tau2: Array
    dust_index: Array
    dust_ratio: Array
    gas_metallicity_log10_zsun: Array
    age_gyr: Array
    R_V: Array
    A_V: Array
    x_int: Array
    c_int: Array
    delta_M: Array


class Survey(NamedTuple):
    """One survey, or a batch of them on the leading axes.

    Object arrays have a static capacity: the first `number` rows are the detected objects, marked True in `observed`,
    and the rest is padding. `host` is the row of each object's host in `Simulator.table`, without the hosts of the bank that no
    cosmology of the prior shows. `exposure`, area × time, is relative to the configured size.
    """

    theta: Globals
    observations: Observations
    latents: Latents
    observed: Array
    host: Array
    number: Array
    exposure: Array = np.float32(1)


class Marginal(NamedTuple):
    """Prior of one parameter: uniform on [low, high]; normal(loc, scale) truncated to [low, high]; or fixed at loc."""

    kind: str
    loc: float
    scale: float
    low: float
    high: float


class DistanceTable(NamedTuple):
    """Distance modulus `mu` (mag, luminosity distance) of one cosmology on the increasing redshift grid `z`."""

    z: Array
    mu: Array


FIDUCIAL = Globals(
    Om0=0.3,
    Ode0=0.7,
    w0=-1.0,
    wa=0.0,
    dtd_logA=-12.15,
    dtd_slope=-1.34,
    M0=-19.5,
    sigma_int=0.1,
    alpha=-0.14,
    beta=2.2,
    alpha_c=0.0,
    mass_step=-0.05,
    mass_step_loc=10.0,
    gamma_Z=-0.1,
    gamma_age=-0.03,
)

GLOBALS = (
    Column("Om0", "", "matter density", r"$\Omega_m$"),
    Column("Ode0", "", "dark-energy density", r"$\Omega_\Lambda$"),
    Column("w0", "", "dark-energy equation of state today", r"$w_0$"),
    Column("wa", "", "evolution of the dark-energy equation of state (CPL)", r"$w_a$"),
    Column("dtd_logA", "", "log10 of the DTD amplitude at 1 Gyr, SNe / yr / Msun formed", r"$\log A$"),
    Column("dtd_slope", "", "DTD power-law index", r"$s$"),
    Column("M0", "mag", "standard absolute magnitude for h = 0.7", r"$M_0$"),
    Column("sigma_int", "mag", "residual intrinsic scatter", r"$\sigma_0$"),
    Column("alpha", "mag", "stretch coefficient (M includes +alpha x)", r"$\alpha$"),
    Column("beta", "", "intrinsic-colour coefficient (M includes +beta c)", r"$\beta$"),
    Column("alpha_c", "mag", "slope of mean intrinsic colour with stretch", r"$\alpha_c$"),
    Column("mass_step", "mag", "magnitude step above the mass threshold", r"$\Delta M$"),
    Column("mass_step_loc", "", "log10 M/Msun of the mass step", r"$\log M_{\rm step}$"),
    Column("gamma_Z", "mag / dex", "magnitude per dex of progenitor metallicity", r"$\gamma_Z$"),
    Column("gamma_age", "mag / Gyr", "magnitude per Gyr of progenitor age", r"$\gamma_{\rm age}$"),
)

LATENTS = (
    Column("z", "", "redshift", r"$z$"),
    Column("mass_log10_msun", "dex(Msun)", "stellar mass formed", r"$\log M/M_\odot$"),
    Column("metallicity_log10_zsun", "", "stellar metallicity, log10 Z/Zsun with Zsun = 0.02", r"$\log Z/Z_\odot$"),
    Column("dust_tau2", "", "optical depth of the diffuse dust at 5500 A", r"$\tau_2$"),
    Column("dust_index", "", "slope offset of the diffuse attenuation curve", r"$\delta$"),
    Column("dust_ratio", "", "birth-cloud to diffuse optical depth", r"$\tau_1/\tau_2$"),
    Column("gas_metallicity_log10_zsun", "", "gas metallicity, log10 Z/Zsun", r"$\log Z_{\rm gas}/Z_\odot$"),
    Column("age_gyr", "Gyr", "progenitor age", r"age [Gyr]"),
    Column("R_V", "", "total-to-selective extinction of the dust before the supernova", r"$R_V$"),
    Column("A_V", "mag", "extinction of the supernova", r"$A_V$"),
    Column("x_int", "", "stretch", r"$x_{\rm int}$"),
    Column("c_int", "mag", "intrinsic colour", r"$c_{\rm int}$"),
    Column("delta_M", "mag", "shift of brightness with mass, metallicity and age", r"$\delta M$"),
)

LOCALS = ("z", "mass_log10_msun", "metallicity_log10_zsun", "dust_tau2", "dust_index", "x_int", "c_int", "age_gyr")
"""The per-object unknowns that the local posterior gives, in its order."""

CATALOGUE = (
    Column("id", "", "identifier of the object, unique in the catalogue", "id"),
    Column("mag_{band}", "mag(AB)", "host magnitude; masked or NaN where not observed", "{band}"),
    Column("mag_err_{band}", "mag", "standard deviation of the host magnitude", r"$\sigma_{band}$"),
    Column("m", "mag", "apparent peak magnitude of the supernova, rest-frame B", r"$m$"),
    Column("x", "", "stretch", r"$x$"),
    Column("c", "mag", "colour", r"$c$"),
    Column("var_m", "mag2", "variance of m", r"$W_m$"),
    Column("var_x", "", "variance of x", r"$W_x$"),
    Column("var_c", "mag2", "variance of c", r"$W_c$"),
    Column("cov_mx", "mag", "covariance of m and x", r"$C_{mx}$"),
    Column("cov_mc", "mag2", "covariance of m and c", r"$C_{mc}$"),
    Column("cov_xc", "mag", "covariance of x and c", r"$C_{xc}$"),
    Column("z_spec", "", "spectroscopic redshift", r"$z_{\rm spec}$"),
    Column("z_spec_err", "", "standard deviation of the spectroscopic redshift", r"$\sigma_{z,{\rm spec}}$"),
    Column("p_ia", "", "probability that the supernova is of type Ia", r"$P({\rm Ia})$"),
)

OPTIONAL = ("cov_mx", "cov_mc", "cov_xc", "z_spec", "z_spec_err", "p_ia")
"""Catalogue columns that may be absent: covariances are then zero, redshifts unknown."""


def column(name: str) -> Column:
    """Entry of a global parameter, latent or plain catalogue column; raises KeyError naming the unknown column."""
    for entry in GLOBALS + LATENTS + CATALOGUE:
        if entry.name == name:
            return entry
    raise KeyError(f"no column called {name!r} in the schema")

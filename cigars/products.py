r"""What a joint posterior says beyond its parameters, as tables: Hubble diagram, brightness against hosts, DTD, mass function, N(z).

Every number is computed draw by draw, with the hosts of draw k at Θ_k, and then summarised: bands hold the uncertainty of redshifts,
hosts and parameters together, and covariances are those of the joint posterior. Columns have units and descriptions, in ASCII for FITS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from jaxtyping import Float
from numpy import ndarray

from cigars.cosmology import distance_modulus
from cigars.files import FileError, replacing
from cigars.posterior import Posterior
from cigars.schema import COSMOLOGY, LOCALS, Column, column
from cigars.tables import write_table

__all__ = ["HOST_AXES", "brightness", "dtd", "hubble_curve", "hubble_diagram", "mass_function", "products", "redshift_distribution"]

HOST_AXES = ("mass_log10_msun", "metallicity_log10_zsun", "age_gyr")
QUANTILES = {"q025": 0.025, "q16": 0.16, "q50": 0.5, "q84": 0.84, "q975": 0.975}
MODEL = "distance modulus that the model has at the redshift of each draw, for the cosmology of that draw, not data"
ERROR = (
    "spread of the draws of mu_sn (with that of M0, which all objects share), error of m and intrinsic scatter: no less than the error of "
    "mu_sn_mean but for dust, and more than it where x_int and c_int follow m"
)
DATA = (
    "standardised magnitude, m - M0 - alpha x_int - beta c_int - delta_M of each draw, without dust taken off; x_int and c_int are drawn "
    "given m and the model, so that it is pulled to mu: for looking, not for fitting a cosmology"
)
Columns = dict[str, tuple[Any, str, str]]
"""Values, unit and description by name."""


def hubble_diagram(posterior: Posterior) -> Table:
    r"""A row an object: posterior of its redshift, of the distance modulus there, and of its standardised magnitude.

    `mu` is $\mu(z_{ik}; \Theta_k)$, the model; `mu_sn` is $m_i - M_0 - \alpha x_{ik} - \beta c_{ik} - \delta M_{ik}$ of the same draw, from
    which the dust before the supernova is not removed; NaN where its light was hidden. `mu_sn_sd` is the spread of its draws, at the
    observed m; `mu_sn_error` has the error of m and the intrinsic scatter as well. In both is the spread of M_0, which all objects
    share, and the model: $x_{ik}$ and $c_{ik}$ are drawn given m, and take up part of what an object is off, most where errors are large.
    `cov_z_mu` is what a Hubble diagram with redshift errors alone leaves out.

    Raises:
        ValueError: for a posterior of one draw, which has no widths.
    """
    if posterior.draws < 2:
        raise ValueError("products: expected at least two draws of the posterior, got one; infer with more --draws")
    z, theta = posterior["z"].astype(np.float64), posterior.parameters()
    mu = _moduli(z, theta)
    light = sum(theta[a][:, None] * posterior[b] for a, b in (("alpha", "x_int"), ("beta", "c_int")))
    standard = posterior.observations.m - theta["M0"][:, None] - light - sum(_shifts(posterior).values())
    columns: Columns = {"id": (np.asarray(posterior.ids), "", column("id").meaning)}
    for name, values, unit, what in (("z", z, "", "redshift"), ("mu", mu, "mag", MODEL), ("mu_sn", standard, "mag", DATA)):
        columns[f"{name}_mean"] = values.mean(0), unit, f"mean over the draws: {what}"
        columns[f"{name}_sd"] = values.std(0, ddof=1), unit, f"standard deviation over the draws: {what}"
    noise = posterior.observations.var_m + np.mean(theta["sigma_int"] ** 2)
    columns["mu_sn_error"] = np.sqrt(standard.var(0, ddof=1) + noise), "mag", ERROR
    covariance = ((z - z.mean(0)) * (mu - mu.mean(0))).sum(0) / (len(z) - 1)
    columns["cov_z_mu"] = covariance, "mag", f"covariance over the draws: redshift and mu, the {MODEL}"
    return _table(columns)


def hubble_curve(posterior: Posterior, nodes: int = 120) -> Table:
    """Distance modulus of the posterior cosmologies on a grid of redshifts over the sample."""
    z = posterior["z"]
    grid = np.linspace(max(0.01, float(np.quantile(z, 0.001))), float(np.quantile(z, 0.999)), nodes)
    theta = posterior.parameters()
    mu = np.stack([_modulus(grid, theta, k) for k in range(posterior.draws)])
    return _table({"z": (grid, "", "redshift"), **_band(mu, "mag", "distance modulus of the cosmology of each draw")})


def brightness(posterior: Posterior, axis: str, bins: int = 12) -> Table:
    r"""Mean δM [mag] of the sample in bins of a host property, relative to the sample's mean, and what each effect contributes.

    $\delta M = \gamma_Z \log Z/Z_\odot + \gamma_{\rm age}\,{\rm age} + \Delta M\,[\log M > \log M_{\rm step}]$ draw by draw. In mass,
    `metallicity` and `age` show the step that they mimic beside the true `step`.

    Args:
        posterior: with objects.
        axis: one of `HOST_AXES`.
        bins: of equal numbers of draws; fewer where the hosts of the draws are few and repeat.

    Raises:
        ValueError: for another axis.
    """
    if axis not in HOST_AXES:
        raise ValueError(f"brightness: expected an axis of {', '.join(HOST_AXES)}, got {axis!r}")
    x = posterior[axis].astype(np.float64)
    edges = _filled(x, np.quantile(x, np.linspace(0.002, 0.998, bins + 1)))
    bins = len(edges) - 1
    where = np.clip(np.searchsorted(edges, x) - 1, -1, bins)
    parts = {name: value - value.mean(1, keepdims=True) for name, value in _shifts(posterior).items()}
    parts = {"delta_M": sum(parts.values()), **parts}
    means = {name: _binned(value, where, bins) for name, value in parts.items()}
    entry, unlike = column(axis), "mean in the bin less that of the sample"
    table = _edges(edges, entry.unit, entry.meaning)
    table["centre"] = np.nanmean(_binned(x, where, bins), 0), entry.unit, f"mean in the bin over objects and draws: {entry.meaning}"
    table |= {f"delta_M_{k}": v for k, v in _band(means["delta_M"], "mag", f"{column('delta_M').meaning}, {unlike}").items()}
    for name in list(parts)[1:]:
        band = _band(means[name], "mag", f"part of delta_M by the {name} term alone, {unlike}")
        table |= {f"{name}_{k}": v for k, v in band.items() if k in ("mean", "q16", "q84")}
    return _table(table, {"axis": axis})


def dtd(posterior: Posterior, nodes: int = 100) -> Table:
    r"""Delay-time distribution $A\,(t / 1\,{\rm Gyr})^s$ in SNe / yr / Msun formed, from 0.1 Gyr, where it begins, to 13.5 Gyr."""
    t, theta = np.geomspace(0.1, 13.5, nodes), posterior.parameters()
    rate = 10 ** (theta["dtd_logA"][:, None] + theta["dtd_slope"][:, None] * np.log10(t))
    delay = {"delay_gyr": (t, "Gyr", "time since the stars formed")}
    return _table(delay | _band(rate, "1 / (yr Msun)", "rate of supernovae of type Ia per stellar mass formed"))


def mass_function(posterior: Posterior, width: float = 0.25) -> Table:
    """Number of hosts in bins of stellar mass formed [dex], with its covariance between bins (one row of it a bin)."""
    return _counts(posterior, "mass_log10_msun", np.arange(8.0, 12.5 + width / 2, width))


def redshift_distribution(posterior: Posterior, width: float = 0.05) -> Table:
    """N(z) of the sample in bins of redshift, with its covariance between bins: that of the joint posterior, without Poisson noise."""
    return _counts(posterior, "z", np.arange(0, float(posterior["z"].max()) + width, width))


def products(posterior: Posterior, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Write every table as FITS and every figure as PDF and PNG into a folder.

    Raises:
        FileError: where a file exists and `overwrite` is false, or the posterior holds no objects.
        ValueError: for a posterior of one draw.
    """
    from cigars.report.products import FIGURES
    from cigars.report.style import write_pdf, write_png

    if missing := [n for n in LOCALS if n not in posterior]:
        raise FileError(f"products: expected a posterior with its objects, got none of {', '.join(missing)}; infer it again")
    folder = Path(folder)
    tables = {
        "hubble": hubble_diagram(posterior), "hubble_curve": hubble_curve(posterior), "dtd": dtd(posterior),
        "mass_function": mass_function(posterior), "n_of_z": redshift_distribution(posterior),
        **{f"brightness_{axis.split('_')[0]}": brightness(posterior, axis) for axis in HOST_AXES},
    }  # fmt: skip
    paths = [folder / f"{name}.fits" for name in tables]
    paths += [folder / f"{name}.{kind}" for name in FIGURES for kind in ("pdf", "png")]
    if not overwrite and (old := [p for p in paths if p.exists()]):
        raise FileError(f"{old[0]}: exists already and is left as it is; name another folder or allow overwriting (--overwrite)")
    folder.mkdir(parents=True, exist_ok=True)
    meta = {k: v for k, v in posterior.attributes.items() if k in ("fingerprint", "seed", "created", "command", "weighted_by")}
    for name, table in tables.items():
        write_table(folder / f"{name}.fits", _described(table), {**meta, **table.meta}, overwrite)
    for name, draw in FIGURES.items():
        figure = draw(posterior)
        for kind, write in (("pdf", write_pdf), ("png", write_png)):
            with replacing(folder / f"{name}.{kind}", overwrite) as path:
                write(figure, path)
    return paths


def _table(columns: Columns, meta: dict[str, Any] | None = None) -> Table:
    values, units, descriptions = ({name: entry[k] for name, entry in columns.items()} for k in range(3))
    return Table(values, units={name: unit for name, unit in units.items() if unit}, descriptions=descriptions, meta=meta)


def _described(table: Table) -> dict[str, tuple[Any, Column]]:
    return {n: (np.asarray(table[n]), Column(n, str(table[n].unit or ""), table[n].description, n)) for n in table.colnames}


def _shifts(posterior: Posterior) -> dict[str, Float[ndarray, "draw object"]]:
    """The three parts of δM [mag] of every object in every draw."""
    theta = posterior.parameters()
    of = lambda name: theta[name][:, None]  # noqa: E731
    return {
        "step": np.where(posterior["mass_log10_msun"] > of("mass_step_loc"), of("mass_step"), 0.0),
        "metallicity": of("gamma_Z") * posterior["metallicity_log10_zsun"],
        "age": of("gamma_age") * posterior["age_gyr"],
    }


def _modulus(z: ndarray, theta: dict[str, ndarray], k: int) -> ndarray:
    return distance_modulus(z, *(theta[n][k : k + 1] for n in COSMOLOGY))[0]


def _moduli(z: Float[ndarray, "draw object"], theta: dict[str, ndarray]) -> Float[ndarray, "draw object"]:
    """μ(z_ik; Θ_k), interpolated in ln z: smooth."""
    grid = np.geomspace(max(float(z.min()), 1e-4) * 0.99, float(z.max()) * 1.01, 300)
    return np.stack([np.interp(np.log(np.maximum(z[k], 1e-4)), np.log(grid), _modulus(grid, theta, k)) for k in range(len(z))])


def _filled(values: Float[ndarray, "draw object"], edges: ndarray) -> ndarray:
    """The edges of bins that hold a draw, an empty one joined to the next; what lies on the lowest edge is inside."""
    edges = np.append(np.nextafter(edges[0], -np.inf), edges[1:])
    number = np.histogram(np.searchsorted(edges, values) - 1, np.arange(len(edges)) - 0.5)[0]
    return np.append(edges[0], edges[1:][number > 0])


def _binned(values: Float[ndarray, "draw object"], where: ndarray, bins: int) -> Float[ndarray, "draw bin"]:
    """Mean of each draw's objects in each bin; NaN where it has none."""
    out = np.full((len(values), bins), np.nan)
    for b in range(bins):
        inside = where == b
        count = inside.sum(1)
        np.divide((values * inside).sum(1), count, out=out[:, b], where=count > 0)
    return out


def _band(values: Float[ndarray, "draw node"], unit: str, what: str) -> Columns:
    """Mean and quantiles over the draws."""
    band: Columns = {"mean": (np.nanmean(values, 0), unit, f"mean over the draws: {what}")}
    return band | {
        k: (np.nanquantile(values, q, axis=0), unit, f"{100 * q:g} % quantile over the draws: {what}") for k, q in QUANTILES.items()
    }


def _edges(edges: ndarray, unit: str, what: str) -> Columns:
    return {name: (at, unit, f"{name} edge of the bin: {what}") for name, at in (("low", edges[:-1]), ("high", edges[1:]))}


def _counts(posterior: Posterior, name: str, edges: ndarray) -> Table:
    """Numbers in bins, draw by draw: mean, quantiles and covariance."""
    counts = np.stack([np.histogram(row, edges)[0] for row in posterior[name]]).astype(np.float64)
    covariance = np.atleast_2d(np.cov(counts.T)) if len(counts) > 1 else np.full((len(edges) - 1,) * 2, np.nan)
    rows = {"covariance": (covariance, "", "row of the covariance over the draws, of this number with that in each bin")}
    band = _band(counts, "", "number of objects in the bin")
    return _table(_edges(edges, column(name).unit, column(name).meaning) | band | rows)

"""Hubble diagram: standardised supernova magnitudes against posterior redshifts, with the cosmology of the posterior.

μ_i = m_i − α x_i − β c_i − M_0 with posterior-mean coefficients; Var μ_i = J C_i Jᵀ + σ_0², J = (1, −α, −β), C_i the 3×3
covariance of (m, x, c). The curve is μ(z) = 5 log10[(1+z) d_M / 10 pc] (Hogg 1999), H_0 = 70 km/s/Mpc (degenerate with M_0).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cigars.cosmology import distance_modulus
from cigars.report.inputs import ReportInputs
from cigars.report.style import BAND, INK, draw_points, new_figure, styled
from cigars.schema import COSMOLOGY

__all__ = ["NEEDED", "HubbleData", "hubble_data", "hubble_figure", "with_light_curve"]

NEEDED = ("m", "x", "c", "var_m", "var_x", "var_c")
"""Columns of the catalogue that the diagram is made from."""


class HubbleData(NamedTuple):
    """Points of the diagram, shape [object]: redshift and distance modulus [mag] with standard deviations.

    `residual` is mu minus the posterior-mean modulus at z, `offset` the median that was removed from mu: the mean effect of
    dust and hosts on brightness, which the standardisation does not model. `unreached` is the share of the cosmologies that have no
    distance at some redshift of the sample, and are left out of the curve.
    """

    z: np.ndarray
    z_sd: np.ndarray
    mu: np.ndarray
    mu_sd: np.ndarray
    residual: np.ndarray
    offset: float
    unreached: float


def with_light_curve(inputs: ReportInputs) -> np.ndarray:
    """Which objects have a light-curve fit, all of whose NEEDED columns are then known, [object]; `cigars infer --hide sn` leaves none."""
    return np.all([np.isfinite(getattr(inputs.posterior.observations, name)) for name in NEEDED], axis=0)


def hubble_data(inputs: ReportInputs) -> HubbleData:
    """Standardised magnitudes and redshifts of the objects with a light-curve fit; needs local draws of z and the columns NEEDED.

    Raises:
        ValueError: where no cosmology of the posterior has distances at the redshifts of the objects.
    """
    theta = inputs.posterior.parameters()
    alpha, beta, M0, sigma = (float(theta[n].mean()) for n in ("alpha", "beta", "M0", "sigma_int"))
    seen = with_light_curve(inputs)
    m, x, c = (_observed(inputs, n)[seen] for n in "mxc")
    draws = inputs.posterior["z"][:, seen]
    z, z_sd = draws.mean(0, dtype=np.float64), draws.std(0, ddof=1, dtype=np.float64)
    mu = m - alpha * x - beta * c - M0
    curve, unreached = _mean_curve(inputs, z)
    residual = mu - curve
    offset = float(np.median(residual))
    return HubbleData(z, z_sd, mu - offset, np.sqrt(_variance(inputs, alpha, beta)[seen] + sigma**2), residual - offset, offset, unreached)


@styled
def hubble_figure(inputs: ReportInputs) -> Figure:
    """Hubble diagram over its residuals, with the 95 % band of the posterior cosmology and means of the residuals in bins."""
    data = hubble_data(inputs)
    figure = new_figure(5.8, 5.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    grid = np.linspace(max(0.01, data.z.min() * 0.85), data.z.max() * 1.04, 120)
    cosmologies, _ = _reaching(inputs, data.z)
    curves = distance_modulus(grid, **cosmologies)
    mean = curves.mean(0)
    # the mean offset of the sample is removed from the points, so the band shows the shape of the curves: pinned at the median redshift
    pivot = distance_modulus(np.array([np.median(data.z)]), **cosmologies)
    low, high = np.quantile(curves - pivot + pivot.mean(), (0.025, 0.975), axis=0)
    for axes, shift, points in ((top, 0.0, data.mu), (bottom, mean, data.residual)):
        draw_points(axes, data.z, points, xerr=data.z_sd, yerr=data.mu_sd)
        axes.fill_between(grid, low - shift, high - shift, color=BAND, zorder=2.2, alpha=0.9, linewidth=0, label="95 % of the posterior")
        axes.plot(grid, mean - shift, color=INK, linewidth=1.2, zorder=3, label="posterior-mean cosmology")
    _draw_binned(bottom, data.z, data.residual)
    top.set_ylabel(r"$m - \alpha x - \beta c - M_0$  [mag]")
    bottom.set(ylabel="residual [mag]", xlabel=r"redshift $z$ (posterior mean, bar: sd)")
    spread = np.quantile(np.abs(data.residual), 0.995)
    bottom.set_ylim(-1.1 * spread, 1.1 * spread)
    handles, labels = bottom.get_legend_handles_labels()
    top.legend(handles, labels, loc="lower right")
    return figure


def _draw_binned(axes, z: np.ndarray, residual: np.ndarray) -> None:
    """Medians of the residuals in ten bins of equal numbers, with standard errors (1.253 sd/√n for a median)."""
    groups = [g for g in np.array_split(np.argsort(z), min(10, max(1, z.size // 10))) if g.size > 3]
    centre = [np.median(z[g]) for g in groups]
    value = [np.median(residual[g]) for g in groups]
    error = [1.253 * residual[g].std(ddof=1) / np.sqrt(g.size) for g in groups]
    axes.errorbar(
        centre,
        value,
        error,
        fmt="s",
        color="#E69F00",
        markeredgecolor=INK,
        markersize=5,
        ecolor=INK,
        elinewidth=1.2,
        zorder=4,
        label="median in bins",
    )


def _mean_curve(inputs: ReportInputs, z: np.ndarray) -> tuple[np.ndarray, float]:
    """Distance modulus at `z` averaged over the posterior cosmologies (interpolated: smooth in z), and the share of those left out."""
    grid = np.geomspace(max(1e-4, z.min() * 0.99), z.max() * 1.01, 200)
    cosmologies, unreached = _reaching(inputs, z)
    return np.interp(np.log(z), np.log(grid), distance_modulus(grid, **cosmologies).mean(0)), unreached


def _reaching(inputs: ReportInputs, z: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    """Some 400 of the posterior's cosmologies, enough for a mean and a band, that have distances beyond all `z`; the share of others."""
    theta = inputs.posterior.parameters()
    thinned = {name: theta[name][:: max(1, theta[name].size // 400)] for name in COSMOLOGY}
    reached = np.isfinite(distance_modulus(np.linspace(0.01, 1.04 * z.max(), 50), **thinned)).all(1)
    if not reached.any():
        raise ValueError(
            f"Hubble diagram: expected a cosmology of the posterior with distances up to z = {z.max():.2f}, got none; narrow the prior of "
            "Om0 and Ode0 to universes with a Big Bang"
        )
    return {name: draws[reached] for name, draws in thinned.items()}, 1 - float(reached.mean())


def _variance(inputs: ReportInputs, alpha: float, beta: float) -> np.ndarray:
    var_m, var_x, var_c, mx, mc, xc = (_observed(inputs, n) for n in ("var_m", "var_x", "var_c", "cov_mx", "cov_mc", "cov_xc"))
    return var_m + alpha**2 * var_x + beta**2 * var_c - 2 * alpha * mx - 2 * beta * mc + 2 * alpha * beta * xc


def _observed(inputs: ReportInputs, name: str) -> np.ndarray:
    return np.asarray(getattr(inputs.posterior.observations, name), dtype=np.float64)

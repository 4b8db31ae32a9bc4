"""Figures of the local posterior: redshifts and host properties of each object against what is true.

A scatter of posterior means with their standard deviations, and the two checks of calibration that need no choice of
point estimate: pulls against a unit normal, and the probability integral transform against uniform.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from cigars.report.figures import draw_rank_histogram
from cigars.report.inputs import FEWEST_RANKS, ReportInputs, local_parameters, reference_redshift
from cigars.report.statistics import OUTLIER, error_ratio, pit, pulls
from cigars.report.style import BAND, INK, POSTERIOR, TRUTH, draw_points, grid_of_axes, new_figure, styled
from cigars.report.tables import axis_label

__all__ = ["calibration_figure", "distribution_figure", "host_figure", "redshift_figure", "redshift_pairs"]


def redshift_pairs(inputs: ReportInputs) -> tuple[str, np.ndarray, np.ndarray] | None:
    """Kind of the reference redshift, posterior draws [draw, object] and reference [object], of the objects that have one."""
    reference = reference_redshift(inputs)
    if reference is None:
        return None
    kind, z = reference
    known = np.isfinite(z)
    return kind, inputs.posterior["z"][:, known], z[known]


@styled
def redshift_figure(inputs: ReportInputs) -> Figure:
    """Posterior-mean redshift against the true (or spectroscopic) one, over Δz/(1+z); outliers ringed."""
    kind, draws, z = _required_pairs(inputs)
    z_hat, sd = draws.mean(0, dtype=np.float64), draws.std(0, ddof=1, dtype=np.float64)
    delta = (z_hat - z) / (1 + z)
    figure = new_figure(5.2, 5.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1])
    span = np.array([0, 1.05 * max(z.max(), z_hat.max())])
    draw_points(top, z, z_hat, yerr=sd)
    top.plot(span, span, color=INK, linewidth=0.9)
    top.fill_between(
        span, span - OUTLIER * (1 + span), span + OUTLIER * (1 + span), color="#EFEFEF", zorder=0, label=f"|Δz|/(1+z) < {OUTLIER}"
    )
    draw_points(bottom, z, delta, yerr=sd / (1 + z))
    bottom.axhline(0, color=INK, linewidth=0.9)
    outlier = np.abs(delta) > OUTLIER
    for axes, y in ((top, z_hat), (bottom, delta)):
        axes.plot(
            z[outlier],
            y[outlier],
            "o",
            markerfacecolor="none",
            markeredgecolor=TRUTH,
            markersize=7,
            label="outlier" if outlier.any() else None,
        )
    top.set(ylabel="posterior-mean redshift", xlim=span, ylim=span)
    top.legend(loc="upper left")
    reach = 1.15 * np.abs(delta).max() or 0.05  # all exact: any width
    bottom.set(xlabel=f"{kind} redshift", ylabel=r"$\Delta z / (1 + z)$", ylim=(-reach, reach))
    return figure


@styled
def calibration_figure(inputs: ReportInputs) -> Figure:
    """Pulls of the redshifts against a unit normal, and their probability integral transform with a 99 % band."""
    _, draws, z = _required_pairs(inputs)
    figure = new_figure(6.4, 2.7)
    left, right = figure.subplots(1, 2)
    values = pulls(draws, z)
    grid = np.linspace(-4, 4, 161)
    left.hist(
        np.clip(values, -4, 4),
        bins=33,
        range=(-4, 4),
        density=values.size > 0,
        histtype="stepfilled",
        color=BAND,
        edgecolor=POSTERIOR,
        linewidth=1.2,
    )
    left.plot(grid, stats.norm.pdf(grid), color=INK, linewidth=1.2, label="unit normal")
    left.set(xlabel="pull (mean − reference) / sd", ylabel="density", ylim=(0, None))
    title = f"mean {values.mean():+.2f}, sd {values.std(ddof=1):.2f}".replace("-", "−") if values.size > 1 else "no redshift has a width"
    left.set_title(title)
    left.legend(loc="upper right")
    left.set_ylim(0, left.get_ylim()[1] * 1.15)
    if z.size >= FEWEST_RANKS:
        draw_rank_histogram(right, pit(draws, z), draws.shape[0])
    right.set(xlabel="fraction of draws below the reference", ylabel="objects / expected")
    right.set_title("probability integral transform")
    return figure


@styled
def host_figure(inputs: ReportInputs) -> Figure:
    """Posterior mean against truth of each property of the host and the supernova, with rms error and its ratio to the stated widths."""
    truth = inputs.truth
    names = [n for n in local_parameters(inputs) if n != "z"]
    figure, panels = grid_of_axes(len(names), 3, width=2.35, height=2.35)
    for axes, name in zip(panels, names, strict=True):
        draws, true = inputs.posterior[name], np.asarray(getattr(truth, name), dtype=np.float64)
        mean = draws.mean(0, dtype=np.float64)
        draw_points(axes, true, mean, yerr=draws.std(0, ddof=1, dtype=np.float64))
        low, high = np.quantile(np.concatenate([true, mean]), (0.002, 0.998))
        margin = 0.06 * (high - low)
        axes.plot([low - margin, high + margin], [low - margin, high + margin], color=INK, linewidth=0.9)
        axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), box_aspect=1)
        axes.set_title(axis_label(name), pad=4)
        note, ratio = f"rms {np.sqrt(np.mean((mean - true) ** 2)):.2g}", error_ratio(draws, true)
        note += f"\nrms / stated {ratio:.2f}" if np.isfinite(ratio) else ""
        axes.text(
            0.04,
            0.97,
            note,
            transform=axes.transAxes,
            va="top",
            fontsize=8.5,
            color=INK,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1.5},
        )
        axes.locator_params(nbins=4)
    figure.supxlabel("truth", fontsize=10)
    figure.supylabel("posterior mean (bar: sd)", fontsize=10)
    return figure


@styled
def distribution_figure(inputs: ReportInputs) -> Figure:
    """Distribution of each per-object quantity over the catalogue: all posterior draws stacked, and the posterior means."""
    names = local_parameters(inputs)
    figure, panels = grid_of_axes(len(names), min(4, len(names)), width=2.0, height=1.7)
    for axes, name in zip(panels, names, strict=True):
        draws = inputs.posterior[name]
        stacked = draws[:: max(1, draws.size // 500_000)].ravel()
        low, high = np.quantile(stacked, (0.001, 0.999))
        axes.hist(stacked, bins=40, range=(low, high), density=True, histtype="stepfilled", color=BAND, label="stacked draws")
        axes.hist(draws.mean(0), bins=25, range=(low, high), density=True, histtype="step", color=POSTERIOR, label="posterior means")
        axes.set(xlabel=axis_label(name), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=4)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _required_pairs(inputs: ReportInputs) -> tuple[str, np.ndarray, np.ndarray]:
    pairs = redshift_pairs(inputs)
    if pairs is None:
        raise ValueError("redshift figure: expected a truth or spectroscopic redshifts, got neither; leave the figure out")
    return pairs

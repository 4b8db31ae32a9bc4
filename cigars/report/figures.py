"""Figures of the global posterior, of training and of calibration; each is `function(inputs) -> Figure`.

Contours hold 39 and 86 % of the draws of a two-dimensional posterior (the 1σ and 2σ of a Gaussian); bands of rank histograms hold a
calibrated bin with 99 % probability.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import gaussian_filter

from cigars.priors import prior_distribution
from cigars.report.inputs import ReportInputs, spread_parameters
from cigars.report.statistics import bin_ranks
from cigars.report.style import BAND, GREY, INK, POSTERIOR, SECOND, TRUTH, grid_of_axes, styled
from cigars.report.tables import axis_label
from cigars.schema import COSMOLOGY, Marginal, column

__all__ = [
    "corner_figure",
    "cosmology_corner",
    "cosmology_names",
    "coverage_figure",
    "full_corner",
    "marginals_figure",
    "sbc_figure",
    "training_figure",
]

HELD = (1 - np.exp(-2.0), 1 - np.exp(-0.5))
"""Shares of the draws inside the contours, the outer first."""

BINS, SMOOTHING = 32, 1.4  # of a panel, and of 1000 draws in bins; wider of fewer as in Scott's rule
BEYOND, MARGIN = 0.005, 0.15  # share of the draws on either side that do not widen a panel, and what is added, of the width of the rest


@styled
def corner_figure(inputs: ReportInputs, names: Sequence[str], size: float = 6.4) -> Figure:
    """Corner plot of the parameters `names`, which must have a spread, `size` inches wide; the truth, where known, in orange-red."""
    import corner  # imports pyplot: only where it is needed

    figure = Figure(figsize=(size, size))
    panel = size / len(names)
    truths = [(inputs.theta_true or {}).get(n) for n in names]
    draws = inputs.posterior.marginal(*names)
    ranges = [_shown(values, inputs.prior.get(name)) for name, values in zip(names, draws.T, strict=True)]
    corner.corner(
        draws,
        fig=figure,
        range=ranges,
        labels=[axis_label(n) if panel > 1 else column(n).label for n in names],
        truths=truths if any(t is not None for t in truths) else None,
        truth_color=TRUTH,
        color=POSTERIOR,
        bins=BINS,
        smooth1d=1.0,
        plot_datapoints=False,
        plot_density=False,
        plot_contours=False,  # whose levels do not hold their share of the draws, as they count what was smoothed
        max_n_ticks=4 if panel > 1 else 3,
        labelpad=0.12 if panel > 1 else 0.25,
        hist_kwargs={"color": POSTERIOR, "linewidth": 1.6},
    )
    for row in range(len(names)):
        for col in range(row):
            _draw_contours(figure.axes[row * len(names) + col], draws[:, [col, row]], ranges[col], ranges[row])
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(True)
        if panel < 1:
            axes.tick_params(labelsize=7)
    _mark_flat(figure, names)
    for index, axes in enumerate(list(figure.axes)):
        if index % len(names) > index // len(names):
            axes.remove()  # empty upper triangle: half the time of drawing
    return figure


def _shown(values: np.ndarray, prior: Marginal | None) -> tuple[float, float]:
    """Range of a panel, which does not follow outliers and ends where the prior does."""
    low, high = np.quantile(values, (BEYOND, 1 - BEYOND))
    if low == high:  # nearly all draws are the same
        low, high = values.min(), values.max()
    margin = MARGIN * (high - low)
    edges = (prior.low, prior.high) if prior else (-np.inf, np.inf)
    return float(max(low - margin, min(edges[0], low))), float(min(high + margin, max(edges[1], high)))


def _draw_contours(axes: Axes, draws: np.ndarray, across: tuple[float, float], up: tuple[float, float]) -> None:
    """Contours of a smoothed histogram of draws [draw, 2] at the densities that HELD of these exceed, whatever the smoothing."""
    edges = [np.linspace(*limits, BINS + 1) for limits in (across, up)]
    smoothing = SMOOTHING * (1000 / len(draws)) ** (1 / 6)
    density = np.pad(gaussian_filter(np.histogram2d(draws[:, 0], draws[:, 1], bins=edges)[0], smoothing), 1, mode="edge")
    x, y = (np.concatenate([e[:1], (e[1:] + e[:-1]) / 2, e[-1:]]) for e in edges)
    at = RegularGridInterpolator((x, y), density, bounds_error=False, fill_value=0.0)(draws)
    levels = np.quantile(at, [1 - share for share in HELD])
    if levels[0] < levels[1] < density.max():  # not of a handful of draws
        axes.contourf(x, y, density.T, [*levels, density.max()], colors=[BAND, "#5FA3CB"], antialiased=False)
        axes.contour(x, y, density.T, levels, colors=[POSTERIOR], linewidths=0.9)


def cosmology_names(inputs: ReportInputs) -> list[str]:
    """The cosmological parameters and the absolute magnitude, of those that have a spread."""
    return [n for n in spread_parameters(inputs) if n in (*COSMOLOGY, "M0")]


def cosmology_corner(inputs: ReportInputs) -> Figure:
    """Corner plot of the free cosmological parameters and the absolute magnitude."""
    return corner_figure(inputs, cosmology_names(inputs), size=5.6)


def full_corner(inputs: ReportInputs) -> Figure:
    """Corner plot of every free parameter."""
    names = spread_parameters(inputs)
    return corner_figure(inputs, names, size=max(5.6, 0.98 * len(names)))


@styled
def marginals_figure(inputs: ReportInputs) -> Figure:
    """Posterior of each parameter on its own scale, with the prior and the truth."""
    names = inputs.posterior.names
    figure, panels = grid_of_axes(len(names), min(5, len(names)), width=1.65, height=1.45)
    for axes, name in zip(panels, names, strict=True):
        draws = inputs.posterior.marginal(name)[:, 0]
        centre, reach = draws.mean(), 4.5 * draws.std() if np.ptp(draws) else 1e-3
        low, high = centre - reach, centre + reach
        marginal = inputs.prior.get(name)
        if marginal:
            low, high = max(low, marginal.low), min(high, marginal.high)
            grid = np.linspace(low, high, 201)
            density = prior_distribution(marginal).pdf(grid)
            axes.plot(grid, density, color=GREY, linewidth=1.2, label="prior as cut" if inputs.cut else "prior", zorder=3)
        axes.hist(draws, bins=40, range=(low, high), density=True, histtype="stepfilled", color=BAND, label="posterior")
        axes.hist(draws, bins=40, range=(low, high), density=True, histtype="step", color=POSTERIOR, linewidth=1.2)
        if inputs.theta_true and name in inputs.theta_true:
            axes.axvline(inputs.theta_true[name], color=TRUTH, linewidth=1.6, label="truth")
        axes.set(yticks=[], xlabel=axis_label(name), xlim=(low, high))
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(2))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


@styled
def training_figure(inputs: ReportInputs) -> Figure:
    """Loss of each training stage against epoch, with the epoch of the best validation loss."""
    stages = list(inputs.curves.items())
    figure, panels = grid_of_axes(len(stages), min(2, len(stages)), width=6.4 / min(2, len(stages)), height=2.6)
    for axes, (stage, losses) in zip(panels, stages, strict=True):
        for kind, color, style in (("train", GREY, "-"), ("validation", POSTERIOR, "-")):
            values = np.asarray(losses.get(kind, ()), dtype=float)
            axes.plot(np.arange(1, values.size + 1), values, style, color=color, label=kind)
        _mark_best(axes, np.asarray(losses.get("validation", ()), dtype=float))
        _clip_early(axes, losses)
        axes.set(title=stage, xlabel="epoch", ylabel="loss [nats]")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.legend()
    return figure


@styled
def sbc_figure(inputs: ReportInputs) -> Figure:
    """Rank histogram of each parameter over fresh surveys, relative to uniform, with 99 % binomial bands and p-values."""
    figure, panels = grid_of_axes(len(inputs.sbc_names), min(5, len(inputs.sbc_names)), width=1.65, height=1.5)
    for axes, name, ranks in zip(panels, inputs.sbc_names, np.asarray(inputs.sbc_ranks).T, strict=True):
        draw_rank_histogram(axes, ranks, inputs.sbc_draws)
        axes.set_title(axis_label(name).split(" [")[0], pad=3)
    figure.supxlabel("rank of the truth among posterior draws / number of draws", fontsize=10)
    figure.supylabel("surveys / expected", fontsize=10)
    return figure


@styled
def coverage_figure(inputs: ReportInputs) -> Figure:
    """Share of truths inside joint regions of each credibility, of highest density and of TARP, with the bands of `cigars validate`."""
    figure, panels = grid_of_axes(2, 2, width=3.0, height=2.8)
    curves = inputs.validation["curves"]
    for axes, (name, title) in zip(panels, (("coverage", "highest density"), ("tarp", "TARP")), strict=True):
        curve = {key: np.asarray(values, dtype=float) for key, values in curves[name].items()}
        axes.fill_between(curve["levels"], curve["low"], curve["high"], color="#E4E4E4", linewidth=0, label="99 % band")
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        axes.plot(curve["levels"], curve["inside"], color=POSTERIOR)
        axes.set(title=title, xlim=(0, 1), ylim=(0, 1), xlabel="credibility", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
    panels[0].set_ylabel("share of truths inside")
    panels[0].legend(loc="upper left")
    return figure


def draw_rank_histogram(axes, ranks: np.ndarray, draws: int) -> None:
    """Histogram of ranks relative to uniform with its 99 % band and p-value."""
    bins = bin_ranks(ranks, draws)
    axes.stairs(bins.high, bins.edges, baseline=bins.low, fill=True, color="#E4E4E4", label="99 % band")
    axes.axhline(1, color=GREY, linewidth=0.8)
    outside = (bins.ratio < bins.low) | (bins.ratio > bins.high)
    axes.stairs(bins.ratio, bins.edges, baseline=None, color=POSTERIOR, linewidth=1.5)
    middle = (bins.edges[1:] + bins.edges[:-1]) / 2
    axes.plot(middle[outside], bins.ratio[outside], "o", color=TRUTH, markersize=4)
    axes.set(xlim=(0, 1), ylim=(0, max(2.0, 1.15 * bins.ratio.max(), 1.15 * bins.high.max())), xticks=[0, 0.5, 1])
    axes.set_xticklabels(["0", "0.5", "1"])
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.text(0.97, 0.04, f"p = {bins.p_value:.2g}", transform=axes.transAxes, ha="right", va="bottom", fontsize=9, color=INK)


def _mark_flat(figure: Figure, names: Sequence[str]) -> None:
    """The line of flat universes (dashed) in the (Om0, Ode0) panel of a corner plot."""
    if "Om0" in names and "Ode0" in names:
        row, col = names.index("Ode0"), names.index("Om0")
        axes = figure.axes[max(row, col) * len(names) + min(row, col)]
        xlim, ylim = axes.get_xlim(), axes.get_ylim()
        axes.plot([0, 1], [1, 0], "--", color=INK, linewidth=0.9)
        axes.set(xlim=xlim, ylim=ylim)


def _mark_best(axes, validation: np.ndarray) -> None:
    if np.isfinite(validation).any():
        best = int(np.nanargmin(validation))
        axes.plot(best + 1, validation[best], "o", color=SECOND, markersize=6, label=f"best: {validation[best]:.2f}".replace("-", "−"))


def _clip_early(axes, losses) -> None:
    """Let the first epochs, often far above the rest, leave the panel so that the end can be read."""
    values = np.concatenate([np.asarray(losses.get(k, ()), dtype=float) for k in ("train", "validation")])
    values = values[np.isfinite(values)]
    if values.size > 8:
        low, high = values.min(), np.quantile(values, 0.93)
        margin = 0.08 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + margin)

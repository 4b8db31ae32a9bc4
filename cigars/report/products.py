"""Figures of derived products: brightness against hosts, delay-time distribution, host masses and redshifts of the sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cigars.posterior import Posterior
from cigars.products import HOST_AXES, brightness, dtd, hubble_curve, hubble_diagram, mass_function, redshift_distribution
from cigars.report.style import BAND, GREY, INK, POSTERIOR, SECOND, TRUTH, draw_points, grid_of_axes, new_figure, styled
from cigars.report.tables import axis_label

__all__ = ["FIGURES", "brightness_figure", "counts_figure", "dtd_figure", "hubble_figure"]

PARTS = {"step": ("mass step", TRUTH, "--"), "metallicity": ("metallicity", SECOND, "-."), "age": ("age", "#CC79A7", ":")}


@styled
def brightness_figure(posterior: Posterior) -> Figure:
    """Mean δM of the sample against host mass, metallicity and progenitor age, and the parts that it is made of."""
    figure, panels = grid_of_axes(3, 3, width=2.5, height=2.7)
    for axes, axis in zip(panels, HOST_AXES, strict=True):
        table = brightness(posterior, axis)
        x = np.asarray(table["centre"])
        axes.fill_between(x, table["delta_M_q025"], table["delta_M_q975"], color=BAND, linewidth=0, label="95 %")
        axes.fill_between(x, table["delta_M_q16"], table["delta_M_q84"], color="#8FBFDD", linewidth=0, label="68 %")
        axes.plot(x, table["delta_M_mean"], color=POSTERIOR, label="all effects")
        for name, (label, colour, style) in PARTS.items():
            axes.plot(x, table[f"{name}_mean"], style, color=colour, linewidth=1.3, label=label)
        axes.axhline(0, color=GREY, linewidth=0.7)
        axes.set_xlabel(axis_label(axis))
    reach = max(abs(v) for axes in panels for v in axes.get_ylim())
    for axes in panels:
        axes.set_ylim(reach, -reach)  # brighter is up
    for axes in panels[1:]:
        axes.set_yticklabels([])
    panels[0].set_ylabel(r"mean $\delta M$ − sample mean  [mag]")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, columnspacing=1.0, handlelength=1.6)
    return figure


@styled
def dtd_figure(posterior: Posterior) -> Figure:
    """Delay-time distribution with its bands."""
    figure = new_figure(4.4, 3.2)
    axes, table = figure.subplots(), dtd(posterior)
    _bands(axes, np.asarray(table["delay_gyr"]), table)
    axes.set(xscale="log", yscale="log", xlabel="delay  [Gyr]", ylabel=r"rate  [SNe yr$^{-1}$ M$_\odot^{-1}$]")
    axes.legend()
    return figure


@styled
def counts_figure(posterior: Posterior) -> Figure:
    """Redshifts and host masses of the sample, with the uncertainty of every object's."""
    figure, panels = grid_of_axes(2, 2, width=3.3, height=2.7)
    for axes, table, axis in (
        (panels[0], redshift_distribution(posterior), "z"),
        (panels[1], mass_function(posterior), "mass_log10_msun"),
    ):
        edges = np.append(table["low"], table["high"][-1])
        axes.stairs(table["q975"], edges, baseline=table["q025"], fill=True, color=BAND, label="95 %")
        axes.stairs(table["mean"], edges, baseline=None, color=POSTERIOR, linewidth=1.5, label="posterior mean")
        axes.set(xlabel=axis_label(axis), ylabel="objects a bin", ylim=(0, 1.3 * float(np.max(table["q975"]))))
    panels[0].legend()
    return figure


@styled
def hubble_figure(posterior: Posterior) -> Figure:
    """Standardised magnitudes against redshifts of the same draws, with the band of the posterior cosmologies."""
    data, curve = hubble_diagram(posterior), hubble_curve(posterior)
    figure = new_figure(5.4, 3.8)
    axes = figure.subplots()
    seen = data[np.isfinite(data["mu_sn_mean"])]  # an object has no standardised magnitude where its light was hidden
    offset = float(np.median(seen["mu_sn_mean"] - seen["mu_mean"])) if len(seen) else 0.0
    if len(seen):
        z, z_sd, mu, error = (np.asarray(seen[name]) for name in ("z_mean", "z_sd", "mu_sn_mean", "mu_sn_error"))
        draw_points(axes, z, mu - offset, xerr=z_sd, yerr=error)
    said = f"median dust of {offset:+.2f} mag taken off".replace("-", "−") if len(seen) else "no supernova light"
    _bands(axes, np.asarray(curve["z"]), curve)
    axes.set(xlabel="redshift $z$ (posterior mean, bar: sd)", ylabel=r"$\mu$  [mag]")
    axes.text(0.98, 0.05, said, transform=axes.transAxes, ha="right", fontsize=8)
    axes.legend(loc="upper left")
    return figure


def _bands(axes: Axes, x: np.ndarray, table) -> None:  # type: ignore[no-untyped-def]
    axes.fill_between(x, table["q025"], table["q975"], color=BAND, linewidth=0, label="95 %", zorder=2.1)
    axes.fill_between(x, table["q16"], table["q84"], color="#8FBFDD", linewidth=0, label="68 %", zorder=2.2)
    axes.plot(x, table["mean"], color=INK, linewidth=1.1, label="mean", zorder=2.3)


FIGURES: dict[str, Callable[[Posterior], Figure]] = {
    "hubble": hubble_figure,
    "brightness": brightness_figure,
    "dtd": dtd_figure,
    "counts": counts_figure,
}
"""Figures by the name of their file."""

"""Does the catalogue look like the simulations? What `cigars check` found, in words, tables and a figure.

The residual of a statistic is its deviation from what the catalogue's own posterior lets one expect, in units of the scatter of simulated
surveys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from cigars.report.inputs import ReportInputs
from cigars.report.style import GREY, INK, POSTERIOR, SECOND, TRUTH, new_figure, styled
from cigars.report.tables import Listing

__all__ = ["likeness_verdict", "odd_objects", "residual_figure", "tests_listing"]

SHOWN = 12  # odd objects
GROUPS = {
    "number": INK, "redshift": POSTERIOR, "magnitudes": GREY, "colours": SECOND, "stretch": "#CC79A7", "supernova colour": TRUTH,
}  # fmt: skip
OTHER = "number or share"
MARKERS = {"mean": "o", "sd": "s", "5% quantile": "<", "50% quantile": "d", "95% quantile": ">", OTHER: "P"}
MEANINGS = {
    "statistics": "each statistic of the survey by itself",
    "all statistics": "all of them at once (Hotelling’s T²)",
    "network summary": "the summary that the networks read (Mahalanobis distance)",
    "summary density": "the same summary (density that the training learned)",
    "objects together": "distribution of the objects (maximum mean discrepancy)",
    "odd objects": "share of objects unlike simulated ones",
}


def likeness_verdict(inputs: ReportInputs) -> Markup:
    """Whether the catalogue looks like the simulations, by which test it does not, and what is farthest off."""
    found = inputs.check
    if not found:
        return Markup("Whether the catalogue looks like the simulations was not tested (<code>cigars check</code>).")
    failed = [t for t in found["tests"] if not t["passed"]]
    verdict = Markup("does <strong>not</strong> look") if failed else Markup("looks")
    text = Markup("Among {:,} surveys simulated at its own posterior, the catalogue {} like what the model simulates").format(
        found["surveys"], verdict
    )
    text += Markup(" (family-wise level {:g}): ").format(found["level"])
    if failed:
        said = Markup(", ").join(Markup("{} (p = {:.2g})").format(t["worst"]["test"], t["adjusted"]) for t in failed)
        text += Markup("rejected by {}. Take the posterior with care until it is known why.").format(said)
    else:
        least = min(found["tests"], key=lambda t: t["adjusted"])
        text += Markup("the least of {} corrected p-values is {:.2g} ({}).").format(
            len(found["tests"]), least["adjusted"], least["worst"]["test"]
        )
    rows = _statistics(found)
    if rows:
        far = max(rows, key=lambda c: abs(c["value"]))
        text += Markup(" Farthest off is {}, by {}&nbsp;σ.").format(_name(far["of"]), f"{far['value']:+.1f}".replace("-", "−"))
    return text + _odd_sentence(found)


def tests_listing(inputs: ReportInputs) -> Listing:
    """A row for each test: what it looks at, the corrected p-value and the verdict."""
    rows = [
        (
            t["worst"]["test"],
            MEANINGS.get(t["worst"]["test"], ""),
            f"{_name(t['worst']['of'])}: {_number(t['worst']['value'])}",
            f"{_number(t['worst']['low'])} to {_number(t['worst']['high'])}",
            f"{t['adjusted']:.2g}",
            "passed" if t["passed"] else "rejected",
        )
        for t in inputs.check["tests"]
    ]
    return Listing(("test", "looks at", "farthest off", "99 % of simulated", "p, corrected", "verdict"), rows)


def odd_objects(inputs: ReportInputs) -> Listing:
    """The oddest objects, with the input without which each is most ordinary."""
    every = sorted(inputs.check["odd_objects"], key=lambda o: o["p_value"])
    rows = [(o["id"], f"{o['p_value']:.2g}", _name(o["reason"]), f"{o['p_without']:.2g}") for o in every[:SHOWN]]
    return Listing(("odd object", "p", "most ordinary without", "p without"), rows)


@styled
def residual_figure(inputs: ReportInputs) -> Figure:
    """Standardised residual of every statistic, a row for each quantity, coloured by what it is about, with the bands allowed."""
    rows = _statistics(inputs.check)
    quantities = list(dict.fromkeys(_quantity(c["of"]) for c in rows))
    figure = new_figure(6.4, 0.9 + 0.29 * len(quantities))
    axes = figure.subplots()
    edge = rows[0]["high"]
    single = next(t["single"] for t in inputs.check["tests"] if t["worst"]["test"] == "statistics")
    family = float(stats.norm.isf(single / 2))
    axes.axvspan(-edge, edge, color="#EDEDED", linewidth=0, zorder=0)
    for side in (-family, family):
        axes.axvline(side, color=INK, linewidth=0.9, linestyle="--", zorder=1)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    # far residuals stay in sight at the edge of the panel
    reach = 1.6 * family
    for c in rows:
        place = len(quantities) - 1 - quantities.index(_quantity(c["of"]))
        value = float(np.clip(c["value"], -reach, reach))
        color = GROUPS[_group(c["of"])]
        axes.plot(value, place, _marker(c["of"]), color=color, markersize=6, markeredgecolor="white", markeredgewidth=0.4, zorder=3)
        if value != c["value"]:
            text = f"{c['value']:+.0f}".replace("-", "−")
            axes.annotate(text, (value, place), (0, 5), textcoords="offset points", ha="center", fontsize=7, color=color)
    axes.set(xlim=(-1.1 * reach, 1.1 * reach), ylim=(-0.7, len(quantities) - 0.3), xlabel="residual [σ of simulated surveys]")
    axes.set_yticks(range(len(quantities)), [_name(q) for q in reversed(quantities)])
    for label, quantity in zip(axes.get_yticklabels(), reversed(quantities), strict=True):
        label.set_color(GROUPS[_group(quantity)])
    handles = [
        Line2D([], [], marker=m, color="none", markerfacecolor="#555555", markeredgecolor="none", label=k) for k, m in MARKERS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handletextpad=0.1, columnspacing=1.0)
    return figure


def _statistics(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [c for c in found["checks"] if c["test"] == "statistics"]


def _odd_sentence(found: Mapping[str, Any]) -> Markup:
    odd = found["odd_objects"]
    if not odd:
        return Markup(" No object is unlike simulated ones by more than chance explains among so many.")
    reason, times = Counter(o["reason"] for o in odd).most_common(1)[0]
    return Markup(" {:,} of {:,} objects are unlike simulated ones, {:,} of them for {}.").format(
        len(odd), found["objects"], times, _name(reason)
    )


def _quantity(statistic: str) -> str:
    return statistic.partition(":")[0]


def _group(statistic: str) -> str:
    quantity = _quantity(statistic)
    known = {"ln number": "number", "photo-z": "redshift", "N(z)": "redshift", "x": "stretch", "c": "supernova colour"}
    return known.get(quantity, "colours" if " - " in quantity else "magnitudes")


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−", 1) if value < 0 else f"{value:.3g}"


def _marker(statistic: str) -> str:
    return MARKERS.get(statistic.partition(": ")[2], MARKERS[OTHER])


def _name(text: str) -> str:
    """As a person writes it: g − r, ln N, and the supernova's m, x and c named."""
    quantity, separator, rest = text.partition(":")
    spelt = {"ln number": "ln N", "m": "supernova m", "x": "stretch x", "c": "colour c"}
    return spelt.get(quantity, quantity.replace(" - ", " − ")) + separator + rest

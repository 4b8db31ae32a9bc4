"""The table of Θ (mean, standard deviation, quantiles, prior, truth) and how its numbers and names are written.

Shared by the HTML page and by the command line, so both print the same digits: a value is written with the decimals
that two significant digits of its standard deviation need.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from cigars.priors import prior_distribution, prior_text
from cigars.report.inputs import ReportInputs
from cigars.schema import column

__all__ = [
    "Listing",
    "ParameterRow",
    "axis_label",
    "format_duration",
    "format_value",
    "label_html",
    "label_text",
    "parameter_table",
]

_SYMBOLS = {
    "Omega": "Ω",
    "Lambda": "Λ",
    "Delta": "Δ",
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "delta": "δ",
    "sigma": "σ",
    "tau": "τ",
    "odot": "⊙",
    "log": "log ",
    "rm": "",
}


class ParameterRow(NamedTuple):
    """Posterior of one parameter. `shrinkage` is sd / prior sd; `pull` is (mean − truth) / sd; None where unknown."""

    name: str
    unit: str
    meaning: str
    mean: float
    sd: float
    q16: float
    q50: float
    q84: float
    prior: str
    shrinkage: float | None
    truth: float | None
    pull: float | None


class Listing(NamedTuple):
    """A plain table: names of the columns, and rows of text."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def parameter_table(inputs: ReportInputs) -> list[ParameterRow]:
    """One row for each free global parameter, in schema order."""
    return [_row(inputs, name) for name in inputs.posterior.names]


def _row(inputs: ReportInputs, name: str) -> ParameterRow:
    draws, entry, marginal = inputs.posterior.marginal(name)[:, 0], column(name), inputs.prior.get(name)
    mean, sd = float(draws.mean()), float(draws.std(ddof=1)) if np.ptp(draws) else 0.0  # rounding is no spread
    q16, q50, q84 = (float(q) for q in np.quantile(draws, (0.16, 0.5, 0.84)))
    truth = (inputs.theta_true or {}).get(name)
    return ParameterRow(
        name,
        entry.unit,
        entry.meaning,
        mean,
        sd,
        q16,
        q50,
        q84,
        prior=prior_text(marginal) if marginal else "",
        shrinkage=sd / float(prior_distribution(marginal).std()) if marginal and not inputs.cut else None,
        truth=None if truth is None else float(truth),
        pull=None if truth is None or sd == 0 else (mean - float(truth)) / sd,
    )


def format_value(value: float, sd: float) -> str:
    """`value` with the decimals that two significant digits of `sd` need and a true minus sign; `format_value(0.31234, 0.041)` is 0.312."""
    decimals = max(0, 1 - math.floor(math.log10(abs(sd)))) if sd and math.isfinite(sd) else 3
    text = f"{value:.{decimals}f}"
    return ("−" + text[1:]) if text.startswith("-") and float(text) != 0 else text.removeprefix("-")


def format_duration(seconds: float) -> str:
    """A time for people: 0.42 s, 17 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def axis_label(name: str) -> str:
    """Schema label with its unit, for a matplotlib axis; `dex(Msun)` and labels that carry their unit already stay bare."""
    entry = column(name)
    bare = not entry.unit or "[" in entry.label or entry.unit.startswith("dex(")
    return entry.label if bare else f"{entry.label} [{entry.unit}]"


def label_html(name: str) -> Markup:
    """Schema label of a parameter as HTML: Ω<sub>m</sub> with letters in italics. The labels use a small subset of LaTeX."""
    text = html.escape(column(name).label.replace("$", ""))
    text = re.sub(r"\\([A-Za-z]+)\s*|([A-Za-z]+)", _token, text)
    text = re.sub(r"_\{(.*?)\}", r"<sub>\1</sub>", text)
    return Markup(re.sub(r"_(<i>.</i>|.)", r"<sub>\1</sub>", text))


def label_text(name: str) -> str:
    """Schema label of a parameter as plain text for terminals and alternative texts: Ω_m, log M_step."""
    return re.sub(r"</?i>|[{}]", "", re.sub(r"<sub>(.*?)</sub>", r"_\1", str(label_html(name))))


def _token(match: re.Match[str]) -> str:
    command, word = match.groups()
    if command:
        return _SYMBOLS.get(command, command)
    return f"<i>{word}</i>" if len(word) == 1 else word

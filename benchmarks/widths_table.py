"""How wide are the posteriors, beside the published ones? The table of docs/results.md, from the JSON files of the measurements.

usage: python benchmarks/widths_table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from information_limit import PUBLISHED

__all__ = ["table"]

COLUMNS: tuple[tuple[str, str | None, Any], ...] = (  # title, file, key of its widths; published ones: None and which size of PUBLISHED
    ("1,600: published", None, 0),
    ("two rounds", "training.json", "fiducial"),
    ("linear limit of their score", "information_limit.json", "linear_limit"),
    ("comes along", "pretrained_limit.json", "fiducial"),
    ("16,000: published", None, 1),
    ("two rounds", "training_16k.json", "fiducial"),
    ("linear limit of their score", "information_limit_16k.json", "linear_limit"),
)
SQRT_DET = 6.8e-3, 6.2e-4  # published
SYMBOLS = {
    "Om0": "Ω_m", "Ode0": "Ω_Λ", "dtd_logA": "log A", "dtd_slope": "s", "M0": "M_0", "sigma_int": "σ_0", "alpha": "α", "beta": "β",
    "alpha_c": "α_c", "mass_step": "ΔM", "mass_step_loc": "log M_step", "gamma_Z": "γ_Z", "gamma_age": "γ_age",
}  # fmt: skip


def table(folder: Path = Path(__file__).parent) -> str:
    """Markdown: √det of the densities, widths at the fiducial parameters, and calibration on fresh surveys, a column a posterior."""
    columns = [_column(folder, *column) for column in COLUMNS]
    rows = [[name, *(column.get(name, "") for column in columns)] for name in columns[1]]
    titles = [["", *(title for title, _, _ in COLUMNS)], ["---"] * (len(COLUMNS) + 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in titles + rows)


def _column(folder: Path, _: str, file: str | None, key: Any) -> dict[str, str]:
    """What is said of one posterior, by row."""
    found = json.loads((folder / file).read_text()) if file else {}
    of = found[key] if file else {"sqrt_det": SQRT_DET[key], "width": {name: PUBLISHED[name][key] for name in SYMBOLS}, "mocks": 1}
    column = {"√det(Ω_m, Ω_Λ) / 1e-3": _short(1e3 * of["sqrt_det"])}
    column |= {symbol: _short(of["width"][name]) for name, symbol in SYMBOLS.items()}
    if "mocks" in of:
        column["mocks"] = str(of["mocks"])
    if key == "fiducial":
        column |= {"truths inside 68 %": _short(found["fresh"]["coverage_68"]), "TARP off by": _short(found["fresh"]["tarp_deviation"])}
    return column


def _short(value: float | None) -> str:
    """Three figures, without a leading zero."""
    return "" if value is None else f"{value:#.3g}".removeprefix("0")


if __name__ == "__main__":
    print(table())

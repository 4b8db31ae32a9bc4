"""How wide are the posteriors, beside the published ones? The table of docs/results.md, from the JSON files of the measurements.

usage: python benchmarks/widths_table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from information_limit import PUBLISHED

__all__ = ["table"]

COLUMNS = (  # title, file or None for what is published, which size of PUBLISHED
    ("1,600: published", None, 0),
    ("two rounds", "training.json", 0),
    ("limit box", "information_limit.json", 0),
    ("comes along", "pretrained_limit.json", 0),
    ("16,000: published", None, 1),
    ("two rounds", "training_16k.json", 1),
    ("limit box", "information_limit_16k.json", 1),
)
SQRT_DET = 6.8e-3, 6.2e-4  # published
SYMBOLS = {
    "Om0": "Ω_m", "Ode0": "Ω_Λ", "dtd_logA": "log A", "dtd_slope": "s", "M0": "M_0", "sigma_int": "σ_0", "alpha": "α", "beta": "β",
    "alpha_c": "α_c", "mass_step": "ΔM", "mass_step_loc": "log M_step", "gamma_Z": "γ_Z", "gamma_age": "γ_age",
}  # fmt: skip


def table(folder: Path = Path(__file__).parent) -> str:
    """Markdown: √det of the densities, widths at the fiducial parameters, and calibration on fresh surveys, a column a posterior."""
    files: list[dict[str, Any] | None] = [json.loads((folder / name).read_text()) if name else None for _, name, _ in COLUMNS]
    sizes = [size for _, _, size in COLUMNS]
    rows = [["", *(title for title, _, _ in COLUMNS)], ["---"] * (len(COLUMNS) + 1)]
    each = list(zip(files, sizes, strict=True))
    rows.append(["√det(Ω_m, Ω_Λ) / 1e-3", *(_short(1e3 * (f["fiducial"]["sqrt_det"] if f else SQRT_DET[k])) for f, k in each)])
    for name, symbol in SYMBOLS.items():
        rows.append([symbol, *(_short(f["fiducial"]["width"][name] if f else PUBLISHED[name][k]) for f, k in each)])
    rows.append(["mocks", *(str(f["fiducial"]["mocks"]) if f else "1" for f in files)])
    rows.append(["truths inside 68 %", *(_short(f["fresh"]["coverage_68"]) if f else "" for f in files)])
    rows.append(["TARP off by", *(_short(f["fresh"]["tarp_deviation"]) if f else "" for f in files)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _short(value: float | None) -> str:
    """Three figures, without a leading zero."""
    return "" if value is None else f"{value:#.3g}".removeprefix("0")


if __name__ == "__main__":
    print(table())

"""A row for each object of a posterior: mean, standard deviation and quantiles of its unknowns, and their covariances with Ω_m.

These covariances are what marginal photometric redshifts lack: a catalogue that has them can be used with another cosmology.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cigars.schema import LOCALS, Column, column
from cigars.tables import write_table

__all__ = ["Summaries", "write_summaries"]

QUANTILES = {"q16": 0.16, "q50": 0.5, "q84": 0.84}


class Summaries:
    """Summaries of each object's draws, filled block by block.

    Args:
        objects: how many.
        om0: draws of Ω_m [draw]; None where it is fixed, which leaves the covariances out.
    """

    def __init__(self, objects: int, om0: np.ndarray | None) -> None:
        statistics = ["mean", "sd", *QUANTILES, *([] if om0 is None else ["cov_Om0"])]
        self.columns = {f"{name}_{s}": np.full(objects, np.nan, np.float32) for name in LOCALS for s in statistics}
        self.om0 = None if om0 is None else om0.astype(np.float64) - om0.mean(dtype=np.float64)

    def add(self, rows: slice, draws: np.ndarray) -> None:
        """Summarise the draws [draw, block, unknown] of the objects `rows`."""
        for k, name in enumerate(LOCALS):
            values = np.ascontiguousarray(draws[..., k].T)
            self._put(name, "mean", rows, values.mean(1, dtype=np.float64))
            self._put(name, "sd", rows, values.std(1, ddof=1, dtype=np.float64) if values.shape[1] > 1 else np.nan)
            if self.om0 is not None:
                self._put(name, "cov_Om0", rows, values @ self.om0 / max(len(self.om0) - 1, 1))
            for label, quantile in zip(QUANTILES, np.quantile(values, list(QUANTILES.values()), axis=1, overwrite_input=True), strict=True):
                self._put(name, label, rows, quantile)

    def _put(self, name: str, statistic: str, rows: slice, values: Any) -> None:
        self.columns[f"{name}_{statistic}"][rows] = values


WORDS = {
    "mean": "posterior mean of {}", "sd": "posterior standard deviation of {}", "q16": "16 % quantile of {}", "q50": "median of {}",
    "q84": "84 % quantile of {}", "cov_Om0": "posterior covariance of {} with Om0",
}  # fmt: skip


def write_summaries(path: str | Path, ids: np.ndarray, summaries: Summaries, meta: Mapping[str, Any], overwrite: bool = False) -> None:
    """Write the table, in the order of `ids`; raises FileError if the file exists or cannot be written."""
    columns: dict[str, tuple[Any, Column]] = {"id": (np.asarray(ids, np.str_), column("id"))}
    for key, values in summaries.columns.items():
        name = next(n for n in LOCALS if key.startswith(f"{n}_"))
        entry = column(name)
        columns[key] = (values, Column(key, entry.unit, WORDS[key.removeprefix(f"{name}_")].format(entry.meaning), entry.label))
    write_table(path, columns, meta, overwrite)

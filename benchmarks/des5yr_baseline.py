"""How well do nearest neighbours in host griz give the redshifts of DES-SN5YR? The number a physical model has to beat.

    python benchmarks/des5yr_baseline.py DIR [--json OUT]

Five-fold: the redshift of an object is the mean of its k nearest neighbours among the other folds in (r, g-r, r-i, i-z),
each divided by its median absolute deviation, weighted by inverse distance; repeated over 20 random splits.
Nothing of the supernova is used. Expected: NMAD .031-.034 (1.4826 median|dz - median dz|, dz = (z - z_spec)/(1 + z_spec)).
A regression trained on redshifts of the same survey shares its selection: it knows the redshift distribution, which a model does not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from cigars.ingest import ingest_des_sn5yr

NEIGHBOURS = (3, 5, 8, 12, 20)
SPLITS = 20


def features(mag: np.ndarray) -> np.ndarray:
    """r and adjacent colours in units of their spread, [object, 4]."""
    plain = np.column_stack([mag[:, 1], -np.diff(mag, axis=1)])
    spread = 1.4826 * np.median(np.abs(plain - np.median(plain, 0)), 0)
    return plain / (spread * np.array([2.0, 1.0, 1.0, 1.0]))  # colours tell more of redshift than brightness does


def predict(x: np.ndarray, z: np.ndarray, fold: np.ndarray, k: int) -> np.ndarray:
    """Redshift of every object from the folds that it is not in."""
    out = np.empty_like(z)
    for f in np.unique(fold):
        train = fold != f
        distance, index = cKDTree(x[train]).query(x[~train], k)
        weight = 1 / (distance + 0.05)
        out[~train] = (weight * z[train][index]).sum(1) / weight.sum(1)
    return out


def scores(z: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """NMAD, fraction beyond 0.15 and median of (z - truth) / (1 + truth)."""
    dz = (z - truth) / (1 + truth)
    return {
        "nmad": float(1.4826 * np.median(np.abs(dz - np.median(dz)))),
        "outliers_0.15": float(np.mean(np.abs(dz) > 0.15)),
        "bias_median": float(np.median(dz)),
    }


def baseline(directory: Path, minimum_p_ia: float) -> dict[str, Any]:
    """Mean scores over splits for each number of neighbours."""
    catalogue, _ = ingest_des_sn5yr(directory, minimum_p_ia)
    o = catalogue.observations
    z, x = o.z_spec.astype(float), features(o.mag.astype(float))
    rng = np.random.default_rng(0)
    folds = [rng.permutation(len(z)) % 5 for _ in range(SPLITS)]
    per_k = {}
    for k in NEIGHBOURS:
        each = [scores(predict(x, z, fold, k), z) for fold in folds]
        per_k[str(k)] = {name: float(np.mean([e[name] for e in each])) for name in each[0]}
    return {"objects": len(z), "by_neighbours": per_k}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = {"complete": baseline(arguments.directory, 0.0), "p_ia_above_half": baseline(arguments.directory, 0.5)}
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

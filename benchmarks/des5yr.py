"""What do the DES-SN5YR supernovae give? Photometric redshifts of their hosts, and flat-ΛCDM Ω_m with spectroscopic redshifts.

Expected: NMAD near the nearest-neighbour baseline (.031-.035), and Ω_m near 0.331 ± 0.015, if the model described the data. It
does not, see des5yr.md: this is a record, not a target.

    cigars ingest des-sn5yr FOLDER -o des.fits
    cigars ingest des-sn5yr FOLDER -o des-all.fits --minimum-p-ia 0
    cigars train des5yr -o des-run
    cigars infer des-run des.fits --drop-outside -o des.nc
    cigars infer des-run des-all.fits --hide z_spec --hide sn --drop-outside --draws 200 -o des-photoz.nc
    python benchmarks/des5yr.py des-all.fits des-photoz.nc des.nc des-run
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from common import write_result

from cigars.catalogue import read_catalogue
from cigars.ingest import DES_BANDS
from cigars.pipeline import read_calibration, read_posterior
from cigars.report.statistics import pit, pulls, rank_p_values, redshift_statistics

Z_BINS = (0.0, 0.3, 0.5, 0.7, 1.2)


def photometric_redshifts(catalogue: str, posterior: str) -> dict:
    """Statistics of posterior-mean redshifts from host griz alone against the spectroscopic ones, in all and in bins."""
    table = read_catalogue(catalogue, DES_BANDS)
    known = dict(zip(table.id, table.observations.z_spec, strict=True))
    drawn = read_posterior(posterior).posterior["z"]
    truth = np.array([known[str(i)] for i in drawn["object"].values])
    draws = drawn.values.reshape(-1, len(truth))
    mean = draws.mean(0)
    out = {"objects": len(truth), "left out": len(table.id) - len(truth), **redshift_statistics(mean, truth)._asdict()}
    out["pull mean and sd"] = [float(f(pulls(draws, truth))) for f in (np.mean, np.std)]
    rank = pit(draws, truth) / len(draws)
    out["PIT below .1, above .9"] = [float((rank < 0.1).mean()), float((rank > 0.9).mean())]
    for low, high in pairwise(Z_BINS):
        some = (truth >= low) & (truth < high)
        out[f"{low} <= z < {high}"] = {"objects": int(some.sum()), **redshift_statistics(mean[some], truth[some])._asdict()}
    return out


def cosmology(posterior: str) -> dict:
    """Mean, standard deviation and 16/84 % of every global parameter."""
    data = read_posterior(posterior)
    names = [n for n, v in data.posterior.items() if "object" not in v.dims]
    draws = {n: data.posterior[n].values.ravel() for n in names}
    summary = {n: {"mean": v.mean(), "sd": v.std(), "q16": np.quantile(v, 0.16), "q84": np.quantile(v, 0.84)} for n, v in draws.items()}
    return {"objects": int(data.posterior.sizes["object"]), **{n: {k: float(x) for k, x in s.items()} for n, s in summary.items()}}


def main() -> None:
    """Print and keep everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("catalogue", "photoz", "spectroscopic", "run"):
        parser.add_argument(name)
    given = parser.parse_args()
    calibration, seconds = read_calibration(given.run)
    numbers = {
        "photometric redshifts, host griz alone": photometric_redshifts(given.catalogue, given.photoz),
        "cosmology, spectroscopic redshifts given": cosmology(given.spectroscopic),
        "calibration p-values": dict(zip(calibration.names, map(float, rank_p_values(calibration.ranks, calibration.draws)), strict=True)),
        "seconds": seconds,
    }
    print(json.dumps(numbers, indent=1))
    write_result(Path(__file__).with_suffix(".json"), __doc__.splitlines()[0], numbers)


if __name__ == "__main__":
    main()

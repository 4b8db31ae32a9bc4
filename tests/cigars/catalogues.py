"""Catalogues for tests, made without the simulator."""

import numpy as np

from cigars.catalogue import Catalogue, validated
from cigars.schema import Latents, Observations

BANDS = ("g", "r")


def make_catalogue(size: int = 12, seed: int = 0) -> Catalogue:
    """A valid catalogue: one band of row 3 and the redshift of row 4 are missing, covariances are not zero."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(size, 3, 3)) * 0.1
    covariance = basis @ basis.transpose(0, 2, 1) + 0.01 * np.eye(3)
    values = {
        "mag": rng.uniform(20, 25, (size, 2)),
        "mag_err": rng.uniform(0.01, 0.1, (size, 2)),
        "m": rng.uniform(20, 24, size),
        "x": rng.normal(size=size),
        "c": rng.normal(0, 0.1, size),
        "z_spec": rng.uniform(0.1, 1.0, size),
        "z_spec_err": np.full(size, 1e-3),
    }
    for i, a in enumerate("mxc"):
        values[f"var_{a}"] = covariance[:, i, i]
    values |= {"cov_mx": covariance[:, 0, 1], "cov_mc": covariance[:, 0, 2], "cov_xc": covariance[:, 1, 2]}
    if size > 4:
        values["mag"][3, 0] = values["mag_err"][3, 0] = np.nan
        values["z_spec"][4] = values["z_spec_err"][4] = np.nan
    ids = np.array([f"{i:04d}" for i in range(size)])
    return validated(Catalogue(ids, Observations(**values), rng.uniform(size=size)), BANDS)


def make_latents(size: int = 12, seed: int = 1) -> Latents:
    """Numbers in the place of latents."""
    rng = np.random.default_rng(seed)
    return Latents(*rng.normal(size=(len(Latents._fields), size)).astype(np.float32))

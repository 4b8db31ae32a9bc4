"""Posteriors of a known law that no run made."""

import numpy as np

import cigars as package
from cigars.catalogue import Catalogue
from cigars.infer import assemble
from cigars.posterior import Posterior
from cigars.schema import FIDUCIAL, LOCALS, Observations

TYPICAL = {
    "z": (0.5, 0.01), "mass_log10_msun": (10.5, 0.5), "metallicity_log10_zsun": (-0.3, 0.2), "dust_tau2": (0.4, 0.1),
    "dust_index": (-0.2, 0.1), "x_int": (0.0, 0.3), "c_int": (0.0, 0.05), "age_gyr": (4.0, 1.5),
}  # fmt: skip


def synthetic(draws=4000, correlation=0.9, objects=3, seed=5, local=None, **theta):
    """Θ normal around the fiducial (sd .02 unless given as (mean, sd)); objects of `TYPICAL` laws, the z of each following Ω_m.

    `local` replaces draws [draw, object] of unknowns by name.
    """
    config = package.load_config("demo")
    rng, names = np.random.default_rng(seed), tuple(config.marginals)
    table = np.array([getattr(FIDUCIAL, n) for n in names]) + rng.normal(size=(draws, len(names))) * 0.02
    for name, (mean, sd) in theta.items():
        table[:, names.index(name)] = rng.normal(mean, sd, draws) if sd else mean
    om0 = (table[:, names.index("Om0")] - 0.3) / 0.02
    unit = rng.normal(size=(draws, objects, len(LOCALS)))
    unit[..., 0] = correlation * om0[:, None] + np.sqrt(1 - correlation**2) * unit[..., 0]
    values = {n: TYPICAL[n][0] + TYPICAL[n][1] * unit[..., k] for k, n in enumerate(LOCALS)} | (local or {})
    blank = {n: np.zeros((objects, 6) if n.startswith("mag") else objects, np.float32) for n in Observations._fields}
    catalogue = Catalogue(np.array([f"sn{i}" for i in range(objects)]), Observations(**blank))
    drawn = np.stack([np.broadcast_to(values[n], (draws, objects)) for n in LOCALS], -1).astype(np.float32)
    return Posterior(assemble(names, table, drawn, catalogue, config, {"fingerprint": "f", "seed": 0, "run": "nowhere"}))

"""Galaxies for the tests of the photometry: random ones and those of the brute-force reference."""

from pathlib import Path

import numpy as np

from cigars.schema import Galaxies

REFERENCE = Path(__file__).resolve().parents[2] / "references" / "sps.npz"


def random_galaxies(number: int, seed: int = 0, **fixed: float) -> Galaxies:
    """Galaxies over the whole range of the population; keywords replace a parameter by a constant."""
    rng = np.random.default_rng(seed)
    columns = {
        "z": rng.uniform(0.02, 1.5, number),
        "mass_log10_msun": rng.uniform(8.5, 12.5, number),
        "metallicity_log10_zsun": rng.uniform(-1.98, 0.19, number),
        "sfr_ratios_log10": rng.normal(0, 0.7, (number, 6)),
        "dust_tau2": rng.uniform(0, 2, number),
        "dust_index": rng.uniform(-1, 0.4, number),
        "dust_ratio": rng.uniform(0, 2, number),
        "gas_metallicity_log10_zsun": rng.uniform(-2, 0.5, number),
        "agn_fraction_ln": rng.uniform(np.log(1e-5), np.log(3), number),
        "agn_tau_ln": rng.uniform(np.log(5), np.log(150), number),
    }
    for name, value in fixed.items():
        columns[name] = np.full_like(columns[name], value)
    return Galaxies(**{k: v.astype(np.float32) for k, v in columns.items()})


def reference() -> tuple[Galaxies, dict[str, np.ndarray], tuple[str, ...]]:
    """Galaxies, magnitudes by case and bands of `tests/references/make_sps.py`."""
    with np.load(REFERENCE) as raw:
        arrays = dict(raw)
    absent = np.zeros_like(arrays["z"])
    galaxies = Galaxies(*(arrays.get(k, absent) for k in Galaxies._fields))
    return galaxies, {k: v for k, v in arrays.items() if k.endswith(("_stars", "_nebular"))}, tuple(str(b) for b in arrays["bands"])

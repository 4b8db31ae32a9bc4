"""How far are the template magnitudes from independent codes, what are the conventions worth, and how fast are they?

Expected: stars within 0.7 mmag of brute force on the library's own grids (0.1 rms) and, in the "fsps" convention, within 5 mmag of the FSPS
engine (1 rms); with nebular light within 30 mmag rms of FSPS, whose lines come from another Cloudy table; "native" against "fsps"
some mmag rms and up to 75 in u of dusty young galaxies (node rule for young stars); 30,000 galaxies a second on two idle cores.

usage: python benchmarks/sps_accuracy.py [--galaxies N] [--golden PATH/golden_sps.csv] [--output benchmarks/sps_accuracy.json]
Without the file of FSPS magnitudes that comparison is left out, and said to be.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np
from astropy.table import Table
from common import write_result

from cigars.config import HostConfig
from cigars.schema import Galaxies
from simulators.population import draw_galaxies
from simulators.sps.photometry import load_photometry, template_magnitudes
from simulators.sps.tables import galaxies_from_table

ROOT = Path(__file__).resolve().parents[1]
LSST = tuple(f"lsst2023-{b}" for b in "ugrizy")


def summary(difference: np.ndarray, bands: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Mean, rms and worst difference in mmag, by band."""
    mmag = 1e3 * difference
    rows = np.mean(mmag, 0), np.sqrt(np.mean(mmag**2, 0)), np.abs(mmag).max(0)
    return {
        b: dict(zip(("mean_mmag", "rms_mmag", "worst_mmag"), (round(float(r[i]), 3) for r in rows), strict=True))
        for i, b in enumerate(bands)
    }


def magnitudes(galaxies: Galaxies, bands: tuple[str, ...] = LSST, **options) -> np.ndarray:
    return template_magnitudes(galaxies, load_photometry(HostConfig(bands=bands, **options)))


def against_brute_force() -> dict[str, dict[str, dict[str, float]]]:
    with np.load(ROOT / "tests" / "references" / "sps.npz") as raw:
        arrays = dict(raw)
    galaxies = Galaxies(*(arrays.get(k, np.zeros_like(arrays["z"])) for k in Galaxies._fields))
    bands = tuple(str(b) for b in arrays["bands"])
    cases = {"native_stars": ("native", False), "fsps_stars": ("fsps", False), "native_nebular": ("native", True)}
    return {k: summary(magnitudes(galaxies, bands, convention=c, nebular=n) - arrays[k], bands) for k, (c, n) in cases.items()}


def against_fsps(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    table = Table.read(path, format="ascii.csv", comment="#")
    galaxies = galaxies_from_table(table)
    out = {}
    for nebular, suffix in ((False, "_stars"), (True, "")):
        expected = np.stack([table[f"M_{b}_lsst2023{suffix}"] for b in "ugrizy"], -1)
        out["nebular" if nebular else "stars"] = summary(magnitudes(galaxies, convention="fsps", nebular=nebular) - expected, LSST)
    return out


def speed(galaxies: Galaxies) -> dict[str, float]:
    photometry = load_photometry(HostConfig())
    template_magnitudes(Galaxies(*(v[:1024] for v in galaxies)), photometry)  # compile
    wall, processor = time.perf_counter(), time.process_time()
    template_magnitudes(galaxies, photometry)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    number = len(galaxies.z)
    return {
        "galaxies": number,
        "galaxies_per_s": round(number / wall),
        "processor_us_per_galaxy": round(1e6 * processor / number, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--galaxies", type=int, default=65_536)
    parser.add_argument("--golden", type=Path, default=ROOT.parent / "shared" / "data" / "golden_sps.csv")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    drawn = jax.device_get(draw_galaxies(jax.random.key(0), arguments.galaxies, z_max=1.2))
    some = Galaxies(*(v[:8192] for v in drawn))
    result = {"against_brute_force": against_brute_force()}
    if arguments.golden.exists():
        result["against_fsps_engine"] = against_fsps(arguments.golden)
    else:
        print(f"no file {arguments.golden}: the comparison with FSPS is left out")
    for nebular in (False, True):
        native, fsps = (magnitudes(some, convention=c, nebular=nebular) for c in ("native", "fsps"))
        result[f"native_minus_fsps_{'nebular' if nebular else 'stars'}"] = summary(native - fsps, LSST)
    result |= {"speed": speed(drawn), "device": str(jax.devices()[0])}
    print(json.dumps(result, indent=1))
    write_result(arguments.output, str(__doc__).splitlines()[0], result)


if __name__ == "__main__":
    main()

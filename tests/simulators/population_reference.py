"""What the tests of the host population share: our draws, the stored draws of astro-prospector, and the p-value they ask for."""

from pathlib import Path

import jax
import numpy as np
from scipy import stats

from simulators.population import draw_galaxies

REFERENCE = Path(__file__).parents[1] / "references" / "prospector_draws.npz"
NUMBER = 20_000
SIGNIFICANT = 0.01  # asked by the forward model, §3: KS p > 0.01
draw = jax.jit(draw_galaxies, static_argnums=(1, 2, 3))


def prospector_draws() -> dict[str, np.ndarray]:
    """2,000 draws by astro-prospector (see `make_prospector_draws.py`); one falls outside its own redshift range, at 0."""
    with np.load(REFERENCE) as raw:
        inside = raw["z"] > 0
        return {name: raw[name][inside] if raw[name].shape[:1] == inside.shape else raw[name] for name in raw.files}


def p_value(sample, distribution="uniform") -> float:
    """Kolmogorov-Smirnov p of a sample."""
    return float(stats.kstest(sample, distribution).pvalue)

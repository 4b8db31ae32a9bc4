"""Simulated surveys of a configuration, by number, and the identity of what is made from them."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from cigars.config import Config, TrainingConfig, fingerprint
from cigars.progress import Reporter, silent
from cigars.schema import RANDOM_STREAM, Globals, Survey
from cigars.truncation import draw_prior

__all__ = ["area_time", "run_fingerprint", "sky_rate", "survey_source", "trimmed"]


def survey_source(config: Config, stream: str, theta: Globals | None = None, report: Reporter = silent) -> Callable[[int, int], Survey]:
    """`source(first, count)` simulating surveys first … first + count − 1 of a named stream, arrays [survey, object, …].

    Θ is drawn from the prior unless `theta` is given, as scalars or as arrays with a value for each survey that is asked for.
    On one accelerator the arrays stay there, for DLPack; on CPU devices they come as numpy, cut to the largest survey.
    """
    import jax
    import jax.numpy as jnp

    from simulators.hosts import load_bank
    from simulators.survey import draw_surveys, prepare

    if theta is None and config.prior.region is not None:
        draw_prior(config, 1, 0)  # a region that holds nothing is refused before surveys are drawn in vain
    bank = load_bank(config.hosts, progress=lambda done, total: report("hosts", done, total))
    simulated = config.model_copy(update={"name": "", "seed": 0, "training": TrainingConfig()})  # nothing else compiles anew
    simulator = prepare(simulated, bank)
    key = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(stream.encode()))

    def source(first: int, count: int) -> Survey:
        given = theta and Globals(*(v if np.ndim(v) == 0 else v[first : first + count] for v in theta))
        survey = draw_surveys(key, jnp.arange(first, first + count), simulator, simulated, given)
        if len(jax.local_devices()) == 1 and jax.default_backend() != "cpu":
            return survey
        return trimmed(survey)

    return source


def area_time(config: Config) -> float:
    """Area × duration of a survey of exposure 1 [deg² yr]: configured, or that in which its number is expected at the fiducial Θ."""
    size = config.size
    if size.expected_supernovae is not None:
        return size.expected_supernovae / sky_rate(config)
    return float(size.area_deg2 * size.duration_yr)  # type: ignore[operator]


def sky_rate(config: Config) -> float:
    """Supernovae per square degree and year that a catalogue is expected to have at the fiducial Θ; raises ValueError as that of counts."""
    from simulators import counts
    from simulators.hosts import load_bank

    return counts.sky_rate(config, load_bank(config.hosts))


def trimmed(survey: Survey) -> Survey:
    """A batch as numpy arrays, without the columns that are padding in every survey."""
    import jax

    survey = jax.device_get(survey)
    most = max(int(survey.number.max()), 1)
    cut = lambda tree: type(tree)(*(leaf[:, :most] for leaf in tree))  # noqa: E731
    return survey._replace(
        observations=cut(survey.observations), latents=cut(survey.latents), observed=survey.observed[:, :most], host=survey.host[:, :most]
    )


def run_fingerprint(config: Config) -> str:
    """Identity of a training: configuration, the contents of the files that it names, and the random stream of the simulator."""
    from simulators.survey import files_fingerprint

    return fingerprint(config, files_fingerprint(config), RANDOM_STREAM)

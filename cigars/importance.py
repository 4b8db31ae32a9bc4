r"""Importance weights on posterior draws: another prior, or another experiment's constraint, after the fact.

Draws of p(Θ | D) weighted by w(Θ) are draws of p(Θ | D) w(Θ) / ∫. Their effective number $(\sum w)^2 / \sum w^2$ (Kish 1965) says
how far to trust them; below 50 they are refused. Draws that weights have chosen repeat, and each counts once, with all its weight; draws
of chains, which follow one another, count as many as their own effective number says.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.special import logsumexp
from scipy.stats import gaussian_kde, multivariate_normal, multivariate_t

from cigars.catalogue_checks import LEAST_EIGENVALUE
from cigars.config import Config, Prior
from cigars.files import FileError
from cigars.priors import prior_distribution
from cigars.schema import Globals, Marginal

__all__ = [
    "FEWEST",
    "RELIABLE",
    "Chain",
    "Constraint",
    "Gaussian",
    "effective_number",
    "ln_prior_ratio",
    "old_priors",
    "pareto_tail",
    "proposals",
    "read_chain",
    "read_gaussian",
    "resample",
    "smoothed",
]

FEWEST = 50.0  # effective draws
RELIABLE = 0.7  # largest shape of the tail of weights (Vehtari et al. 2024)
OUTSIDE = 1e-3  # mass of a new prior that may be where the old one has no draws
DEGREES = 5.0  # of freedom of the Student-t from which conditional draws are proposed
ALIASES = {"omegam": "Om0", "omega_m": "Om0", "omegal": "Ode0", "omegav": "Ode0", "omega_lambda": "Ode0", "w": "w0"}
"""Names under which other codes keep the parameters."""


class Constraint(Protocol):
    """What another experiment says of some parameters: a density of them, not necessarily normalised."""

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters that it constrains."""
        ...

    def ln_density(self, values: Float[ndarray, "draw parameter"]) -> Float[ndarray, "draw"]:
        """ln of the density at values of `names`."""
        ...


class Gaussian(NamedTuple):
    """A normal constraint on the parameters `names`."""

    names: tuple[str, ...]
    mean: ndarray
    covariance: ndarray

    def ln_density(self, values: Float[ndarray, "draw parameter"]) -> Float[ndarray, "draw"]:
        """ln of the normal density."""
        return np.atleast_1d(multivariate_normal(self.mean, self.covariance).logpdf(values))


class Chain(NamedTuple):
    """Weighted samples [sample, parameter] of another posterior, under a flat prior, made smooth by a Gaussian kernel (Scott's rule)."""

    names: tuple[str, ...]
    samples: ndarray
    weights: ndarray

    def ln_density(self, values: Float[ndarray, "draw parameter"]) -> Float[ndarray, "draw"]:
        """ln of the kernel density."""
        return gaussian_kde(self.samples.T, weights=self.weights).logpdf(values.T)


def effective_number(ln_weight: Float[ndarray, "draw"], same: Int[ndarray, "draw"] | None = None) -> float:
    """(Σw)²/Σw²; zero where all weights are. Draws of equal number in `same` are one draw that repeats, with the sum of their weights."""
    if not np.isfinite(ln_weight).any():
        return 0.0
    weight = np.exp(ln_weight - logsumexp(ln_weight))
    return float(1 / np.square(weight if same is None else np.bincount(same, weight)).sum())


def resample(ln_weight: Float[ndarray, "draw"], count: int, rng: np.random.Generator) -> Int[ndarray, "count"]:
    """Indices of `count` draws in proportion to their weights, systematic: each appears its expected number of times, give or take one."""
    cumulative = np.cumsum(np.exp(ln_weight - logsumexp(ln_weight)))
    places = (np.arange(count) + rng.uniform()) / count
    chosen = np.searchsorted(cumulative, places * cumulative[-1], side="right").clip(0, len(ln_weight) - 1)
    return rng.permutation(chosen)


def smoothed(ln_weight: Float[ndarray, "draw"]) -> Float[ndarray, "draw"]:
    """ln of weights whose largest, 3√n of n, follow the generalised Pareto law that fits them (Vehtari et al. 2024): none stands alone.

    For widths and regions, which one draw far out would decide; their sum is no longer an unbiased estimate of an integral.
    """
    import arviz

    return np.asarray(arviz.psislw(ln_weight)[0]) if np.isfinite(ln_weight).any() else ln_weight


def pareto_tail(ln_weight: Float[ndarray, "draw"]) -> float:
    """Shape k of the Pareto law of the largest weights: above `RELIABLE` no sum of them is to be trusted, however many count.

    -inf where all are the same.
    """
    import arviz

    if np.ptp(ln_weight) == 0:
        return -np.inf
    return float(arviz.psislw(ln_weight)[1])


def proposals(eta: ndarray, at: list[int], rest: list[int], target: ndarray, seed: int) -> tuple[ndarray, ndarray]:
    """As many proposals of η [draw, parameter] as there are draws, the parameters `at` held at `target`, and ln of their density [draw]."""
    out = np.empty_like(eta)
    out[:, at] = target
    if not rest:
        return out, np.zeros(len(eta))
    covariance, mean = np.cov(eta.T), eta.mean(0)
    slope = np.linalg.solve(covariance[np.ix_(at, at)], covariance[np.ix_(at, rest)]).T
    centre = mean[rest] + slope @ (target - mean[at])
    spread = covariance[np.ix_(rest, rest)] - slope @ covariance[np.ix_(at, rest)]
    law = multivariate_t(centre, spread, df=DEGREES, seed=seed)
    out[:, rest] = law.rvs(len(eta)).reshape(len(eta), -1)
    return out, law.logpdf(out[:, rest])


def ln_prior_ratio(
    draws: Mapping[str, Float[ndarray, "draw"]], old: Mapping[str, Marginal], new: Mapping[str, Prior]
) -> Float[ndarray, "draw"]:
    """ln of new over old prior at each draw; a parameter that is not in `new` keeps its own.

    Draws are of the old prior: one that float32 has put beyond an edge of it is taken to be at that edge.

    Raises:
        ValueError: for a parameter that is not free, a new prior with more than a thousandth of its mass outside the old one, or one that
            is fixed: use `Posterior.conditional`.
    """
    total = np.zeros(len(next(iter(draws.values()))))
    for name, prior in new.items():
        if name not in old:
            raise ValueError(f"prior: expected free parameters of {', '.join(old)}, got {name!r}")
        if prior.fixed is not None:
            raise ValueError(f"prior of {name}: expected uniform or normal, got a fixed value; use conditional({name}={prior.fixed:g})")
        before, after, low, high = prior_distribution(old[name]), prior_distribution(prior.marginal), old[name].low, old[name].high
        if (outside := after.cdf(low) + after.sf(high)) > OUTSIDE:
            raise ValueError(
                f"prior of {name}: expected one within [{low:g}, {high:g}], where there are draws, got {outside:.2g} of it outside; "
                "give a normal prior these limits as within, name the run folder if rounds have made them, or train with the wider prior"
            )
        values = np.clip(np.asarray(draws[name], float), low, high)
        total += after.logpdf(values) - before.logpdf(values)
    return total


def old_priors(config: Config, run: str | Path | None, since: Mapping[str, Marginal]) -> dict[str, Marginal]:
    """Priors that a new one takes the place of: those of `config`, or `since` within the edges of these.

    Rounds for a target leave out only where the posterior is nil, so that a new prior need not keep to their edges: of the folder of a
    `run` with rounds, if it is at hand, the priors before them count.
    """
    from cigars.runs import run_config
    from cigars.truncation import untruncated

    try:
        first = (untruncated(run) if run is not None and run_config(run) == config else config).marginals
    except FileError:
        first = config.marginals
    return first | {n: p._replace(low=max(p.low, first[n].low), high=min(p.high, first[n].high)) for n, p in since.items()}


def read_gaussian(path: str | Path) -> Gaussian:
    """A normal constraint from a TOML file: `parameters`, `mean`, and `covariance` or else `sd` with an optional `correlation` matrix.

    Raises FileError in one line for anything else.
    """
    tree = _toml(Path(path))
    try:
        if unknown := sorted(set(tree) - {"parameters", "mean", "covariance", "sd", "correlation"}):
            raise ValueError(f"the unknown {', '.join(unknown)}")
        names = _known(tree["parameters"])
        mean = np.asarray(tree["mean"], float)
        if "covariance" in tree:
            if beside := [key for key in ("sd", "correlation") if key in tree]:
                raise ValueError(f"covariance beside {' and '.join(beside)}")
            covariance = np.asarray(tree["covariance"], float)
        else:
            sd = np.asarray(tree["sd"], float)
            correlation = np.asarray(tree.get("correlation", np.eye(len(sd))), float)
            if not (sd > 0).all() or not np.allclose(np.diag(correlation), 1):
                raise ValueError("sd that are not above zero" if not (sd > 0).all() else "a correlation whose diagonal is not 1")
            covariance = correlation * sd[:, None] * sd
        if mean.shape != (len(names),) or covariance.shape != (len(names),) * 2:
            raise ValueError(f"{len(names)} parameters with mean {mean.shape} and covariance {covariance.shape}")
        if not np.isfinite(mean).all():
            raise ValueError("a mean that is not finite")
        if not np.allclose(covariance, covariance.T) or _degenerate(covariance):
            raise ValueError("a covariance that is not positive definite")
    except (KeyError, ValueError, TypeError, np.linalg.LinAlgError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise FileError(f"{path}: expected parameters, mean, and covariance or sd (with correlation) of a Gaussian, got {what}") from None
    return Gaussian(names, mean, covariance)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise FileError(f"{path}: cannot read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileError(f"{path}: not valid TOML: {error}") from None


def _known(names: Sequence[str]) -> tuple[str, ...]:
    found = tuple(ALIASES.get(str(n).lower(), str(n)) for n in names)
    if unknown := [n for n in found if n not in Globals._fields]:
        raise ValueError(f"the parameters {', '.join(unknown)}, which are none of {', '.join(Globals._fields)}")
    if twice := sorted({n for n in found if found.count(n) > 1}):
        raise ValueError(f"{', '.join(twice)} twice among the parameters {', '.join(names)}")
    return found


def read_chain(path: str | Path, names: Sequence[str]) -> Chain:
    """Samples of the parameters `names` from a table (.fits, .parquet, .ecsv, .csv; an optional column `weight`) or from GetDist chains.

    Every sample counts: burn-in must have been removed.

    Args:
        path: a table, or the root of GetDist's text files.
        names: of the schema; columns may use them or the usual names of other codes, such as `omegam`.

    Raises:
        CatalogueError, FileError: for a file that is not one, lacks a parameter or has it twice, misses values, has weights whose column
            is called otherwise, or samples in fewer dimensions than parameters.
    """
    from cigars.catalogue_checks import rows
    from cigars.tables import FORMATS

    wanted = _known(names)
    samples, weights = (_table if Path(path).suffix.lower() in FORMATS else _getdist)(path, wanted)
    kept = weights > 0
    if (bad := ~(weights >= 0) | np.isinf(weights) | (kept & ~np.isfinite(samples).all(1))).any():
        raise FileError(f"{path}: expected finite samples with weights of at least zero, but {rows(bad)} not; remove what has no value")
    if kept.sum() < FEWEST:
        raise FileError(f"{path}: expected at least {FEWEST:.0f} samples, got {kept.sum()}")
    constant = bool((np.ptp(samples[kept], 0) == 0).any())  # rounding gives its mean, and so itself, a variance
    if constant or _degenerate(np.atleast_2d(np.cov(samples[kept].T, aweights=weights[kept]))):
        raise FileError(
            f"{path}: expected samples that vary in {', '.join(wanted)} independently, got fewer dimensions, as in a flat cosmology; "
            f"give fewer parameters, as by --parameters {wanted[0]}"
        )
    return Chain(wanted, samples[kept], weights[kept])


def _degenerate(covariance: Float[ndarray, "parameter parameter"]) -> bool:
    """Whether a matrix is no covariance of finite width in all directions, but for rounding."""
    variance = np.diag(covariance)
    if not (np.isfinite(covariance).all() and (variance > 0).all()):
        return True
    return bool(np.linalg.eigvalsh(covariance / np.sqrt(np.outer(variance, variance))).min() <= LEAST_EIGENVALUE)


def _columns(path: str | Path, given: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where the parameters are among the names that a file gives."""
    found = [[i for i, name in enumerate(given) if ALIASES.get(name.lower(), name) == parameter] for parameter in wanted]
    if missing := [n for n, at in zip(wanted, found, strict=True) if not at]:
        raise FileError(f"{path}: expected samples of {', '.join(wanted)}, missing {', '.join(missing)}; found {', '.join(given)}")
    for name, at in zip(wanted, found, strict=True):
        if len(at) > 1:
            raise FileError(f"{path}: expected one column of {name}, got {' and '.join(given[i] for i in at)}; remove all but one")
    return [at[0] for at in found]


def _table(path: str | Path, wanted: Sequence[str]) -> tuple[Float[ndarray, "sample parameter"], Float[ndarray, "sample"]]:
    from cigars.catalogue_checks import CatalogueError
    from cigars.tables import numbers, read_table

    table = read_table(path)
    weights = [name for name in table.colnames if "weight" in name.lower()]
    if len(weights) > 1 or any(name.lower() not in ("weight", "weights") for name in weights):
        raise FileError(f"{path}: expected weights in one column 'weight', got {', '.join(weights)}; rename the right one, remove others")
    at = _columns(path, table.colnames, wanted)
    try:
        samples = np.column_stack([numbers(table, table.colnames[i], "") for i in at])
        return samples, numbers(table, weights[0], "") if weights else np.ones(len(table))
    except CatalogueError as error:
        raise CatalogueError(f"{path}: {error}") from None


def _getdist(path: str | Path, wanted: Sequence[str]) -> tuple[Float[ndarray, "sample parameter"], Float[ndarray, "sample"]]:
    import getdist

    try:
        chain = getdist.loadMCSamples(str(Path(path).absolute()), no_cache=True)  # it knows no root without a folder
    except Exception as error:  # whatever the reader raises, the user needs to know that these are no chains
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileError(f"{path}: expected a table or the root of GetDist chains, got none ({reason[:120]})") from None
    at = _columns(path, [p.name for p in chain.paramNames.names], wanted)
    return chain.samples[:, at], np.asarray(chain.weights)

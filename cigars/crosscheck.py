r"""A second route to the posterior of a catalogue, against which that of the networks is held: no summary, no posterior flow.

A flow learns the density of one detected object and a small network the expected number (`inference.object_likelihood`), on surveys whose Θ
have twice the spread of the networks' posterior: a density does not depend on where its Θ were drawn. The no-U-turn sampler draws the
second posterior from their product over the catalogue. What is wrong of the density adds up over the objects, which is measured: on
surveys simulated at the posterior mean the score of the right likelihood is zero on average, and what it is instead moves the posterior
by $C\,\bar s$, C its covariance. That shift grows as √N in units of the width. The scatter S of these scores is the information,
so that estimates scatter by $C (S + 1) C$, in units where the prior has covariance 1, which is C where the stated widths are right.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cigars.catalogue import Catalogue, CatalogueError
from cigars.catalogue_checks import TargetWarning
from cigars.config import Config, ConfigError
from cigars.convergence import R_HAT
from cigars.density_chains import sample_density
from cigars.files import write_json
from cigars.progress import Reporter, silent
from cigars.runs import run_config
from cigars.schema import Globals
from cigars.surveys import survey_source
from cigars.targets import hide, survey_of, target_hash
from cigars.training_range import check_exposure, check_trained, inside, warn_of_other_target, warn_of_others

if TYPE_CHECKING:
    from inference.object_likelihood import ObjectLikelihood
    from inference.priors import Prior

__all__ = ["TOLERANCE", "WIDTHS", "Crosscheck", "crosscheck", "own_errors", "trained_density", "write_crosscheck"]

TOLERANCE, WIDTHS = 0.3, 0.15  # of the means, in standard deviations, and of the widths, within which two routes agree
HELD = 1000  # surveys on which the density is judged
CALIBRATION = 100  # surveys that measure the shift, to a tenth of the width
NETWORK_DRAWS = 4000
WIDER = 2.0  # times the posterior of the networks: where the density is trained
FEWEST = 50  # effective draws, below which .3 σ would be little more than their noise
DIVERGED = 0.01  # share of the draws above which they are not taken for the posterior
EDGE = 3.7  # standard deviations of the prior, where float32 still tells its edge


class Crosscheck(NamedTuple):
    """What both routes say.

    Attributes:
        names: free parameters.
        networks, second: draws [draw, parameter].
        r_hat, n_eff: of the second route's chains, by parameter.
        divergences: of them.
        shift, shift_error: by how many of its standard deviations its own errors move the second posterior, and how well that is known.
        scatter, scatter_error: by how much more its estimates scatter than its widths say, 1 if these are right, and the same of that.
        record: of how it was done.
    """

    names: tuple[str, ...]
    networks: np.ndarray
    second: np.ndarray
    r_hat: np.ndarray
    n_eff: np.ndarray
    divergences: int
    shift: np.ndarray
    shift_error: np.ndarray
    scatter: np.ndarray
    scatter_error: np.ndarray
    record: Mapping[str, Any]

    @property
    def between(self) -> np.ndarray:
        """Mean of the networks less that of the second route, in standard deviations of the second."""
        return (self.networks.mean(0) - self.second.mean(0)) / self.second.std(0, ddof=1)

    @property
    def widths(self) -> np.ndarray:
        """Standard deviations of the networks over those of the second route."""
        return self.networks.std(0, ddof=1) / self.second.std(0, ddof=1)

    @property
    def doubts(self) -> list[str]:
        """Why the second route is not good enough to be held against the networks, at this number of objects; none if it is."""
        wrong = np.maximum(np.log(self.scatter) ** 2 - (self.scatter_error / self.scatter) ** 2, 0.0)  # the noise of the measure left out
        found = {  # what is not a number counts against it
            f"its own errors reach {TOLERANCE} σ at {self.limit}": not self.breaks_at > self.objects,
            f"its widths are off by more than {WIDTHS:.0%}": not bool((wrong <= math.log(1 + WIDTHS) ** 2).all()),
            f"R̂ is {self.r_hat.max():.2f}": not bool((self.r_hat <= R_HAT).all()),
            f"its draws are worth {self.n_eff.min():.0f} alone": not bool((self.n_eff >= FEWEST).all()),
            f"{self.divergences} of {len(self.second)} draws diverged": not self.divergences <= DIVERGED * len(self.second),
        }
        return [reason for reason, true in found.items() if true]

    @property
    def trusted(self) -> bool:
        """Whether the second route is good enough at this number of objects, and its chains have converged."""
        return not self.doubts

    @property
    def disagree(self) -> bool:
        """Whether a trusted second route differs from the networks by more than `TOLERANCE` and `WIDTHS`, or by what is not a number."""
        alike = (np.abs(self.between) <= TOLERANCE) & (np.abs(np.log(self.widths)) <= math.log(1 + WIDTHS))
        return self.trusted and not bool(alike.all())

    @property
    def verdict(self) -> str:
        """In a few words."""
        if not self.trusted:
            return f"cannot be compared, of the second one {'; '.join(self.doubts)}"
        return f"{'DISAGREE' if self.disagree else 'agree'} to {TOLERANCE} σ in the means and {WIDTHS:.0%} in the widths"

    @property
    def objects(self) -> int:
        """Number in the catalogue."""
        return int(self.record["objects"])

    @property
    def breaks_at(self) -> float:
        """Number of objects at which the second route's own errors would move it by `TOLERANCE`, the noise of their measure left out; not a
        number where these errors are not."""
        excess = np.maximum(self.shift**2 - self.shift_error**2, 0.0).max()
        return math.inf if excess == 0 else self.objects * TOLERANCE**2 / float(excess)

    @property
    def limit(self) -> str:
        """That number in words."""
        if math.isnan(self.breaks_at):
            return "an unknown number of objects"
        return f"{self.breaks_at:,.0f} objects" if math.isfinite(self.breaks_at) else "numbers beyond measure"


def crosscheck(
    run: str | Path,
    catalogue: Catalogue,
    *,
    surveys: int = 8000,
    objects: int = 400_000,
    draws: int = 600,
    warmup: int = 150,
    chains: int = 2,
    exposure: float = 1.0,
    seed: int = 0,
    folder: str | Path | None = None,
    report: Reporter = silent,
) -> Crosscheck:
    """Posterior of Θ of a catalogue by a density of single objects, beside that of a run.

    Args:
        run: folder that `train` made.
        catalogue: objects in the bands of the run, each with every band and its light; spectroscopic redshifts are hidden from both routes.
        surveys, objects: to train on, some objects of each survey.
        draws: in all.
        warmup, chains: of the sampler, whose chains begin at draws of the networks.
        exposure: of the catalogue, relative to the configured size.
        seed: of training and draws.
        folder: of the training, which is continued if there is one; `crosscheck` in the run unless given.
        report: progress, called as report(stage, done, total).

    Raises:
        CatalogueError: for an empty catalogue, objects outside the range of the training, or with a band or light missing, or whose
            number or correlations of errors no survey of the training had.
        ConfigError: for an exposure that the run was not trained for, a run that saw no object without a spectroscopic redshift or some
            without a band, or numbers that make no chain.

    Warns:
        TargetWarning: where the run was trained with spectroscopic redshifts or for another catalogue, or objects are by `p_ia` of
            another type.
    """
    from inference.batches import pack
    from inference.model import load_run, versions
    from inference.object_likelihood import object_data
    from inference.posterior import GlobalPosterior

    config = run_config(run)
    check_exposure(exposure, config)
    if min(surveys, objects, chains, warmup) < 1 or draws < 2 * chains:
        raise ConfigError(f"crosscheck: expected positive numbers and at least two draws a chain, got {draws} draws of {chains} chains")
    if config.observation.spectroscopic_fraction == 1:
        raise ConfigError(
            "crosscheck: expected a run that saw objects without spectroscopic redshifts, which are hidden here, got one trained with "
            "observation.spectroscopic_fraction = 1; train with less"
        )
    if np.any(config.observation.missing_probability):
        raise ConfigError(
            "crosscheck: expected a run whose surveys have every band, as the second route needs, got one trained with "
            "observation.missing_probability above 0; train without"
        )
    warn_of_other_target(run, catalogue)
    warn_of_others(catalogue)
    trained = load_run(Path(run))
    within, outside = inside(trained, catalogue._replace(observations=hide(catalogue.observations, ["z_spec"])), None)
    if outside or not len(catalogue.id):
        raise CatalogueError(
            f"crosscheck: expected objects in the range of the training, got {outside} of {len(catalogue.id)} outside; leave them out"
        )
    survey = survey_of(within, exposure)
    packed = pack(survey)
    try:
        data = object_data(packed.observations)
    except ValueError as error:
        raise CatalogueError(f"crosscheck: {error}") from None
    check_trained(trained, survey, config)
    if config.observation.spectroscopic_fraction > 0:
        said = "the networks of Θ saw no survey without spectroscopic redshifts, which both routes do without"
        warnings.warn(f"{said}; theirs may be wrong", TargetWarning, stacklevel=2)
    folder, catalogue_hash = Path(folder) if folder is not None else Path(run) / "crosscheck", target_hash(catalogue)
    networks = GlobalPosterior(trained).sample(NETWORK_DRAWS, survey, seed)[:, 0].cpu()
    begin = trained.prior.transform.inv(networks).clamp(-EDGE, EDGE).double().numpy()
    place = folder / f"{trained.meta['fingerprint']}-{catalogue_hash}-{surveys}-{objects}-{exposure:g}-{seed}"
    net = trained_density(config, begin.mean(0) + WIDER * (begin - begin.mean(0)), place, surveys, objects, exposure, seed, report)
    eta, statistics = sample_density(net, net.standardise(data), exposure, begin, draws, warmup, chains, seed, report)
    errors = own_errors(_scores(net, config, eta, exposure, seed, report), np.atleast_2d(np.cov(eta.T)))
    record = {
        "run": str(run), "fingerprint": trained.meta["fingerprint"], "catalogue": catalogue_hash, "objects": len(catalogue.id),
        "exposure": exposure, "surveys": surveys, "training_objects": objects, "seed": seed, "chains": chains, "warmup": warmup,
        "versions": versions(), "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    second = _theta(net.prior, eta).astype(float)
    return Crosscheck(trained.names, networks.double().numpy(), second, *statistics, *errors, record)


def _theta(prior: Prior, eta: np.ndarray) -> np.ndarray:
    import torch

    return np.asarray(prior.transform(torch.as_tensor(eta, dtype=torch.float32)).numpy())


def _globals(config: Config, prior: Prior, eta: np.ndarray) -> Globals:
    """Θ at η [parameter] or at each of its rows."""
    return config.globals_of(dict(zip(prior.names, _theta(prior, eta).T, strict=True)))


def trained_density(
    config: Config, eta: np.ndarray, folder: Path, surveys: int, objects: int, exposure: float, seed: int, report: Reporter
) -> ObjectLikelihood:
    """The density of one object, trained on fresh surveys; continues what is in the folder.

    Args:
        config: of the surveys.
        eta: where the density shall be good, rows of Θ [row, parameter] made standard normal under the prior; surveys are at rows in turn.
        folder: of the checkpoints.
        surveys, objects: to train on.
        exposure: of the surveys, relative to the configured size.
        seed: of weights, batches and which objects are kept.
        report: progress.
    """
    from inference.object_likelihood import train_object_likelihood
    from inference.priors import Prior
    from inference.stages import summarised
    from inference.summaries import size_columns

    prior, batch = Prior(config.marginals), config.training.batch_surveys
    rows = np.resize(np.clip(eta, -EDGE, EDGE), (HELD + surveys + 2 * batch, eta.shape[1]))  # the last batches are whole
    source = survey_source(config.of_exposure(exposure), "crosscheck", _globals(config, prior, rows), report)
    keep = max(math.ceil(objects / surveys), 1)
    held, some = (
        summarised(name, source, size_columns, prior.names, first, total, batch, folder, report=report, keep=keep, seed=seed)[2]
        for name, first, total in (("held out", 0, HELD), ("objects", HELD, surveys))
    )
    return train_object_likelihood(prior, some, held, config.training, seed, folder, report)


def _scores(
    net: ObjectLikelihood, config: Config, eta: np.ndarray, exposure: float, seed: int, report: Reporter
) -> Float[np.ndarray, "survey parameter"]:
    """Slopes of ln L of surveys simulated at the mean of some draws of η, there."""
    import torch

    from inference.batches import select
    from inference.object_likelihood import object_data
    from inference.stages import stream

    at = torch.as_tensor(eta.mean(0), dtype=torch.float32)
    source = survey_source(config.of_exposure(exposure), f"crosscheck-{seed}", _globals(config, net.prior, eta.mean(0)), report)
    scores: list[np.ndarray] = []
    for packed in stream(source, 0, CALIBRATION, config.training.batch_surveys, ()):
        for k in range(len(packed.lengths)):
            point = at.clone().requires_grad_()
            data = net.standardise(object_data(select(packed, [k]).observations))
            (slope,) = torch.autograd.grad(net.ln_likelihood(data, point[None], exposure).sum(), point)
            scores.append(slope.double().numpy())
        report("scores", len(scores), CALIBRATION)
    return np.array(scores)


class OwnErrors(NamedTuple):
    """What the errors of a likelihood do to its posterior, [parameter] each: see `Crosscheck`."""

    shift: np.ndarray
    shift_error: np.ndarray
    scatter: np.ndarray
    scatter_error: np.ndarray


def own_errors(scores: Float[np.ndarray, "survey parameter"], covariance: Float[np.ndarray, "parameter parameter"]) -> OwnErrors:
    """How far a posterior is moved where scores at the truth are not zero on average, and how wrong its widths are by their scatter.

    Args:
        scores: slopes of ln L at the Θ that the surveys were simulated at, in units where the prior is standard normal.
        covariance: of the posterior of one survey.
    """
    count, sd = len(scores), np.sqrt(np.diag(covariance))
    moved = scores @ covariance / sd
    scattered = np.sqrt(moved.var(0, ddof=1) + np.diag(covariance @ covariance) / sd**2)
    # errors of a variance from the scatter of squares: scores need not be normal
    squares = (moved - moved.mean(0)) ** 2
    return OwnErrors(moved.mean(0), moved.std(0, ddof=1) / count**0.5, scattered, squares.std(0, ddof=1) / count**0.5 / (2 * scattered))


def write_crosscheck(path: str | Path, found: Crosscheck, overwrite: bool = False) -> None:
    """Write means, widths and their comparison as JSON; raises FileError where the file exists."""
    columns = {
        "networks_mean": found.networks.mean(0), "networks_sd": found.networks.std(0, ddof=1), "second_mean": found.second.mean(0),
        "second_sd": found.second.std(0, ddof=1), "between_sigma": found.between, "width_ratio": found.widths,
        "own_shift_sigma": found.shift, "own_shift_error": found.shift_error, "own_scatter": found.scatter,
        "own_scatter_error": found.scatter_error, "r_hat": found.r_hat, "n_eff": found.n_eff,
    }  # fmt: skip
    parameters = {name: {key: values[k] for key, values in columns.items()} for k, name in enumerate(found.names)}
    content = {
        "parameters": parameters,
        "divergences": found.divergences,
        "breaks_at_objects": found.breaks_at,
        "doubts": found.doubts,
        **found.record,
    }
    write_json(path, content, overwrite)

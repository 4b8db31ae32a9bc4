"""The harmonic mean with a learned target gives known evidences; targets that are too wide are refused."""

import numpy as np
import pytest

from benchmarks.linear_gaussian import MARGINALS, PRIOR_SD, GaussianSurvey
from inference.harmonic import HeavyTail, harmonic_mean, pareto_shape

DRAWS = 2000
FREE = (tuple(MARGINALS), ("M0", "beta"), ("beta",))


@pytest.fixture(scope="module")
def survey():
    return GaussianSurvey(25)(0, 3)


def posterior(survey, number, free, seed=0):
    """Draws of the exact posterior of a model in units of the prior, ln of likelihood over L(Θ_0) times prior there, and exact ln Z."""
    model = GaussianSurvey(25, free=free)
    linear, information = model.ln_likelihood_terms(survey)
    sd = PRIOR_SD[model.free]
    b, j = linear[number, model.free] * sd, information[number][np.ix_(model.free, model.free)] * np.outer(sd, sd)
    covariance = np.linalg.inv(np.eye(len(b)) + j)
    draws = np.random.default_rng(seed).multivariate_normal(covariance @ b, covariance, DRAWS)
    ln_posterior = draws @ b - 0.5 * ((draws @ j) * draws).sum(1) - 0.5 * (draws**2).sum(1) - 0.5 * len(b) * np.log(2 * np.pi)
    return draws, ln_posterior, model.ln_evidence(survey)[number]


@pytest.mark.parametrize("number", [0, 2])
def test_bayes_factors_are_the_exact_ones(survey, number):
    found, exact = zip(*((harmonic_mean(*(p := posterior(survey, number, free, seed=number))[:2]), p[2]) for free in FREE), strict=True)
    for one, true in zip(found, exact, strict=True):
        assert abs(one.ln_z - true) < 5 * one.error + 1e-3
        assert one.error < 0.05
        assert one.shape < 0.5
    for k in (1, 2):
        assert abs((found[k].ln_z - found[0].ln_z) - (exact[k] - exact[0])) < 0.2
    assert abs((found[1].ln_z - found[0].ln_z) - (exact[0] - exact[1])) > 0.2  # the wrong way round


def test_the_posterior_need_not_be_normal():
    """A banana: y given x about x², both known; the factor is exact."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=4000)
    y = x**2 + 0.3 * rng.normal(size=4000)
    ln_density = -0.5 * x**2 - 0.5 * ((y - x**2) / 0.3) ** 2 - np.log(2 * np.pi * 0.3)
    found = harmonic_mean(np.stack([x, y], 1), ln_density + 7.0)
    assert abs(found.ln_z - 7.0) < min(5 * found.error, 0.2)
    assert found.error < 0.1


def test_a_target_wider_than_the_posterior_is_refused(survey):
    """The base of four times the variance: the estimate is off by more than the right one's error, and its weights have no variance."""
    draws, ln_posterior, _ = posterior(survey, 0, FREE[0])
    with pytest.raises(HeavyTail, match="finite variance, got a Pareto shape of"):
        harmonic_mean(draws, ln_posterior, temperature=4.0)


def test_the_original_harmonic_mean_is_seen_to_fail(survey):
    """Weights 1/L, whose mean is dominated by the largest few."""
    draws, ln_posterior, exact = posterior(survey, 0, FREE[0])
    ln_prior = -0.5 * (draws**2).sum(1) - 0.5 * draws.shape[1] * np.log(2 * np.pi)
    ln_weight = ln_prior - ln_posterior
    assert pareto_shape(ln_weight) > 0.5
    assert abs(-np.log(np.mean(np.exp(ln_weight))) - exact) > 0.2


def test_the_pareto_shape_is_that_of_known_laws():
    rng = np.random.default_rng(2)
    for shape in (0.2, 0.7):
        draws = rng.uniform(size=20_000) ** -shape  # Pareto: the n-th moment exists for n < 1/shape
        assert pareto_shape(np.log(draws)) == pytest.approx(shape, abs=5 * 1.5 / (3 * 20_000**0.5) ** 0.5)
    assert pareto_shape(np.log(rng.uniform(1, 2, 20_000))) < 0
    assert pareto_shape(np.zeros(1000)) < 0


def test_what_cannot_be_used_is_refused():
    rng = np.random.default_rng(3)
    with pytest.raises(ValueError, match="at least 400 draws"):
        harmonic_mean(rng.normal(size=(100, 2)), np.zeros(100))
    with pytest.raises(ValueError, match="finite densities"):
        harmonic_mean(rng.normal(size=(500, 2)), np.full(500, -np.inf))

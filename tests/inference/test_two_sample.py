"""The kernel two-sample test on Gaussian objects whose mean follows Θ: passes them, and rejects what no Θ explains."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist

from inference.misspecification import whitening
from inference.two_sample import WIDTHS, embedding, gaussian_kernel, mmd_check

SURVEYS, OBJECTS, REPEATS, LEVEL = 120, 150, 200, 0.05
SPREAD = 0.15  # of Θ, two standard errors of an estimate from one survey


def survey(rng, theta, size=OBJECTS, law="normal"):
    """Objects of two inputs, the second correlated with the first; their estimate of Θ is the mean of the first."""
    first = theta + rng.normal(size=size)
    if law == "correlation":  # the same marginals
        second = -0.8 * (first - theta) + 0.6 * rng.normal(size=size)
    elif law == "mixture":  # the same first two moments
        first = theta + rng.choice([-0.98, 0.98], size) + 0.2 * rng.normal(size=size)
        second = 0.8 * (first - theta) + 0.6 * rng.normal(size=size)
    else:
        second = 0.8 * (first - theta) + 0.6 * rng.normal(size=size)
    return np.stack([first, second], 1)


@pytest.fixture(scope="module")
def simulated():
    rng = np.random.default_rng(0)
    surveys = [survey(rng, SPREAD * rng.normal(), int(rng.integers(100, 200))) for _ in range(SURVEYS)]
    kernel = gaussian_kernel(np.concatenate(surveys))
    means, known = np.stack([embedding(s, kernel) for s in surveys]), np.array([[s[:, 0].mean()] for s in surveys])
    return kernel, means, [len(s) for s in surveys], known


def p_value(simulated, objects):
    kernel, means, sizes, known = simulated
    return mmd_check(means, sizes, known, embedding(objects, kernel), len(objects), objects[:, :1].mean(0)).checks[0].p_value


def test_features_give_the_gaussian_kernel():
    """Monte Carlo error of 256 frequencies: variance of a cosine at most 1/2."""
    rng = np.random.default_rng(1)
    objects = rng.normal(size=(500, 2))
    kernel = gaussian_kernel(objects)
    one, two = (embedding(objects[k : k + 1], kernel) for k in (0, 1))
    assert one @ one == pytest.approx(1, abs=1e-5)
    away = objects[0] - objects[1]
    widths = np.median(pdist(objects @ whitening(objects))) * np.array(WIDTHS)
    expected = np.exp(-0.5 * np.sum((away @ whitening(objects)) ** 2) / widths**2).mean()
    assert abs(one @ two - expected) < 5 * (0.5 / kernel.frequency.shape[1]) ** 0.5


def test_surveys_of_the_model_are_rejected_as_often_as_stated(simulated):
    """Binomial, 5 standard errors, at Θ of the spread of the simulated ones and at the edge of it."""
    rng = np.random.default_rng(2)
    error = 5 * (LEVEL * (1 - LEVEL) / REPEATS) ** 0.5
    assert abs(np.mean([p_value(simulated, survey(rng, SPREAD * rng.normal())) < LEVEL for _ in range(REPEATS)]) - LEVEL) < error
    assert np.mean([p_value(simulated, survey(rng, 2 * SPREAD, 120)) < LEVEL for _ in range(REPEATS)]) < LEVEL + error


def test_p_values_of_simulated_surveys_are_uniform(simulated):
    kernel, means, sizes, known = simulated
    objects = survey(np.random.default_rng(4), 0.0)
    null = mmd_check(means, sizes, known, embedding(objects, kernel), len(objects), objects[:, :1].mean(0)).null
    assert null.shape == (SURVEYS, 1)
    assert stats.kstest(null[:, 0], "uniform").pvalue > 1e-3


@pytest.mark.parametrize("law", ["correlation", "mixture"])
def test_another_law_of_the_objects_is_rejected(simulated, law):
    rng = np.random.default_rng(3)
    assert np.mean([p_value(simulated, survey(rng, 0.1, law=law)) < LEVEL for _ in range(20)]) > 0.9


def test_too_few_are_refused(simulated):
    _, means, sizes, known = simulated
    with pytest.raises(ValueError, match="simulate more or larger"):
        mmd_check(means[:3], sizes[:3], known[:3], means[0], sizes[0], known[0])
    with pytest.raises(ValueError, match="the least of 1"):
        mmd_check(means, sizes, known, means[0], 1, known[0])

"""The density of single objects gives the analytic posterior of the linear-Gaussian survey; another survey's does not fit."""

import numpy as np
import pytest
import torch

from benchmarks.linear_gaussian import MARGINALS, GaussianSurvey, configuration
from inference.batches import hide, pack, select, subset
from inference.object_likelihood import object_data, train_object_likelihood
from inference.priors import Prior

SURVEYS, OBJECTS, DRAWS = 2400, 10, 400


@pytest.fixture(scope="module")
def survey():
    return GaussianSurvey(40)


@pytest.fixture(scope="module")
def net(survey):
    some, held = (
        subset(pack(survey(first, count), tuple(MARGINALS)), OBJECTS, torch.Generator().manual_seed(0))
        for first, count in ((100, SURVEYS), (0, 100))
    )
    return train_object_likelihood(Prior(MARGINALS), some, held, configuration(SURVEYS, local_epochs=4).training, seed=0)


@torch.no_grad()
def weighted(net, packed, mean, covariance) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviations of the posterior of η, by draws from a wider one than the analytic."""
    data, wide = net.standardise(object_data(packed.observations)), torch.as_tensor(1.5 * np.linalg.cholesky(covariance))
    noise = torch.randn(DRAWS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eta = torch.as_tensor(mean) + noise @ wide.T
    ln_l = net.ln_likelihood(data, eta.float()).double()
    weight = torch.softmax(ln_l - 0.5 * (eta**2).sum(-1) + 0.5 * (noise**2).sum(-1), 0)
    centre = weight @ eta
    return centre.numpy(), (weight @ (eta - centre) ** 2).sqrt().numpy()


def exact(survey, batch) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of η of every survey."""
    mean, covariance = survey.posterior(batch)
    loc, scale = (np.array([getattr(m, name) for m in MARGINALS.values()]) for name in ("loc", "scale"))
    return (mean - loc) / scale, covariance / np.outer(scale, scale)


def test_the_posterior_is_the_analytic_one(survey, net):
    batch = survey(10_000, 8)
    packed = pack(batch, tuple(MARGINALS))
    mean, covariance = exact(survey, batch)
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    found = [weighted(net, select(packed, [k]), mean[k], covariance[k]) for k in range(8)]
    shift = (np.stack([m for m, _ in found]) - mean) / sd
    widths = np.stack([s for _, s in found]) / sd
    assert (shift**2).mean() ** 0.5 < 0.3, shift  # the tolerance of `cigars crosscheck`
    assert np.abs(widths - 1).mean() < 0.15, widths
    other = (np.roll(np.stack([m for m, _ in found]), 1, 0) - mean) / sd  # of the survey before
    assert (other**2).mean() ** 0.5 > 1


def test_numbers_carry_the_rate(net, survey):
    batch = pack(survey(20_000, 64), tuple(MARGINALS))
    expected = net.ln_expected(net.condition(net.prior.transform.inv(batch.theta))).exp().detach()
    assert float(expected.mean()) == pytest.approx(40, rel=5 / (40 * SURVEYS) ** 0.5 + 0.02)  # Poisson error of training, and of the fit
    eta = torch.zeros(1, 3)
    data = net.standardise(object_data(select(batch, [0]).observations))
    with torch.no_grad():
        one, two = (float(net.ln_likelihood(data, eta, exposure)[0]) for exposure in (1.0, 2.0))
        ln_rate = float(net.ln_expected(net.condition(eta))[0])
    assert two - one == pytest.approx(len(data) * np.log(2) - np.exp(ln_rate), rel=1e-3)


def test_constant_columns_are_dropped(net):
    assert net.frame.shape == (8, 5)  # variances do not differ between these objects


def test_objects_that_lack_something_are_refused(survey):
    observations = pack(survey(0, 1), tuple(MARGINALS)).observations
    some = torch.arange(len(observations.m)) < 3
    with pytest.raises(ValueError, match="every band and the light of all") as refusal:
        object_data(hide(observations, None, some, None))
    assert "got 3 that lack some" in str(refusal.value)

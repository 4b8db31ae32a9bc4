"""Flows that stay on the support, integrate to one, and start where they are told to."""

import math

import pytest
import torch

from cigars.schema import LOCALS, Marginal
from inference.batches import hide
from inference.embedding import SetEncoder
from inference.estimators import GlobalEstimator, LocalEstimator, local_marginals
from inference.priors import Prior
from inference.standardise import Standardiser, Whitening

from .conftest import observations

UNIFORM = {"a": Marginal("uniform", 0.0, 1.0, 0.0, 2.0), "b": Marginal("normal", 1.0, 0.5, 0.0, math.inf)}


@pytest.fixture
def estimator():
    torch.manual_seed(0)
    prior = Prior(UNIFORM)
    theta = prior.sample((500,))
    summary = torch.cat([theta + 0.1 * torch.randn(500, 2), torch.randn(500, 3)], 1)
    return GlobalEstimator(prior, Whitening.fit(summary)).fit_skip(summary, theta).eval(), theta, summary


def test_the_density_integrates_to_one_over_the_support(estimator):
    net, _, summary = estimator
    a = (torch.arange(400) + 0.5) / 400 * 2
    b = (torch.arange(800) + 0.5) / 800 * 4
    grid = torch.cartesian_prod(a, b)
    with torch.no_grad():
        density = net.flow.log_prob(grid[:, None], net.context(summary[:1])).exp()
    assert abs(float(density.sum()) * (2 / 400) * (4 / 800) - 1) < 0.01  # midpoint rule; edges of the support carry the error


def test_no_draw_leaves_the_support(estimator):
    net, _, summary = estimator
    with torch.no_grad():
        draws = net.flow.sample((2000,), net.context(summary[:4]))
    assert bool(net.prior.support.check(draws).all())


def test_before_training_the_ridge_regression_is_in_place(estimator):
    """μ of the recentring is already close to the truth that the summary carries with an error of .1."""
    net, theta, summary = estimator
    with torch.no_grad():
        mean = net.context(summary)[:, :2]
    error = (mean - net.prior.transform.inv(theta)).std(0) / net.prior.transform.inv(theta).std(0)
    assert bool((error < 0.6).all())  # the linear map of a uniform parameter to η leaves some


def test_the_estimator_is_what_sbi_expects(estimator):
    from sbi.inference.posteriors import DirectPosterior

    net, _, summary = estimator
    with torch.no_grad():
        posterior = DirectPosterior(net.flow, net.prior)
        x = net.context(summary[:1])
        draws = posterior.sample((100,), x=x, show_progress_bars=False)
        ours = net.flow.log_prob(draws[:, None], x)[:, 0]
        theirs = posterior.log_prob(draws, x=x, norm_posterior=False)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_learned_encoder_wants_objects():
    o = observations(20, 2)
    net = GlobalEstimator(Prior(UNIFORM), Whitening(5, 5), SetEncoder(Standardiser(2).fit(o)))
    with pytest.raises(ValueError, match="expected the objects"):
        net.context(torch.zeros(1, 5))


@pytest.fixture
def local():
    torch.manual_seed(1)
    values = torch.rand(400, len(LOCALS)) * torch.tensor([0.8, 3, 1.5, 2, 1, 1, 0.1]) + torch.tensor([0.1, 9, -1.8, 0.1, -0.8, 0, 0])
    net = LocalEstimator(Prior(local_marginals(values)), Prior(UNIFORM), 3)
    net.standardiser.fit(observations(400, 3))
    return net.eval(), values


def test_local_draws_stay_on_the_physical_support(local):
    net, _ = local
    o = observations(50, 3, z_spec=torch.full((50,), torch.nan))
    with torch.no_grad():
        draws = net.flow.sample((200,), net.context(o, torch.ones(50, 2)))
    assert bool(net.prior.support.check(draws).all())
    assert float(draws[..., 1].min()) >= 8.5
    assert float(draws[..., 3].min()) >= 0


def test_a_spectroscopic_redshift_pins_z_before_any_training(local):
    net, _ = local
    o = observations(50, 3, z_spec=torch.linspace(0.1, 1.0, 50), z_spec_err=torch.full((50,), 1e-3))
    hidden = hide(o, redshift=torch.ones(50, dtype=torch.bool))
    with torch.no_grad():
        pinned = net.flow.sample((200,), net.context(o, torch.ones(50, 2)))[..., 0]
        free = net.flow.sample((200,), net.context(hidden, torch.ones(50, 2)))[..., 0]
    assert float((pinned.mean(0) - o.z_spec).abs().max()) < 0.02
    assert float(pinned.std(0).max()) < 0.02 < float(free.std(0).min())


def test_values_beyond_the_usual_support_widen_it():
    values = torch.tensor([[0.5, 7.0, -1.0, 0.5, 0.0, 0.0, 0.0], [0.6, 10.0, 0.5, 0.5, 0.0, 1.0, 0.1]])
    marginals = local_marginals(values)
    assert marginals["mass_log10_msun"].low < 7.0
    assert marginals["metallicity_log10_zsun"].high > 0.5
    assert marginals["dust_tau2"][3:] == (0.0, 4.0)

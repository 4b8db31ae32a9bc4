"""Flows that stay on the support, integrate to one, and start where they are told to."""

import math

import pytest
import torch

from cigars.schema import Marginal
from inference.embedding import SetEncoder
from inference.estimators import GlobalEstimator, spline_flow
from inference.priors import Prior, prior_within
from inference.standardise import Standardiser, Whitening

from .conftest import observations
from .test_priors import CUT, REGION

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


@torch.no_grad()
@pytest.mark.parametrize("parameters", [1, 5])
def test_the_inverse_by_single_parameters_is_that_of_zuko_and_undoes_the_transform(parameters):
    torch.manual_seed(1)
    prior = Prior({f"p{k}": Marginal("normal", 0.0, 1.0, -math.inf, math.inf) for k in range(parameters)})
    flow = spline_flow(prior, 2 * parameters + 3, 16, 3)
    for weight in flow.net.parameters():
        weight.add_(0.3 * torch.randn_like(weight))
    context, base = 0.3 * torch.randn(4, 2 * parameters + 3), torch.randn(50, 4, parameters)
    for layer in flow.net.transform.transforms[1:]:
        transform, of_zuko = layer(context), super(type(layer), layer).forward(context) if parameters > 1 else layer(context)
        torch.testing.assert_close(transform.inv(base), of_zuko.inv(base), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(transform(transform.inv(base)), base, atol=1e-3, rtol=1e-3)
        assert float((transform.inv(base) - base).abs().max()) > 0.3  # it does something


@torch.no_grad()
@pytest.mark.parametrize("prior", [Prior(UNIFORM), prior_within(CUT, REGION)])
def test_before_training_the_ridge_regression_is_in_place(prior):
    """Means are already as close to the truth as the summary carries it, without bias, and spreads say so."""
    theta, size = prior.sample((2000,), torch.Generator().manual_seed(1)), len(prior.names)
    sd = 0.2 * theta.std(0)
    summary = torch.cat([theta + sd * torch.randn(theta.shape, generator=torch.Generator().manual_seed(2)), torch.ones(2000, 1)], 1)
    net = GlobalEstimator(prior, Whitening.fit(summary)).fit_skip(summary, theta).eval()
    mean, ln_sd = net.context(summary)[:, : 2 * size].split(size, 1)
    given = prior.given(theta)
    error = given.middle + given.unit * mean - theta
    assert bool((error.mean(0).abs() < 5 * error.std(0) / 2000**0.5).all())
    assert bool((error.square().mean(0).sqrt() < 1.2 * sd).all())  # in a region of what those before it leave open, not of the parameter
    torch.testing.assert_close((given.unit * ln_sd.exp()).mean(0), error.std(0), atol=0, rtol=0.05)


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


@torch.no_grad()
def test_few_surveys_start_as_wide_as_their_errors_on_others():
    """As many components as half of the surveys: residuals of the regression are too small by far."""
    prior, generator = Prior(UNIFORM), torch.Generator().manual_seed(3)
    theta = prior.sample((1080,), generator)
    summary = torch.cat([theta + 0.3 * torch.randn(1080, 2, generator=generator), torch.randn(1080, 38, generator=generator)], 1)
    net = GlobalEstimator(prior, Whitening.fit(summary)).fit_skip(summary[:80], theta[:80]).eval()
    given = prior.given(theta)
    mean, ln_sd = net.context(summary)[:, :4].split(2, 1)
    error = ((theta - given.middle) / given.unit - mean) / ln_sd.exp()
    assert bool(((error[80:].std(0) - 1).abs() < 0.4).all())  # five errors of a spread by 80
    assert bool((error[:80].std(0) < 0.7).all())


def test_a_learned_encoder_wants_objects():
    o = observations(20, 2)
    net = GlobalEstimator(Prior(UNIFORM), Whitening(5, 5), SetEncoder(Standardiser(2).fit(o)))
    with pytest.raises(ValueError, match="expected the objects"):
        net.context(torch.zeros(1, 5))

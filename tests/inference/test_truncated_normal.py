"""Normal laws that end where the prior does, against scipy's."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from inference.estimators import spline_flow
from inference.priors import Prior, prior_within
from inference.truncated_normal import TruncatedNormal, TruncatedNormalLayer

from .test_priors import CUT, MIXED, REGION


def law_of(prior, theta, mean, ln_sd):
    """scipy's law of each parameter given those before it, and the rows whose means are less than 3 sd outside the limits."""
    given = prior.given(theta)
    loc, sd = given.middle + given.unit * mean, given.unit * torch.exp(ln_sd)
    low, high = ((limit - loc) / sd for limit in (given.low, given.high))
    return stats.truncnorm(*(v.double().numpy() for v in (low, high, loc, sd))), ((low < 3) & (high > -3)).all(1).numpy()


@pytest.mark.parametrize("prior", [Prior(MIXED), prior_within(CUT, REGION)])
def test_each_parameter_has_the_truncated_normal_law_of_scipy_given_those_before_it(prior):
    size, generator = len(prior.names), torch.Generator().manual_seed(0)
    theta = prior.sample((400,), generator)
    mean, ln_sd = torch.randn(400, size, generator=generator), -0.2 + 0.4 * torch.randn(400, size, generator=generator)
    z, slope = TruncatedNormal(prior, mean, ln_sd).call_and_ladj(theta)
    law, rows = law_of(prior, theta, mean, ln_sd)
    inner = (np.abs(z.numpy()) < 3.5) & rows[:, None]
    assert inner.mean() > 0.7
    np.testing.assert_allclose(z.numpy()[inner], stats.norm.ppf(law.cdf(theta.double().numpy()))[inner], atol=3e-3)
    density = slope.double() - 0.5 * (z.double() ** 2).sum(1) - 0.5 * size * math.log(2 * math.pi)
    np.testing.assert_allclose(density[rows], law.logpdf(theta.double().numpy()).sum(1)[rows], atol=5e-3)
    wider = law_of(prior, theta, mean, ln_sd + 0.02)[0].logpdf(theta.double().numpy()).sum(1)
    assert np.abs(density.numpy() - wider)[rows].max() > 0.02


@pytest.mark.parametrize("prior", [Prior(MIXED), prior_within(CUT, REGION)])
def test_the_layer_has_an_inverse_and_the_determinant_of_its_jacobian(prior):
    size, generator = len(prior.names), torch.Generator().manual_seed(1)
    mean, ln_sd = torch.randn(300, size, generator=generator), -1 + 0.5 * torch.randn(300, size, generator=generator)
    z = torch.randn(300, size, generator=generator)
    layer = TruncatedNormal(prior, mean, ln_sd)
    theta = layer.inv(z)
    assert bool(prior.support.check(theta).all())
    torch.testing.assert_close(layer(theta), z, atol=2e-2, rtol=0)  # float32 of θ beside an edge
    for row in range(20):
        one = TruncatedNormal(prior, mean[row], ln_sd[row])
        jacobian = torch.autograd.functional.jacobian(one, theta[row])
        assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(float(one.call_and_ladj(theta[row])[1]), abs=5e-3)


@pytest.mark.parametrize("prior", [Prior(MIXED), prior_within(CUT, REGION)])
def test_far_predictions_and_points_on_edges_have_finite_densities_and_gradients(prior):
    theta = prior.sample((64,), torch.Generator().manual_seed(2))
    theta[::2] = torch.minimum(torch.maximum(theta[::2] + 100, prior.low), prior.high)[:32]
    given = prior.given(theta)
    theta = torch.where(theta > given.high, given.high, theta)
    for offset in (-40.0, 0.0, 40.0):
        for ln_sd in (-6.0, 0.0, 4.0):
            mean, spread = torch.full_like(theta, offset).requires_grad_(), torch.full_like(theta, ln_sd).requires_grad_()
            z, slope = TruncatedNormal(prior, mean, spread).call_and_ladj(theta)
            (slope - 0.5 * (z**2).sum(-1)).sum().backward()
            for value in (z, slope, mean.grad, spread.grad):
                assert bool(torch.isfinite(value).all()), (offset, ln_sd)
            assert bool(torch.isfinite(TruncatedNormal(prior, mean.detach(), spread.detach()).inv(torch.randn(64, len(prior.names)))).all())


@torch.no_grad()
def test_a_posterior_that_the_prior_cuts_is_known_without_training():
    """Of a normal likelihood at an edge: a flow whose splines do nothing has its density; a normal law of η (former runs) has not."""
    prior = Prior({"a": MIXED["a"]})
    given = prior.given(torch.zeros(1, 1))
    loc, sd = -0.018, 0.006  # a third of a standard deviation inside the edge at -.02
    exact = stats.truncnorm((-0.02 - loc) / sd, (0.03 - loc) / sd, loc, sd)
    theta = torch.tensor(exact.ppf(np.linspace(0.01, 0.99, 99)), dtype=torch.float32)[:, None]

    def density(truncated, mean, ln_sd):
        flow = spline_flow(prior, 4, 8, 1, truncated=truncated)
        for weight in flow.net.parameters():
            weight.zero_()
        return flow.log_prob(theta[:, None], torch.tensor([[mean, ln_sd, 0.0, 0.0]]))[:, 0].numpy()

    expected = exact.logpdf(theta[:, 0].double())
    found = density(True, float((loc - given.middle) / given.unit), float(torch.log(sd / given.unit)))
    np.testing.assert_allclose(found, expected, atol=2e-3)
    eta = prior.transform.inv(theta)
    assert np.abs(density(False, float(eta.mean()), float(eta.std().log())) - expected).max() > 0.2


def test_a_layer_without_a_context_says_so():
    with pytest.raises(ValueError, match="expected a context"):
        TruncatedNormalLayer(Prior(MIXED))()

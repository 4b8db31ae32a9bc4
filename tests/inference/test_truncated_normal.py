"""Normal laws that end where the prior does, against scipy's."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from cigars.config import Region, load_config
from cigars.schema import Marginal
from inference.estimators import spline_flow
from inference.priors import Prior, prior_within
from inference.truncated_normal import TruncatedNormal, TruncatedNormalLayer

from .test_priors import CUT, MIXED, REGION


def law_of(prior, theta, mean, ln_sd):
    """scipy's law of each parameter given those before it, and the rows whose means are less than 3 sd outside the limits."""
    given = prior.given(theta)
    loc, sd = given.middle + given.unit * mean, given.unit * torch.exp(ln_sd)
    low, high = ((limit - loc) / sd for limit in (given.low, given.high))
    return stats.truncnorm(*(v.double().numpy() for v in (low, high, loc, sd))), ((low < 3) & (high > -3)).all(-1).numpy()


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


def test_draws_at_an_edge_are_within_it_however_many_are_asked_at_once():
    """Oblique edges are products of matrices, which round as they are blocked."""
    size, generator, names = 13, torch.Generator().manual_seed(8), tuple(load_config("lsst").marginals)
    directions = 0.3 * torch.randn(size, size, generator=generator).tril(-1) + torch.eye(size)
    region = Region(names=names, centre=(0.1,) * size, directions=directions.tolist(), limits=[(-1.0, 1.0)] * size)
    prior = prior_within({name: Marginal("uniform", 0.0, 1.0, -300.0, 300.0) for name in names}, region)
    z = 20 * torch.sign(torch.randn(4000, size, generator=generator))
    theta = TruncatedNormal(prior, 4 * torch.randn(4000, size, generator=generator), torch.zeros(4000, size)).inv(z)
    assert bool(prior.inside(theta).all())
    assert all(bool(prior.inside(row)) for row in theta)


@pytest.mark.parametrize("prior", [Prior(MIXED), prior_within(CUT, REGION)])
def test_far_predictions_and_points_on_edges_have_finite_densities_and_gradients(prior):
    theta = prior.sample((64,), torch.Generator().manual_seed(2))
    for k in range(len(prior.names)):  # those before it decide where the edges of a region are
        given = prior.given(theta, k)
        theta[:20, k], theta[20:40, k] = (limit.expand(64)[:20] for limit in (given.low, given.high))
    for offset in (-40.0, 0.0, 40.0):
        for ln_sd in (-6.0, 0.0, 4.0):
            mean, spread = torch.full_like(theta, offset).requires_grad_(), torch.full_like(theta, ln_sd).requires_grad_()
            z, slope = TruncatedNormal(prior, mean, spread).call_and_ladj(theta)
            (slope - 0.5 * (z**2).sum(-1)).sum().backward()
            for value in (z, slope, mean.grad, spread.grad):
                assert bool(torch.isfinite(value).all()), (offset, ln_sd)
            assert bool(torch.isfinite(TruncatedNormal(prior, mean.detach(), spread.detach()).inv(torch.randn(64, len(prior.names)))).all())


@torch.no_grad()
def test_tails_and_edges_keep_their_digits():
    """To 5 sd in z, where a distribution function without a tail or a cut at the edge would show."""
    prior = Prior({"a": MIXED["a"], "b": MIXED["b"]})
    z = torch.linspace(-5, 5, 101)[:, None].expand(-1, 2)
    for mean, ln_sd in ((-1.8, -2.0), (0.0, -1.0), (1.8, -2.0)):
        theta = TruncatedNormal(prior, torch.full((2,), mean), torch.full((2,), ln_sd)).inv(z)
        law, _ = law_of(prior, theta, torch.full((2,), mean), torch.full((2,), ln_sd))
        below = np.where(z < 0, law.ppf(stats.norm.cdf(z.double())), law.isf(stats.norm.sf(z.double())))
        np.testing.assert_allclose(theta, below, atol=3e-6)  # float32 of -12 is 1e-6
        again = TruncatedNormal(prior, torch.full((2,), mean), torch.full((2,), ln_sd))(theta)
        np.testing.assert_allclose(again[:, 1], z[:, 1], atol=1e-3)


@torch.no_grad()
def test_a_mean_far_outside_counts_as_one_three_sd_outside():
    prior = Prior({"a": MIXED["a"]})
    given, theta = prior.given(torch.zeros(1, 1)), prior.sample((50,), torch.Generator().manual_seed(5))
    ln_sd = torch.full((1,), -1.0)
    at_three = (given.low - given.middle) / given.unit - 3 * ln_sd.exp()
    far, near = (TruncatedNormal(prior, mean, ln_sd).call_and_ladj(theta) for mean in (torch.full((1,), -40.0), at_three))
    torch.testing.assert_close(far[0], near[0])
    torch.testing.assert_close(far[1], near[1])


@torch.no_grad()
def test_an_untrained_flow_is_normalised_on_a_region():
    """With splines that do something, over points thrown into the box; without the region's limits in the density it is not."""
    prior, (low, high) = prior_within(CUT, REGION), torch.tensor([[m.low, m.high] for m in CUT.values()]).T
    torch.manual_seed(3)
    flow = spline_flow(prior, 8, 16, 2)
    for weight in flow.net.parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    points = low + (high - low) * torch.rand(400_000, 3, generator=torch.Generator().manual_seed(6))
    points = points[prior.inside(points)]
    context = torch.tensor([[0.3, -0.5, 0.5, 0.0, -0.3, 0.2, 0.1, -0.1]])

    def mass(flow):
        each = flow.log_prob(points[:, None], context)[:, 0].double().exp() * float((high - low).prod())
        return float(each.sum()) / 400_000, float(each.std()) * len(points) ** 0.5 / 400_000

    right, error = mass(flow)
    assert right == pytest.approx(1, abs=5 * error + 0.01)
    flow.net.transform.transforms[0].prior = Prior(CUT)
    wrong, error = mass(flow)
    assert wrong < 1 - 5 * error


@torch.no_grad()
def test_a_posterior_that_the_prior_cuts_is_known_without_training():
    """Of a normal likelihood at an edge a flow whose splines do nothing has it; a normal law of what the prior makes normal has not."""
    prior = Prior({"a": MIXED["a"]})
    given = prior.given(torch.zeros(1, 1))
    loc, sd = -0.018, 0.006  # a third of a standard deviation inside the edge at -.02
    exact = stats.truncnorm((-0.02 - loc) / sd, (0.03 - loc) / sd, loc, sd)
    theta = torch.tensor(exact.ppf(np.linspace(0.01, 0.99, 99)), dtype=torch.float32)[:, None]

    flow = spline_flow(prior, 4, 8, 1)
    for weight in flow.net.parameters():
        weight.zero_()
    context = torch.tensor([[float((loc - given.middle) / given.unit), float(torch.log(sd / given.unit)), 0.0, 0.0]])
    expected = exact.logpdf(theta[:, 0].double())
    np.testing.assert_allclose(flow.log_prob(theta[:, None], context)[:, 0], expected, atol=2e-3)
    eta = prior.transform.inv(theta)
    normal = stats.norm(eta.mean(), eta.std()).logpdf(eta) - prior.transform.log_abs_det_jacobian(eta, theta).numpy()
    assert np.abs(normal[:, 0] - expected).max() > 0.2


def test_a_layer_without_a_context_says_so():
    with pytest.raises(ValueError, match="expected a context"):
        TruncatedNormalLayer(Prior(MIXED))()

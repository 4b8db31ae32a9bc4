"""Priors against scipy, and the map that makes them standard normal."""

import numpy as np
import pytest
import torch
from scipy import stats

from cigars.config import Region, load_config
from cigars.schema import Marginal
from cigars.truncation import inside
from inference.estimators import GlobalEstimator
from inference.posterior import GlobalPosterior
from inference.priors import Prior, RegionPrior, prior_within
from inference.standardise import Whitening

MIXED = {
    "a": Marginal("uniform", 0.0, 1.0, -0.02, 0.03),
    "b": Marginal("normal", -12.15, 0.1, -np.inf, np.inf),
    "c": Marginal("normal", 0.2, 0.2, 0.0, 4.0),
    "d": Marginal("normal", 3.0, 0.5, 1.2, np.inf),
}

CUT = {  # as a truncation leaves them: the region crosses both edges of Ω_m and one of the step
    "Om0": Marginal("uniform", 0.0, 1.0, 0.0, 1.0),
    "dtd_slope": Marginal("normal", -1.34, 0.2, -1.8, -0.9),
    "mass_step": Marginal("uniform", 0.0, 1.0, -0.2, 0.2),
}
REGION = Region(
    names=tuple(CUT), centre=(0.4, -1.3, 0.0), directions=((2.0, 0, 0), (-3.0, 9.0, 0), (3.0, 2.0, 20.0)),
    limits=((-2.0, 2.0), (-1.5, 1.5), (-3.0, 2.0)),
)  # fmt: skip


def scipy_of(m):
    if m.kind == "uniform":
        return stats.uniform(m.low, m.high - m.low)
    return stats.truncnorm((m.low - m.loc) / m.scale, (m.high - m.loc) / m.scale, m.loc, m.scale)


@pytest.mark.parametrize("marginals", [MIXED, load_config("demo").marginals, load_config("lsst").marginals])
def test_log_density_is_that_of_scipy(marginals):
    prior = Prior(marginals)
    draws = prior.sample((500,), torch.Generator().manual_seed(0))
    expected = sum(scipy_of(m).logpdf(draws[:, k].double().numpy()) for k, m in enumerate(marginals.values()))
    np.testing.assert_allclose(prior.log_prob(draws), expected, atol=3e-4)  # float32 over up to 13 terms


def test_draws_follow_the_marginals_and_a_shifted_marginal_is_rejected():
    draws = Prior(MIXED).sample((4000,), torch.Generator().manual_seed(1)).double().numpy()
    for k, m in enumerate(MIXED.values()):
        law = scipy_of(m)
        assert stats.kstest(draws[:, k], law.cdf).pvalue > 1e-4
        assert stats.kstest(draws[:, k] + 0.2 * law.std(), law.cdf).pvalue < 1e-4


def test_outside_the_support_the_density_vanishes():
    prior = Prior(MIXED)
    inside = prior.sample((1,), torch.Generator().manual_seed(2))
    for k, value in ((0, 0.031), (0, -0.021), (2, -0.01), (3, 1.1)):
        outside = inside.clone()
        outside[0, k] = value
        assert prior.log_prob(outside) == -torch.inf
        assert not prior.support.check(outside)


def test_the_map_and_its_inverse_cancel_from_edge_to_edge():
    prior = Prior(MIXED)
    eta = torch.linspace(-5, 5, 401)[:, None].expand(-1, 4)
    theta = prior.transform(eta)
    assert bool(prior.support.check(theta).all())
    # near an edge of width w, theta carries eta to float32 rounding of the edge: compare where |eta| < 4
    middle = eta[:, 0].abs() < 4
    torch.testing.assert_close(prior.transform.inv(theta)[middle], eta[middle], atol=5e-3, rtol=0)


def test_the_jacobian_is_the_derivative_of_the_map():
    prior = Prior(MIXED)
    eta = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None].expand(-1, 4)
    t = prior.transform
    for name in ("loc", "scale", "low", "high"):
        setattr(t, name, getattr(t, name).double())
    step = 1e-5
    numeric = torch.log((t(eta + step) - t(eta - step)) / (2 * step))
    torch.testing.assert_close(t.log_abs_det_jacobian(eta, t(eta)), numeric, atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", [1, -1])
def test_a_normal_prior_cut_far_from_its_mean_keeps_its_digits(side):
    """As rounds leave it where a rate is far from the prior's: differences of numbers near one were zero or a few steps of float32."""
    edges = sorted((side * 4.6, side * 5.3))
    prior = Prior({"a": Marginal("normal", 0.0, 1.0, *edges)})
    law = stats.truncnorm(*edges)
    eta = torch.linspace(-3.5, 3.5, 41)[:, None]
    theta = prior.transform(eta)
    np.testing.assert_allclose(theta[:, 0], law.ppf(stats.norm.cdf(eta[:, 0].double())), atol=2e-6)
    # float32 of θ is 5e-7, and dη/dθ up to 3e3 at the farthest
    np.testing.assert_allclose(prior.transform.inv(theta), eta, atol=2e-3)
    np.testing.assert_allclose(prior.log_prob(theta), law.logpdf(theta[:, 0].double()), atol=2e-5)


def test_mean_and_sd_are_those_of_scipy():
    prior = Prior(MIXED)
    law = [scipy_of(m) for m in MIXED.values()]
    np.testing.assert_allclose(prior.mean, [p.mean() for p in law], atol=1e-3)
    np.testing.assert_allclose(prior.stddev, [p.std() for p in law], rtol=5e-3)  # 2,001 quantiles miss the last 1/4000 of a tail


@pytest.mark.parametrize("marginals", [{}, {"a": Marginal("fixed", 1.0, 0.0, -np.inf, np.inf)}])
def test_no_free_parameter_or_a_fixed_one_is_refused(marginals):
    with pytest.raises(ValueError, match="prior: expected"):
        Prior(marginals)


def test_a_region_is_the_support_of_a_flow_and_nothing_else_is():
    """By the truncation's own test of what is inside; the map of the prior without the region leaves it."""
    names, prior = tuple(CUT), prior_within(CUT, REGION)
    assert isinstance(prior, RegionPrior)
    draws = prior.sample((20_000,), torch.Generator().manual_seed(3))
    assert inside(draws.double().numpy(), names, REGION).all()
    assert bool(prior.support.check(draws).all())
    assert torch.isfinite(prior.log_prob(draws)).all()
    other = Prior(CUT).sample((20_000,), torch.Generator().manual_seed(3))
    truly = torch.tensor(inside(other.double().numpy(), names, REGION))
    assert 0.05 < truly.float().mean() < 0.5
    assert torch.equal(prior.support.check(other), truly)
    assert torch.equal(torch.isfinite(prior.log_prob(other)), truly)
    torch.testing.assert_close(prior.log_prob(other)[truly], Prior(CUT).log_prob(other)[truly])


def test_the_map_of_a_region_has_an_inverse_and_the_determinant_of_its_jacobian():
    prior = prior_within(CUT, REGION)
    eta = torch.randn(2000, 3, generator=torch.Generator().manual_seed(4)).clamp(-3.5, 3.5)
    theta = prior.transform(eta)
    torch.testing.assert_close(prior.transform.inv(theta), eta, atol=5e-3, rtol=0)
    for row in eta[:20]:
        jacobian = torch.autograd.functional.jacobian(prior.transform, row)
        ln_determinant = prior.transform.log_abs_det_jacobian(row, prior.transform(row)).sum()
        assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(float(ln_determinant), abs=2e-3)


def test_a_density_on_a_region_is_normalised_there():
    """That of a standard normal behind the map, integrated over points thrown into the box; the map of the box gives the region less."""
    names, (low, high) = tuple(CUT), np.array([[m.low, m.high] for m in CUT.values()]).T
    points = torch.tensor(np.random.default_rng(5).uniform(low, high, (400_000, 3)), dtype=torch.float32)
    points = points[inside(points.double().numpy(), names, REGION)]

    def mass(prior):
        eta = prior.transform.inv(points)
        ln_q = -0.5 * (eta**2).sum(1) - 1.5 * np.log(2 * np.pi) - prior.transform.log_abs_det_jacobian(eta, points).sum(1)
        each = ln_q.double().exp().numpy() * np.prod(high - low)
        return each.sum() / 400_000, each.std() * len(each) ** 0.5 / 400_000 + each.mean() * len(each) ** 0.5 / 400_000

    right, error = mass(prior_within(CUT, REGION))
    assert abs(right - 1) < 5 * error
    wrong, error = mass(Prior(CUT))
    assert abs(wrong - 1) > 5 * error


def test_the_moments_of_a_region_are_those_of_its_draws():
    prior = prior_within(CUT, REGION)
    draws = prior.sample((100_000,), torch.Generator().manual_seed(6))
    torch.testing.assert_close(prior.mean, draws.mean(0), atol=5e-3, rtol=0)
    torch.testing.assert_close(prior.stddev, draws.std(0), atol=0, rtol=2e-2)
    assert bool(prior.support.check(prior.mean))


@pytest.mark.parametrize(
    "changes",
    [
        {"directions": ((2.0, 1.0, 0.0), (-3.0, 9.0, 0.0), (3.0, 2.0, 20.0))},
        {"directions": ((2.0, 0, 0), (-3.0, -9.0, 0), (3.0, 2.0, 20.0))},
    ],
)
def test_a_region_of_another_form_leaves_the_support_of_the_prior(changes):
    assert type(prior_within(CUT, REGION.model_copy(update=changes))) is Prior
    assert type(prior_within({"Om0": CUT["Om0"]}, REGION)) is Prior
    assert type(prior_within(CUT, None)) is Prior


def test_a_posterior_on_a_region_has_neither_draws_nor_density_outside():
    torch.manual_seed(7)
    summary, prior = torch.randn(64, 5), prior_within(CUT, REGION)
    member = GlobalEstimator(prior, Whitening.fit(summary), hidden=16, transforms=2).eval()

    class Trained:
        estimators, names, device = [member], prior.names, torch.device("cpu")

        def __init__(self):
            self.prior, self.summary = Prior(CUT), lambda packed: packed

    posterior = GlobalPosterior(Trained())
    draws = posterior.sample_at([member.context(summary[:8])], 2000)
    assert inside(draws.reshape(-1, 3).double().numpy(), prior.names, REGION).all()
    posterior.contexts = lambda survey: [member.context(survey)]
    theta = torch.stack([draws[0, 0], torch.tensor([0.9, -1.7, 0.1])])[:, None]
    ln_q = posterior.log_prob(theta, summary[:1])[:, 0]
    assert torch.isfinite(ln_q[0])
    assert ln_q[1] == -torch.inf

"""Priors against scipy, and the map that makes them standard normal."""

import numpy as np
import pytest
import torch
from scipy import stats

from cigars.config import load_config
from cigars.schema import Marginal
from inference.priors import Prior

MIXED = {
    "a": Marginal("uniform", 0.0, 1.0, -0.02, 0.03),
    "b": Marginal("normal", -12.15, 0.1, -np.inf, np.inf),
    "c": Marginal("normal", 0.2, 0.2, 0.0, 4.0),
    "d": Marginal("normal", 3.0, 0.5, 1.2, np.inf),
}


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


def test_mean_and_sd_are_those_of_scipy():
    prior = Prior(MIXED)
    law = [scipy_of(m) for m in MIXED.values()]
    np.testing.assert_allclose(prior.mean, [p.mean() for p in law], atol=1e-3)
    np.testing.assert_allclose(prior.stddev, [p.std() for p in law], rtol=5e-3)  # 2,001 quantiles miss the last 1/4000 of a tail


@pytest.mark.parametrize("marginals", [{}, {"a": Marginal("fixed", 1.0, 0.0, -np.inf, np.inf)}])
def test_no_free_parameter_or_a_fixed_one_is_refused(marginals):
    with pytest.raises(ValueError, match="prior: expected"):
        Prior(marginals)

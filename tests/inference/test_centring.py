"""What centres scores: polynomials (exact where the truth is one, no more terms than the rows carry), networks beside a line."""

import pytest
import torch

from inference.centring import REACH, MeanScore, Polynomial


def rows(count, inputs=4, seed=0):
    return 3.4 * torch.rand(count, inputs, generator=torch.Generator().manual_seed(seed)) - 1.7


def cubic(y):
    return torch.stack([1 + y[:, 0] * y[:, 1] * y[:, 2] - 0.3 * y[:, 3] ** 3, y[:, 0] ** 2 - 2 * y[:, 1], torch.zeros(len(y))], 1)


def test_a_cubic_is_found_again():
    y, fresh = rows(4000), rows(500, seed=1)
    net = Polynomial(4, 3).fit(y, cubic(y), torch.ones(len(y)))
    torch.testing.assert_close(net(fresh), cubic(fresh), atol=0.02, rtol=0.01)  # the penalty is that of one row in 4,000


def test_before_a_fit_it_is_zero():
    assert not Polynomial(4, 3)(rows(10)).any()


def test_noise_about_a_line_is_not_given_more_terms_than_it_carries():
    y, noise = rows(300), torch.randn(300, 1, generator=torch.Generator().manual_seed(2))
    line = Polynomial(4, 1).fit(y, y[:, :1] + noise, torch.ones(300))
    assert not line.coefficients[5:].any()
    curved = Polynomial(4, 1).fit(y, 3 * y[:, :1] ** 2 + noise, torch.ones(300))
    assert curved.coefficients[5:].any()


def test_rows_of_large_surveys_count_for_more():
    y = rows(2000)
    wrong = torch.arange(2000) % 2 == 0
    values = torch.where(wrong[:, None], 5.0, 1.0)
    trusted = Polynomial(4, 1).fit(y, values, torch.where(wrong, 1e-3, 1.0))
    assert float((trusted(y) - 1).abs().max()) < 0.05
    alike = Polynomial(4, 1).fit(y, values, torch.ones(2000))
    assert float(alike(y).mean()) == pytest.approx(3, abs=0.2)


def test_the_slope_is_that_of_differences_and_nothing_grows_beyond_the_reach():
    y = rows(4000)
    net, at, step = Polynomial(4, 3).fit(y, cubic(y), torch.ones(len(y))), rows(20, seed=3), 1e-2
    found = net.slope(at, 0)
    for k in range(4):
        move = step * torch.eye(4)[k]
        torch.testing.assert_close(found[:, k], (net(at + move) - net(at - move))[:, 0] / (2 * step), atol=5e-3, rtol=5e-3)
    far = torch.full((1, 4), 50.0)
    torch.testing.assert_close(net(far), net(torch.full((1, 4), REACH)))
    assert not net.slope(far, 0).any()


def test_networks_start_at_the_line_in_units_of_the_noise():
    y, weight = rows(3000, 3), torch.full((3000,), 100.0)
    covariance = torch.tensor([[4.0, 1.99, 0.0], [1.99, 1.0, 0.0], [0.0, 0.0, 0.0]])  # one weak direction, one that is constant
    slope = torch.tensor([[0.2, 0.1, 0.0], [0.0, 0.1, 0.0], [-0.3, 0.0, 0.0]])
    net = MeanScore(3, 2).start(y, y @ slope, weight, covariance)
    torch.testing.assert_close(net(y), y @ slope, atol=2e-3, rtol=2e-3)
    noise = torch.randn(3000, 2, generator=torch.Generator().manual_seed(4)) @ torch.linalg.cholesky(covariance[:2, :2] / 100).T
    left = net.errors(torch.cat([noise, torch.zeros(3000, 1)], 1), weight)
    assert float(left.mean()) == pytest.approx(2 / 3, abs=5 * float(left.std()) / 3000**0.5)  # two directions of three vary
    weak = torch.tensor([1.0, -2.0, 0.0]).expand(3000, 3) * 0.01
    strong = torch.tensor([2.0, 1.0, 0.0]).expand(3000, 3) * 0.01
    assert bool((net.errors(weak, weight) > 100 * net.errors(strong, weight)).all())


def test_networks_do_not_grow_beyond_the_reach():
    y = rows(500)
    net = MeanScore(4, 2).start(y, cubic(y) @ torch.ones(3, 4), torch.ones(500), torch.eye(4))
    torch.testing.assert_close(net(torch.full((1, 4), 50.0)), net(torch.full((1, 4), REACH)))

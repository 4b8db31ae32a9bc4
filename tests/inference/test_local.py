"""The conditional density of one object: on its support, normalised, autoregressive, and exact where the answer is known."""

import math

import pytest
import torch

from cigars.schema import LOCALS, Marginal
from inference.batches import hide
from inference.local import LocalEstimator, local_marginals
from inference.priors import Prior

from .conftest import observations

UNIFORM = {"a": Marginal("uniform", 0.0, 1.0, 0.0, 2.0), "b": Marginal("normal", 1.0, 0.5, 0.0, math.inf)}


@pytest.fixture
def local():
    torch.manual_seed(1)
    values = torch.rand(400, len(LOCALS)) * torch.tensor([0.8, 3, 1.5, 2, 1, 1, 0.1, 9]) + torch.tensor(
        [0.1, 9, -1.8, 0.1, -0.8, 0, 0, 0.1]
    )
    net = LocalEstimator(Prior(local_marginals(values)), Prior(UNIFORM), 3)
    net.standardiser.fit(observations(400, 3))
    return net.eval(), values


def test_local_draws_stay_on_the_physical_support(local):
    net, _ = local
    o = observations(50, 3, z_spec=torch.full((50,), torch.nan))
    draws = net.sample(net.conditions(o), torch.ones(200, 2))
    assert bool(net.prior.support.check(draws).all())
    assert float(draws[..., 1].min()) >= 8.5
    assert float(draws[..., 3].min()) >= 0


def test_a_spectroscopic_redshift_pins_z_before_any_training(local):
    net, _ = local
    o = observations(50, 3, z_spec=torch.linspace(0.1, 1.0, 50), z_spec_err=torch.full((50,), 1e-3))
    hidden = hide(o, redshift=torch.ones(50, dtype=torch.bool))
    with torch.no_grad():
        pinned = net.sample(net.conditions(o), torch.ones(200, 2))[..., 0]
        free = net.sample(net.conditions(hidden), torch.ones(200, 2))[..., 0]
    assert float((pinned.mean(0) - o.z_spec).abs().max()) < 0.02
    assert float(pinned.std(0).max()) < 0.02 < float(free.std(0).min())


def test_values_beyond_the_usual_support_widen_it():
    values = torch.tensor([[0.5, 7.0, -1.0, 0.5, 0.0, 0.0, 0.0, 2.0], [0.6, 10.0, 0.5, 0.5, 0.0, 1.0, 0.1, 5.0]])
    marginals = local_marginals(values)
    assert marginals["mass_log10_msun"].low < 7.0
    assert marginals["metallicity_log10_zsun"].high > 0.5
    assert marginals["dust_tau2"][3:] == (0.0, 4.0)


def test_density_and_draws_belong_together(local):
    """E_q[p(ℓ) / q(ℓ)] = 1 for any normalised p on the same support; a density that is off by a tenth is told apart."""
    net, _ = local
    o = observations(20, 3, z_spec=torch.full((20,), torch.nan))
    theta = Prior(UNIFORM).sample((2000,), torch.Generator().manual_seed(2))
    torch.manual_seed(3)
    draws = net.sample(net.conditions(o), theta).flatten(0, 1)
    tiled = type(o)(*(leaf.repeat(2000, *[1] * (leaf.ndim - 1)) for leaf in o))
    with torch.no_grad():
        weight = (net.prior.log_prob(draws) - net.log_prob(draws, tiled, theta.repeat_interleave(20, 0))).double().exp()
    error = float(weight.std() / len(weight) ** 0.5)
    assert error < 0.02
    assert abs(float(weight.mean()) - 1) < 5 * error < abs(float(weight.mean()) * 1.1 - 1)


def test_no_factor_looks_ahead(local):
    """Changing unknown k changes the factors from k on, so the density of the ones before it is what the first k - 1 say."""
    net, values = local
    o, theta = observations(30, 3), torch.ones(30, 2)
    out = {}

    def record(first):
        out["first"] = first.detach()
        return LocalEstimator._factors(net, first)

    net._factors = record
    firsts = []
    for k in range(len(LOCALS)):
        changed = values[:30].clone()
        changed[:, k] = changed[:, k] * 0.99 + 0.001
        net.log_prob(changed, o, theta)
        firsts.append(out["first"])
    net.log_prob(values[:30], o, theta)
    moved = torch.stack([(f - out["first"]).abs().amax((1, 2)) > 1e-6 for f in firsts])  # [changed, factor]
    assert torch.equal(moved, torch.ones_like(moved).triu(1))

"""Members trained side by side are what they would be alone."""

import math

import pytest
import torch

from cigars.schema import Marginal
from inference.embedding import SetEncoder
from inference.ensemble import Ensemble
from inference.estimators import GlobalEstimator
from inference.priors import Prior
from inference.standardise import Standardiser, Whitening
from inference.train import Settings, optimise

from .conftest import observations

MARGINALS = {"a": Marginal("uniform", 0.0, 1.0, 0.0, 2.0), "b": Marginal("normal", 1.0, 0.5, 0.0, math.inf)}
MEMBERS = 3
SIZE = 256


@pytest.fixture(scope="module")
def surveys():
    torch.manual_seed(0)
    theta = Prior(MARGINALS).sample((SIZE,))
    return theta, torch.cat([theta + 0.1 * torch.randn(SIZE, 2), torch.randn(SIZE, 3)], 1)


def members(surveys, dropout=0.0):
    theta, summary = surveys
    whitening, out = Whitening.fit(summary), []
    for k in range(MEMBERS):
        torch.manual_seed(k)
        out.append(GlobalEstimator(Prior(MARGINALS), whitening, dropout=dropout, hidden=16, transforms=2).fit_skip(summary, theta))
    return out


def of_all(values):
    return values.expand(MEMBERS, *values.shape)


def test_each_member_has_its_own_loss(surveys):
    nets = [net.eval() for net in members(surveys)]
    theta, summary = (torch.stack([leaf.roll(k, 0) for k in range(MEMBERS)]) for leaf in surveys)
    with torch.no_grad():
        together = Ensemble(nets).eval().losses(theta, summary)
        alone = torch.stack([net.head_loss(t, s) for net, t, s in zip(nets, theta, summary, strict=True)])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=2e-5)
    assert float((alone[0] - alone[1].roll(-1, 0)).abs().max()) > 1e-3  # members differ, so that a mix-up would show


def test_the_loss_of_the_mixture_is_that_of_the_mean_density(surveys):
    nets = [net.eval() for net in members(surveys)]
    with torch.no_grad():
        density = torch.stack([torch.exp(-net.head_loss(*surveys).double()) for net in nets]).mean(0)
        torch.testing.assert_close(Ensemble(nets).eval().mixture_loss(*surveys).double(), -density.log(), atol=1e-4, rtol=1e-4)


def test_training_together_is_training_alone(surveys):
    """Without dropout, whose noise depends on the company, and with gradients too small to be clipped."""
    settings = Settings(6, 3, 1e-3, clip=1e6)

    def rows(step, k):
        return torch.arange(32) + 32 * step + k

    together, alone = members(surveys), members(surveys)
    ensemble = Ensemble(together)

    def batches(step):
        i = torch.stack([rows(step, k) for k in range(MEMBERS)])
        return surveys[0][i], surveys[1][i]

    optimise(ensemble, ensemble.loss, batches, lambda: 0.0, settings)
    ensemble.write_back()
    for k, net in enumerate(alone):

        def batch(step, k=k):
            return surveys[0][rows(step, k)], surveys[1][rows(step, k)]

        optimise(net, net.head_loss, batch, lambda: 0.0, settings)
    # what is kept is the state at the first evaluation, as no later one is better
    for ours, theirs in zip(together, alone, strict=True):
        for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            # Adam divides by the size of the gradient: where that is rounding, so is the step, of 1e-3 at most
            assert float(((a - b).abs() > 1e-4).float().mean()) < 0.02, name
        assert not torch.allclose(ours.skip.weight, members(surveys)[0].skip.weight, atol=1e-4)


def test_dropout_differs_between_members_and_is_off_in_evaluation(surveys):
    same = members(surveys, dropout=0.5)[:1] * MEMBERS
    ensemble = Ensemble(same)
    with torch.no_grad():
        first, second, _ = ensemble.train().losses(of_all(surveys[0]), of_all(surveys[1]))
        one, two, _ = ensemble.eval().losses(of_all(surveys[0]), of_all(surveys[1]))
    assert float((first - second).abs().max()) > 1e-3
    torch.testing.assert_close(one, two)


def test_a_learned_encoder_stays_as_it_is(surveys):
    theta, summary = surveys
    net = GlobalEstimator(Prior(MARGINALS), Whitening.fit(summary), SetEncoder(Standardiser(2).fit(observations(20, 2))))
    before = [p.detach().clone() for p in net.encoder.parameters()]
    ensemble = Ensemble([net])
    optimise(ensemble, ensemble.loss, lambda step: (theta[None], summary[None]), lambda: 0.0, Settings(2, 2))
    ensemble.write_back()
    for old, new in zip(before, net.encoder.parameters(), strict=True):
        torch.testing.assert_close(old, new)

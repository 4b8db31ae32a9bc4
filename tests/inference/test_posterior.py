"""Draws of the global, local and joint posterior, and the range check."""

import math
from types import SimpleNamespace

import pytest
import torch

from cigars.schema import LOCALS, Marginal, Observations
from inference.batches import pack, select
from inference.posterior import GlobalPosterior, LocalPosterior, check_range
from inference.priors import Prior


def test_draws_repeat_with_the_seed_and_leave_the_random_state_alone(run, source):
    posterior, survey = GlobalPosterior(run[0]), source(10**6, 2)
    state = torch.get_rng_state()
    a, b, c = posterior.sample(64, survey, 1), posterior.sample(64, survey, 1), posterior.sample(64, survey, 2)
    assert a.shape == (64, 2, 3)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)


PRIOR = Prior(dict.fromkeys("ab", Marginal("normal", 0.0, 50.0, -float("inf"), float("inf"))))


class Normal:
    """A member whose posterior is normal about a mean that every survey has."""

    prior = PRIOR

    def __init__(self, mean, sd):
        self.law = torch.distributions.Normal(torch.tensor(mean), torch.tensor(sd))
        self.flow = self

    def context(self, summary, packed=None):
        return summary

    def sample(self, shape, context):
        return self.law.sample((*shape, len(context)))

    def log_prob(self, theta, context):
        return self.law.log_prob(theta).sum(-1)


def ensemble(*members):
    trained = SimpleNamespace(estimators=list(members), prior=PRIOR, names=PRIOR.names, device=torch.device("cpu"))
    posterior = GlobalPosterior(trained)
    posterior.contexts = lambda survey: [torch.zeros(survey, 1) for _ in members]
    return posterior


def test_an_ensemble_is_the_mixture_of_its_members():
    draws, means = 20_000, torch.tensor([[-1.0, 0.5], [1.0, 0.0]])
    posterior = ensemble(*(Normal(m.tolist(), [1.0, 1.0]) for m in means))
    found = posterior.sample(draws, 2, seed=1)
    error = 5 * draws**-0.5
    assert bool(((found.mean(0) - means.mean(0)).abs() < error * 2**0.5).all())
    assert bool(((found.var(0) - 1 - means.var(0, correction=0)).abs() < error * 4).all())
    first = posterior.sample(1, draws, seed=2)[0]  # of so many surveys: no member may be asked first
    assert bool(((first.mean(0) - means.mean(0)).abs() < error * 2**0.5).all())
    for draws in (0, 1, 3):  # no multiple of the members
        assert posterior.sample(draws, 2).shape == (draws, 2, 2)
    each = torch.stack([torch.distributions.Normal(m, 1.0).log_prob(found[:9]).sum(-1) for m in means])
    torch.testing.assert_close(posterior.log_prob(found[:9], 2), torch.logsumexp(each, 0) - math.log(2))


def test_a_trained_ensemble_is_drawn_from_as_its_density_says(run, source):
    """Mean density of each member over that of the ensemble is one at draws of the ensemble, and not at those of a member."""
    trained, _ = run
    posterior, packed = GlobalPosterior(trained), pack(source(10**6, 2), run[0].names)
    contexts = posterior.contexts(packed)
    draws = posterior.sample(8000, packed, 3)
    with torch.no_grad():
        for member, context in zip(trained.members, contexts, strict=True):
            of_member = member.flow.sample((8000,), context)
            for theta, expected in ((draws, True), (of_member, False)):
                weight = (member.flow.log_prob(theta, context) - posterior.log_prob(theta, packed)).double().exp()
                error = weight.std(0) / len(weight) ** 0.5
                assert bool(((weight.mean(0) - 1).abs() < 5 * error).all()) == expected


def test_the_posterior_does_not_depend_on_order_padding_or_company(run, source):
    posterior, packed = GlobalPosterior(run[0]), pack(source(10**6, 3))
    theta = posterior.sample(20, select(packed, [1]))
    together = posterior.log_prob(theta.expand(-1, 3, -1), packed)
    alone = select(packed, [1])
    order = torch.randperm(int(alone.lengths[0]))
    shuffled = alone._replace(observations=Observations(*(v[order] for v in alone.observations)))
    torch.testing.assert_close(posterior.log_prob(theta, alone)[:, 0], together[:, 1], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        posterior.log_prob(theta, shuffled)[:, 0], together[:, 1], atol=0.02, rtol=0
    )  # rounding of float32 sums, amplified by the whitening


def test_draw_k_of_every_object_is_at_theta_k(run, source):
    """Changing Θ_3 changes draw 3 of the objects and no other."""
    packed, local = pack(source(10**6, 1), run[0].names), LocalPosterior(run[0])
    theta = packed.theta.expand(20, -1).clone()
    before = local.sample(packed.observations, theta, 1)
    theta[3] += 0.3
    moved = (local.sample(packed.observations, theta, 1) - before).abs() > 1e-6
    assert before.shape == (20, len(packed.observations.m), len(LOCALS))
    assert bool(run[0].local.prior.support.check(before).all())
    assert bool(moved[3].any(-1).all())
    assert not bool(moved[torch.arange(20) != 3].any())


@pytest.mark.parametrize(("objects", "pairs"), [(7, 300), (64, 10**6)])
def test_draws_of_an_object_depend_on_its_key_and_not_on_its_place_or_company(run, source, objects, pairs):
    packed = pack(source(10**6, 1), run[0].names)
    theta, order = packed.theta.expand(40, -1), torch.randperm(len(packed.observations.m))[:20]
    keys = [1000 + i for i in range(len(packed.observations.m))]
    whole = LocalPosterior(run[0]).sample(packed.observations, theta, 3, keys)
    some = Observations(*(leaf[order] for leaf in packed.observations))
    part = LocalPosterior(run[0], objects, pairs).sample(some, theta, 3, [keys[i] for i in order])
    torch.testing.assert_close(part, whole[:, order], atol=1e-3, rtol=1e-4)  # float32 sums in another order
    other = LocalPosterior(run[0]).sample(packed.observations, theta, 4, keys)
    assert float((other - whole).abs().mean()) > 0.01


@pytest.mark.parametrize("threads", [1, 3])
def test_draws_do_not_depend_on_the_number_of_threads(run, source, threads):
    packed = pack(source(10**6, 1), run[0].names)
    theta, local = packed.theta.expand(40, -1), LocalPosterior(run[0], objects=4)
    before = torch.get_num_threads()
    expected = local.sample(packed.observations, theta, 3)
    try:
        torch.set_num_threads(threads)
        found = [(rows.start, draws) for rows, draws in local.blocks(packed.observations, theta, 3)]
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert [start for start, _ in found] == list(range(0, len(packed.observations.m), 4))
    assert torch.equal(torch.cat([draws for _, draws in found], 1), expected)


def test_an_error_in_a_thread_is_raised_and_the_threads_are_put_back(run, source, monkeypatch):
    packed, local, before = pack(source(10**6, 1), run[0].names), LocalPosterior(run[0], objects=4), torch.get_num_threads()
    monkeypatch.setattr(local.estimator, "sample", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(local.blocks(packed.observations, packed.theta))
    assert torch.get_num_threads() == before


def test_draws_follow_the_density_they_are_drawn_from(run, source):
    """Mean ln q of draws is the negative entropy both ways: of stored draws, and by importance from another Θ's draws."""
    packed, local = pack(source(10**6, 1), run[0].names), LocalPosterior(run[0])
    one = Observations(*(leaf[:1].repeat(4000, *[1] * (leaf.ndim - 1)) for leaf in packed.observations))
    here, there = packed.theta.expand(4000, -1), packed.theta.expand(4000, -1) + 0.05
    draws = local.sample(Observations(*(leaf[:1] for leaf in one)), there, 5)[:, 0]
    weight = (local.log_prob(draws, one, here) - local.log_prob(draws, one, there)).double().exp()
    error = float(weight.std() / len(weight) ** 0.5)
    assert abs(float(weight.mean()) - 1) < 5 * error
    assert error < 0.1


def test_range_check_counts_what_is_outside_and_is_quiet_inside(run, source):
    trained, packed = run[0], pack(source(0, 1))
    assert check_range(trained, packed) == []
    mag = packed.observations.mag.clone()
    mag[:3, 1] = torch.tensor([99.0, 60.0, 55.0])
    issues = check_range(trained, packed._replace(observations=packed.observations._replace(mag=mag)), ("g", "r"))
    assert [(i.name, i.outside, i.worst) for i in issues] == [("mag_r", 3, 99.0)]
    many = check_range(trained, packed._replace(number=torch.tensor([10_000])))
    assert [(i.name, i.worst) for i in many] == [("number of objects", 10_000)]


def test_what_was_never_observed_in_training_is_out_of_range(run, source):
    packed = pack(source(0, 1))
    known = packed._replace(observations=packed.observations._replace(z_spec=torch.full_like(packed.observations.z_spec, 0.5)))
    assert [i.name for i in check_range(run[0], known)] == ["z_spec"]


def test_another_number_of_bands_is_refused(run, source):
    packed = pack(source(0, 1))
    wrong = packed.observations._replace(mag=packed.observations.mag[:, :1], mag_err=packed.observations.mag_err[:, :1])
    with pytest.raises(ValueError, match="expected 2 bands, got 1"):
        check_range(run[0], packed._replace(observations=wrong))

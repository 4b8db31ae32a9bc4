"""The one-step summary: distances against astropy, invariances, and a training on joint scores against an exact posterior."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from astropy.cosmology import LambdaCDM, w0waCDM

from benchmarks.linear_gaussian import MARGINALS, NOISE, PRIOR_MEAN, ZERO, GaussianSurvey, configuration, measure
from cigars.schema import LOCALS, Marginal, Observations
from inference.batches import Packed, select, thinned
from inference.centring import MeanScore
from inference.distances import distance_modulus
from inference.fit import fit
from inference.model import load_run, save_run
from inference.one_step import CENTRE, FEW, FEW_ANCHORED, train_centring
from inference.posterior import GlobalPosterior
from inference.priors import Prior
from inference.score import OneStep, Pilot, ScoreNetwork
from inference.standardise import Whitening
from inference.summaries import LocalRegressor, Moments
from inference.train import silent

from .conftest import observations

PRIOR = Prior({"Om0": Marginal("uniform", 0.0, 1.0, 0.0, 1.0), "Ode0": Marginal("uniform", 0.0, 1.0, 0.0, 1.0),
               "dtd_logA": Marginal("normal", -12.15, 0.1, -np.inf, np.inf), "beta": Marginal("uniform", 0.0, 1.0, 0.0, 4.0)})  # fmt: skip


@pytest.mark.parametrize("om", [0.05, 0.3, 1.0])
@pytest.mark.parametrize(("ode", "w0", "wa"), [(0.7, -1.0, 0.0), (0.0, -1.0, 0.0), (None, -0.6, -1.5)])
def test_distances_are_those_of_astropy(om, ode, w0, wa):
    z = np.linspace(0.01, 1.5, 100)
    astropy = LambdaCDM(70, om, ode, Tcmb0=0) if ode is not None else w0waCDM(70, om, 1 - om, w0=w0, wa=wa, Tcmb0=0)
    ode = 1 - om if ode is None else ode
    full = [torch.full((100,), v) for v in (om, ode, w0, wa)]
    found = distance_modulus(torch.tensor(z, dtype=torch.float32), *full)
    np.testing.assert_allclose(found, astropy.distmod(z).value, atol=1e-3)


@pytest.fixture(scope="module")
def one(distance):
    """A one-step summary with random weights and two estimates."""
    torch.manual_seed(3)
    o = observations(400)
    targets = torch.tensor([0.45, 10.6, -0.2, 3.0]) + torch.randn(400, 4) * torch.tensor([0.15, 0.7, 0.35, 3.0])
    moments = Moments(LocalRegressor(6).fit_scales(o, targets), distance)
    score, size = ScoreNetwork(PRIOR, 6), len(PRIOR.names)
    limit = torch.tensor([[-1.7] * size, [1.7] * size])
    out = OneStep(moments, score, [])
    for _ in range(2):
        table = (moments if not len(out.pilots) else out)(surveys(observations(900, seed=9), [60] * 15))
        out.pilots.append(Pilot(Whitening.fit(table + 0.1 * torch.randn_like(table)), size, limit))
    return out.eval()


def surveys(o, lengths):
    sizes = torch.tensor(lengths)
    return Packed(o, None, torch.empty(len(lengths), 0), sizes, sizes, torch.ones(len(lengths)))


def test_order_of_objects_does_not_matter(one):
    o, shuffle = observations(300, seed=1), torch.randperm(300)
    a, b = one(surveys(o, [300])), one(surveys(Observations(*(v[shuffle] for v in o)), [300]))
    torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)  # float32 sums in another order, through two estimates


def test_surveys_in_a_batch_do_not_see_each_other_and_empty_ones_are_finite(one):
    both = surveys(observations(200, seed=2), [120, 0, 80])
    together = one(both)
    assert together.shape == (3, 6 * len(PRIOR.names) + 3)
    assert bool(torch.isfinite(together).all())
    for k in range(3):
        torch.testing.assert_close(one(select(both, [k]))[0], together[k], atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_few_objects_lead_to_the_estimate_and_all_count_at_it(one):
    """With room for all nothing changes; with fewer the estimate is that of the fewer, and scores there are of all."""
    packed, size = surveys(observations(300, seed=4), [200, 100]), len(PRIOR.names)
    roomy, sparse = (OneStep(one.moments, one.score, list(one.pilots), few) for few in (200, 60))
    assert torch.equal(roomy(packed), one(packed))
    assert torch.equal(roomy.towards(packed), one(packed))
    few, _ = thinned(packed, 60)
    estimate = one.pilots[1](one._at(few, *one._objects(few), one.pilots[0](one.moments(packed))))
    out = sparse(packed)
    torch.testing.assert_close(out[:, :size], estimate)
    assert not torch.allclose(out[:, :size], one(packed)[:, :size])
    torch.testing.assert_close(out, one._at(packed, *one._objects(packed), estimate))
    torch.testing.assert_close(sparse.towards(packed), one._at(few, *one._objects(few), estimate))


@torch.no_grad()
def test_an_anchor_is_the_score_at_the_middle_of_the_prior(one):
    """Beside what the summary is without, of all objects wherever estimates come from, and not centred, which would change nothing."""
    packed, size = surveys(observations(300, seed=4), [200, 100]), len(PRIOR.names)
    anchored = OneStep(one.moments, one.score, list(one.pilots[:1]), 60, anchored=True)
    without = OneStep(one.moments, one.score, list(one.pilots[:1]), 60)
    for summary, plain in ((anchored(packed), without(packed)), (anchored.towards(packed), without.towards(packed))):
        torch.testing.assert_close(summary[:, :-size], plain)
        single = one.of_objects(packed, torch.zeros(2, size))
        torch.testing.assert_close(summary[:, -size:], torch.stack([part.mean(0) for part in single.split([200, 100])]))
    refine = Pilot(Whitening.fit(anchored(surveys(observations(900, seed=9), [60] * 15)) + 0.1), size, one.pilots[0].limit)
    refined = OneStep(one.moments, one.score, [one.pilots[0], refine.eval()], 60, anchored=True)
    torch.testing.assert_close(refined(packed)[:, :size], refine(anchored.towards(packed)))  # which reads the anchor
    assert not torch.allclose(refine(anchored.towards(packed)), refine(torch.cat([without.towards(packed), torch.zeros(2, size)], 1)))


@torch.no_grad()
def test_estimates_stay_inside_the_prior_whatever_the_summary(one):
    wild = 1e6 * torch.randn(50, one.pilots[0].whitening.mean.shape[0], generator=torch.Generator().manual_seed(0))
    y = one.pilots[0](wild)
    assert float(y.abs().max()) < 1.7001
    assert float(one.pilots[0].raw(wild).abs().max()) > 2


def test_hidden_bands_and_supernovae_are_finite(one):
    o = observations(100, seed=4)
    o = o._replace(mag=o.mag.masked_fill(torch.rand(100, 6) < 0.3, torch.nan), m=o.m.masked_fill(torch.arange(100) < 50, torch.nan))
    assert bool(torch.isfinite(one(surveys(o, [100]))).all())


def test_longer_exposure_is_seen(one):
    packed = surveys(observations(80, seed=5), [80])
    longer = packed._replace(exposure=torch.tensor([4.0]))
    assert float((one(longer) - one(packed))[0, -1]) == pytest.approx(np.log(4), abs=1e-5)


def gaussian_score(survey):
    """Joint score of the linear-Gaussian survey; its hosts say nothing of distance."""
    response, local = (torch.tensor(a, dtype=torch.float32) for a in (survey.response, survey.local_response))

    def score(packed, theta):
        from benchmarks.linear_gaussian import CENTRE

        o = packed.observations
        y = torch.cat([o.mag, torch.stack([o.m, o.x, o.c], -1)], -1) - torch.tensor(ZERO, dtype=torch.float32)
        unknown = torch.stack([getattr(packed.latents, k) for k in LOCALS], -1) - torch.tensor(CENTRE, dtype=torch.float32)
        residual = y - (theta - torch.tensor(PRIOR_MEAN, dtype=torch.float32)) @ response.T - unknown @ local.T
        return residual @ response / NOISE**2, torch.zeros_like(theta)

    return score


@pytest.fixture(scope="module")
def trained(distance, tmp_path_factory):
    """(trained, survey, folder) of a training on joint scores."""
    survey, folder = GaussianSurvey(60), tmp_path_factory.mktemp("score")
    config = configuration(1536, "score", pilot_surveys=768, objects=40_000, validation_surveys=128, local_epochs=4)
    return fit(survey, config, MARGINALS, distance, folder, joint_score=gaussian_score(survey)), survey, folder


def test_training_on_joint_scores_comes_close_to_the_exact_posterior(trained):
    net, survey, _ = trained
    found = measure(net, survey, 10_000_000, 256)
    assert found["gap"] < 0.25  # three parameters, 1,536 surveys; a posterior that ignores the data is 5 nats away
    for name in MARGINALS:
        assert found[f"width_ratio_{name}"] == pytest.approx(1, abs=0.15)


def test_learned_scores_are_the_exact_ones_of_the_marginal_density(trained):
    net, survey, _ = trained
    packed = torch_packed(survey, 20_000_000, 40)
    one, theta = net.summary, packed.theta
    found, _ = one.at(packed, one.score.standardise(theta))
    weight = np.linalg.solve(survey.covariance, survey.response)
    o = packed.observations
    y = torch.cat([o.mag, torch.stack([o.m, o.x, o.c], -1)], -1).double().numpy() - ZERO
    residual = y - np.repeat((theta.double().numpy() - PRIOR_MEAN) @ survey.response.T, packed.lengths, 0)
    single = residual @ weight * one.score.scale.double().numpy()
    exact = np.stack([r.sum(0) for r in np.split(single, packed.lengths.cumsum(0)[:-1])])
    objects = one.of_objects(packed, one.score.standardise(theta)).numpy()
    for k in range(exact.shape[1]):
        assert np.corrcoef(found[:, k].numpy(), exact[:, k])[0, 1] > 0.97
        assert np.corrcoef(objects[:, k], single[:, k])[0, 1] > 0.97
        assert abs(np.corrcoef(objects[:-1, k], single[1:, k])[0, 1]) < 5 * len(single) ** -0.5  # of other objects
    shuffled = np.random.default_rng(0).permutation(len(exact))
    assert np.corrcoef(found[:, 0].numpy(), exact[shuffled, 0])[0, 1] < 0.5


def test_scores_at_the_truth_vanish_and_an_offset_is_taken_off(trained):
    net, survey, _ = trained
    one, packed = net.summary, torch_packed(survey, 50_000_000, 600)

    def misses(one):
        """Mean over surveys of their score at the truth, in standard errors of it."""
        score, _ = one.at(packed, one.score.standardise(packed.theta))
        return score.mean(0) / score.std(0) * len(score) ** 0.5

    # the centring has an error of its own, of as many standard errors as its surveys are fewer
    known = 5 * (1 + 600 / (CENTRE * 768)) ** 0.5
    assert bool((misses(one).abs() < known).all())
    off = copy.deepcopy(one)
    with torch.no_grad():
        off.score.supernova[-1].bias += 0.3  # of a standard deviation, an object
    assert bool((misses(off).abs() > 2 * known).all())
    learning = off.at_truth(fresh := torch_packed(survey, 60_000_000, 1500))
    off.score.mean_of_sums = None
    off.score.centre_of_sums.fit(off.score.standardise(fresh.theta), learning[:, :-1], learning[:, -1])
    assert bool((misses(off).abs() < 5 * (1 + 600 / 1500) ** 0.5).all())


@pytest.mark.parametrize(
    ("curve", "count", "networks"),
    [(lambda y: 0.3 * y.clamp(-3, 3) ** 3, 400, False), (lambda y: 0.3 * torch.sin(2 * y.clamp(-3, 3)), 4000, True)],
)
def test_networks_centre_what_polynomials_cannot_follow_and_only_that(trained, tmp_path, curve, count, networks):
    """What is left of a mean score is little beside the noise of a survey, or a fraction of what polynomials leave."""
    one, objects = copy.deepcopy(trained[0].summary), torch_packed(trained[1], 80_000_000, 300)
    y = one.score.standardise(trained[0].prior.sample((count,), generator=torch.Generator().manual_seed(0)))
    number, at = torch.full((len(y),), 400.0), one.score.standardise(objects.theta)
    spread = (one.of_objects(objects, at).std(0) * torch.exp(-one.score.moments_of_score(at)[1]).mean(0)).detach()
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)) * spread / 400**0.5
    table = torch.cat([curve(y) + noise, torch.zeros(len(y), 1), number[:, None]], 1).detach()
    one.score.mean_of_sums = None
    one.score.centre_of_sums.fit(y, table[:, :-1], number)
    run = SimpleNamespace(
        seed=0, folder=tmp_path, device="cpu", report=silent, seeded=lambda tag, build: (torch.manual_seed(tag), build())[1]
    )
    train_centring(run, one, table, y, objects)
    assert (one.score.mean_of_sums is not None) == networks
    fresh = one.score.standardise(trained[0].prior.sample((500,), generator=torch.Generator().manual_seed(2)))

    def error():
        expected = one.score.expected(fresh)[0] * torch.exp(-one.score.moments_of_score(fresh)[1])
        return (expected - curve(fresh)).detach().pow(2).mean(0).sqrt() / (spread / 400**0.5)

    found, one.score.mean_of_sums = error(), None
    assert bool((found < (0.3 * error() if networks else 1.0)).all()), (found, error())


def test_a_single_free_parameter_is_centred_too(one, tmp_path):
    prior = Prior({"beta": Marginal("uniform", 0.0, 1.0, 0.0, 4.0)})
    single, generator = OneStep(one.moments, ScoreNetwork(prior, 6), []), torch.Generator().manual_seed(0)
    objects = surveys(observations(200), [50] * 4)._replace(theta=prior.sample((4,), generator=generator))
    y = single.score.standardise(prior.sample((200,), generator=generator))
    mean = torch.sin(2 * y) + 0.01 * torch.randn(y.shape, generator=generator)
    table = torch.cat([mean, torch.zeros_like(y), torch.full_like(y, 50.0)], 1)
    run = SimpleNamespace(seed=0, folder=tmp_path, device="cpu", report=silent, seeded=lambda _, build: build())
    train_centring(run, single, table, y, objects)
    assert single.score.mean_of_sums is not None


def test_numbers_are_centred_at_unit_exposure(trained):
    net, survey, _ = trained
    packed = torch_packed(survey, 70_000_000, 200)
    one, size = net.summary, len(MARGINALS)
    more = one(packed)[:, 6 * size]
    assert float(more.mean().abs()) < 5 * float(more.std()) / 200**0.5 + 0.05
    longer = packed._replace(exposure=packed.exposure * 3)  # so many objects in three times the time: fewer than expected
    # estimates see the exposure too, and the expected number has a slope with an error of 1 / (40 * 4 * 768) ** 0.5 = .003
    torch.testing.assert_close(one(longer)[:, 6 * size] - more, torch.full((200,), -math.log(3)), atol=0.02, rtol=0)


def torch_packed(survey, first, count):
    from inference.batches import pack

    return pack(survey(first, count), tuple(MARGINALS))


@pytest.mark.parametrize("networks", [0, 2])
def test_centring_and_density_survive_the_disk(trained, tmp_path, networks):
    """Polynomials centre where networks are no better."""
    net, survey, _ = trained
    packed, changed = torch_packed(survey, 30_000_000, 4), copy.deepcopy(net)
    changed.summary.score.mean_of_sums = MeanScore(len(MARGINALS), networks) if networks else None
    if networks:
        changed.summary.score.mean_of_sums.colour.fill_(0.1)
    changed.meta["architecture"]["centring"] = networks
    save_run(tmp_path / "run", changed)
    again, summary = load_run(tmp_path / "run"), changed.summary(packed)
    torch.testing.assert_close(again.summary(packed), summary)
    torch.testing.assert_close(again.density(summary), changed.density(summary))


def test_run_with_scores_survives_the_disk(trained):
    net, survey, folder = trained
    packed = torch_packed(survey, 30_000_000, 4)
    again = load_run(folder)
    torch.testing.assert_close(again.summary(packed), net.summary(packed))
    assert again.summary.few == net.summary.few == FEW
    a, b = (GlobalPosterior(t).log_prob(packed.theta[None], packed) for t in (net, again))
    torch.testing.assert_close(a, b)


def test_an_anchored_training_refines_by_its_anchor_and_survives_the_disk(trained, distance, tmp_path):
    survey, size = trained[1], len(MARGINALS)
    config = configuration(192, "score", pilot_surveys=64, objects=4000, validation_surveys=32, flow_epochs=2, anchored=True)
    net = fit(survey, config, MARGINALS, distance, tmp_path, joint_score=gaussian_score(survey))
    packed, plain = torch_packed(survey, 30_000_000, 4), trained[0].summary
    assert net.summary(packed).shape[1] == plain(packed).shape[1] + size
    moments, refined = (pilot.whitening.mean.shape[0] for pilot in net.summary.pilots)
    assert (moments, refined) == (plain.pilots[0].whitening.mean.shape[0], net.summary(packed).shape[1])
    again = load_run(tmp_path).summary
    torch.testing.assert_close(again(packed), net.summary(packed))
    assert again.few == net.summary.few == FEW_ANCHORED < plain.few  # all count in the anchor


def test_without_joint_scores_the_training_says_what_to_do(distance, tmp_path):
    config = configuration(192, "score", pilot_surveys=64, objects=4000, validation_surveys=32, flow_epochs=2)
    with pytest.raises(ValueError, match=r"encoder: expected joint scores .* got none; use encoder"):
        fit(GaussianSurvey(20), config, MARGINALS, distance, tmp_path)


class Start(torch.nn.Module):
    """A first estimate at the prior's mean, whatever the data."""

    def forward(self, summary):
        return torch.zeros(len(summary), len(MARGINALS))


def test_one_step_from_the_priors_mean_goes_to_the_exact_posterior_mean(trained):
    net, survey, _ = trained
    batch, size = survey(40_000_000, 60), len(MARGINALS)
    packed, score = torch_packed(survey, 40_000_000, 60), net.summary.score
    near = (score.standardise(packed.theta).abs() < 1).all(1)  # one step of a learned score is good near where it starts
    out = OneStep(net.summary.moments, score, [Start()])(packed)[near]
    mean, covariance = survey.posterior(batch)
    exact = score.standardise(torch.tensor(mean, dtype=torch.float32))[near]
    error = (out[:, size : 2 * size] - exact).square().mean(0).sqrt()
    assert bool((error < 0.5 * exact.square().mean(0).sqrt()).all()), error  # staying at the start would be 1
    width = torch.tensor(np.sqrt(np.einsum("sii->si", covariance)), dtype=torch.float32)[near] / score.scale
    np.testing.assert_allclose(out[:, 5 * size : 6 * size].exp().mean(0), width.mean(0), rtol=0.2)

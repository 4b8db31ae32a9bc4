"""What is hidden leaves no trace in what networks see, and all the rest stays."""

import pytest
import torch

from benchmarks.linear_gaussian import MARGINALS
from cigars.config import load_config
from cigars.inputs import hidden
from cigars.schema import Latents, Marginal, Observations
from inference.batches import Packed, pack
from inference.blind import blind, blinded, kept_scores
from inference.embedding import FeatureMoments
from inference.priors import Prior
from inference.score import OneStep, Pilot, ScoreNetwork
from inference.standardise import Standardiser, Whitening
from inference.summaries import LocalRegressor, Moments

from .conftest import observations

CONFIG = load_config("demo", **{"observation.spectroscopic_fraction": 0.5})
COVARIANCES = {"m": ("cov_mx", "cov_mc"), "x": ("cov_mx", "cov_xc"), "c": ("cov_mc", "cov_xc")}
OWN = {
    "host photometry": ("mag", "mag_err"),
    "supernova magnitude": ("m", "var_m", *COVARIANCES["m"]),
    "supernova stretch": ("x", "var_x", *COVARIANCES["x"]),
    "supernova colour": ("c", "var_c", *COVARIANCES["c"]),
    "supernova light": ("m", "x", "c", "var_m", "var_x", "var_c", "cov_mx", "cov_mc", "cov_xc"),
    "spectroscopic redshift": ("z_spec", "z_spec_err"),
}
"""Columns that belong to an input, written down apart from the code."""
COUNT = 240


@pytest.fixture(scope="module")
def whole():
    """Objects with covariances and some redshifts."""
    o = observations(COUNT, seed=6)
    some = torch.arange(COUNT) % 2 == 0
    redshifts = {n: getattr(o, n).masked_fill(some, torch.nan) for n in ("z_spec", "z_spec_err")}
    covariances = {f"cov_{a}{b}": 0.3 * (getattr(o, f"var_{a}") * getattr(o, f"var_{b}")).sqrt() for a, b in ("mx", "mc", "xc")}
    return o._replace(**redshifts, **covariances)


def surveys(o):
    sizes = torch.tensor([COUNT // 3] * 3)
    return Packed(o, None, torch.empty(3, 0), sizes, sizes, torch.ones(3))


@pytest.fixture(scope="module")
def summaries(whole, distance):
    """Every fixed summary of a survey, its networks with random weights."""
    torch.manual_seed(0)
    targets = torch.tensor([0.45, 10.6, -0.2, 3.0]) + torch.randn(COUNT, 4) * torch.tensor([0.15, 0.7, 0.35, 3.0])
    moments = Moments(LocalRegressor(6).fit_scales(whole, targets), distance)
    prior = Prior({"Om0": Marginal("uniform", 0.0, 1.0, 0.0, 1.0), "beta": Marginal("uniform", 0.0, 1.0, 0.0, 4.0)})
    table = moments(surveys(whole)).repeat(10, 1)
    pilot = Pilot(Whitening.fit(table + 0.3 * torch.randn_like(table)), 2, torch.tensor([[-1.7] * 2, [1.7] * 2]))
    one = OneStep(moments, ScoreNetwork(prior, 6), [pilot])
    return [net.eval() for net in (FeatureMoments(Standardiser(6).fit(whole)), moments, one)]


def permuted(o, names):
    """Objects that have swapped some columns, also between surveys."""
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    return o._replace(**{n: getattr(o, n)[order] for n in names})


@pytest.mark.parametrize("name", OWN)
def test_swapping_what_is_hidden_between_objects_changes_no_summary(whole, summaries, name):
    one, other = hidden(name, CONFIG), permuted(whole, OWN[name])
    for summary in summaries:
        a, b = (summary(surveys(blind(o, one.bands, one.columns))) for o in (whole, other))
        assert torch.equal(a, b)
        assert bool(torch.isfinite(a).all())
        assert not torch.equal(summary(surveys(whole)), summary(surveys(other)))  # it would show


def test_a_hidden_band_leaves_no_trace_and_the_others_stay(whole, summaries):
    one = hidden("band g", CONFIG)
    other = whole.mag.clone()
    other[:, 1] = other[:, 1].flip(0)
    a, b = (blind(whole._replace(mag=m), one.bands, one.columns) for m in (whole.mag, other))
    for summary in summaries:
        assert torch.equal(summary(surveys(a)), summary(surveys(b)))
    assert torch.isnan(a.mag).all(0).tolist() == torch.isnan(a.mag_err).all(0).tolist() == [False, True, False, False, False, False]
    assert torch.equal(a.mag[:, 2:], whole.mag[:, 2:])


@pytest.mark.parametrize("name", OWN)
def test_all_the_rest_stays(whole, name):
    one = hidden(name, CONFIG)
    seen = blind(whole, one.bands, one.columns)
    for column in set(Observations._fields) - set(OWN[name]):
        torch.testing.assert_close(getattr(seen, column), getattr(whole, column), equal_nan=True, rtol=0, atol=0)


def test_what_is_missing_stays_missing(whole):
    gone = whole._replace(**{n: getattr(whole, n).masked_fill(torch.arange(COUNT) < 9, torch.nan) for n in OWN["supernova light"]})
    one = hidden("colour", CONFIG)
    assert torch.equal(torch.isnan(blind(gone, one.bands, one.columns).c), torch.isnan(gone.c))


def test_a_blinded_source_gives_the_same_surveys_otherwise(source):
    one = hidden("magnitude", CONFIG)
    whole, seen = (pack(s(3, 4), tuple(MARGINALS)) for s in (source, blinded(source, (1,), one.columns)))
    expected = blind(whole.observations, (1,), one.columns)
    for a, b in zip((*seen.observations, *seen.latents, *seen[2:]), (*expected, *whole.latents, *whole[2:]), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, rtol=0, atol=0)
    assert bool((seen.observations.m == 0).all())


def test_joint_scores_are_computed_of_whole_objects_and_kept_for_the_others(tmp_path, whole):
    latents = Latents(*(torch.arange(COUNT) * 0.01 for _ in Latents._fields))
    packed, theta = surveys(whole)._replace(latents=latents), torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(0))

    def score(packed, theta):
        return packed.observations.m[:, None] * theta, theta

    path = tmp_path / "scores.pt"
    with pytest.raises(OSError, match=r"scores\.pt"):
        kept_scores(score, path, compute=False)(packed, theta)  # never of what is hidden
    first = kept_scores(score, path, compute=True)(packed, theta)
    one = hidden("supernova light", CONFIG)
    without = packed._replace(observations=blind(whole, one.bands, one.columns))
    again = kept_scores(score, path, compute=False)(without, theta)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert bool(torch.isnan(score(without, theta)[0]).all())  # what they would be of these
    with pytest.raises(ValueError, match="expected joint scores of the objects at hand, got those of others"):
        kept_scores(score, path, compute=False)(packed, theta + 1)

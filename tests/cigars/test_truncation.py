"""A cut loses no more than it says, a truncated prior is the old one inside a box, and a posterior that hits the box is seen."""

import json

import jax
import numpy as np
import pytest
from scipy.stats import ks_2samp, laplace, multivariate_normal, norm, t, truncnorm

from cigars.config import ConfigError, Prior, Region, fingerprint, load_config, to_toml
from cigars.files import FileError
from cigars.schema import FIDUCIAL, Marginal
from cigars.surveys import survey_source
from cigars.truncation import (
    LEAST,
    PAD,
    RECORD,
    TAIL,
    Round,
    Rounds,
    Step,
    cut_marginal,
    cut_region,
    draw_prior,
    inside,
    piled_up,
    prior_mass,
    read_rounds,
    truncated,
    volume,
    write_rounds,
)
from simulators.priors import sample_globals

EVERYWHERE = (-np.inf, np.inf)
UNIT = Marginal("uniform", 0.0, 1.0, 0.0, 1.0)


def unpadded(cut):
    pad = PAD * (cut.high - cut.low) / (1 + 2 * PAD)
    return cut.low + pad, cut.high - pad


def lost(law, padded=False, n=1024, repeats=300):
    """True mass beyond both cuts of errors with this law, repeated."""
    rng, out = np.random.default_rng(0), []
    for _ in range(repeats):
        cut = cut_marginal(0.0, law.rvs(size=n, random_state=rng), EVERYWHERE)
        low, high = cut[:2] if padded else unpadded(cut)
        out.append(law.cdf(low) + law.sf(high))
    return np.array(out)


def test_the_mass_that_is_cut_is_the_one_allowed():
    """Of exponential tails, where the edge is right but for its noise; of normal ones less. To stop at the largest error loses 2/n."""
    exponential, normal = lost(laplace), lost(norm)
    assert np.median(exponential) == pytest.approx(2 * TAIL, rel=0.3)
    assert normal.mean() + 5 * normal.std() / len(normal) ** 0.5 < 2 * TAIL
    assert normal.mean() > 0.02 * TAIL  # yet not so little that boxes are useless: 4.3 standard deviations
    rng = np.random.default_rng(1)
    largest = [2 * norm.sf(norm.rvs(size=1024, random_state=rng).max()) for _ in range(300)]
    assert np.mean(largest) > 2 * TAIL


@pytest.mark.parametrize("law", [norm, laplace, t(6)])
def test_padding_makes_up_for_the_noise_of_the_edge_and_for_longer_tails(law):
    """Mean over repetitions, thus with every error of the edges; that t has a kurtosis of 6, regressions of surveys 3 to 5."""
    assert lost(law, padded=True).mean() < 2 * TAIL


def test_the_share_that_is_cut_is_recorded_and_nothing_is_lost_at_the_edge_of_the_prior():
    errors = np.random.default_rng(2).normal(size=1000)
    cut = cut_marginal(0.3, errors, EVERYWHERE)
    assert cut.cut == pytest.approx(2 * TAIL)
    assert 0 < cut.outside < 0.1 * cut.cut
    low, high = unpadded(cut)
    assert (low + high) / 2 == pytest.approx(0.3, abs=1.3)  # either edge is known to 14 % of 2.6, so 5 standard errors
    one_sided = cut_marginal(0.3, errors, (0.0, np.inf))
    assert one_sided.low == 0
    assert one_sided.cut == pytest.approx(TAIL)
    assert cut_marginal(0.3, errors, (0.0, 1.0)) == (0.0, 1.0, 0.0, 0.0)


def test_padding_stays_inside_the_old_support():
    errors = 0.01 * np.random.default_rng(3).normal(size=1000)
    inner, outer = cut_marginal(0.5, errors, (0.455, 0.555)), cut_marginal(0.5, errors, (-5, 5))
    assert inner[:2] == (0.455, 0.555)
    assert 0.4 < outer.low < 0.45 < 0.55 < outer.high < 0.6


def test_errors_that_lie_to_one_side_move_the_cut_with_them():
    errors = np.random.default_rng(4).gamma(2.0, size=2000)
    low, high = unpadded(cut_marginal(10.0, errors, EVERYWHERE))
    assert 10 - low < 1
    assert high - 10 > 8


def test_errors_that_pile_up_at_their_largest_end_there():
    cut = cut_marginal(0.0, np.repeat([-1.0, 0.0, 1.0], 100), EVERYWHERE)
    assert unpadded(cut) == pytest.approx((-1.0, 1.0))
    assert cut.outside == 0


@pytest.mark.parametrize("errors", [[], [1.0, 2.0], [1.0, 1.0, 1.0], [0.0, np.nan, 1.0], [0.0, np.inf, 1.0]])
def test_errors_that_say_nothing_are_refused(errors):
    with pytest.raises(ValueError, match="expected three different finite errors or more"):
        cut_marginal(0.0, np.array(errors), EVERYWHERE)


def test_an_estimate_far_outside_the_prior_is_refused():
    with pytest.raises(ValueError, match=r"expected an estimate inside \[0.0, 1.0\], got 30"):
        cut_marginal(30.0, np.random.default_rng(5).normal(size=100), (0.0, 1.0))


# Regions

PAIR = ("alpha", "gamma_Z")
COVARIANCE = np.array([[0.09**2, 0.9 * 0.09 * 0.15], [0.9 * 0.09 * 0.15, 0.15**2]])


@pytest.fixture(scope="module")
def known():
    """`lsst` with all but α and γ_Z known, over wide priors."""
    fixed = {f"prior.{name}": {"fixed": getattr(FIDUCIAL, name)} for name in load_config("lsst").marginals if name not in PAIR}
    return load_config("lsst", **fixed, **{"prior.alpha": {"uniform": [-0.5, 1.5]}, "prior.gamma_Z": {"uniform": [-0.5, 2.0]}})


def test_a_region_follows_correlated_errors_and_loses_what_it_says():
    law, rng = multivariate_normal([0, 0], COVARIANCE), np.random.default_rng(6)
    many = law.rvs(size=1_000_000, random_state=rng)
    outside = []
    for _ in range(20):
        region, lost = cut_region(PAIR, np.zeros(2), law.rvs(size=1024, random_state=rng))
        assert lost == pytest.approx(4 * TAIL)
        outside.append(1 - inside(many, PAIR, region).mean())
        axes = np.array(region.directions) @ COVARIANCE @ np.array(region.directions).T
        np.testing.assert_allclose(axes, np.eye(2), atol=0.25)  # 5 standard errors of a variance or covariance of 1,024
        assert np.triu(region.directions, 1).max() == 0  # a flow is given it as its support
    assert np.mean(outside) < 4 * TAIL
    shuffled = many[:, 0], rng.permutation(many[:, 1])  # the same marginals, not correlated
    assert 1 - inside(np.stack(shuffled, -1), PAIR, region).mean() > 100 * 4 * TAIL
    assert (inside(many[:, ::-1], PAIR[::-1], region) == inside(many, PAIR, region)).all()


def test_a_prior_in_a_region_is_the_old_one_there_by_both_samplers(known):
    region = Region(names=PAIR, centre=(0.5, 0.75), directions=((1.0, 0.0), (1.0, -1.0)), limits=((-0.4, 0.5), (-0.1, 0.2)))
    config = truncated(known, {}, region)
    assert volume(known, config) == pytest.approx(0.9 * 0.3 / 5, rel=0.1)  # a parallelogram; 5 standard errors of 65,536 draws are 8 %
    assert volume(config, config) == 1
    drawn, whole = draw_prior(config, 4000, 1), draw_prior(known, 100_000, 2)
    kept = whole[inside(whole, PAIR, region)]
    draw = jax.vmap(lambda k: sample_globals(k, config.marginals, config.fixed, False, config.prior.region))
    simulated = draw(jax.random.split(jax.random.key(3), 4000))
    for other in (kept, np.stack([simulated.alpha, simulated.gamma_Z], -1)):
        assert inside(other.astype(float), PAIR, region).all()
        for direction in ([1, 0], [0, 1], [1, -1], [1, 1]):
            assert ks_2samp(drawn @ direction, other @ direction).pvalue > 1e-3
    assert ks_2samp(drawn @ [1, 1], draw_prior(truncated(known, {"alpha": (0.1, 1.0)}), 4000, 4) @ [1, 1]).pvalue < 1e-6


def test_a_small_region_has_a_volume(known):
    """Of 3e-5 of the box: two of the 65,536 draws at a time."""
    region = Region(names=PAIR, centre=(0.5, 0.75), directions=((1.0, 0.0), (0.0, 1.0)), limits=((-0.006, 0.006), (-0.006, 0.006)))
    assert volume(known, truncated(known, {}, region)) == pytest.approx(0.012**2 / 5, rel=0.25)  # 5 standard errors of 400 draws


def test_a_region_of_twice_the_least_share_is_drawn_from_whatever_the_seed(known):
    """Of 65,536 draws 1.3 are inside: the first so many have none in one case of four, and were held against it."""
    half = (2 * LEAST * 5) ** 0.5 / 2  # of 5, the area of the box
    region = Region(names=PAIR, centre=(0.5, 0.75), directions=((1.0, 0.0), (0.0, 1.0)), limits=((-half, half), (-half, half)))
    config = truncated(known, {}, region)
    for seed in range(20):
        assert inside(draw_prior(config, 1, seed), PAIR, region).all()


def test_a_region_of_less_than_the_least_share_is_refused_where_chance_is_no_excuse(known):
    """A fifth of it, though a few draws are inside."""
    half = (LEAST / 5 * 5) ** 0.5 / 2
    region = Region(names=PAIR, centre=(0.5, 0.75), directions=((1.0, 0.0), (0.0, 1.0)), limits=((-half, half), (-half, half)))
    with pytest.raises(ConfigError, match=r"expected a share of the prior above 1e-05, got \d+ of \d+ draws; widen its limits"):
        draw_prior(truncated(known, {}, region), 1000, 0)


def test_a_region_is_kept_in_files_and_fingerprints_and_its_absence_changes_none(known):
    region = Region(names=PAIR, centre=(0.3, 0.7), directions=((1.0, -1.0),), limits=((-0.1, 0.1),))
    config = truncated(known, {}, region)
    assert fingerprint(config) != fingerprint(known)
    assert "region" not in known.model_dump()["prior"]  # as before there were any
    assert "region" in to_toml(config)
    assert type(config).model_validate_json(config.model_dump_json()) == config


def test_a_region_that_holds_nothing_is_refused_before_surveys_are_drawn(known):
    nowhere = Region(names=PAIR, centre=(9.0, 9.0), directions=((1.0, 0.0),), limits=((-0.1, 0.1),))
    with pytest.raises(ConfigError, match="expected a share of the prior above 1e-05, got 0 of 1638400 draws; widen its limits"):
        survey_source(truncated(known, {}, nowhere), "mock")
    drawn = sample_globals(jax.random.key(0), known.marginals, known.fixed, False, nowhere)
    assert np.isnan(drawn.alpha)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"centre": (0.3,)}, "expected a centre and directions of 2 numbers"),
        ({"directions": ((1.0, 0.0, 0.0),)}, "expected a centre and directions of 2 numbers"),
        ({"limits": ((0.1, -0.1),)}, "expected low < high"),
        ({"names": ("Om0", "H0")}, "got \\['H0'\\]"),
    ],
)
def test_a_region_that_cannot_be_is_one_line(changes, message):
    good = {"names": PAIR, "centre": (0.3, 0.7), "directions": ((1.0, -1.0),), "limits": ((-0.1, 0.1),)}
    with pytest.raises(ConfigError, match=message):
        load_config("lsst", **{"prior.region": {**good, **changes}})


def test_draws_at_the_edge_of_a_region_are_seen(known):
    region = Region(names=PAIR, centre=(0.3, 0.7), directions=((1.0, -1.0), (1.0, 1.0)), limits=((-0.2, 0.2), (-1.0, 1.0)))
    rng = np.random.default_rng(7)
    narrow = {"alpha": 0.3 + 0.01 * rng.normal(size=1000), "gamma_Z": 0.7 + 0.02 * rng.normal(size=1000)}
    box = known.marginals
    assert piled_up(narrow, box, box, region) == []
    assert piled_up({**narrow, "gamma_Z": narrow["gamma_Z"] - 0.2}, box, box, region) == ["gamma_Z"]  # the wider counts most
    assert piled_up({**narrow, "gamma_Z": narrow["gamma_Z"] - 0.2}, box, box) == []


def test_a_truncated_prior_is_the_old_one_within_the_box():
    config = load_config("lsst", **{"prior.beta": {"normal": [2, 1], "within": [0, 4]}})
    cut = truncated(config, {"Om0": (0.2, 0.4), "dtd_logA": (-12.2, -12.1), "beta": (-1.0, 3.0), "M0": (-25, -19.5)})
    assert cut.prior.Om0 == Prior(uniform=(0.2, 0.4))
    assert cut.prior.dtd_logA == Prior(normal=config.prior.dtd_logA.normal, within=(-12.2, -12.1))
    assert cut.prior.beta == Prior(normal=(2, 1), within=(0, 3))  # never beyond the old one
    assert cut.prior.M0.uniform == (-20.0, -19.5)
    assert cut.updated(prior=config.prior.model_dump()) == config  # nothing else changed
    assert truncated(cut, {}) == cut


def test_boxes_that_cannot_be_are_refused():
    config = load_config("lsst", **{"prior.alpha_c": {"fixed": 0.0}})
    with pytest.raises(ConfigError, match=r"expected a free parameter, got one fixed at 0\.0"):
        truncated(config, {"alpha_c": (-0.01, 0.01)})
    with pytest.raises(ValueError, match="low < high"):
        truncated(config, {"Om0": (0.4, 0.2)})


def test_prior_mass_is_that_of_scipy():
    normal = Marginal("normal", 2.0, 0.5, 1.0, 4.0)
    box = {"a": Marginal("uniform", 0.0, 1.0, 0.2, 0.5), "b": normal._replace(low=1.5, high=2.5)}
    standard = truncnorm(-2.0, 4.0, 2.0, 0.5)
    assert prior_mass({"a": UNIT, "b": normal}, box) == pytest.approx(0.3 * (standard.cdf(2.5) - standard.cdf(1.5)))
    free = Marginal("normal", 0.0, 1.0, *EVERYWHERE)
    assert prior_mass({"b": free}, {"b": free}) == 1
    assert prior_mass({"b": free}, {"b": free._replace(low=0.0)}) == pytest.approx(0.5)


def test_a_posterior_that_hits_an_edge_of_the_box_is_named_and_no_other():
    rng, box = np.random.default_rng(4), {n: Marginal("uniform", 0.0, 1.0, 0.4, 0.6) for n in "abc"}
    wide = dict.fromkeys("abc", UNIT)
    draws = {"a": rng.normal(0.5, 0.02, 1000), "b": 0.4 + rng.exponential(0.01, 1000), "c": 0.6 - rng.exponential(0.01, 1000)}
    assert piled_up(draws, box, wide) == ["b", "c"]
    assert piled_up(draws, box, wide | {"b": UNIT._replace(low=0.4)}) == ["c"]  # the edge of the prior itself
    assert piled_up(draws, box, box) == []


def test_the_record_survives_its_file_and_others_are_refused(tmp_path):
    step = Step(surveys=64, box={"Om0": (0.1 + 0.2, 2 / 3)}, cut={"Om0": 1e-4}, outside={"Om0": 0.0})
    done = Round(
        number=1, folder="round-1", fingerprint="f", surveys=9, seconds=1.5, volume_ratio=1.0, prior={"Om0": Prior(uniform=(0, 1))},
        steps=(step, step.model_copy(update={"box": {"Om0": (0.4, 0.5)}})),
    )  # fmt: skip
    rounds = Rounds(target="t", objects=3, rounds=2, fingerprint="f", configured=done.prior, history=(done,))
    assert read_rounds(tmp_path) is None
    write_rounds(tmp_path, rounds)
    assert read_rounds(tmp_path) == rounds
    assert read_rounds(tmp_path).history[0].box == {"Om0": (0.4, 0.5)}
    assert done.model_copy(update={"steps": ()}).box == {}
    for content in ("{", "{}", "[]", (tmp_path / RECORD).read_text().replace('"objects": 3', '"objects": "many"')):
        (tmp_path / RECORD).write_text(content)
        with pytest.raises(FileError, match=r"cannot read rounds\.json: .*; train again"):
            read_rounds(tmp_path)


def test_a_record_of_an_earlier_version_is_read_for_its_target(tmp_path):
    """It had draws, box and shares of a single cut in each round; inference asks for the target and the configured prior alone."""
    old = {"number": 1, "folder": ".", "fingerprint": "f", "surveys": 9, "seconds": 1.0, "volume_ratio": 1.0}
    old |= {"prior": {"Om0": {"uniform": [0, 1]}}, "draws": 100, "box": {"Om0": [0.1, 0.9]}, "cut": {"Om0": 0.0}, "outside": {"Om0": 0.0}}
    whole = {"target": "t", "objects": 3, "rounds": 1, "fingerprint": "f", "configured": {"Om0": {"uniform": [0, 1]}}, "history": [old]}
    (tmp_path / RECORD).write_text(json.dumps(whole))
    assert read_rounds(tmp_path).target == "t"

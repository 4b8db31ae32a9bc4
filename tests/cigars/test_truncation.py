"""A cut loses no more than it says, a truncated prior is the old one inside a box, and a posterior that hits the box is seen."""

import numpy as np
import pytest
from scipy.stats import norm, truncnorm

from cigars.config import ConfigError, Prior, load_config
from cigars.files import FileError
from cigars.schema import Marginal
from cigars.truncation import PAD, RECORD, TAIL, Round, Rounds, cut_marginal, piled_up, prior_mass, read_rounds, truncated, write_rounds

EVERYWHERE = (-np.inf, np.inf)
UNIT = Marginal("uniform", 0.0, 1.0, 0.0, 1.0)


def unpadded(cut):
    pad = PAD * (cut.high - cut.low) / (1 + 2 * PAD)
    return cut.low + pad, cut.high - pad


def lost(extra=0, n=50_000, repeats=400):
    """True mass below the cut of uniform draws, repeated; `extra` draws more are cut by a wrong version."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(repeats):
        draws = np.sort(rng.random(n))
        out.append(unpadded(cut_marginal(draws[extra:], EVERYWHERE))[0])
    return np.array(out)


def test_the_mass_that_is_cut_is_the_one_allowed():
    """Expected (k + 1)/(n + 1) ≤ TAIL on a side; a version that cuts two draws more is caught at 5 standard errors."""
    right, wrong = lost(), lost(extra=2)
    assert right.mean() < TAIL + 5 * right.std() / len(right) ** 0.5
    assert right.mean() > 0.5 * TAIL
    assert wrong.mean() > TAIL + 5 * wrong.std() / len(wrong) ** 0.5


@pytest.mark.parametrize("n", [100, 20_000, 100_000])
def test_at_most_1e_4_of_the_draws_are_cut_before_padding_and_fewer_after(n):
    draws = np.random.default_rng(1).normal(size=n)
    cut = cut_marginal(draws, EVERYWHERE)
    low, high = unpadded(cut)
    slack = 1e-9
    assert cut.cut == np.mean((draws < low - slack) | (draws > high + slack)) <= 2 * TAIL
    assert cut.outside <= cut.cut
    assert norm.cdf(cut.low) + norm.sf(cut.high) < 2 * TAIL or n < 1 / TAIL


def test_too_few_draws_keep_all_of_them():
    draws = np.random.default_rng(2).normal(size=1000)
    assert unpadded(cut_marginal(draws, EVERYWHERE)) == pytest.approx((draws.min(), draws.max()))


def test_padding_stays_inside_the_old_support():
    draws = np.random.default_rng(3).random(1000)
    assert cut_marginal(draws, (-0.05, 1.1))[:2] == (-0.05, 1.1)
    low, high = cut_marginal(draws, (-5, 5))[:2]
    assert high - low == pytest.approx((1 + 2 * PAD) * np.ptp(draws))


@pytest.mark.parametrize("draws", [[], [1.0, 1.0], [0.0, np.nan], [0.0, np.inf]])
def test_draws_that_are_no_posterior_are_refused(draws):
    with pytest.raises(ValueError, match="expected different finite draws"):
        cut_marginal(np.array(draws), EVERYWHERE)


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
    done = Round(
        number=1, folder="round-1", fingerprint="f", surveys=9, seconds=1.5, volume_ratio=1.0, prior={"Om0": Prior(uniform=(0, 1))},
        draws=100, box={"Om0": (0.1 + 0.2, 2 / 3)}, cut={"Om0": 0.0}, outside={"Om0": 0.0},
    )  # fmt: skip
    rounds = Rounds(target="t", objects=3, rounds=2, fingerprint="f", configured=done.prior, history=(done,))
    assert read_rounds(tmp_path) is None
    write_rounds(tmp_path, rounds)
    assert read_rounds(tmp_path) == rounds
    for content in ("{", "{}", "[]", (tmp_path / RECORD).read_text().replace('"objects": 3', '"objects": "many"')):
        (tmp_path / RECORD).write_text(content)
        with pytest.raises(FileError, match=r"cannot read rounds\.json: .*; train again"):
            read_rounds(tmp_path)

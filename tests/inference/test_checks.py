"""Each check accepts the exact posterior of a linear-Gaussian survey at its nominal rate and rejects the fault that it is for."""

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.diagnostics_power import FAULTS, NAMES, checks, states
from benchmarks.linear_gaussian import GaussianSurvey
from inference.checks import (
    LEVELS,
    Check,
    Family,
    _coverage,
    effective_number,
    holm,
    joint_ranks,
    judge,
    judge_among,
    marginal_checks,
    normal_scores,
    whitened,
)

TESTS = {"ranks", "shift", "width", "error vs width", "coverage", "joint coverage", "TARP", "correlations"}
SINGLE = {"ranks", "shift", "width", "error vs width"}  # tests of one parameter at a time


@pytest.fixture(scope="module")
def known():
    """500 surveys and their exact posteriors."""
    return states(GaussianSurvey(20), 0)


def judged(known, fault, seed=0, level=0.01, draws=399):
    """Test -> its verdict, for the posteriors with a fault."""
    generator = torch.Generator().manual_seed(seed)
    return {row.worst.test: row for row in judge(checks(FAULTS[fault](known, generator), generator, draws)[1], level)}


def test_exact_posterior_passes_every_check(known):
    rows = judged(known, "exact")
    assert set(rows) == TESTS
    assert all(row.passed and row.p_value > 0.01 for row in rows.values()), rows


@pytest.mark.parametrize(
    ("fault", "caught", "blind"),
    [
        ("20 % too narrow", {"width", "coverage", "joint coverage"}, {"shift", "error vs width"}),
        ("20 % too wide", {"width", "coverage", "joint coverage"}, {"shift", "error vs width"}),
        ("shifted by 0.2 sd", {"ranks", "shift", "TARP"}, {"width", "error vs width"}),
        ("correlations left out", {"correlations"}, SINGLE),
        ("correlations of other sign", {"correlations", "joint coverage", "TARP"}, SINGLE),
        ("widths off by 20 % either way", {"error vs width"}, {"shift", "ranks"}),
    ],
)
def test_each_fault_is_caught_by_its_checks_and_not_by_those_blind_to_it(known, fault, caught, blind):
    rows = judged(known, fault)
    assert caught <= {test for test, row in rows.items() if not row.passed}
    assert all(rows[test].passed for test in blind)


def test_signs_say_what_is_wrong(known):
    """A posterior above the truth shifts up; a width above 1 is a posterior too narrow; coverage below its level too."""
    rows = judged(known, "shifted by 0.2 sd")
    assert rows["shift"].worst.value == pytest.approx(0.2, abs=4 / 500**0.5)
    assert judged(known, "20 % too narrow")["width"].worst.value > 1.1
    assert judged(known, "20 % too wide")["width"].worst.value < 0.9
    assert judged(known, "20 % too narrow")["coverage"].worst.value < judged(known, "20 % too wide")["coverage"].worst.value


def test_false_alarms_are_as_rare_as_the_level_says():
    """120 repetitions of 150 surveys: the family rejects at most the level, each test alone about its nominal rate."""
    survey, repetitions, level = GaussianSurvey(4), 120, 0.1
    everything = states(survey, 0, 150 * repetitions)
    generator = torch.Generator().manual_seed(1)
    alone, family = {test: 0 for test in TESTS}, 0
    for k in range(repetitions):
        part = type(everything)(*(leaf[150 * k : 150 * (k + 1)] for leaf in everything))
        rows = judge(checks(part, generator, 199)[1], level)
        family += any(not row.passed for row in rows)
        for row in rows:
            alone[row.worst.test] += row.p_value <= level
    highest = stats.binom.ppf(1 - 1e-3, repetitions, level)  # Bonferroni and Holm may be below, not above
    assert family <= highest
    assert all(count <= stats.binom.ppf(1 - 1e-4, repetitions, level) for count in alone.values()), alone
    assert alone["TARP"] >= stats.binom.ppf(1e-4, repetitions, level)  # and a test of one number is not idle
    assert alone["joint coverage"] >= stats.binom.ppf(1e-4, repetitions, level)
    assert alone["correlations"] >= stats.binom.ppf(1e-4, repetitions, level)


@pytest.mark.parametrize("parameters", [1, 2, 3, 13])
def test_coverage_of_few_parameters_by_few_surveys_is_no_false_alarm(parameters):
    """Shares are then 0 or 1 for nearly all surveys; at 90 and 95 % a sample says too little of their scatter."""
    repetitions, surveys, level = 4000, 50, 0.01
    inside = np.abs(np.random.default_rng(parameters).uniform(size=(repetitions, surveys, parameters)) - 0.5)
    alarms = sum(len(LEVELS) * min(_coverage(at, (one <= at / 2).mean(1), parameters).p_value for at in LEVELS) <= level for one in inside)
    assert alarms <= stats.binom.ppf(1 - 1e-3, repetitions, level)


def test_normal_scores_are_standard_normal_whatever_the_shape_and_the_number_of_draws():
    """Exponential posteriors, 7 draws: by the law of ranks alone."""
    generator = torch.Generator().manual_seed(0)
    place = 10 * torch.randn(4000, 1, generator=generator)
    draws, truth = (place + torch.empty(n, 4000, 1).exponential_(generator=generator) for n in (7, 1))
    score = normal_scores(draws, truth[0])
    assert stats.kstest(score[:, 0], "norm").pvalue > 1e-3
    assert stats.kstest(normal_scores(0.7 * draws, truth[0])[:, 0], "norm").pvalue < 1e-6


def test_joint_ranks_are_credibilities_of_regions(known):
    """Of a Gaussian posterior: the χ² distribution function of the truth's distance, with three degrees of freedom."""
    delta = torch.linalg.solve_triangular(known.factor, (known.truth - known.mean)[..., None], upper=False)[..., 0]
    noise = torch.randn(4000, *known.mean.shape, generator=torch.Generator().manual_seed(0))
    found = joint_ranks(-(noise**2).sum(-1), -(delta**2).sum(-1))
    expected = stats.chi2.cdf((delta**2).sum(-1).numpy(), 3)
    np.testing.assert_allclose(found, expected, atol=5 * 0.5 / 4000**0.5)


def test_whitening_undoes_an_affine_map_of_each_survey():
    generator = torch.Generator().manual_seed(0)
    w, factor = torch.randn(4000, 5, 3, generator=generator), torch.randn(5, 3, 3, generator=generator).tril(-1) + 2 * torch.eye(3)
    draws = 7 + torch.einsum("sij,dsj->dsi", factor, w)
    back = whitened(draws, draws)
    np.testing.assert_allclose(back.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(torch.einsum("dsi,dsj->sij", back, back) / 3999, torch.eye(3).expand(5, 3, 3), atol=1e-4)
    np.testing.assert_allclose(back, w, atol=0.5)  # to the error of mean and covariance of 4,000 draws, at 5 sd
    with pytest.raises(ValueError, match=r"expected more than the 3 parameters, got 3"):
        whitened(draws, draws[:3])


def test_draws_without_width_are_no_obstacle():
    """An untrained flow may put all draws of a survey at the edge of the prior."""
    draws = torch.randn(100, 60, 2, generator=torch.Generator().manual_seed(0))
    draws[:, 3, 1] = 5.0
    assert bool(torch.isfinite(whitened(draws, draws)).all())


def test_holm_follows_its_worked_example():
    """Sorted p .005, .01, .03, .04 times 4, 3, 2, 1, monotone: .02, .03, .06, .06."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])


def test_family_judges_by_the_worst_parameter_times_their_number():
    rows = judge([Check("a", "x", 0, 0, 0, 0.004), Check("a", "y", 0, 0, 0, 0.9), Check("b", "all", 0, 0, 0, 0.011)], 0.01)
    assert [(r.worst.of, r.checks, r.p_value, r.adjusted, r.passed) for r in rows] == [
        ("x", 2, pytest.approx(0.008), pytest.approx(0.016), True),
        ("all", 1, pytest.approx(0.011), pytest.approx(0.016), True),
    ]
    assert [r.passed for r in judge([rows[0].worst, rows[1].worst], 0.0111)] == [False, False]
    assert [r.single for r in rows] == [pytest.approx(0.0025), pytest.approx(0.005)]


def normal_p(rng, surveys, checks, correlation):
    """p-values of equally correlated normal numbers."""
    common, own = rng.normal(size=(surveys, 1)), rng.normal(size=(surveys, checks))
    return 2 * stats.norm.sf(np.abs(correlation**0.5 * common + (1 - correlation) ** 0.5 * own))


def test_effective_number_of_independent_and_of_identical_checks():
    """5 standard errors of 1/√n for the twentieth of the surveys that it is fitted to."""
    rng, surveys = np.random.default_rng(0), 20_000
    error = 5 * (0.05 * surveys) ** -0.5
    assert abs(effective_number(normal_p(rng, surveys, 8, 0.0)) / 8 - 1) < error
    assert abs(effective_number(normal_p(rng, surveys, 8, 1.0)) - 1) < error
    assert 1.5 < effective_number(normal_p(rng, surveys, 8, 0.9)) < 6
    assert effective_number(np.empty((0, 8))) == 8


def test_dependent_tests_are_rejected_together_as_often_as_stated():
    """At 5 % the verdict on two tests of correlated checks and a third that is independent; by Holm's rule it is rarer than that."""
    rng, level, repeats = np.random.default_rng(1), 0.05, 1000
    verdicts = []
    for _ in range(repeats):
        every = normal_p(rng, 301, 12, 0.8)
        parts = [("a", every[:, :8]), ("b", every[:, 8:]), ("c", rng.uniform(size=(1, 1)))]
        tests = [Family([Check(name, str(k), 0, 0, 0, p) for k, p in enumerate(part[0])], part[1:]) for name, part in parts]
        verdicts.append(
            [not all(r.passed for r in rows) for rows in (judge_among(tests, level), judge([c for t in tests for c in t.checks], level))]
        )
    right, holms = np.mean(verdicts, 0)
    assert abs(right - level) < 5 * (level * (1 - level) / repeats) ** 0.5
    assert holms < level - 2 * (level * (1 - level) / repeats) ** 0.5
    assert not judge_among([Family([Check("a", "x", 0, 0, 0, 1e-4)], every[1:, :1]), tests[1]], level)[0].passed
    single = judge_among(tests, level)[0].single
    for factor, passes in ((0.99, False), (1.01, True)):
        alone = Family([Check("a", str(k), 0, 0, 0, factor * single if k == 0 else 1.0) for k in range(8)], every[1:, :8])
        assert judge_among([alone, *tests[1:]], level)[0].passed is passes


def test_bands_hold_ninety_nine_percent_of_exact_values(known):
    """Rows of single parameters, over 100 × 3 × 4 values of 5 surveys' worth of draws each."""
    generator = torch.Generator().manual_seed(3)
    inside = []
    for k in range(25):
        part = type(known)(*(leaf[20 * k : 20 * (k + 1)] for leaf in known))
        noise = torch.randn(199, *part.mean.shape, generator=generator, dtype=torch.float64)
        draws = part.mean + (part.factor @ noise[..., None])[..., 0]
        inside += [c.low <= c.value <= c.high for c in marginal_checks(draws, part.truth, NAMES, seed=k)]
    assert stats.binomtest(sum(inside), len(inside), 0.99).pvalue > 1e-3

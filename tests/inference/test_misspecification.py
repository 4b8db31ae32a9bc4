"""Checks of the model on linear-Gaussian surveys and Gaussian objects, where each must pass, and on wrong ones, which it must reject."""

import numpy as np
import pytest
from scipy import stats

from inference.checks import judge, judge_among
from inference.misspecification import (
    column_statistics,
    comparable,
    distance_p_values,
    false_discoveries,
    odd_share,
    predictive_checks,
    shares,
    typicality,
    unlikely,
)

SURVEYS, PARAMETERS, STATISTICS = 200, 3, 12
NAMES = [f"t{k}" for k in range(STATISTICS)]
REPEATS = 200
LEVEL = 0.05


def surveys(rng, count, centre=0.0, shift=0.0, parameters=PARAMETERS, tails=0.0):
    """Statistics linear in Θ with correlated noise, and estimates of Θ with errors of their own that share that noise.

    With `tails` the noise of a survey has a scale of its own, log-normal with this spread.
    """
    mix = np.random.default_rng(1).normal(size=(STATISTICS, STATISTICS)) / STATISTICS**0.5
    slope = np.random.default_rng(2).normal(size=(PARAMETERS, STATISTICS))
    theta = centre + rng.normal(size=(count, PARAMETERS))
    noise = np.exp(tails * rng.normal(size=(count, 1))) * (rng.normal(size=(count, STATISTICS)) @ mix)
    return theta @ slope + noise + shift, theta + 0.3 * noise[:, :PARAMETERS]


def rejected(rng, tails=0.0, **wrong):
    simulated, known = surveys(rng, SURVEYS, tails=tails)
    observed, estimate = surveys(rng, 1, tails=tails, **wrong)
    each, together = predictive_checks(NAMES, simulated, known, observed[0], estimate[0])
    any_test = min(row.adjusted for row in judge_among([each, together], LEVEL))
    return [together.checks[0].p_value < LEVEL, any_test < LEVEL, each.checks[0].p_value < LEVEL]


def test_a_survey_of_the_model_is_rejected_as_often_as_stated():
    """Binomial, 5 standard errors, for single tests and for the verdict on all."""
    rng = np.random.default_rng(3)
    all_at_once, any_test, first = np.mean([rejected(rng) for _ in range(REPEATS)], 0)
    error = 5 * (LEVEL * (1 - LEVEL) / REPEATS) ** 0.5
    assert abs(all_at_once - LEVEL) < error
    assert abs(any_test - LEVEL) < error
    assert abs(first - LEVEL) < error


def test_p_values_of_simulated_surveys_are_uniform():
    """Kolmogorov-Smirnov; and one survey far off is judged by the scatter of the others, of which it is no part."""
    rng = np.random.default_rng(13)
    simulated, known = surveys(rng, SURVEYS)
    observed, estimate = surveys(rng, 1)
    each, together = predictive_checks(NAMES, simulated, known, observed[0], estimate[0])
    assert each.null.shape == (SURVEYS, STATISTICS)
    assert min(stats.kstest(p, "uniform").pvalue for p in each.null.T) > 1e-3 / STATISTICS
    assert stats.kstest(together.null[:, 0], "uniform").pvalue > 1e-3
    assert stats.kstest(each.null.min(1), "uniform").pvalue < 1e-9
    simulated[0, 3] += 20 * simulated[:, 3].std()
    each, together = predictive_checks(NAMES, simulated, known, observed[0], estimate[0])
    # twenty standard deviations of the others, where the scatter with itself would make them ten
    assert each.null[0, 3] < 2 * stats.t.sf(14, SURVEYS - PARAMETERS - 2)
    assert together.null[0, 0] < 0.01  # among whose law it counts itself


def test_what_the_parameters_explain_is_not_held_against_the_model():
    """An observed Θ of 1.5 sd from the simulated ones moves every statistic, and the estimate with it."""
    rng = np.random.default_rng(4)
    rate = np.mean([rejected(rng, centre=1.5)[0] for _ in range(REPEATS)])
    assert abs(rate - LEVEL) < 5 * (LEVEL * (1 - LEVEL) / REPEATS) ** 0.5


def test_what_they_do_not_explain_is_rejected():
    rng = np.random.default_rng(5)
    shift = np.zeros(STATISTICS)
    shift[5] = 4.0
    assert np.mean([rejected(rng, shift=shift)[0] for _ in range(50)]) > 0.9


def test_tails_heavier_than_normal_raise_no_false_alarms():
    """By the F law of normal residuals one in six of these surveys would be rejected."""
    rng = np.random.default_rng(12)
    rate = np.mean([rejected(rng, tails=0.5)[0] for _ in range(REPEATS)])
    assert abs(rate - LEVEL) < 5 * (LEVEL * (1 - LEVEL) / REPEATS) ** 0.5
    shift = np.zeros(STATISTICS)
    shift[5] = 12.0
    assert np.mean([rejected(rng, tails=0.5, shift=shift)[0] for _ in range(50)]) > 0.9


def low_density(rng, components=3, offset=0.0):
    """p-value of a ln density with the tails of as many squared normals, which Θ moves as well; `offset` shifts one of them."""

    def survey(count, offset=0.0):
        theta, noise = rng.normal(size=(count, PARAMETERS)), rng.normal(size=(count, components))
        noise[:, 0] += offset
        return -0.5 * (noise**2).sum(1) + theta @ [3.0, -1.0, 0.0], theta

    simulated, known = survey(SURVEYS)
    observed, estimate = survey(1, offset)
    return unlikely(simulated, known, float(observed[0]), estimate[0]).checks[0].p_value


def test_low_densities_are_rejected_as_often_as_stated_and_only_low_ones():
    """Binomial, 5 standard errors; by a normal law 3.4 % would be rejected at the level of 1 %."""
    rng, repeats = np.random.default_rng(15), 1000
    p = np.array([low_density(rng) for _ in range(repeats)])
    for level in (LEVEL, 0.01):
        assert abs(np.mean(p < level) - level) < 5 * (level * (1 - level) / repeats) ** 0.5
    assert np.mean([low_density(rng, offset=8.0) < LEVEL for _ in range(50)]) > 0.9
    simulated, known = rng.normal(size=SURVEYS), rng.normal(size=(SURVEYS, PARAMETERS))
    found = unlikely(simulated, known, 30.0, known[0])
    assert found.checks[0].p_value > 0.99  # more likely than any simulated survey
    assert stats.kstest(found.null[:, 0], "uniform").pvalue > 1e-3
    assert unlikely(simulated, known, -30.0, known[0]).checks[0].p_value < 1e-6


def far_from_linear(rng, count, runaway=0):
    """A ln density with more scatter and less of it where Θ is far out; of the first `runaway` surveys the estimate of Θ is nonsense."""
    theta = rng.normal(size=(count, PARAMETERS))
    distance = (theta**2).sum(1)
    ln_density = -(1 + 0.5 * distance) * (1 + 0.5 * rng.normal(size=count) ** 2)
    theta[:runaway] *= 30
    ln_density[:runaway] -= 1000
    return ln_density, theta


@pytest.mark.parametrize("runaway", [0, 3])
def test_a_survey_in_the_middle_is_judged_by_those_like_it(runaway):
    """Rates within 5 standard errors, where one law for all leverages would hardly reject, with estimates run away or without."""
    rng, repeats, right, wrong = np.random.default_rng(16), 400, [], []
    middle = np.full(PARAMETERS, 0.1)
    for _ in range(repeats):
        simulated, known = far_from_linear(rng, SURVEYS, runaway)
        near = comparable(known, middle)
        assert near.sum() >= 0.9 * SURVEYS
        simulated, known = simulated[near], known[near]
        usual = -(1 + 0.5 * (middle**2).sum()) * (1 + 0.5 * rng.normal() ** 2)
        right.append(unlikely(simulated, known, usual, middle).checks[0].p_value)
        wrong.append(unlikely(simulated, known, usual - 3.5, middle).checks[0].p_value)
    assert np.mean(np.array(right) < LEVEL) < LEVEL + 5 * (LEVEL * (1 - LEVEL) / repeats) ** 0.5
    assert np.mean(np.array(wrong) < LEVEL) > 0.8


def test_a_combination_of_other_statistics_changes_nothing():
    rng = np.random.default_rng(6)
    simulated, known = surveys(rng, SURVEYS)
    observed, estimate = surveys(rng, 1)

    def doubled(rows):
        return np.concatenate([rows, rows[:, :2] + rows[:, 2:4]], 1)

    _, one = predictive_checks(NAMES, simulated, known, observed[0], estimate[0])
    _, two = predictive_checks([*NAMES, "a", "b"], doubled(simulated), known, doubled(observed)[0], estimate[0])
    assert two.checks[0].p_value == pytest.approx(one.checks[0].p_value, rel=1e-6)


def test_too_few_surveys_and_missing_statistics_are_refused():
    rng = np.random.default_rng(7)
    simulated, known = surveys(rng, STATISTICS + PARAMETERS + 2)
    with pytest.raises(ValueError, match="simulate more"):
        predictive_checks(NAMES, simulated, known, simulated[0], known[0])
    simulated, known = surveys(rng, SURVEYS)
    simulated[0, 3] = np.nan
    with pytest.raises(ValueError, match="for t3; leave these columns out"):
        predictive_checks(NAMES, simulated, known, simulated[1], known[0])


INPUTS = ["colour", "copy", "light"]


def objects(rng, count):
    """Two inputs that lie on a narrow line, and one of its own."""
    colour, light = rng.normal(size=(2, count))
    return np.stack([colour, colour + 0.01 * rng.normal(size=count), light], 1)


@pytest.fixture(scope="module")
def pools():
    rng = np.random.default_rng(8)
    return objects(rng, 8000), objects(rng, 8000)


def test_simulated_objects_are_typical(pools):
    p = typicality(objects(np.random.default_rng(9), 4000), *pools, INPUTS).p_value
    assert stats.kstest(p, "uniform").pvalue > 1e-3  # the pool of 8,000 adds a noise of its own
    check = odd_share(p, 8000)
    assert check.low <= check.value <= check.high


def test_an_object_off_the_line_is_odd_and_the_input_is_named(pools):
    """Each is well within the range of every single input."""
    odd = np.array([[0.5, 0.8, 0.0], [0.0, 0.0, 7.0]])
    found = typicality(odd, *pools, INPUTS)
    assert (found.p_value < 1e-3).all()
    assert found.reason[0] in ("colour", "copy")
    assert found.reason[1] == "light"
    assert (found.relief > 0.05).all()


def test_a_share_of_odd_objects_is_found(pools):
    rng = np.random.default_rng(10)
    mixed = objects(rng, 1000)
    mixed[:50, 1] += 0.3
    found = typicality(mixed, *pools, INPUTS)
    called = false_discoveries(found.p_value, 0.1)
    assert called[:50].sum() >= 45
    assert called[50:].sum() <= 0.1 / 0.9 * 50 + 5 * (0.1 * 55) ** 0.5  # expected false ones, 5 standard deviations
    assert not judge([odd_share(found.p_value, 8000)], 0.01)[0].passed


def test_no_object_is_called_where_none_is_odd():
    assert not false_discoveries(np.linspace(0.01, 1, 100), 0.1).any()


TAILS = {
    "normal in eight directions": lambda rng, size: np.sqrt(rng.chisquare(8, size)),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "power law": lambda rng, size: 1 + rng.pareto(3, size),
}


@pytest.mark.parametrize("law", TAILS)
@pytest.mark.parametrize("number", [1600, 16_000])
def test_ordinary_objects_are_not_called_odd_beyond_all_simulated_ones(law, number):
    """All are ordinary, so that calls in a share of the catalogues are that share of false ones; binomial, 5 standard errors."""
    rng, repeats, share, draw = np.random.default_rng(17), 100, 0.1, TAILS[law]
    called = [false_discoveries(distance_p_values(draw(rng, number), draw(rng, 40_000)), share).any() for _ in range(repeats)]
    assert np.mean(called) < share + 5 * (share * (1 - share) / repeats) ** 0.5


@pytest.mark.parametrize("law", TAILS)
@pytest.mark.parametrize("gross", [1, 3])
def test_a_few_gross_outliers_among_many_are_called_and_no_others(law, gross):
    """At ten times the largest of 10 million; by rank among 40,000 fewer than four in 16,000 never could be."""
    rng, draw, found = np.random.default_rng(18), TAILS[law], []
    far = {"power law": 2000.0, "exponential": 160.0}.get(law, 70.0)
    for _ in range(20):
        distance = draw(rng, 16_000)
        distance[:gross] = far
        found.append(false_discoveries(distance_p_values(distance, draw(rng, 40_000)), 0.1))
    assert np.all(found, 0)[:gross].all()
    assert np.sum(found) - 20 * gross < 20 * gross * 0.1 / 0.9 + 5 * (20 * gross * 0.1) ** 0.5


def test_p_values_beyond_all_simulated_distances_are_those_of_a_power_law():
    """Below 1 / 40,001, which no rank among 40,000 is, they are uniform: binomial, 5 standard errors; a threefold distance is not."""
    rng, limit, size, tries = np.random.default_rng(19), 1e-5, 200_000, 40
    below, wrong = 0, 0
    for _ in range(tries):
        judged, new = 1 + rng.pareto(3, 40_000), 1 + rng.pareto(3, size)
        below += (distance_p_values(new, judged) < limit).sum()
        wrong += (distance_p_values(3 * new, judged) < limit).sum()
    expected = limit * size * tries
    # where the largest simulated distance is far out, ranks stand for the tail
    assert 0.5 * expected < below < expected + 5 * expected**0.5
    assert wrong > expected + 5 * expected**0.5


def test_p_values_within_the_simulated_distances_are_ranks():
    judged = np.random.default_rng(20).exponential(size=999)
    inner = np.quantile(judged, [0.1, 0.9, 0.999])
    assert distance_p_values(inner, judged) == pytest.approx([(1 + (judged >= v).sum()) / 1000 for v in inner])
    far = distance_p_values(judged.max() * np.array([1.0001, 2, 4, 1e6]), judged)
    assert far[0] <= 1 / 1000
    assert (np.diff(far) < 0).all()
    assert distance_p_values(np.array([1.0, 3.0]), np.zeros(50)) == pytest.approx(1 / 51)  # nothing to continue


def test_statistics_of_a_column_ignore_what_is_missing():
    values = np.array([1.0, 2.0, np.nan, 3.0])
    found = column_statistics(np.stack([values, np.full(4, np.nan)], 1), ["a", "b"])
    assert found["a: mean"] == 2.0
    assert found["a: sd"] == pytest.approx((2 / 3) ** 0.5)
    assert found["a: 50% quantile"] == 2.0
    assert np.isnan(found["b: mean"])


def test_shares_count_every_object_and_see_another_distribution():
    """Of uniform redshifts each share is binomial; a survey that lacks the far half is rejected where one that does not passes."""
    rng, edges = np.random.default_rng(11), np.linspace(0.1, 0.9, 5)
    found = shares(np.array([0.0, 0.2, 0.4, 0.45, 0.95]), edges, "N(z)")
    assert list(found) == [f"N(z): bin {k}, {e:.2f} to {e + 0.2:.2f}" for k, e in enumerate(edges[:-1], start=1)]
    assert list(found.values()) == pytest.approx([0.4, 0.4, 0.0, 0.2])

    def survey(far):
        return list(shares(rng.uniform(0.1, far, 200), edges, "N(z)").values())

    simulated, known = np.array([survey(0.9) for _ in range(100)]), rng.normal(size=(100, 1))
    right, wrong = (predictive_checks(list(found), simulated, known, np.array(survey(far)), known[0]) for far in (0.9, 0.6))
    assert right[1].checks[0].p_value > 1e-3 > wrong[1].checks[0].p_value

"""Laws of the report's statistics, each also on a wrong input that must be told apart."""

import numpy as np
import pytest
from scipy import stats

from cigars.report.statistics import bin_ranks, error_ratio, pit, pulls, rank_p_values, redshift_statistics


def gaussian_redshifts(scatter: float, shift: float = 0.0, n: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    z = rng.uniform(0.05, 1.0, n)
    return z + (1 + z) * rng.normal(shift, scatter, n), z


@pytest.mark.parametrize(("scatter", "shift"), [(0.01, 0.0), (0.03, 0.005), (0.1, -0.02)])
def test_gaussian_scatter_gives_its_own_nmad_outliers_and_bias(scatter, shift):
    z_hat, z = gaussian_redshifts(scatter, shift)
    measured = redshift_statistics(z_hat, z)
    outliers = stats.norm.sf(0.15, shift, scatter) + stats.norm.cdf(-0.15, shift, scatter)
    # asymptotic standard errors: 1.17 sigma / sqrt n of a MAD, 1.25 sigma / sqrt n of a median, binomial; 5 of each
    assert measured.nmad == pytest.approx(scatter, abs=5 * 1.17 * scatter / np.sqrt(z.size) + 1e-4 * scatter)
    assert measured.bias == pytest.approx(shift, abs=5 * 1.26 * scatter / np.sqrt(z.size))
    assert measured.outliers == pytest.approx(outliers, abs=5 * np.sqrt(outliers / z.size) + 1e-9)


def test_hand_computed_case():
    z = np.zeros(5)
    measured = redshift_statistics(np.array([0.0, 0.01, 0.02, 0.04, 0.5]), z)
    assert measured.bias == pytest.approx(0.02)
    assert measured.nmad == pytest.approx(1.4826 * 0.02)  # deviations .02 .01 0 .02 .48
    assert measured.outliers == pytest.approx(0.2)


def test_wrong_normalisation_is_told_apart():
    z_hat, z = gaussian_redshifts(0.03)
    plain = 1.4826 * np.median(np.abs(z_hat - z))  # forgets 1 + z
    assert abs(plain - 0.03) > 0.1 * 0.03 > 10 * abs(redshift_statistics(z_hat, z).nmad - 0.03)


def test_outliers_do_not_move_the_scatter():
    z_hat, z = gaussian_redshifts(0.01)
    spoilt = np.where(np.arange(z.size) % 100 == 0, 5.0, z_hat)
    assert redshift_statistics(spoilt, z).nmad == pytest.approx(0.01, rel=0.03)  # 1 % contamination moves a MAD by about 1.5 %
    assert redshift_statistics(spoilt, z).outliers == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("z_hat", "z", "message"),
    [
        (np.zeros(3), np.zeros(4), "equal"),
        (np.zeros(0), np.zeros(0), "non-empty"),
        (np.array([0.1, np.nan]), np.array([0.1, 0.2]), "finite"),
    ],
)
def test_bad_redshifts_are_refused(z_hat, z, message):
    with pytest.raises(ValueError, match=message):
        redshift_statistics(z_hat, z)


def ranks_of_normal_posterior(width: float = 1.0, shift: float = 0.0, draws: int = 200, surveys: int = 500) -> np.ndarray:
    """Truth ~ N(0, 1); a posterior that ignores data is N(shift, width): exact for (1, 0)."""
    rng = np.random.default_rng(11)
    return (rng.normal(shift, width, (draws, surveys)) < rng.normal(0, 1, surveys)).sum(0)


def test_exact_posterior_passes_and_wrong_ones_fail():
    assert bin_ranks(ranks_of_normal_posterior(), 200).p_value > 1e-3
    for wrong in ({"width": 0.6}, {"width": 1.6}, {"shift": 0.4}):
        assert bin_ranks(ranks_of_normal_posterior(**wrong), 200).p_value < 1e-4


def test_shape_of_the_histogram_tells_the_failure():
    narrow, wide = (bin_ranks(ranks_of_normal_posterior(width=w), 200).ratio for w in (0.6, 1.6))
    middle = slice(len(narrow) // 2 - 2, len(narrow) // 2 + 2)
    assert narrow[[0, -1]].mean() > 1.5 > 1 > narrow[middle].mean()
    assert wide[[0, -1]].mean() < 0.5 < 1 < wide[middle].mean()


@pytest.mark.parametrize(("draws", "surveys"), [(100, 500), (37, 300), (999, 64), (4, 1000)])
def test_band_holds_uniform_bins_as_often_as_it_says(draws, surveys):
    ranks = np.random.default_rng(5).integers(0, draws + 1, (400, surveys))
    binned = [bin_ranks(r, draws) for r in ranks]
    outside = np.mean([(b.ratio < b.low) | (b.ratio > b.high) for b in binned])
    assert outside < 0.01 + 5 * np.sqrt(0.01 / (400 * binned[0].ratio.size))  # discreteness makes it conservative
    assert outside > 0.0015  # and a band that never excludes anything would be useless
    p = np.array([b.p_value for b in binned])
    assert abs(np.mean(p < 0.1) - 0.1) < 5 * np.sqrt(0.09 / 400)


def test_counts_are_conserved():
    ranks = np.random.default_rng(5).integers(0, 51, 300)
    binned = bin_ranks(ranks, 50)
    assert np.sum(binned.ratio * np.diff(binned.edges)) == pytest.approx(1.0)


@pytest.mark.parametrize("ranks", [np.zeros(5, int), np.full(100, 201), np.full(100, -1)])
def test_impossible_ranks_are_refused(ranks):
    with pytest.raises(ValueError, match="ranks: expected"):
        bin_ranks(ranks, 200)


def test_p_values_belong_to_their_columns():
    good, bad = ranks_of_normal_posterior(), ranks_of_normal_posterior(width=0.5)
    p = rank_p_values(np.column_stack([good, bad]), 200)
    assert p[0] > 1e-3 > p[1]


def test_pulls_and_pit_of_exact_draws():
    rng = np.random.default_rng(2)
    centre, truth = rng.normal(size=2000), np.empty(2000)
    truth[:] = centre + 0.1 * rng.normal(size=2000)
    draws = centre + 0.1 * rng.normal(size=(400, 2000))
    assert pulls(draws, truth).std() == pytest.approx(1.0, abs=5 / np.sqrt(2 * 2000) + 0.01)  # 0.01: finite draws
    assert pulls(draws + 0.1, truth).mean() == pytest.approx(1.0, abs=5 / np.sqrt(2000))
    assert bin_ranks(pit(draws, truth), 400).p_value > 1e-3
    assert bin_ranks(pit(centre + 0.05 * rng.normal(size=(400, 2000)), truth), 400).p_value < 1e-6


def test_draws_that_are_all_the_same_have_no_pull_and_ties_have_any_rank():
    draws = np.repeat(np.random.default_rng(1).normal(size=4000)[None], 9, 0)  # as of a bank with one host for each object
    assert pulls(draws, draws[0]).size == 0
    ranks = pit(draws, draws[0])
    counts = np.bincount(ranks, minlength=10)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert np.all(pit(draws, draws[0] + 1) == 9)


@pytest.mark.parametrize("tail", [0.0, 0.01])
def test_the_error_ratio_is_one_for_any_law_and_sees_a_wrong_width(tail):
    """A hundredth of the mass ten widths away, which 100 draws may miss, makes pulls scatter by more than 1; the ratio it leaves."""
    rng = np.random.default_rng(4)
    size, n = 20_000, 100

    def law(*shape):
        return rng.normal(size=shape) + 10.0 * (rng.uniform(size=shape) < tail)

    scale = rng.lognormal(0, 0.3, size)
    truth, draws = scale * law(size), scale * law(n, size)
    squares = (draws.mean(0) - truth) ** 2
    error = 0.5 * squares.std() / squares.mean() / size**0.5  # of the root of a mean of squares, relative
    assert error_ratio(draws, truth) == pytest.approx(1.0, abs=5 * error)
    assert error_ratio(draws.mean(0) + 0.7 * (draws - draws.mean(0)), truth) > 1 + 5 * error  # too narrow
    assert (pulls(draws, truth).std() > 1.1) == (tail > 0)


def test_no_ratio_without_a_width():
    assert np.isnan(error_ratio(np.ones((5, 3)), np.zeros(3)))

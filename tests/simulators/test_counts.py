"""Expected counts against simulated ones, against float64 sums, and their gradients against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cigars.config import Config
from cigars.schema import FIDUCIAL, Globals
from simulators.counts import SAMPLE as SAMPLE_OF_EXPOSURE
from simulators.counts import expected_count, expected_count_of_all_hosts, sky_rate, with_exposure
from simulators.mass_function import galaxies_per_deg2
from simulators.population import draw_galaxies
from simulators.simulator import build_simulator
from simulators.star_formation import prior_table
from simulators.survey import prepare
from tests.simulators.conftest import EXPECTED, SURVEYS

SAMPLE = 1 << 13  # gradient and differences are of the same sample, whatever its size

# Steps of finite differences: below the softened steps of the model (0.02), above float32 noise (2e-7 of the count over the step).
STEPS = {"Om0": 0.004, "Ode0": 0.004, "mass_step_loc": 0.004, "gamma_Z": 0.04, "alpha_c": 0.02}


def _theta(values: Globals = FIDUCIAL) -> Globals:
    return Globals(*(jnp.float32(v) for v in values))


@pytest.fixture(scope="module")
def count(simulator, config):
    return jax.jit(jax.value_and_grad(lambda theta: expected_count(theta, simulator, config, SAMPLE)))


POINTS = {
    "fiducial": FIDUCIAL,
    "empty and steep": FIDUCIAL._replace(
        Om0=0.15, Ode0=0.1, dtd_slope=-1.75, M0=-19.2, beta=3.0, gamma_Z=0.8, mass_step=0.1, sigma_int=0.18
    ),
    "dense and shallow": FIDUCIAL._replace(Om0=0.8, Ode0=0.9, dtd_slope=-0.95, M0=-19.8, gamma_age=0.05, alpha=0.1, mass_step_loc=10.6),
}


@pytest.mark.parametrize("where", POINTS)
def test_gradients_equal_finite_differences(count, where):
    """Central differences of fourth order; 2 % of the gradient or 2e-3 of the count is what float32 leaves."""
    theta = _theta(POINTS[where])
    value, gradient = count(theta)
    assert np.isfinite(value)
    for name in Globals._fields:
        if name in ("w0", "wa"):
            continue
        step, slope = STEPS.get(name, 0.01), float(getattr(gradient, name))
        at = [float(count(theta._replace(**{name: getattr(theta, name) + k * step}))[0]) for k in (-2, -1, 1, 2)]
        difference = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)
        assert slope == pytest.approx(difference, rel=0.02, abs=2e-3 * float(value)), name
        if abs(slope) > 0.1 * float(value):  # the check sees an error of 5 %
            assert 1.05 * slope != pytest.approx(difference, rel=0.02, abs=2e-3 * float(value)), name


def test_amplitude_scales_the_count(count):
    value, gradient = count(_theta())
    assert float(count(_theta(FIDUCIAL._replace(dtd_logA=-12.05)))[0]) == pytest.approx(10**0.1 * float(value), rel=1e-4)
    assert float(gradient.dtd_logA) == pytest.approx(np.log(10) * float(value), rel=1e-4)


@pytest.mark.slow
def test_gradients_of_dark_energy_equal_finite_differences(simulator):
    flat = Config().updated(**{"supernovae.cosmology": "flat-w0waCDM", "size.expected_supernovae": EXPECTED})
    count = jax.jit(jax.value_and_grad(lambda theta: expected_count(theta, simulator, flat, SAMPLE)))
    for theta in (_theta(), _theta(FIDUCIAL._replace(w0=-1.6, wa=0.8))):
        value, gradient = count(theta)
        for name in ("w0", "wa"):
            up, down = (float(count(theta._replace(**{name: getattr(theta, name) + h}))[0]) for h in (0.02, -0.02))
            assert float(getattr(gradient, name)) == pytest.approx((up - down) / 0.04, rel=0.03, abs=2e-3 * float(value))
        assert float(gradient.w0) > 0  # less negative w0: nearer, so brighter


@pytest.mark.parametrize("where", POINTS)
def test_count_is_the_mean_of_simulated_counts(draw_at, simulator, config, where):
    theta = POINTS[where]
    numbers = np.concatenate([draw_at(theta, batch).number for batch in range(2)]).astype(float)
    expected = float(expected_count(_theta(theta), simulator, config))
    # five standard errors of the mean, and 1 % for the sample behind the expected count and its softened steps
    tolerance = 5 * np.sqrt(numbers.mean() / len(numbers)) + 0.01 * expected
    assert abs(numbers.mean() - expected) < tolerance
    wrong = float(expected_count(_theta(theta._replace(dtd_logA=theta.dtd_logA + 0.04)), simulator, config))
    assert abs(numbers.mean() - wrong) > tolerance
    assert len(numbers) == 2 * SURVEYS


def test_expected_supernovae_is_the_count_at_the_fiducial(simulator, config):
    """By other light and errors, to five standard errors of both counts; the sample of hosts behind `expected_count` is rougher."""
    others = [float(expected_count_of_all_hosts(_theta(), simulator, config, seed, SAMPLE_OF_EXPOSURE)) for seed in range(1, 9)]
    scatter = np.std(others, ddof=1)
    tolerance = 5 * scatter * np.sqrt(1 + 1 / 8)
    assert abs(np.mean(others) - EXPECTED) < tolerance < abs(np.mean(others) - 0.985 * EXPECTED)


def test_all_hosts_expect_what_a_sample_of_them_does_with_less_noise(simulator, config):
    """A sample of as many draws has an error of 1 %, all hosts, by light and errors alone, less than half of it."""
    of_all = [float(expected_count_of_all_hosts(_theta(), simulator, config, seed, 1 << 15)) for seed in range(4)]
    scatter = np.std(of_all, ddof=1)
    assert scatter < 0.005 * EXPECTED
    of_sample = float(expected_count(_theta(), simulator, config, 1 << 19))
    assert abs(np.mean(of_all) - of_sample) < 5 * np.hypot(scatter / 2, 0.0025 * EXPECTED)
    brighter = float(expected_count_of_all_hosts(_theta(FIDUCIAL._replace(dtd_logA=-12.13)), simulator, config, 0, 1 << 15))
    assert abs(brighter - of_sample) > 5 * np.hypot(scatter / 2, 0.0025 * EXPECTED)


def test_a_selection_that_nothing_passes_is_said_to_be_one(config, bank):
    with pytest.raises(ValueError, match="selection: expected some supernova to be detected at the fiducial Θ, got none"):
        prepare(config.updated(**{"selection.m50": [10.0]}), bank)


OTHER_PRIORS = {"flat-w0waCDM": {"supernovae.cosmology": "flat-w0waCDM"}, "narrow": {"prior.Om0": {"uniform": [0.25, 0.35]}}}


@pytest.mark.parametrize("prior", OTHER_PRIORS)
def test_surveys_of_one_size_are_exposed_for_the_same_time_in_every_prior(bank, config, prior):
    """Priors that show more or fewer hosts; the sample of those they show would give another time."""
    faint, other = bank._replace(magnitude=bank.magnitude + 2), config.updated(**OTHER_PRIORS[prior])  # some hosts are then out of reach

    def ln_years(chosen):
        return float(prepare(chosen, faint).ln_total - build_simulator(chosen, faint).ln_total)

    shown = build_simulator(other, faint)
    assert len(shown.table) != len(build_simulator(config, faint).table)
    assert ln_years(other) == pytest.approx(ln_years(config), abs=1e-5)
    own = np.log(EXPECTED / float(expected_count(_theta(), shown, other)))
    assert own != pytest.approx(ln_years(config), abs=5e-4)


BY_AREA = {"size.expected_supernovae": "none", "size.area_deg2": 10.0, "size.duration_yr": 1.0}
TABLE = Config().updated(**BY_AREA, **{"hosts.backend": "table", "hosts.table_file": "hosts.fits"})


@pytest.fixture(scope="module")
def whole(bank):
    """Redshifts and masses of the population; a size by area reads nothing else of its hosts."""
    galaxies = jax.device_get(draw_galaxies(jax.random.key(0), 20_000, TABLE.hosts.z_max, "volume"))
    return bank._replace(
        z=galaxies.z, mass_log10_msun=galaxies.mass_log10_msun, keep_probability=np.ones_like(galaxies.z), population=np.asarray(2e4)
    )


def _chosen(table, rows):
    """Some hosts of a table, which stand for as many galaxies as their probabilities say."""
    keep = table.keep_probability[rows]
    columns = {"z": table.z[rows], "mass_log10_msun": table.mass_log10_msun[rows], "keep_probability": keep}
    return table._replace(**columns, population=(1 / keep.astype(float)).sum())


@pytest.mark.parametrize(
    ("name", "low", "high", "says"),
    [
        ("mass_log10_msun", 10.0, 13.0, "0 % in place of 8"),
        ("mass_log10_msun", 8.0, 10.5, "none above log M = 11"),
        ("mass_log10_msun", 8.0, 11.0, "none above log M = 11"),
        ("mass_log10_msun", 8.95, 13.0, "0 % in place of 40 % of them below log M = 8.95"),
        ("z", 0.75, 1.2, "of them below z = 0.75"),
        ("z", 0.5, 1.2, "of them below z = 0.5"),
        ("z", 0.0, 0.5, "100 % in place of 1"),
        ("z", 0.0, 0.7, "100 % in place of 3"),
        ("z", 0.0, 1.1, "100 % in place of 8"),
    ],
)
def test_a_table_that_lacks_a_part_of_the_population_has_no_size_by_area(yearly, whole, name, low, high, says):
    """Its galaxies would be taken for all that a square degree has."""
    values = getattr(whole, name)
    short = _chosen(whole, (values > low) & (values < high))
    others = short._replace(mass_log10_msun=short.mass_log10_msun - 5)  # none that is counted
    with pytest.raises(ValueError, match="got none above log M = 11 and 0 % in place of"):
        sky_rate(TABLE, others)
    for refused in (lambda: with_exposure(yearly, TABLE, short), lambda: sky_rate(TABLE, short)):
        with pytest.raises(ValueError, match=r"size\.area_deg2: expected a host table of the whole population") as caught:
            refused()
        assert says in str(caught.value)


@pytest.mark.parametrize("number", [400, 20_000])
def test_a_table_of_the_population_has_the_exposure_of_its_area_however_its_hosts_were_kept(yearly, whole, number):
    """Galaxies that a square degree has, by those that the table stands for; fainter and nearer ones, which none counts, change nothing."""
    rng = np.random.default_rng(0)
    some = _chosen(whole, rng.permutation(20_000)[:number])
    expected = float(yearly.ln_total) + np.log(10 * galaxies_per_deg2(TABLE.hosts.z_max) / number)
    assert float(with_exposure(yearly, TABLE, some).ln_total) == pytest.approx(expected, abs=1e-5)

    extra = [np.concatenate([getattr(some, name), more]) for name, more in (("z", [0.5, 0.01]), ("mass_log10_msun", [7.0, 9.0]))]
    keep = np.ones(number + 2)
    more = some._replace(z=extra[0], mass_log10_msun=extra[1], keep_probability=keep, population=keep.sum())
    assert float(with_exposure(yearly, TABLE, more).ln_total) == pytest.approx(expected, abs=1e-5)

    probability = (10 ** (0.3 * (some.mass_log10_msun - 10))).clip(0.1, 1)
    kept = _chosen(some._replace(keep_probability=probability), rng.uniform(size=number) < probability)
    error = 5 * float(np.sqrt((1 / probability - 1).sum())) / number
    assert float(with_exposure(yearly, TABLE, kept).ln_total) == pytest.approx(expected, abs=error)


def test_the_sky_has_as_many_supernovae_wherever_the_hosts_end(bank, monkeypatch):
    """The same hosts where supernovae are seen: the bank that ends farther out is drawn from more galaxies, by the density of redshifts."""
    monkeypatch.setattr("simulators.counts._yearly_count", lambda *_: 1.0)
    z = np.linspace(0.02, 1.5, 3001)
    density = np.interp(z, prior_table("redshift_z"), prior_table("redshift_density"))

    def rate(end):
        drawn = bank._replace(population=1e6 * np.trapezoid(density[z <= end], z[z <= end]))
        return sky_rate(Config().updated(**{"selection.z_max": 0.8, "hosts.z_max": end}), drawn)

    assert rate(1.2) == pytest.approx(rate(0.8), rel=1e-3)


def test_area_and_duration_scale_the_population(yearly, bank):
    """Rate of the bank per galaxy it stands for, times the galaxies on the sky patch, times the years."""

    def sized(area, duration):
        size = {
            "size.expected_supernovae": "none",
            "size.area_deg2": area,
            "size.duration_yr": duration,
            "hosts.redshift_density": "volume",
        }
        return float(with_exposure(yearly, Config().updated(**size), bank).ln_total)

    base = sized(10.0, 1.0)
    galaxies = float(galaxies_per_deg2(Config().hosts.z_max))
    per_galaxy = float(yearly.ln_total) - np.log(float(bank.population))
    assert base == pytest.approx(per_galaxy + np.log(10 * galaxies), abs=1e-4)
    assert sized(20.0, 1.0) == pytest.approx(base + np.log(2), abs=1e-4)
    assert sized(10.0, 3.0) == pytest.approx(base + np.log(3), abs=1e-4)
    assert sized(20.0, 1.0) != pytest.approx(base, abs=1e-2)

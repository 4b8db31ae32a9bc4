"""The exact likelihood: against Monte Carlo over every latent, its norm, its score, its hosts."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cigars.config import Config
from cigars.schema import FIDUCIAL, Globals, Observations
from simulators.candidates import Matches, candidates
from simulators.counts import expected_count
from simulators.likelihood import (
    _interpolated,
    _light_table,
    _ln_over_dust,
    _quadratic,
    _tabulated,
    draw_hosts,
    host_probabilities,
    ln_likelihood,
    ln_rates,
)
from simulators.sps.attenuation import diffuse_curve
from simulators.survey import draw_surveys, prepare
from tests.simulators import banks

HOSTS, OBJECTS = 300, 1000
HOST_SIGMA = 0.6  # vague photometry: several hosts share an object
NEAR = FIDUCIAL._replace(
    Om0=0.34, Ode0=0.66, dtd_logA=-12.05, dtd_slope=-1.25, M0=-19.47, sigma_int=0.11, alpha=-0.16, beta=2.3, alpha_c=0.01,
    mass_step=-0.02, gamma_Z=-0.15, gamma_age=-0.02,
)  # fmt: skip
VAGUE = {"observation.host_sigma": HOST_SIGMA, "size.expected_supernovae": 150.0, "size.capacity": 512}


def _theta(values: Globals = FIDUCIAL) -> Globals:
    return Globals(*(jnp.float32(v) for v in values))


class World(NamedTuple):
    """A small bank with vague photometry, and objects detected at the fiducial Θ."""

    config: Config
    simulator: object
    observations: Observations
    host: np.ndarray
    matches: Matches


@pytest.fixture(scope="module")
def world(key) -> World:
    config = Config().updated(**VAGUE)
    simulator = prepare(config, banks.synthetic_bank(HOSTS))
    surveys = jax.device_get(draw_surveys(key, jnp.arange(16), simulator, config, FIDUCIAL))
    pick = lambda leaf: leaf[surveys.observed][:OBJECTS]  # noqa: E731
    observations = Observations(*map(pick, surveys.observations))
    return World(config, simulator, observations, pick(surveys.host), candidates(observations, simulator, config))


@pytest.fixture(scope="module")
def few(world) -> Observations:
    return Observations(*(leaf[:40] for leaf in world.observations))


@pytest.fixture(scope="module")
def few_matches(world, few) -> Matches:
    return candidates(few, world.simulator, world.config)


# One host, every latent by Monte Carlo

CASES = {
    "default": ({}, FIDUCIAL),
    "correlated, informative variances, efficiency": (
        {
            "observation.sn_correlation": (0.5, 0.4, 0.3),
            "observation.sn_x": {"offset": -1.0, "slope": 0.8, "scatter": 0.75, "floor": 0.1},
            "observation.sn_c": {"offset": -5.0, "slope": -0.5, "scatter": 0.7},
            "selection.host_efficiency": ("r", 19.0, 0.9),
            "observation.missing_probability": 0.2,
        },
        NEAR._replace(gamma_age=-0.09, mass_step=0.1),
    ),
    "dust of the host": ({"supernovae.dust": "host"}, NEAR),
}
DRAWS = 500_000


def _latents(bank, theta: Globals, config: Config, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """True m, x, c of supernovae in the only host of a bank, by numpy."""
    rate = banks.rates(bank, theta.dtd_slope)[0]
    age_bin = rng.choice(5, DRAWS, p=rate / rate.sum())
    edges = banks.age_edges_gyr(bank.z)[0]
    age = rng.uniform(edges[age_bin], edges[age_bin + 1])
    step = theta.mass_step * (bank.mass_log10_msun[0] > theta.mass_step_loc)
    x = rng.normal(size=DRAWS)
    c = rng.normal(theta.alpha_c * x, 0.1)
    if config.supernovae.dust == "host":
        blue, visual = np.asarray(diffuse_curve(np.array([4450.0, 5510.0]), jnp.asarray(bank.dust_index)), float)[0]
        r_v, a_v = visual / (blue - visual), 2.5 / math.log(10) * bank.dust_tau2[0] * visual
    else:
        r_v = stats.truncnorm.rvs((1.2 - 3) / 0.5, np.inf, 3, 0.5, DRAWS, random_state=rng)
        a_v = rng.exponential(0.1, DRAWS)
    absolute = theta.M0 + theta.gamma_Z * bank.metallicity_log10_zsun[0] + theta.gamma_age * age + step + theta.alpha * x + theta.beta * c
    modulus = banks.transverse_modulus(theta, bank.z)[0] + 5 * np.log10(1 + float(bank.z[0]))
    return {"m": rng.normal(absolute, theta.sigma_int) + a_v * (1 + 1 / r_v) + modulus, "x": x, "c": c + a_v / r_v}


def _observe(true: dict, bank, theta: Globals, config: Config, rng: np.random.Generator, number: int = 4) -> Observations:
    """The first latents with broad errors, so that Monte Carlo over the others resolves them."""
    var = np.exp([rng.normal(math.log(v), 0.3, number) for v in (0.02, 0.3, 0.01)])
    rho = config.observation.sn_correlation
    cov = [r * np.sqrt(var[i] * var[j]) for r, (i, j) in zip(rho, ((0, 1), (0, 2), (1, 2)), strict=True)]
    m, x, c = (true[k][:number] + np.sqrt(v) * rng.normal(size=number) for k, v in zip("mxc", var, strict=True))
    mag = bank.magnitude[0] + banks.transverse_modulus(theta, bank.z)[0] + HOST_SIGMA * rng.normal(size=(number, 6))
    mag[:2, 1] = np.nan
    z_spec = np.where(np.arange(number) % 2, np.nan, bank.z[0] + 0.001)
    return Observations(mag, np.where(np.isnan(mag), np.nan, HOST_SIGMA), m, x, c, *var, *cov, z_spec, np.full(number, 2e-3))


def _by_monte_carlo(o: Observations, true: dict, bank, theta: Globals, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """ln λ for an exposure of a year, and its standard error."""
    modulus = banks.transverse_modulus(theta, bank.z)[0]
    z, template = float(bank.z[0]), bank.magnitude[0] + modulus
    ln_rate = math.log(10) * theta.dtd_logA + np.log(banks.rates(bank, theta.dtd_slope).sum() / bank.keep_probability[0])
    detected = stats.norm.logcdf((np.polyval(config.selection.m50[::-1], z) - o.m) / np.exp(np.polyval(config.selection.ln_width[::-1], z)))
    enters = 0.0
    if config.selection.host_efficiency:
        enters = stats.norm.logcdf((config.selection.host_efficiency[1] - template[2]) / config.selection.host_efficiency[2])
    photometry = np.nansum(stats.norm.logpdf(o.mag, template, HOST_SIGMA), 1)
    spectrum = np.nan_to_num(stats.norm.logpdf(o.z_spec, z, o.z_spec_err))
    light = np.empty((2, len(o.m)))
    for i in range(len(o.m)):
        covariance = np.array([[o.var_m[i], o.cov_mx[i], o.cov_mc[i]], [0, o.var_x[i], o.cov_xc[i]], [0, 0, o.var_c[i]]])
        covariance = covariance + np.triu(covariance, 1).T
        residual = np.stack([o.m[i] - true["m"], o.x[i] - true["x"], o.c[i] - true["c"]], -1)
        density = stats.multivariate_normal(np.zeros(3), covariance).pdf(residual)
        for name in "mxc":
            model = getattr(config.observation, f"sn_{name}")
            if model.slope:
                mean = model.offset + model.slope * (true["m"] - model.pivot)
                density *= stats.norm.pdf(np.log(getattr(o, f"var_{name}")[i] - model.floor**2), mean, model.scatter)
        light[:, i] = np.log(density.mean()), density.std() / density.mean() / math.sqrt(DRAWS)
    return ln_rate + detected + enters + photometry + spectrum + light[0], light[1]


@pytest.mark.parametrize("case", [c if c == "default" else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_density_of_one_host_is_the_mean_over_its_latents(case):
    changes, theta = CASES[case]
    config, rng = Config().updated(**VAGUE, **changes), np.random.default_rng(1)
    bank = banks.synthetic_bank(50)
    row = int(np.argmin(np.abs(bank.z - 0.35) + np.abs(bank.mass_log10_msun - 10.6)))
    bank = bank._replace(**{k: getattr(bank, k)[row : row + 1] for k in bank._fields[:-1]})
    true = _latents(bank, theta, config, rng)
    o = _observe(true, bank, theta, config, rng)
    expected, error = _by_monte_carlo(o, true, bank, theta, config)
    simulator = prepare(config, bank)
    years = float(simulator.ln_total) - np.log(banks.rates(bank, -1.34).sum() / bank.keep_probability[0])
    matches = candidates(o, simulator, config, grey=(-5.0, 5.0))
    found = np.asarray(ln_rates(_theta(theta), matches, config)) - years
    # five standard errors of the Monte Carlo, and 5e-4 for distances good to 1e-5 and float32
    tolerance = 5 * error + 5e-4
    assert np.all(error < 1e-2)
    assert np.all(np.abs(found - expected) < tolerance)
    for wrong in ({"beta": theta.beta + 0.3}, {"sigma_int": theta.sigma_int + 0.06}, {"gamma_age": theta.gamma_age + 0.04}):
        assert np.any(np.abs(np.asarray(ln_rates(_theta(theta._replace(**wrong)), matches, config)) - years - expected) > tolerance)


def test_a_table_of_the_light_is_the_light_and_its_slope(world, few_matches):
    """Within the Gaussian, in the tail behind dust and beyond the table."""
    rng = np.random.default_rng(2)
    direct, looked_up = jax.jit(_ln_over_dust), jax.jit(_interpolated)
    slope = jax.jit(lambda forms, x: jax.grad(lambda x: _ln_over_dust(forms, x).sum())(x))
    slope_of_table = jax.jit(lambda table, i, x: jax.grad(lambda x: _interpolated(table, i, x).sum())(x))
    for theta in (NEAR, NEAR._replace(sigma_int=0.02)):
        forms = _quadratic(_theta(theta), few_matches, world.config)
        table = _light_table(forms)
        for i in range(0, 40, 8):
            one = jax.tree.map(lambda leaf, i=i: leaf[i], forms)
            offset = jnp.asarray(np.concatenate([rng.uniform(-2, 2, 200), rng.uniform(-0.3, 0.3, 200)]), jnp.float32)
            expected, found = np.asarray(direct(one, offset)), looked_up(table, i, offset)
            # 1e-3 of a probability where that matters, 1e-4 of a logarithm that float32 subtracts elsewhere
            np.testing.assert_allclose(found, expected, atol=1e-3, rtol=1e-4)
            width = float(jax.lax.rsqrt(one.hh))
            np.testing.assert_allclose(slope_of_table(table, i, offset), slope(one, offset), atol=0.02 / width, rtol=0.01)
            assert np.abs(np.asarray(looked_up(table, i, offset + 0.1 * width)) - expected).max() > 1e-2
            far = jnp.asarray(np.tile([-256.0, 128.0], 200) * width, jnp.float32)
            assert np.isfinite(looked_up(table, i, far)).all()
            assert (np.asarray(slope_of_table(table, i, far)) * np.tile([1, -1], 200) > 0).all()  # back to the table


def test_many_pairs_are_looked_up_and_few_are_not(world, few, few_matches):
    many = candidates(few, world.simulator, world.config, sigmas=1e3, grey=(-30.0, 30.0))
    assert _tabulated(many, world.config)
    assert not _tabulated(many, world.config.updated(**{"supernovae.dust": "host"}))  # every host has its own
    assert not _tabulated(candidates(few, world.simulator, world.config, sigmas=0.5), world.config)


# The law of detected objects


@pytest.mark.slow  # a minute of compilation and many objects
def test_the_density_of_detected_objects_integrates_to_the_expected_count(world):
    """E[λ₂/Λ₂ ÷ λ₁/Λ₁] = 1 over objects detected at Θ₁: the mean of an importance weight."""
    one, two = (np.asarray(ln_rates(_theta(t), world.matches, world.config), float) for t in (FIDUCIAL, NEAR))
    counts = [float(expected_count(_theta(t), world.simulator, world.config)) for t in (FIDUCIAL, NEAR)]
    ratio = np.exp(two - one)
    error = ratio.std() / len(ratio) ** 0.5
    assert error < 0.03 * ratio.mean()
    assert abs(ratio.mean() - counts[1] / counts[0]) < 5 * error
    assert abs(ratio.mean() - 1) > 5 * error  # without the norm
    faint = ratio * np.exp(0.3 * (world.observations.m - world.observations.m.mean()))  # without a part of the selection
    assert abs(faint.mean() - counts[1] / counts[0]) > 5 * error


@pytest.mark.slow  # a minute of compilation and many objects
def test_the_mean_score_is_that_of_the_count_at_the_truth_and_only_there(world):
    names = ("Om0", "M0", "sigma_int", "alpha", "beta", "alpha_c", "gamma_Z", "gamma_age", "mass_step", "dtd_slope")
    some = Observations(*(leaf[:400] for leaf in world.observations))
    matches = candidates(some, world.simulator, world.config)
    rates = lambda theta: ln_rates(theta, matches, world.config)  # noqa: E731
    slope = jax.jit(lambda theta, direction: jax.jvp(rates, (theta,), (direction,))[1])
    total = jax.jit(jax.grad(lambda theta: jnp.log(expected_count(theta, world.simulator, world.config))))

    def pull(at: Globals) -> float:
        theta, zero, count = _theta(at), _theta(Globals(*[0.0] * len(at))), total(_theta(at))
        largest = 0.0
        for name in names:
            scores = np.asarray(slope(theta, zero._replace(**{name: jnp.float32(1)})), float)
            largest = max(largest, abs(scores.mean() - float(getattr(count, name))) / (scores.std() / len(scores) ** 0.5))
        return largest

    assert pull(FIDUCIAL) < 5
    assert pull(FIDUCIAL._replace(M0=-19.42)) > 5
    assert pull(FIDUCIAL._replace(beta=1.3)) > 5


@pytest.mark.slow  # a minute of compilation and many objects
def test_gradients_equal_finite_differences(world, few_matches):
    value = lambda theta: ln_likelihood(theta, few_matches, world.simulator, world.config, sample=1 << 10)  # noqa: E731
    gradient = jax.jit(jax.grad(value))(_theta(NEAR))
    for name in ("Om0", "dtd_slope", "sigma_int", "alpha", "beta", "alpha_c", "gamma_Z", "gamma_age", "mass_step_loc"):
        h = {"sigma_int": 0.003, "gamma_age": 0.002}.get(name, 0.01)  # ages are up to 10 Gyr
        at = [float(value(_theta(NEAR._replace(**{name: getattr(NEAR, name) + k * h})))) for k in (-2, -1, 1, 2)]
        difference = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)
        # float32 leaves 1e-4 in ln L, and over the step 0.05; 2 % for the fourth order
        assert float(getattr(gradient, name)) == pytest.approx(difference, rel=0.02, abs=0.1), name


@pytest.mark.slow  # compiles for long
def test_exposure_scales_the_rate_of_the_process(world, few_matches):
    one, two = (float(ln_likelihood(_theta(), few_matches, world.simulator, world.config, e, sample=1 << 10)) for e in (1.0, 2.0))
    expected = float(expected_count(_theta(), world.simulator, world.config, 1 << 10))
    assert two - one == pytest.approx(40 * math.log(2) - expected, abs=1e-2)
    assert float(ln_rates(_theta(), few_matches, world.config).sum()) - expected == pytest.approx(one, abs=1e-2)


# Hosts


def test_hosts_that_are_no_candidates_make_no_difference(world, few, few_matches):
    near = few_matches
    every = candidates(few, world.simulator, world.config, sigmas=1e3, grey=(-30.0, 30.0))
    assert every.place.shape[1] > 1.5 * (np.asarray(near.place) >= 0).sum(1).mean()
    for theta in (FIDUCIAL, NEAR, FIDUCIAL._replace(Om0=0.8, Ode0=0.1)):
        full = np.asarray(ln_rates(_theta(theta), every, world.config))
        np.testing.assert_allclose(ln_rates(_theta(theta), near, world.config), full, atol=1e-4)
    narrow = candidates(few, world.simulator, world.config, sigmas=1.5)
    assert np.abs(np.asarray(ln_rates(_theta(), narrow, world.config)) - np.asarray(ln_rates(_theta(), every, world.config))).max() > 1e-2


def _calibration(world: World, matches: Matches, theta: Globals = FIDUCIAL) -> tuple[float, float]:
    """p of uniform ranks P(z < true z | d), ties broken at random; and E[p(true host) − Σ p²], 0, in standard errors."""
    probability = np.asarray(host_probabilities(_theta(theta), matches, world.config), float)
    table, row = np.asarray(world.simulator.table), np.asarray(matches.row)
    z, true = table[row, 0], table[world.host, 0][:, None]
    below, equal = (np.sum(probability * mask, 1) for mask in (z < true, z == true))
    rank = below + np.random.default_rng(0).random(len(true)) * equal
    excess = equal - (probability**2).sum(1)
    return float(stats.kstest(rank, "uniform").pvalue), float(excess.mean() / (excess.std() / len(excess) ** 0.5))


@pytest.mark.slow  # a minute of compilation and many objects
def test_posteriors_of_hosts_are_calibrated(world):
    probability = np.asarray(host_probabilities(_theta(), world.matches, world.config))
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-5)
    assert not probability[np.asarray(world.matches.place) < 0].any()
    assert np.median(probability.max(1)) < 0.9  # several hosts share an object
    p, excess = _calibration(world, world.matches)
    assert p > 0.01
    assert abs(excess) < 5
    assert _calibration(world, world.matches, FIDUCIAL._replace(M0=-19.9))[0] < 1e-4
    for factor in (2.0, 0.5):  # posteriors too wide and too narrow
        wrong = candidates(world.observations._replace(mag_err=factor * world.observations.mag_err), world.simulator, world.config)
        assert np.sign(factor - 1) * _calibration(world, wrong)[1] > 5


@pytest.mark.slow  # compiles for long
def test_drawn_hosts_follow_their_probabilities(world, few_matches, key):
    probability = np.asarray(host_probabilities(_theta(), few_matches, world.config), float)
    drawn = np.asarray(jax.vmap(lambda k: draw_hosts(k, _theta(), few_matches, world.config))(jax.random.split(key, 2000)))
    for i in range(5):
        likely = probability[i] > 0.005
        counts = (drawn[:, i, None] == np.asarray(few_matches.row)[i][likely]).sum(0)
        expected = 2000 * probability[i][likely]
        assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
    assert np.isin(drawn, np.asarray(few_matches.row)).all()


@pytest.mark.slow  # compiles for long
def test_a_spectroscopic_redshift_leaves_hosts_near_it(world, few, few_matches):
    z = np.asarray(world.simulator.table)[:, 0]
    known = few._replace(z_spec=z[world.host[:40]], z_spec_err=np.full(40, 1e-2, np.float32))
    matches = candidates(known, world.simulator, world.config)
    inside = np.where(np.asarray(matches.place) >= 0, np.abs(z[np.asarray(matches.row)] - known.z_spec[:, None]), 0)
    assert inside.max() < 0.075  # six errors beside the nearest
    assert (np.asarray(matches.place) >= 0).sum() < 0.5 * (np.asarray(few_matches.place) >= 0).sum()


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"supernovae.dust": "local"}, "got 'local'"),
        ({"observation.host_errors": "lsst", "observation.host_sigma": 0.01}, "expected observation.host_errors 'constant', got 'lsst'"),
        ({"observation.sn_m.scatter": 0.0}, "sn_m with scatter > 0"),
    ],
)
def test_variants_without_this_likelihood_are_refused(world, changes, message):
    with pytest.raises(ValueError, match=message):
        candidates(world.observations, world.simulator, world.config.updated(**changes))


def test_data_that_the_model_cannot_make_are_refused(world):
    few = Observations(*(leaf[:3].copy() for leaf in world.observations))
    with pytest.raises(ValueError, match="expected finite m, x, c"):
        candidates(few._replace(x=np.full(3, np.nan)), world.simulator, world.config)
    with pytest.raises(ValueError, match="above its floor"):
        candidates(few, world.simulator, world.config.updated(**{"observation.sn_m.floor": 9.0}))
    with pytest.raises(ValueError, match="object 0: expected a host that can show it"):
        candidates(few._replace(m=np.full(3, 99.0)), world.simulator, world.config)
    with pytest.raises(ValueError, match="at least one object"):
        candidates(Observations(*(leaf[:0] for leaf in few)), world.simulator, world.config)

"""The spectroscopic limit is calibrated on surveys of the prior, by ranks on a grid; and draws of the sampler are those of the grid."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cigars.schema import FIDUCIAL, Globals, Observations
from simulators.candidates import Matches, known_hosts
from simulators.count_surface import ln_expected
from simulators.counts import expected_count
from simulators.likelihood import ln_likelihood, ln_rates
from simulators.spectroscopic import count_surface_around, information, sample_spectroscopic, scores
from simulators.survey import draw_surveys, prepare

SURVEYS, EXPECTED, CAPACITY, SAMPLE = 50, 60.0, 512, 1 << 13
FREE = {"dtd_logA": (-12.45, -11.85), "M0": (-19.8, -19.2), "sigma_int": (0.02, 0.2)}
NODES = {"dtd_logA": 61, "M0": 61, "sigma_int": 13}


@pytest.fixture(scope="module")
def narrow(config):
    """Three free parameters, about 60 supernovae a survey."""
    fixed = {f"prior.{name}": {"fixed": getattr(FIDUCIAL, name)} for name in FIDUCIAL._fields if name not in FREE}
    free = {f"prior.{name}": {"uniform": list(limits)} for name, limits in FREE.items()}
    return config.updated(**fixed, **free, **{"size.expected_supernovae": EXPECTED, "size.capacity": CAPACITY})


@pytest.fixture(scope="module")
def exposed(narrow, bank):
    return prepare(narrow, bank)


@pytest.mark.parametrize("cosmology", ["LCDM", "flat-LCDM", "flat-w0waCDM"])
def test_there_are_points_enough_for_the_terms_of_every_cosmology(cosmology, config, monkeypatch):
    """A flat one has an implied parameter besides the free ones."""
    monkeypatch.setattr("simulators.count_surface.expected_count", lambda *_: 1.0)
    chosen = config.updated(**{"supernovae.cosmology": cosmology})
    surface = count_surface_around(np.eye(len(chosen.marginals)) * 1e4, None, chosen)
    assert float(ln_expected(Globals(*(jnp.float32(v) for v in FIDUCIAL)), surface)) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("cosmology", ["LCDM", "flat-LCDM"])
def test_scores_are_at_a_theta_that_the_configuration_allows(cosmology, config, monkeypatch):
    """What is fixed, or implied by a flat cosmology, is not read from the Θ near which they are taken."""
    monkeypatch.setattr("simulators.spectroscopic.known_hosts", lambda *_: None)
    monkeypatch.setattr("simulators.spectroscopic._slope", lambda theta, *_: (taken.append(theta), np.zeros(1))[1])
    chosen, taken = config.updated(**{"supernovae.cosmology": cosmology, "prior.sigma_int": {"fixed": 0.05}}), []
    scores(None, None, None, chosen, FIDUCIAL._replace(Om0=0.25, M0=-19.4))
    expected = FIDUCIAL._replace(Om0=0.25, Ode0=0.75 if chosen.flat else 0.7, M0=-19.4, sigma_int=0.05)
    np.testing.assert_allclose([float(value) for value in taken[0]], expected, rtol=1e-6)


def padded(matches: Matches, objects: int) -> Matches:
    """The same with objects that have no pair, and without repeated pairs, so that all surveys have one small shape."""
    more, real = objects - len(matches.m), {name: getattr(matches, name)[:objects] for name in ("host", "owner", "ln_fixed", "grey")}
    rows = lambda leaf: jnp.concatenate([leaf, jnp.broadcast_to(leaf[:1], (more, *leaf.shape[1:]))])  # noqa: E731
    hosts = jnp.concatenate([matches.hosts, jnp.broadcast_to(matches.hosts[:1], (objects - len(matches.hosts), matches.hosts.shape[1]))])
    none = jnp.full((more, 1), -1, jnp.int32)
    return Matches(
        **{name: rows(getattr(matches, name)) for name in ("m", "light", "noise", "precision", "row")},
        **real,
        hosts=hosts,
        place=jnp.concatenate([matches.place, none]),
    )


def spectra(surveys, k: int, simulator, config) -> Matches:
    seen = surveys.observed[k]
    observations = Observations(*(leaf[k][seen] for leaf in surveys.observations))
    return known_hosts(observations, surveys.host[k][seen], simulator, config)


def at(values) -> Globals:
    """Θ at values of M_0 and σ_0."""
    free = dict(zip(("M0", "sigma_int"), values, strict=True))
    return Globals(*(jnp.asarray(free.get(name, value), jnp.float32) for name, value in FIDUCIAL._asdict().items()))


@pytest.mark.slow  # compiles for long
def test_the_information_is_the_curvature_of_ln_l(key, narrow, exposed):
    config = narrow.updated(**{"prior.sigma_int": {"fixed": 0.1}, "prior.dtd_logA": {"normal": [-12.15, 0.1]}})
    surveys = jax.device_get(draw_surveys(key, jnp.arange(8), exposed, config, FIDUCIAL))
    pool = Observations(*(leaf[surveys.observed] for leaf in surveys.observations))
    found = information(pool, surveys.host[surveys.observed], exposed, config)
    number = int(surveys.number.sum())
    assert found[0, 0] == pytest.approx(number * math.log(10) ** 2 + 100, rel=1e-4)  # the amplitude's score is ln 10 an object
    matches = known_hosts(pool, surveys.host[surveys.observed], exposed, config)
    value = lambda m0: float(ln_likelihood(at([m0, 0.1]), matches, exposed, config, 8.0, SAMPLE))  # noqa: E731
    curvature = -(value(-19.46) - 2 * value(-19.5) + value(-19.54)) / 0.04**2
    # five standard errors of two sums over the objects, each of terms whose squares are about 3 times their mean squared
    error = 5 * math.sqrt(2 * 3 / number)
    assert found[1, 1] == pytest.approx(curvature, rel=error)
    assert error < 0.6
    assert found[1, 1] != pytest.approx(curvature / 4, rel=error)  # widths off by two
    single = scores(pool, surveys.host[surveys.observed], exposed, config)
    difference = (ln_rates(at([-19.49, 0.1]), matches, config) - ln_rates(at([-19.51, 0.1]), matches, config)) / 0.02
    assert single.shape == (number, 2)
    # float32 of ln λ of order 100, and steps of a tenth of the scatter
    np.testing.assert_allclose(single[:, 1], difference, rtol=0.02, atol=0.02 * single[:, 1].std())


@pytest.mark.slow  # compiles for long
def test_an_object_without_a_pair_is_padding(key, narrow, exposed):
    surveys = jax.device_get(draw_surveys(key, jnp.arange(1), exposed, narrow, FIDUCIAL))
    plain = spectra(surveys, 0, exposed, narrow)
    more = padded(plain, len(plain.m) + 5)
    value = jax.value_and_grad(lambda m0, matches: ln_likelihood(at([m0, 0.1]), matches, exposed, narrow, 2.0, 1 << 9))
    (one, slope), (two, again) = value(jnp.float32(-19.5), plain), value(jnp.float32(-19.5), more)
    assert float(one) == pytest.approx(float(two), rel=1e-6)
    assert float(slope) == pytest.approx(float(again), rel=1e-5)
    assert np.all(np.asarray(ln_rates(at([-19.5, 0.1]), more, narrow))[len(plain.m) :] == 0)


def test_hosts_that_do_not_fit_are_refused(key, narrow, exposed):
    surveys = jax.device_get(draw_surveys(key, jnp.arange(1), exposed, narrow, FIDUCIAL))
    seen = surveys.observed[0]
    observations = Observations(*(leaf[0][seen] for leaf in surveys.observations))
    with pytest.raises(ValueError, match="known hosts: expected a row below"):
        known_hosts(observations, np.full(int(seen.sum()), 10**7), exposed, narrow)
    with pytest.raises(ValueError, match="known hosts: expected a row below"):
        known_hosts(observations, surveys.host[0][seen][:3], exposed, narrow)
    far = surveys.host[0][seen] * 0 + int(np.argmax(np.asarray(exposed.table)[:, 0]))
    with pytest.raises(ValueError, match="expected objects that can be detected"):
        known_hosts(observations, far, exposed, narrow.updated(**{"selection.z_max": 0.3}))


@pytest.fixture(scope="module")
def surface(narrow, exposed):
    """Fitted to a small sample, which it shall repeat where it was not fitted, but for the roughness of that sample."""
    information = np.diag(np.array([0.1, 0.08, 0.03]) ** -2.0)
    return count_surface_around(information, exposed, narrow, points=60, sample=SAMPLE)


@pytest.mark.slow  # compiles for long
def test_the_expected_count_is_a_smooth_surface(narrow, exposed, surface):
    for free in ({"M0": -19.42, "sigma_int": 0.13}, {"M0": -19.58, "sigma_int": 0.07, "dtd_logA": -12.1}):
        theta = FIDUCIAL._replace(**free)
        exact = math.log(float(expected_count(theta, exposed, narrow, SAMPLE)))
        assert float(ln_expected(theta, surface)) == pytest.approx(exact, abs=5 * surface.error)
    assert 0 < surface.error < 2e-3
    far = float(ln_expected(FIDUCIAL._replace(dtd_logA=FIDUCIAL.dtd_logA + 0.7), surface) - ln_expected(FIDUCIAL, surface))
    assert far == pytest.approx(0.7 * math.log(10), rel=0.02)  # in log A it is linear, also where no point is
    moved = math.log(float(expected_count(FIDUCIAL._replace(M0=-19.42), exposed, narrow, SAMPLE)))
    assert abs(moved - float(ln_expected(FIDUCIAL, surface))) > 5 * surface.error  # it does move with M_0
    with pytest.raises(ValueError, match="expected at least 22 points for 11 terms"):
        count_surface_around(np.eye(3), exposed, narrow, points=12, sample=SAMPLE)


class Ranks:
    """Where the truth lies in each marginal of posteriors on a grid."""

    def __init__(self, ln_p: np.ndarray, nodes: dict[str, np.ndarray], truth: np.ndarray) -> None:
        p = np.exp(ln_p - ln_p.max(1, keepdims=True)).reshape(len(ln_p), *(len(v) for v in nodes.values()))
        self.rank, self.pull = np.empty(truth.shape), np.empty(truth.shape)
        for k, values in enumerate(nodes.values()):
            marginal = p.sum(tuple(a for a in range(1, p.ndim) if a != k + 1))
            marginal = marginal / marginal.sum(1, keepdims=True)
            edges = np.concatenate([values - (values[1] - values[0]) / 2, values[-1:] + (values[1] - values[0]) / 2])
            cumulative = np.concatenate([np.zeros((len(p), 1)), np.cumsum(marginal, 1)], 1)
            self.rank[:, k] = [np.interp(t, edges, row) for t, row in zip(truth[:, k], cumulative, strict=True)]
            mean = marginal @ values
            self.pull[:, k] = (truth[:, k] - mean) / np.sqrt((marginal * (values - mean[:, None]) ** 2).sum(1))

    def p_values(self) -> list[float]:
        return [float(stats.kstest(rank, "uniform").pvalue) for rank in self.rank.T]


@pytest.mark.slow  # a minute or more: 800 Θ for 50 surveys
def test_it_is_calibrated_on_surveys_of_the_prior_and_wrong_ones_are_rejected(key, narrow, exposed):
    surveys = jax.device_get(draw_surveys(key, jnp.arange(SURVEYS), exposed, narrow))
    truth = np.stack([np.asarray(getattr(surveys.theta, name)) for name in FREE], -1).astype(float)
    most = int(surveys.number.max())
    nodes = {
        name: low + (high - low) * (np.arange(n) + 0.5) / n for (name, (low, high)), n in zip(FREE.items(), NODES.values(), strict=True)
    }
    grid = jnp.asarray(list(itertools.product(nodes["M0"], nodes["sigma_int"])), jnp.float32)
    every = [padded(spectra(surveys, k, exposed, narrow), most) for k in range(SURVEYS)]
    total = jax.jit(lambda grid: jax.lax.map(lambda v: expected_count(at(v), exposed, narrow, SAMPLE), grid))(grid)
    over = jax.jit(lambda m, grid: jax.lax.map(lambda v: ln_rates(at(v), m, narrow).sum(), grid))
    rates = np.stack([np.asarray(over(matches, grid), float) for matches in every])
    above = math.log(10) * (nodes["dtd_logA"] - FIDUCIAL.dtd_logA)[:, None]  # rates and counts are proportional to the amplitude
    rates = (rates[:, None] + surveys.number[:, None, None] * above).reshape(SURVEYS, -1)
    expected = (np.exp(above) * np.asarray(total, float)).ravel()
    right = Ranks(rates - expected, nodes, truth)
    assert min(right.p_values()) > 0.01 / len(FREE), right.p_values()
    # standard errors of a mean and a variance of pulls
    assert np.abs(right.pull.mean(0)).max() < 4 / math.sqrt(SURVEYS)
    assert np.abs(right.pull.var(0) - 1).max() < 4 * math.sqrt(2 / SURVEYS)
    without_selection = Ranks(rates - expected.mean(), nodes, truth)
    assert min(without_selection.p_values()) < 1e-4
    doubled = Ranks(rates - expected, nodes, truth * [1, 1, 0.5])  # a posterior of twice the scatter
    assert min(doubled.p_values()) < 1e-4


@pytest.mark.slow  # the sampler compiles for a minute
def test_draws_are_those_of_the_likelihood_on_a_grid(key, narrow, exposed, surface):
    config = narrow.updated(**{"prior.dtd_logA": {"fixed": -12.15}, "prior.sigma_int": {"fixed": 0.1}})
    surveys = jax.device_get(draw_surveys(key, jnp.arange(1), exposed, config, FIDUCIAL))
    seen = surveys.observed[0]
    observations, hosts = Observations(*(leaf[0][seen] for leaf in surveys.observations)), surveys.host[0][seen]
    found = sample_spectroscopic(observations, hosts, exposed, config, draws=200, warmup=150, surface=surface)
    assert found.divergences == 0
    assert found.r_hat.max() < 1.05
    np.testing.assert_array_equal(found.hosts, np.broadcast_to(hosts, found.hosts.shape))
    m0 = np.linspace(-19.8, -19.2, 201)
    matches = known_hosts(observations, hosts, exposed, config)
    value = jax.jit(lambda v: ln_likelihood(at([v, 0.1]), matches, exposed, config, 1.0, SAMPLE, surface))
    ln_p = np.array([float(value(jnp.float32(v))) for v in m0])
    p = np.exp(ln_p - ln_p.max())
    p /= p.sum()
    mean, sd = p @ m0, math.sqrt(p @ (m0 - p @ m0) ** 2)
    drawn = found.theta[..., 0].ravel()
    assert abs(drawn.mean() - mean) < 5 * sd / math.sqrt(found.n_eff[0])
    assert abs(drawn.std() / sd - 1) < 5 / math.sqrt(2 * found.n_eff[0])
    assert not abs(drawn.mean() + sd - mean) < 5 * sd / math.sqrt(found.n_eff[0])

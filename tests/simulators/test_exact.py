"""The exact posterior: against its own likelihood on a grid, hosts included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cigars.config import Config
from cigars.schema import FIDUCIAL, Globals, Observations
from simulators.candidates import candidates
from simulators.exact import ExactPosterior, _from_pilot, _start, sample_exact
from simulators.likelihood import host_probabilities, ln_likelihood
from simulators.priors import log_prior
from simulators.survey import draw_surveys, prepare
from tests.simulators import banks

OBJECTS, SAMPLE = 20, 1 << 9
FREE = {"M0": {"uniform": [-20.0, -19.0]}, "beta": {"normal": [2.5, 0.8], "within": [0.0, 4.0]}}


@pytest.fixture(scope="module")
def setting(key):
    fixed = {f"prior.{name}": {"fixed": getattr(FIDUCIAL, name)} for name in FIDUCIAL._fields if name not in FREE}
    free = {f"prior.{name}": prior for name, prior in FREE.items()}
    config = Config().updated(**fixed, **free, **{"observation.host_sigma": 0.6, "size.expected_supernovae": OBJECTS, "size.capacity": 64})
    simulator = prepare(config, banks.synthetic_bank(80))
    survey = jax.device_get(draw_surveys(key, jnp.arange(1), simulator, config, FIDUCIAL))
    observations = Observations(*(leaf[survey.observed] for leaf in survey.observations))
    return config, simulator, candidates(observations, simulator, config)


@pytest.fixture(scope="module")
def posterior(setting):
    config, simulator, matches = setting
    return sample_exact(matches, simulator, config, draws=300, warmup=200, chains=2, seed=3, sample=SAMPLE)


@pytest.fixture(scope="module")
def grid(setting):
    """Nodes of (M0, beta) [node, 2] and the posterior probability of each."""
    config, simulator, matches = setting
    axes = np.linspace(-19.8, -19.2, 31), np.linspace(0.3, 3.9, 31)
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)

    def density(node):
        theta = _theta(node)
        return ln_likelihood(theta, matches, simulator, config, sample=SAMPLE) + log_prior(theta, config.marginals)

    ln_p = np.asarray(jax.jit(lambda nodes: jax.lax.map(density, nodes))(jnp.asarray(nodes)), float)
    probability = np.exp(ln_p - ln_p.max())
    return nodes.astype(float), probability / probability.sum()


def _theta(node) -> Globals:
    values = FIDUCIAL._asdict() | {"M0": node[0], "beta": node[1]}
    return Globals(**{name: jnp.asarray(value, jnp.float32) for name, value in values.items()})


def _pulls(theta: np.ndarray, n_eff: np.ndarray, nodes: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Differences of means, of variances and of the cross moment from the grid's, in standard errors."""
    mean = probability @ nodes
    spread = nodes - mean
    around = theta.reshape(-1, 2) - mean
    moments = lambda d: np.stack([d[:, 0], d[:, 1], d[:, 0] ** 2, d[:, 1] ** 2, d[:, 0] * d[:, 1]], -1)  # noqa: E731
    found, expected = moments(around), probability @ moments(spread)
    return (found.mean(0) - expected) / (found.std(0) / np.sqrt(n_eff.min()))


@pytest.mark.slow  # the sampler compiles for a minute
def test_draws_agree_with_a_grid(posterior, grid):
    nodes, probability = grid
    assert posterior.names == ("M0", "beta")
    assert posterior.theta.shape == (2, 300, 2)
    assert posterior.divergences == 0
    assert posterior.r_hat.max() < 1.05
    assert posterior.n_eff.min() > 100
    assert np.abs(_pulls(posterior.theta, posterior.n_eff, nodes, probability)).max() < 5
    mean, sd = posterior.theta.mean((0, 1)), posterior.theta.std((0, 1))
    for wrong in (posterior.theta + 0.5 * sd, mean + 1.5 * (posterior.theta - mean), mean + 0.6 * (posterior.theta - mean)):
        assert np.abs(_pulls(wrong, posterior.n_eff, nodes, probability)).max() > 5


@pytest.mark.slow
def test_drawn_hosts_have_the_probabilities_of_the_grid(posterior, setting, grid):
    """Each object's likeliest host: how often it is drawn, against its probability averaged over Θ."""
    config, _, matches = setting
    nodes, probability = grid
    heavy = np.argsort(-probability)[:60]
    at = jax.jit(jax.vmap(lambda node: host_probabilities(_theta(node), matches, config)))
    average = np.einsum("n,nic->ic", probability[heavy] / probability[heavy].sum(), np.asarray(at(jnp.asarray(nodes[heavy], jnp.float32))))
    best = average.argmax(1)[:, None]
    expected = np.take_along_axis(average, best, 1)[:, 0]
    share = (posterior.hosts == np.take_along_axis(np.asarray(matches.row), best, 1)[:, 0]).mean(0)
    expected = expected.clip(0, 1)  # float32 sums
    error = np.sqrt(expected * (1 - expected) / posterior.n_eff.min()) + 0.01  # and 0.01 for the tail that the heavy nodes leave out
    assert posterior.hosts.shape == (600, len(expected))
    assert np.all(np.abs(share - expected) < 5 * error)
    assert not np.all(np.abs(share - np.roll(expected, 1)) < 5 * error)


@pytest.mark.slow
def test_chains_start_inside_the_prior(setting):
    config = setting[0]
    start = _start(config.updated(**{"prior.M0": {"uniform": [-19.3, -19.1]}}))
    assert float(start["M0"]) == pytest.approx(-19.2)
    assert float(start["beta"]) == pytest.approx(FIDUCIAL.beta)


def test_a_pilot_with_draws_on_the_edges_of_the_prior_gives_chains_a_begin():
    """Single precision rounds draws to them, and to a step beyond; the sampler's coordinates are logits of a uniform prior."""
    config = Config()
    low, high = np.array([config.reach(name) for name in config.marginals]).T
    edges = np.float32([low, high])
    beyond = np.nextafter(edges, np.float32([[-np.inf], [np.inf]]))
    share = np.random.default_rng(0).uniform(0.1, 0.9, (400, len(low)))
    theta = np.concatenate([(low + (high - low) * share).astype(np.float32), edges, beyond])
    pilot = ExactPosterior(theta[None], tuple(config.marginals), np.ones(len(low)), np.ones(len(low)), 0, np.zeros((0, 0), int))
    begin = _from_pilot(jax.random.key(0), pilot, config, len(theta))
    logit = np.sort(np.log(share / (1 - share)), 0)
    for k, (name, marginal) in enumerate(config.marginals.items()):
        if marginal.kind == "uniform":
            found = np.sort(begin.parameters[name])
            np.testing.assert_allclose(found[2:-2], logit[:, k], atol=1e-3)  # single precision of Θ
            assert 10 < -found[0] < 18 > found[-1] > 10, name  # as near to the edges as single precision resolves
    assert np.linalg.eigvalsh(begin.inverse_mass)[0] > 0


def test_nothing_free_is_refused(setting):
    config, simulator, matches = setting
    fixed = config.updated(**{"prior.M0": {"fixed": -19.5}, "prior.beta": {"fixed": 2.2}})
    with pytest.raises(ValueError, match="at least one free parameter"):
        sample_exact(matches, simulator, fixed)

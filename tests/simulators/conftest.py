"""One small bank, configuration and batch of surveys for all tests of the simulator: each is compiled once a session."""

import jax
import jax.numpy as jnp
import pytest

from cigars.config import Config
from cigars.schema import FIDUCIAL, Globals
from simulators.counts import with_exposure
from simulators.simulator import build_simulator
from simulators.survey import draw_surveys
from tests.simulators.banks import synthetic_bank

SURVEYS = 256
EXPECTED = 150.0


@pytest.fixture(scope="session")
def bank():
    return synthetic_bank()


@pytest.fixture(scope="session")
def config():
    return Config().updated(**{"size.expected_supernovae": EXPECTED, "size.capacity": 640})


@pytest.fixture(scope="session")
def yearly(bank, config):
    """The simulator of one year."""
    return build_simulator(config, bank)


@pytest.fixture(scope="session")
def simulator(yearly, bank, config):
    return with_exposure(yearly, config, bank)


@pytest.fixture(scope="session")
def years(yearly, simulator):
    """Exposure behind the configured size."""
    return float(jnp.exp(simulator.ln_total - yearly.ln_total))


@pytest.fixture(scope="session")
def draw_at(key, simulator, config):
    """Draw batch number `batch` of surveys at given Θ, as numpy arrays."""

    def draw(theta: Globals = FIDUCIAL, batch: int = 0):
        return jax.device_get(draw_surveys(key, jnp.arange(SURVEYS) + batch * SURVEYS, simulator, config, theta))

    return draw


@pytest.fixture(scope="session")
def fiducial_surveys(draw_at):
    return draw_at()


@pytest.fixture(scope="session")
def prior_surveys(key, simulator, config):
    """Surveys of Θ drawn from the prior."""
    return jax.device_get(draw_surveys(key, jnp.arange(SURVEYS), simulator, config))

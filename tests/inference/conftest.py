"""Small surveys and one small trained run that the tests of this package share."""

import numpy as np
import pytest
import torch

from benchmarks.linear_gaussian import MARGINALS, GaussianSurvey, configuration
from cigars.schema import DistanceTable, Observations
from inference.fit import fit


@pytest.fixture(scope="session")
def source():
    """Surveys of about 40 objects with two bands and an analytic posterior."""
    return GaussianSurvey(40)


@pytest.fixture(scope="session")
def distance():
    """Distance modulus of an Einstein-de Sitter universe, h = 0.7."""
    z = np.linspace(0.0, 2.0, 401)
    with np.errstate(divide="ignore"):
        return DistanceTable(z, 5 * np.log10(2 * 299792.458 / 70 * (1 - (1 + z) ** -0.5) * (1 + z)) + 25)


def tiny(**changes):
    """A training of seconds, through every stage."""
    settings = {
        "surveys": 192, "validation_surveys": 32, "calibration_surveys": 20, "objects": 4000, "batch_surveys": 32,
        "flow_epochs": 2, "ensemble": 1, "hide_sn": 0.1, "hide_z_spec": 0.5,
    }  # fmt: skip
    surveys = settings.pop("surveys")
    return configuration(changes.pop("surveys", surveys), changes.pop("encoder", "both"), **(settings | changes))


@pytest.fixture(scope="session")
def run(source, distance, tmp_path_factory):
    """(trained, folder) of a tiny run with two members, physics moments and a learned encoder."""
    folder = tmp_path_factory.mktemp("run")
    trained = fit(source, tiny(ensemble=2), MARGINALS, distance, folder, fingerprint="abc", configuration={"name": "tiny"})
    return trained, folder


def observations(count: int, bands: int = 6, seed: int = 0, **changes) -> Observations:
    """Plausible packed observations, every field present."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    mag = 21 + normal(count, 1) + 0.4 * normal(count, bands)
    zero = torch.zeros(count)
    values = {
        "mag": mag, "mag_err": 0.01 * torch.exp(0.3 * normal(count, bands)),
        "m": 22 + normal(count), "x": normal(count), "c": 0.1 * normal(count),
        "var_m": 0.01 * torch.exp(normal(count)), "var_x": 0.05 * torch.exp(normal(count)), "var_c": 0.001 * torch.exp(normal(count)),
        "cov_mx": zero, "cov_mc": zero, "cov_xc": zero,
        "z_spec": 0.5 + 0.1 * normal(count), "z_spec_err": 5e-4 * torch.exp(0.1 * normal(count)),
    }  # fmt: skip
    return Observations(**(values | changes))

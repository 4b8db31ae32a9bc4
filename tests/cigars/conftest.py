"""The command line as a function, and one tiny run that the tests of this package share."""

import os
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
import torch

from cigars.catalogue import read_catalogue
from cigars.cli import main
from cigars.config import fingerprint
from cigars.devices import processor
from cigars.infer import infer
from inference.batches import Packed, parameters
from inference.posterior import GlobalPosterior

# compiled simulators are kept from one test session to the next, as the commands keep them
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).resolve().parents[2] / ".cache" / "xla" / fingerprint(processor())))

TINY = """
name = "tiny"
extends = "demo"
[hosts]
effective_hosts = 2000
[size]
expected_supernovae = 60
exposure = [0.5, 2.0]
capacity = 1024
[observation]
spectroscopic_fraction = 0.3
[training]
surveys = 64
pilot_surveys = 32
validation_surveys = 16
calibration_surveys = 20
objects = 6000
batch_surveys = 32
flow_epochs = 2
local_epochs = 1
"""

TOLD = 0.1  # error with which surveys tell their Θ, within a factor of 3, in units in which the prior is standard normal


class Said(NamedTuple):
    """What a command left: exit code, standard output and error."""

    code: int
    out: str
    err: str


@pytest.fixture
def cigars(capsys):
    """`cigars("simulate", "demo", ...)` as if typed."""

    def run(*arguments) -> Said:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(cigars):
    """The one line with which a command refuses its input, with exit code 2."""

    def run(*arguments) -> str:
        said = cigars(*arguments)
        assert said.code == 2, said
        lines = [line for line in said.err.splitlines() if line]
        assert lines[-1].startswith("error: "), said
        assert sum(line.startswith("error: ") for line in lines) == 1
        assert "Traceback" not in said.err
        return lines[-1].removeprefix("error: ")

    return run


class Workplace(NamedTuple):
    """Files of the shared run: configuration, run folder, a mock that it was not trained on, and its truth."""

    config: Path
    run: Path
    mock: Path
    truth: Path


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A mock and a trained run, made by the commands; the host bank is cached for the session."""
    folder = tmp_path_factory.mktemp("work")
    os.environ["CIGARS_CACHE"] = str(folder / "cache")
    place = Workplace(folder / "tiny.toml", folder / "run", folder / "mock.fits", folder / "mock-truth.fits")
    place.config.write_text(TINY)
    assert main(["simulate", str(place.config), "-o", str(place.mock), "--device", "cpu"]) == 0
    assert main(["train", str(place.config), "-o", str(place.run), "--device", "cpu"]) == 0
    yield place
    del os.environ["CIGARS_CACHE"]


@pytest.fixture(scope="session")
def catalogue(workplace):
    """The mock of the shared run, read."""
    return read_catalogue(workplace.mock, tuple("ugrizy"))


@pytest.fixture(scope="session")
def posterior(workplace, catalogue):
    """Its joint posterior."""
    return infer(workplace.run, catalogue, draws=40, seed=3, command="a test")


@pytest.fixture
def told(monkeypatch):
    """In place of the networks the exact posterior where every survey tells its own Θ with an error, of an sd of its own."""

    def law(self, survey):
        theta = survey.theta if isinstance(survey, Packed) else parameters(survey.theta, self.names)
        streams = [torch.Generator().manual_seed(zlib.crc32(row.numpy().tobytes())) for row in theta]
        sd = torch.stack([TOLD * 3 ** (2 * torch.rand(1, generator=stream) - 1) for stream in streams])
        error = sd * torch.stack([torch.randn(len(self.names), generator=stream) for stream in streams])
        shrunk = 1 + sd**2
        return torch.distributions.Normal((self.prior.transform.inv(theta) + error) / shrunk, sd / shrunk**0.5)

    def sample(self, draws, survey, seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.prior.transform(law(self, survey).sample((draws,)))

    def log_prob(self, theta, survey):
        eta = self.prior.transform.inv(theta)
        return (law(self, survey).log_prob(eta) - self.prior.transform.log_abs_det_jacobian(eta, theta)).sum(-1)

    monkeypatch.setattr(GlobalPosterior, "sample", sample)
    monkeypatch.setattr(GlobalPosterior, "log_prob", log_prob)

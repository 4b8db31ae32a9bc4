"""The area and time of a survey against the number of supernovae that surveys of that area and time have."""

import re
from pathlib import Path

import numpy as np
import pytest

from cigars.config import load_config
from cigars.schema import FIDUCIAL
from cigars.surveys import area_time, survey_source

SMALL = ("hosts.effective_hosts=2000", "hosts.redshift_density=volume", "size.capacity=1024")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A small one, sized by the number that is expected, with a bank of its own."""
    monkeypatch.setenv("CIGARS_CACHE", str(tmp_path))
    return load_config("demo", [*SMALL, "size.expected_supernovae=60"])


def test_surveys_of_the_area_and_time_of_a_number_have_that_number(config):
    """256 of them have a mean within 5 standard errors of it, and not of a tenth more or less."""
    sizes = ("expected_supernovae=none", f"area_deg2={area_time(config) / 2}", "duration_yr=2")
    number = survey_source(load_config("demo", [*SMALL, *(f"size.{size}" for size in sizes)]), "area", FIDUCIAL)(0, 256).number
    error = 5 * (60 / 256) ** 0.5
    assert [abs(np.mean(number) - expected) < error for expected in (54, 60, 66)] == [False, True, False]


def test_the_command_says_it_of_either_kind_of_size(config, cigars):
    words = [word for setting in (*SMALL, "size.expected_supernovae=60") for word in ("--set", setting)]
    assert cigars("config", "exposure", "demo", *words).out == f"exposure 1 of demo: {area_time(config):.4g} deg² yr\n"
    sizes = ("expected_supernovae=none", "area_deg2=20", "duration_yr=1.5")
    words = [word for size in sizes for word in ("--set", f"size.{size}")]
    assert cigars("config", "exposure", "demo", *words).out == "exposure 1 of demo: 30 deg² yr\n"


@pytest.mark.slow
def test_the_areas_and_times_that_the_readme_states():
    """To the digits that it has, for both densities of hosts."""
    said = re.search(r"is ([\d.]+) deg² yr, by which.* it would be ([\d.]+), ", (ROOT / "README.md").read_text(), re.DOTALL)
    found = [area_time(load_config("lsst", [f"hosts.redshift_density={density}"])) for density in ("tabulated", "volume")]
    assert [f"{value:.1f}" for value in found] == list(said.groups())
    assert load_config("lsst-any").hosts == load_config("lsst").hosts

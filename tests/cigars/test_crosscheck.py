"""The second route's sampler against a Gaussian, its verdicts, and the command on the shared run."""

import json

import numpy as np
import pytest
import torch

from cigars.catalogue import select, write_catalogue
from cigars.config import ConfigError
from cigars.crosscheck import TOLERANCE, Crosscheck, crosscheck, own_errors, write_crosscheck
from cigars.density_chains import sample_density
from cigars.runs import run_config

CENTRE, SD = np.array([0.4, -0.8]), np.array([0.5, 0.2])  # of a likelihood in η
PRECISION = SD**-2 + 1  # with the prior, standard normal
MEAN = CENTRE * SD**-2 / PRECISION


class Gaussian:
    """A likelihood with a known posterior in the place of a trained one."""

    def ln_likelihood(self, standardised, eta, exposure):
        return -0.5 * (((eta - torch.tensor(CENTRE)) / torch.tensor(SD)) ** 2).sum(-1).float() * exposure


def test_draws_are_those_of_the_posterior():
    begin = MEAN + np.random.default_rng(0).normal(size=(500, 2)) / PRECISION**0.5
    eta, (r_hat, n_eff, divergences) = sample_density(Gaussian(), None, 1.0, begin, 400, 50, 2, 0, lambda *_: None)
    assert eta.shape == (400, 2)
    error = 5 / n_eff**0.5
    assert (np.abs((eta.mean(0) - MEAN) * PRECISION**0.5) < error).all()
    assert (np.abs(eta.std(0) * PRECISION**0.5 - 1) < error).all()
    assert (r_hat < 1.05).all()
    assert divergences == 0
    assert not (np.abs((eta.mean(0) - CENTRE) * PRECISION**0.5) < error).all()  # without the prior


def found(between=0.0, width=1.0, shift=0.0, r_hat=1.0, n_eff=900.0, divergences=0, scatter=1.0) -> Crosscheck:
    """Networks `between` sd above a second route of 2000 draws whose own errors move it by `shift` and widen it by `scatter`."""
    second = np.random.default_rng(1).normal(size=(2000, 1))
    second = (second - second.mean()) / second.std(ddof=1)
    return Crosscheck(
        ("Om0",), width * second + between, second, np.array([r_hat]), np.array([n_eff]), divergences, np.array([shift]),
        np.array([0.1]), np.array([scatter]), np.array([0.07]), {"objects": 400},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (found(), "agree"),
        (found(between=0.5), "DISAGREE"),
        (found(width=1.3), "DISAGREE"),
        (found(width=1 / 1.3), "DISAGREE"),
        (found(between=0.5, shift=0.6), "cannot be compared"),
        (found(r_hat=1.3), "cannot be compared, of the second one R̂ is 1.30"),
        (found(r_hat=np.nan), "cannot be compared"),
        (found(between=0.5, n_eff=20.0), "cannot be compared, of the second one its draws are worth 20"),
        (found(between=0.5, divergences=300), "cannot be compared, of the second one 300 of 2000 draws diverged"),
        (found(between=0.5, divergences=3), "DISAGREE"),
        (found(width=1.3, scatter=1.3), "cannot be compared, of the second one its widths are off"),
        (found(width=1.3, scatter=1.1), "DISAGREE"),
        (found(shift=0.2), "agree"),
        (found(shift=np.nan), "cannot be compared, of the second one its own errors reach 0.3 σ at an unknown number of objects"),
        (found(scatter=np.nan), "cannot be compared, of the second one its widths are off"),
        (found(n_eff=np.nan), "cannot be compared"),
        (found(between=np.nan), "DISAGREE"),
        (found(width=np.nan), "DISAGREE"),
    ],
)
def test_verdicts(case, said):
    assert case.verdict.startswith(said)
    assert case.disagree == (said == "DISAGREE")


def test_errors_that_add_up_break_the_route_at_a_number():
    assert found(shift=0.05).breaks_at == np.inf  # within its noise
    excess = 0.6**2 - 0.1**2
    assert found(shift=0.6).breaks_at == pytest.approx(400 * TOLERANCE**2 / excess)


def test_what_is_not_a_number_is_none_in_the_json(tmp_path):
    write_crosscheck(tmp_path / "c.json", found(shift=np.nan, scatter=np.inf))
    content = json.loads((tmp_path / "c.json").read_text(), parse_constant=pytest.fail)
    assert content["breaks_at_objects"] is content["parameters"]["Om0"]["own_shift_sigma"] is None
    assert len(content["doubts"]) == 2


INFORMATION = np.linalg.inv(np.array([[0.25, 0.06], [0.06, 0.04]]))
POSTERIOR = np.linalg.inv(INFORMATION + np.eye(2))  # with the prior


def test_scores_that_are_not_zero_move_a_posterior():
    rng, off = np.random.default_rng(2), np.array([0.3, -0.1])  # of the maximum of the likelihood
    scores = rng.multivariate_normal(off, np.linalg.inv(INFORMATION), 400) @ INFORMATION
    shift, error, scatter, scatter_error = own_errors(scores, POSTERIOR)
    expected = POSTERIOR @ INFORMATION @ off / np.sqrt(np.diag(POSTERIOR))
    assert (np.abs(shift - expected) < 5 * error).all()
    assert error == pytest.approx(np.sqrt((np.diag(POSTERIOR) - np.diag(POSTERIOR @ POSTERIOR)) / np.diag(POSTERIOR) / 400), rel=0.2)
    assert not (np.abs(shift) < 5 * error).all()
    assert (np.abs(scatter - 1) < 5 * scatter_error).all()


@pytest.mark.parametrize("sharper", [1.0, 2.0, 0.5])
def test_scatter_of_scores_tells_wrong_widths(sharper):
    """ln L too steep by a factor: its posterior is too narrow, and estimates scatter by more than it says."""
    rng = np.random.default_rng(3)
    scores = sharper * rng.multivariate_normal(np.zeros(2), INFORMATION, 400)
    covariance = np.linalg.inv(sharper * INFORMATION + np.eye(2))
    found = own_errors(scores, covariance)
    expected = np.sqrt(np.diag(covariance @ (sharper**2 * INFORMATION + np.eye(2)) @ covariance) / np.diag(covariance))
    assert (np.abs(found.scatter - expected) < 5 * found.scatter_error).all()
    assert (np.abs(found.scatter - 1) < 5 * found.scatter_error).all() == (sharper == 1.0)


@pytest.mark.slow  # trains a density
def test_the_command_compares_and_keeps_its_training(workplace, catalogue, cigars, tmp_path):
    out = tmp_path / "crosscheck.json"
    arguments = ["crosscheck", workplace.run, workplace.mock, "-o", out, "--surveys", 64, "--objects", 2000, "--draws", 40, "--warmup", 20]
    said = cigars(*arguments)
    assert said.code in (0, 1), said
    content = json.loads(out.read_text())
    assert set(content["parameters"]["Om0"]) >= {"between_sigma", "width_ratio", "own_shift_sigma", "r_hat"}
    assert content["objects"] == len(catalogue.id)
    (folder,) = (workplace.run / "crosscheck").iterdir()
    kept = [path.name for path in folder.iterdir()]
    assert "density.pt" in kept
    assert "number.pt" in kept
    again = cigars(*arguments, "--overwrite")
    assert json.loads(out.read_text())["parameters"] == content["parameters"], again
    assert "exists" in cigars(*arguments).err


def test_a_catalogue_that_lacks_a_band_is_refused(workplace, catalogue, refused, tmp_path):
    mag, mag_err = (np.array(values) for values in catalogue.observations[:2])
    mag[:2, 1] = mag_err[:2, 1] = np.nan
    o, lacking = catalogue.observations._replace(mag=mag, mag_err=mag_err), tmp_path / "lacking.fits"
    write_catalogue(lacking, catalogue._replace(observations=o), tuple("ugrizy"), {})
    said = refused("crosscheck", workplace.run, lacking, "-o", tmp_path / "out.json")
    assert "every band and the light" in said
    assert "2 that lack some" in said


def test_a_catalogue_unlike_the_surveys_of_the_training_is_refused(workplace, catalogue, refused, tmp_path):
    """By the number of its objects, and by the correlations of their errors, as `infer` does."""
    o, out = catalogue.observations, ["-o", tmp_path / "out.json"]
    few, turned = tmp_path / "few.fits", tmp_path / "turned.fits"
    write_catalogue(few, select(catalogue, np.arange(2)), tuple("ugrizy"), {})
    assert "number of objects" in refused("crosscheck", workplace.run, few, *out)
    write_catalogue(turned, catalogue._replace(observations=o._replace(cov_mc=0.9 * np.sqrt(o.var_m * o.var_c))), tuple("ugrizy"), {})
    assert "with the mean correlations of the training" in refused("crosscheck", workplace.run, turned, *out)
    assert not (workplace.run / "crosscheck").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"observation.spectroscopic_fraction": 1.0}, "saw objects without spectroscopic redshifts, which are hidden here, got"),
        ({"observation.missing_probability": 0.01}, "whose surveys have every band, as the second route needs, got"),
    ],
)
def test_a_run_of_other_surveys_than_the_second_route_can_learn_is_refused(workplace, catalogue, monkeypatch, setting, said):
    other = run_config(workplace.run).updated(**setting)
    monkeypatch.setattr("cigars.crosscheck.run_config", lambda run: other)
    with pytest.raises(ConfigError, match=said):
        crosscheck(workplace.run, catalogue)

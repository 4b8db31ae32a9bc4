"""Distances agree with astropy; the Hubble residuals see a wrong cosmology and a wrong sign of a coefficient."""

import warnings

import astropy.cosmology as ac
import numpy as np
import pytest

from cigars.config import Config
from cigars.report.hubble import distance_modulus, hubble_data, hubble_figure
from cigars.report.inputs import parameters
from cigars.report.sections import build
from tests.cigars.report.fake import fake_inputs

Z = np.array([0.01, 0.1, 0.4, 0.8, 1.2, 2.0])


@pytest.mark.parametrize(
    "cosmology",
    [
        ac.LambdaCDM(70, 0.3, 0.7, Tcmb0=0),
        ac.LambdaCDM(70, 0.3, 0.7 + 1e-9, Tcmb0=0),  # curvature that vanishes
        ac.LambdaCDM(70, 0.02, 0.02, Tcmb0=0),
        ac.LambdaCDM(70, 0.9, 0.9, Tcmb0=0),
        ac.Flatw0waCDM(70, 0.3, w0=-0.8, wa=0.5, Tcmb0=0),
        ac.Flatw0waCDM(70, 0.1, w0=-1.8, wa=-2.5, Tcmb0=0),
    ],
)
def test_distance_modulus_agrees_with_astropy(cosmology):
    w0, wa = getattr(cosmology, "w0", -1.0), getattr(cosmology, "wa", 0.0)
    ours = distance_modulus(Z, np.array([cosmology.Om0]), np.array([cosmology.Ode0]), np.array([w0]), np.array([wa]))
    assert ours.shape == (1, Z.size)
    np.testing.assert_allclose(ours[0], cosmology.distmod(Z).value, atol=2e-5)  # mag: 1e-5 in distance
    wrong = distance_modulus(Z, np.array([cosmology.Om0 + 0.01]), np.array([cosmology.Ode0]), np.array([w0]), np.array([wa]))
    assert np.abs(wrong[0] - cosmology.distmod(Z).value).max() > 2e-4


def test_flat_cosmology_closes_the_universe():
    inputs = fake_inputs(objects=10, draws=20, local=False)
    inputs.posterior["posterior"] = inputs.posterior["posterior"].drop_vars("Ode0")
    config = Config().updated(**{"supernovae.cosmology": "flat-w0waCDM", "prior.w0": {"fixed": -0.9}, "prior.wa": {"fixed": 0.0}})
    inputs.posterior.attrs["config"] = config.model_dump_json()
    draws = parameters(inputs)
    np.testing.assert_allclose(draws["Om0"] + draws["Ode0"], 1.0)
    assert set(draws["w0"]) == {-0.9}
    inputs.posterior.attrs["config"] = Config().updated(**{"prior.Ode0": {"fixed": 0.6}}).model_dump_json()
    assert set(parameters(inputs)["Ode0"]) == {0.6}


def test_residuals_are_flat_for_the_right_cosmology_and_not_for_a_wrong_one():
    inputs = fake_inputs(objects=2000, draws=60, seed=2)
    post = inputs.posterior["posterior"]
    post = post.assign(z=post.z * 0 + inputs.truth.z)  # spectroscopic: scatter in z would itself tilt the residuals
    right, wrong = (post.assign(Om0=post.Om0 * 0 + m, Ode0=post.Ode0 * 0 + e) for m, e in ((0.3, 0.7), (1.0, 0.0)))
    slopes = []
    for values in (right, wrong):
        inputs.posterior["posterior"] = values
        data = hubble_data(inputs)
        coefficients, covariance = np.polyfit(data.z, data.residual, 1, w=1 / data.mu_sd, cov="unscaled")
        slopes.append(coefficients[0] / np.sqrt(covariance[0, 0]))
    assert abs(slopes[0]) < 5
    assert abs(slopes[1]) > 20


def test_standardisation_reduces_the_scatter_and_its_errors_are_right():
    inputs = fake_inputs(objects=2000, draws=60, seed=2)
    data = hubble_data(inputs)
    pull = data.residual / np.hypot(data.mu_sd, 5 / np.log(10) * data.z_sd / data.z)
    assert 0.9 < 1.4826 * np.median(np.abs(pull)) < 1.3  # dust and hosts, not in the error, widen it
    post = inputs.posterior["posterior"]
    inputs.posterior["posterior"] = post.assign(alpha=-post.alpha)
    assert hubble_data(inputs).residual.std() > 1.3 * data.residual.std()


def test_covariance_of_the_light_curve_enters_the_error():
    inputs = fake_inputs(objects=50, draws=60, seed=2)
    plain = hubble_data(inputs).mu_sd
    catalogue = inputs.posterior["observed_data"]
    inputs.posterior["observed_data"] = catalogue.assign(cov_mc=0.5 * np.sqrt(catalogue.var_m * catalogue.var_c))
    beta, cov = float(inputs.posterior["posterior"].beta.mean()), inputs.posterior["observed_data"].cov_mc.values
    np.testing.assert_allclose(hubble_data(inputs).mu_sd ** 2, plain**2 - 2 * beta * cov, rtol=1e-9)


def test_parameters_that_the_configuration_fixes_have_its_values():
    inputs = fake_inputs(objects=50, draws=60, seed=2)
    post = inputs.posterior["posterior"]
    free = hubble_data(inputs)
    fixed = {n: float(post[n].mean()) + shift for n, shift in (("beta", 0.0), ("M0", 0.25), ("sigma_int", 0.0))}
    inputs.posterior["posterior"] = post.drop_vars(fixed)
    inputs.posterior.attrs["config"] = Config().updated(**{f"prior.{n}": {"fixed": v} for n, v in fixed.items()}).model_dump_json()
    data = hubble_data(inputs)
    assert data.offset == pytest.approx(free.offset - 0.25)
    np.testing.assert_allclose((data.mu_sd, data.residual), (free.mu_sd, free.residual), rtol=1e-9, atol=1e-9)


def test_universes_without_a_big_bang_are_left_out_of_the_curve():
    inputs = fake_inputs(objects=50, draws=60, seed=2)
    post = inputs.posterior["posterior"]
    still = post.assign(Om0=post.Om0 * 0 + 0.3, Ode0=post.Ode0 * 0 + 0.7)
    bounced = np.arange(60) < 6
    inputs.posterior["posterior"] = still
    expected = hubble_data(inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inputs.posterior["posterior"] = still.assign(Om0=still.Om0.where(~bounced, 0.05), Ode0=still.Ode0.where(~bounced, 2.0))
        data = hubble_data(inputs)
        assert hubble_figure(inputs).axes
    assert data.unreached == pytest.approx(0.1)
    np.testing.assert_allclose(data.residual, expected.residual, atol=1e-9)
    assert "10 % of the cosmologies have no distance" in str(build(inputs)[1].plots[0].caption)
    inputs.posterior["posterior"] = still.assign(Om0=still.Om0 * 0 + 0.05, Ode0=still.Ode0 * 0 + 2.0)
    with pytest.raises(ValueError, match="expected a cosmology of the posterior with distances up to z = "):
        hubble_data(inputs)


def test_figure_has_diagram_and_residuals_without_pyplot_state():
    from matplotlib import pyplot

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = hubble_figure(fake_inputs(objects=300, draws=60, seed=2))
    assert "[mag]" in figure.axes[0].get_ylabel()
    assert "redshift" in figure.axes[1].get_xlabel()
    assert pyplot.get_fignums() == []

"""The Hubble residuals see a wrong cosmology and a wrong sign of a coefficient."""

import warnings

import numpy as np
import pytest

from cigars.config import Config
from cigars.report.hubble import hubble_data, hubble_figure
from cigars.report.sections import build
from tests.cigars.report.fake import changed, fake_inputs


def test_residuals_are_flat_for_the_right_cosmology_and_not_for_a_wrong_one():
    inputs = fake_inputs(objects=2000, draws=60, seed=2)
    post = inputs.posterior.to_arviz()["posterior"]
    post = post.assign(z=post.z * 0 + inputs.truth.z)  # spectroscopic: scatter in z would itself tilt the residuals
    right, wrong = (post.assign(Om0=post.Om0 * 0 + m, Ode0=post.Ode0 * 0 + e) for m, e in ((0.3, 0.7), (1.0, 0.0)))
    slopes = []
    for values in (right, wrong):
        inputs = changed(inputs, posterior=values)
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
    post = inputs.posterior.to_arviz()["posterior"]
    inputs = changed(inputs, posterior=post.assign(alpha=-post.alpha))
    assert hubble_data(inputs).residual.std() > 1.3 * data.residual.std()


def test_covariance_of_the_light_curve_enters_the_error():
    inputs = fake_inputs(objects=50, draws=60, seed=2)
    plain = hubble_data(inputs).mu_sd
    catalogue = inputs.posterior.to_arviz()["observed_data"]
    inputs = changed(inputs, observed_data=catalogue.assign(cov_mc=0.5 * np.sqrt(catalogue.var_m * catalogue.var_c)))
    beta, cov = inputs.posterior["beta"].mean(), inputs.posterior.observations.cov_mc
    np.testing.assert_allclose(hubble_data(inputs).mu_sd ** 2, plain**2 - 2 * beta * cov, rtol=1e-9)


def test_parameters_that_the_configuration_fixes_have_its_values():
    inputs = fake_inputs(objects=50, draws=60, seed=2)
    post = inputs.posterior.to_arviz()["posterior"]
    free = hubble_data(inputs)
    fixed = {n: float(post[n].mean()) + shift for n, shift in (("beta", 0.0), ("M0", 0.25), ("sigma_int", 0.0))}
    config = Config().updated(**{f"prior.{n}": {"fixed": v} for n, v in fixed.items()})
    inputs = changed(inputs, posterior=post.drop_vars(fixed), config=config.model_dump_json())
    data = hubble_data(inputs)
    assert data.offset == pytest.approx(free.offset - 0.25)
    np.testing.assert_allclose((data.mu_sd, data.residual), (free.mu_sd, free.residual), rtol=1e-9, atol=1e-9)


def test_universes_without_a_big_bang_are_left_out_of_the_curve():
    inputs = fake_inputs(objects=50, draws=60, seed=2)
    post = inputs.posterior.to_arviz()["posterior"]
    still = post.assign(Om0=post.Om0 * 0 + 0.3, Ode0=post.Ode0 * 0 + 0.7)
    bounced = np.arange(60) < 6
    inputs = changed(inputs, posterior=still)
    expected = hubble_data(inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inputs = changed(inputs, posterior=still.assign(Om0=still.Om0.where(~bounced, 0.05), Ode0=still.Ode0.where(~bounced, 2.0)))
        data = hubble_data(inputs)
        assert hubble_figure(inputs).axes
    assert data.unreached == pytest.approx(0.1)
    np.testing.assert_allclose(data.residual, expected.residual, atol=1e-9)
    assert "10 % of the cosmologies have no distance" in str(build(inputs)[1].plots[0].caption)
    inputs = changed(inputs, posterior=still.assign(Om0=still.Om0 * 0 + 0.05, Ode0=still.Ode0 * 0 + 2.0))
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

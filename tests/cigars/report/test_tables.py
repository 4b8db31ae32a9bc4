"""The table of parameters equals numpy on the draws, and names and numbers are written as people write them."""

import math

import numpy as np
import pytest

from cigars.report.tables import axis_label, format_duration, format_value, label_html, label_text, parameter_table
from cigars.schema import GLOBALS, LATENTS
from tests.cigars.report.fake import SD, changed, fake_inputs


@pytest.fixture(scope="module")
def inputs():
    return fake_inputs(objects=40, draws=300, seed=2)


def test_rows_equal_numpy_on_the_draws(inputs):
    rows = parameter_table(inputs)
    assert [r.name for r in rows] == list(SD) == list(inputs.posterior.names)
    for row in rows:
        draws = inputs.posterior[row.name]
        assert (row.q16, row.q50, row.q84) == pytest.approx(tuple(np.quantile(draws, (0.16, 0.5, 0.84))), rel=1e-12)
        assert (row.mean, row.sd) == pytest.approx((draws.mean(), draws.std(ddof=1)), rel=1e-12)
        assert row.pull == pytest.approx((draws.mean() - inputs.theta_true[row.name]) / draws.std(ddof=1), rel=1e-12)


def test_shrinkage_is_relative_to_the_prior(inputs):
    rows = {r.name: r for r in parameter_table(inputs)}
    assert rows["beta"].shrinkage == pytest.approx(rows["beta"].sd / (4 / math.sqrt(12)))  # uniform on [0, 4]
    assert rows["dtd_slope"].shrinkage == pytest.approx(rows["dtd_slope"].sd / 0.2)  # normal


def test_unknown_truth_and_prior_leave_gaps_not_numbers(inputs):
    for row in parameter_table(inputs._replace(theta_true=None, prior={})):
        assert row.truth is row.pull is row.shrinkage is None
        assert row.prior == ""


def test_chains_are_pooled():
    inputs = fake_inputs(objects=10, draws=50, local=False)
    inputs = changed(inputs, posterior=inputs.posterior.to_arviz()["posterior"].isel(chain=[0, 0]))
    assert (inputs.posterior.draws, inputs.posterior["Om0"].shape) == (100, (100,))
    assert parameter_table(inputs)[0].mean == pytest.approx(inputs.posterior.to_arviz()["posterior"]["Om0"].values.mean())


@pytest.mark.parametrize(
    ("value", "sd", "text"),
    [
        (0.31234, 0.041, "0.312"),
        (-19.4961, 0.0137, "−19.496"),
        (12.3, 14.0, "12"),
        (-0.0001, 0.1, "0.00"),
        (0.5, 0.0, "0.500"),
        (3.0, math.nan, "3.000"),
    ],
)
def test_digits_follow_the_uncertainty(value, sd, text):
    assert format_value(value, sd) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.42 s"), (9.6, "9.6 s"), (59.7, "1 min 0 s"), (171.9, "2 min 52 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "html", "text"),
    [
        ("Om0", "Ω<sub><i>m</i></sub>", "Ω_m"),
        ("Ode0", "Ω<sub>Λ</sub>", "Ω_Λ"),
        ("mass_step_loc", "log <i>M</i><sub>step</sub>", "log M_step"),
        ("mass_log10_msun", "log <i>M</i>/<i>M</i><sub>⊙</sub>", "log M/M_⊙"),
        ("gamma_age", "γ<sub>age</sub>", "γ_age"),
    ],
)
def test_labels(name, html, text):
    assert label_html(name) == html
    assert label_text(name) == text


@pytest.mark.parametrize("name", [c.name for c in GLOBALS + LATENTS])
def test_no_latex_is_left_in_any_label(name):
    assert not set("\\${}") & set(label_html(name))
    assert not set("\\${}<>") & set(label_text(name))


def test_axis_labels_carry_units_once():
    assert axis_label("M0").endswith("[mag]")
    assert axis_label("age_gyr").count("[") == 1
    assert "[" not in axis_label("Om0")

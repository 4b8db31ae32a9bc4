"""Derived products against closed forms and astropy: distances, bands of power laws, binned steps, numbers and their covariances."""

import re

import numpy as np
import pytest
from astropy.cosmology import LambdaCDM
from astropy.io import fits
from astropy.table import Table

from cigars.files import FileError
from cigars.products import brightness, dtd, hubble_curve, hubble_diagram, mass_function, products, redshift_distribution
from cigars.report import products as figures
from cigars.report import style
from cigars.report.products import FIGURES

from .synthetic import synthetic

SHARP = {n: (v, 0.0) for n, v in (("Om0", 0.35), ("Ode0", 0.6), ("alpha", -0.14), ("beta", 2.2), ("M0", -19.5))}
STILL = {"gamma_Z": (0.0, 0.0), "gamma_age": (0.0, 0.0), "mass_step": (0.0, 0.0)}


def test_hubble_diagram_has_the_distances_of_astropy_and_their_covariance_with_redshift():
    z = np.random.default_rng(0).normal([0.2, 0.5, 0.9], 0.01, (300, 3))
    post = synthetic(300, local={"z": z}, **SHARP)
    table, exact = hubble_diagram(post), LambdaCDM(70, 0.35, 0.6)
    np.testing.assert_allclose(table["mu_mean"], exact.distmod(z).value.mean(0), atol=2e-4)
    slope = (exact.distmod([0.21, 0.51, 0.91]).value - exact.distmod([0.19, 0.49, 0.89]).value) / 0.02
    np.testing.assert_allclose(table["cov_z_mu"], slope * z.var(0, ddof=1), rtol=0.01)  # the curvature of mu within .01
    np.testing.assert_allclose(hubble_curve(post)["mean"], exact.distmod(hubble_curve(post)["z"]).value, atol=2e-4)
    assert np.ptp(np.asarray(hubble_curve(post)["q84"]) - hubble_curve(post)["q16"]) < 1e-9


def test_one_draw_has_no_widths_and_is_refused(tmp_path):
    with pytest.raises(ValueError, match="products: expected at least two draws of the posterior, got one"):
        products(synthetic(1), tmp_path / "made")
    assert not (tmp_path / "made").exists()
    assert np.isfinite(hubble_diagram(synthetic(2))["cov_z_mu"]).all()


def test_standardised_magnitudes_take_off_what_the_model_puts_on():
    hosts = {"gamma_Z": (-0.1, 0.0), "gamma_age": (0.02, 0.0), "mass_step": (-0.08, 0.0), "mass_step_loc": (10.4, 0.0)}
    post = synthetic(300, **SHARP, **hosts)
    shift = -0.1 * post["metallicity_log10_zsun"] + 0.02 * post["age_gyr"] - 0.08 * (post["mass_log10_msun"] > 10.4)
    expected = 0.0 + 19.5 + 0.14 * post["x_int"] - 2.2 * post["c_int"] - shift  # the catalogue's m is zero
    np.testing.assert_allclose(hubble_diagram(post)["mu_sn_mean"], expected.mean(0), atol=1e-4)


def test_objects_scatter_about_the_true_modulus_by_the_error_that_is_stated():
    """Stretch and colour as fits with errors have them, whose scatter about the truth is that of the draws, which alone is too little."""
    rng, objects, sigma = np.random.default_rng(4), 3000, 0.12
    var_m, x, c = rng.uniform(0.001, 0.03, objects), 0.3 * rng.normal(size=objects), 0.05 * rng.normal(size=objects)
    draws = {"x_int": x + 0.3 * rng.normal(size=(400, objects)), "c_int": c + 0.05 * rng.normal(size=(400, objects))}
    post = synthetic(400, objects=objects, sigma_int=(sigma, 0.0), local=draws, **SHARP, **STILL)
    post._data.observed_data["var_m"][:] = var_m
    post._data.observed_data["m"][:] = rng.normal(0, np.sqrt(var_m + sigma**2))  # at x = c = 0, modulus 19.5
    table = hubble_diagram(post)
    pull = (table["mu_sn_mean"] - 19.5) / table["mu_sn_error"]
    assert abs(np.std(pull) - 1) < 5 / np.sqrt(2 * objects)
    assert np.std((table["mu_sn_mean"] - 19.5) / table["mu_sn_sd"]) > 1.2


def test_the_error_of_an_object_has_that_of_the_magnitude_which_all_share():
    local = {"x_int": np.zeros((400, 3)), "c_int": np.zeros((400, 3))}
    vague = synthetic(400, local=local, sigma_int=(0.1, 0.0), **{**SHARP, "M0": (-19.5, 0.07)}, **STILL)
    expected = vague.parameters()["M0"].var(ddof=1) + 0.1**2  # the catalogue's var_m is zero
    np.testing.assert_allclose(np.asarray(hubble_diagram(vague)["mu_sn_error"]) ** 2, expected, rtol=1e-5)


def test_objects_whose_light_was_hidden_are_not_drawn():
    for hidden, said in ((5, "median dust of"), (20, "no supernova light")):
        post = synthetic(50, objects=20, **SHARP)
        post._data.observed_data["m"] = post._data.observed_data["m"].where(np.arange(20) >= hidden)
        axes = FIGURES["hubble"](post).axes[0]
        points = [line for line in axes.lines if len(line.get_xdata()) == 20 - hidden]
        assert len(points) == (hidden < 20)
        assert all(np.isfinite(line.get_ydata()).all() for line in points)
        (text,) = (t.get_text() for t in axes.texts)
        assert text.startswith(said)
        assert "nan" not in text


def test_brightness_shows_the_step_where_it_is():
    rng = np.random.default_rng(1)
    mass = np.tile(rng.uniform(9, 11.5, 600), (50, 1))
    step = synthetic(50, objects=600, local={"mass_log10_msun": mass}, **{**STILL, "mass_step": (-0.08, 0.0), "mass_step_loc": (10.2, 0.0)})
    table = brightness(step, "mass_log10_msun")
    low, high = table["high"] < 10.2, table["low"] > 10.2
    gap = np.mean(table["delta_M_mean"][high]) - np.mean(table["delta_M_mean"][low])
    assert gap == pytest.approx(-0.08, abs=1e-6)
    np.testing.assert_allclose(table["step_mean"], table["delta_M_mean"], atol=1e-9)
    np.testing.assert_allclose(brightness(step, "age_gyr")["metallicity_mean"], 0, atol=1e-9)


def test_metallicity_that_follows_mass_mimics_a_step_and_the_parts_add_up():
    rng = np.random.default_rng(2)
    mass = np.tile(rng.uniform(9, 11.5, 600), (50, 1))
    local = {"mass_log10_msun": mass, "metallicity_log10_zsun": 0.4 * (mass - 10.5)}
    table = brightness(synthetic(50, objects=600, local=local, **{**STILL, "gamma_Z": (-0.1, 0.0)}), "mass_log10_msun")
    np.testing.assert_allclose(table["delta_M_mean"], table["metallicity_mean"], atol=1e-9)
    slope = np.polyfit(table["centre"], table["delta_M_mean"], 1)[0]
    assert slope == pytest.approx(-0.04, rel=1e-3)
    everything = brightness(synthetic(50, objects=600, local=local), "mass_log10_msun")
    parts = sum(np.asarray(everything[f"{n}_mean"]) for n in ("step", "metallicity", "age"))
    np.testing.assert_allclose(everything["delta_M_mean"], parts, atol=1e-9)
    with pytest.raises(ValueError, match="expected an axis of mass_log10_msun"):
        brightness(synthetic(5), "z")


def test_hosts_that_repeat_leave_no_bin_empty():
    mass = np.random.default_rng(4).choice([9.0, 9.8, 10.1, 11.0], (40, 5), p=[0.05, 0.6, 0.3, 0.05])
    table = brightness(synthetic(40, objects=5, local={"mass_log10_msun": mass}), "mass_log10_msun")
    assert 2 <= len(table) <= 4
    assert all(np.isfinite(table[name]).all() for name in table.colnames)
    assert np.all(np.diff(table["low"]) > 0)


def test_the_delay_time_distribution_is_a_power_law_with_a_log_normal_band():
    table = dtd(synthetic(20_000, dtd_logA=(-12.15, 0.05), dtd_slope=(-1.34, 0.1)))
    t = np.asarray(table["delay_gyr"])
    sd = np.sqrt(0.05**2 + (0.1 * np.log10(t)) ** 2)
    np.testing.assert_allclose(np.log10(table["q50"]), -12.15 - 1.34 * np.log10(t), atol=5 * 1.25 * sd.max() / 20_000**0.5)
    np.testing.assert_allclose((np.log10(table["q84"]) - np.log10(table["q16"])) / 2 / sd, 0.9945, rtol=0.04)  # 5 standard errors
    assert table["mean"].unit == "1 / (yr solMass)"


@pytest.mark.parametrize("count", [mass_function, redshift_distribution])
def test_numbers_have_the_covariance_of_independent_draws(count):
    """Each of 400 objects falls into bin b with probability p_b: the covariance is 400 (δ p_b - p_b p_c)."""
    rng = np.random.default_rng(3)
    local = {"mass_log10_msun": rng.uniform(10.0, 11.0, (3000, 400)), "z": rng.uniform(0.30, 0.50, (3000, 400))}
    table = count(synthetic(3000, objects=400, local=local))
    p = np.asarray(table["mean"]) / 400
    assert p.sum() == pytest.approx(1)
    expected = 400 * (np.diag(p) - p[:, None] * p)
    assert np.abs(np.asarray(table["covariance"]) - expected).max() < 5 * 75 * (2 / 3000) ** 0.5  # largest variance 75
    assert np.abs(np.asarray(table["covariance"]) - np.diag(400 * p)).max() > 5 * 75 * (1 / 3000) ** 0.5  # as if bins were independent


def test_everything_is_written_and_nothing_is_overwritten(tmp_path):
    post = synthetic(60, objects=40)
    paths = products(post, tmp_path / "out")
    assert all(p.stat().st_size > 500 for p in paths)
    table = Table.read(tmp_path / "out" / "n_of_z.fits")
    assert table["covariance"].shape == (len(table), len(table))
    assert table.meta["FINGERPRINT" if "FINGERPRINT" in table.meta else "fingerprint"] == "f"
    assert {p.suffix for p in paths} == {".fits", ".pdf", ".png"}
    with pytest.raises(FileError, match=r"hubble.fits: exists already"):
        products(post, tmp_path / "out")


def test_every_column_says_what_it_is_in_files_too(tmp_path, monkeypatch):
    """In FITS as the standard has it, and in the ECSV that astropy makes of a table; above all which moduli are the model's own."""
    monkeypatch.setattr(figures, "FIGURES", {})
    for path in products(synthetic(60, objects=40), tmp_path / "out"):
        with fits.open(path) as file:
            said = [file[1].header[f"TCOMM{k + 1}"] for k in range(len(file[1].columns))]
        assert len(set(said)) == len(said)
        Table.read(path).write(tmp_path / "again.ecsv", overwrite=True)
        for read in (Table.read(path), Table.read(tmp_path / "again.ecsv")):
            assert [c.description for c in read.columns.values()] == said
    hubble = hubble_diagram(synthetic(60, objects=40))
    for name in ("mu_mean", "mu_sd", "cov_z_mu"):
        assert {"the model has", "not data"} <= set(re.findall("the model has|not data", hubble[name].description))
    for name in ("mu_sn_mean", "mu_sn_sd"):
        assert {"m - M0", "not for fitting"} <= set(re.findall("m - M0|not for fitting", hubble[name].description))
    assert hubble["mu_sn_mean"].unit == hubble["mu_sn_error"].unit == hubble["mu_sd"].unit == "mag"
    assert mass_function(synthetic(60, objects=40))["low"].unit.to_string() == "dex(solMass)"


def test_an_interrupted_figure_leaves_the_former_one(tmp_path, monkeypatch):
    post = synthetic(60, objects=40)
    (tmp_path / "hubble.png").write_bytes(b"former")

    def interrupted(figure, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(style, "write_png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        products(post, tmp_path, overwrite=True)
    assert (tmp_path / "hubble.png").read_bytes() == b"former"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]

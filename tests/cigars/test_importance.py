"""Weights turn one law into another: against products of Gaussians, which are exact."""

import numpy as np
import pytest
from astropy.table import MaskedColumn, Table

from cigars.catalogue import CatalogueError
from cigars.config import Prior
from cigars.files import FileError
from cigars.importance import Chain, Gaussian, effective_number, ln_prior_ratio, read_chain, read_gaussian, resample
from cigars.schema import Marginal

MEAN, COVARIANCE = np.array([0.3, 0.7]), np.array([[0.01, 0.012], [0.012, 0.025]])


def test_effective_number_of_gaussian_weights():
    """E[w]²/E[w²] of w = N(x; 0, s²), x ~ N(0, 1): √(s²(s² + 2)) / (s² + 1); equal weights lose nothing, no weight leaves nothing."""
    x, s2 = np.random.default_rng(0).normal(size=400_000), 0.25
    expected = np.sqrt(s2 * (s2 + 2)) / (s2 + 1)
    assert effective_number(-(x**2) / (2 * s2)) / len(x) == pytest.approx(expected, rel=0.01)  # 5 standard errors by trial
    assert effective_number(np.full(10, -3.0)) == pytest.approx(10)
    assert effective_number(np.full(10, -np.inf)) == 0
    assert effective_number(np.log([0.1, 0.2, 0.3, 0.6]), np.array([1, 1, 1, 0])) == pytest.approx(2)  # one thrice, as heavy as the other


def test_resampled_draws_appear_as_often_as_their_weights_say():
    ln_weight = np.log([0.1, 0.0 + 1e-300, 0.5, 0.4])
    counts = np.bincount(resample(ln_weight, 1000, np.random.default_rng(0)), minlength=4)
    assert np.all(np.abs(counts - [100, 0, 500, 400]) <= 1)


def test_product_of_gaussians_by_weights_is_the_exact_one():
    rng = np.random.default_rng(1)
    draws = rng.multivariate_normal(MEAN, COVARIANCE, 200_000)
    other = Gaussian(("Om0", "Ode0"), np.array([0.32, 0.68]), np.array([[0.004, -0.003], [-0.003, 0.004]]))
    ln_weight = other.ln_density(draws)
    exact = np.linalg.inv(np.linalg.inv(COVARIANCE) + np.linalg.inv(other.covariance))
    centre = exact @ (np.linalg.solve(COVARIANCE, MEAN) + np.linalg.solve(other.covariance, other.mean))
    error = np.sqrt(np.diag(exact) / effective_number(ln_weight))
    mean = draws[resample(ln_weight, 200_000, rng)].mean(0)
    assert np.all(np.abs(mean - centre) < 5 * error)
    assert np.any(np.abs(draws.mean(0) - centre) > 5 * error)  # without weights


def test_a_chain_of_a_gaussian_weighs_like_it():
    rng = np.random.default_rng(2)
    law = Gaussian(("Om0",), np.array([0.3]), np.array([[0.02**2]]))
    chain = Chain(("Om0",), rng.normal(0.3, 0.02, (20_000, 1)), np.ones(20_000))
    x = np.linspace(0.26, 0.34, 9)[:, None]
    np.testing.assert_allclose(chain.ln_density(x), law.ln_density(x), atol=0.12)  # the kernel widens by 1 + n^(-2/5)


def test_a_draw_that_float32_put_beyond_an_edge_has_the_weight_of_the_edge():
    """-0.2 in float32 is below -0.2: a draw there had an infinite weight, and was all that was left."""
    old = {"mass_step": Marginal("uniform", 0.0, 1.0, -0.2, 0.2)}
    draws = {"mass_step": np.array([-0.2, 0.0, 0.2], np.float32).astype(float)}
    assert draws["mass_step"][0] < -0.2 < 0.2 < draws["mass_step"][2]
    ratio = ln_prior_ratio(draws, old, {"mass_step": Prior(normal=(0.0, 0.1), within=(-0.2, 0.2))})
    np.testing.assert_allclose(ratio[1] - ratio[[0, 2]], 2, rtol=1e-6)


def test_prior_ratios_are_those_of_the_densities():
    old = {"Om0": Marginal("uniform", 0.0, 1.0, 0.0, 1.0), "M0": Marginal("normal", -19.5, 0.2, -np.inf, np.inf)}
    draws = {"Om0": np.array([0.1, 0.3]), "M0": np.array([-19.5, -19.3])}
    ratio = ln_prior_ratio(draws, old, {"Om0": Prior(normal=(0.3, 0.1), within=(0.0, 1.0))})
    assert ratio[0] - ratio[1] == pytest.approx(-2)
    ratio = ln_prior_ratio(draws, old, {"M0": Prior(normal=(-19.5, 0.1))})
    assert ratio[1] - ratio[0] == pytest.approx(-2 + 0.5)
    assert np.isneginf(ln_prior_ratio(draws, old, {"Om0": Prior(uniform=(0.2, 0.5))})[0])
    with pytest.raises(ValueError, match="expected free parameters of Om0, M0, got 'Ode0'"):
        ln_prior_ratio(draws, old, {"Ode0": Prior(uniform=(0.0, 1.0))})
    with pytest.raises(ValueError, match=r"use conditional\(Om0=0.3\)"):
        ln_prior_ratio(draws, old, {"Om0": Prior(fixed=0.3)})


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (Prior(uniform=(7.0, 13.0)), "within \\[9, 11\\], where there are draws, got 0.67 of it outside; give a normal prior these limits"),
        (Prior(uniform=(8.9, 10.0)), "got 0.091 of it outside"),
        (Prior(normal=(10.0, 0.4)), "got 0.012 of it outside"),
        (Prior(normal=(10.0, 0.4), within=(9.0, 12.0)), "got 0.0062 of it outside"),
    ],
)
def test_priors_wider_than_where_there_are_draws_are_refused(new, said):
    draws, old = {"a": np.array([9.5, 9.9])}, {"a": Marginal("uniform", 0.0, 1.0, 9.0, 11.0)}
    with pytest.raises(ValueError, match=f"prior of a: expected one {said}" if "within" in said else said):
        ln_prior_ratio(draws, old, {"a": new})
    for fine in (Prior(uniform=(9, 11)), Prior(normal=(10, 0.3)), Prior(normal=(10, 0.4), within=(9, 11))):
        assert np.isfinite(ln_prior_ratio(draws, old, {"a": fine})).all()
    assert np.isfinite(ln_prior_ratio(draws, {"a": Marginal("normal", 10.0, 1.0, -np.inf, np.inf)}, {"a": new})).all()


@pytest.mark.parametrize(
    "spread", ["covariance = [[0.0004, 0.00012], [0.00012, 0.0009]]", "sd = [0.02, 0.03]\ncorrelation = [[1, 0.2], [0.2, 1]]"]
)
def test_gaussians_are_read_from_toml(tmp_path, spread):
    path = tmp_path / "cmb.toml"
    path.write_text(f'parameters = ["omegam", "w"]\nmean = [0.31, -1.0]\n{spread}\n')
    read = read_gaussian(path)
    assert read.names == ("Om0", "w0")
    np.testing.assert_allclose(read.covariance, [[4e-4, 1.2e-4], [1.2e-4, 9e-4]])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('parameters = ["H0"]\nmean = [70]\nsd = [1]', "the parameters H0, which are none of Om0"),
        ('parameters = ["Om0"]\nmean = [0.3, 0.7]\nsd = [1]', "1 parameters with mean"),
        ('parameters = ["Om0", "w0"]\nmean = [0.3, -1]\ncovariance = [[1, 2], [2, 1]]', "not positive definite"),
        ('parameters = ["Om0", "w0"]\nmean = [nan, -1]\nsd = [1, 1]', "a mean that is not finite"),
        ('parameters = ["Om0", "w0"]\nmean = [0.3, -1]\ncovariance = [[inf, 0], [0, 1]]', "not positive definite"),
        ('parameters = ["Om0", "w0"]\nmean = [0.3, -1]\nsd = [0.1, 0.3]\ncorrelation = [[1, 1], [1, 1]]', "not positive definite"),
        ('parameters = ["Om0"]\nsd = [1]', "no 'mean'"),
        ("parameters = [", "not valid TOML"),
        ('parameters = ["Om0", "w0"]\nmean = [0.3, -1]\nsd = [1, 1]\ncorr = [[1, 0.9], [0.9, 1]]', "got the unknown corr$"),
        ('parameters = ["Om0", "omegam"]\nmean = [0.3, 0.3]\nsd = [1, 1]', "got Om0 twice among the parameters Om0, omegam$"),
        ('parameters = ["Om0", "w0"]\nmean = [0.3, -1]\nsd = [1, 1]\ncorrelation = [[0.1, 0], [0, 0.1]]', "diagonal is not 1"),
        ('parameters = ["Om0"]\nmean = [0.3]\nsd = [-1]', "sd that are not above zero"),
        ('parameters = ["Om0"]\nmean = [0.3]\nsd = [1]\ncovariance = [[1]]', "got covariance beside sd$"),
    ],
)
def test_bad_gaussians_are_refused_in_one_line(tmp_path, text, said):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(FileError, match=said):
        read_gaussian(tmp_path / "bad.toml")


def test_chains_are_read_from_tables_and_from_getdist(tmp_path):
    rng = np.random.default_rng(3)
    samples, weights = rng.normal(size=(100, 2)), rng.uniform(1, 2, 100)
    Table({"omegam": samples[:, 0], "Ode0": samples[:, 1], "weight": weights}).write(tmp_path / "chain.fits")
    np.savetxt(tmp_path / "cosmo_1.txt", np.column_stack([weights, np.zeros(100), samples]))
    (tmp_path / "cosmo.paramnames").write_text("omegam \\Omega_m\nomegal \\Omega_\\Lambda\n")
    for path in (tmp_path / "chain.fits", tmp_path / "cosmo"):
        chain = read_chain(path, ["Ode0", "Om0"])
        assert chain.names == ("Ode0", "Om0")
        np.testing.assert_allclose(chain.samples, samples[:, ::-1], rtol=1e-6)
        np.testing.assert_allclose(chain.weights, weights, rtol=1e-6)
    with pytest.raises(FileError, match="missing w0"):
        read_chain(tmp_path / "chain.fits", ["Om0", "w0"])
    with pytest.raises((FileError, CatalogueError), match="nowhere"):
        read_chain(tmp_path / "nowhere", ["Om0"])


@pytest.mark.parametrize("name", ["weights", "Weight", "WEIGHT"])
def test_weights_are_known_in_any_case(tmp_path, name):
    samples, weights = np.linspace(0, 1, 100), np.linspace(1, 2, 100)
    Table({"Om0": samples, name: weights}).write(tmp_path / "chain.csv")
    np.testing.assert_allclose(read_chain(tmp_path / "chain.csv", ["Om0"]).weights, weights)


OM0 = np.linspace(0.2, 0.4, 100)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"Om0": OM0, "importance_weight": OM0}, "expected weights in one column 'weight', got importance_weight; rename"),
        ({"Om0": OM0, "weight": OM0, "log_weight": OM0}, "got weight, log_weight"),
        ({"Om0": MaskedColumn(OM0, mask=OM0 > 0.39)}, r"5 rows \(96, 97, .*\) are not; remove"),
        ({"Om0": OM0, "weight": MaskedColumn(OM0, mask=OM0 < 0.201)}, r"row 1 \(counting from 1\) is not; remove"),
        ({"Om0": OM0, "weight": -OM0}, "weights of at least zero, but 100 rows"),
        ({"Om0": OM0, "omegam": OM0 + 0.5}, "expected one column of Om0, got Om0 and omegam; remove all but one"),
        ({"Om0": [f"{v}?" for v in OM0]}, "Om0: expected numbers, got"),
        ({"Om0": OM0[:49]}, "at least 50 samples, got 49"),
    ],
)
def test_chains_that_could_be_misread_are_refused(tmp_path, columns, said):
    Table(columns).write(tmp_path / "chain.ecsv")
    with pytest.raises(FileError, match=f"chain.ecsv: .*{said}"):
        read_chain(tmp_path / "chain.ecsv", ["Om0"])


@pytest.mark.parametrize("other", [1 - OM0, np.round(1 - OM0 + 1e-6 * np.sin(1e3 * OM0), 6), np.full(100, 0.7)])
def test_chains_of_fewer_dimensions_than_parameters_are_refused(tmp_path, other):
    """As of a flat cosmology, also to the digits of a text file."""
    Table({"Om0": OM0, "Ode0": other}).write(tmp_path / "flat.ecsv")
    with pytest.raises(FileError, match=r"flat\.ecsv: expected samples that vary in Om0, Ode0 independently, .* --parameters Om0$"):
        read_chain(tmp_path / "flat.ecsv", ["Om0", "Ode0"])
    assert len(read_chain(tmp_path / "flat.ecsv", ["Om0"]).samples) == 100


def test_a_getdist_root_needs_no_folder(tmp_path, monkeypatch):
    np.savetxt(tmp_path / "gd_1.txt", np.column_stack([np.ones(100), np.zeros(100), OM0, OM0]))
    (tmp_path / "gd.paramnames").write_text("omegam \\Omega_m\nomega_m \\Omega_m\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match="gd: expected one column of Om0, got omegam and omega_m"):
        read_chain("gd", ["Om0"])
    (tmp_path / "gd.paramnames").write_text("omegam \\Omega_m\nx x\n")
    np.testing.assert_allclose(read_chain("gd", ["omegam"]).samples[:, 0], OM0)

"""Errors of hosts and supernovae: formulas, recovered covariances, missing bands, spectroscopic redshifts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cigars.config import Config, ConfigError, ErrorModel, ObservationConfig
from simulators.observation import draw_variance, host_errors, observe_hosts, observe_peak, observe_redshifts, observe_supernovae

NUMBER = 20_000
FITTED = tuple(ErrorModel(offset=-7.0 + 0.1 * b, slope=0.6, pivot=23, scatter=0.5, floor=0.02) for b in range(6))
hosts = jax.jit(observe_hosts, static_argnums=2)


@functools.partial(jax.jit, static_argnums=4)
def supernovae(key, m, x, c, config):
    normals = jax.random.normal(key, (6, *m.shape))
    return observe_supernovae(normals[:2], normals[2:], m, x, c, config)


def _p(sample, cdf="norm") -> float:
    return float(stats.kstest(np.asarray(sample, float).ravel(), cdf).pvalue)


@pytest.fixture(scope="module")
def magnitude():
    return jnp.asarray(np.random.default_rng(0).uniform(18, 26, (NUMBER, 6)), jnp.float32)


def test_variances_are_log_normal_around_a_line(key):
    model = ErrorModel(offset=-5.0, slope=0.3, pivot=22.0, scatter=0.7, floor=0.05)
    m = jnp.linspace(18, 26, NUMBER)
    variance = np.asarray(draw_variance(model, m, jax.random.normal(key, (NUMBER,))), float) - 0.05**2
    residual = (np.log(variance) + 5.0 - 0.3 * (np.linspace(18, 26, NUMBER) - 22)) / 0.7
    assert _p(residual) > 1e-3
    assert _p(residual * 1.05) < 1e-3
    assert _p(residual + 0.05) < 1e-3


def test_lsst_errors_are_a_fifth_at_the_five_sigma_depth_and_systematic_when_bright(key):
    """Ivezić+19: σ_rand² = (0.04 − γ) X + γ X² is 0.04 at X = 1 whatever γ."""
    config = ObservationConfig(host_errors="lsst")
    depth = np.array(config.host_depths)
    at = lambda shift: np.asarray(host_errors(key, jnp.asarray(depth[None] + shift, jnp.float32), config), float)  # noqa: E731
    np.testing.assert_allclose(at(0.0), np.hypot(0.2, 0.005), rtol=1e-5)
    np.testing.assert_allclose(at(-8.0), 0.005, rtol=0.05)
    gamma, x = np.array([0.038] + [0.039] * 5), 10 ** (0.4 * -2.3)
    np.testing.assert_allclose(at(-2.3)[0], np.sqrt(0.005**2 + (0.04 - gamma) * x + gamma * x**2), rtol=1e-5)
    np.testing.assert_allclose(at(1.0)[0], np.sqrt(0.005**2 + (0.04 - gamma) * 10**0.4 + gamma * 10**0.8), rtol=1e-5)


def test_fitted_errors_follow_each_band_s_model(key, magnitude):
    error = np.asarray(host_errors(key, magnitude, ObservationConfig(host_errors="fitted", host_fitted=FITTED)), float)
    for b, model in enumerate(FITTED):
        residual = (np.log(error[:, b] ** 2 - 0.02**2) - model.offset - 0.6 * (np.asarray(magnitude, float)[:, b] - 23)) / 0.5
        faint = np.asarray(magnitude)[:, b] > 21  # where float32 resolves the variance above its floor
        assert _p(residual[faint]) > 1e-3
        assert _p(residual[faint] + 0.1) < 1e-3


def test_the_peak_that_decides_the_detection_is_the_peak_that_is_observed(key, magnitude):
    """Whatever the correlation of the errors, and the normals of x and c: the first row of a Cholesky factor is (1, 0, 0)."""
    config = ObservationConfig(sn_correlation=(0.5, -0.3, 0.2))
    m, normals = magnitude[:, 0], jax.random.normal(key, (6, NUMBER))
    observed, variance = observe_peak(normals[:2], m, config.sn_m)
    for others in (normals[2:], normals[2:][::-1]):
        both = observe_supernovae(normals[:2], others, m, m, m, config)
        np.testing.assert_allclose(both["m"], observed, rtol=3e-7)
        np.testing.assert_allclose(both["var_m"], variance, rtol=3e-7)


@pytest.mark.parametrize("model", ["constant", "lsst", "fitted"])
def test_host_noise_has_the_stated_error(key, magnitude, model):
    config = ObservationConfig(host_errors=model, host_fitted=FITTED if model == "fitted" else ())
    noisy, error = hosts(key, magnitude, config)
    pull = (np.asarray(noisy, float) - np.asarray(magnitude, float)) / np.asarray(error, float)
    well = np.asarray(error) > 3e-3  # float32 magnitudes have steps of 2e-6
    assert well.mean() > 0.9
    assert _p(pull[well]) > 1e-3
    assert _p(1.02 * pull[well]) < 1e-3
    assert np.abs(np.corrcoef(pull.T) - np.eye(6)).max() < 5 / np.sqrt(NUMBER)
    if model == "constant":
        assert np.all(np.asarray(error) == np.float32(0.01))


def test_missing_bands_are_nan_and_every_object_keeps_one(key, magnitude):
    probability, bands = 0.5, 6
    mag, error = (np.asarray(v) for v in hosts(key, magnitude, ObservationConfig(missing_probability=probability)))
    missing = np.isnan(mag)
    np.testing.assert_array_equal(missing, np.isnan(error))
    assert not missing.all(1).any()
    expected = np.full(bands, probability) - np.eye(bands)[0] * probability**bands  # the first band comes back when all are gone
    standard_error = np.sqrt(0.25 / NUMBER)
    assert np.abs(missing.mean(0) - expected).max() < 5 * standard_error
    assert abs(missing[:, 0].mean() - probability) > 2 * standard_error  # the exception is seen
    assert not np.isnan(np.asarray(hosts(key, magnitude, ObservationConfig())[0])).any()
    each = (0.0, 0.1, 0.9, 0.5, 0.0, 0.3)
    share = np.isnan(np.asarray(hosts(key, magnitude, ObservationConfig(missing_probability=each))[0])).mean(0)
    assert np.abs(share - each).max() < 5 * standard_error
    with pytest.raises(ConfigError, match="missing_probability: expected one value or 6, one a band, got 2"):
        Config().updated(**{"observation.missing_probability": (0.1, 0.2)})


CORRELATION = (0.6, -0.4, 0.3)


@pytest.fixture(scope="module")
def pulls(key):
    truth = [jnp.asarray(v, jnp.float32) for v in np.random.default_rng(1).normal([[22], [0], [0]], 1, (3, NUMBER))]
    out = supernovae(key, *truth, ObservationConfig(sn_correlation=CORRELATION))
    out = {k: np.asarray(v, float) for k, v in out.items()}
    return np.stack([(out[k] - np.asarray(t, float)) / np.sqrt(out[f"var_{k}"]) for k, t in zip("mxc", truth, strict=True)]), out


def test_supernova_errors_have_the_stated_covariance(pulls):
    pull, out = pulls
    mx, mc, xc = CORRELATION
    expected = np.array([[1, mx, mc], [mx, 1, xc], [mc, xc, 1]])
    tolerance = 5 * np.sqrt(2 / NUMBER)  # five standard errors of a variance, the largest of the six
    assert np.abs(np.cov(pull) - expected).max() < tolerance
    assert np.abs(np.cov(pull) - np.eye(3)).max() > tolerance
    for (a, b), rho in zip(("mx", "mc", "xc"), CORRELATION, strict=True):
        np.testing.assert_allclose(out[f"cov_{a}{b}"], rho * np.sqrt(out[f"var_{a}"] * out[f"var_{b}"]), rtol=1e-5)
    whitened = np.linalg.solve(np.linalg.cholesky(expected), pull)
    assert all(_p(row) > 1e-3 for row in whitened)
    assert any(_p(1.04 * row) < 1e-3 for row in whitened)


def test_supernova_variances_follow_the_specification(key):
    m = jnp.linspace(18, 26, NUMBER)
    out = supernovae(key, m, jnp.zeros_like(m), jnp.zeros_like(m), ObservationConfig())
    line = 0.2 * (np.linspace(18, 26, NUMBER) - 56)
    for name, mean, sd in (("m", line, 1.2), ("x", -3, 1.0), ("c", -7, 0.6)):
        residual = (np.log(np.asarray(out[f"var_{name}"], float)) - mean) / sd
        assert _p(residual) > 1e-3
        assert _p(residual + 0.05) < 1e-3
    assert all(np.all(np.asarray(out[f"cov_{name}"]) == 0) for name in ("mx", "mc", "xc"))


def test_an_impossible_correlation_is_refused(key):
    one = jnp.ones(3)
    with pytest.raises(ValueError, match=r"sn_correlation: expected a positive definite matrix"):
        supernovae(key, one, one, one, ObservationConfig(sn_correlation=(0.9, 0.9, -0.9)))


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_spectroscopic_redshifts_are_given_to_the_stated_fraction(key, fraction):
    z = jnp.asarray(np.random.default_rng(2).uniform(0.1, 1, NUMBER), jnp.float32)
    spec, error = (
        np.asarray(v, float) for v in observe_redshifts(key, z, ObservationConfig(spectroscopic_fraction=fraction, z_spec_err=1e-3))
    )
    have = np.isfinite(spec)
    np.testing.assert_array_equal(have, np.isfinite(error))
    assert abs(have.mean() - fraction) <= 5 * np.sqrt(fraction * (1 - fraction) / NUMBER)
    if fraction:
        pull = (spec - np.asarray(z, float))[have] / error[have]
        assert _p(pull) > 1e-3
        assert _p(pull + 0.05) < 1e-3


def test_errors_of_redshifts_are_log_normal_and_redshifts_scatter_by_them(key):
    z = jnp.full(NUMBER, 0.5)
    config = ObservationConfig(spectroscopic_fraction=1, z_spec_err=1e-2, z_spec_err_scatter=0.4)
    spec, error = (np.asarray(v, float) for v in observe_redshifts(key, z, config))
    residual, pull = np.log(error / 1e-2) / 0.4, (spec - 0.5) / error
    assert min(_p(residual), _p(pull)) > 1e-3
    assert max(_p(1.1 * residual), _p(1.1 * pull), _p((spec - 0.5) / 1e-2)) < 1e-3
    assert abs(np.corrcoef(residual, pull)[0, 1]) < 5 / np.sqrt(NUMBER)

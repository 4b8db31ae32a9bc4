"""Joint scores against finite differences of a density written with scipy and astropy, and the score identity."""

import jax.numpy as jnp
import numpy as np
import pytest
from astropy.cosmology import LambdaCDM, w0waCDM
from scipy import stats

from cigars.config import load_config
from cigars.schema import FIDUCIAL, Latents, Observations
from simulators.cosmology import distance_modulus, transverse_distance
from simulators.rates import ln_bin_ages
from simulators.score import MASS_STEP_WIDTH, host_score, joint_score

LCDM = load_config("lsst")
CPL = load_config("lsst", **{"supernovae.cosmology": "flat-w0waCDM"})
COUNT = 400


def universe(theta, flat):
    if flat:
        return w0waCDM(70, theta["Om0"], 1 - theta["Om0"], w0=theta["w0"], wa=theta["wa"], Tcmb0=0)
    return LambdaCDM(70, theta["Om0"], theta["Ode0"], Tcmb0=0)


def objects(theta, seed=0, correlated=False, flat=False):
    """Objects drawn from the model without selection, by numpy."""
    rng = np.random.default_rng(seed)
    z, mass = rng.uniform(0.1, 0.9, COUNT), rng.uniform(9, 11.5, COUNT)
    metallicity, x = rng.uniform(-1.5, 0.15, COUNT), rng.normal(size=COUNT)
    age = np.exp(np.asarray(ln_bin_ages(jnp.asarray(z, jnp.float32)))[np.arange(COUNT), rng.integers(0, 5, COUNT)])
    r_v, a_v = rng.uniform(2, 4, COUNT), rng.exponential(0.1, COUNT)
    c = theta["alpha_c"] * x + 0.1 * rng.normal(size=COUNT)
    step = theta["mass_step"] * (mass > theta["mass_step_loc"])
    absolute = theta["M0"] + theta["gamma_Z"] * metallicity + theta["gamma_age"] * age + step + theta["alpha"] * x + theta["beta"] * c
    true = absolute + theta["sigma_int"] * rng.normal(size=COUNT) + a_v * (1 + 1 / r_v) + universe(theta, flat).distmod(z).value
    var = np.array([0.002, 0.05, 0.001])[:, None] * np.exp(0.5 * rng.normal(size=(3, COUNT)))
    rho = np.array([0.3, -0.4, 0.2]) if correlated else np.zeros(3)
    cov = rho[:, None] * np.sqrt(np.array([var[0] * var[1], var[0] * var[2], var[1] * var[2]]))
    matrix = np.array([[var[0], cov[0], cov[1]], [cov[0], var[1], cov[2]], [cov[1], cov[2], var[2]]]).transpose(2, 0, 1)
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(matrix), rng.normal(size=(COUNT, 3))).T
    nothing = np.full((COUNT, 6), np.nan)
    o = Observations(nothing, nothing, true + noise[0], x + noise[1], c + a_v / r_v + noise[2], *var, *cov, nothing[:, 0], nothing[:, 0])
    unused = np.zeros(COUNT)
    return o, Latents(z, mass, metallicity, unused, unused, unused, unused, age, r_v, a_v, x, c, unused)


def density(theta, o, latent, flat):
    """ln p of one object's light and colour and of its age bin, in float64; the mass step is smooth around its sharp value."""
    ndtr = stats.norm.cdf((latent.mass_log10_msun - theta["mass_step_loc"]) / MASS_STEP_WIDTH)
    delta = theta["gamma_Z"] * latent.metallicity_log10_zsun + theta["gamma_age"] * latent.age_gyr + theta["mass_step"] * ndtr
    mean_m = theta["M0"] + delta + theta["alpha"] * latent.x_int + theta["beta"] * latent.c_int
    mean_m = mean_m + latent.A_V * (1 + 1 / latent.R_V) + universe(theta, flat).distmod(latent.z).value
    mean = np.stack([mean_m, latent.x_int, latent.c_int + latent.A_V / latent.R_V], -1)
    covariance = np.empty((COUNT, 3, 3))
    for (i, j), v in {(0, 0): o.var_m + theta["sigma_int"] ** 2, (1, 1): o.var_x, (2, 2): o.var_c, (0, 1): o.cov_mx, (0, 2): o.cov_mc,
                      (1, 2): o.cov_xc}.items():  # fmt: skip
        covariance[:, i, j] = covariance[:, j, i] = v
    light = [stats.multivariate_normal.logpdf(d, m, s) for d, m, s in zip(np.stack([o.m, o.x, o.c], -1), mean, covariance, strict=True)]
    colour = stats.norm.logpdf(latent.c_int, theta["alpha_c"] * latent.x_int, 0.1)
    return np.array(light) + colour + np.log(10) * theta["dtd_logA"] + theta["dtd_slope"] * np.log(latent.age_gyr)


def single(tree):
    return type(tree)(*(jnp.asarray(leaf, jnp.float32) for leaf in tree))


def scores(config, theta, o, latent):
    rows = jnp.broadcast_to(jnp.asarray([theta[k] for k in config.marginals], jnp.float32), (COUNT, len(config.marginals)))
    return np.asarray(joint_score(rows, single(o), single(latent), config)), rows


@pytest.mark.parametrize(("config", "correlated"), [(LCDM, False), (LCDM, True), (CPL, False)], ids=["lcdm", "correlated", "cpl"])
def test_scores_are_the_finite_differences_of_the_density(config, correlated):
    flat = config is CPL
    # hosts on the plateau of the step, where the smooth and the sharp one agree, except for the two parameters of the step
    theta = {**FIDUCIAL._asdict(), "mass_step": 0.0, "w0": -0.9 if flat else -1.0, "wa": 0.3 if flat else 0.0}
    o, latent = objects(theta, correlated=correlated, flat=flat)
    found, _ = scores(config, theta, o, latent)
    for k, name in enumerate(config.marginals):
        h = 1e-4
        up, down = (density({**theta, name: theta[name] + s * h}, o, latent, flat) for s in (1, -1))
        expected = (up - down) / (2 * h)
        np.testing.assert_allclose(found[:, k], expected, rtol=5e-3, atol=5e-3 * max(expected.std(), 1), err_msg=name)


def test_location_of_the_step_has_the_score_of_the_smooth_one():
    theta = {**FIDUCIAL._asdict(), "mass_step": -0.1}
    o, latent = objects(theta)
    place = latent.mass_log10_msun - 10
    o = o._replace(m=o.m + theta["mass_step"] * (stats.norm.cdf(place / MASS_STEP_WIDTH) - (place > 0)))
    found, _ = scores(LCDM, theta, o, latent)
    up, down = (density({**theta, "mass_step_loc": 10 + s * 1e-4}, o, latent, False) for s in (1, -1))
    expected, place = (up - down) / 2e-4, list(LCDM.marginals).index("mass_step_loc")
    far = np.abs(latent.mass_log10_msun - 10) > 3 * MASS_STEP_WIDTH
    np.testing.assert_allclose(found[far, place], expected[far], atol=0.05)
    assert np.corrcoef(found[~far, place], expected[~far])[0, 1] > 0.95  # the residual itself is of the sharp step


def test_mean_score_is_zero_at_the_truth_and_only_there():
    theta = FIDUCIAL._asdict()
    parts = [objects(theta, seed) for seed in range(10)]
    light = [k for k, name in enumerate(LCDM.marginals) if name not in ("dtd_logA", "dtd_slope", "mass_step_loc")]

    def pull(at):
        t = np.concatenate([scores(LCDM, at, *part)[0][:, light] for part in parts])
        return np.abs(t.mean(0) / (t.std(0) / len(t) ** 0.5)).max()

    assert pull(theta) < 5
    assert pull({**theta, "sigma_int": 0.11}) > 5
    assert pull({**theta, "Om0": 0.4}) > 5


def test_distance_derivative_is_that_of_astropy():
    z = np.linspace(0.05, 1.2, COUNT)
    rows = jnp.broadcast_to(jnp.asarray([FIDUCIAL._asdict()[k] for k in LCDM.marginals], jnp.float32), (COUNT, len(LCDM.marginals)))
    found = np.asarray(host_score(rows, jnp.asarray(z, jnp.float32), LCDM))
    for name in ("Om0", "Ode0"):
        up, down = (universe({**FIDUCIAL._asdict(), name: getattr(FIDUCIAL, name) + s * 1e-4}, False).distmod(z).value for s in (1, -1))
        np.testing.assert_allclose(found[:, list(LCDM.marginals).index(name)], (up - down) / 2e-4, atol=2e-4)
    assert not found[:, [k for k, n in enumerate(LCDM.marginals) if n not in ("Om0", "Ode0")]].any()


@pytest.mark.parametrize(("om", "ode"), [(0.3, 0.7), (0.0, 1.0), (1.0, 1.0), (0.05, 0.0), (1.0, 0.0)])
def test_distances_to_single_redshifts_are_those_of_astropy(om, ode):
    z = np.linspace(0.02, 1.5, 60)
    theta = FIDUCIAL._replace(Om0=jnp.float32(om), Ode0=jnp.float32(ode))
    found = distance_modulus(transverse_distance(theta, jnp.asarray(z, jnp.float32)), jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(found, LambdaCDM(70, om, ode, Tcmb0=0).distmod(z).value, atol=1e-4)

"""What can be asked of a posterior, against its own draws, exact products of Gaussians and brute-force conditioning."""

import arviz
import numpy as np
import pytest

import cigars as package
from cigars.catalogue import Catalogue
from cigars.files import FileError
from cigars.importance import Gaussian
from cigars.infer import assemble
from cigars.posterior import Posterior, load_posterior
from cigars.schema import FIDUCIAL, LOCALS, Observations


@pytest.fixture(scope="module")
def asked(posterior):
    return load_posterior(posterior)


def synthetic(draws=4000, correlation=0.9, **theta):
    """A posterior of known law without a run: Θ normal around the fiducial, three objects whose z follows Ω_m."""
    config = package.load_config("demo")
    rng, names = np.random.default_rng(5), tuple(config.marginals)
    table = np.array([getattr(FIDUCIAL, n) for n in names]) + rng.normal(size=(draws, len(names))) * 0.02
    for name, (mean, sd) in theta.items():
        table[:, names.index(name)] = rng.normal(mean, sd, draws)
    om0 = (table[:, names.index("Om0")] - 0.3) / 0.02
    local = rng.normal(size=(draws, 3, len(LOCALS)))
    local[..., 0] = 0.5 + 0.01 * (correlation * om0[:, None] + np.sqrt(1 - correlation**2) * local[..., 0])
    blank = {n: np.zeros((3, 6) if n.startswith("mag") else 3, np.float32) for n in Observations._fields}
    catalogue = Catalogue(np.array(["a", "b", "c"]), Observations(**blank))
    return Posterior(assemble(names, table, local, catalogue, config, {"fingerprint": "f", "seed": 0, "run": "nowhere"}))


def test_marginals_and_summary_are_those_of_the_draws(asked, posterior):
    om0 = posterior["posterior"]["Om0"].values[0]
    np.testing.assert_array_equal(asked["Om0"], om0)
    np.testing.assert_allclose(asked.marginal("Ode0", "Om0")[:, 1], om0)
    row = {r["name"]: r for r in asked.summary()}["Om0"]
    assert (row["mean"], row["sd"], row["q50"]) == pytest.approx((om0.mean(), om0.std(ddof=1), np.median(om0)), rel=1e-5)
    assert set(asked.summary()["name"]) == set(asked.names)
    assert "40 draws of 13 parameters" in repr(asked)
    with pytest.raises(KeyError, match="got H0"):
        asked.marginal("H0")
    with pytest.raises(KeyError, match="got 'H0'"):
        asked["H0"]


def test_a_host_comes_with_the_parameters_it_goes_with(asked, posterior, catalogue):
    name = catalogue.id[4]
    host = asked.host(name)
    np.testing.assert_array_equal(host["z"], posterior["posterior"]["z"].values[0, :, 4])
    np.testing.assert_array_equal(host["Om0"], asked["Om0"])
    assert set(host.data_vars) == set(LOCALS) | set(asked.names)
    with pytest.raises(KeyError, match=f"got 'X{name}'; the nearest is"):
        asked.host(f"X{name}")


def test_fewer_draws_are_some_of_them_and_more_are_new(asked):
    few = asked.sample(10, seed=1)
    assert few.draws == 10
    rows = [np.flatnonzero(asked["Om0"] == v)[0] for v in few["Om0"]]
    assert len(set(rows)) == 10
    np.testing.assert_array_equal(few["z"], asked["z"][rows])
    more = asked.sample(90, seed=1)
    assert more.draws == 90
    assert not np.isin(more["Om0"], asked["Om0"]).any()
    assert more.ids == asked.ids
    with pytest.raises(ValueError, match="at least one draw"):
        asked.sample(0)


def test_density_is_that_of_the_networks(asked, workplace):
    """Its mean over its own draws is minus the entropy, below that of the Gaussian with their covariance; outside the prior it is -inf."""
    draws = asked.sample(3000)
    ln_q = asked.log_prob(draws.marginal())
    scale = draws.marginal().std(0)
    gauss = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * np.corrcoef(draws.marginal().T))[1] + np.log(scale).sum()
    assert gauss - 8 < -ln_q.mean() < gauss + 0.3
    by_name = asked.log_prob({n: draws[n][:5] for n in asked.names})
    np.testing.assert_allclose(by_name, ln_q[:5], rtol=1e-4)
    outside = {n: float(draws[n][0]) for n in asked.names} | {"Om0": 7.0}
    assert np.isneginf(asked.log_prob(outside)).all()
    with pytest.raises(ValueError, match="expected values of Om0"):
        asked.log_prob({"Om0": 0.3})
    with pytest.raises(ValueError, match="expected the 13 parameters"):
        asked.log_prob([0.3, 0.7])


def test_conditioning_agrees_with_draws_that_happen_to_be_there(asked):
    """Against the draws of Θ within a narrow window of one parameter, for the most correlated pair; a window elsewhere is told apart."""
    theta = asked._fresh(100_000, 7)
    correlation = np.abs(np.corrcoef(theta.T)) - np.eye(len(asked.names))
    k, j = np.unravel_index(correlation.argmax(), correlation.shape)
    fixed, other = asked.names[k], asked.names[j]
    here, there = (float(np.quantile(theta[:, k], q)) for q in (0.8, 0.1))
    width = 0.05 * theta[:, k].std()
    window = {v: theta[np.abs(theta[:, k] - v) < width][:, j] for v in (here, there)}
    at = asked.conditional(**{fixed: here}, draws=2000)
    np.testing.assert_allclose(at[fixed], here, rtol=1e-5)
    assert at.attributes["effective_draws"] > 2000
    error = window[here].std() * (1 / len(window[here]) + 1 / 2000) ** 0.5
    assert abs(at[other].mean() - window[here].mean()) < 5 * error < abs(at[other].mean() - window[there].mean())
    assert at["z"].shape == (2000, len(asked.ids))
    with pytest.raises(ValueError, match="within the prior"):
        asked.conditional(Om0=7.0)
    with pytest.raises(ValueError, match="expected values of Om0"):
        asked.conditional(H0=70.0)


def test_products_with_a_gaussian_are_exact_for_gaussians_and_move_the_redshifts():
    post = synthetic(Om0=(0.3, 0.02), Ode0=(0.7, 0.05), correlation=0.9)
    told = post.combine(Gaussian(("Om0",), np.array([0.32]), np.array([[0.02**2]])))
    effective = told.attributes["effective_draws"]
    error = 0.02 / 2**0.5 / effective**0.5
    assert abs(told["Om0"].mean() - 0.31) < 5 * error < abs(post["Om0"].mean() - 0.31)
    assert told["Om0"].std() == pytest.approx(0.02 / 2**0.5, rel=5 / effective**0.5)
    assert abs((told["z"].mean() - post["z"].mean()) - 0.01 * 0.9 * 0.5) < 5 * 0.01 * (2 / effective) ** 0.5  # through the correlation
    assert told.attributes["weighted_by"] == "gaussian on Om0"
    with pytest.raises(ValueError, match=r"at least 50 effective draws, got .* hardly overlap"):
        post.combine(Gaussian(("Om0",), np.array([0.6]), np.array([[0.01**2]])))
    with pytest.raises(ValueError, match="got H0"):
        post.combine(Gaussian(("H0",), np.array([70.0]), np.array([[1.0]])))


def test_another_prior_gives_the_product_of_densities():
    post = synthetic(Om0=(0.3, 0.05))
    other = post.reweight({"Om0": {"normal": [0.3, 0.05], "within": [0.0, 1.0]}})
    assert other["Om0"].std() == pytest.approx(0.05 / 2**0.5, rel=5 / other.attributes["effective_draws"] ** 0.5)
    assert abs(post["Om0"].std() / (0.05 / 2**0.5) - 1) > 5 / other.attributes["effective_draws"] ** 0.5


def test_with_its_run_a_posterior_is_weighted_from_many_more_draws(asked):
    """Forty stored draws would not do."""
    middle, sd = float(np.median(asked["Om0"])), 0.1 * float(asked["Om0"].std())
    told = asked.combine(Gaussian(("Om0",), np.array([middle]), np.array([[sd**2]])))
    assert told.attributes["effective_draws"] > 1000
    assert told.draws == asked.draws
    assert told["Om0"].std() == pytest.approx(sd, rel=0.6)  # of 40 draws


def test_without_its_run_it_says_what_is_missing():
    with pytest.raises(FileError, match="run folder nowhere: expected the folder that made this posterior"):
        synthetic(10).log_prob(np.zeros((1, 13)))


def test_exports_hold_the_draws(asked, posterior, tmp_path):
    assert asked.to_arviz() is posterior
    chains = asked.to_getdist()
    assert [p.name for p in chains.paramNames.names] == list(asked.names)
    assert chains.mean("Om0") == pytest.approx(asked["Om0"].mean(), rel=1e-5)
    assert chains.ranges.getLower("Om0") == pytest.approx(asked.config.marginals["Om0"].low)
    path = asked.sample(8).save(tmp_path / "p.nc")
    again = load_posterior(path)
    assert again.draws == 8
    assert isinstance(arviz.from_netcdf(str(path)), arviz.InferenceData)
    np.testing.assert_array_equal(again["z"], asked.sample(8)["z"])
    assert again.host(again.ids[0])["z"].shape == (8,)


def test_the_run_may_have_moved(workplace, posterior, tmp_path):
    moved = load_posterior(posterior, run=tmp_path)
    with pytest.raises((FileError, ValueError), match="expected a finished training"):
        moved.log_prob(moved.marginal())
    assert np.isfinite(load_posterior(posterior, run=workplace.run).log_prob(moved.marginal())).all()

"""The numpyro model: its density against a sum written with scipy, its detected objects against the survey sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from scipy import stats

from cigars.config import Config
from cigars.schema import FIDUCIAL, Globals
from simulators.model import HostDistribution, globals_model, supernova_model
from tests.simulators import banks

THETA = FIDUCIAL._replace(dtd_slope=-1.1, gamma_Z=-0.4, alpha_c=0.02, Om0=0.35, Ode0=0.5, mass_step=0.1)
NUMBER = 40_000
LINES = {"m": (0.2, 56.0, 1.2, 0.0), "x": (0.0, 0.0, 1.0, -3.0), "c": (0.0, 0.0, 0.6, -7.0)}  # slope, pivot, scatter, offset of ln W


def _fixed(config, theta=THETA) -> dict:
    return {name: jnp.float32(getattr(theta, name)) for name in config.marginals}


@pytest.fixture(scope="module")
def traced(key, simulator, config):
    """Many objects drawn from the model at a fixed Θ: values of every site, with the log density of each."""

    def run(key):
        model = handlers.seed(handlers.substitute(supernova_model, _fixed(config)), key)
        trace = handlers.trace(model).get_trace(simulator, config, NUMBER)
        density = {k: s["fn"].log_prob(s["value"]) for k, s in trace.items() if s["type"] == "sample"}
        return {k: s["value"] for k, s in trace.items() if s["type"] in ("sample", "deterministic")}, density

    with jax.numpy_dtype_promotion("standard"):  # numpyro's Bernoulli mixes dtypes
        return jax.device_get(jax.jit(run)(key))


def test_prior_sites_are_those_of_the_configuration(key):
    for cosmology in ("LCDM", "flat-LCDM", "flat-w0waCDM"):
        config = Config().updated(**{"supernovae.cosmology": cosmology, "prior.beta.fixed": 3.1})
        model = handlers.trace(handlers.seed(globals_model, key))
        trace = model.get_trace(config)
        assert [k for k, s in trace.items() if s["type"] == "sample"] == list(config.marginals)
        with handlers.seed(rng_seed=key):
            theta = globals_model(config)
        assert float(theta.beta) == pytest.approx(3.1)
        assert (abs(float(theta.Om0 + theta.Ode0) - 1) < 1e-6) == (cosmology != "LCDM")
        for name, marginal in config.marginals.items():
            law = (
                stats.norm(marginal.loc, marginal.scale)
                if marginal.kind == "normal"
                else stats.uniform(marginal.low, marginal.high - marginal.low)
            )
            value = trace[name]["value"]
            assert float(trace[name]["fn"].log_prob(value)) == pytest.approx(law.logpdf(float(value)), abs=1e-5)


def _by_hand(value, bank, config, rows) -> dict[str, np.ndarray]:
    """ln density of each site of each object with scipy, from the bank and the specification; host as the bank's row."""
    v = {k: np.asarray(a, float)[..., rows] if np.ndim(a) == 1 else np.asarray(a, float) for k, a in value.items() if k != "mag"}
    rate = banks.rates(bank, THETA.dtd_slope)
    weight = rate.sum(1) / bank.keep_probability
    host, age_bin = v["host"].astype(int), v["age_bin"].astype(int)
    z, edges = bank.z[host].astype(float), banks.age_edges_gyr(bank.z)[host]
    modulus = banks.transverse_modulus(THETA, bank.z)[host]
    step = THETA.mass_step * (bank.mass_log10_msun[host] > THETA.mass_step_loc)
    delta = THETA.gamma_Z * bank.metallicity_log10_zsun[host] + THETA.gamma_age * v["age_gyr"] + step
    m = v["M_int"] + (v["R_V"] + 1) * v["A_V"] / v["R_V"] + modulus + 5 * np.log10(1 + z)
    truth = {"m": m, "x": v["x_int"], "c": v["c_int"] + v["A_V"] / v["R_V"]}
    template = bank.magnitude[host] + modulus[:, None]
    seen = stats.norm.cdf((np.polyval(config.selection.m50[::-1], z) - v["m"]) / np.exp(np.polyval(config.selection.ln_width[::-1], z)))
    seen = seen * (template < np.array(config.selection.host_thresholds)).all(1)
    out = {
        "host": np.log(weight[host] / weight.sum()),
        "age_bin": np.log(rate[host, age_bin] / rate[host].sum(1)),
        "age_gyr": -np.log(np.diff(edges, axis=1)[np.arange(len(host)), age_bin]),
        "x_int": stats.norm.logpdf(v["x_int"]),
        "c_int": stats.norm.logpdf(v["c_int"], THETA.alpha_c * v["x_int"], 0.1),
        "M_int": stats.norm.logpdf(v["M_int"], THETA.M0 + delta + THETA.alpha * v["x_int"] + THETA.beta * v["c_int"], THETA.sigma_int),
        "R_V": stats.truncnorm.logpdf(v["R_V"], -3.6, np.inf, 3, 0.5),
        "A_V": stats.expon.logpdf(v["A_V"], scale=0.1),
        "mag": stats.norm.logpdf(np.asarray(value["mag"], float)[rows], template, 0.01).sum(1),
        "detected": stats.bernoulli.logpmf(v["detected"].astype(int), seen),
    }
    for name, (slope, pivot, scatter, offset) in LINES.items():
        mean = offset + slope * (truth["m"] - pivot)
        out[f"var_{name}"] = stats.lognorm.logpdf(v[f"var_{name}"], scatter, scale=np.exp(mean))
        out[name] = stats.norm.logpdf(v[name], truth[name], np.sqrt(v[f"var_{name}"]))
    return out


def _bank_of(simulator, bank):
    """The bank in the simulator's rows (hosts that no cosmology shows are not among them)."""
    order = np.argsort(bank.mass_log10_msun)
    rows = order[np.searchsorted(bank.mass_log10_msun[order], np.asarray(simulator.table)[:, 1])]
    return type(bank)(*(c[rows] for c in bank[:-1]), bank.population)


def test_log_density_is_the_sum_written_by_hand(traced, simulator, bank, config):
    value, density = traced
    rows = np.flatnonzero(np.asarray(value["var_m"]) > 1e-6)[:500]  # an error of 1 mmag against float32 magnitudes of 2e-6
    by_hand = _by_hand(value, _bank_of(simulator, bank), config, rows)
    assert set(by_hand) | set(config.marginals) == set(density)
    clear = np.isfinite(by_hand["detected"])  # a certain detection that float32 rounds to 1
    for name, exact in by_hand.items():
        # float32: magnitudes of 22 and errors of a few mmag leave 1e-2 of a log density of the worst, moduli 2e-3
        np.testing.assert_allclose(np.asarray(density[name])[rows][clear], exact[clear], atol=0.03, rtol=2e-3, err_msg=name)
        spread = np.median(np.abs(np.asarray(density[name], float)[rows][clear] - exact[clear]))
        assert spread < 2e-3, name
    total = sum(np.asarray(d, float)[rows][clear].sum() for k, d in density.items() if k in by_hand)
    assert total == pytest.approx(sum(e[clear].sum() for e in by_hand.values()), rel=1e-4)
    shifted = _by_hand({**value, "M_int": np.asarray(value["M_int"]) + 0.02}, _bank_of(simulator, bank), config, rows)
    assert np.median(np.abs(np.asarray(density["M_int"], float)[rows] - shifted["M_int"])) > 2e-3


def test_detected_objects_of_the_model_are_those_of_surveys(traced, draw_at, simulator):
    value, _ = traced
    seen = np.asarray(value["detected"]) == 1
    assert 0.1 < seen.mean() < 0.9
    rows = np.asarray(simulator.table)[np.asarray(value["host"])[seen]]
    model = {
        k: np.asarray(value[k], float)[seen]
        for k in ("m", "x", "c", "var_m", "var_x", "var_c", "age_gyr", "x_int", "c_int", "delta_M", "R_V", "A_V")
    }
    model |= {"z": rows[:, 0], "mass_log10_msun": rows[:, 1], "metallicity_log10_zsun": rows[:, 2]}
    model |= {f"mag_{b}": np.asarray(value["mag"])[seen, b] for b in range(6)}
    p = banks.p_values(banks.columns_of(draw_at(THETA)), model)
    assert len(p) == 21
    assert min(p.values()) > 1e-4, p
    other = banks.p_values(banks.columns_of(draw_at(THETA._replace(gamma_Z=0.1, dtd_slope=-1.5))), model)
    assert other["delta_M"] < 1e-4
    assert other["age_gyr"] < 1e-4


def test_host_distribution_draws_what_it_scores(key):
    weight = np.random.default_rng(0).exponential(size=300) ** 2
    law = HostDistribution(jnp.asarray(np.log(weight) + 40, jnp.float32))
    drawn = np.bincount(np.asarray(law.sample(key, (60_000,))), minlength=300)
    expected = 60_000 * np.exp(np.asarray(law.log_prob(jnp.arange(300)), float))
    np.testing.assert_allclose(expected, 60_000 * weight / weight.sum(), rtol=1e-4)
    well = expected > 20
    pull = ((drawn - expected) / np.sqrt(expected))[well]
    assert np.abs(pull).max() < 5
    assert np.abs(((drawn - expected[::-1]) / np.sqrt(expected[::-1]))[well]).max() > 5


@pytest.mark.parametrize(
    "setting",
    [
        {"supernovae.dust": "local"},
        {"observation.host_errors": "lsst"},
        {"observation.sn_correlation": [0.5, 0.0, 0.0]},
        {"observation.sn_x.floor": 0.5},
        {"observation.spectroscopic_fraction": 1.0},
        {"observation.missing_probability": 0.3},
    ],
)
def test_what_the_model_does_not_state_is_refused(simulator, setting):
    with pytest.raises(ValueError, match="supernova_model: expected"):
        supernova_model(simulator, Config().updated(**setting), 3)


def test_a_region_is_refused_which_no_site_states():
    region = {"names": ["Om0"], "centre": [0.3], "directions": [[1.0]], "limits": [[-0.1, 0.1]]}
    with pytest.raises(ValueError, match=r"prior\.region: expected none"):
        globals_model(Config().updated(**{"prior.region": region}))


def test_globals_are_a_schema_tuple(key, config):
    with handlers.seed(rng_seed=key):
        assert isinstance(globals_model(config), Globals)

"""Surveys by thinning against direct sampling from the full rates, and their randomness: splits, devices, Poisson counts."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from scipy import stats

from cigars.config import Config
from cigars.schema import FIDUCIAL, Globals
from simulators import survey as module
from simulators.categorical import draw_index
from simulators.priors import log_prior
from simulators.supernovae import host_dust
from simulators.survey import SurveyOverflow, draw_surveys, prepare
from tests.simulators import banks
from tests.simulators.conftest import EXPECTED, SURVEYS

P_MIN = 1e-4  # of 20 columns at three Θ: one false alarm in 160 runs of other keys
STEEP = FIDUCIAL._replace(dtd_slope=-1.75, Om0=0.4, Ode0=0.3, gamma_Z=-0.5, mass_step=0.1, alpha_c=0.03)
SHALLOW = FIDUCIAL._replace(dtd_slope=-0.95, dtd_logA=-12.3, Om0=0.2, Ode0=0.9, beta=3.0, M0=-19.3)


def _direct(bank, config, theta, years, seed, number=SURVEYS):
    rng = np.random.default_rng(seed)
    drawn = [banks.direct_sample(bank, config, theta, number * years, rng)]
    return banks.flat({k: np.concatenate([d[k] for d in drawn]) for k in drawn[0]})


@pytest.mark.parametrize("theta", [FIDUCIAL, STEEP, SHALLOW], ids=["fiducial", "steep", "shallow"])
def test_thinning_is_direct_sampling_from_the_full_rates(draw_at, bank, config, years, theta):
    """Every column, the hosts one by one, and the number, against float64 draws of (host, bin) from R_{hi}(s)."""
    survey = draw_at(theta, batch=3)
    ours, theirs = banks.columns_of(survey), _direct(bank, config, theta, years, 0)
    p = banks.p_values(ours, {k: v for k, v in theirs.items() if k != "host"})
    assert len(p) == 22
    assert min(p.values()) > P_MIN, p
    total = survey.number.sum(), len(theirs["z"])
    assert abs(total[0] - total[1]) < 5 * np.sqrt(sum(total)) + 0.005 * total[0]  # the exposure is itself a sample's, to 0.4 %
    assert _hosts_agree(ours, theirs, bank) > P_MIN
    wrong = _direct(bank, config, theta._replace(dtd_slope=theta.dtd_slope + 0.25), years, 1)
    assert stats.ks_2samp(ours["age_gyr"], wrong["age_gyr"]).pvalue < P_MIN
    assert _hosts_agree(ours, wrong, bank) < P_MIN


def _hosts_agree(ours, theirs, bank, groups: int = 20) -> float:
    """χ² p of the counts of hosts, in groups of like ages of their stars, R(s)/R⁰; hosts are told by their masses."""
    rank = np.argsort(banks.rates(bank, -0.3).sum(1) / banks.rates(bank, -1.34).sum(1))
    group = np.empty(len(rank), int)
    group[rank] = np.arange(len(rank)) * groups // len(rank)
    table = np.stack([np.bincount(group[_rows(s["mass_log10_msun"], bank)], minlength=groups) for s in (ours, theirs)])
    return float(stats.chi2_contingency(table[:, table.sum(0) > 20]).pvalue)


def _rows(mass: np.ndarray, bank) -> np.ndarray:
    """Hosts of the bank by their masses, which are all different."""
    order = np.argsort(bank.mass_log10_msun)
    return order[np.searchsorted(bank.mass_log10_msun[order], mass.astype(np.float32))]


def test_hosts_are_lost_by_the_efficiency_of_their_band(key, simulator, bank, config, years):
    """The number and the columns against direct sampling, and against one that loses no host."""
    lossy, few = config.updated(**{"selection.host_efficiency": ("r", 21.0, 0.9)}), SURVEYS // 4
    ours = banks.columns_of(jax.device_get(draw_surveys(key, jnp.arange(few), simulator, lossy, FIDUCIAL)))
    right, wrong = (_direct(bank, c, FIDUCIAL, years, 2, few) for c in (lossy, config))
    assert min(stats.ks_2samp(ours[name], right[name]).pvalue for name in ("mag_0", "mag_2", "mag_5", "m", "z")) > P_MIN
    assert stats.ks_2samp(ours["mag_2"], wrong["mag_2"]).pvalue < P_MIN
    number, others = len(ours["z"]), np.array([len(right["z"]), len(wrong["z"])])
    pull = abs(others - number) / (np.sqrt(others + number) + 0.001 * number)  # the exposure is itself a sample's
    assert pull[0] < 5 < pull[1]


def test_counts_are_poisson(draw_at, prior_surveys):
    numbers = np.concatenate([draw_at(FIDUCIAL, batch).number for batch in range(4, 12)]).astype(float)
    error = 5 * np.sqrt(2 / len(numbers))  # of a sample variance over the mean
    assert abs(numbers.var(ddof=1) / numbers.mean() - 1) < error
    assert numbers.mean() == pytest.approx(EXPECTED, rel=0.01)
    mixed = prior_surveys.number.astype(float)
    assert abs(mixed.var(ddof=1) / mixed.mean() - 1) > error


@pytest.mark.parametrize("rate", [30.0, 2e4, 2e5])
def test_float32_poisson_numbers_are_good_enough(key, rate):
    """JAX draws them by rejection with float32 log-gammas, whose errors are 0.25 at 2e5: is the law still that of Poisson?"""
    drawn = np.asarray(jax.vmap(lambda k: jax.random.poisson(k, rate))(jax.random.split(key, 20_000)), float)
    assert abs(drawn.mean() - rate) < 5 * np.sqrt(rate / 20_000)
    assert abs(drawn.var() / rate - 1) < 5 * np.sqrt(2 / 20_000)
    u = np.random.default_rng(0).random(20_000)  # randomised probability integral transform: uniform for a discrete law
    transform = lambda mean: stats.poisson.cdf(drawn - 1, mean) + u * stats.poisson.pmf(drawn, mean)  # noqa: E731
    assert stats.kstest(transform(rate), "uniform").pvalue > 1e-3
    assert stats.kstest(transform(rate + 0.1 * np.sqrt(rate)), "uniform").pvalue < 1e-3


def test_padding_is_zero_and_rows_are_packed(fiducial_surveys):
    s = fiducial_surveys
    np.testing.assert_array_equal(s.observed.sum(1), s.number)
    assert np.all(s.observed == (np.arange(s.observed.shape[1]) < s.number[:, None]))
    for leaf in (*s.observations, *s.latents, s.host):
        assert np.all(leaf[~s.observed] == 0)
    assert np.all(s.latents.z[s.observed] > 0)
    assert np.all(np.isnan(s.observations.z_spec[s.observed]))


def test_columns_of_a_row_belong_together(fiducial_surveys, bank):
    """Host rows and their columns, magnitudes within six errors of the host's, dust and light by their equations."""
    s, o, t = fiducial_surveys, fiducial_surveys.observations, fiducial_surveys.latents
    seen = s.observed
    rows = _rows(t.mass_log10_msun[seen], bank)
    np.testing.assert_array_equal(bank.z[rows], t.z[seen])
    modulus = banks.transverse_modulus(FIDUCIAL, bank.z)[rows]
    pull = (o.mag[seen] - bank.magnitude[rows] - modulus[:, None]) / o.mag_err[seen]
    assert np.abs(pull).max() < 6
    assert stats.kstest(pull.ravel().astype(float), "norm").pvalue > 1e-4
    excess = t.A_V[seen] / t.R_V[seen]
    mean = FIDUCIAL.M0 + t.delta_M[seen] + FIDUCIAL.alpha * t.x_int[seen] + FIDUCIAL.beta * t.c_int[seen] + t.A_V[seen] + excess
    residual = o.m[seen] - (mean + modulus + 5 * np.log10(1 + t.z[seen]))
    assert residual.std() == pytest.approx(np.sqrt(FIDUCIAL.sigma_int**2 + o.var_m[seen].mean()), rel=0.05)  # selection narrows it a little
    assert np.abs(((o.c - t.c_int)[seen] - excess) / np.sqrt(o.var_c[seen])).max() < 6
    assert np.abs((o.x - t.x_int)[seen] / np.sqrt(o.var_x[seen])).max() < 6


def test_prior_draws_are_inside_the_prior_and_fixed_parameters_fixed(prior_surveys, config):
    theta = prior_surveys.theta
    assert np.all(np.isfinite(log_prior(theta, config.marginals)))
    assert np.all(theta.w0 == -1)
    assert all(len(np.unique(getattr(theta, name))) > 0.9 * SURVEYS for name in config.marginals)


def _equal(a, b, pick=slice(None)) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x[pick], y, equal_nan=True) for x, y in pairs)


def test_a_survey_is_the_same_wherever_it_is_in_a_batch(key, simulator, config, prior_surveys):
    half = SURVEYS // 2
    shifted = jax.device_get(draw_surveys(key, jnp.arange(SURVEYS) + half, simulator, config))
    assert _equal(prior_surveys, jax.tree.map(lambda leaf: leaf[:half], shifted), slice(half, None))
    assert not _equal(prior_surveys, shifted)


@pytest.mark.slow
def test_surveys_do_not_depend_on_how_the_index_range_is_split(key, simulator, config, prior_surveys):
    for index in (np.arange(0, 8), np.arange(8, 16), np.arange(0, 5), np.arange(5, 16), np.array([3]), np.array([12, 2])):
        assert _equal(prior_surveys, jax.device_get(draw_surveys(key, jnp.asarray(index), simulator, config)), index)


EIGHT = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
import jax.numpy as jnp
import numpy as np
from cigars.config import Config
from simulators.simulator import build_simulator
from simulators.survey import draw_surveys
from tests.simulators.banks import synthetic_bank

config = Config.model_validate_json(sys.argv[1])
simulator = build_simulator(config, synthetic_bank())._replace(ln_total=jnp.float32(float(sys.argv[3])))
out = {}
for size in map(int, sys.argv[4:]):
    survey = draw_surveys(jax.random.key(20251121), jnp.arange(size), simulator, config)
    assert len(jax.local_devices()) == 8
    out |= {f"{size}_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(survey))}
np.savez(sys.argv[2], **out)
"""


def _on_eight_devices(config, simulator, path: Path, *sizes: int) -> dict[int, list[np.ndarray]]:
    command = [sys.executable, "-c", EIGHT, config.model_dump_json(), str(path), repr(float(simulator.ln_total)), *map(str, sizes)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(path) as raw:
        return {size: [raw[f"{size}_{i}"] for i in range(len(raw.files) // len(sizes))] for size in sizes}


@pytest.mark.slow
def test_eight_devices_give_the_surveys_of_one(config, simulator, prior_surveys, tmp_path):
    rows = _on_eight_devices(config, simulator, tmp_path / "eight.npz", 16)[16]
    assert _equal(prior_surveys, rows, slice(16))


@pytest.mark.slow
def test_eight_devices_and_a_number_they_do_not_divide(config, simulator, prior_surveys, tmp_path):
    for size, rows in _on_eight_devices(config, simulator, tmp_path / "eight.npz", 11, 3).items():
        assert _equal(prior_surveys, rows, slice(size))


PROCESS = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{sys.argv[4]}", 2, int(sys.argv[5]))
import jax.numpy as jnp
import numpy as np
from cigars.config import Config
from simulators.simulator import build_simulator
from simulators.survey import draw_surveys
from tests.simulators.banks import synthetic_bank

assert (jax.process_count(), jax.device_count(), len(jax.local_devices())) == (2, 4, 2)
config = Config.model_validate_json(sys.argv[1])
simulator = build_simulator(config, synthetic_bank())._replace(ln_total=jnp.float32(float(sys.argv[3])))
survey = draw_surveys(jax.random.key(20251121), jnp.arange(8) + 8 * jax.process_index(), simulator, config)
np.savez(sys.argv[2] + f"/{jax.process_index()}.npz", *(np.asarray(leaf) for leaf in jax.tree.leaves(survey)))
"""


@pytest.mark.slow
def test_two_processes_of_jax_distributed_simulate_their_own_numbers(config, simulator, prior_surveys, tmp_path):
    """Each on its own two devices, as on two hosts of a cluster: surveys are independent, so nothing is exchanged."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", PROCESS, config.model_dump_json(), str(tmp_path), repr(float(simulator.ln_total)), port]
    root, environment = Path(__file__).resolve().parents[2], os.environ | {"JAX_PLATFORMS": "cpu"}
    started = [subprocess.Popen([*command, str(i)], cwd=root, env=environment, stderr=subprocess.PIPE, text=True) for i in range(2)]
    for process in started:
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error[-3000:]
    for i in range(2):
        with np.load(tmp_path / f"{i}.npz") as raw:
            rows = [raw[name] for name in raw.files]
        assert _equal(prior_surveys, rows, slice(8 * i, 8 * i + 8))
        assert not _equal(prior_surveys, rows, slice(8 - 8 * i, 16 - 8 * i))


def test_surveys_in_step_are_those_in_turn(key, simulator, config):
    """The program of an accelerator, all surveys at once, against that of a CPU: the same but for the rounding of another compilation."""
    index, mesh = jnp.arange(24), Mesh(np.array(jax.local_devices()[:1]), ("survey",))
    survey = jax.device_get(module._sharded(key, index, simulator, None, config, config.size.capacity, mesh, in_turn=False))
    assert len(np.unique(survey.number)) > 12  # surveys end after different numbers of blocks
    in_turn = jax.device_get(draw_surveys(key, index, simulator, config))
    for ours, theirs in zip(jax.tree.leaves(survey), jax.tree.leaves(in_turn), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)
    assert _equal(survey.host, in_turn.host)
    assert not _equal(survey.host[1:], in_turn.host[:-1])


def test_the_simulator_names_no_kind_of_device():
    """TPU and GPU alike: what is written for one would not run on another."""
    root = Path(module.__file__).parent
    texts = {p.name: p.read_text(encoding="utf-8").lower() for p in root.rglob("*.py")}
    assert len(texts) > 20
    assert not {name for name, text in texts.items() if re.search("cuda|nvidia|rocm|cupy|triton|pallas", text)}


def test_a_survey_of_more_objects_than_the_capacity_is_given_room(key, simulator, config, fiducial_surveys):
    """A training of tens of thousands of surveys must not end at the richest; its neighbours stay what they are, bit for bit."""
    expected = EXPECTED * np.array([1.0, 10**0.95])
    amplitude = FIDUCIAL.dtd_logA + np.log10(expected / EXPECTED).astype(np.float32)
    both = jax.device_get(draw_surveys(key, jnp.arange(2), simulator, config, FIDUCIAL._replace(dtd_logA=amplitude)))
    capacity = config.size.capacity
    assert expected[1] > 2 * capacity
    assert both.observed.shape == (2, 4 * capacity)
    assert np.all(np.abs(both.number - expected) < 5 * np.sqrt(expected) + 0.01 * expected)
    assert np.all(both.observed == (np.arange(4 * capacity) < both.number[:, None]))
    alone = jax.tree.map(lambda leaf: leaf[:1, :capacity] if leaf.ndim > 1 else leaf[:1], both)
    assert _equal(fiducial_surveys, alone, slice(0, 1))
    beyond, usual = both.latents.z[1, capacity : both.number[1]], fiducial_surveys.latents.z[fiducial_surveys.observed]
    assert stats.ks_2samp(beyond, usual).pvalue > P_MIN
    assert stats.ks_2samp(beyond * 1.2, usual).pvalue < P_MIN
    assert not both.latents.z[~both.observed].any()


def test_overflow_is_an_error_that_names_the_numbers(draw_at):
    with pytest.raises(SurveyOverflow, match=r"at most 8 times size.capacity = 640 objects, drew \d{4,}; set size.capacity above"):
        draw_at(FIDUCIAL._replace(dtd_logA=-10.4))


def test_the_simulator_of_a_configuration_draws_the_same_stream_and_is_made_once(key, config, bank, prior_surveys, monkeypatch):
    monkeypatch.setattr(module, "load_bank", lambda hosts: bank)
    module.load_simulator.cache_clear()
    try:
        assert _equal(prior_surveys, draw_surveys(key, jnp.arange(SURVEYS), module.load_simulator(config), config))
        assert module.load_simulator(config) is module.load_simulator(config)
    finally:
        module.load_simulator.cache_clear()


def test_theta_may_differ_between_surveys(key, simulator, config, fiducial_surveys):
    brighter = np.where(np.arange(SURVEYS) % 2, -19.9, FIDUCIAL.M0).astype(np.float32)
    theta = FIDUCIAL._replace(M0=brighter)
    survey = jax.device_get(draw_surveys(key, jnp.arange(SURVEYS), simulator, config, Globals(*theta)))
    even = np.arange(0, SURVEYS, 2)
    assert _equal(fiducial_surveys, jax.tree.map(lambda leaf: leaf[even], survey), even)
    assert survey.number[1::2].mean() > survey.number[::2].mean() + 5 * np.sqrt(2 * EXPECTED / len(even))


def test_few_objects_share_a_host_where_the_bank_is_large(key, simulator, bank):
    """The number of pairs with one host among N draws is N(N − 1)/2 over the effective number: what a large bank is for."""
    weight = np.exp(np.asarray(simulator.ln_weight, float))
    effective = weight.sum() ** 2 / (weight**2).sum()
    drawn, repeats = 200, 400
    hosts = np.asarray(draw_index(key, simulator.cdf, drawn * repeats)).reshape(repeats, drawn)
    pairs = np.array([(np.bincount(row) * (np.bincount(row) - 1) // 2).sum() for row in hosts])
    expected = drawn * (drawn - 1) / 2 / effective
    assert pairs.mean() == pytest.approx(expected, abs=5 * np.sqrt(expected / repeats) * 1.2)
    assert pairs.mean() != pytest.approx(expected * effective / len(weight), abs=5 * np.sqrt(expected / repeats))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["host", "local"])
def test_variants_of_cosmology_dust_and_errors_together(key, bank, variant):
    """Flat w0waCDM, dust of the host, LSST errors, missing bands, correlated errors and some redshifts, in one survey."""
    settings = {
        "supernovae.cosmology": "flat-w0waCDM",
        "supernovae.dust": variant,
        "observation.host_errors": "lsst",
        "observation.missing_probability": 0.1,
        "observation.sn_correlation": [0.5, -0.3, 0.2],
        "observation.spectroscopic_fraction": 0.25,
        "size.expected_supernovae": EXPECTED,
        "size.capacity": 1024,
    }
    config = Config().updated(**settings)
    survey = jax.device_get(draw_surveys(key, jnp.arange(SURVEYS), prepare(config, bank), config))
    seen, o, t, theta = survey.observed, survey.observations, survey.latents, survey.theta
    np.testing.assert_allclose(theta.Ode0, 1 - theta.Om0, atol=1e-6)
    assert theta.w0.std() > 0.4
    assert theta.wa.std() > 1
    assert np.isnan(o.mag[seen]).mean() == pytest.approx(0.1, abs=0.01)
    assert np.isfinite(o.z_spec[seen]).mean() == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(o.cov_mx[seen], 0.5 * np.sqrt(o.var_m * o.var_x)[seen], rtol=1e-5)
    rows, objects = _rows(t.mass_log10_msun[seen], bank), np.nonzero(seen)[0]
    r_v, a_v = (np.asarray(v) for v in host_dust(jnp.asarray(bank.dust_tau2[rows]), jnp.asarray(bank.dust_index[rows])))
    np.testing.assert_allclose(t.R_V[seen], r_v, rtol=2e-5)
    column = t.A_V[seen] / a_v
    assert np.allclose(column, 1, rtol=1e-4) == (variant == "host")
    assert np.median(column) < 1.2  # selection prefers thin columns
    pull = ((o.c - t.c_int)[seen] - t.A_V[seen] / r_v) / np.sqrt(o.var_c[seen])
    assert stats.kstest(pull.astype(float), "norm").pvalue > P_MIN  # colour plays no part in selection once m is given... nearly
    for survey_number in range(0, 20, 5):
        one = objects == survey_number
        modulus = banks.transverse_modulus(Globals(*(v[survey_number] for v in theta)), bank.z, "flat-w0waCDM")[rows[one]]
        pulls = (o.mag[seen][one] - bank.magnitude[rows[one]] - modulus[:, None]) / o.mag_err[seen][one]
        assert np.nanmax(np.abs(pulls)) < 6


def test_exposure_scales_the_counts_and_is_log_uniform(key, simulator, config, fiducial_surveys):
    longer = config.updated(**{"size.exposure": (0.5, 2.0)})
    drawn = jax.device_get(draw_surveys(key, jnp.arange(256), simulator, longer, FIDUCIAL))
    assert np.all((drawn.exposure >= 0.5) & (drawn.exposure <= 2.0))
    assert stats.kstest(np.log(drawn.exposure) / np.log(2), "uniform", (-1, 2)).pvalue > 1e-3
    mean = fiducial_surveys.number.mean()
    pull = (drawn.number - mean * drawn.exposure) / np.sqrt(mean * drawn.exposure)
    assert abs(pull.mean()) < 5 / 256**0.5
    assert abs(pull.std() - 1) < 5 / (2 * 256) ** 0.5
    correlation = lambda values: abs(stats.spearmanr(values, drawn.exposure).statistic)  # noqa: E731
    assert correlation(pull) < 5 / 256**0.5  # a key used twice would let a number follow the exposure beyond its mean
    wrong = (drawn.number - mean) / mean**0.5  # as if every survey had been exposed alike
    assert abs(wrong.std() - 1) > 5 / (2 * 256) ** 0.5
    assert correlation(wrong) > 5 / 256**0.5
    assert np.all(fiducial_surveys.exposure == 1)

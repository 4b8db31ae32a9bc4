"""The prepared bank: what is packed is what is unpacked, and no host that a cosmology of the prior shows is dropped."""

import gc
import logging
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cigars.config import Config
from cigars.schema import FIDUCIAL
from simulators.hosts import fiducial_rate
from simulators.simulator import SCALARS, build_simulator, transverse_modulus, unpack
from simulators.survey import prepare
from tests.simulators import banks


def _ids(simulator, bank) -> np.ndarray:
    """Rows of the bank that the simulator kept, found by their masses (all different)."""
    order = np.argsort(bank.mass_log10_msun)
    return order[np.searchsorted(bank.mass_log10_msun[order], np.asarray(simulator.table)[:, 1])]


def test_unpacked_columns_are_those_of_the_bank(bank, yearly, config):
    h, rows = unpack(yearly.table, 6), _ids(yearly, bank)
    for name in SCALARS:
        np.testing.assert_array_equal(getattr(h, name), getattr(bank, name)[rows])
    np.testing.assert_array_equal(h.ln_mass, bank.ln_mass[rows])
    np.testing.assert_array_equal(h.magnitude, bank.magnitude[rows])
    faintest = (np.array(config.selection.host_thresholds) - bank.magnitude[rows].astype(float)).min(1)
    np.testing.assert_allclose(h.faintest, faintest, atol=1e-5)  # float32 magnitudes
    np.testing.assert_allclose(h.ln_rate0, np.log(banks.rates(bank, -1.34).sum(1))[rows], atol=1e-4)  # 2e-5 of ages, float32 at 23


def test_weights_are_rates_over_the_probability_of_being_kept(bank, yearly):
    rows = _ids(yearly, bank)
    weight = (banks.rates(bank, -1.34).sum(1) / bank.keep_probability)[rows]
    assert float(yearly.ln_total) == pytest.approx(np.log(weight.sum()), abs=1e-4)
    np.testing.assert_allclose(yearly.ln_weight, np.log(weight), atol=1e-4)
    assert not np.allclose(yearly.ln_weight, np.log(banks.rates(bank, -1.24).sum(1)[rows] / bank.keep_probability[rows]), atol=1e-2)
    np.testing.assert_allclose(fiducial_rate(bank), banks.rates(bank, -1.34).sum(1), rtol=1e-4)


def test_the_age_range_covers_every_host(bank, yearly):
    edges = banks.age_edges_gyr(bank.z)
    centres = np.log(edges[:, 1:] * edges[:, :-1]) / 2
    low, high = np.asarray(yearly.ln_age_range, float)
    assert low == pytest.approx(centres.min(), abs=3e-5)
    assert high == pytest.approx(centres.max(), abs=3e-5)


@pytest.mark.parametrize("model", ["LCDM", "flat-w0waCDM"])
def test_only_hosts_that_no_cosmology_of_the_prior_shows_are_dropped(bank, model):
    """Random cosmologies of the prior by astropy against one comparison at its corners."""
    config = Config().updated(**{"supernovae.cosmology": model})
    faint = bank._replace(magnitude=bank.magnitude + 3)  # about half are then out of reach
    kept = np.zeros(len(bank.z), bool)
    kept[_ids(build_simulator(config, faint), bank)] = True
    thresholds, rng = np.array(config.selection.host_thresholds), np.random.default_rng(0)
    shown = np.zeros_like(kept)
    for i in range(60):
        om, ode, w0, wa = (rng.uniform(*r) for r in ((0, 1), (0, 1), (-2, 0), (-3, 2)))
        om, ode = (max(om, 1e-3), ode) if i else (1.0, 0.0)
        theta = FIDUCIAL._replace(Om0=om, Ode0=ode, w0=w0, wa=wa)
        shown |= (faint.magnitude + banks.transverse_modulus(theta, bank.z, model)[:, None] < thresholds).all(1)
    assert not (shown & ~kept).any()
    assert 0.2 < kept.mean() < 0.9
    if model == "LCDM":  # Einstein-de Sitter is the nearest, and it was among them: none is kept in vain
        assert (kept & ~shown).mean() < 0.002


def test_an_unbounded_prior_keeps_every_host(bank):
    config = Config().updated(**{"prior.Om0": {"normal": [0.3, 0.05]}})
    assert len(build_simulator(config, bank._replace(magnitude=bank.magnitude + 3)).table) == len(bank.z)


def test_thresholds_that_leave_no_host_are_refused(bank):
    config = Config().updated(**{"selection.host_thresholds": [5.0] * 6})
    with pytest.raises(ValueError, match="host_thresholds: expected hosts brighter"):
        build_simulator(config, bank)


def test_transverse_modulus_is_that_of_astropy(bank):
    theta = FIDUCIAL._replace(Om0=0.4, Ode0=0.2)
    ours = np.asarray(transverse_modulus(theta, jnp.asarray(bank.z), 1.2), float)
    np.testing.assert_allclose(ours, banks.transverse_modulus(theta, bank.z), atol=3e-5)  # 1e-5 in distance and float32 at 44
    assert not np.allclose(ours, banks.transverse_modulus(theta._replace(Om0=0.401), bank.z), atol=3e-5)


def test_to_prepare_a_bank_again_compiles_nothing_and_leaves_nothing_behind(bank, config, caplog):
    """Else a process that simulates under ever other seeds grows; a function made anew at each call is compiled, and remembered, anew."""

    def traces(call) -> tuple[int, int]:
        """Programs compiled by a second call, and weak references left by a third."""
        call()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            caplog.clear()
            call()
        before = _weak_references()
        call()
        return sum(r.message.startswith("Compiling") for r in caplog.records), _weak_references() - before

    assert traces(lambda: prepare(config, bank)) == (0, 0)
    assert traces(lambda: jax.jit(lambda z: z + 1)(bank.z))[0] == 1
    assert traces(lambda: jax.vmap(lambda om: transverse_modulus(FIDUCIAL._replace(Om0=om), bank.z, 1.2))(bank.z[:3]))[1] > 0


def _weak_references() -> int:
    gc.collect()
    return sum(type(o) is weakref.ReferenceType for o in gc.get_objects())

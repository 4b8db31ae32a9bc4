"""The bank of hosts: what importance drawing conserves, and the cache that keeps it."""

import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy import stats

from cigars.config import HostConfig
from cigars.schema import Galaxies
from simulators import hosts
from simulators.hosts import HostBank, bank_fingerprint, build_bank, cache_folder, effective_number, load_bank, read_bank, write_bank
from simulators.population import draw_galaxies
from simulators.star_formation import bin_masses_log10
from tests.simulators import banks
from tests.simulators.sps.galaxies import random_galaxies

SMALL = HostConfig(effective_hosts=1500, z_max=1.0, bank_seed=3)
CHUNK = 40_000


@pytest.fixture(scope="module")
def built():
    """A bank from few galaxies, its magnitudes replaced by −2.5 log M: importance drawing without photometry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hosts, "CHUNK", CHUNK)
        patch.setattr(hosts, "load_photometry", lambda config: None)
        patch.setattr(hosts, "template_magnitudes", _stand_in)
        steps: list[tuple[float, float]] = []
        return build_bank(SMALL, progress=lambda done, total: steps.append((done, total))), steps


def _stand_in(galaxies: Galaxies, photometry, progress=None) -> np.ndarray:
    if progress:
        progress(1.0, 1.0)
    return np.repeat(-2.5 * np.asarray(galaxies.mass_log10_msun)[:, None], 6, 1)


@pytest.fixture(scope="module")
def population():
    """Galaxies of the same population, each counted once, with their rates in float64."""
    galaxies = jax.device_get(jax.jit(draw_galaxies, static_argnums=(1, 2, 3))(jax.random.key(99), 400_000, 1.0, "tabulated"))
    ln_mass = np.log(10) * np.asarray(jax.jit(bin_masses_log10)(galaxies))[:, 2:] - np.log1p(galaxies.z)[:, None]
    blank = np.zeros(len(galaxies.z), np.float32)
    return galaxies, banks.rates(HostBank(galaxies.z, *[blank] * 6, ln_mass, blank, blank, blank), -1.34).sum(1)


def test_the_effective_number_is_reached(built):
    bank, steps = built
    weight = banks.rates(bank, -1.34).sum(1) / bank.keep_probability
    exact = weight.sum() ** 2 / (weight**2).sum()
    assert effective_number(bank) == pytest.approx(exact, rel=1e-3)
    assert exact >= SMALL.effective_hosts
    assert len(bank.z) > exact
    assert float(bank.population) % CHUNK == 0
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (SMALL.effective_hosts, SMALL.effective_hosts)


@pytest.mark.parametrize("weights", [np.ones(7), np.array([1.0, 0, 0]), np.array([3.0, 1.0])])
def test_effective_number_of_known_weights(bank, weights):
    """Equal weights count each host, a single one counts one, (3, 1) counts 16/10."""
    rate = banks.rates(bank, -1.34).sum(1)[: len(weights)]
    few = HostBank(*(c[: len(weights)] for c in bank[:-1]), bank.population)._replace(keep_probability=rate / (weights + 1e-12) / 1e9)
    assert effective_number(few) == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-3)


def test_probabilities_are_the_rate_over_its_high_quantile(built, population):
    bank, _ = built
    rate = banks.rates(bank, -1.34).sum(1)
    rare = bank.keep_probability < 1
    reference = rate[rare] / bank.keep_probability[rare]
    np.testing.assert_allclose(reference, reference[0], rtol=2e-3)  # rates from ages good to 2e-5, float32 logarithms of 23
    # standard error of the 99.5 % quantile, known from 40,000 draws: five of its fraction, √(0.005 / 40,000)
    assert abs((population[1] > reference[0]).mean() - 0.005) < 5 * np.sqrt(0.005 / CHUNK)
    assert np.all(rate[~rare] >= reference[0] * 0.998)


def test_the_bank_stands_for_the_whole_population(built, population):
    """Σ R⁰/p over the bank is Σ R⁰ over the population drawn, and so is every rate-weighted mean."""
    bank, _ = built
    galaxies, rate = population
    weight = banks.rates(bank, -1.34).sum(1) / bank.keep_probability
    effective = rate.sum() ** 2 / (rate**2).sum()
    error = 5 * np.sqrt(1 / effective + 1 / effective_number(bank) + 1 / (float(bank.population) / len(rate) * effective))
    assert weight.sum() / float(bank.population) == pytest.approx(rate.mean(), rel=error)
    for name in ("z", "mass_log10_msun", "metallicity_log10_zsun", "dust_tau2", "gas_metallicity_log10_zsun"):
        values, own = np.asarray(getattr(galaxies, name), float), np.asarray(getattr(bank, name), float)
        mean, sd = np.average(values, weights=rate), np.sqrt(np.cov(values, aweights=rate))
        assert np.average(own, weights=weight) == pytest.approx(mean, abs=error * sd), name
    unweighted = bank.mass_log10_msun.mean()
    assert unweighted != pytest.approx(np.average(galaxies.mass_log10_msun, weights=rate), abs=0.02)


def test_masses_of_bins_are_those_of_the_hosts(built):
    """All bins together form the host's mass, so the five older ones at most that over (1 + z)."""
    bank, _ = built
    total = np.exp(bank.ln_mass.astype(float)).sum(1) * (1 + bank.z)
    assert np.all(total <= 10 ** bank.mass_log10_msun.astype(float) * 1.00002)
    assert np.median(total / 10 ** bank.mass_log10_msun.astype(float)) > 0.9
    np.testing.assert_array_equal(bank.magnitude[:, 0], -2.5 * bank.mass_log10_msun)
    assert all(column.dtype == np.float32 for column in bank[:-1])


def test_banks_depend_on_configuration_alone(built, monkeypatch):
    names = {bank_fingerprint(SMALL), bank_fingerprint(SMALL.model_copy(update={"bank_seed": 4})), bank_fingerprint(HostConfig(z_max=1.1))}
    assert len(names) == 3
    assert bank_fingerprint(SMALL) == bank_fingerprint(HostConfig(effective_hosts=1500, z_max=1.0, bank_seed=3))
    for name in ("CHUNK", "load_photometry", "template_magnitudes"):
        monkeypatch.setattr(hosts, name, {"CHUNK": CHUNK, "load_photometry": lambda c: None, "template_magnitudes": _stand_in}[name])
    again = build_bank(SMALL)
    assert all(np.array_equal(a, b) for a, b in zip(again, built[0], strict=True))
    other = build_bank(SMALL.model_copy(update={"bank_seed": 4}))
    assert stats.ks_2samp(other.z, again.z).pvalue > 1e-3
    assert not np.array_equal(other.z[:100], again.z[:100])


@pytest.fixture
def counted(bank, monkeypatch):
    """`build_bank` replaced by one that counts its calls."""
    calls = []
    monkeypatch.setattr(hosts, "build_bank", lambda config, progress=None: (calls.append(config), bank)[1])
    return calls


def _same(a: HostBank, b: HostBank) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_bank_is_built_once(counted, bank, tmp_path):
    folder = tmp_path / "new" / "cache"
    assert _same(load_bank(SMALL, folder=folder), bank)
    assert _same(load_bank(SMALL, folder=folder), bank)
    assert len(counted) == 1
    assert [p.name for p in folder.iterdir()] == [f"hosts-{bank_fingerprint(SMALL)}.npz"]
    load_bank(SMALL.model_copy(update={"bank_seed": 4}), folder=folder)
    assert len(counted) == 2


def _truncate(path, fraction):
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])


def _flip(path, fraction):
    raw = bytearray(path.read_bytes())
    raw[int(fraction * len(raw))] ^= 0x10
    path.write_bytes(bytes(raw))


def _say(path, where, value):
    """Change a byte of the record of the last column in the archive's directory."""
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"PK\x01\x02") + where] = value
    path.write_bytes(bytes(raw))


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no bank"),
    **{f"cut at {f}": lambda path, f=f: _truncate(path, f) for f in (0.01, 0.5, 0.999)},
    **{f"bit flipped at {f}": lambda path, f=f: _flip(path, f) for f in (0.003, 0.2, 0.55, 0.97)},
    "of a zip version to come": lambda path: _say(path, 6, 109),
    "encrypted": lambda path: _say(path, 8, 1),
    "offset of the directory": lambda path: path.write_bytes(path.read_bytes()[:-3] + b"\x7f\0\0"),
    "column missing": lambda path: np.savez(path, z=np.zeros(3)),
    "columns of unequal length": lambda path: np.savez(path, **{n: np.zeros(3 + (n == "z")) for n in HostBank._fields}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_found_and_rebuilt(counted, bank, tmp_path, damage):
    load_bank(SMALL, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    DAMAGE[damage](path)
    with pytest.raises(ValueError, match="delete it to rebuild"):
        read_bank(path)
    assert _same(load_bank(SMALL, folder=tmp_path), bank)
    assert len(counted) == 2
    assert _same(read_bank(path), bank)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose reading fails")
def test_a_cache_that_cannot_be_read_is_kept(counted, tmp_path):
    """A bank takes minutes to an hour to build: a disk or network file system may be back at the next try."""
    path = tmp_path / f"hosts-{bank_fingerprint(SMALL)}.npz"
    path.symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match="Input/output error"):
        load_bank(SMALL, folder=tmp_path)
    assert path.is_symlink()
    assert not counted


def test_writing_is_all_or_nothing(bank, tmp_path, monkeypatch):
    path = tmp_path / "hosts.npz"
    write_bank(path, bank)

    def interrupted(temporary, **columns):
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(hosts.np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bank(path, bank._replace(population=np.asarray(1.0)))
    assert _same(read_bank(path), bank)
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_at_once_leave_one_whole_bank(bank, tmp_path):
    path = tmp_path / "hosts.npz"
    threads = [threading.Thread(target=write_bank, args=(path, bank)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _same(read_bank(path), bank)
    assert list(tmp_path.iterdir()) == [path]


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.delenv("CIGARS_CACHE", raising=False)
    assert cache_folder() == tmp_path / "x" / "cigars"
    monkeypatch.setenv("CIGARS_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_a_table_of_hosts_is_a_bank(tmp_path):
    galaxies = random_galaxies(40, z=0.3)
    columns = {k: v for k, v in galaxies._asdict().items() if v.ndim == 1}
    columns |= {f"sfr_ratios_log10_{i + 1}": galaxies.sfr_ratios_log10[:, i] for i in range(6)}
    columns |= {f"M_{b}": -20.0 + i + 0 * galaxies.z for i, b in enumerate("ugrizy")} | {"keep_probability": np.full(40, 0.25)}
    path = tmp_path / "hosts.parquet"
    Table(columns).write(path)
    bank = load_bank(HostConfig(backend="table", table_file=str(path)), folder=tmp_path)
    assert float(bank.population) == 160  # forty hosts kept with probability 1/4
    np.testing.assert_array_equal(bank.magnitude, np.tile(np.arange(6.0) - 20, (40, 1)))
    exact = 10 ** np.asarray(bin_masses_log10(galaxies), float)[:, 2:] / 1.3
    np.testing.assert_allclose(np.exp(bank.ln_mass.astype(float)), exact, rtol=1e-5)
    np.testing.assert_array_equal(bank.dust_ratio, galaxies.dust_ratio)


def test_hosts_of_a_table_beyond_the_end_are_left_out_of_bank_and_population(tmp_path):
    """A size by area counts the galaxies below z_max."""
    galaxies = random_galaxies(40, z=0.3)._replace(z=np.linspace(0.1, 1.4, 40, dtype=np.float32))
    columns = {k: v for k, v in galaxies._asdict().items() if v.ndim == 1} | {"M_u": -np.arange(40.0)}
    columns |= {f"sfr_ratios_log10_{i + 1}": galaxies.sfr_ratios_log10[:, i] for i in range(6)}
    path = tmp_path / "hosts.parquet"
    Table(columns).write(path)
    config = HostConfig(backend="table", table_file=str(path), bands=["lsst2023-u"], z_max=0.75)
    bank, near = load_bank(config, folder=tmp_path), galaxies.z < 0.75
    assert float(bank.population) == near.sum() == len(bank.z)
    np.testing.assert_array_equal(bank.magnitude[:, 0], -np.arange(40.0)[near])
    both = fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(Table(columns)), fits.table_to_hdu(Table(columns))])
    both.writeto(tmp_path / "two.fits")
    with pytest.raises(ValueError, match=r"two\.fits: expected one table, got 2"):
        load_bank(config.model_copy(update={"table_file": str(tmp_path / "two.fits")}), folder=tmp_path)
    with pytest.raises(ValueError, match=r"expected hosts at redshifts below hosts\.z_max = 0.05, got none"):
        load_bank(config.model_copy(update={"z_max": 0.05}), folder=tmp_path)


@pytest.mark.slow
def test_a_bank_of_the_default_back_end(tmp_path):
    """The packaged templates: plausible magnitudes, which the bank holds for its own galaxies."""
    bank = load_bank(SMALL.model_copy(update={"effective_hosts": 3000.0}), folder=tmp_path)
    assert effective_number(bank) >= 3000
    assert np.all(np.isfinite(bank.magnitude))
    ratio = 10 ** (-0.4 * (bank.magnitude[:, 3] - 4.5)) / 10**bank.mass_log10_msun  # i-band light per mass, solar units
    assert 0.05 < np.median(ratio) < 3
    assert np.all(np.diff(np.median(bank.magnitude, 0)) < 0)  # redder is brighter, in the median

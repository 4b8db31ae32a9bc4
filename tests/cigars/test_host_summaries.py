"""A row for each object: exact moments of normal draws, and files that other programs read."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from pyarrow import parquet
from scipy import stats

from cigars.files import FileError
from cigars.host_summaries import Summaries, write_summaries
from cigars.schema import LOCALS

IDS = np.array(["a", "b", "c"])


@pytest.fixture(scope="module")
def draws():
    """20,000 draws of three objects; the redshift of the second goes with Ω_m."""
    rng = np.random.default_rng(0)
    om0, local = rng.normal(0.3, 0.1, 20_000), rng.normal(0.5, 0.02, (20_000, 3, len(LOCALS)))
    local[:, 1, 0] += 0.1 * (om0 - 0.3)
    return om0, local.astype(np.float32)


def filled(draws, om0=True):
    out = Summaries(3, draws[0] if om0 else None)
    for rows in (slice(0, 2), slice(2, 3)):
        out.add(rows, draws[1][:, rows])
    return out


def test_normal_draws_have_normal_moments_and_quantiles(draws):
    columns, error = filled(draws).columns, 0.02 / 20_000**0.5
    assert np.all(np.abs(columns["x_int_mean"] - 0.5) < 5 * error)
    assert np.all(np.abs(columns["x_int_sd"] - 0.02) < 5 * error)
    for name, p in (("q16", 0.16), ("q50", 0.5), ("q84", 0.84)):
        spread = error * (p * (1 - p)) ** 0.5 / stats.norm.pdf(stats.norm.ppf(p))
        assert np.all(np.abs(columns[f"x_int_{name}"] - 0.5 - 0.02 * stats.norm.ppf(p)) < 5 * spread)


def test_covariance_with_the_matter_density_is_that_of_the_draws(draws):
    """0.1 × 0.1² for the object that follows it, zero for the others; without a free Ω_m there is none."""
    columns = filled(draws).columns
    error = 0.1 * 0.022 / 20_000**0.5
    assert np.all(np.abs(columns["z_cov_Om0"] - [0.0, 1e-3, 0.0]) < 5 * error)
    assert columns["z_cov_Om0"][1] > 50 * error
    assert "z_cov_Om0" not in filled(draws, om0=False).columns


@pytest.mark.parametrize("name", ["hosts.fits", "hosts.parquet", "hosts.ecsv"])
def test_tables_are_read_by_other_programs(draws, tmp_path, name):
    summaries = filled(draws)
    write_summaries(tmp_path / name, IDS, summaries, {"fingerprint": "f"})
    if name.endswith("fits"):
        with fits.open(tmp_path / name) as file:
            found, ids = np.array(file[1].data["z_mean"]), [str(v) for v in file[1].data["id"]]
            assert file[1].header["TCOMM2"].startswith("posterior mean of redshift")
    elif name.endswith("parquet"):
        table = parquet.read_table(tmp_path / name)
        found, ids = table["z_mean"].to_numpy(), [v.decode() if isinstance(v, bytes) else v for v in table["id"].to_pylist()]
    else:
        table = Table.read(tmp_path / name)
        found, ids = np.array(table["z_mean"]), list(table["id"])
        assert str(table["mass_log10_msun_sd"].unit) in ("dex(Msun)", "dex(solMass)")
    assert ids == list(IDS)
    np.testing.assert_allclose(found, summaries.columns["z_mean"], rtol=1e-6)
    with pytest.raises(FileError, match="exists already"):
        write_summaries(tmp_path / name, IDS, summaries, {})

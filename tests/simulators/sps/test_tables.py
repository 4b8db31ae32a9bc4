"""Host tables in every format come back as they went in; errors list what is missing and what is there."""

import numpy as np
import pytest
from astropy.table import Table

from cigars.schema import Galaxies
from simulators.sps.tables import galaxies_from_table, read_host_table
from tests.shared import needs_shared, shared_data
from tests.simulators.sps.galaxies import random_galaxies

GALAXIES = random_galaxies(5)


def table(**more):
    columns = {k: v for k, v in GALAXIES._asdict().items() if k != "sfr_ratios_log10"}
    columns |= {f"sfr_ratios_log10_{i + 1}": GALAXIES.sfr_ratios_log10[:, i] for i in range(6)}
    return Table(columns | {"M_g": np.linspace(-20, -18, 5), "M_r": np.linspace(-21, -19, 5)} | more)


@pytest.mark.parametrize("suffix", [".parquet", ".fits", ".ecsv", ".csv"])
def test_round_trip(tmp_path, suffix):
    path = tmp_path / f"hosts{suffix}"
    table(keep_probability=np.linspace(0.1, 1, 5)).write(path, **({"format": "ascii.csv"} if suffix == ".csv" else {}))
    galaxies, magnitudes, keep = read_host_table(path, ["r", "g"])
    for got, expected in zip(galaxies, GALAXIES, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(magnitudes[:, 0], np.linspace(-21, -19, 5), rtol=1e-6)
    np.testing.assert_allclose(keep, np.linspace(0.1, 1, 5), rtol=1e-6)


def test_one_column_of_six_ratios_and_no_probability(tmp_path):
    rows = Table({**GALAXIES._asdict(), "M_g": np.full(5, -19.0)})
    rows.write(tmp_path / "hosts.fits")
    galaxies, _, keep = read_host_table(tmp_path / "hosts.fits", ["g"])
    np.testing.assert_allclose(galaxies.sfr_ratios_log10, GALAXIES.sfr_ratios_log10, rtol=1e-6)
    assert (keep == 1).all()


@needs_shared
def test_prospector_names():
    rows = Table.read(shared_data("golden_sps.csv"), format="ascii.csv", comment="#")
    galaxies = galaxies_from_table(rows)
    np.testing.assert_allclose(galaxies.sfr_ratios_log10[:, 5], rows["logsfr_ratios6"], rtol=1e-6)
    np.testing.assert_allclose(galaxies.z, rows["zred"], rtol=1e-6)
    assert isinstance(galaxies, Galaxies)


def test_missing_columns_are_listed_with_those_present():
    rows = table()
    rows.remove_columns(["dust_tau2", "sfr_ratios_log10_3"])
    with pytest.raises(ValueError, match=r"expected columns \['sfr_ratios_log10_3', 'dust_tau2'\], got \['z', "):
        galaxies_from_table(rows)
    names = Table({"zred": [0.1], "logmass": [10.0]})
    with pytest.raises(ValueError, match=r"'logzsol', 'logsfr_ratios1'.*got \['zred', 'logmass'\]"):
        galaxies_from_table(names)


def test_other_ionisation_parameters_and_gaps_are_refused():
    with pytest.raises(ValueError, match="gas_logu = -2, the value of the nebular templates, got -3"):
        galaxies_from_table(table(gas_logu=np.array([-2.0, -2, -3, -2, -2])))
    rows = table()
    rows["dust_index"] = np.ma.MaskedArray(rows["dust_index"], mask=[0, 1, 0, 0, 0])
    with pytest.raises(ValueError, match="expected finite dust_index, got 1 missing"):
        galaxies_from_table(rows)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("z", -9.0, r"host table: z: expected values in \[0, 20\], got -9"),
        ("z", 0.0, "expected hosts at redshifts above 0, got 1 at 0; drop those rows"),
        ("M_r", -99.0, r"M_r: expected absolute magnitudes in \[-40, 30\], got -99, a code for a missing one\?"),
        ("M_g", 99.0, r"M_g: expected absolute magnitudes in \[-40, 30\], got 99"),
    ],
)
def test_codes_for_what_is_missing_are_not_taken_for_values(tmp_path, column, value, said):
    rows = table()
    rows[column][2] = value
    rows.write(tmp_path / "hosts.fits")
    with pytest.raises(ValueError, match=said):
        read_host_table(tmp_path / "hosts.fits", ["g", "r"])


def test_histories_of_other_bins_are_refused():
    """Whose first six ratios are others."""
    with pytest.raises(ValueError, match="expected 6 SFR ratios a galaxy, between 7 bins of age, got sfr_ratios_log10_7"):
        galaxies_from_table(table(sfr_ratios_log10_7=np.zeros(5)))
    for ratios in (np.zeros((5, 5)), np.zeros((5, 9)), np.zeros(5)):
        with pytest.raises(ValueError, match=r"expected 6 SFR ratios a galaxy, .*, got shape \(5"):
            galaxies_from_table(Table({**GALAXIES._asdict(), "sfr_ratios_log10": ratios}))


def test_errors_of_files(tmp_path):
    with pytest.raises(ValueError, match=r"a file that ends in \.parquet"):
        read_host_table(tmp_path / "hosts.txt", ["g"])
    with pytest.raises(ValueError, match="expected a file, got none"):
        read_host_table(tmp_path / "hosts.fits", ["g"])
    table().write(tmp_path / "hosts.fits")
    with pytest.raises(ValueError, match=r"expected columns \['M_u'\], got"):
        read_host_table(tmp_path / "hosts.fits", ["g", "u"])
    table(keep_probability=np.zeros(5)).write(tmp_path / "zero.fits")
    with pytest.raises(ValueError, match="keep_probability in"):
        read_host_table(tmp_path / "zero.fits", ["g"])

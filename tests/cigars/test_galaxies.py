"""`cigars hosts magnitudes`: a table of galaxies in, the same with template magnitudes out."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.time import Time

from cigars.galaxies import expand_bands
from tests.shared import needs_shared, shared_data

LSST = "ugrizy"
PARAMETERS = ["zred", "logmass", *(f"logsfr_ratios{i}" for i in range(1, 7)), "logzsol", "gas_logz", "dust2", "dust_index", "dust_ratio"]


def galaxies(number=5, seed=0):
    """Galaxies with the parameter columns of the golden table."""
    rng = np.random.default_rng(seed)
    table = Table({name: rng.normal(0, 0.3, number) for name in PARAMETERS})
    table["zred"], table["logmass"] = rng.uniform(0.05, 1, number), rng.uniform(9, 11, number)
    table["logzsol"], table["dust2"], table["dust_ratio"] = rng.uniform(-1.5, 0.1, number), rng.uniform(0, 1, number), np.ones(number)
    table["name"] = [f"galaxy {i}" for i in range(number)]
    return table


@pytest.fixture
def magnitudes(cigars, tmp_path):
    """Run the command on a table; the result as a table."""

    def run(table, *options, suffix="csv"):
        source, out = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
        table.write(source, overwrite=True)
        said = cigars("hosts", "magnitudes", source, "-o", out, "--overwrite", *options)
        assert said.code == 0, said
        assert f"magnitudes of {len(table)} galaxies" in " ".join(said.out.split())
        return Table.read(out, **({"format": "ascii.csv"} if suffix == "csv" else {}))

    return run


@needs_shared
def test_fsps_convention_is_that_of_fsps(cigars, tmp_path):
    """Within 5 mmag at worst and 1 rms of the FSPS Fortran engine,; native differs by more."""
    golden, out = shared_data("golden_sps.csv"), tmp_path / "out.csv"
    reference = Table.read(golden, format="ascii.csv", comment="#")
    worst = {}
    for convention in ("fsps", "native"):
        said = cigars("hosts", "magnitudes", golden, "-o", out, "--convention", convention, "--no-nebular", "--overwrite")
        assert said.code == 0, said
        ours = Table.read(out, format="ascii.csv")
        off = np.stack([ours[f"M_{b}"] - reference[f"M_{b}_lsst2023_stars"] for b in LSST])
        worst[convention] = np.abs(off).max(), np.sqrt((off**2).mean())
    assert worst["fsps"][0] < 5e-3
    assert worst["fsps"][1] < 1e-3
    assert worst["native"][0] > 5e-3


@needs_shared
def test_nebular_light_is_that_of_fsps(cigars, tmp_path):
    golden, out = shared_data("golden_sps.csv"), tmp_path / "out.csv"
    assert cigars("hosts", "magnitudes", golden, "-o", out, "--convention", "fsps").code == 0
    ours, reference = Table.read(out, format="ascii.csv"), Table.read(golden, format="ascii.csv", comment="#")
    off = np.stack([ours[f"M_{b}"] - reference[f"M_{b}_lsst2023"] for b in LSST])
    stars = np.stack([ours[f"M_{b}"] - reference[f"M_{b}_lsst2023_stars"] for b in LSST])
    assert np.sqrt((off**2).mean()) < 0.03  # 30 mmag rms
    assert np.sqrt((stars**2).mean()) > 0.03


@pytest.mark.parametrize("suffix", ["csv", "fits", "ecsv", "parquet"])
def test_the_rest_of_the_table_comes_along(magnitudes, suffix):
    table = galaxies()
    out = magnitudes(table, "--bands", "lsst2023-g,lsst2023-r", suffix=suffix)
    assert out.colnames == [*table.colnames, "M_g", "M_r"]
    for name in PARAMETERS:
        np.testing.assert_array_equal(out[name], table[name])
    assert list(np.char.decode(out["name"].data, "ascii") if out["name"].dtype.kind == "S" else out["name"]) == list(table["name"])
    assert np.isfinite(out["M_g"]).all()


def test_ten_times_the_mass_is_two_and_a_half_magnitudes(magnitudes):
    table = galaxies()
    heavy = table.copy()
    heavy["logmass"] += 1
    one, ten = (magnitudes(t, "--bands", "lsst2023-i") for t in (table, heavy))
    np.testing.assert_allclose(one["M_i"] - ten["M_i"], 2.5, atol=2e-5)  # float32 at magnitude 20


def test_gas_brightens_and_bands_keep_their_order_and_whole_names_where_ambiguous(magnitudes):
    table = galaxies()
    table["logsfr_ratios1"] = 1.5  # young
    bands = "lsst2023-r,decam2014-r,lsst2023-u"
    gas, stars = magnitudes(table, "--bands", bands), magnitudes(table, "--bands", bands, "--no-nebular")
    assert gas.colnames[-3:] == ["M_lsst2023-r", "M_decam2014-r", "M_lsst2023-u"]
    assert (gas["M_lsst2023-u"] < stars["M_lsst2023-u"]).all()
    assert np.abs(gas["M_lsst2023-r"] - gas["M_decam2014-r"]).max() < 0.3  # two r bands


def test_a_group_is_all_its_bands():
    assert sorted(expand_bands("lsst2023")) == sorted(f"lsst2023-{b}" for b in LSST)
    assert expand_bands("lsst2023-g, decam2014-r") == ("lsst2023-g", "decam2014-r")


def test_masked_values_of_other_columns_stay_masked(magnitudes):
    table = Table(galaxies(), masked=True)
    table["other"] = np.ma.array(np.arange(5.0), mask=[0, 1, 0, 0, 0])
    out = magnitudes(table, "--bands", "lsst2023-g")
    assert np.ma.getmaskarray(out["other"]).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("suffix", ["csv", "fits", "ecsv", "parquet"])
def test_what_no_output_holds_is_left_out_and_said_before_the_work(cigars, tmp_path, suffix):
    table, source, out = galaxies(), tmp_path / "in.ecsv", tmp_path / f"out.{suffix}"
    table["seen"], table["place"] = Time(55000.0 + np.arange(5.0), format="mjd"), SkyCoord(np.arange(5.0), 3.0, unit="deg")
    table["night"], table["pair"] = np.array(["2020-01-01"] * 5, "M8[D]"), np.zeros((5, 2))
    table.write(source)
    said = cigars("hosts", "magnitudes", source, "-o", out, "--bands", "lsst2023-g")
    other = ["seen", "place", "night", *(["pair"] if suffix == "csv" else [])]
    assert said.code == 0, said
    assert said.err.startswith("warning: ")
    assert f"got others in {', '.join(other)}, which are left out" in " ".join(said.err.splitlines()[0].split())
    written = Table.read(out, **({"format": "ascii.csv"} if suffix == "csv" else {}))
    assert written.colnames == [*(name for name in table.colnames if name not in other), "M_g"]


def test_text_that_the_output_does_not_hold_is_refused_before_the_work(refused, tmp_path, monkeypatch):
    table, source = galaxies(), tmp_path / "in.ecsv"
    table["name"][1] = "é"
    table.write(source)
    monkeypatch.setattr("simulators.sps.photometry.template_magnitudes", lambda *_, **__: pytest.fail("computed first"))
    assert "expected ASCII text" in refused("hosts", "magnitudes", source, "-o", tmp_path / "out.fits")


def without(name):
    return lambda t: t.remove_column(name)


def with_value(name, value, row=1):
    return lambda t: t[name].__setitem__(row, value)


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (without("logsfr_ratios3"), [], "expected columns ['logsfr_ratios3'], got ['zred'"),
        (without("dust2"), [], "['dust2']"),
        (with_value("dust2", np.nan), [], "expected finite dust_tau2, got 1 missing"),
        (with_value("logmass", np.inf), [], "finite mass_log10_msun"),
        (with_value("zred", 40.0), [], "host table: z: expected values in [0, 20]"),
        (with_value("zred", -0.5), [], "host table: z: expected values in [0, 20]"),
        (with_value("logzsol", 3.0), [], "metallicity_log10_zsun: expected values in"),
        (lambda t: t.replace_column("logmass", 10 ** t["logmass"]), [], "host table: mass_log10_msun: expected values in [4, 14], got "),
        (with_value("dust2", -99.0), [], "host table: dust_tau2: expected values in [0, 50], got -99; convert"),
        (lambda t: t.remove_rows(slice(None)), [], "at least one galaxy"),
        (lambda t: t.add_column(np.zeros(len(t)), name="M_g"), [], "expected no columns ['M_g']"),
        (None, ["--bands", "nope"], "expected a speclite group or bands such as lsst2023-g, got 'nope'"),
        (None, ["--bands", "lsst2023-q"], "got 'lsst2023-q'"),
        (None, ["--bands", ""], "expected different bands"),
        (None, ["--bands", "lsst2023-g,lsst2023-g"], "expected different bands"),
        (None, ["--bands-file", "absent.npz", "--bands", "u"], "absent.npz"),
        (None, ["--backend", "emulator"], "emulator_file"),
        (None, ["--emulator-file", "a.npz"], "--emulator-file: expected another --backend than 'ssp', which does not read it"),
        (None, ["--backend", "emulator", "--no-nebular"], "--no-nebular: expected another --backend than 'emulator'"),
        (None, ["--backend", "emulator", "--convention", "fsps"], "--convention: expected another --backend than 'emulator'"),
        (None, ["--backend", "fsps"], "--backend"),
        (None, ["--convention", "bc03"], "--convention"),
    ],
)
def test_bad_tables_and_options_are_one_line_and_write_nothing(refused, tmp_path, change, options, says):
    table, source, out = galaxies(), tmp_path / "in.ecsv", tmp_path / "out.csv"
    if change is not None:
        change(table)
    table.write(source)
    assert says in refused("hosts", "magnitudes", source, "-o", out, *options)
    assert not out.exists()


def test_files_are_checked_before_the_work(refused, tmp_path):
    source = tmp_path / "in.csv"
    galaxies().write(source)
    before = source.read_bytes()
    assert "exists already" in refused("hosts", "magnitudes", source, "-o", source)
    assert "does not exist" in refused("hosts", "magnitudes", source, "-o", tmp_path / "nowhere" / "a.csv")
    assert "extension" in refused("hosts", "magnitudes", source, "-o", tmp_path / "a.txt")
    assert "No such file" in refused("hosts", "magnitudes", tmp_path / "absent.csv", "-o", tmp_path / "a.csv")
    assert source.read_bytes() == before

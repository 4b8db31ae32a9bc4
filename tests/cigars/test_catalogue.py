"""What is written is read again, by us and by other readers; what cannot be read is refused in one line."""

import json
import os
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cigars.catalogue import (
    CatalogueError,
    catalogue_from_survey,
    read_catalogue,
    read_truth,
    select,
    truth_from_survey,
    write_catalogue,
    write_truth,
)
from cigars.catalogue_checks import column_names
from cigars.files import FileError
from cigars.schema import FIDUCIAL, Globals, Survey
from cigars.tables import read_table
from tests.cigars.catalogues import BANDS, make_catalogue, make_latents

FORMATS = ("fits", "parquet", "ecsv", "csv")


def same(a, b):
    return all(np.array_equal(u, v, equal_nan=True) and u.dtype == v.dtype for u, v in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", FORMATS)
def test_round_trip_is_exact(tmp_path, kind):
    catalogue, path = make_catalogue(), tmp_path / f"a.{kind}"
    write_catalogue(path, catalogue, BANDS, {"preset": "demo", "a_long_fingerprint_of_it": "0123" * 20, "seed": 3})
    again = read_catalogue(path, BANDS)
    assert same(catalogue.observations, again.observations)
    assert np.array_equal(catalogue.id, again.id)  # 0003 stays 0003, also in CSV
    assert np.array_equal(catalogue.p_ia, again.p_ia)


@pytest.mark.parametrize("kind", FORMATS[:3])
def test_truth_round_trip_with_parameters_in_the_header(tmp_path, kind):
    catalogue, latents, path = make_catalogue(), make_latents(), tmp_path / f"truth.{kind}"
    write_truth(path, catalogue.id, latents, FIDUCIAL)
    truth = read_truth(path)
    assert same(truth.latents, latents)
    assert truth.theta == FIDUCIAL
    assert np.array_equal(truth.id, catalogue.id)


def test_truth_refuses_a_format_without_header_and_a_catalogue(tmp_path):
    with pytest.raises(CatalogueError, match="CSV has no header"):
        write_truth(tmp_path / "a.csv", make_catalogue().id, make_latents(), FIDUCIAL)
    write_catalogue(tmp_path / "a.fits", make_catalogue(), BANDS)
    with pytest.raises(CatalogueError, match="mass_log10_msun"):
        read_truth(tmp_path / "a.fits")


def test_fits_is_read_by_another_reader_with_units(tmp_path):
    catalogue, path = make_catalogue(), tmp_path / "a.fits"
    write_catalogue(path, catalogue, BANDS, {"seed": 3})
    with fits.open(path, memmap=False) as hdus:
        hdus.verify("exception")
        data, columns, header = hdus[1].data, hdus[1].columns, hdus[1].header
    assert np.array_equal(data["m"], catalogue.observations.m)
    assert columns["m"].unit == columns["mag_g"].unit == "mag"
    assert columns["var_m"].unit == "mag2"
    assert header["SEED"] == 3
    assert "mag(AB)" in header[f"TCOMM{columns.names.index('mag_g') + 1}"]


def test_parquet_is_read_by_another_reader_with_units(tmp_path):
    catalogue, path = make_catalogue(), tmp_path / "a.parquet"
    write_catalogue(path, catalogue, BANDS)
    table = pa.parquet.read_table(path)
    assert table.column_names == column_names(BANDS)
    assert np.array_equal(table["c"].to_numpy(), catalogue.observations.c)
    assert "mag(AB)" in json.dumps({str(k): str(v) for k, v in table.schema.metadata.items()})


def test_writing_never_overwrites_unless_told(tmp_path):
    path = tmp_path / "a.csv"
    write_catalogue(path, make_catalogue(), BANDS)
    before = path.read_bytes()
    with pytest.raises(FileError, match="exists already"):
        write_catalogue(path, make_catalogue(seed=2), BANDS)
    assert path.read_bytes() == before
    write_catalogue(path, make_catalogue(seed=2), BANDS, overwrite=True)
    assert path.read_bytes() != before
    assert os.listdir(tmp_path) == ["a.csv"]


def rewritten(tmp_path, kind="ecsv", **columns):
    """A written catalogue with columns replaced (or dropped, for None), through astropy."""
    path = tmp_path / f"a.{kind}"
    write_catalogue(path, make_catalogue(), BANDS, overwrite=True)
    table = Table.read(path)
    for name, value in columns.items():
        if value is None:
            del table[name]
        else:
            table[name] = value(table[name])
    table.write(path, overwrite=True)
    return path


def test_optional_columns_have_documented_defaults(tmp_path):
    optional = ("cov_mx", "cov_mc", "cov_xc", "z_spec", "z_spec_err", "p_ia")
    again = read_catalogue(rewritten(tmp_path, **dict.fromkeys(optional)), BANDS)
    assert (again.observations.cov_mx == 0).all()
    assert np.isnan(again.observations.z_spec).all()
    assert again.p_ia is None


def test_units_are_converted_or_refused(tmp_path):
    def unit(name, factor=1.0):
        def change(column):
            new = column * factor
            new.unit = name
            return new

        return change

    expected = make_catalogue().observations
    milli = read_catalogue(rewritten(tmp_path, m=unit("mmag", 1e3), var_m=unit("mmag2", 1e6)), BANDS).observations
    np.testing.assert_allclose(milli.m, expected.m, rtol=1e-6)  # single precision
    np.testing.assert_allclose(milli.var_m, expected.var_m, rtol=1e-6)

    def flux(column):
        new = 3631e9 * 10 ** (-0.4 * np.asarray(column, float))
        return type(column)(new, unit="nJy")

    fluxes = read_catalogue(rewritten(tmp_path, mag_r=flux), BANDS).observations
    np.testing.assert_allclose(fluxes.mag[:, 1], expected.mag[:, 1], atol=1e-4)  # 3631 Jy, to 0.00007 mag
    with pytest.raises(CatalogueError, match="m: expected unit 'mag', got 'km', which cannot be converted"):
        read_catalogue(rewritten(tmp_path, m=unit("km")), BANDS)
    with pytest.raises(CatalogueError, match=r"mag_g: expected unit .* which cannot be converted"):
        read_catalogue(rewritten(tmp_path, mag_g=unit("mag(ST)")), BANDS)
    with pytest.raises(CatalogueError, match="x: expected unit 'none', got 'mag'"):
        read_catalogue(rewritten(tmp_path, x=unit("mag")), BANDS)


def test_masked_bands_are_not_observed(tmp_path):
    catalogue, path = make_catalogue(), tmp_path / "a.csv"
    write_catalogue(path, catalogue, BANDS)
    path.write_text(path.read_text().replace(",nan", ","))
    assert same(read_catalogue(path, BANDS).observations, catalogue.observations)


@pytest.mark.parametrize("kind", FORMATS)
def test_text_in_place_of_numbers_is_named(tmp_path, kind):
    path = rewritten(tmp_path, kind, x=lambda c: np.array(["1.0"] * 11 + ["oops"]))
    if kind == "csv":
        path.write_text(path.read_text().replace("oops", "o o ps"))
    with pytest.raises(CatalogueError, match="x: expected numbers"):
        read_catalogue(path, BANDS)


def test_missing_unknown_empty_and_mislabelled_files_are_one_line(tmp_path):
    cases = {
        "none.fits": None,
        "a.txt": b"x",
        "empty.csv": b"",
        "noise.fits": b"\x00" * 4000,
        "csv.parquet": b"id,m\n1,2\n",
        "b.ecsv": b"\xff\xfe\x00",
    }
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CatalogueError) as caught:
            read_catalogue(tmp_path / name, BANDS)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_fits_refuses_text_that_it_cannot_hold_and_the_others_hold_it(tmp_path):
    catalogue = make_catalogue()
    odd = catalogue._replace(id=np.array(["é0", *catalogue.id[1:]]))
    with pytest.raises(CatalogueError, match=r"a\.fits: expected ASCII text, .* got 'é0'; name a \.parquet or \.ecsv file"):
        write_catalogue(tmp_path / "a.fits", odd, BANDS)
    assert not list(tmp_path.iterdir())
    for kind in FORMATS[1:]:
        write_catalogue(tmp_path / f"a.{kind}", odd, BANDS)
        assert read_catalogue(tmp_path / f"a.{kind}", BANDS).id[0] == "é0"


def test_a_csv_that_has_a_column_twice_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    write_catalogue(path, make_catalogue(), BANDS)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    path.write_text("\n".join([f"{lines[0]},m", *(f"{line},24.5" for line in lines[1:])]))
    with pytest.raises(CatalogueError, match="header: expected columns of different names, got m more than once"):
        read_catalogue(path, BANDS)


@pytest.mark.parametrize("comments", [0, 2])
def test_a_row_of_a_csv_that_lacks_values_is_refused_with_its_line(tmp_path, comments):
    path = tmp_path / "a.csv"
    write_catalogue(path, make_catalogue(), BANDS)
    lines = ["# made by hand"] * comments + path.read_text().splitlines()
    number = len(lines[-1].split(","))
    lines[comments + 5] = lines[comments + 5].rsplit(",", 2)[0]  # of optional columns, which may be empty
    path.write_text("\n".join(lines))
    with pytest.raises(CatalogueError, match=rf"a\.csv: line {comments + 6}: expected {number} values, .* got {number - 2}; "):
        read_catalogue(path, BANDS)
    lines[comments + 5] += ",,"
    path.write_text("\n".join(lines))
    assert len(read_catalogue(path, BANDS).id) == 12


def test_one_of_several_tables_is_not_taken_for_all(tmp_path):
    path = tmp_path / "a.fits"
    write_catalogue(path, make_catalogue(), BANDS)
    with fits.open(path) as hdus:
        assert [type(hdu) for hdu in hdus] == [fits.PrimaryHDU, fits.BinTableHDU]  # what is written has one
    table = Table.read(path)
    halves = [fits.table_to_hdu(table[:6]), fits.BinTableHDU(fits.table_to_hdu(table[6:]).data, name="FAINT")]
    fits.HDUList([fits.PrimaryHDU(), *halves]).writeto(path, overwrite=True)
    with pytest.raises(CatalogueError, match=r"a\.fits: expected one table, got 2, in extensions 1, 2 \(FAINT\); write the one") as caught:
        read_catalogue(path, BANDS)
    assert "\n" not in str(caught.value)


def parquet_of(path, **columns):
    """A valid catalogue as another program writes it: no metadata of astropy, columns added or replaced."""
    write_catalogue(path, make_catalogue(), BANDS, overwrite=True)
    given = pa.parquet.read_table(path).replace_schema_metadata(None)
    merged = {name: given[name] for name in given.column_names} | columns
    pa.parquet.write_table(pa.table(merged), path)
    return path


UNUSED = {
    "text": pa.array([None, *"abcdefghijk"]),
    "category": pa.array(["Ia", None, "Ia?"] * 4).dictionary_encode(),
    "nested": pa.array([{"a": 1}, None] * 6),
    "aliases": pa.array([["a", None], None, ["b"]] * 4),
    "pair": pa.array([[1.0, 2.0], None] * 6, pa.list_(pa.float64(), 2)),
    "clock": pa.array([1, None] * 6, pa.time32("s")),
    "night": pa.array([1, None] * 6, pa.timestamp("ms")),
    "blob": pa.array([b"\xff", None] * 6),
}


@pytest.mark.parametrize("name", UNUSED)
def test_no_type_of_an_unused_parquet_column_stops_the_reading(tmp_path, name):
    catalogue, path = make_catalogue(), parquet_of(tmp_path / "a.parquet", **{name: UNUSED[name]})
    again = read_catalogue(path, BANDS)
    assert same(again.observations, catalogue.observations)
    assert list(again.id) == list(catalogue.id)
    assert name in read_table(path).colnames


def test_identifiers_of_parquet_are_what_categories_stand_for_and_those_missing_are_named(tmp_path):
    ids = [f"sn{k}" for k in range(12)]
    assert list(read_catalogue(parquet_of(tmp_path / "a.parquet", id=pa.array(ids).dictionary_encode()), BANDS).id) == ids
    ids[1] = None
    for column in (pa.array(ids), pa.array(ids).dictionary_encode()):
        with pytest.raises(CatalogueError, match=r"id: row 2 \(counting from 1\) is no identifier; give every object one"):
            read_catalogue(parquet_of(tmp_path / "a.parquet", id=column), BANDS)


def test_identifiers_that_are_no_text_are_replaced_not_fatal(tmp_path):
    path = tmp_path / "a.fits"
    write_catalogue(path, make_catalogue(), BANDS)
    path.write_bytes(path.read_bytes().replace(b"0007", b"\xff007"))
    assert read_catalogue(path, BANDS).id[7] == "\ufffd007"


def test_catalogue_without_rows_is_refused(tmp_path):
    for kind in FORMATS:
        path = tmp_path / f"a.{kind}"
        write_catalogue(path, make_catalogue(), BANDS)
        Table.read(path)[:0].write(path, overwrite=True)
        with pytest.raises(CatalogueError, match="at least one object"):
            read_catalogue(path, BANDS)
    whole = pa.parquet.read_table(parquet_of(tmp_path / "b.parquet"))
    pa.parquet.write_table(whole[:0], tmp_path / "b.parquet")
    with pytest.raises(CatalogueError, match="at least one object"):
        read_catalogue(tmp_path / "b.parquet", BANDS)


@pytest.mark.parametrize("kind", ["fits", "parquet"])
def test_every_truncation_of_a_binary_file_is_refused(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    write_catalogue(path, make_catalogue(300), BANDS)
    data = path.read_bytes()
    used = len(data.rstrip(b"\x00"))  # a FITS file is padded with zeros, which may go
    for size in np.linspace(1, used - 1, 25).astype(int):
        path.write_bytes(data[:size])
        with pytest.raises(CatalogueError):
            read_catalogue(path, BANDS)


FUZZ = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    for kind in FORMATS:
        write_catalogue(folder / f"a.{kind}", make_catalogue(), BANDS)
    return {kind: (folder / f"a.{kind}").read_bytes() for kind in FORMATS}


def reads_or_refuses(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            catalogue = read_catalogue(path, BANDS)
        except CatalogueError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert np.isfinite(catalogue.observations.m).all()


@pytest.mark.parametrize("kind", FORMATS)
@FUZZ
@given(data=st.data())
def test_damaged_bytes_give_a_catalogue_or_a_refusal(written, tmp_path, kind, data):
    content = bytearray(written[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at, new = data.draw(st.integers(0, len(content) - 1)), data.draw(st.binary(max_size=4))
        content[at : at + data.draw(st.sampled_from([len(new), 0, 3]))] = new  # replaced, inserted or lost
    path = tmp_path / f"a.{kind}"
    path.write_bytes(bytes(content))
    reads_or_refuses(path)


CELL = st.one_of(
    st.floats(), st.integers(-(10**40), 10**40), st.text(max_size=5), st.sampled_from(["", "nan", "inf", "-9", "1e400", '"', "--"])
)


@FUZZ
@given(
    rows=st.lists(st.lists(CELL, min_size=1, max_size=20), max_size=4), header=st.permutations(column_names(BANDS)), keep=st.integers(0, 18)
)
def test_any_text_table_gives_a_catalogue_or_a_refusal(tmp_path, rows, header, keep):
    path = tmp_path / "a.csv"
    lines = [",".join(header[:keep]), *(",".join(str(c) for c in (row * 20)[: max(keep, 1)]) for row in rows)]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    reads_or_refuses(path)


def survey_of(catalogue, latents):
    """The catalogue's first ten rows as a survey with two rows of padding."""
    observed = np.arange(12) < 10
    return Survey(Globals(*map(np.float32, FIDUCIAL)), catalogue.observations, latents, observed, np.arange(12), np.int32(10))


def test_a_survey_becomes_the_catalogue_of_its_observed_rows():
    catalogue, latents = make_catalogue(), make_latents()
    survey = survey_of(catalogue, latents)
    ids = [f"mock{i}" for i in range(10)]
    made, truth = catalogue_from_survey(survey, ids), truth_from_survey(survey, ids)
    assert same(made.observations, select(catalogue, np.arange(10)).observations)
    assert np.array_equal(truth.latents.z, latents.z[:10])
    assert np.array_equal(truth.id, made.id)
    np.testing.assert_allclose(truth.theta, FIDUCIAL, rtol=1e-6)
    with pytest.raises(ValueError, match="expected 10"):
        catalogue_from_survey(survey, ids[:-1])
    with pytest.raises(ValueError, match="expected one survey, got a batch"):
        catalogue_from_survey(survey._replace(observed=survey.observed[None]))

"""Each way in which a catalogue can be wrong ends in one line that names it; a right one passes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cigars.catalogue import validated
from cigars.catalogue_checks import CatalogueError, TargetWarning, check_columns, column_names, correlation_floor
from tests.cigars.catalogues import BANDS, make_catalogue

NAMES = column_names(BANDS)


def changed(column, rows, value):
    catalogue = make_catalogue()
    fields = catalogue.observations._asdict()
    values = fields[column].astype(float)
    values[rows] = value
    return catalogue._replace(observations=catalogue.observations._replace(**{column: values}))


def refusal(catalogue):
    with pytest.raises(CatalogueError) as caught:
        validated(catalogue, BANDS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("column", "rows", "value", "says"),
    [
        ("m", [1, 4], np.nan, ["m: 2 rows (2, 5", "NaN or infinite"]),
        ("x", [0], np.inf, ["x: row 1 ", "NaN or infinite"]),
        ("var_c", [2], -0.1, ["var_c: row 3", "not positive"]),
        ("var_x", [2], 0.0, ["var_x: row 3", "not positive"]),
        ("var_m", [2], 1e-60, ["var_m: row 3", "single precision"]),
        ("c", [2], 1e60, ["c: row 3", "infinite"]),
        ("m", [2], -99.0, ["m: row 3", "no magnitudes"]),
        ("x", [2], -99.0, ["x: row 3", "no light-curve fit"]),
        ("c", [2], -9.0, ["c: row 3", "expected -5 to 5"]),
        ("mag", (slice(None, 7), 1), 99.0, ["mag_r: 7 rows (1, 2, 3, 4, 5, ...", "NaN"]),
        ("mag", (2, 0), np.inf, ["mag_g: row 3", "infinite"]),
        ("mag", (2, 0), np.nan, ["mag_g: row 3", "only one of magnitude and error"]),
        ("mag_err", (2, 0), 0.0, ["mag_err_g: row 3", "not positive"]),
        ("cov_mx", [5], 50.0, ["row 6", "not positive definite"]),
        ("z_spec", [0], -9.0, ["z_spec: row 1", "out of range"]),
        ("z_spec", [0], 0.0, ["z_spec: row 1", "out of range"]),
        ("z_spec", [0], 10.0, ["z_spec: row 1", "out of range"]),
        ("z_spec", [0], np.nan, ["z_spec: row 1", "only one of redshift and error"]),
        ("z_spec_err", [0], -1.0, ["z_spec_err: row 1", "not positive"]),
    ],
)
def test_bad_values_are_named_with_their_rows(column, rows, value, says):
    message = refusal(changed(column, rows, value))
    assert all(part in message for part in says), message


def test_a_redshift_may_be_below_zero_by_its_error():
    """Objects at z = 0.02, where the simulator's begin; -1, a code for "missing", is none of any error."""
    catalogue = make_catalogue(1000)
    z = 0.02 + 0.03 * np.random.default_rng(0).normal(size=1000)
    wide, precise = (catalogue.observations._replace(z_spec=z, z_spec_err=np.full(1000, error)) for error in (0.03, 0.001))
    assert (validated(catalogue._replace(observations=wide), BANDS).observations.z_spec < 0).sum() > 100
    assert "z_spec: " in refusal(catalogue._replace(observations=precise))
    code = wide._replace(z_spec=np.where(z == z[0], -1.0, z), z_spec_err=np.full(1000, 0.3))
    assert "z_spec: row 1 " in refusal(catalogue._replace(observations=code))


def test_an_object_needs_a_band():
    catalogue = changed("mag", 6, np.nan)
    catalogue = catalogue._replace(observations=catalogue.observations._replace(mag_err=catalogue.observations.mag + 0 * 0.01))
    assert "row 7" in refusal(catalogue)


def test_ids_are_unique_and_there_is_at_least_one_object():
    catalogue = make_catalogue()
    ids = catalogue.id.copy()
    ids[3] = ids[7] = ids[0]
    assert "1 repeated: '0000'" in refusal(catalogue._replace(id=ids))
    assert "at least one object" in refusal(make_catalogue(5)._replace(id=np.array([], str)))
    assert "shape" in refusal(catalogue._replace(id=catalogue.id[:-1]))


@given(st.integers(0, 2**32 - 1), st.floats(-1.2, 1.2), st.floats(-1.2, 1.2), st.floats(-1.2, 1.2))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_positive_definite_means_what_cholesky_says(seed, a, b, c):
    catalogue = make_catalogue(1, seed)
    o = catalogue.observations
    sd = np.sqrt([o.var_m[0], o.var_x[0], o.var_c[0]])
    correlation = np.array([[1, a, b], [a, 1, c], [b, c, 1]])
    covariance = correlation * np.outer(sd, sd)
    o = o._replace(cov_mx=covariance[:1, 1], cov_mc=covariance[:1, 2], cov_xc=covariance[1:2, 2])
    floor = correlation_floor(o)[0]
    determinant_by_hand = 1 + 2 * a * b * c - a * a - b * b - c * c  # with |r| < 1: Sylvester's criterion
    if abs(determinant_by_hand) > 1e-4:  # beyond rounding of the boundary
        assert (floor > 0) == (determinant_by_hand > 0 and max(abs(a), abs(b), abs(c)) < 1)


def test_missing_column_lists_what_is_there_and_the_nearest_name():
    with pytest.raises(CatalogueError, match=r"'var_m' \(nearest is 'varm'\), got only id.*varm"):
        check_columns([n if n != "var_m" else "varm" for n in NAMES], BANDS)
    with pytest.raises(CatalogueError, match=r"'mag_g' \(nearest is 'MAG_G'\)"):
        check_columns([n if n != "mag_g" else "MAG_G" for n in NAMES], BANDS)


def test_misspelled_optional_column_is_not_ignored_and_others_are():
    with pytest.raises(CatalogueError, match="'zspec' looks like the optional 'z_spec'"):
        check_columns([n if n != "z_spec" else "zspec" for n in NAMES if n != "z_spec_err"], BANDS)
    with pytest.raises(CatalogueError, match="z_spec_err beside z_spec"):
        check_columns([n for n in NAMES if n != "z_spec_err"], BANDS)
    check_columns([n for n in NAMES if not n.startswith(("z_", "cov_", "p_ia"))] + ["ra", "comment", "mag_u"], BANDS)


@pytest.mark.parametrize("name", ["cov_xm", "cov_cm", "cov_cx", "COV_RA_DEC"])
def test_a_covariance_of_another_name_is_not_taken_for_zero(name):
    plain = [n for n in NAMES if not n.startswith("cov_")]
    for present in (plain, NAMES):
        with pytest.raises(CatalogueError, match=rf"expected covariances cov_mx, cov_mc, cov_xc, got {name}, .* rename or drop"):
            check_columns([*present, name], BANDS)


@pytest.mark.parametrize("name", ["z", "redshift", "specz", "z_spectroscopic", "z_CMB", "Redshift"])
def test_redshifts_that_are_not_read_are_said_to_be_so(name):
    without = [n for n in NAMES if not n.startswith("z_")]
    with pytest.warns(TargetWarning, match=rf"{name!r} is not read.* rename it to z_spec .* z_spec_err"):
        check_columns([*without, name], BANDS)
    check_columns([*NAMES, name], BANDS)
    check_columns([*without, "z_phot", "photo_z", "redshift_flag"], BANDS)


def test_a_covariance_that_is_not_finite_is_not_positive_definite():
    o = make_catalogue().observations
    broken = o._replace(var_x=np.where(np.arange(12) == 3, np.nan, o.var_x), var_c=np.where(np.arange(12) == 5, 0, o.var_c))
    assert (correlation_floor(broken) <= 0).nonzero()[0].tolist() == [3, 5]

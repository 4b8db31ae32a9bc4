"""A release becomes a catalogue: joins by name, numbers by the release's own definitions, every cut counted."""

import gzip
import io

import numpy as np
import pytest
from astropy.table import Table

from cigars.catalogue import read_catalogue, write_catalogue
from cigars.config import load_config
from cigars.ingest import (
    CLASSES,
    DES_BANDS,
    HEAD,
    HOST_FLOOR,
    HUBBLE,
    META,
    SALT_COLUMNS,
    CatalogueError,
    ingest,
    ingest_des_sn5yr,
    read_snana,
)
from tests.shared import needs_shared, shared_data

ROW = dict(
    CID="A", IDSURVEY="10", TYPE="0", zHD=0.5, zHDERR=0.002, mB=23.0, x0=1.1e-5, x0ERR=4e-7, x1=0.3, x1ERR=0.5, c=0.02, cERR=0.05,
    COV_x1_c=0.008, COV_x1_x0=-1e-7, COV_c_x0=-1e-8,
)  # fmt: skip
HOST = dict(mag=(23.0, 22.0, 21.5, 21.2), err=(0.01, 0.0, 0.0, 0.02))


def snana(rows):
    names = list(rows[0])
    return "# a comment\n\nVARNAMES: " + " ".join(names) + "\n" + "".join("SN: " + " ".join(str(r[n]) for n in names) + "\n" for r in rows)


def release(folder, rows, hosts, classes):
    """A release in the layout of DES-SN5YR; hosts are in another order than supernovae."""
    (folder / META).write_text(snana(rows))
    (folder / HUBBLE).write_text(snana([{"CID": r["CID"], "zHD": r["zHD"]} for r in rows]))
    names = sorted(hosts, reverse=True)
    head = Table({"SNID": [f"{n:<16}" for n in names]})
    for k, band in enumerate(DES_BANDS):
        head[f"HOSTGAL_MAG_{band}"] = np.array([hosts[n]["mag"][k] for n in names], np.float32)
        head[f"HOSTGAL_MAGERR_{band}"] = np.array([hosts[n]["err"][k] for n in names], np.float32)
    buffer = io.BytesIO()
    head.write(buffer, format="fits")
    (folder / HEAD).write_bytes(gzip.compress(buffer.getvalue()))
    (folder / CLASSES).write_text("SNID,PROB\n" + "".join(f"{n},{p}\n" for n, p in classes.items()))


@pytest.fixture
def folder(tmp_path):
    """One object that is kept, and one for every cut."""
    changes = {
        "LOWZ": {"IDSURVEY": "150"},
        "NOHEAD": {},
        "NOMAG": {},
        "NOERR": {},
        "COLOUR": {},
        "NOZ": {"zHD": -9.0},
        "COV": {"COV_x1_c": 0.03},
        "TYPE": {"TYPE": "29"},
        "NOCLASS": {},
        "NOTIA": {},
    }
    hosts = {"A": HOST} | {n: HOST for n in changes if n not in ("LOWZ", "NOHEAD")}
    hosts["NOMAG"] = {**HOST, "mag": (-999.0, 22.0, 21.5, 21.2)}
    hosts["NOERR"] = {**HOST, "err": (-10.0, 0.0, 0.0, 0.0)}
    hosts["COLOUR"] = {**HOST, "mag": (26.0, 22.0, 21.5, 21.2)}
    classes = {"A": 0.97, **{n: 0.9 for n in changes if n not in ("LOWZ", "NOCLASS")}, "NOTIA": 0.2}
    release(tmp_path, [{**ROW, "CID": n, **c} for n, c in changes.items()] + [ROW], hosts, classes)
    return tmp_path


def test_every_cut_is_named_and_removes_its_own(folder):
    catalogue, cuts = ingest("des-sn5yr", folder)
    assert list(catalogue.id) == ["A"]
    removed = {c.name: c.removed for c in cuts}
    assert removed.pop("absent from the Hubble diagram") == 0
    assert set(removed.values()) == {1}
    assert len(removed) == 10
    assert [c.kept for c in cuts] == list(11 - np.cumsum([c.removed for c in cuts]))


def test_probability_cut_can_be_dropped(folder):
    catalogue, cuts = ingest_des_sn5yr(folder, 0.0)
    assert set(catalogue.id) == {"A", "NOTIA"}
    assert cuts[-1].name == "P(Ia) below 0"


def test_numbers_follow_the_release_definitions(folder):
    o = ingest_des_sn5yr(folder)[0].observations
    np.testing.assert_allclose(o.mag[0], HOST["mag"], rtol=1e-6)
    np.testing.assert_allclose(o.mag_err[0], [(e**2 + HOST_FLOOR**2) ** 0.5 for e in HOST["err"]], rtol=1e-6)
    assert (o.m[0], o.x[0], o.c[0], o.z_spec[0], o.z_spec_err[0]) == tuple(np.float32([23.0, 0.3, 0.02, 0.5, 0.002]))


def test_magnitude_covariance_is_that_of_sampled_x0(folder):
    """First-order propagation of x0 agrees with draws of (x0, x1, c), to the second order in dx0/x0 = 4 %."""
    o = ingest_des_sn5yr(folder)[0].observations
    a, b, c = ROW["x0ERR"], ROW["x1ERR"], ROW["cERR"]
    covariance = [
        [a**2, ROW["COV_x1_x0"], ROW["COV_c_x0"]],
        [ROW["COV_x1_x0"], b**2, ROW["COV_x1_c"]],
        [ROW["COV_c_x0"], ROW["COV_x1_c"], c**2],
    ]
    draws = np.random.default_rng(0).multivariate_normal([ROW["x0"], ROW["x1"], ROW["c"]], covariance, 400_000)
    sampled = np.cov(np.column_stack([10.635 - 2.5 * np.log10(draws[:, 0]), draws[:, 1:]]).T)
    mine = [[o.var_m[0], o.cov_mx[0], o.cov_mc[0]], [o.cov_mx[0], o.var_x[0], o.cov_xc[0]], [o.cov_mc[0], o.cov_xc[0], o.var_c[0]]]
    scale = np.sqrt(np.outer(np.diag(sampled), np.diag(sampled)))
    np.testing.assert_allclose(
        mine / scale, sampled / scale, atol=0.008
    )  # 5 standard errors, 5 sqrt(2/400,000) = 0.011; second order 0.002
    wrong = np.array(mine) * np.array([[1, -1, 1], [-1, 1, 1], [1, 1, 1]])  # the sign of cov(m, x)
    assert np.abs(wrong / scale - sampled / scale).max() > 0.05


def test_blank_lines_of_the_classification_are_no_objects(folder):
    whole = ingest_des_sn5yr(folder)
    (folder / CLASSES).write_text((folder / CLASSES).read_text().replace("A,", "\nA,", 1) + "\n\n")
    again = ingest_des_sn5yr(folder)
    assert list(again[0].id) == list(whole[0].id) == ["A"]
    assert again[1] == whole[1]


@pytest.mark.parametrize("name", [HUBBLE, META, HEAD, CLASSES])
def test_missing_or_damaged_files_are_named_in_one_line(folder, name):
    content = (folder / name).read_bytes()
    for damaged in (None, b"", b"noise \xff\x00", content[: len(content) * 2 // 3]):
        if damaged is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(damaged)
        if damaged and name == CLASSES and damaged == content[: len(content) * 2 // 3]:
            continue  # a shorter list of probabilities is a valid one
        with pytest.raises(CatalogueError, match=name.replace(".", r"\.")) as caught:
            ingest_des_sn5yr(folder)
        assert "\n" not in str(caught.value)


def test_unknown_release_and_folder(tmp_path):
    with pytest.raises(CatalogueError, match="expected a release of des-sn5yr, got 'pantheon'"):
        ingest("pantheon", tmp_path)
    with pytest.raises(CatalogueError, match=r"missing DES-Dovekie_HD\.csv, DES-Dovekie_Metadata\.csv"):
        ingest_des_sn5yr(tmp_path / "nowhere")


def test_nothing_left_is_an_error(folder):
    with pytest.raises(CatalogueError, match="no supernova passes"):
        ingest_des_sn5yr(folder, 1.1)


def test_preset_is_that_of_the_catalogue():
    config = load_config("des5yr")
    assert config.band_names == DES_BANDS
    assert all(model.floor == HOST_FLOOR for model in config.observation.host_fitted)
    r = np.array([[1, *config.observation.sn_correlation[:2]], [0, 1, config.observation.sn_correlation[2]], [0, 0, 1]])
    assert np.linalg.eigvalsh(r + np.triu(r, 1).T).min() > 0.1
    assert "Om0" in config.marginals
    assert "Ode0" not in config.marginals


@needs_shared
def test_the_real_release(tmp_path):
    catalogue, cuts = ingest_des_sn5yr(shared_data("des-sn5yr"))
    removed = {c.name: c.removed for c in cuts}
    assert sum(removed.values()) + len(catalogue.id) == 1820
    assert removed["low redshift without host magnitudes"] == 197
    assert removed["SALT3 covariance not positive definite"] == 10  # of 11; one is a low-redshift row
    assert len(catalogue.id) == load_config("des5yr").size.expected_supernovae
    o = catalogue.observations
    salt = read_snana(shared_data("des-sn5yr") / META, (*SALT_COLUMNS, "mBERR"))
    quoted = dict(zip(salt["CID"], salt["mBERR"].astype(float), strict=True))
    np.testing.assert_allclose(np.sqrt(o.var_m), [quoted[i] for i in catalogue.id], rtol=1e-4)  # the release's own error of mB, rounded
    np.testing.assert_allclose(o.m, 10.635 - 2.5 * np.log10([float(v) for v in salt["x0"][np.isin(salt["CID"], catalogue.id)]]), atol=1e-4)
    write_catalogue(tmp_path / "des.fits", catalogue, DES_BANDS)
    assert np.array_equal(read_catalogue(tmp_path / "des.fits", DES_BANDS).observations.mag, o.mag)

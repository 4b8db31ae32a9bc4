"""One interface: chunks and order do not matter, back-ends and files are told apart."""

import shutil

import numpy as np
import pytest

from cigars.config import HostConfig
from cigars.schema import Galaxies
from simulators.sps.library import DEFAULT_TABLE, read_table
from simulators.sps.photometry import load_photometry, photometry_fingerprint, template_magnitudes
from tests.simulators.sps.galaxies import random_galaxies

CONFIG = HostConfig(bands=("lsst2023-g", "lsst2023-z"))


@pytest.fixture(scope="module")
def photometry():
    return load_photometry(CONFIG)


def test_chunks_and_order_do_not_matter(photometry):
    galaxies = random_galaxies(77)
    whole = template_magnitudes(galaxies, photometry)
    assert whole.shape == (77, 2)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(template_magnitudes(galaxies, photometry, chunk=16), whole, atol=2e-5)  # float32 sums in another order
    backwards = Galaxies(*(v[::-1] for v in galaxies))
    np.testing.assert_allclose(template_magnitudes(backwards, photometry)[::-1], whole, atol=2e-5)


def test_progress_reaches_the_total(photometry):
    seen = []
    template_magnitudes(random_galaxies(40), photometry, chunk=16, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(16, 40), (32, 40), (40, 40)]


def test_no_galaxies_give_no_magnitudes(photometry):
    assert template_magnitudes(random_galaxies(0), photometry).shape == (0, 2)


def test_a_table_of_ones_own_is_used_and_fingerprinted(tmp_path):
    copy = tmp_path / "mine.npz"
    shutil.copy(str(DEFAULT_TABLE), copy)
    mine = CONFIG.model_copy(update={"ssp_file": str(copy)})
    assert photometry_fingerprint(mine) == photometry_fingerprint(CONFIG)  # by content, not by name
    with np.load(copy) as arrays:
        np.savez(copy, **{**arrays, "luminosity": arrays["luminosity"] * 10 ** (0.4 * 0.5)})
    assert photometry_fingerprint(mine) != photometry_fingerprint(CONFIG)
    galaxies = random_galaxies(8, gas_metallicity_log10_zsun=0.0)
    stars = {"nebular": False}
    both = [template_magnitudes(galaxies, load_photometry(c.model_copy(update=stars))) for c in (CONFIG, mine)]
    np.testing.assert_allclose(both[0] - both[1], 0.5, atol=1e-4)


def test_the_table_names_its_sources():
    table = read_table()
    assert "BC03" in table.name
    assert table.source.count("sha256") == 3
    assert table.line_wavelength.shape == (24,)
    assert 2.5e6 < DEFAULT_TABLE.stat().st_size < 4e6


def test_damaged_tables_are_refused(tmp_path):
    with np.load(str(DEFAULT_TABLE)) as arrays:
        values = dict(arrays)
    np.savez(tmp_path / "a.npz", **{k: v for k, v in values.items() if k != "luminosity"})
    with pytest.raises(ValueError, match="none called \\['luminosity'\\]"):
        read_table(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **(values | {"luminosity": values["luminosity"][:, :-1]}))
    with pytest.raises(ValueError, match="of shape"):
        read_table(tmp_path / "b.npz")
    with pytest.raises(ValueError, match="expected a file, got none"):
        read_table(tmp_path / "c.npz")


def test_the_table_back_end_has_nothing_to_compute():
    with pytest.raises(ValueError, match="its file already holds them"):
        load_photometry(HostConfig(backend="table", table_file="hosts.fits"))

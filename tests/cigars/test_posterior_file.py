"""Room is asked for before the work, blocks make the file that the whole would, and a failure leaves nothing behind."""

import gc
import sys

import numpy as np
import pytest

from cigars.files import FileError
from cigars.infer import infer
from cigars.posterior_file import check_memory, check_room, read_posterior, save_posterior, writing
from cigars.schema import LOCALS

from .synthetic import synthetic


def test_sizes_are_those_of_the_draws(tmp_path):
    """1,000 draws of 100,000 objects and 8 unknowns in single precision: 3.2 GB, a twentieth more, and 67 MB."""
    with pytest.raises(FileError, match=r"1,000,000 draws of 100,000 objects need 3.36e\+03 GB"):
        check_room(tmp_path / "p.nc", 10**6, 10**5)
    check_room(tmp_path / "p.nc", 10, 10)
    check_memory(10, 10)
    with pytest.raises(FileError, match=r"memory: 1,000,000,000 draws .* or write to a file block by block"):
        check_memory(10**9, 100)


def test_the_remedy_fits(tmp_path, monkeypatch):
    """As many draws as the message allows are then accepted."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 200 * 10**6}))
    with pytest.raises(FileError, match="ask for at most") as refusal:
        check_room(tmp_path / "p.nc", 10_000, 1600)
    most = int(str(refusal.value).split("at most ")[1].split(" draws")[0].replace(",", ""))
    check_room(tmp_path / "p.nc", most, 1600)
    with pytest.raises(FileError):
        check_room(tmp_path / "p.nc", most + 20, 1600)


def test_nothing_is_read_where_there_is_no_room(catalogue):
    with pytest.raises(FileError, match="memory"):
        infer("nowhere", catalogue, draws=10**9)


def test_blocks_make_the_whole(tmp_path):
    """Blocks smaller than a chunk and not a divisor of the objects; one object read alone has its draws."""
    post = synthetic(30, objects=70)
    local = np.stack([post[n] for n in LOCALS], -1)
    shell = post.to_arviz().copy()
    shell.posterior = shell.posterior.drop_vars(LOCALS)
    with writing(tmp_path / "p.nc", shell, post.draws) as file:
        for start in range(0, 70, 17):
            rows = slice(start, min(start + 17, 70))
            file.put(rows, local[:, rows])
        file.note("seconds", 2.5)
    read = read_posterior(tmp_path / "p.nc")
    for name in (*LOCALS, "Om0"):
        np.testing.assert_array_equal(read["posterior"][name].values[0], post[name])
    assert read["posterior"].attrs["seconds"] == read.attrs["seconds"] == 2.5
    np.testing.assert_array_equal(read["posterior"]["z"].sel(object="sn69").values[0], post["z"][:, 69])


def test_a_failure_leaves_no_file(tmp_path):
    post = synthetic(10)
    shell = post.to_arviz().copy()
    shell.posterior = shell.posterior.drop_vars(LOCALS)
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "p.nc", shell, post.draws):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_what_exists_stays(tmp_path):
    post = synthetic(10)
    path = save_posterior(tmp_path / "p.nc", post.to_arviz())
    before = path.read_bytes()
    with pytest.raises(FileError, match="exists already"):
        save_posterior(path, synthetic(11).to_arviz())
    assert path.read_bytes() == before


def test_a_file_without_a_root_is_refused_in_silence(tmp_path, monkeypatch):
    """Its address, byte 64 of HDF5's first superblock, is damaged: h5netcdf stops half open, and its remains must not speak either."""
    path = save_posterior(tmp_path / "p.nc", synthetic(10).to_arviz())
    content = bytearray(path.read_bytes())
    content[64] ^= 1
    path.write_bytes(content)
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    with pytest.raises(FileError, match="expected a posterior"):
        read_posterior(path)
    gc.collect()
    assert not said


def test_a_file_that_is_not_there_is_not_taken_for_a_damaged_one(tmp_path):
    with pytest.raises(FileError, match="found no such file"):
        read_posterior(tmp_path / "p.nc")

"""`cigars store` and `cigars simulate --store` as a person types them."""

import pytest

from tests.cigars.test_store import begin, content, write
from tests.cigars.test_store_upkeep import flip

TINY = [f"--set={key}" for key in ("hosts.effective_hosts=2000", "size.expected_supernovae=40", "size.capacity=256")]


def test_info_says_what_is_there_and_what_is_not(cigars, tmp_path):
    write(begin(tmp_path / "s"), 4, 8, 20)
    said = cigars("store", "info", tmp_path / "s")
    assert said.code == 0
    for text in ("0-3, 12-19", "4-11, 20-23", "0, training", "numpy none"):
        assert text in said.out
    assert "12 surveys with" in said.out


def test_verify_leaves_with_code_1_and_one_line_for_each_fault(cigars, tmp_path):
    write(begin(tmp_path / "s"), 0, 4, 8)
    whole = content(tmp_path / "s")
    assert cigars("store", "verify", tmp_path / "s").code == 0
    flip(tmp_path / "s/shards/0000000004.zarr.zip")
    (tmp_path / "s/shards/0000000008.zarr.zip").unlink()
    said = cigars("store", "verify", tmp_path / "s")
    assert said.code == 1
    assert "4 surveys are sound, 2 shards are not" in said.out
    assert [line for line in said.err.splitlines() if "0000000004" in line and "SHA-256" in line]
    assert [line for line in said.err.splitlines() if "0000000008" in line and "No such file" in line]
    assert "removed" in cigars("store", "verify", tmp_path / "s", "--discard").out
    said = cigars("store", "verify", tmp_path / "s")
    assert (said.code, "4 surveys are sound, 0 shards are not" in said.out) == (0, True)
    write(begin(tmp_path / "s"), 4, 8)
    assert content(tmp_path / "s") == whole


def test_merge_joins_and_refuses(cigars, refused, tmp_path):
    write(begin(tmp_path / "a"), 0)
    write(begin(tmp_path / "b"), 4)
    assert "8 surveys" in cigars("store", "merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "c").out
    assert "got 0-3 in both" in refused("store", "merge", tmp_path / "a", tmp_path / "c", "-o", tmp_path / "d")


@pytest.mark.parametrize("command", ["info", "verify"])
def test_what_is_not_a_store_is_one_line(refused, tmp_path, command):
    assert "expected store.json, got none" in refused("store", command, tmp_path)
    (tmp_path / "store.json").write_text('{"schema_version": 1, "path": "../x"}')
    assert "expected a manifest of a store" in refused("store", command, tmp_path)


def test_a_mock_and_a_store_are_different_outputs(refused, tmp_path):
    assert "give -o CATALOGUE or --store DIR" in refused("simulate", "demo")
    for option in (["-o", "mock.fits"], ["--theta", "Om0=0.3"], ["--from-prior"], ["--number", "3"]):
        assert "they write a catalogue" in refused("simulate", "demo", "--store", tmp_path / "s", *option)
    assert not (tmp_path / "s").exists()


def test_a_store_that_cannot_be_made_is_one_line(refused, tmp_path):
    assert "cannot reach it" in refused("simulate", "demo", "--store", "nosuch://bucket/s", *TINY)
    (tmp_path / "file").touch()
    assert "cannot" in refused("simulate", "demo", "--store", tmp_path / "file" / "s", *TINY)
    begin(tmp_path / "s", seed=3)
    assert "name another store" in refused("simulate", "demo", "--store", tmp_path / "s", "--shard", 4, *TINY)


def test_a_store_that_is_complete_starts_no_cluster(cigars, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("cigars.cluster.connect", None)
    write(begin(tmp_path / "s"), 0, 4)
    command = ["simulate", "demo", "--store", tmp_path / "s", "--surveys", 8, "--shard", 4, "--device", "cpu", *TINY]
    said = cigars(*command)
    assert said.code == 0
    assert "0 surveys written" in said.out
    for option, value in (("--workers", 2), ("--cluster", "slurm")):
        assert f"{option}: expected none with --scheduler" in refused(*command, "--scheduler", "tcp://nowhere:1", option, value)

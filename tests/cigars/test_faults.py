"""What is done to real processes while they write a store: nothing reported is lost, and resuming gives the identical store."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cigars.cluster import connect, fill, write_shard
from cigars.files import FileError
from cigars.store import create_store, open_store
from cigars.store_upkeep import verify
from tests.cigars.fake_surveys import tiny
from tests.cigars.test_store import begin, content, write

SHARD = 4
ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import sys
from cigars.ragged import pack
from tests.cigars.fake_surveys import VERSIONS, surveys
from tests.cigars.test_store import begin
{before}
store = begin(sys.argv[1])
for start in map(int, sys.argv[2:]):
    store.write(start, pack(surveys(start, 4)), VERSIONS)
    print(start, flush=True)
"""
KILLED_BEFORE_RECORD = """
import os, signal
import cigars.store as module
plain = module.put
def put(fs, path, content):
    if path.endswith("0000000008.json"):
        os.kill(os.getpid(), signal.SIGKILL)
    plain(fs, path, content)
module.put = put
"""
KILLED_IN_DATA = """
import os, signal
from cigars import files
def flush(path):
    if "0000000008" in path.name:
        os.kill(os.getpid(), signal.SIGKILL)
files._flush = flush
"""


def writer(folder, *starts, before="") -> subprocess.Popen:
    """A process that writes shards of fake surveys and prints each when it is written."""
    script = [sys.executable, "-c", WRITER.format(before=before), str(folder), *map(str, starts)]
    return subprocess.Popen(script, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The store of shards 0 … 28 that nothing happened to."""
    return content(write(begin(tmp_path_factory.mktemp("whole") / "s"), *range(0, 32, SHARD)).address)


def in_full(folder) -> dict[str, bytes]:
    """What is left after resuming, debris of a killed writer aside, which `verify --discard` removes."""
    store = open_store(folder)
    write(store, *store.missing(0, 32))
    assert verify(store, discard=True).faults == []
    return content(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "data"), [(KILLED_BEFORE_RECORD, True), (KILLED_IN_DATA, False)])
def test_a_writer_killed_before_the_record_loses_nothing_it_reported(tmp_path, whole, before, data):
    process = writer(tmp_path / "s", 0, 4, 8, 12, before=before)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err
    assert out.split() == ["0", "4"]
    assert (tmp_path / "s/shards/0000000008.zarr.zip").exists() == data
    store = open_store(tmp_path / "s")
    assert list(store.finished()) == [0, 4]
    assert list(verify(store).sound) == [0, 4]
    assert len(verify(store).leftovers) == 1
    assert in_full(tmp_path / "s") == whole


@pytest.mark.slow
def test_two_writers_end_with_the_identical_store(tmp_path, whole):
    order = list(range(0, 32, SHARD))
    both = [writer(tmp_path / "s", *order), writer(tmp_path / "s", *order[::-1])]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [sorted(map(int, out.split())) for out, _ in said] == [order, order]
    assert content(tmp_path / "s") == whole


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB, which can grow."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_whole_shards(small_disk, whole):
    store = begin(small_disk / "s")
    with pytest.raises(FileError, match="no space left on the device") as caught:
        write(store, *range(0, 32, SHARD))
    assert "\n" not in str(caught.value)
    written = list(store.finished())
    assert 0 < len(written) < 8
    assert written == list(range(0, SHARD * len(written), SHARD)) == list(verify(store).sound)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert in_full(small_disk / "s") == whole


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A cache with the host bank, and the store of 24 surveys simulated in this process."""
    folder = tmp_path_factory.mktemp("simulated")
    before = os.environ.get("CIGARS_CACHE")
    os.environ["CIGARS_CACHE"] = str(folder / "cache")
    store = create_store(folder / "s", tiny(), shard=SHARD)
    for start in range(0, 24, SHARD):
        write_shard(store.address, start)
    yield content(folder / "s")
    os.environ.pop("CIGARS_CACHE") if before is None else os.environ.update(CIGARS_CACHE=before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the cluster's own sockets and loops, at their ends
def test_a_worker_killed_in_the_middle_of_a_shard_is_replaced(tmp_path, simulated):
    store, killed = create_store(tmp_path / "s", tiny(), shard=SHARD), []
    with connect(workers=2) as client:

        def kill():
            while not any(client.processing().values()):
                time.sleep(0.2)
            busy = next(worker for worker, tasks in client.processing().items() if tasks)
            time.sleep(1)
            killed.append(client.scheduler_info()["workers"][busy]["id"])
            os.kill(client.run(os.getpid, workers=[busy])[busy], signal.SIGKILL)

        assassin = threading.Thread(target=kill)
        assassin.start()
        assert fill(client, store, 0, 24, lambda *_: None) == 24
        assassin.join()
    assert killed
    assert content(tmp_path / "s") == simulated


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_killed_scheduler_is_one_line_and_the_same_command_continues(tmp_path, simulated):
    folder, address = tmp_path / "s", tmp_path / "scheduler.json"
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    work = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(address), "--nthreads", "1", "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen([*start, "--scheduler-file", str(address)], **quiet)
    worker = subprocess.Popen([*work, "--death-timeout", "10"], env=os.environ | {"JAX_PLATFORMS": "cpu"}, **quiet)
    try:
        while not address.exists():
            time.sleep(0.1)
        url = json.loads(address.read_text())["address"]
        settings = ["hosts.effective_hosts=2000", "size.expected_supernovae=40", "size.capacity=256"]
        command = [sys.executable, "-m", "cigars", "simulate", "demo", "--store", str(folder), "--surveys", "24", "--shard", "4"]
        command += ["--scheduler", url, "--device", "cpu", *(word for s in settings for word in ("--set", s))]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not list(folder.glob("shards/*.json")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        scheduler.kill()
        out, err = process.communicate(timeout=120)
        print(out, err)
        reported = sorted(folder.glob("shards/*.json"))
        assert process.returncode == 2
        assert [line for line in err.splitlines() if "error: cluster: lost its scheduler" in line]
        assert "Traceback" not in err
    finally:
        for one in (scheduler, worker):
            one.kill()
            one.wait()
    store = open_store(folder)
    assert list(verify(store).sound) == [int(path.stem) for path in reported]
    for start in store.missing(0, 24):
        write_shard(store.address, start)
    verify(store, discard=True)
    assert content(folder) == simulated


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_one_line(refused, tmp_path):
    said = refused("simulate", "demo", "--store", tmp_path / "s", "--scheduler", "tcp://127.0.0.1:9", "--device", "cpu")
    assert "expected a Dask scheduler at tcp://127.0.0.1:9, got none" in said

"""A Dask cluster gives the surveys of one process, bit for bit: in order from `farm`, as the same store from `fill`."""

import os
import signal
import stat
import subprocess
import sys
import time
import warnings
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cigars.cluster import Cluster, ClusterError, _started, connect, farm, fill, simulate_shard, write_shard
from cigars.config import load_config
from cigars.files import FileError
from cigars.store import create_store
from tests.cigars.fake_surveys import same, surveys, tiny
from tests.cigars.test_store import content


@pytest.mark.slow
def test_any_sharding_gives_the_same_surveys(tmp_path, monkeypatch):
    monkeypatch.setenv("CIGARS_CACHE", str(tmp_path))
    config = load_config("demo", **{"hosts.effective_hosts": 2000.0, "size.expected_supernovae": 40.0, "size.capacity": 256})
    expected = simulate_shard(config.model_dump_json(), "training", 3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sockets of the cluster's own threads
        from dask.distributed import Client

        with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
            batches = list(farm(client, config, "training", first=3, total=5, shard=2))
    assert [len(b.number) for b in batches] == [2, 2, 1]
    for name in ("m", "z_spec", "mag"):
        found = [getattr(b.observations, name)[i, : b.number[i]] for b in batches for i in range(len(b.number))]
        for survey, rows in enumerate(found):
            np.testing.assert_array_equal(rows, getattr(expected.observations, name)[survey, : len(rows)])
    assert np.array_equal(np.concatenate([b.number for b in batches]), expected.number)
    assert not np.array_equal(expected.observations.m[0, :5], expected.observations.m[1, :5])


def test_an_empty_range_is_refused():
    with pytest.raises(ValueError, match="farm: expected total"):
        next(farm(None, load_config("demo"), "training", 0, 0))


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """A store of 16 surveys written shard by shard in this process, its cache of host banks used by the tests that follow."""
    folder = tmp_path_factory.mktemp("serial")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIGARS_CACHE", str(folder / "cache"))
        store = create_store(folder / "s", tiny(), shard=4)
        for start in (12, 0, 8, 4):
            write_shard(store.address, start)
        yield store


@pytest.mark.slow
def test_a_shard_holds_the_surveys_of_the_live_source(serial):
    from cigars.ragged import pack

    live = simulate_shard(tiny().model_dump_json(), "training", 4, 4)
    assert same(serial.read(serial.finished()[4]), pack(live))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # sockets of the clusters
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_writes_the_same_store_in_parts_or_at_once(serial, tmp_path, workers):
    store, seen = create_store(tmp_path / "s", tiny(), shard=4), []
    with connect(workers=workers) as client:
        if workers > 1:
            assert fill(client, store, 5, 2, lambda *_: None) == 4  # then the rest: append and resume are the same
        written = fill(client, store, 0, 16, lambda stage, done, total: seen.append((done, total)))
    assert written == (12 if workers > 1 else 16)
    assert seen[-1] == (16, 16)
    assert content(tmp_path / "s") == content(serial.address)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_slurm_jobs_write_the_same_store(serial, tmp_path, monkeypatch):
    """`sbatch` runs the job script at once, as a free node would."""
    pytest.importorskip("dask_jobqueue")
    import dask

    for name, body in (
        ("sbatch", 'cp "$1" "$0.sh"; setsid bash "$0.sh" > "$0.log" 2>&1 & echo "Submitted batch job $!"'),
        ("scancel", 'kill -- "-$1"'),
    ):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    settings = {"cores": 1, "memory": "4GB", "processes": 1, "python": sys.executable, "interface": "lo", "log-directory": str(tmp_path)}
    store = create_store(tmp_path / "s", tiny(), shard=4)
    with dask.config.set({f"jobqueue.slurm.{k}": v for k, v in settings.items()}), connect(cluster=Cluster.slurm, workers=1) as client:
        assert fill(client, store, 0, 16, lambda *_: None) == 16
    assert content(tmp_path / "s") == content(serial.address)


def test_slurm_without_dask_jobqueue_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ClusterError, match=r'pip install "cigars-sn\[cluster\]"'), connect(cluster=Cluster.slurm):
        pass


@pytest.fixture
def table(tmp_path, monkeypatch):
    """`table(p)` has all objects detected with probability p, in a file of the same name; returns the configuration that names it."""
    path = tmp_path / "detection.npz"
    probability = lambda config: np.load(config.selection.detection_file)["probability"][0, 0]  # noqa: E731
    monkeypatch.setattr("cigars.cluster.survey_source", lambda config, _: partial(seen, probability(config)))

    def written(p):
        np.savez(path, z=np.linspace(0, 1.2, 4), m=np.linspace(15, 30, 5), probability=np.full((4, 5), p))
        return tiny(**{"selection.detection": "table", "selection.detection_file": str(path)})

    return written


def seen(probability, first, count):
    """Surveys that tell the probability by their exposure."""
    return surveys(first, count)._replace(exposure=np.full(count, probability, np.float32))


def test_a_worker_simulates_from_the_files_that_there_are_now(table, tmp_path):
    """One that lives on has read those of before."""
    for p in (0.5, 0.9):
        config = table(p)
        store = create_store(tmp_path / str(p), config, shard=4)
        write_shard(store.address, 0)
        np.testing.assert_array_equal(store.read(store.finished()[0]).exposure, np.float32([p] * 4))
        np.testing.assert_array_equal(simulate_shard(config.model_dump_json(), "training", 0, 2).exposure, np.float32([p] * 2))


def test_a_worker_with_other_files_than_the_store_refuses(table, tmp_path):
    store = create_store(tmp_path / "s", table(0.5), shard=4)
    write_shard(store.address, 0)
    table(0.9)
    with pytest.raises(FileError, match=f"expected hosts and detection {store.manifest.hosts}, got .* begin another store"):
        write_shard(store.address, 4)
    table(0.5)
    write_shard(store.address, 4)
    assert list(store.finished()) == [0, 4]


@pytest.mark.filterwarnings("ignore")  # sockets of the cluster's own threads
def test_a_worker_with_an_accelerator_gives_numpy_cut_to_the_largest_survey(monkeypatch):
    """There the source leaves JAX arrays at full capacity."""
    expected = surveys(0, 3)
    wide = lambda leaf: jnp.pad(leaf, [(0, 0), (0, 40), *[(0, 0)] * (leaf.ndim - 2)]) if np.ndim(leaf) > 1 else jnp.asarray(leaf)  # noqa: E731
    monkeypatch.setattr("cigars.cluster.survey_source", lambda *_: lambda first, count: jax.tree.map(wide, surveys(first, count)))
    found = simulate_shard(tiny().model_dump_json(), "accelerator", 0, 3)
    assert same(found, expected)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))


def test_what_a_worker_may_not_read_is_said_and_is_no_lost_scheduler(tmp_path, monkeypatch):
    def forbidden(address, start):
        raise PermissionError(13, "Permission denied", "/home/worker/cache")

    from dask.distributed import Client

    monkeypatch.setattr("cigars.cluster.write_shard", forbidden)
    with (
        Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None, set_as_default=False) as client,
        pytest.raises(PermissionError, match="Permission denied: '/home/worker/cache'"),
    ):
        fill(client, create_store(tmp_path / "s", tiny(), shard=4), 0, 8, lambda *_: None)


def test_a_local_cluster_has_a_worker_for_each_core_that_may_be_used(monkeypatch):
    asked = {}
    monkeypatch.setattr("dask.distributed.LocalCluster", lambda **options: asked.update(options))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6})
    _started(Cluster.local, None)
    assert asked["n_workers"] == 3


def test_jobs_of_slurm_do_not_read_the_programs_compiled_for_the_processor_that_submits(monkeypatch):
    """Workers on this machine do."""
    said, folder = {}, jax.config.jax_compilation_cache_dir
    assert folder
    monkeypatch.setattr("dask.distributed.LocalCluster", lambda **options: said.update(local=options["env"]))
    jobs = SimpleNamespace(SLURMCluster=lambda **options: SimpleNamespace(scale=lambda n: said.update(jobs=n, **options)))
    monkeypatch.setitem(sys.modules, "dask_jobqueue", jobs)
    _started(Cluster.local, 1)
    _started(Cluster.slurm, None)
    assert said["local"]["JAX_COMPILATION_CACHE_DIR"] == folder
    assert said["jobs"] == 1
    assert [line for line in said["job_script_prologue"] if line == "export JAX_NUM_CPU_DEVICES=1"]
    assert not [line for line in said["job_script_prologue"] if "CACHE" in line]


INTERRUPTED = """
import sys, time
from cigars.cluster import connect

if __name__ == "__main__":
    try:
        with connect(workers=1) as client:
            future = client.submit(time.sleep, 2)
            print("working", flush=True)
            future.result()
            time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.slow
def test_ctrl_c_reaches_the_whole_group_and_workers_say_nothing(tmp_path):
    """As a terminal sends it: to every process, of which the first alone is to answer."""
    script = tmp_path / "interrupted.py"
    hears = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs are deaf to it
    script.write_text(hears + INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, str(script)], start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "working\n"
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")

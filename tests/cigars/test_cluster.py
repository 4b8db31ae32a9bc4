"""A Dask cluster gives the surveys of one process, in order, bit for bit."""

import warnings

import numpy as np
import pytest

from cigars.cluster import farm, simulate_shard
from cigars.config import load_config
from cigars.schema import concatenate


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


def test_batches_join_along_surveys():
    leaf = np.zeros((2, 3))
    from cigars.schema import Globals, Latents, Observations, Survey

    one = Survey(
        Globals(*[leaf[:, 0]] * len(Globals._fields)),
        Observations(*[leaf] * len(Observations._fields)),
        Latents(*[leaf] * len(Latents._fields)),
        leaf > 0,
        leaf,
        leaf[:, 0],
        leaf[:, 0],
    )
    assert concatenate([one, one]).observations.m.shape == (4, 3)

"""A training from a store is the training on live simulations, and does not begin without the surveys it needs."""

import json
import shutil

import pytest

from cigars import pipeline, store_reader
from cigars.cluster import write_shard
from cigars.config import load_config
from cigars.ragged import pack
from cigars.store import create_store, open_store
from inference.stages import surveys_used
from tests.cigars.fake_surveys import VERSIONS, surveys
from tests.cigars.test_store import begin, write

SHARD = 64


def test_missing_surveys_stop_a_training_before_it_begins(cigars, refused, workplace, tmp_path):
    config = load_config(workplace.config)
    store, used = create_store(tmp_path / "s", config, shard=SHARD), surveys_used(config.training)
    for start in store.grid(0, used):
        if start not in (64, 128):
            store.write(start, pack(surveys(start, SHARD)), VERSIONS)
    said = refused("train", workplace.config, "-o", tmp_path / "run", "--store", tmp_path / "s", "--device", "cpu")
    assert f"expected surveys 0-{used - 1}, missing or truncated are 64-191; write them" in said
    assert not (tmp_path / "run").exists()


def test_a_store_of_another_configuration_or_with_a_target_is_refused(refused, workplace, tmp_path):
    write(begin(tmp_path / "s"), 0)
    for options, message in [([], "train with the configuration it was simulated with"), (["--target", workplace.mock], "with a target")]:
        said = refused("train", workplace.config, "-o", tmp_path / "run", "--store", tmp_path / "s", "--device", "cpu", *options)
        assert message in said
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_run_from_a_store_is_the_live_one_and_needs_no_survey_more(workplace, tmp_path, monkeypatch):
    config, asked = load_config(workplace.config), []
    store, used = create_store(tmp_path / "s", config, shard=SHARD), surveys_used(config.training)
    for start in store.grid(0, used):
        write_shard(store.address, start)

    def noted(opened):
        source = plain(opened)
        return lambda first, count: asked.append(first + count) or source(first, count)

    plain = store_reader.store_source
    monkeypatch.setattr(store_reader, "store_source", noted)
    pipeline.train(config, tmp_path / "run", store=tmp_path / "s")
    assert max(asked) == used
    for name in ("run.json", "calibration.json"):
        live, stored = (json.loads((folder / name).read_text()) for folder in (workplace.run, tmp_path / "run"))
        for content in (live, stored):
            content.pop("seconds", None)
            for curve in content.get("curves", {}).values():
                curve.pop("seconds", None)
        assert stored == live
    (tmp_path / "s/shards/0000000000.zarr.zip").unlink()
    assert open_store(tmp_path / "s").missing(0, used) == [0]
    shutil.rmtree(tmp_path / "s")

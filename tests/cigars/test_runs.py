"""A run folder says what it was trained with and how well calibrated it is, or in one line why it cannot."""

import json

import numpy as np
import pytest

from cigars.config import load_config
from cigars.files import FileError
from cigars.runs import CALIBRATION, METADATA, Calibration, read_calibration, read_curves, run_config, stored_fingerprint, write_calibration
from cigars.surveys import run_fingerprint


def test_calibration_ranks_count_draws(workplace):
    calibration, seconds = read_calibration(workplace.run)
    config = load_config(workplace.config)
    assert calibration.names == tuple(config.marginals)
    assert calibration.ranks.shape == (config.training.calibration_surveys, len(config.marginals))
    assert calibration.ranks.min() >= 0
    assert calibration.ranks.max() <= calibration.draws
    assert len(np.unique(calibration.ranks)) > 20  # not stuck at the ends
    assert set(seconds) == {"host bank", "training", "calibration"}
    assert read_calibration(workplace.run / "checkpoints") == (None, {})
    assert stored_fingerprint(workplace.run) == run_fingerprint(config)
    assert run_config(workplace.run) == config


def test_curves_have_both_losses_of_every_stage(workplace):
    curves = read_curves(workplace.run)
    assert {"global", "local"} <= set(curves)
    for curve in curves.values():
        assert set(curve) == {"train", "validation"}
        assert len(curve["train"]) == len(curve["validation"]) > 0


def test_a_calibration_survives_its_file_and_a_damaged_one_is_refused(tmp_path):
    calibration = Calibration(("a", "b"), np.array([[0, 255], [3, 7]]), 255)
    write_calibration(tmp_path, calibration, {"training": 1.5})
    read, seconds = read_calibration(tmp_path)
    assert (read.names, read.draws, seconds) == (("a", "b"), 255, {"training": 1.5})
    np.testing.assert_array_equal(read.ranks, calibration.ranks)
    for content in ("{", "[]", json.dumps({"names": ["a"]})):
        (tmp_path / CALIBRATION).write_text(content)
        with pytest.raises(FileError, match=r"cannot read calibration\.json"):
            read_calibration(tmp_path)


@pytest.mark.parametrize(("content", "says"), [(None, "expected a finished training"), ("{", "cannot read"), ("[]", "got another file")])
def test_folders_that_are_no_run_are_refused(tmp_path, content, says):
    if content:
        (tmp_path / METADATA).write_text(content)
    for read in (run_config, stored_fingerprint, read_curves):
        with pytest.raises(FileError, match=says):
            read(tmp_path)

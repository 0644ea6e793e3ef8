"""The run and the checkpoint that a path means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anomaly_suite.errors import CheckpointError, DatasetNotFoundError
from anomaly_suite.io.runs import checkpoint_file, find_checkpoint, find_run


def touch(path: Path, *, age: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_the_newest_version_is_the_run(tmp_path: Path) -> None:
    for age, version in enumerate(("version_10", "version_9", "version_2")):
        touch(tmp_path / "lightning_logs" / version / "config.yaml", age=age)
    assert find_run(str(tmp_path)).name == "version_10"
    assert find_run(tmp_path / "lightning_logs" / "version_9").name == "version_9"
    touch(tmp_path / "config.yaml", age=99)
    assert find_run(tmp_path) == tmp_path


def test_a_folder_without_run(tmp_path: Path) -> None:
    touch(tmp_path / "other" / "config.yaml")
    with pytest.raises(DatasetNotFoundError, match=r"no run \(a folder with config.yaml\) in '.*'. Give the folder"):
        find_run(tmp_path)


def test_the_chosen_checkpoint_comes_before_the_newest(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*--ckpt_path"):
        find_checkpoint(tmp_path)
    touch(tmp_path / "a.ckpt", age=2)
    newest = touch(tmp_path / "deep" / "b.ckpt", age=1)
    assert find_checkpoint(tmp_path) == newest
    chosen = touch(tmp_path / "checkpoints" / "model.ckpt", age=9)
    assert find_checkpoint(tmp_path) == chosen


def test_a_file_or_a_run_means_one_checkpoint(tmp_path: Path) -> None:
    touch(tmp_path / "run" / "version_0" / "config.yaml")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint_file(tmp_path / "run")
    model = touch(tmp_path / "run" / "version_0" / "checkpoints" / "model.ckpt")
    assert checkpoint_file(str(tmp_path / "run")) == model
    assert checkpoint_file(model) == model
    with pytest.raises(DatasetNotFoundError, match="no run"):
        checkpoint_file(model.parent)
    with pytest.raises(CheckpointError, match="'nowhere' does not exist"):
        checkpoint_file("nowhere")

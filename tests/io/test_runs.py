"""The run and the checkpoint that a path means."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from anomaly_suite.errors import CheckpointError, DatasetNotFoundError
from anomaly_suite.io import runs
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


def run_in(folder: Path, *, age: float = 0, **record: object) -> Path:
    """A run with a record, that was begun so many seconds ago."""
    folder.mkdir(parents=True)
    runs.update_record(folder, **record)
    touch(folder / "config.yaml", age=age)
    return folder


def test_a_finished_run_comes_before_newer_ones_that_are_not(tmp_path: Path) -> None:
    running = run_in(tmp_path / "3", state="running", host=socket.gethostname(), pid=os.getpid())
    failed = run_in(tmp_path / "2", age=1, state="failed", error="ImageReadError: ...")
    assert find_run(tmp_path) == running
    finished = run_in(tmp_path / "1", age=9, state="finished")
    assert find_run(tmp_path) == finished
    assert find_run(failed) == failed
    assert runs.all_runs(tmp_path) == [finished, failed, running]
    assert [runs.state_of(folder) for folder in (finished, failed, running)] == ["finished", "failed", "running"]


def test_a_run_whose_process_is_gone_was_interrupted(tmp_path: Path) -> None:
    gone = run_in(tmp_path / "1", state="running", host=socket.gethostname(), pid=2**22 + 1)
    assert runs.state_of(gone) == "interrupted"
    elsewhere = run_in(tmp_path / "2", state="running", host="another", pid=2**22 + 1)
    assert runs.state_of(elsewhere) == "running"


def test_older_runs_are_whole_if_they_have_a_checkpoint(tmp_path: Path) -> None:
    whole = touch(tmp_path / "version_0" / "config.yaml", age=5).parent
    touch(whole / "checkpoints" / "model.ckpt")
    cut = touch(tmp_path / "version_1" / "config.yaml").parent
    assert [runs.state_of(folder) for folder in (whole, cut)] == ["finished", "interrupted"]
    assert find_run(tmp_path) == whole


def test_the_link_latest_leads_to_a_run(tmp_path: Path) -> None:
    first, second = run_in(tmp_path / "1", age=5, state="finished"), run_in(tmp_path / "2", state="finished")
    assert find_run(tmp_path / "latest") == second  # where there are no links
    runs.link_latest(first)
    assert os.readlink(tmp_path / "latest") == "1"
    assert find_run(tmp_path / "latest") == first
    runs.link_latest(second)
    assert find_run(tmp_path / "latest") == second
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2", "latest"}


def test_numbers_go_on_after_the_highest(tmp_path: Path) -> None:
    parent = tmp_path / "DAE" / "Digits"
    assert runs.new_folder(parent).name == "1"
    (parent / "9").mkdir()
    (parent / "notes").mkdir()
    assert runs.new_folder(parent).name == "10"
    assert runs.new_folder(parent, prefix="version_", first=0).name == "version_0"
    made = runs.new_folder(tmp_path / "new" / "deep")
    runs.remove_if_empty(made, above=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"DAE"}


def test_the_checkpoint_of_another_run_below_is_not_taken(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", checkpoint="kept/epoch=3.ckpt")
    touch(run / "data" / "config.yaml")
    touch(run / "data" / "checkpoints" / "model.ckpt")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        find_checkpoint(run)
    newer = touch(run / "newer.ckpt")
    assert find_checkpoint(run) == newer
    named = touch(run / "kept" / "epoch=3.ckpt", age=50)
    assert find_checkpoint(run) == named


def test_new_thresholds_are_used_while_the_record_says_so(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run")
    of_fit = touch(run / "epoch.ckpt", age=9)
    other = touch(run / "epoch-calibrated.ckpt")
    assert find_checkpoint(run) == of_fit
    runs.update_record(run, calibrated="epoch-calibrated.ckpt")
    assert find_checkpoint(run) == other
    assert find_checkpoint(run, calibrated=False) == of_fit
    runs.update_record(run, calibrated=None)
    assert find_checkpoint(run) == of_fit


def test_a_configuration_says_its_run_below_where_it_is_from(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    assert runs.identity_of(file) is None
    file.write_text("# from: a.yaml\n" + runs.run_line("0f3c", "checkpoints/model.ckpt") + "model: {}\n")
    assert runs.identity_of(file) == "0f3c"
    file.write_text("model: {}\n")
    assert runs.identity_of(file) is None


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "Set"),
        ({"root": "a/b"}, "Set"),
        ({"category": "../up"}, "Set/up"),
        ({"category": ["a", "b"], "normal_class": 0}, "Set/a-b_0"),
        ({"normal_class": "x" * 100}, "Set/" + "x" * 60),
    ],
)
def test_names_of_data_sets_are_names_of_folders(options: dict[str, object], name: str) -> None:
    assert runs.data_name("Set", options) == name

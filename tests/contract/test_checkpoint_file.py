"""A torn checkpoint never stands under its final name, whatever ends the writing."""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_runs import make_data, make_model

from anomaly_suite.contract.checkpoint_file import CheckpointFiles, is_local, read_checkpoint, save_checkpoint
from anomaly_suite.errors import CheckpointError, FileWriteError
from anomaly_suite.io import atomic

OLD = {"state_dict": {"a": torch.zeros(1)}, "pytorch-lightning_version": "2.6.0"}
NEW = {"state_dict": {"a": torch.ones(2_000_000)}, "pytorch-lightning_version": "2.6.0"}


class OwnIO(TorchCheckpointIO):
    """A ``CheckpointIO`` of one's own."""


def test_what_is_written_is_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "new" / "a.ckpt", NEW)
    assert torch.equal(read_checkpoint(tmp_path / "new" / "a.ckpt")["state_dict"]["a"], NEW["state_dict"]["a"])
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.ckpt"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writing stops in the middle of the file."""
    file = tmp_path / "a.ckpt"
    save_checkpoint(file, OLD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[0][1]))
    try:
        with pytest.raises(
            FileWriteError, match=f"'{file}' could not be written .*; an older file of that name is as it was"
        ):
            CheckpointFiles().save_checkpoint(NEW, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[0])
        signal.signal(signal.SIGXFSZ, before[1])
    assert torch.equal(read_checkpoint(file)["state_dict"]["a"], torch.zeros(1))
    assert [each.name for each in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("when", ["write", "fsync", "replace"])
def test_a_kill_leaves_the_old_file(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.ckpt"
    save_checkpoint(file, OLD)
    child = os.fork()
    if child == 0:  # ends here, killed
        if when == "write":
            monkeypatch.setattr(atomic, "check_size", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        else:
            monkeypatch.setattr(os, when, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        save_checkpoint(file, NEW)
        os._exit(0)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.WIFSIGNALED(ended[1])
    assert torch.equal(read_checkpoint(file)["state_dict"]["a"], torch.zeros(1))


def test_a_trainer_writes_every_checkpoint_so(
    tmp_path: Path, trainer_in: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def whole(path: Path, content: bytes) -> None:
        written.append(path.name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    monkeypatch.setattr("anomaly_suite.contract.checkpoint_file.save_bytes", whole)
    each = ModelCheckpoint(tmp_path, filename="model", enable_version_counter=False)
    trainer = trainer_in(
        callbacks=[each], enable_checkpointing=True, limit_train_batches=1, limit_val_batches=1, max_epochs=2
    )
    trainer.fit(make_model("DeepMIL"), datamodule=make_data("DeepMIL"))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert written == ["model.ckpt", "model.ckpt", "last.ckpt"]


def test_a_writer_of_ones_own_is_kept(trainer_in: Callable[..., Trainer]) -> None:
    kinds = []
    for plugins in ([], [OwnIO()]):
        trainer = trainer_in(plugins=plugins, limit_train_batches=1, limit_val_batches=0)
        trainer.fit(make_model("DeepMIL"), datamodule=make_data("DeepMIL"))
        kinds.append(type(trainer.strategy.checkpoint_io))
    assert kinds == [CheckpointFiles, OwnIO]


def test_only_files_of_this_machine_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_local("a/b.ckpt")
    assert is_local(Path("a"))
    assert not is_local("s3://bucket/a.ckpt")
    assert not is_local(io.BytesIO())
    seen: list[Any] = []
    monkeypatch.setattr(TorchCheckpointIO, "save_checkpoint", lambda self, *given: seen.append(given))
    CheckpointFiles().save_checkpoint(OLD, "s3://bucket/a.ckpt")
    assert seen == [(OLD, "s3://bucket/a.ckpt", None)]


def test_a_missing_checkpoint_is_the_error_that_lightning_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Checkpoint file not found"):
        CheckpointFiles().load_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(FileNotFoundError):
        type(make_model("DeepMIL")).load_from_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_the_checkpoint_of_another_module_is_read(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    trainer = trainer_in()
    trainer.strategy.connect(LightningModule())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt")["state_dict"] == {}


def test_errors_that_are_not_of_the_disk_pass(tmp_path: Path) -> None:
    def refuse(number: int) -> None:
        with atomic.replacing(tmp_path / "a"):
            raise OSError(number, os.strerror(number))

    with pytest.raises(FileWriteError):
        refuse(errno.ENOSPC)
    with pytest.raises(OSError, match="Interrupted"):
        refuse(errno.EINTR)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": torch.ones(1)}, "a bare state_dict: tensors without the options of their method"),
        ([torch.ones(1)], "a list"),
        (3, "a int"),
        (torch.ones(1), "a Tensor"),
        ({"epoch": 3}, "a dict"),
        ({"state_dict": {"a": torch.ones(1)}, "epoch": 3}, "a state_dict of another program"),
        ({"state_dict": [1], "pytorch-lightning_version": "2.6.0"}, "a dict"),
    ],
)
def test_what_is_no_checkpoint_is_named(content: Any, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError) as raised:
        CheckpointFiles().load_checkpoint(tmp_path / "a.ckpt")
    message = str(raised.value)
    assert message.startswith(
        f"{tmp_path / 'a.ckpt'} must be a checkpoint of Lightning; it holds {said}. Give a checkpoint"
    )
    assert ("segmenter_weights" in message) == ("state_dict" in said)
    with pytest.raises(CheckpointError, match="must be a checkpoint of Lightning"):
        type(make_model("DeepMIL")).load_from_checkpoint(tmp_path / "a.ckpt")

"""Checkpoint files: written whole or not at all, and read without running code from them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import Trainer

from anomaly_suite.errors import CheckpointError
from anomaly_suite.io.atomic import save_bytes
from anomaly_suite.tensor_files import numpy_numbers, read_tensor_file

INSTEAD = "Give a checkpoint that fit wrote, such as checkpoints/model.ckpt of a run."


def is_local(path: Any) -> bool:
    """Whether a path names a file on this machine, not an address such as ``s3://`` and not an open file."""
    return isinstance(path, str | Path) and "://" not in str(path)


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """What a checkpoint of Lightning holds.

    Args:
        path: The file.
        map_location: Device, or what else ``torch.load`` takes.

    Raises:
        CheckpointError: there is no such file, it cannot be read, or it is something else than a checkpoint.
    """
    content = read_tensor_file(path, CheckpointError, instead=INSTEAD, map_location=map_location)
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if isinstance(state, Mapping) and "pytorch-lightning_version" in content:
        return dict(content)
    tensors = isinstance(content, Mapping) and any(isinstance(value, torch.Tensor) for value in content.values())
    held = (
        "a bare state_dict: tensors without the options of their method" if tensors else f"a {type(content).__name__}"
    )
    held = "a state_dict of another program" if isinstance(state, Mapping) else held
    advice = "; weights of a network are an option of the method (weights, segmenter_weights, encoder_weights)"
    raise CheckpointError(
        f"{path} must be a checkpoint of Lightning; it holds {held}. {INSTEAD.removesuffix('.')}{advice if tensors or isinstance(state, Mapping) else ''}."
    )


def save_checkpoint(path: str | Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: Final name; missing folders are made and an older file is replaced.
        checkpoint: What ``torch.save`` takes.

    Raises:
        FileWriteError: the disk is full or the folder cannot be written to.
    """
    content = io.BytesIO()
    torch.save(dict(checkpoint), content)
    save_bytes(Path(path), content.getbuffer())


def use_checkpoint_files(trainer: Trainer) -> None:
    """Let a trainer read and write its checkpoints by :class:`CheckpointFiles`, unless it has a ``CheckpointIO`` of one's own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = CheckpointFiles()


class CheckpointFiles(TorchCheckpointIO):
    """Reads and writes the checkpoints of a trainer: at no moment is there a torn file under the final name.

    Every :class:`~anomaly_suite.contract.AnomalyModule` gives it to its trainer, unless that has a ``CheckpointIO`` of one's own.
    Addresses such as ``s3://`` are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            FileWriteError: the disk is full or the folder cannot be written to.
        """
        if not is_local(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            save_checkpoint(path, checkpoint)

    def load_checkpoint(
        self,
        path: _PATH,
        map_location: Callable[..., Any] | None = lambda storage, _: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            CheckpointError: it cannot be read, or is something else than a checkpoint.
        """
        if is_local(path) and Path(path).exists() and weights_only is not False:
            return read_checkpoint(path, map_location)
        with numpy_numbers():
            return super().load_checkpoint(path, map_location, weights_only)

"""RunConfig: the configuration of a run, with what was in effect, in its folder."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback

from anomaly_suite.callbacks.run_folder import identity_in, run_of
from anomaly_suite.cli.samples import origin_line
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.atomic import save_text
from anomaly_suite.io.runs import run_line


class RunConfig(SaveConfigCallback):
    """Save ``config.yaml`` with the values in effect: devices, precision and epochs as resolved by the trainer.

    Its first line, ``# from: one_class/padim_mvtec.yaml``, names the configurations that the run was fitted with; ``report`` finds
    the published figures by it. The next, ``# run: 3f0c9a21b7d4 checkpoint: checkpoints/model.ckpt``, which run it is of, and what its checkpoint
    is called.
    """

    _folder: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace what was left to the trainer by what it chose, then save."""
        self.config = self.config.clone()
        settings = self.config.trainer
        settings.accelerator = trainer.accelerator.name()
        settings.devices = trainer.num_devices
        settings.max_epochs = trainer.max_epochs
        settings.precision = trainer.precision
        self._folder = str(run_of(trainer))  # every process takes part
        super().setup(trainer, pl_module, stage)

    @property
    def folder(self) -> Path:
        """Where it is, once the run has begun.

        Raises:
            ConfigError: it is nowhere.
        """
        if self._folder is None:
            raise ConfigError("the run has no folder; got a trainer without log_dir. Set trainer.default_root_dir.")
        return Path(self._folder)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file, whole or not at all, with the names of the configurations in front; in the first process only."""
        if self._folder is None:
            return
        files = [Path(str(path)) for path in self.config.get("config") or []]
        identity, saved = identity_in(trainer), trainer.checkpoint_callback
        head = origin_line(files)
        if identity is not None and isinstance(saved, ModelCheckpoint):
            place = Path(os.path.relpath(saved.dirpath or self._folder, self._folder), saved.filename or "")
            head += run_line(identity, f"{place}{saved.FILE_EXTENSION}")
        text = self.parser.dump(self.config, skip_none=False)
        save_text(Path(self._folder) / self.config_filename, head + text)

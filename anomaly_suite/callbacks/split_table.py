"""SplitTable: which samples a run was trained, validated and tested on."""

from __future__ import annotations

import re

from lightning.pytorch import Callback, LightningModule, Trainer

from anomaly_suite.callbacks.base import output_folder
from anomaly_suite.callbacks.loggers import log_file
from anomaly_suite.callbacks.writing import WritesFiles, going_on
from anomaly_suite.contract import AnomalyDataModule, Listed
from anomaly_suite.io.atomic import save_csv, try_file
from anomaly_suite.io.written import remove_older
from anomaly_suite.options import ChecksOptions

LABELS = ("normal", "anomalous")
REQUIRED = ("path", "label", "split")  # the other columns only where a row has a value


class SplitTable(ChecksOptions, WritesFiles, Callback):
    """Write ``splits.csv`` into the run folder when a fit or a test starts: a row for each sample, with its split.

    Columns: ``path``, relative to the data module's ``root`` where it lies below it; ``label``, normal or anomalous; ``split``, train,
    val or test; and where a row has a value ``mask``, ``category``, ``defect_type`` and ``group``, the number of a group for localisation. Threshold
    images are those of ``val`` with both labels; of ``threshold_set: leaky`` they stand in ``test`` too. Pseudo-anomalies are not listed.

    ``Folder`` reads the file as its ``index``, so that a drawn split can be given to others. Nothing is written of data modules that do not
    list their samples, such as those of videos.

    Args:
        filename: Name in the run folder.

    Raises:
        FileWriteError: the file cannot be written.
    """

    def __init__(self, *, filename: str = "splits.csv") -> None:
        self.filename = filename

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write."""
        self._write(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        file = output_folder(trainer, None) / self.filename  # every process takes part
        data = getattr(trainer, "datamodule", None)
        if not trainer.is_global_zero or not isinstance(data, AnomalyDataModule):
            return
        rows = [
            {**item._asdict(), "label": LABELS[item.label], "group": item.group or "", "split": split}
            for split, item in data.listed_samples()
        ]
        began = try_file(file)
        with going_on(trainer):
            some = [name for name in Listed._fields if any(row[name] not in ("", None) for row in rows)]
            columns = list(dict.fromkeys([*REQUIRED, *some]))
            if rows:
                save_csv(file, columns, ([row[name] for name in columns] for row in rows))
            remove_older(file.parent, re.escape(file.name), began)
            log_file(trainer, file)

"""ScoreTable: one row per image or video with its score and decision, for spreadsheets and scripts."""

from __future__ import annotations

import importlib.util
import io
import math
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning.pytorch import LightningModule, Trainer

from anomaly_suite.callbacks.base import Stage, StageCallback, Step, labels_of, output_folder
from anomaly_suite.callbacks.loggers import log_table
from anomaly_suite.callbacks.processes import gather_by_loader
from anomaly_suite.callbacks.values import per_sample
from anomaly_suite.callbacks.videos import frames_of
from anomaly_suite.callbacks.writing import WritesFiles, going_on
from anomaly_suite.contract import KeyMap, check_key_map
from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.io.atomic import csv_text, printable, save_bytes, save_columns, try_file
from anomaly_suite.io.written import remove_older


class ScoreRow(NamedTuple):
    """What the table says of one image or video; None where it is unknown."""

    path: str | None
    category: str | None
    label: int | None
    anomaly_score: float
    normalized_score: float | None
    decision: Literal["normal", "anomalous"] | None
    snippets: int | None
    frames: int | None
    peak_frame: int | None
    frame_AUROC: float | None  # noqa: N815 - the name of the metric
    dataloader_idx: int | None = None


OPTIONAL = (
    "dataloader_idx",
    "category",
    "snippets",
    "frames",
    "peak_frame",
    "frame_AUROC",
)  # columns only where a row has a value


class ScoreTable(WritesFiles, StageCallback):
    """Write a table of all scores after ``test`` and after ``predict``.

    Columns: ``index`` counts the rows from 0; ``path``; ``category``, only where batches have it; ``label``, 0 or 1;
    ``anomaly_score``, raw, with every digit; ``normalized_score`` and ``decision`` (``normal`` or ``anomalous``), empty
    without a calibration, and without a decision where the score is NaN. What is unknown is an empty field in CSV, null in Parquet.

    Videos have one row each, and further columns: ``snippets`` and ``frames`` count them; ``peak_frame`` is the first frame,
    from 0, with the highest score; ``frame_AUROC`` is that inside the video, empty where all its frames have one label.

    Of several loaders the rows stand in one table, one loader after the other, with a column ``dataloader_idx``. The ``label`` of a
    driving scene without any scored pixel is unknown.

    Rows stand in the order of the data set where it is known, see :func:`~anomaly_suite.callbacks.processes.gather_rows`.
    Process zero writes them once, at the end of the stage; until then rows are plain numbers and strings, not tensors. Where the file
    cannot be written then, they are printed.

    Args:
        path: File to write; ``scores.csv`` or ``scores.parquet`` in the run's log folder if None. The stage is put before
            its name, so ``runs/a.csv`` becomes ``runs/test_a.csv`` and ``runs/predict_a.csv``.
        format: ``csv``, or ``parquet``, which needs pyarrow.
        key_map: Our names of keys, and what other loaders and modules call them.

    Raises:
        ConfigError: the suffix of ``path`` is not ``format``, or pyarrow is not installed.
        FileWriteError: at the start or at the end of a stage, the file cannot be written.
    """

    def __init__(
        self, *, path: str | None = None, format: Literal["csv", "parquet"] = "csv", key_map: KeyMap | None = None
    ) -> None:
        super().__init__()
        if path is not None and Path(path).suffix != f".{format}":
            raise ConfigError(f"path must end in .{format} for format: {format}; got {path!r}. Change one of the two.")
        if format == "parquet" and importlib.util.find_spec("pyarrow") is None:
            raise ConfigError(
                "format: parquet needs pyarrow, which is not installed. Install pyarrow, or use format: csv."
            )
        self.path = path
        self.format = format
        self.key_map = check_key_map(key_map)
        self.name: str | None = None
        """Name, without suffix, of the file in the log folder where no other stage writes one; None for ``<stage>_scores``."""
        self._rows: dict[int, list[ScoreRow]] = {}

    def begin(self, trainer: Trainer, stage: Stage) -> None:
        """Start an empty table, and try the file.

        Raises:
            FileWriteError: it cannot be written.
        """
        self._rows = {}
        folder = output_folder(trainer, None)
        path = Path(self.path or folder / f"scores.{self.format}")
        self._target = path.with_name(f"{stage}_{path.name}")
        if self.path is None and self.name is not None:
            self._target = folder / f"{self.name}.{self.format}"
        self._began = try_file(self._target)

    def collect(self, step: Step) -> None:
        """Add one row per image or video."""
        prediction, batch = step.prediction, step.batch
        if "anomaly_score" not in prediction:
            return
        scores = per_sample(prediction, "anomaly_score", batch) or []
        unknown: list[Any] = [None] * len(scores)
        normalized = per_sample(prediction, "normalized_score", batch) or unknown
        decided = per_sample(prediction, "pred_label", batch) or unknown
        decided = [None if math.isnan(score) else one for score, one in zip(scores, decided, strict=True)]
        videos = frames_of(prediction, batch) if "snippet_features" in batch else []
        columns = (
            [path if path is None else printable(str(path)) for path in batch.get("image_path", unknown)],
            batch.get("category", unknown),
            labels_of(batch) or unknown,
            scores,
            normalized,
            [decision if decision is None else ("normal", "anomalous")[decision] for decision in decided],
            batch["length"].tolist() if "length" in batch else unknown,
            [len(video.score) for video in videos] or unknown,
            [video.peak() for video in videos] or unknown,
            [video.auroc() for video in videos] or unknown,
        )
        if len({len(column) for column in columns}) > 1:
            counts = ", ".join(f"{name} {len(column)}" for name, column in zip(ScoreRow._fields, columns, strict=False))
            raise ShapeError(
                f"a row needs one entry of each column; got {counts}. Give one image_path and category per image in the loader."
            )
        self._rows.setdefault(step.dataloader_idx, []).extend(
            ScoreRow(*values) for values in zip(*columns, strict=True)
        )

    def finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Gather the rows of all processes and write them; nothing is written where nothing got a score."""
        by_loader = gather_by_loader(trainer, stage, self._rows)
        self._rows = {}
        if not trainer.is_global_zero:
            return
        if len(by_loader) > 1:
            by_loader = {i: [row._replace(dataloader_idx=i) for row in some] for i, some in by_loader.items()}
        rows = [row for some in by_loader.values() for row in some]
        if not rows:
            remove_older(self._target.parent, re.escape(self._target.name), self._began)
            return
        fields = [
            name
            for name in ScoreRow._fields
            if name not in OPTIONAL or any(getattr(row, name) is not None for row in rows)
        ]
        columns = {"index": list(range(len(rows)))} | {name: [getattr(row, name) for row in rows] for name in fields}
        with going_on(trainer, lambda: csv_text(tuple(columns), zip(*columns.values(), strict=True))):
            if self.format == "csv":
                save_columns(self._target, columns)
            else:
                _write_parquet(self._target, columns)
            log_table(trainer, columns, self._target)


def _write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    types = {"index": pyarrow.int64(), "label": pyarrow.int8()}
    types |= dict.fromkeys(("anomaly_score", "normalized_score", "frame_AUROC"), pyarrow.float64())
    types |= dict.fromkeys(("snippets", "frames", "peak_frame", "dataloader_idx"), pyarrow.int64())
    schema = pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in columns])
    content = io.BytesIO()
    parquet.write_table(pyarrow.table(columns, schema=schema), content)
    save_bytes(path, content.getbuffer())

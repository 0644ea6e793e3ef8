"""Pictures, tables and files for the trainer's loggers, to each in its own way; all for the first process.

=============  ==============================  =========================================  =========================
what           TensorBoard                     Weights & Biases                           MLflow
=============  ==============================  =========================================  =========================
a picture      an image                        an image                                   an artifact
a table        its first rows as text          a table                                    the file as an artifact
a file         text, if it is one              a file of the run                          an artifact
=============  ==============================  =========================================  =========================

Other loggers get pictures where their ``experiment`` has an ``add_image`` like TensorBoard's; a CSV file gets nothing, for the run's folder has it all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from anomaly_suite.callbacks.drawing import png_of
from anomaly_suite.io.atomic import printable

ROWS_AS_TEXT = 200  # of a table in TensorBoard
ROWS_IN_TABLE = 10_000  # of a table in Weights & Biases, which shows no more

PictureWriter = Callable[..., None]
"""Called with a name, a picture (H, W, 3), red first, the step and ``dataformats="HWC"``, as TensorBoard's ``add_image`` is."""


def picture_writer(logger: Logger) -> PictureWriter | None:
    """What gives a picture to a logger; None where it takes none.

    Args:
        logger: Of the trainer.
    """
    if isinstance(logger, WandbLogger):
        return lambda name, picture, step, dataformats="HWC": logger.log_image(name, [picture], step=step)
    if isinstance(logger, MLFlowLogger):
        return lambda name, picture, step, dataformats="HWC": _as_artifact(logger, name, picture, step)
    writer = getattr(getattr(logger, "experiment", None), "add_image", None)
    return writer if callable(writer) else None


def _as_artifact(logger: MLFlowLogger, name: str, picture: Any, step: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{Path(name).name}_step_{step}.png")
        file.write_bytes(png_of(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)))
        logger.experiment.log_artifact(logger.run_id, str(file), str(Path(name).parent))


def log_pictures(trainer: Trainer, files: Iterable[Path], stage: str) -> None:
    """Show pictures that were written.

    Args:
        trainer: In the stage.
        files: Of pictures; missing ones are left out.
        stage: Stands before their names.
    """
    writers = [writer for logger in trainer.loggers if (writer := picture_writer(logger)) is not None]
    for file in files if writers else ():
        picture = cv2.imread(str(file), cv2.IMREAD_COLOR) if file.is_file() else None
        for writer in writers if picture is not None else ():
            name = f"{stage}/{printable(file.stem).removeprefix(f'{stage}_')}"
            writer(name, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), trainer.global_step, dataformats="HWC")


def log_table(trainer: Trainer, columns: dict[str, Sequence[Any]], file: Path) -> None:
    """Show a table that was written.

    Args:
        trainer: In the stage.
        columns: Values by name, equally many each.
        file: It lies here, too.
    """
    for logger in trainer.loggers:
        rows = zip(*columns.values(), strict=True)
        if isinstance(logger, WandbLogger):
            logger.log_table(file.stem, columns=list(columns), data=[list(row) for row in islice(rows, ROWS_IN_TABLE)])
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_artifact(logger.run_id, str(file))
        elif text := _text_writer(logger):
            head = [list(columns), ["---"] * len(columns), *islice(rows, ROWS_AS_TEXT)]
            lines = [
                " | ".join("" if value is None else str(value).replace("|", "\\|") for value in row) for row in head
            ]
            text(file.stem, "\n".join(f"| {line} |" for line in lines), trainer.global_step)


def log_file(trainer: Trainer, file: Path, text: str | None = None) -> None:
    """Keep a file that was written.

    Args:
        trainer: In the stage.
        file: Where it lies.
        text: What to show of it where files cannot be kept; None shows nothing.
    """
    for logger in trainer.loggers if file.is_file() else ():
        if isinstance(logger, WandbLogger):
            logger.experiment.save(str(file.absolute()), base_path=str(file.absolute().parent), policy="now")
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_artifact(logger.run_id, str(file))
        elif text is not None and (write := _text_writer(logger)):
            write(file.stem, f"```\n{text}\n```", trainer.global_step)


def _text_writer(logger: Logger) -> Callable[..., None] | None:
    writer = getattr(getattr(logger, "experiment", None), "add_text", None)
    return writer if callable(writer) else None

"""What authors write callbacks with: Step and StageCallback; and where callbacks write."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from anomaly_suite.callbacks.reading import read_step
from anomaly_suite.callbacks.run_folder import folder_of
from anomaly_suite.contract import Batch, Calibration, KeyMap, Level, Prediction
from anomaly_suite.contract.batch import SCORES, names_in
from anomaly_suite.options import ChecksOptions

Stage = Literal["test", "predict"]


class Step(NamedTuple):
    """One test or predict step: who ran it, what it was given, what came out.

    ``batch`` is checked (see :func:`~anomaly_suite.contract.as_batch`), ``prediction`` is what the step returned, both under our names.
    """

    trainer: Trainer
    pl_module: LightningModule
    prediction: Prediction
    batch: Batch
    stage: Stage
    dataloader_idx: int


class StageCallback(ChecksOptions, Callback):
    """The test and predict hooks as three methods: :meth:`begin`, :meth:`collect` and :meth:`finish`.

    A step that returned none of the keys in :attr:`reads` is skipped, so any Lightning module may run beside it. A constructor that takes
    ``key_map`` keeps it as ``self.key_map``.

    Example:
        >>> class Highest(StageCallback):
        ...     '''Print the highest score of a stage.'''
        ...
        ...     def begin(self, trainer, stage):
        ...         self.highest = float("-inf")
        ...
        ...     def collect(self, step):
        ...         self.highest = max(self.highest, step.prediction["anomaly_score"].max().item())
        ...
        ...     def finish(self, trainer, pl_module, stage):
        ...         print(f"highest score of {stage}: {self.highest}")
    """

    reads: ClassVar[tuple[str, ...]] = SCORES
    """Keys of which one must be in what a step returned; a callback that reads other keys names them."""

    key_map: KeyMap | None = None
    """Our names of keys, and what they are called in batches and in what steps return."""

    _skipped: str | None = (
        None  # what a step returned that was skipped; "" once something was collected, or this was said
    )

    def begin(self, trainer: Trainer, stage: Stage) -> None:
        """Forget the stage before; called in every process, which ``trainer.log_dir`` needs.

        Raises:
            NotImplementedError: the callback does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define begin(trainer, stage).")

    def collect(self, step: Step) -> None:
        """Take what is needed of one step.

        Raises:
            NotImplementedError: the callback does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define collect(step).")

    def finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Write what needs the whole stage; called in every process."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self.begin(trainer, "test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self.begin(trainer, "predict")

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Collect."""
        self._collect(trainer, pl_module, outputs, batch, "test", *args, **kwargs)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Collect."""
        self._collect(trainer, pl_module, outputs, batch, "predict", *args, **kwargs)

    def _collect(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        stage: Stage,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if (read := read_step(outputs, batch, self.key_map, reads=self.reads)) is not None:
            self._skipped = ""
            self.collect(Step(trainer, pl_module, *read, stage, dataloader_idx))
        elif self._skipped is None:
            self._skipped = ", ".join(names_in(outputs))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish."""
        self._say_if_nothing("test")
        self.finish(trainer, pl_module, "test")

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish."""
        self._say_if_nothing("predict")
        self.finish(trainer, pl_module, "predict")

    def _say_if_nothing(self, stage: Stage) -> None:
        """Say once what the steps of a stage would have had to return."""
        if self._skipped:
            rank_zero_info(
                f"{type(self).__name__} has nothing to show of {stage}: it needs one of {', '.join(self.reads)} in what the step returns; "
                f"found {self._skipped}. Rename the key, or give key_map={{'{self.reads[0]}': its name}}."
            )
            self._skipped = ""


def output_folder(trainer: Trainer, folder: str | None, name: str = "") -> Path:
    """The folder asked for, else ``name`` in that of the run, see :func:`folder_of`; to be called in every process."""
    return Path(folder) if folder is not None else folder_of(trainer) / name


def of_data(
    trainer: Trainer,
    name: Literal[
        "validation",
        "root",
        "splits",
        "classes",
        "dataset_version",
        "labelled_anomalies",
        "validates_anomalies",
        "validated_on",
        "frames",
        "submission",
    ],
    default: Any,
) -> Any:
    """What ``AnomalyDataModule`` declares for callbacks; another data module may have it, too.

    Args:
        trainer: Whose data module.
        name: The attribute.
        default: The answer where there is no data module, or one without it.
    """
    return getattr(getattr(trainer, "datamodule", None), name, default)


def of_module(
    pl_module: LightningModule, name: Literal["fine_tunes", "num_classes", "reads_labels"], default: Any
) -> Any:
    """What ``AnomalyModule`` declares for callbacks; another module may have it, too.

    Args:
        pl_module: The module.
        name: The attribute.
        default: The answer for a module without it.
    """
    return getattr(pl_module, name, default)


def calibration_of(pl_module: LightningModule, level: Level) -> Calibration | None:
    """The module's calibration if it has one that is fitted at this level."""
    calibration = getattr(pl_module, "calibration", None)  # a foreign module may have one, too
    return calibration if isinstance(calibration, Calibration) and calibration.is_fitted(level) else None


def labels_of(batch: Batch) -> list[int | None] | None:
    """Labels of images or videos as plain numbers, None for a scene without scored pixels; None where the batch has none."""
    label = batch.get("label", batch.get("bag_label"))
    if label is None:
        return None
    known = batch["scored"].tolist() if "scored" in batch else [True] * len(label)
    return [int(value) if is_known else None for value, is_known in zip(label.tolist(), known, strict=True)]

"""What authors write callbacks with: Step and StageCallback; and where callbacks write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from anomaly_suite.contract import Batch, Calibration, Level, Prediction, as_batch
from anomaly_suite.options import ChecksOptions

Stage = Literal["test", "predict"]


class Step(NamedTuple):
    """One test or predict step: who ran it, what it was given, what came out.

    ``batch`` is checked (see :func:`~anomaly_suite.contract.as_batch`), ``prediction`` is what the step returned.
    """

    trainer: Trainer
    pl_module: LightningModule
    prediction: Prediction
    batch: Batch
    stage: Stage
    dataloader_idx: int


class StageCallback(ChecksOptions, Callback):
    """The test and predict hooks as three methods: :meth:`begin`, :meth:`collect` and :meth:`finish`.

    A step that returned no mapping is skipped, so any Lightning module may run beside it.

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
        if isinstance(outputs, Mapping):
            self.collect(Step(trainer, pl_module, cast(Prediction, outputs), as_batch(batch), stage, dataloader_idx))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish."""
        self.finish(trainer, pl_module, "test")

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish."""
        self.finish(trainer, pl_module, "predict")


def output_folder(trainer: Trainer, folder: str | None, name: str = "") -> Path:
    """The folder asked for, else ``name`` in the run's log folder, else in the trainer's root; to be called in every process."""
    return Path(folder) if folder is not None else Path(trainer.log_dir or trainer.default_root_dir) / name


def of_data(
    trainer: Trainer,
    name: Literal["validation", "root", "classes", "dataset_version", "validates_anomalies"],
    default: Any,
) -> Any:
    """What ``AnomalyDataModule`` declares for callbacks; another data module may have it, too.

    Args:
        trainer: Whose data module.
        name: The attribute.
        default: The answer where there is no data module, or one without it.
    """
    return getattr(getattr(trainer, "datamodule", None), name, default)


def of_module(pl_module: LightningModule, name: Literal["fine_tunes", "num_classes"], default: Any) -> Any:
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


def labels_of(batch: Batch) -> list[int] | None:
    """Labels of images or videos as plain numbers; None where the batch has none."""
    label = batch.get("label", batch.get("bag_label"))
    return None if label is None else [int(value) for value in label.tolist()]

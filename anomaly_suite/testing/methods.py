"""What every method does, as checks of one class. Axes: B batch, H and W pixels."""

from __future__ import annotations

import copy
import inspect
import tempfile
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor

from anomaly_suite.callbacks import Calibrate
from anomaly_suite.contract import AnomalyDataModule, AnomalyModule, Prediction
from anomaly_suite.data import SyntheticStreets, SyntheticTextures, SyntheticVideos
from anomaly_suite.errors import CheckpointError, LabelError, MetricUndefinedError, NotFittedError
from anomaly_suite.methods.pixel_ood.segmenter import SegmenterModule
from anomaly_suite.methods.weak_video.bags import BagModule
from anomaly_suite.metrics import auroc
from anomaly_suite.testing.foreign import foreign_to
from anomaly_suite.testing.report import NotAsked, require, run_checks

KEPT = ("image", "mask", "label", "snippet_features", "length", "target", "ood_mask")


def check_method(
    cls: type[AnomalyModule],
    init_args: Mapping[str, Any] | None = None,
    *,
    data: AnomalyDataModule | None = None,
    epochs: int = 1,
    min_auroc: float | None = None,
    skip: Collection[str] = (),
) -> list[str]:
    """Check that a method does what every method does, on a tiny data set and the CPU.

    Args:
        cls: The method.
        init_args: Its options; make it small.
        data: Tiny data module; by default textures of 64 x 64 pixels, for methods of videos or driving scenes those that this package draws.
        epochs: Of the fit that teaches it.
        min_auroc: What it must reach on the test set; None asks for nothing.
        skip: Names of checks to leave out.

    Returns:
        Names of the checks that passed.

    Raises:
        ContractError: some failed; a line each.
        ConfigError: an unknown name in ``skip``.
    """
    run = _MethodRun(cls, dict(init_args or {}), data or _default_data(cls), epochs)
    checks: dict[str, Callable[[], None]] = {
        "options are named, typed and kept": run.options,
        "an unfitted method predicts or says so": run.unfitted,
        "a fit ends": run.fits,
        "scores have their form and are finite": run.form,
        "batch size does not matter": run.batch_size,
        "anomalies rank higher": lambda: run.ranks(min_auroc),
        "a checkpoint restores the scores": run.checkpoint,
        "a checkpoint of another class is refused": run.other_checkpoint,
        "one seed gives one fit": run.repeatable,
        "other people's loaders work": run.foreign,
        "labels in training are read or refused": run.labels,
        "bf16 works": run.half,
    }
    with tempfile.TemporaryDirectory() as folder:
        run.folder = folder
        return run_checks(cls.__name__, checks, skip)


def _default_data(cls: type[AnomalyModule]) -> AnomalyDataModule:
    if issubclass(cls, BagModule):
        return SyntheticVideos(train_size=24, test_size=12, feature_dim=16, train_batch_size=8, eval_batch_size=24)
    if issubclass(cls, SegmenterModule):
        return SyntheticStreets(train_size=16, val_size=4, test_size=8, image_size=(32, 64), train_batch_size=8)
    return SyntheticTextures(train_size=32, test_size=16, train_batch_size=8)


def require_form(prediction: Prediction, batch: Mapping[str, Any]) -> None:
    """Check shapes, types and finite numbers of a prediction.

    Args:
        prediction: Of ``batch``.
        batch: As a data module gives it.

    Raises:
        ContractError: something is wrong; says what.
    """
    require("anomaly_score" in prediction, "predict gives no anomaly_score. Return it from forward.")
    score = prediction["anomaly_score"]
    count = len(batch["image" if "image" in batch else "label"])
    require(
        score.shape == (count,),
        f"anomaly_score must have shape ({count},); got {tuple(score.shape)}. Give one score each.",
    )
    require(score.dtype == torch.float32, f"anomaly_score must be float32; got {score.dtype}. Use score.float().")
    require(score.isfinite().all(), "anomaly_score holds NaN or infinity. Look for logarithms and divisions by zero.")
    if (found := prediction.get("anomaly_map")) is not None:
        shape = (count, 1, *batch["image"].shape[2:])
        require(
            found.shape == shape,
            f"anomaly_map must have shape {shape}; got {tuple(found.shape)}. Resize it to the image.",
        )
        require(found.isfinite().all(), "anomaly_map holds NaN or infinity.")


def require_alone_as_together(model: AnomalyModule, batch: Mapping[str, Any], count: int = 8) -> None:
    """Check that a sample has the same scores alone as in a batch, up to the order of sums.

    Args:
        model: Fitted, in evaluation mode.
        batch: As a data module gives it.
        count: How many samples.

    Raises:
        ContractError: one has others.
    """
    together = _predict(model, batch, slice(0, count))
    for row in range(min(count, len(together["anomaly_score"]))):
        alone = _predict(model, batch, slice(row, row + 1))
        for key in alone.keys() - {"frame_score"}:  # it has the frames of all videos, and follows from snippet_score
            one: Any = alone[key]  # type: ignore[literal-required]
            other: Any = together[key][row : row + 1]  # type: ignore[literal-required]
            require(
                torch.allclose(one, other, rtol=1e-4, atol=1e-5),
                f"{key} of sample {row} is another alone than in a batch of {count}. Look for statistics over the batch at evaluation.",
            )


@torch.no_grad()
def _predict(model: AnomalyModule, batch: Mapping[str, Any], rows: slice = slice(None)) -> Prediction:
    part: Any = {key: value[rows] for key, value in batch.items()}
    return model.predict(part)


class _MethodRun:
    """The fits of one method that its checks share."""

    folder = "."

    def __init__(self, cls: type[AnomalyModule], options: dict[str, Any], data: AnomalyDataModule, epochs: int) -> None:
        self.cls, self._options, self.data, self.epochs = cls, options, data, epochs
        self._tried = False
        self._fitted: tuple[AnomalyModule, dict[str, Any]] | None = None

    def model(self) -> AnomalyModule:
        """Drawn from the seed."""
        seed_everything(0, verbose=False)
        return self.cls(**self._options)

    def trainer(self, **options: Any) -> Trainer:
        defaults: dict[str, Any] = {
            **{"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False},
            **{"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0},
            **{"max_epochs": self.epochs, "default_root_dir": self.folder},
        }
        return Trainer(**{**defaults, **options})

    @cached_property
    def batch(self) -> dict[str, Any]:
        """The first test batch."""
        self.data.setup("test")
        batch: Any = next(iter(self.data.test_dataloader()))
        return {key: batch[key] for key in KEPT if key in batch}

    def fits(self) -> None:
        """Fit once, for the checks that follow."""
        self._tried = True
        model, trainer = self.model(), self.trainer(callbacks=[Calibrate()])
        trainer.fit(model, datamodule=self.data)
        file = Path(self.folder) / "fitted.ckpt"
        trainer.save_checkpoint(file)
        model.trainer = None  # of a run that is over
        self._fitted = model.eval(), torch.load(file, map_location="cpu", weights_only=True)

    @property
    def fitted(self) -> tuple[AnomalyModule, dict[str, Any]]:
        """The method after its fit, and its checkpoint.

        Raises:
            NotAsked: the fit failed, which is said already.
        """
        if not self._tried:
            self.fits()
        if self._fitted is None:
            raise NotAsked
        return self._fitted

    def options(self) -> None:
        parameters = list(inspect.signature(self.cls.__init__).parameters.values())[1:]
        open_ones = [each.name for each in parameters if each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
        require(
            not open_ones,
            f"__init__ takes *{', *'.join(open_ones)}. Spell every option out, so that it is checked and kept.",
        )
        untyped = [each.name for each in parameters if each.annotation is each.empty]
        require(not untyped, f"options without a type: {', '.join(untyped)}. Annotate them for the command line.")
        kept = self.model().hparams
        lost = [each.name for each in parameters if each.name not in kept]
        require(
            not lost,
            f"options that a checkpoint would lose: {', '.join(lost)}. Call self.save_hyperparameters() in __init__.",
        )

    def unfitted(self) -> None:
        model = self.model().eval()
        if model.is_fitted:
            with torch.no_grad():
                require_form(model.test_step(dict(self.batch), 0) or {}, self.batch)
            return
        try:
            model.test_step(dict(self.batch), 0)
        except NotFittedError:
            return
        require(False, "is_fitted is False, and yet test_step predicts. Let is_fitted say what is needed.")

    def form(self) -> None:
        require_form(_predict(self.fitted[0], self.batch), self.batch)

    def batch_size(self) -> None:
        require_alone_as_together(self.fitted[0], self.batch)

    def ranks(self, least: float | None) -> None:
        if least is None:
            raise NotAsked
        prediction, label = _predict(self.fitted[0], self.batch), self.batch.get("label")
        score = prediction["anomaly_score"]
        if "ood_mask" in self.batch:  # no truth for whole images, but for pixels
            scored = self.batch["ood_mask"] != 255
            score, label = prediction["anomaly_map"].squeeze(1)[scored], self.batch["ood_mask"][scored]
        try:
            value = float(auroc(score, label)) if label is not None else 0.0
        except MetricUndefinedError:
            require(
                False, "the first test batch holds one label only. Give data= with both, or a larger eval_batch_size."
            )
        require(
            value >= least, f"AUROC is {value:.3f}, below {least}. Fit longer (epochs=), or look at the score's sign."
        )

    def checkpoint(self) -> None:
        model, checkpoint = self.fitted
        file = Path(self.folder) / "again.ckpt"
        torch.save(checkpoint, file)
        restored = self.cls.load_from_checkpoint(file, map_location="cpu", weights_only=True).eval()
        for key, value in _predict(model, self.batch).items():
            same = torch.equal(value, _predict(restored, self.batch)[key])  # type: ignore[literal-required, arg-type]
            require(same, f"{key} is another after loading. Keep all that is fitted in parameters and buffers.")

    def other_checkpoint(self) -> None:
        checkpoint = {**copy.deepcopy(self.fitted[1]), "anomaly_suite": {"class": "SomethingElse", "seed": 0}}
        try:
            self.model().on_load_checkpoint(checkpoint)
        except CheckpointError:
            return
        require(False, "a checkpoint of SomethingElse is loaded. Call super().on_load_checkpoint(checkpoint).")

    def repeatable(self) -> None:
        first, second = (self._state() for _ in range(2))
        other = [key for key, value in first.items() if not torch.equal(value.nan_to_num(), second[key].nan_to_num())]
        require(
            not other,
            f"two fits from one seed differ in {', '.join(other[:3])}. Draw from self.step_generator(batch_idx).",
        )

    def _state(self) -> dict[str, Tensor]:
        model = self.model()
        self.trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=1).fit(model, datamodule=self.data)
        return {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, Tensor)}

    def foreign(self) -> None:
        kind = foreign_to(self.batch)
        for of in ("mapping", "triple") if "image" in self.batch and "ood_mask" not in self.batch else ("mapping",):
            model, trainer = (
                self.model(),
                self.trainer(limit_train_batches=3, limit_val_batches=2, limit_predict_batches=2),
            )
            data = kind(self.data, of)
            trainer.fit(model, datamodule=data)
            found: Any = trainer.predict(model, datamodule=data)
            require(
                found,
                "predict gives nothing on plain tensors. Read batches by contract.as_batch, as the steps of AnomalyModule do.",
            )
            require(
                all(part["anomaly_score"].isfinite().all() for part in found), f"scores on {of} items are not finite."
            )

    def labels(self) -> None:
        require(
            self.cls.reads_labels is not None,
            "reads_labels says neither True nor False. Set it in the class: whether training reads labels of anomalies.",
        )
        if self.cls.reads_labels or "image" not in self.batch or "label" not in self.batch:
            raise NotAsked
        batch: Any = next(iter(self.data.train_dataloader()))
        batch["label"][0] = 1
        try:
            self.model().training_step(batch, 0)
        except LabelError:
            return
        require(
            False,
            "a labelled anomaly is trained on. Leave reads_labels = False and training_step as AnomalyModule wraps it.",
        )

    def half(self) -> None:
        model, trainer = self.model(), self.trainer(precision="bf16-mixed", limit_train_batches=2, limit_val_batches=1)
        trainer.fit(model, datamodule=self.data)
        found: Any = trainer.predict(model, dataloaders=self.data.test_dataloader())
        score = torch.cat([part["anomaly_score"] for part in found])
        require(score.dtype == torch.float32, f"anomaly_score must be float32 under bf16-mixed; got {score.dtype}.")
        require(score.isfinite().all(), "scores are not finite under bf16-mixed. Compute statistics in float32.")

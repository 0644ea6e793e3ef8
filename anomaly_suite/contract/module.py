"""AnomalyModule: what a method writes, and the three evaluation steps.

Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from anomaly_suite.contract.averaging import AveragingSupport
from anomaly_suite.contract.batch import Batch, Prediction, Reconstruction, as_batch
from anomaly_suite.contract.calibration import Calibration
from anomaly_suite.contract.checkpoint import CheckpointSupport
from anomaly_suite.contract.finite import require_finite
from anomaly_suite.contract.precision import KeepsStatistics
from anomaly_suite.contract.scenes import highest_scored
from anomaly_suite.errors import NotFittedError
from anomaly_suite.options import ChecksOptions
from anomaly_suite.tracing import untraced_itself


class AnomalyModule(ChecksOptions, KeepsStatistics, AveragingSupport, CheckpointSupport):
    """A detector. A method writes ``__init__``, ``training_step``, ``forward`` and ``configure_optimizers``.

    Validation, test and predict steps are here, once: each returns ``calibration(predict(batch))``, which the callbacks
    read. Where a scene says which of its pixels are scored, its score is the highest of those. ``forward`` is the only path from image to score, so what is exported is what was tested.

    A method without gradients sets ``automatic_optimization = False`` and ``single_pass = True``, collects in
    ``training_step``, turns what it collected into buffers in :meth:`fit_statistics`, and overrides :attr:`is_fitted`.
    It is fitted before the validation pass of its epoch and training then stops, whatever ``max_epochs`` says.

    A method of several phases overrides :attr:`unfinished` (``contract/training.py``): until the last phase it is unfitted.

    What a method may use while it is fitted: ``step_generator``, ``training_progress``, ``steps_per_epoch``, ``training_batches``,
    ``training_images`` and ``sum_over_ranks`` (``contract/training.py``); ``load_pretrained`` (``contract/checkpoint.py``).
    """

    fine_tunes: ClassVar[bool] = False
    """The method starts from a network that works; ``SegmentationMetrics`` then also reports the mIoU before training."""

    num_classes: int | None = None
    """Known classes of a segmentation network, which ``SegmentationMetrics`` counts; None for other methods."""

    def __init__(self) -> None:
        super().__init__()
        self.calibration = Calibration()
        self.register_forward_pre_hook(_check_call, with_kwargs=True)

    @property
    def is_fitted(self) -> bool:
        """Whether the method can predict; methods with fitted statistics override it."""
        return self.unfinished is None

    def require_fitted(self) -> None:
        """Check that the method can predict.

        Raises:
            NotFittedError: it cannot yet.
        """
        if self.unfinished is not None:
            raise NotFittedError(f"{type(self).__name__} cannot score yet: {self.unfinished}")
        if not self.is_fitted:
            raise NotFittedError(
                f"{type(self).__name__} has no fitted statistics yet. Run fit first, or load a checkpoint of a fitted model."
            )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Score images.

        Args:
            image: Shape (B, C, H, W).

        Returns:
            ``anomaly_score`` of shape (B,) and ``anomaly_map`` of shape (B, 1, H, W), or None where the method has no map.

        Raises:
            NotImplementedError: the method does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(image).")

    def pseudo_class_images(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
        """Images in the classes that the training tells apart without labels, for ``EmbeddingPlot``; None for a method without such classes.

        Args:
            image: Training images, shape (B, C, H, W).
            generator: Source of all draws, on the device of ``image``.

        Returns:
            What the encoder is given, shape (A, C, H, W), of patches smaller; and the number of the class of each, int64 (A,).
        """
        return None

    def reconstruct(self, image: Tensor) -> Reconstruction | None:
        """What the method makes of images, for pictures of it (``ReconstructionPanel``); None where it reconstructs none.

        Called in evaluation mode and without gradients. Methods that reconstruct override it; no score is taken from it.

        Args:
            image: Shape (B, C, H, W), as :meth:`forward` takes them.
        """
        return None

    def predict(self, batch: Batch) -> Prediction:
        """Raw scores of one batch, in float32; families that do not take images override it."""
        score, anomaly_map = self(batch["image"])
        prediction: Prediction = {"anomaly_score": score.float()}
        if anomaly_map is not None:
            prediction["anomaly_map"] = anomaly_map.float()
        return prediction

    @untraced_itself  # of all this, predict alone is worth compiling
    def _evaluate(self, batch: Any) -> Prediction | None:
        fitting = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if fitting and self.trainer.sanity_checking and not self.is_fitted:
            return None  # the sanity check runs before anything could be fitted
        if not (fitting and self.unfinished):
            self.require_fitted()
        checked = as_batch(batch)
        self.check_input(checked)
        prediction = self.predict(checked)
        if "ood_mask" in checked and "anomaly_map" in prediction:
            score = highest_scored(prediction["anomaly_map"], checked["ood_mask"])
            prediction = {**prediction, "anomaly_score": score}
        if self._trainer is not None and self.trainer.validating:  # thresholds follow; a test shows what is not finite
            require_finite(type(self).__name__, checked, prediction)
        return cast(Prediction, self.calibration(prediction))

    @untraced_itself
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Prediction | None:
        """Predict; metrics are the callbacks' business."""
        return self._evaluate(batch)

    @untraced_itself
    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Prediction | None:
        """Predict; metrics are the callbacks' business."""
        return self._evaluate(batch)

    @untraced_itself
    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Prediction | None:
        """Predict; None for a batch of which no sample could be read."""
        return None if batch is None else self._evaluate(batch)


def _check_call(module: AnomalyModule, args: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Before ``model(image)``: a hook, which leaves compiled and exported graphs as they are."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if (
        module._trainer is not None or recorded
    ):  # a trainer's steps have looked, and DDP calls with what a step is given
        return
    module.require_fitted()
    module.check_call(*args, **named)

"""AnomalibModel: an image model of anomalib in a plain Trainer, with the data modules, callbacks and calibration of this package.

Paper: Akcay et al., "Anomalib: A Deep Learning Library for Anomaly Detection", ICIP 2022, arXiv:2202.08341; and that of the model that is run.

Their Engine, post-processor, evaluator and visualizer are not used; their pre-processor is, since it is part of a model: it resizes, crops and
normalises. Needs anomalib 2.7 or newer (``pip install "anomaly-suite[anomalib]"``).
Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.adapters.anomalib_views import TrainerView
from anomaly_suite.contract import AnomalyModule, Batch
from anomaly_suite.errors import AnomalySuiteError, ConfigError, did_you_mean

PARTS = ("pre_processor", "post_processor", "evaluator", "visualizer")


class AnomalibModel(AnomalyModule):
    """An image model of anomalib: PatchCore, EfficientAD, Dinomaly, FastFlow and others that train on normal images.

    Scores are the raw ones of the model, before their post-processor; where a model gives a map alone, the score is its highest value, as with
    them. Maps have the size of the images given; pixels that the model's pre-processor cuts away get the lowest value of their image.

    What their training reads of a data module is given to it: batches, ``train_batch_size`` (EfficientAD needs 1), validation images. Models
    that are fitted in one pass (memory banks) stop after it; give ``max_epochs: 1``. They are for one process, as with them.

    Args:
        class_path: The model: ``Patchcore``, or ``anomalib.models.Patchcore``.
        init_args: Its options, but for ``pre_processor``, ``post_processor``, ``evaluator`` and ``visualizer``.
        image_size: Height and width that its pre-processor resizes to, one number for both; null for the model's own.
        center_crop: Height and width that its pre-processor cuts out, for models that do; null for the model's own.
        pretrained: Load the pretrained weights that the model asks for, once, at the start of a fit; false trains it from random ones.

    Raises:
        ConfigError: anomalib is not installed, or has no such model, or the model has no such options.
    """

    reads_labels = False

    def __init__(
        self,
        *,
        class_path: str,
        init_args: dict[str, Any] | None = None,
        image_size: int | tuple[int, int] | None = None,
        center_crop: int | None = None,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.class_path = class_path
        self.init_args = dict(init_args or {})
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.center_crop = center_crop
        self.pretrained = pretrained
        self._class = _model_class(class_path)
        with _without_weights() as wanted:  # a checkpoint has them, and rebuilding must not need a network
            self.inner = self._build()
        self._wants_weights = bool(wanted)
        self.automatic_optimization = bool(self.inner.automatic_optimization)
        self._view: TrainerView | None = None
        one_epoch = self.inner.trainer_arguments.get("max_epochs") == 1
        self.single_pass = one_epoch  # type: ignore[misc] # of the model, not of this class

    def _build(self) -> Any:
        if wrong := [name for name in self.init_args if name in PARTS]:
            raise ConfigError(
                f"init_args of {self.class_path} may not have {wrong[0]}: callbacks of anomaly_suite do its work, and image_size sets the size. "
                "Leave it out."
            )
        try:
            options = {**dict.fromkeys(PARTS[1:], False), **self.init_args}
            if self.image_size is not None or self.center_crop is not None:
                options["pre_processor"] = self._class.configure_pre_processor(**self._sizes())
            return self._class(**options)
        except AnomalySuiteError:
            raise
        except (TypeError, ValueError, KeyError, RuntimeError) as error:
            known = [
                name for name in inspect.signature(self._class.__init__).parameters if name not in ("self", *PARTS)
            ]
            raise ConfigError(
                f"{self.class_path} cannot be built with {self.init_args} and image_size={self.image_size} "
                f"({' '.join(str(error).split())}). Its options are {', '.join(known)}."
            ) from error

    def _sizes(self) -> dict[str, Any]:
        """What the model's pre-processor is made with."""
        sizes: dict[str, Any] = {} if self.image_size is None else {"image_size": tuple(self.image_size)}
        if self.center_crop is None:
            return sizes
        known = inspect.signature(self._class.configure_pre_processor).parameters
        if "crop_size" in known:
            return {**sizes, "crop_size": self.center_crop}
        if "center_crop_size" in known:
            return {**sizes, "center_crop_size": (self.center_crop, self.center_crop)}
        raise ConfigError(f"{self.class_path} cuts nothing out; got center_crop={self.center_crop}. Leave it out.")

    def load_pretrained(self) -> None:
        """Build the model once more, with the weights that its constructor loads, and take them over."""
        if self.pretrained and self._wants_weights:
            with torch.random.fork_rng(devices=[]):
                self.inner.load_state_dict(self._build().state_dict())

    # Scores ----------------------------------------------------------------------------------------------------------

    @property
    def is_fitted(self) -> bool:
        """Whether a memory bank is filled; other models can always score."""
        return bool(getattr(self.inner, "_is_fitted", True)) and super().is_fitted

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Score images; see :class:`~anomaly_suite.contract.AnomalyModule`."""
        found = self.inner.model(self._prepared(image))
        score, anomaly_map = getattr(found, "pred_score", None), getattr(found, "anomaly_map", None)
        if anomaly_map is not None:
            anomaly_map = anomaly_map if anomaly_map.ndim == 4 else anomaly_map.unsqueeze(1)
            score = anomaly_map.amax((1, 2, 3)) if score is None else score
            anomaly_map = self._as_large_as(image, anomaly_map)
        if score is None:
            raise ConfigError(
                f"{self.class_path} gives neither pred_score nor anomaly_map for images, so it cannot be scored here. Use a model that does."
            )
        return score.reshape(len(image)), anomaly_map

    def _transforms(self) -> list[Any]:
        transform = getattr(self.inner.pre_processor, "transform", None)
        return [] if transform is None else list(getattr(transform, "transforms", [transform]))

    def _prepared(self, image: Tensor) -> Tensor:
        for step in self._transforms():
            image = step(image)
        return image

    def _resized(self, image: Tensor) -> Tensor:
        """What their data modules hand out: images in the size of the model, not yet cut or normalised."""
        resize = next((step for step in self._transforms() if type(step).__name__ == "Resize"), None)
        return image if resize is None else resize(image)

    def _as_large_as(self, image: Tensor, anomaly_map: Tensor) -> Tensor:
        if any(type(step).__name__ == "CenterCrop" for step in self._transforms()):
            height, width = self._resized(image[:1]).shape[2:]
            rows, columns = anomaly_map.shape[2:]
            top, left = round((height - rows) / 2), round((width - columns) / 2)
            whole = anomaly_map.amin((1, 2, 3), keepdim=True).expand(-1, -1, height, width).clone()
            whole[:, :, top : top + rows, left : left + columns] = anomaly_map
            anomaly_map = whole
        if anomaly_map.shape[2:] == image.shape[2:]:
            return anomaly_map
        return F.interpolate(anomaly_map.float(), image.shape[2:], mode="bilinear", align_corners=False)

    # Training --------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        """Their step, on what their pre-processor makes of the images."""
        return self.inner.training_step(self._view_batch(batch, self._prepared), batch_idx)

    def configure_optimizers(self) -> Any:
        """Theirs."""
        return self.inner.configure_optimizers()

    def fit_statistics(self) -> None:
        """Fill a memory bank from what was collected."""
        if hasattr(self.inner, "_is_fitted") and not self.inner._is_fitted:
            self.inner.fit()
            self.inner._is_fitted = torch.tensor([True], device=self.device)

    def _view_batch(self, batch: Any, prepare: Any) -> Any:
        from anomalib.data import ImageBatch

        mask = batch.get("mask")
        return ImageBatch(
            image=prepare(batch["image"]),
            gt_label=batch.get("label"),
            gt_mask=None if mask is None else self._resized(mask.float()).squeeze(1) > 0.5,
            image_path=batch.get("image_path"),
        )

    def setup(self, stage: str) -> None:
        """Let their module see the trainer, its loaders as theirs and its log as its own."""
        super().setup(stage)
        self._view = TrainerView(self.trainer, lambda batch: self._view_batch(batch, self._resized))
        self.inner.trainer = self._view
        self.inner.log, self.inner.log_dict = self.log, self.log_dict
        self._told("setup", stage)

    def teardown(self, stage: str) -> None:
        """Let go of the trainer."""
        self._told("teardown", stage)
        for name in ("log", "log_dict"):
            vars(self.inner).pop(name, None)
        self.inner.trainer = self._view = None
        super().teardown(stage)

    def on_fit_start(self) -> None:
        """Theirs, after ours has loaded weights."""
        super().on_fit_start()
        self._told("on_fit_start")

    def on_train_start(self) -> None:
        """Theirs: EfficientAD reads its teacher and the statistics of its channels."""
        super().on_train_start()
        self._told("on_train_start")

    def on_train_epoch_start(self) -> None:
        """Theirs."""
        super().on_train_epoch_start()
        self._told("on_train_epoch_start")

    def on_train_batch_end(self, *args: Any) -> None:
        """Theirs, after ours has counted the batch."""
        super().on_train_batch_end(*args)
        self._told("on_train_batch_end", *args)

    def on_validation_start(self) -> None:
        """Theirs in a fit, after ours has filled memory banks: EfficientAD measures quantiles over validation images."""
        super().on_validation_start()
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            with torch.inference_mode(False), torch.no_grad():
                self._told("on_validation_start")

    def on_train_epoch_end(self) -> None:
        """Theirs, after ours has filled memory banks."""
        super().on_train_epoch_end()
        self._told("on_train_epoch_end")

    def on_train_end(self) -> None:
        """Theirs."""
        super().on_train_end()
        self._told("on_train_end")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Ours, with plain lists for the arrays that their schedulers keep: checkpoints are read with ``weights_only``."""
        super().on_save_checkpoint(checkpoint)
        if "lr_schedulers" in checkpoint:
            checkpoint["lr_schedulers"] = _plain(checkpoint["lr_schedulers"])

    def _told(self, hook: str, *args: Any) -> None:
        try:
            getattr(self.inner, hook)(*args)
        except ValueError as error:
            if isinstance(error, AnomalySuiteError):
                raise
            text = " ".join(str(error).split()).rstrip(".")
            raise ConfigError(
                f"{self.class_path} refuses in {hook}: {text}. Change the option or the data that it names."
            ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


@contextmanager
def _without_weights() -> Iterator[list[str]]:
    """Constructors that would fetch pretrained weights build networks alone; gives the names of the networks that they wanted weights of."""
    import timm

    create = timm.create_model
    wanted: list[str] = []

    def bare(model_name: str, *args: Any, **options: Any) -> Any:
        if options.get("pretrained") or (args and args[0]):
            wanted.append(model_name)
        return create(model_name, **{**options, "pretrained": False})

    with patch.object(timm, "create_model", bare):
        yield wanted


def _model_class(class_path: str) -> Any:
    """A model of anomalib by its name, or by a dotted one.

    Raises:
        ConfigError: anomalib is not there, or has no such image model.
    """
    try:
        import anomalib.models
        from anomalib.models import AnomalibModule
    except ImportError as error:
        raise ConfigError(
            f"AnomalibModel needs the package anomalib, version 2.7 or newer, which cannot be imported ({error}). Install it: "
            "pip install 'anomaly-suite[anomalib]'."
        ) from error
    import importlib

    known = {name for name in dir(anomalib.models) if isinstance(getattr(anomalib.models, name), type)}
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module or "anomalib.models"), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"class_path must name a model of anomalib, such as Patchcore; got {class_path!r} ({error}).{did_you_mean(name, known)}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, AnomalibModule)) or ".video." in found.__module__:
        raise ConfigError(
            f"class_path must name an image model of anomalib; {class_path!r} is none. Give one such as Patchcore."
        )
    return found

"""What flows between the parts: Batch, Prediction, AnomalyModule, AnomalyDataModule, Calibration.

A data module yields a :class:`Batch`, a method turns it into a :class:`Prediction`, callbacks read both. Any loader that
yields a mapping, an ``(image, label)`` or an ``(image, label, mask)`` tuple works as well, because every step passes its
batch through :func:`as_batch`.

Axes: B batch, C channels, H and W pixels, T snippets, D feature width.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypedDict, cast

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from anomaly_suite.errors import CheckpointError, ConfigError, NotFittedError, ShapeError
from anomaly_suite.snippets import SNIPPET_FRAMES


class Batch(TypedDict, total=False):
    """Input of every step; only the keys that a data set has are present.

    Images: ``image`` (B, C, H, W) float, in [0, 1] from the data modules of this package; ``label`` (B,) long, 1 is
    anomalous; ``mask`` (B, 1, H, W) bool, True is anomalous; ``image_path`` and ``category``, one string an image;
    ``padding`` (B,) bool marks images repeated only to give every process equally many.
    Weak video: ``snippet_features`` (B, C, T, D) float of C crops, ``length`` (B,) snippets of each video, the others being
    padding, ``label`` (B,) of whole videos (``bag_label`` is another name for it), ``image_path`` their names. With frame
    truth: ``frame_label`` (F,) bool, the videos one after another, and ``frame_count`` (B,) frames of each.
    Pixel OOD: ``target`` (B, H, W) long, class of each pixel, 254 for a pasted outlier and 255 for void; ``ood_mask``
    (B, H, W) uint8, 0 normal, 1 anomalous, 255 not scored.
    """

    image: Tensor
    label: Tensor
    mask: Tensor
    image_path: list[str]
    category: list[str]
    padding: Tensor
    snippet_features: Tensor
    length: Tensor
    bag_label: Tensor
    frame_label: Tensor
    frame_count: Tensor
    target: Tensor
    ood_mask: Tensor


class Prediction(TypedDict, total=False):
    """Output of every validation, test and predict step.

    ``anomaly_score`` (B,) and ``anomaly_map`` (B, 1, H, W) are raw and never overwritten: higher is more anomalous, on
    any scale. Video: ``snippet_score`` (B, T), ``frame_score`` (F,). Driving scenes: ``pred_target`` (B, H, W) long, the
    most probable known class, and ``confidence`` (B, H, W), its probability among the known classes. A fitted
    :class:`Calibration` adds ``pred_label`` (B,) bool, ``pred_mask`` (B, 1, H, W) bool and ``normalized_score`` (B,) in
    [0, 1] with 0.5 at the threshold.
    """

    anomaly_score: Tensor
    anomaly_map: Tensor
    snippet_score: Tensor
    frame_score: Tensor
    pred_target: Tensor
    confidence: Tensor
    pred_label: Tensor
    pred_mask: Tensor
    normalized_score: Tensor


_FIELDS = tuple(Batch.__annotations__)


class _Checked(dict[str, Any]):
    """A batch that has been through :func:`as_batch`; checking labels again would make a GPU wait."""


def as_batch(batch: Any) -> Batch:
    """Turn what a loader yields into a checked :class:`Batch`.

    Args:
        batch: A mapping with the keys of :class:`Batch` (others are kept), an object with such attributes, a tuple or
            list ``(image,)``, ``(image, label)`` or ``(image, label, mask)``, or an image tensor alone.

    Returns:
        A new mapping; ``label`` is long (B,), ``mask`` bool (B, 1, H, W); a missing label is taken from the mask. With
        ``snippet_features`` (B, T, D) or (B, C, T, D), these get a crop axis, and ``length`` is filled in.

    Raises:
        ShapeError: no image, an image that is not a float (B, C, H, W) tensor, labels other than 0 and 1, or a mask of
            another height or width; for weak video, tensors that do not fit together.
    """
    if isinstance(batch, _Checked):
        return cast(Batch, batch)
    out = _Checked()
    if isinstance(batch, Tensor):
        out["image"] = batch
    elif isinstance(batch, Mapping):
        out.update(batch)
    elif isinstance(batch, Sequence) and 1 <= len(batch) <= 3 and not hasattr(batch, "_fields"):
        out.update(zip(("image", "label", "mask"), batch, strict=False))
    else:
        out.update({name: getattr(batch, name) for name in _FIELDS if getattr(batch, name, None) is not None})
    for name in [key for key, value in out.items() if value is None]:
        del out[name]
    if "image" not in out:
        if "snippet_features" in out:
            _check_bags(out)
            return cast(Batch, out)
        found = ", ".join(map(str, out)) or type(batch).__name__
        raise ShapeError(
            f"a batch needs the key 'image' (or be an (image, label[, mask]) tuple); got {found}. "
            "Rename the key in the loader's collate function."
        )
    image = out["image"]
    if not isinstance(image, Tensor) or image.ndim != 4 or not image.is_floating_point():
        what = f"{tuple(image.shape)} {image.dtype}" if isinstance(image, Tensor) else type(image).__name__
        raise ShapeError(
            f"image must be a floating-point tensor of shape (B, C, H, W); got {what}. Convert and stack the images in the loader."
        )
    if "mask" in out:
        out["mask"] = _as_mask(torch.as_tensor(out["mask"], device=image.device), image)
    if "label" in out:
        out["label"] = _as_label(torch.as_tensor(out["label"], device=image.device), len(image))
    elif "mask" in out:
        out["label"] = out["mask"].flatten(1).any(1).long()
    for name, kind in (("target", torch.long), ("ood_mask", torch.uint8)):
        if name in out:
            out[name] = _as_pixel_labels(torch.as_tensor(out[name], device=image.device), image, name).to(kind)
    return cast(Batch, out)


def _as_mask(mask: Tensor, image: Tensor) -> Tensor:
    mask = mask.unsqueeze(1) if mask.ndim == 3 else mask
    if mask.ndim != 4 or mask.shape[1] != 1 or len(mask) != len(image) or mask.shape[2:] != image.shape[2:]:
        raise ShapeError(
            f"mask must have shape (B, 1, H, W) and share B, H and W with image {tuple(image.shape)}; got {tuple(mask.shape)}. "
            "Resize masks together with their images (nearest neighbour)."
        )
    return mask >= 0.5 if mask.is_floating_point() else mask > 0


def _as_pixel_labels(value: Tensor, image: Tensor, name: str) -> Tensor:
    value = value.squeeze(1) if value.ndim == 4 and value.shape[1] == 1 else value
    if value.shape != (len(image), *image.shape[2:]) or value.is_floating_point():
        raise ShapeError(
            f"{name} must be whole numbers of shape (B, H, W) and share B, H and W with image {tuple(image.shape)}; got "
            f"{tuple(value.shape)} {value.dtype}. Resize labels together with their images (nearest neighbour)."
        )
    return value


def _as_label(label: Tensor, batch_size: int) -> Tensor:
    label = label.reshape(-1)
    if len(label) != batch_size:
        raise ShapeError(f"label must have one entry an image; got {len(label)} labels for {batch_size} images.")
    if not bool(((label == 0) | (label == 1)).all()):
        odd = label[(label != 0) & (label != 1)][0].item()
        raise ShapeError(
            f"label must be 0 (normal) or 1 (anomalous); got {odd}. Map class indices to 0 and 1 in the data set, "
            "or use a data module with normal_class."
        )
    return label.long()


def _check_bags(out: _Checked) -> None:
    """Check the parts of a weak-video batch in place."""
    features = out["snippet_features"]
    if not isinstance(features, Tensor) or features.ndim not in (3, 4) or not features.is_floating_point():
        what = f"{tuple(features.shape)} {features.dtype}" if isinstance(features, Tensor) else type(features).__name__
        raise ShapeError(
            f"snippet_features must be a floating-point tensor of shape (B, T, D) or (B, C, T, D); got {what}. "
            "Pad and stack the videos in the loader."
        )
    out["snippet_features"] = features = features.unsqueeze(1) if features.ndim == 3 else features
    count, _, snippets, _ = features.shape
    for name in ("length", "frame_count", "bag_label", "frame_label"):
        if name in out:
            out[name] = torch.as_tensor(out[name], device=features.device).reshape(-1)
    if "length" not in out:
        out["length"] = torch.full((count,), snippets, device=features.device)
    length = out["length"]
    if len(length) != count or bool(((length < 1) | (length > snippets)).any()):
        raise ShapeError(
            f"length must hold 1 to {snippets} snippets for each of {count} videos; got {length.tolist()}. "
            "It says where the padding of each video begins."
        )
    if "bag_label" in out:
        out["label"] = out.pop("bag_label")
    if "label" in out:
        out["label"] = _as_label(torch.as_tensor(out["label"], device=features.device), count)
    if "frame_label" in out:
        frames = out.setdefault("frame_count", SNIPPET_FRAMES * length)
        if len(frames) != count or len(out["frame_label"]) != int(frames.sum()):
            raise ShapeError(
                f"frame_label must hold the frames of all videos, one after another; got {len(out['frame_label'])} for "
                f"frame_count {frames.tolist()}. Cut truth and features to the same frames."
            )
        out["frame_label"] = out["frame_label"] > 0


class Calibration(nn.Module):
    """Thresholds and score ranges, saved in the checkpoint and applied by every evaluation step.

    Unfitted it adds nothing. ``record`` says, for each level that is fitted, ``threshold``, ``low`` and ``high`` and how they
    were chosen. They are plain numbers in the module's extra state, not buffers: weight averaging would average buffers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.record: dict[str, dict[str, Any]] = {}

    def is_fitted(self, level: Literal["image", "pixel"]) -> bool:
        """Whether a threshold for this level has been set."""
        return level in self.record

    def set(
        self, level: Literal["image", "pixel"], *, threshold: float, low: float, high: float, **how: str | int | float
    ) -> None:
        """Set threshold and score range of one level.

        Args:
            level: Whole images or single pixels.
            threshold: Scores at or above it are anomalous.
            low: Smallest score seen; maps to 0 in ``normalized_score``.
            high: Largest score seen; maps to 1.
            how: How the threshold was chosen, for the record.
        """
        self.record[level] = {"threshold": threshold, "low": low, "high": high, **how}

    def threshold(self, level: Literal["image", "pixel"]) -> float:
        """Scores of this level at or above it are anomalous.

        Raises:
            NotFittedError: nothing has been set.
        """
        if level not in self.record:
            raise NotFittedError(
                f"no {level} threshold has been calibrated. Validate with the Calibrate callback first."
            )
        return float(self.record[level]["threshold"])

    def forward(self, prediction: Prediction) -> Prediction:
        """Add ``pred_label``, ``normalized_score`` and ``pred_mask`` where calibrated; raw scores stay as they are."""
        out = prediction.copy()
        if self.is_fitted("image") and "anomaly_score" in prediction:
            out["pred_label"] = prediction["anomaly_score"] >= self.threshold("image")
            out["normalized_score"] = self.normalize(prediction["anomaly_score"])
        if self.is_fitted("pixel") and "anomaly_map" in prediction:
            out["pred_mask"] = prediction["anomaly_map"] >= self.threshold("pixel")
        return out

    def normalize(self, score: Tensor, level: Literal["image", "pixel"] = "image") -> Tensor:
        """Map raw scores of any shape to [0, 1]: 0 at the smallest, 0.5 at the threshold, 1 at the largest seen."""
        middle = self.threshold(level)
        below = max(middle - self.record[level]["low"], _TINY)  # a range of width zero must not divide by zero
        above = max(self.record[level]["high"] - middle, _TINY)
        return (0.5 + 0.5 * (score - middle) / torch.where(score < middle, below, above)).clamp(0, 1)

    def get_extra_state(self) -> dict[str, dict[str, Any]]:
        """The record; part of ``state_dict``."""
        return self.record

    def set_extra_state(self, state: dict[str, dict[str, Any]]) -> None:
        """Restore the record."""
        self.record = dict(state)


_TINY = torch.finfo(torch.float32).tiny


class AnomalyModule(LightningModule):
    """A detector. A method writes ``__init__``, ``training_step``, ``forward`` and ``configure_optimizers``.

    Validation, test and predict steps are here, once: each returns ``calibration(predict(batch))``, which the callbacks
    read. ``forward`` is the only path from image to score, so what is exported is what was tested.

    Batches reach ``training_step`` already passed through :func:`as_batch`, and torch's generator, from which dropout
    draws, is set anew for each step, so that a resumed run draws what an uninterrupted one would have drawn.

    A method without gradients sets ``automatic_optimization = False`` and ``single_pass = True``, collects in
    ``training_step``, turns what it collected into buffers in :meth:`fit_statistics`, and overrides :attr:`is_fitted`.
    It is fitted before the validation pass of its epoch and training then stops, whatever ``max_epochs`` says.
    """

    single_pass: ClassVar[bool] = False
    """One pass over the training set fits the method; training stops after it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "training_step" in cls.__dict__:
            cls.training_step = _with_checked_batch(cls.__dict__["training_step"])  # type: ignore[method-assign]

    def __init__(self) -> None:
        super().__init__()
        self.calibration = Calibration()
        self._seed: int | None = None
        self._has_weights = False  # pretrained ones, or those of a checkpoint

    @property
    def is_fitted(self) -> bool:
        """Whether the method can predict; methods with fitted statistics override it."""
        return True

    def require_fitted(self) -> None:
        """Raise :class:`NotFittedError` unless the method can predict."""
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
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(image).")

    def predict(self, batch: Batch) -> Prediction:
        """Raw scores of one batch, in float32; families that do not take images override it."""
        score, anomaly_map = self(batch["image"])
        prediction: Prediction = {"anomaly_score": score.float()}
        if anomaly_map is not None:
            prediction["anomaly_map"] = anomaly_map.float()
        return prediction

    def _evaluate(self, batch: Any) -> Prediction | None:
        if not self.is_fitted and self._trainer is not None and self.trainer.sanity_checking:
            return None  # the sanity check runs before anything could be fitted
        self.require_fitted()
        return cast(Prediction, self.calibration(self.predict(as_batch(batch))))

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Prediction | None:
        """Predict; metrics are the callbacks' business."""
        return self._evaluate(batch)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Prediction | None:
        """Predict; metrics are the callbacks' business."""
        return self._evaluate(batch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Prediction | None:
        """Predict."""
        return self._evaluate(batch)

    def fit_statistics(self) -> None:
        """Turn what ``training_step`` has collected so far into buffers; called with nothing new it must do nothing."""

    def load_pretrained(self) -> None:
        """Load pretrained weights; called once at the start of a fit that does not resume, never by the constructor."""

    def setup(self, stage: str) -> None:
        """Load pretrained weights before a first fit: a checkpoint holds its own, so nothing is downloaded for it."""
        if stage == "fit":
            self.load_pretrained_once()

    def load_pretrained_once(self) -> None:
        """Load pretrained weights, unless that has been done or the weights are or will be those of a checkpoint."""
        if not self._has_weights and self.trainer.ckpt_path is None:
            self.load_pretrained()
            self._has_weights = True

    def on_fit_start(self) -> None:
        """Remember the seed: random draws of the steps derive from it (see :meth:`step_generator`)."""
        if self._seed is None or self.trainer.ckpt_path is None:
            self._seed = torch.initial_seed()

    def on_train_batch_end(self, *args: Any) -> None:
        """Count the batches of a single-pass method as steps: ModelCheckpoint saves nothing at global step 0."""
        if self.single_pass:
            self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.increment_completed()

    def on_validation_start(self) -> None:
        """Fit what was collected, because Lightning validates before the training epoch ends."""
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            # Inference tensors, which a validation loop makes, could not be loaded over later.
            with torch.inference_mode(False), torch.no_grad():
                self.fit_statistics()

    def on_train_epoch_end(self) -> None:
        """Fit what was collected; a single-pass method is then done."""
        with torch.no_grad():
            self.fit_statistics()
        if self.single_pass:
            self.trainer.should_stop = True

    def step_generator(self, batch_idx: int) -> torch.Generator:
        """Random numbers for one training step, on the module's device.

        They depend on the run's seed, epoch, step and process alone, so a resumed run repeats what an uninterrupted run
        would have drawn.
        """
        return torch.Generator(device=self.device).manual_seed(self._step_seed(batch_idx))

    def _step_seed(self, batch_idx: int, *more: int) -> int:
        words = (self._seed or 0, self.current_epoch, batch_idx, self.global_rank, *more)
        return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)

    def training_progress(self, batch_idx: int) -> float:
        """Share of the training that lies behind this step, in [0, 1); 0 throughout if the trainer has no end.

        For schedules of methods with several optimisers; it follows from the epoch, so a resumed run needs no more.
        """
        trainer = self.trainer
        epochs, per_epoch = trainer.max_epochs or -1, trainer.num_training_batches
        if trainer.max_steps > 0:
            return min(1.0, self.global_step / trainer.max_steps)
        return 0.0 if epochs < 0 else (self.current_epoch * per_epoch + batch_idx) / (epochs * per_epoch)

    def training_batches(self) -> Iterator[Batch]:
        """One pass over this process's share of the training set, outside the training loop, batches on the device."""
        loader = self.trainer.train_dataloader
        if loader is None:
            raise ConfigError(f"{type(self).__name__} needs a training set; the trainer has no train_dataloader.")
        if isinstance(loader, DataLoader):
            # Persistent workers serve one iterator at a time: ours must not use up the training loop's.
            loader = copy.copy(loader)
            loader._iterator = None
        for raw in loader:
            yield as_batch(self.trainer.strategy.batch_to_device(raw, self.device))

    def training_images(self) -> Iterator[Tensor]:
        """Images (B, C, H, W) of :meth:`training_batches`, less those repeated for another process's sake."""
        for batch in self.training_batches():
            image = batch["image"][~batch["padding"]] if "padding" in batch else batch["image"]
            if len(image):
                yield image

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all processes; the tensor itself in a single process."""
        return cast(Tensor, self.trainer.strategy.reduce(value, reduce_op="sum"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record class and seed."""
        checkpoint["anomaly_suite"] = {"class": type(self).__name__, "seed": self._seed}
        # Under weight averaging the state is that of a copy, which no callback has calibrated.
        checkpoint["state_dict"]["calibration._extra_state"] = self.calibration.get_extra_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another class.

        Raises:
            CheckpointError: the checkpoint was written by another class or another program.
        """
        saved = checkpoint.get("anomaly_suite", {}).get("class")
        if saved != type(self).__name__:
            raise CheckpointError(
                f"{type(self).__name__} cannot load a checkpoint of {saved or 'a class outside anomaly_suite'}. "
                f"Give the checkpoint to {saved or 'the class that wrote it'}."
            )
        self._seed = checkpoint["anomaly_suite"]["seed"]
        self._has_weights = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Fitted buffers (means, banks) are empty before the fit and take the checkpoint's shape, in parts of the method too.
        for path, module in self.named_modules(prefix=prefix.removesuffix(".")):
            for name, buffer in module._buffers.items():
                saved = state_dict.get(f"{path}.{name}" if path else name)
                fitted = buffer is not None and (module is self or buffer.numel() == 0)
                if fitted and isinstance(saved, Tensor) and saved.shape != buffer.shape:
                    module._buffers[name] = buffer.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _with_checked_batch(step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(step)
    def training_step(self: AnomalyModule, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Any:
        # Dropout draws from torch's own generator, which a resumed run could not take up where it was.
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self._step_seed(batch_idx, 1))  # other numbers than step_generator has
            return step(self, as_batch(batch), batch_idx, *args, **kwargs)

    return training_step


Validation = Literal["holdout", "augmented", "test", "none"]


class Splits(NamedTuple):
    """Data sets of a data module; each has ``__len__`` and ``__getitems__(indices) -> Batch``.

    A negative index ``-1 - i`` asks for item ``i`` with ``padding`` True.
    """

    train: Dataset[Any]
    val: Dataset[Any] | None
    test: Dataset[Any]


class AnomalyDataModule(LightningDataModule):
    """Training normals, validation and test data of one benchmark; a data set writes ``__init__`` and ``build``.

    Args:
        train_batch_size: Images a training step and process.
        eval_batch_size: Images a validation, test or predict step and process.
        num_workers: Loader processes; 0 loads in the main process.
        seed: Decides every split and the order of training images.
        validation: ``holdout`` keeps ``val_size`` training normals (and labelled anomalies that the data set has apart
            from its test set); ``augmented`` keeps them together with one structure-breaking augmented copy of each as
            stand-in anomaly; ``test`` validates on the test set, which every result file then says; ``none``.
        val_size: A fraction of the training normals, or a count if an integer.
    """

    def __init__(
        self,
        *,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        validation: Validation = "holdout",
        val_size: int | float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("train_batch_size", train_batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}.")
        if val_size <= 0 or (isinstance(val_size, float) and val_size >= 1):
            raise ConfigError(
                f"val_size must be a fraction in (0, 1) or a positive count; got {val_size}. Use validation: none to keep no images."
            )
        self.train_batch_size = train_batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.validation = validation
        self.val_size = val_size
        self.splits: Splits | None = None

    def build(self) -> Splits:
        """Read the data set and split it; called once in every process."""
        raise NotImplementedError(f"{type(self).__name__} must define build().")

    def setup(self, stage: str | None = None) -> None:
        """Build the splits once."""
        if self.splits is None:
            self.splits = self.build()

    def hold_out(self, count: int) -> tuple[list[int], list[int]]:
        """Split ``range(count)`` training normals into sorted (training, validation) positions, seeded.

        Raises:
            ConfigError: nothing would be left for training.
        """
        if self.validation in ("test", "none"):
            return list(range(count)), []
        held = self.val_size if isinstance(self.val_size, int) else max(1, round(self.val_size * count))
        if held >= count:
            raise ConfigError(
                f"val_size={self.val_size} leaves no training item out of {count}. Give a smaller val_size or validation: none."
            )
        order = np.random.default_rng(self.seed).permutation(count).tolist()
        return sorted(order[held:]), sorted(order[:held])

    def train_dataloader(self) -> DataLoader[Any]:
        """Training normals, reshuffled every epoch from the seed and the epoch's number."""
        self.setup()
        assert self.splits is not None
        return self._loader(self.splits.train, self.train_batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Validation images in fixed order; an empty list if there are none."""
        self.setup()
        assert self.splits is not None
        val = self.splits.test if self.validation == "test" else self.splits.val
        return [] if val is None else self._loader(val, self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Test images in fixed order."""
        self.setup()
        assert self.splits is not None
        return self._loader(self.splits.test, self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test images, for ``predict``."""
        return self.test_dataloader()

    def _loader(self, dataset: Dataset[Any], batch_size: int, *, shuffle: bool = False) -> DataLoader[Any]:
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)
        sampler = ShardSampler(dataset, world=world, rank=rank, shuffle=shuffle, seed=self.seed)
        # Worker processes start anew each epoch, so that they see the epoch's number in the data set.
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=as_batch,
            pin_memory=torch.cuda.is_available(),
        )


class ShardSampler(DistributedSampler[Any]):
    """This process's share of a data set.

    Training (``shuffle``): a new order every epoch; processes that would get one image less repeat one, given as the
    negative index ``-1 - i``, so that gradient steps stay in step and statistics can leave the repeats out.
    Evaluation: every image exactly once over all processes.
    """

    def __init__(self, dataset: Dataset[Any], *, world: int, rank: int, shuffle: bool, seed: int) -> None:
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=shuffle, seed=seed)
        self.count = len(cast(Any, dataset))
        self.num_samples = -(-self.count // world) if shuffle else len(range(rank, self.count, world))

    def __iter__(self) -> Iterator[int]:
        order = (
            np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
            if self.shuffle
            else np.arange(self.count)
        )
        missing = self.num_samples * self.num_replicas - self.count if self.shuffle else 0
        padded = np.concatenate([order, -1 - np.resize(order, missing)]) if missing else order
        return iter(padded[self.rank :: self.num_replicas].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Reshuffle, and tell the data set, whose random transforms derive from the epoch too."""
        super().set_epoch(epoch)
        if hasattr(self.dataset, "epoch"):
            self.dataset.epoch = epoch

"""Driving scenes: images with a class for every pixel, read safely, transformed together and cropped for training.

Numbers in label files differ between data sets. A table of 256 entries maps them to training classes (``target``) or to
normal, anomalous and not scored (``ood_mask``), so nothing beyond this folder knows them.

Axes: B batch, H and W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_suite.contract import AnomalyDataModule, Batch, Splits
from anomaly_suite.data.files import check_file, check_leaks, read_image
from anomaly_suite.data.pipeline import Pipeline, Pixels, Size
from anomaly_suite.data.scenes.anomaly_mix import anomaly_mix
from anomaly_suite.data.scenes.cutouts import Cutouts, Exclusion, open_cutouts
from anomaly_suite.data.sets import BatchedDataset
from anomaly_suite.errors import ConfigError, DatasetError, ImageReadError, ShapeError

log = logging.getLogger(__name__)

VOID = 255
PADDING = (0.485, 0.456, 0.406)
"""Colour around images smaller than the crop: the ImageNet mean, so that standardised it is 0."""

LabelTable = npt.NDArray[np.int16]


def label_table(known: Mapping[int, int], *, void: Iterable[int] = ()) -> LabelTable:
    """What the numbers of a label file mean: 256 entries, -1 for numbers that must not occur.

    Args:
        known: New value of each number.
        void: Numbers that become 255; 255 itself does in any case.

    Example:
        >>> label_table({7: 0}, void=[3])[[7, 3, 255, 8]].tolist()
        [0, 255, 255, -1]
    """
    table = np.full(256, -1, np.int16)
    table[[*void, VOID]] = VOID
    table[list(known)] = list(known.values())
    return table


def relabel(label: Pixels, table: LabelTable, *, source: str) -> Pixels:
    """Map the numbers of a label image.

    Args:
        label: Shape (H, W).
        table: See :func:`label_table`.
        source: Whose numbers they are, for the message.

    Returns:
        Shape (H, W).

    Raises:
        DatasetError: a number that the data set does not have: the file is damaged or of another kind.
    """
    found = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
    foreign = found[table[found] < 0]
    if len(foreign):
        raise DatasetError(
            f"the label of '{source}' holds {foreign[0]}, which is no label of this data set ({len(foreign)} such values). "
            "Check that the files are the ones named in the documentation, not colours, instances or other ids."
        )
    mapped: Pixels = cv2.LUT(label, table.astype(np.uint8))
    return mapped


def read_label(path: Path) -> Pixels:
    """Read label numbers as they are stored: palette indices are not turned into colours, 16 bits not into 8.

    Returns:
        Shape (H, W).

    Raises:
        DatasetError: colours, or numbers above 255.
        ImageReadError: it cannot be read.
    """
    from PIL import Image  # OpenCV turns palette indices into colours

    check_file(path)
    try:
        with Image.open(path) as file:
            mode, values = file.mode, np.asarray(file)
    except OSError as error:
        raise ImageReadError(f"'{path}' is not a readable image: {error}. Replace the file.") from error
    if values.ndim != 2 or values.dtype == np.bool_:
        raise DatasetError(
            f"'{path}' must hold one number a pixel; its mode is {mode}. Give the label file, not its coloured version."
        )
    if values.max(initial=0) > VOID:
        raise DatasetError(
            f"'{path}' holds numbers up to {values.max()}; labels end at {VOID}. Give the label file, not that of instances."
        )
    return values.astype(np.uint8)


class SceneSource(Protocol):
    """Images with label numbers, in files or in memory; ``names`` say what ``image_path`` says of each."""

    names: list[str]

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Image (H, W, 3) and label numbers (H, W)."""
        ...


class Scene(NamedTuple):
    """One image file and its label file; ``overlay`` is added to the image, see :func:`add_overlay`."""

    image: Path
    label: Path
    overlay: Path | None = None


class SceneFiles:
    """Scenes in files.

    Args:
        scenes: The files.
        image_size: Height and width to which images are resized (by area averaging where they shrink) and labels (nearest
            pixel); None keeps every size.
    """

    def __init__(self, scenes: Sequence[Scene], *, image_size: tuple[int, int] | None = None) -> None:
        self.scenes = scenes
        self.image_size = image_size
        self.names = [str(scene.image) for scene in scenes]

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Read one scene.

        Raises:
            DatasetError: image and label differ in size.
        """
        scene = self.scenes[index]
        image, label = read_image(scene.image), read_label(scene.label)
        if image.shape[:2] != label.shape:
            raise DatasetError(
                f"label '{scene.label}' is {label.shape}, but its image '{scene.image}' is {image.shape[:2]} (H, W). "
                "Restore the published files: labels are never resized."
            )
        if scene.overlay is not None:
            image = add_overlay(image, scene.overlay)
        return (image, label) if self.image_size is None else resize(image, label, self.image_size)


def add_overlay(image: Pixels, path: Path) -> Pixels:
    """Add the signed difference ``rgb`` of an ``.npz`` file and clip to [0, 255].

    Args:
        image: Shape (H, W, 3).
        path: The file.

    Raises:
        DatasetError: no such array, unsigned numbers (which have lost their sign), or another shape.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            overlay = content["rgb"]
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"'{path}' holds no array 'rgb' ({error}). Fetch the file again.") from error
    if overlay.dtype.kind not in "if" or overlay.shape != image.shape:
        raise DatasetError(
            f"the overlay '{path}' must hold signed numbers of shape {image.shape}; got {overlay.dtype} {overlay.shape}. "
            "Fetch the file again."
        )
    total: npt.NDArray[np.int32] = image + np.rint(overlay).astype(np.int32)
    return total.clip(0, 255).astype(np.uint8)


def resize(image: Pixels, label: Pixels, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Resize an image by area averaging, or bilinearly where it grows, and its label to the nearest pixel.

    Args:
        image: Shape (H, W, 3).
        label: Shape (H, W).
        size: New height and width.
    """
    how = cv2.INTER_AREA if size[0] < label.shape[0] else cv2.INTER_LINEAR
    # cv2.INTER_NEAREST would shift labels against the image by half a pixel.
    nearest = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return cv2.resize(image, size[::-1], interpolation=how), nearest


class EvaluationScenes(BatchedDataset):
    """Whole scenes in their own size.

    Args:
        source: The scenes.
        tables: ``target``, ``ood_mask`` or both, and what label numbers mean for each.
        region: Shape (H, W); outside of it ``ood_mask`` is 255. None is everywhere.
    """

    def __init__(
        self, source: SceneSource, *, tables: Mapping[str, LabelTable], region: npt.NDArray[np.bool_] | None = None
    ) -> None:
        self.source = source
        self.tables = tables
        self.region = region

    def __len__(self) -> int:
        return len(self.source.names)

    def batch(self, indices: list[int]) -> Batch:
        """``image``, ``image_path``, ``label`` (1 if any pixel is anomalous), and ``target`` and ``ood_mask`` by the tables."""
        images, labels = zip(*(self.source.read(index) for index in indices), strict=True)
        names = [self.source.names[index] for index in indices]
        _same_size(names, labels)
        batch: dict[str, Any] = {"image": _as_image(np.stack(images)), "image_path": names}
        for key, table in self.tables.items():
            mapped = [relabel(label, table, source=name) for label, name in zip(labels, names, strict=True)]
            batch[key] = torch.from_numpy(np.stack(mapped))
        if "target" in batch:
            batch["target"] = batch["target"].long()
        anomalous = torch.zeros(len(indices), dtype=torch.long)
        if "ood_mask" in batch:
            if self.region is not None:
                batch["ood_mask"][:, ~self._region(names[0], labels[0])] = VOID
            anomalous = (batch["ood_mask"] == 1).flatten(1).any(1).long()
        batch["label"] = anomalous
        return batch  # type: ignore[return-value] # keys come from the tables

    def _region(self, name: str, label: Pixels) -> Tensor:
        assert self.region is not None
        if self.region.shape != label.shape:
            raise DatasetError(
                f"the region of interest is {self.region.shape}, but '{name}' is {label.shape} (H, W). Give one of its size."
            )
        return torch.from_numpy(self.region)


class CropScenes:
    """Flip, scale, crop and colour a training scene, image and target together.

    Args:
        size: Height and width of the crop; None for the size that the scene comes in.
        flip: Probability of a mirror image.
        scales: Factors of which one is drawn.
        scale_range: Smallest and largest factor, drawn uniformly; replaces ``scales``.
        steps: Albumentations steps on what was cut out, before it is padded.

    Raises:
        ConfigError: a value that cannot work.
    """

    def __init__(
        self,
        *,
        size: Size | None,
        flip: float,
        scales: Sequence[float],
        scale_range: tuple[float, float] | None,
        steps: Sequence[Mapping[str, Any]],
    ) -> None:
        self.size = (size, size) if isinstance(size, int) else size
        if self.size is not None and min(self.size) < 1:
            raise ConfigError(f"crop_size must be positive; got {size}.")
        if not 0 <= flip <= 1:
            raise ConfigError(f"flip is a probability in [0, 1]; got {flip}.")
        if not scales or min(scales) <= 0:
            raise ConfigError(f"scales needs factors above 0; got {list(scales)}. Use [1.0] to keep the size.")
        check_range("scale_range", scale_range)
        self.flip = flip
        self.scales = list(scales)
        self.scale_range = scale_range
        self.pipeline = Pipeline(image_size=None, center_crop=None, steps=steps)

    def __call__(
        self, image: Pixels, target: Pixels, *, rng: np.random.Generator, words: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Transform one scene.

        Args:
            image: Shape (H, W, 3).
            target: Shape (H, W).
            rng: Source of flip, scale and place.
            words: Decide the draws of the albumentations steps.

        Returns:
            Float image (3, h, w) in [0, 1] and long target (h, w). Where the scaled scene is smaller than the crop it lies
            in the middle, surrounded by the ImageNet mean and 255.

        Raises:
            ConfigError: a step changes the size.
        """
        size = self.size or target.shape
        if rng.random() < self.flip:
            image, target = cv2.flip(image, 1), cv2.flip(target, 1)
        factor = rng.choice(self.scales) if self.scale_range is None else rng.uniform(*self.scale_range)
        if factor != 1:
            height, width = (max(1, round(factor * length)) for length in target.shape)
            nearest = cv2.resize(target, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
            image, target = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), nearest
        first = [int(rng.integers(max(length - room, 0) + 1)) for length, room in zip(target.shape, size, strict=True)]
        cut = tuple(slice(start, start + room) for start, room in zip(first, size, strict=True))
        image, target = np.ascontiguousarray(image[cut]), np.ascontiguousarray(target[cut])
        shape = target.shape
        image, coloured = self.pipeline(image, target, words=words)
        if coloured is None or coloured.shape != shape:
            raise ConfigError("train_transform must keep the size of what it gets. Use crop_size and scales instead.")
        place = tuple(
            slice((room - length) // 2, (room - length) // 2 + length) for length, room in zip(shape, size, strict=True)
        )
        padded = torch.tensor(PADDING).view(3, 1, 1).repeat(1, *size)
        padded[:, place[0], place[1]] = _as_image(image[None])[0]
        whole = torch.full(size, VOID)
        whole[place] = torch.from_numpy(coloured).long()
        return padded, whole


class OutlierMix(NamedTuple):
    """Training scenes with pasted outliers: which of which pool, how many an epoch, and the options of ``anomaly_mix``."""

    pool: Cutouts
    members: npt.NDArray[np.int64]
    number: int
    single: bool
    rescale: tuple[float, float] | None
    road: int | None


class TrainingScenes(BatchedDataset):
    """Crops of training scenes, followed by scenes with outliers pasted in, drawn anew every epoch.

    A scene's draws depend on the seed, the epoch and its index alone, so a resumed run repeats what an uninterrupted one
    would have drawn, with any batch size and number of workers.

    Args:
        source: The scenes.
        table: What label numbers mean as classes.
        crop: Flip, scale, crop and colours.
        mix: Outliers; None for none.
        seed: See above.
    """

    def __init__(
        self, source: SceneSource, *, table: LabelTable, crop: CropScenes, mix: OutlierMix | None, seed: int
    ) -> None:
        self.source = source
        self.table = table
        self.crop = crop
        self.mix = mix
        self.seed = seed
        self.epoch = 0  # the sampler sets it

    def __len__(self) -> int:
        return len(self.source.names) + (self.mix.number if self.mix else 0)

    def batch(self, indices: list[int]) -> Batch:
        """``image``, ``target`` and ``image_path``, that of the background where outliers were pasted."""
        names, images, targets = zip(*map(self._item, indices), strict=True)
        _same_size(names, targets)
        return {"image": torch.stack(images), "target": torch.stack(targets), "image_path": list(names)}

    def _item(self, index: int) -> tuple[str, Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        count = len(self.source.names)
        scene = index if index < count else int(rng.integers(count))
        name = self.source.names[scene]
        image, label = self.source.read(scene)
        target = relabel(label, self.table, source=name)
        if self.mix is not None and index >= count:
            cutout, mix = self.mix.pool.read(int(self.drawn()[index - count])), self.mix
            image, target = anomaly_mix(
                image, target, cutout, rng=rng, single=mix.single, rescale=mix.rescale, road=mix.road
            )
        return name, *self.crop(image, target, rng=rng, words=(self.seed, self.epoch, index, 1))

    def drawn(self) -> npt.NDArray[np.int64]:
        """Cut-outs of this epoch, none twice unless the pool is too small."""
        assert self.mix is not None
        order = np.random.default_rng((self.seed, self.epoch, 0, 2)).permutation(self.mix.members)
        return np.resize(order, self.mix.number)


class SceneParts(NamedTuple):
    """What a data set consists of.

    ``table`` maps label numbers to classes, for training and validation; ``test_tables`` are those of
    :class:`EvaluationScenes`.
    """

    train: SceneSource
    val: SceneSource
    test: SceneSource
    table: LabelTable
    test_tables: Mapping[str, LabelTable]


class SceneModule(AnomalyDataModule):
    """Data module on driving scenes for training; a data set writes ``read`` and sets ``classes``.

    Training batches hold ``image`` and ``target``: crops of every training scene once an epoch, and
    ``outlier_fraction`` as many further ones with outliers pasted in (AnomalyMix), with 254 there. Validation and test
    batches hold whole scenes in their own size, so only scenes of one size share a batch.

    Args:
        crop_size: Height and width of training crops, one number for both; None for the size of the scenes.
        flip: Probability of a mirror image.
        scales: Factors by which training scenes are resized before they are cropped; one is drawn for each.
        scale_range: Smallest and largest factor, drawn uniformly, instead of ``scales``.
        train_transform: Albumentations steps on training crops, such as ``{class: ColorJitter, p: 0.5}``.
        outliers: ``shapes`` for drawn ones; a COCO annotation file or its root; masks prepared by the Meta-OoD recipe; a folder
            with ``images`` and ``masks``, or of RGBA images. None pastes nothing.
        outlier_fraction: Scenes with outliers an epoch, as a fraction of the training scenes.
        outlier_exclude: COCO images with any object of these classes are not used: ``released`` is the list of PEBAL's code (8
            names, to which a train, a class of Cityscapes, does not belong), ``disjoint`` adds that and what the test sets contain,
            such as animals; or a list of names.
        outlier_share: Share of the cut-outs that is used at all, drawn by ``seed``, in (0, 1].
        outlier_min_size: Least height and width of a COCO image in pixels.
        outlier_single: Paste one object of a cut-out, not all.
        outlier_rescale: Smallest and largest factor by which objects are resized; None keeps their size.
        outlier_on_road: Paste only where the object stands on the road.
        train_batch_size: Crops a training step and process.
        eval_batch_size: Scenes a validation, test or predict step and process.
        num_workers: Loader processes; 0 loads in the main process.
        seed: Decides every draw and the order of training scenes.
        validation: ``holdout`` takes the data set's own validation part, ``test`` its test part, ``none`` nothing.

    Raises:
        ConfigError: a value that cannot work.
    """

    classes: Sequence[str]
    """Names of the classes in ``target``, from 0."""

    def __init__(
        self,
        *,
        crop_size: Size | None = None,
        flip: float = 0.5,
        scales: Sequence[float] = (1.0,),
        scale_range: tuple[float, float] | None = None,
        train_transform: list[dict[str, Any]] | None = None,
        outliers: str | None = None,
        outlier_fraction: float = 0.1,
        outlier_exclude: Exclusion | list[str] = "released",
        outlier_share: float = 1.0,
        outlier_min_size: int = 480,
        outlier_single: bool = False,
        outlier_rescale: tuple[float, float] | None = None,
        outlier_on_road: bool = False,
        train_batch_size: int = 8,
        eval_batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        validation: Literal["holdout", "test", "none"] = "holdout",
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            validation=validation,
        )
        if validation not in ("holdout", "test", "none"):
            raise ConfigError(f"validation of driving scenes is holdout, test or none; got {validation!r}.")
        if outlier_fraction < 0:
            raise ConfigError(f"outlier_fraction must be at least 0; got {outlier_fraction}.")
        if not 0 < outlier_share <= 1:
            raise ConfigError(f"outlier_share must be in (0, 1]; got {outlier_share}. 1 uses every cut-out.")
        check_range("outlier_rescale", outlier_rescale)
        self.crop = CropScenes(
            size=crop_size, flip=flip, scales=scales, scale_range=scale_range, steps=train_transform or []
        )
        self.outliers = outliers
        self.outlier_fraction = outlier_fraction
        self.outlier_exclude: Exclusion | list[str] = outlier_exclude
        self.outlier_share = outlier_share
        self.outlier_min_size = outlier_min_size
        self.outlier_single = outlier_single
        self.outlier_rescale = outlier_rescale
        self.outlier_on_road = outlier_on_road

    @property
    def num_classes(self) -> int:
        """Classes in ``target``."""
        return len(self.classes)

    def read(self) -> SceneParts:
        """Find all scenes."""
        raise NotImplementedError(f"{type(self).__name__} must define read().")

    def build(self) -> Splits:
        """Read and split."""
        parts = self.read()
        return Splits(
            TrainingScenes(parts.train, table=parts.table, crop=self.crop, mix=self._mix(parts.train), seed=self.seed),
            None if self.validation == "none" else EvaluationScenes(parts.val, tables={"target": parts.table}),
            EvaluationScenes(parts.test, tables=parts.test_tables),
        )

    def _mix(self, train: SceneSource) -> OutlierMix | None:
        if self.outliers is None or self.outlier_fraction == 0:
            return None
        count = int(self.outlier_fraction * len(train.names))
        if count == 0:
            raise ConfigError(
                f"outlier_fraction={self.outlier_fraction} of {len(train.names)} training scenes is none. Raise it, or use 0."
            )
        if self.outlier_on_road and "road" not in self.classes:
            raise ConfigError(
                f"outlier_on_road needs a class 'road'; there are {', '.join(self.classes)}. Use outlier_on_road: false."
            )
        pool = open_cutouts(
            self.outliers,
            exclude=self.outlier_exclude,
            min_size=self.outlier_min_size,
            height=train.read(0)[1].shape[0],
            seed=self.seed,
        )
        members = np.arange(len(pool))
        if self.outlier_share < 1:
            drawn = np.random.default_rng((self.seed, 3)).permutation(len(pool))
            members = np.sort(drawn[: max(1, round(self.outlier_share * len(pool)))])
            log.info("outlier_share=%g uses %d of %d cut-outs", self.outlier_share, len(members), len(pool))
        road = list(self.classes).index("road") if self.outlier_on_road else None
        return OutlierMix(pool, members, count, self.outlier_single, self.outlier_rescale, road)


class SceneTestModule(AnomalyDataModule):
    """Data module on driving scenes with anomalies, for testing alone; a data set writes ``read``.

    Test batches hold whole scenes in their own size and ``ood_mask``: 0 normal, 1 anomalous, 255 not scored.

    Args:
        eval_batch_size: Scenes a test or predict step and process; more than one only where all have one size.
        num_workers: Loader processes; 0 loads in the main process.

    Raises:
        ConfigError: on training.
    """

    def __init__(self, *, eval_batch_size: int = 1, num_workers: int = 0) -> None:
        super().__init__(eval_batch_size=eval_batch_size, num_workers=num_workers, validation="none")

    def read(self) -> EvaluationScenes:
        """Find all scenes."""
        raise NotImplementedError(f"{type(self).__name__} must define read().")

    def setup(self, stage: str | None = None) -> None:
        """Read the list of scenes once; refuse to train."""
        if stage == "fit":
            raise self._refusal()
        super().setup(stage)

    def build(self) -> Splits:
        """The test part."""
        test = self.read()
        return Splits(test, None, test)  # no one gets the first: see train_dataloader

    def train_dataloader(self) -> DataLoader[Any]:
        """There is none."""
        raise self._refusal()

    def _refusal(self) -> ConfigError:
        name = type(self).__name__
        return ConfigError(
            f"{name} is for testing: it has no training part. Train on Cityscapes, then run test with --data {name} and the checkpoint."
        )


def check_scenes(**parts: Sequence[Scene]) -> None:
    """Check that all images are whole and none is in two parts, see :func:`~anomaly_suite.data.files.check_leaks`."""
    check_leaks({name: [scene.image for scene in scenes] for name, scenes in parts.items()})


def check_range(name: str, value: tuple[float, float] | None) -> None:
    """Check an option that is a smallest and a largest factor.

    Raises:
        ConfigError: it is not.
    """
    if value is not None and not 0 < value[0] <= value[1]:
        raise ConfigError(f"{name} is a smallest and a largest factor above 0; got {list(value)}.")


def _as_image(pixels: Pixels) -> Tensor:
    """(B, H, W, 3) in 8 bits to float (B, 3, H, W) in [0, 1], channels last in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)


def _same_size(names: Sequence[str], values: Sequence[Any]) -> None:
    for name, value in zip(names, values, strict=True):
        if value.shape != values[0].shape:
            raise ShapeError(
                f"'{names[0]}' is {tuple(values[0].shape)} and '{name}' is {tuple(value.shape)} (H, W). "
                "Use a batch size of 1, or a crop_size in training."
            )

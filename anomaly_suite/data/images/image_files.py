"""Data sets of image files: reading in batches, splitting and checking. A data module on files writes ``read``.

Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from anomaly_suite.contract import Batch, Listed, Splits, Validation
from anomaly_suite.data.batched_dataset import BatchedDataset
from anomaly_suite.data.images.bit_depth import BitDepth, Bits
from anomaly_suite.data.images.image_data import ImageDataModule
from anomaly_suite.data.images.item import Found as Found
from anomaly_suite.data.images.item import Item as Item
from anomaly_suite.data.images.pseudo_anomalies import WithPseudoAnomalies
from anomaly_suite.data.preparation import Frame, PicturePreparation, as_image
from anomaly_suite.data.transforms import Pipeline, Pixels, Size
from anomaly_suite.errors import DatasetError, ShapeError
from anomaly_suite.io.folders import check_leaks, require_once
from anomaly_suite.io.image_headers import Exif
from anomaly_suite.io.images import image_size


class ImageFiles(BatchedDataset):
    """Images read from files, decoded and transformed one by one, converted to float as a batch.

    Args:
        items: The files.
        pipeline: What happens to every image.
        channels: 3 for RGB, 1 for grey.
        seed: Random steps of an item depend on this, the epoch and the item's index alone; of evaluation images not on
            the epoch.
        training: Whether draws change with the epoch.
        masks: Give masks; an item without one is normal everywhere.
        depth: How many bits images of more than 8 bits use; all 16 by default.
        exif: See :func:`~anomaly_suite.io.images.read_image`.
        frame: What is cut out of image and mask first; None for all.
    """

    fresh_draws = True

    def __init__(
        self,
        items: Sequence[Item],
        *,
        pipeline: Pipeline,
        channels: Literal[1, 3],
        seed: int,
        training: bool = False,
        masks: bool = False,
        depth: BitDepth | None = None,
        exif: Exif = "apply",
        frame: Frame | None = None,
    ) -> None:
        self.items = items
        bits = None if depth is None else depth.bits
        self.preparation = PicturePreparation(pipeline, channels=channels, bits=bits, exif=exif, frame=frame, seed=seed)
        self.seed = seed
        self.masks = masks
        self.has_groups = any(item.group for item in items)
        if training:
            self.epoch = 0  # the sampler sets it where it exists

    def __len__(self) -> int:
        return len(self.items)

    @property
    def labels(self) -> list[int]:
        """Of all images."""
        return [item.label for item in self.items]

    def listed(self) -> Iterator[Listed]:
        """All files."""
        for item in self.items:
            mask = None if item.mask is None else str(item.mask)
            yield Listed(str(item.path), item.label, mask, item.category, item.defect, item.group)

    @property
    def names(self) -> list[str]:
        """Paths of all images."""
        return [str(item.path) for item in self.items]

    @property
    def kinds(self) -> list[str]:
        """Kinds of defects of all images; empty for normal ones, and where they are not known."""
        return [item.defect for item in self.items]

    @property
    def groups(self) -> dict[int, int]:
        """Groups for localisation of the images that are in one, by position."""
        return {place: item.group for place, item in enumerate(self.items) if item.group}

    def take(self, rows: Sequence[int]) -> ImageFiles:
        """The images at these positions, as a set of their own."""
        return self._of([self.items[row] for row in rows])

    def plus(self, other: ImageFiles, rows: Sequence[int]) -> ImageFiles:
        """These images and those of another set at these positions, all with the steps of this set."""
        return self._of([*self.items, *(other.items[row] for row in rows)])

    def _of(self, items: list[Item]) -> ImageFiles:
        chosen = copy.copy(self)
        chosen.items, chosen.has_groups = items, any(item.group for item in items)
        return chosen

    def batch(self, indices: list[int]) -> Batch:
        """Image float32 in [0, 1] (channels last in memory), label, image_path, and mask, category and group if the set has them.

        Raises:
            ShapeError: images of different sizes, or one too small for the crop.
            ImageReadError: an image or mask cannot be read.
            DatasetError: the mask of a normal image marks pixels.
            ConfigError: a step cannot work on an image.
        """
        items = [self.items[index % len(self)] for index in indices]
        images, masks = zip(*(self._read(index) for index in indices), strict=True)
        for item, image in zip(items, images, strict=True):
            if image.shape != images[0].shape:
                raise ShapeError(
                    f"'{items[0].path}' is {images[0].shape[:2]} and '{item.path}' is {image.shape[:2]} (H, W). "
                    "Set image_size, so that images can share a batch."
                )
        batch: Batch = {
            "image": as_image(np.stack(images)),
            "label": torch.tensor([item.label for item in items]),
            "image_path": [str(item.path) for item in items],
        }
        if items[0].category:
            batch["category"] = [item.category for item in items]
        if self.has_groups:
            batch["group"] = torch.tensor([item.group for item in items])
        if self.masks:
            blank = np.zeros(images[0].shape[:2], np.uint8)
            stacked = np.stack([blank if mask is None else mask for mask in masks])
            batch["mask"] = torch.from_numpy(stacked).unsqueeze(1).bool()
        return batch

    def _read(self, index: int) -> tuple[Pixels, Pixels | None]:
        item = self.items[index % len(self)]
        image = self.preparation.read(item.path)
        mask = item.read_mask(image.shape[:2], self.preparation.exif) if self.masks else None
        seed_parts = (self.seed, getattr(self, "epoch", 0), index)
        return self.preparation.with_mask(image, mask, seed_parts=seed_parts, source=f"'{item.path}'")


class ImageFileModule(ImageDataModule):
    """Data module on image files: a data set writes ``read``, which says what belongs where.

    Masks are given if every anomalous test image has one; otherwise pixel truth would be wrong for the others.

    Args:
        image_size: Height and width in pixels after resizing, one number for both; None keeps the size.
        center_crop: Height and width cut out after resizing.
        channels: 3 for RGB, 1 for grey.
        bit_depth: How many bits the values of images of more than 8 bits use, 8 to 16; ``auto`` takes as many as the
            brightest training pixel needs. The number is kept in checkpoints.
        exif: ``apply`` turns pictures with a rotation mark (EXIF) upright; ``ignore`` takes them as they are stored.
        transform: Steps of albumentations or torchvision v2 for all images after resizing, such as ``{class: Equalize, p: 1}``.
        train_transform: Further steps for training images alone.
        train_batch_size: Images per training step and process.
        eval_batch_size: Images per validation, test or predict step and process.
        num_workers: Loader processes; 0 loads in the main process.
        seed: Decides every split and the order of training images.
        num_anomalous: Anomalous test images that move into training, labelled 1, kinds of defects in turn; fewer are always among more.
            Methods that train on normal images alone leave them out.
        anomalous_list: File that names them, one a line, in place of ``num_anomalous``.
        anomalous_types: Kinds of defects that they are drawn from; null for all.
        anomalous_seed: Decides which are drawn, and nothing else.
        balanced: Training batches of as many anomalous as normal images, the anomalous ones drawn again and again; a number in (0, 1) is another
            share of anomalous images.
        validation: ``holdout`` keeps ``val_size`` training normals, and anomalies that are labelled but not for testing;
            ``augmented`` keeps the normals and adds a pseudo-anomaly of each, ``medmix`` a copy with lesions and their mask; ``test``
            validates on the test set; ``none``.
        val_size: Training normals held out for validation: a fraction, or a count if an integer.
    """

    frame: Frame | None = None
    """What a data set cuts out of all its images first."""

    trains_on_anomalies = False
    """Whether training images may be labelled anomalous: for methods that read the labels."""

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] | None = 256,
        center_crop: int | tuple[int, int] | None = None,
        channels: Literal[1, 3] = 3,
        bit_depth: Bits = "auto",
        exif: Exif = "apply",
        transform: list[Any] | None = None,
        train_transform: list[Any] | None = None,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        num_anomalous: int = 0,
        anomalous_list: str | None = None,
        anomalous_types: list[str | int] | None = None,
        anomalous_seed: int = 0,
        balanced: bool | float = False,
        validation: Validation = "holdout",
        val_size: int | float = 0.1,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed,
            num_anomalous=num_anomalous, anomalous_list=anomalous_list, anomalous_types=anomalous_types,
            anomalous_seed=anomalous_seed, balanced=balanced, validation=validation, val_size=val_size,
        )  # fmt: skip
        self.image_size: Size | None = image_size
        self.center_crop: Size | None = center_crop
        self.channels = channels
        self.bit_depth: Bits = bit_depth
        self.depth = BitDepth(bit_depth)
        self.exif: Exif = exif
        self.transform = transform or []
        self.train_transform = train_transform or []

    def read(self) -> Found:
        """Find all images, masks and labels.

        Raises:
            NotImplementedError: the data set does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define read().")

    def preparation(self) -> PicturePreparation:
        """How new pictures are read and prepared: as test images are."""
        return PicturePreparation(
            self._pipeline(self.transform),
            channels=self.channels,
            bits=self.depth.bits,
            exif=self.exif,
            frame=self.frame,
            seed=self.seed,
        )

    def _pipeline(self, steps: list[Any]) -> Pipeline:
        return Pipeline(image_size=self.image_size, center_crop=self.center_crop, steps=steps)

    def build(self) -> Splits:
        """Check the files and split them.

        Raises:
            DatasetError: a training image is anomalous, the mask of a normal one marks pixels, a mask has another size than its image, or
                an image is listed twice or in two splits.
            ImageReadError: a file is empty, truncated or no image.
            ShapeError: an image is too small for ``center_crop``.
            ConfigError: nothing is left for training.
        """
        found = self.read()
        evaluation, training = self._pipeline(self.transform), self._pipeline(self.transform + self.train_transform)
        self._check(found, evaluation)
        self.depth.look_at(*([item.path for item in items] for items in (found.train, found.val + found.test)))
        options: dict[str, Any] = {"channels": self.channels, "seed": self.seed, "depth": self.depth}
        options |= {"exif": self.exif, "frame": self.frame}

        def files(items: list[Item], *, masks: bool) -> ImageFiles:
            """An evaluation set."""
            return ImageFiles(items, pipeline=evaluation, masks=masks, **options)

        train, val = self._hold_out(found)
        masks = any(item.mask for item in found.test) and _all_masked(found.test)
        held: BatchedDataset | None = files(val, masks=masks and _all_masked(val)) if val else None
        if held is not None and self.validation in ("augmented", "medmix"):
            held = WithPseudoAnomalies(held, seed=self.seed, kind=self.validation)
        return Splits(
            ImageFiles(train, pipeline=training, training=True, **options),
            held,
            files(found.test, masks=masks),
        )

    def _hold_out(self, found: Found) -> tuple[list[Item], list[Item]]:
        """Training and validation items; normals that a data set keeps for validation make holding out needless."""
        normals = [item for item in found.val if not item.label]
        anomalies = [item for item in found.val if item.label]
        train = found.train
        if self.validation in ("test", "none"):
            return train, []
        if not normals:
            normals = [item for item in train if not item.label]
            kept, held = self.hold_out(len(normals))
            train = [normals[index] for index in kept] + [item for item in train if item.label]
            normals = [normals[index] for index in held]
        return train, normals + anomalies if self.validation == "holdout" else normals

    def check_moved(self, moved: Sequence[str], left: Sequence[str]) -> None:
        """Refuse one picture in two files, one of which would be trained on and the other tested."""
        check_leaks({"labelled": [Path(name) for name in moved], "test": [Path(name) for name in left]})

    def state_dict(self) -> dict[str, Any]:
        """What was decided over the training images, for checkpoints: evaluations go by it."""
        return {**super().state_dict(), **({"bit_depth": self.depth.decided} if self.depth.is_known else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go by what the run of a checkpoint has decided."""
        super().load_state_dict(state_dict)
        if "bit_depth" in state_dict:
            self.depth.take_over(state_dict["bit_depth"])

    def _loader(self, *args: Any, **options: Any) -> DataLoader[Any]:
        self.depth.bits()  # before workers start, which would each decide for themselves
        return super()._loader(*args, **options)

    def _check(self, found: Found, pipeline: Pipeline) -> None:
        for item in found.train:
            if item.label and not self.trains_on_anomalies:
                raise DatasetError(
                    f"'{item.path}' is anomalous, but one-class training takes normal images only. Move it to the test part."
                )
        parts = dict(zip(("training", "validation", "test"), found, strict=True))
        paths = {name: [item.path for item in items] for name, items in parts.items()}
        check_leaks(paths)
        require_once(paths)
        _tell_twins([path for part in paths.values() for path in part])
        everything = [item for items in found for item in items]
        masked = [item for item in everything if item.mask is not None]
        for item in masked:
            if item.mask == item.path:
                raise DatasetError(f"'{item.path}' is listed as its own mask. Give the file that marks its defects.")
        marked = [
            item.path
            for item in masked  # a soft map is resized to its image
            if not isinstance(item.rule, float) and item.check_mask(self.exif) > 1
        ]
        if marked and self.exif == "apply":
            rank_zero_warn(
                f"{len(marked)} of {len(masked)} images with masks have a rotation mark (EXIF), first '{marked[0]}': they are turned upright, "
                "and masks are taken to be drawn on the upright picture. Set exif: ignore if they were drawn on the stored one."
            )
        for item in masked:
            if not item.label:
                item.read_mask(None, self.exif)
        if pipeline.center_crop is not None and pipeline.image_size is None:
            for item in everything:
                pipeline.require_room(image_size(item.path, exif=self.exif), source=f"'{item.path}'")


def _tell_twins(paths: list[Path]) -> None:
    """Images of one name may be one picture in two formats, or two pictures."""
    first: dict[Path, Path] = {}
    pairs = [(twin, path) for path in paths if (twin := first.setdefault(path.with_suffix(""), path)) != path]
    if pairs:
        rank_zero_warn(
            f"'{pairs[0][0]}' and '{pairs[0][1]}' differ in their suffix alone ({len(pairs)} such pairs): if they are one picture, it counts "
            "twice. Delete one of them, unless they are two pictures."
        )


def _all_masked(items: list[Item]) -> bool:
    return all(item.mask is not None for item in items if item.label)

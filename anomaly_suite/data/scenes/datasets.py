"""Batches of driving scenes: whole ones for evaluation, crops with pasted outliers for training.

Axes: B batch, H and W pixels, h and w of a crop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anomaly_suite.contract import VOID, Batch
from anomaly_suite.data.batched_dataset import BatchedDataset
from anomaly_suite.data.preparation import as_image
from anomaly_suite.data.scenes.anomaly_mix import anomaly_mix
from anomaly_suite.data.scenes.crops import CropScenes
from anomaly_suite.data.scenes.cutouts import Cutouts
from anomaly_suite.data.scenes.labels import LabelTable, relabel
from anomaly_suite.data.scenes.scene_files import SceneSource
from anomaly_suite.data.transforms import Pixels
from anomaly_suite.errors import DatasetError, ShapeError


class EvaluationScenes(BatchedDataset):
    """Whole scenes in their own size.

    Args:
        source: The scenes.
        tables: ``target``, ``ood_mask`` or both, and what label numbers mean for each.
        region: Shape (H, W); outside of it ``ood_mask`` is 255. None is everywhere.
        masks: Numbers (H, W) of the ood mask of a scene, by its index, where they are not those of its label.
    """

    def __init__(
        self,
        source: SceneSource,
        *,
        tables: Mapping[str, LabelTable],
        region: npt.NDArray[np.bool_] | None = None,
        masks: Callable[[int], Pixels] | None = None,
    ) -> None:
        self.source = source
        self.tables = tables
        self.region = region
        self.masks = masks

    def __len__(self) -> int:
        return len(self.source.names)

    def batch(self, indices: list[int]) -> Batch:
        """Some scenes.

        Returns:
            ``image`` (B, 3, H, W), ``image_path``, ``label`` (B,), 1 if any pixel is anomalous, and ``target`` and ``ood_mask``
            (B, H, W) where there is a table for them; without any table no label either.

        Raises:
            ShapeError: scenes of two sizes.
            DatasetError: a number that the data set does not have, or a region or mask of another size.
        """
        images, labels = zip(*(self.source.read(index) for index in indices), strict=True)
        names = [self.source.names[index] for index in indices]
        _same_size(names, labels)
        batch: dict[str, Any] = {"image": as_image(np.stack(images)), "image_path": names}
        for key, table in self.tables.items():
            numbers = (
                [self._mask(index, label) for index, label in zip(indices, labels, strict=True)]
                if key == "ood_mask"
                else labels
            )
            mapped = [relabel(label, table, source=name) for label, name in zip(numbers, names, strict=True)]
            batch[key] = torch.from_numpy(np.stack(mapped))
        if not self.tables:
            return batch  # type: ignore[return-value] # nobody knows what is on them
        if "target" in batch:
            batch["target"] = batch["target"].long()
        anomalous = torch.zeros(len(indices), dtype=torch.long)
        if "ood_mask" in batch:
            if self.region is not None:
                batch["ood_mask"][:, ~_fitting(self.region, names[0], labels[0])] = VOID
            anomalous = (batch["ood_mask"] == 1).flatten(1).any(1).long()
        batch["label"] = anomalous
        return batch  # type: ignore[return-value] # keys come from the tables

    def _mask(self, index: int, label: Pixels) -> Pixels:
        if self.masks is None:
            return label
        mask = self.masks(index)
        if mask.shape != label.shape:
            raise DatasetError(
                f"the ood mask of '{self.source.names[index]}' is {mask.shape}, but its image is {label.shape} (H, W). "
                "Give the mask of this image: masks are never resized."
            )
        return mask


class OutlierMix(NamedTuple):
    """Training scenes with pasted outliers.

    Attributes:
        pool: Where objects come from.
        members: Numbers of the cut-outs that are used, shape (M,).
        number: Scenes with outliers in an epoch.
        single: Option of :func:`~anomaly_suite.data.scenes.anomaly_mix.anomaly_mix`, like the following.
        rescale: Smallest and largest factor for objects.
        road: Class on which objects stand.
    """

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
        """Some crops.

        Returns:
            ``image`` (B, 3, h, w), ``target`` (B, h, w) and ``image_path``, that of the background where outliers were pasted.

        Raises:
            ShapeError: without a crop size, scenes of two sizes.
            DatasetError: a number that the data set does not have.
        """
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
        return name, *self.crop(
            image, target, rng=rng, seed_parts=(self.seed, self.epoch, index, 1), source=f"'{name}'"
        )

    def drawn(self) -> npt.NDArray[np.int64]:
        """Cut-outs of this epoch, none twice unless the pool is too small.

        Returns:
            Shape (N,), N scenes with outliers in an epoch.
        """
        if self.mix is None:
            return np.empty(0, np.int64)
        order = np.random.default_rng((self.seed, self.epoch, 0, 2)).permutation(self.mix.members)
        return np.resize(order, self.mix.number)


def _fitting(region: npt.NDArray[np.bool_], name: str, label: Pixels) -> Tensor:
    if region.shape != label.shape:
        raise DatasetError(
            f"the region of interest is {region.shape}, but '{name}' is {label.shape} (H, W). Give one of its size."
        )
    return torch.from_numpy(region)


def _same_size(names: Sequence[str], values: Sequence[Any]) -> None:
    for name, value in zip(names, values, strict=True):
        if value.shape != values[0].shape:
            raise ShapeError(
                f"'{names[0]}' is {tuple(values[0].shape)} and '{name}' is {tuple(value.shape)} (H, W). "
                "Use a batch size of 1, or a crop_size in training."
            )

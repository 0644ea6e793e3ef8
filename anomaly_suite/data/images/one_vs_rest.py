"""The protocols in which one class of a classification data set is normal and the others are anomalous.

Axes: N images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.contract import Splits, Validation
from anomaly_suite.data.images.image_data import ImageDataModule
from anomaly_suite.data.images.image_set import BatchTransform, ImageSet
from anomaly_suite.data.transforms import Pipeline, Pixels
from anomaly_suite.errors import ConfigError, DatasetError, did_you_mean
from anomaly_suite.io.images import read_image

Protocol = Literal["official", "pooled_2to1"]
POOLED_ANOMALIES = 10_000  # test anomalies of the pooled protocol


class Pool(NamedTuple):
    """All images of a classification data set.

    ``image`` uint8 (N, C, H, W); ``target`` class index (N,); ``is_train`` bool (N,), False in the published test part.
    """

    image: Tensor
    target: npt.NDArray[np.int64]
    is_train: npt.NDArray[np.bool_]


class OneVsRestSplit(NamedTuple):
    """Sorted positions in a pool; ``spare`` are anomalies in neither part."""

    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    spare: npt.NDArray[np.int64]


def one_vs_rest(
    target: npt.NDArray[np.int64],
    is_train: npt.NDArray[np.bool_],
    normal: int,
    *,
    protocol: Protocol,
    seed: int,
) -> OneVsRestSplit:
    """Split a classification data set into training normals and a test part.

    Args:
        target: Class index of every image, shape (N,).
        is_train: Whether the image is in the published training part, shape (N,).
        normal: The class that is normal; all others are anomalous.
        protocol: ``official`` trains on the normal class of the training part and tests on the whole test part (Ruff et
            al., ICML 2018). ``pooled_2to1`` shuffles all normal images, trains on 2/3, tests on the rest and on 10,000
            others, from the test part as far as it has them (Tian thesis 2.4, which leaves that last choice open).
        seed: Decides the shuffles of ``pooled_2to1``.

    Returns:
        Positions in ``target``, each of shape (N,) with its own N.
    """
    is_normal = target == normal
    if protocol == "official":
        masks = (is_normal & is_train, ~is_train, ~is_normal & is_train)
        return OneVsRestSplit(*(np.flatnonzero(mask) for mask in masks))
    rng = np.random.default_rng(seed)
    normals = rng.permutation(np.flatnonzero(is_normal))
    others = np.concatenate(
        [rng.permutation(np.flatnonzero(~is_normal & (is_train == part))) for part in (False, True)]
    )
    count = round(len(normals) * 2 / 3)
    test = np.concatenate([normals[count:], others[:POOLED_ANOMALIES]])
    return OneVsRestSplit(*(np.sort(part) for part in (normals[:count], test, others[POOLED_ANOMALIES:])))


class OneVsRest(ImageDataModule):
    """One class of a classification data set is normal, the others are anomalous; a data set writes ``load``.

    ``image_path`` says ``<class index>/<position>``, the position counted over training part, then test part. In
    ``holdout`` the validation set holds normals only: other classes are unknown to a one-class method.

    Args:
        normal_class: Index or name of the normal class.
        protocol: ``official``: the class's training part against the whole test part; ``pooled_2to1``: 2/3 of all its
            images against the rest and 10,000 others.
        train_fraction: Seeded share of the training normals that is used, in (0, 1]; smaller shares lie inside larger
            ones. Validation images are held out of it.
        contamination: Share of the training set, in [0, 1), that is anomalous images labelled normal. They come from
            outside the test set; if all others are in it, they leave it. The held-out normals stay clean.
        image_size: Side of the images in pixels; None keeps the original.
        pad: Reach ``image_size`` by a black margin instead of bilinear interpolation.
        train_transform: Random transform of training batches, ``(image, generator) -> image``.
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

    Raises:
        ConfigError: an option is out of range or the class is not known.
    """

    classes: tuple[str, ...]

    picture_shape: tuple[Literal[1, 3], int, int] | None = None
    """Channels, height and width of the published images; None where only ``load`` knows."""

    def __init__(
        self,
        *,
        normal_class: int | str = 0,
        protocol: Protocol = "official",
        train_fraction: float = 1.0,
        contamination: float = 0.0,
        image_size: int | None = None,
        pad: bool = False,
        train_transform: BatchTransform | None = None,
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
        self.normal_class = self._class_index(normal_class)
        self.protocol = protocol
        self.train_fraction = train_fraction
        self.contamination = contamination
        self.image_size = image_size
        self.pad = pad
        self.train_transform = train_transform

    def load(self) -> Pool:
        """Read all images.

        Raises:
            NotImplementedError: the data set does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define load().")

    def preparation(self) -> _TensorPreparation:
        """New pictures are brought to the size of the published ones, then resized as those are."""
        channels, height, width = self.picture_shape or self.load().image.shape[1:]
        size = self.image_size
        second = (
            []
            if size in (None, width)
            else [("pad", (size, size)) if self.pad else ("resize", (size, size), "antialias")]
        )
        return _TensorPreparation(channels, (height, width), self._resized, second)  # type: ignore[arg-type] # 1 or 3

    def build(self) -> Splits:
        """Apply protocol, fraction, contamination and validation mode.

        Raises:
            ConfigError: the fraction, the contamination or the size does not fit the images.
            DatasetError: the normal class has no training image.
        """
        pool = self.load()
        split = one_vs_rest(pool.target, pool.is_train, self.normal_class, protocol=self.protocol, seed=self.seed)
        if len(split.train) == 0:
            raise DatasetError(
                f"{type(self).__name__} has no training image of class {self.classes[self.normal_class]!r}. "
                "Choose another normal_class or complete the files."
            )
        rng = np.random.default_rng((self.seed, 1))
        count = max(1, round(self.train_fraction * len(split.train)))
        normals = np.sort(rng.permutation(split.train)[:count])
        kept, held = self.hold_out(len(normals))
        foreign = self._contaminants(pool, split, len(kept), rng)

        def subset(rows: npt.NDArray[np.int64], label: npt.NDArray[np.bool_], **options: Any) -> ImageSet:
            """Images at these positions of the pool, shape (N,), with labels of the same shape."""
            return ImageSet(
                image=self._resized(pool.image[torch.from_numpy(rows)]),
                label=torch.from_numpy(label.astype(np.int64)),
                names=[f"{pool.target[row]}/{row:05d}" for row in rows],
                kinds=[self.classes[pool.target[row]] for row in rows],
                seed=self.seed,
                **options,
            )

        train_rows = np.concatenate([normals[kept], foreign])
        train = subset(train_rows, np.zeros(len(train_rows), bool), transform=self.train_transform)
        test_rows = np.setdiff1d(split.test, foreign)
        test = subset(test_rows, pool.target[test_rows] != self.normal_class)
        val = subset(normals[held], np.zeros(len(held), bool)) if held else None
        if val is not None and self.validation in ("augmented", "medmix"):
            val = val.with_pseudo_anomalies(self.seed, self.validation)
        return Splits(train, val, test)

    def _contaminants(
        self, pool: Pool, split: OneVsRestSplit, normals: int, rng: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """Anomalies that join ``normals`` training images to make up the wanted share."""
        count = round(self.contamination / (1 - self.contamination) * normals)
        source, available = split.spare, len(split.spare)
        if available == 0:
            source = split.test[pool.target[split.test] != self.normal_class]
            available = max(0, len(source) - 1)  # the test set keeps at least one
        if count > available:
            raise ConfigError(
                f"contamination={self.contamination} needs {count} anomalous images beside {normals} normal ones; "
                f"{type(self).__name__} can give {available}. Lower contamination or train_fraction."
            )
        return np.sort(rng.permutation(source)[:count])

    def _class_index(self, wanted: int | str) -> int:
        if wanted in self.classes:
            return self.classes.index(str(wanted))
        if isinstance(wanted, Integral) and 0 <= wanted < len(self.classes):
            return int(wanted)
        raise ConfigError(
            f"normal_class of {type(self).__name__} must be 0 to {len(self.classes) - 1} or one of "
            f"{', '.join(self.classes)}; got {wanted!r}.{did_you_mean(str(wanted), self.classes)}"
        )

    def _resized(self, image: Tensor) -> Tensor:
        size, side = self.image_size, image.shape[-1]
        if size is None or size == side:
            return image
        if self.pad:
            if size < side:
                raise ConfigError(f"pad cannot shrink images of {side} px to image_size={size}. Use pad: false.")
            before, after = (size - side) // 2, (size - side + 1) // 2
            return F.pad(image, (before, after, before, after))
        parts = [
            F.interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True)
            .round_()
            .clamp_(0, 255)
            .byte()
            for part in torch.split(image, 4096)  # bounds the float copy
        ]
        return torch.cat(parts)


class _TensorPreparation:
    """See :meth:`OneVsRest.preparation`.

    Args:
        channels: 3 for RGB, 1 for grey.
        size: Height and width of the published images.
        resized: From (N, C, H, W) to the size of the network.
        second: What that does, see :meth:`graph_steps`.
    """

    def __init__(
        self,
        channels: Literal[1, 3],
        size: tuple[int, int],
        resized: Callable[[Tensor], Tensor],
        second: list[tuple[Any, ...]],
    ) -> None:
        self.channels = channels
        self._pipeline = Pipeline(image_size=size, center_crop=None, steps=())
        self._size, self._resized, self._second = size, resized, second

    def graph_steps(self) -> list[tuple[Any, ...]]:
        """See :meth:`~anomaly_suite.data.preparation.PicturePreparation.graph_steps`; also ``("pad", (h, w))``."""
        return [("resize", self._size, "opencv"), *self._second]

    def read(self, path: Path) -> Pixels:
        """Decode a file, shape (H, W, channels)."""
        return read_image(path, channels=self.channels)

    def __call__(self, picture: Pixels, *, source: str) -> Pixels:
        """Resize."""
        picture = self._pipeline(picture, None, seed_parts=(), source=source)[0].reshape(
            *self._pipeline.image_size or (), self.channels
        )
        return self._resized(torch.from_numpy(picture).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()

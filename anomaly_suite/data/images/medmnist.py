"""MedMNIST: small medical images, normal ones against those with a finding, or one class against the others.

Yang et al., "MedMNIST v2", Scientific Data 2023. One file a set, ``<root>/<flag>.npz`` of 28 pixels or ``<flag>_<size>.npz``, with
``{train,val,test}_images`` uint8 (N, S, S) or (N, S, S, 3) and ``{train,val,test}_labels`` (N, L). No protocol for one-class use is
published. Axes: N images, S pixels a side, L labels, C channels.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from anomaly_suite.contract import Splits, Validation
from anomaly_suite.data.images.image_data import ImageDataModule
from anomaly_suite.data.images.image_set import BatchTransform, ImageSet
from anomaly_suite.data.preparation import PicturePreparation
from anomaly_suite.data.transforms import Pipeline
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import data_root, find_root

Flag = Literal[
    "pneumoniamnist",
    "octmnist",
    "breastmnist",
    "chestmnist",
    "retinamnist",
    "pathmnist",
    "dermamnist",
    "bloodmnist",
    "tissuemnist",
    "organamnist",
    "organcmnist",
    "organsmnist",
]
Size = Literal[28, 64, 128, 224]
PARTS = ("train", "val", "test")


class Published(NamedTuple):
    """Images of the three parts, channels, classes (findings, where an image may have several), md5 of 28 pixels, and the normal class."""

    counts: tuple[int, int, int]
    channels: Literal[1, 3]
    classes: int
    md5: str
    normal: int | None = None


NO_FINDING = -1  # the normal class of ChestMNIST: none of its 14 findings
SETS = {
    "pneumoniamnist": Published((4708, 524, 624), 1, 2, "28209eda62fecd6e6a2d98b1501bb15f", 0),
    "octmnist": Published((97477, 10832, 1000), 1, 4, "c68d92d5b585d8d81f7112f81e2d0842", 3),
    "breastmnist": Published((546, 78, 156), 1, 2, "750601b1f35ba3300ea97c75c52ff8f6", 1),  # 0 is malignant
    "chestmnist": Published((78468, 11219, 22433), 1, 14, "02c8a6516a18b556561a56cbdd36c4a8", NO_FINDING),
    "retinamnist": Published((1080, 120, 400), 3, 5, "bd4c0672f1bba3e3a89f0e4e876791e4", 0),
    "pathmnist": Published((89996, 10004, 7180), 3, 9, "a8b06965200029087d5bd730944a56c1", 6),  # normal mucosa
    "dermamnist": Published((7007, 1003, 2005), 3, 7, "0744692d530f8e62ec473284d019b0c7", 5),  # naevi
    "bloodmnist": Published((11959, 1712, 3421), 3, 8, "7053d0359d879ad8a5505303e11de1dc"),
    "tissuemnist": Published((165466, 23640, 47280), 1, 8, "ebe78ee8b05294063de985d821c1c34b"),
    "organamnist": Published((34561, 6491, 17778), 1, 11, "68e3f8846a6bd62f0c9bf841c0d9eacc"),
    "organcmnist": Published((12975, 2392, 8216), 1, 11, "b9ceb9546e10131b32923c5bbeaea2b1"),
    "organsmnist": Published((13932, 2452, 8827), 1, 11, "9ab87b696fb54e2a387ebe992d6ed5f1"),
}


class MedMNIST(ImageDataModule):
    """MedMNIST: one normal class of a medical set of small images against all others, on its fixed parts.

    Trains on the normal images of ``train``; ``validation: holdout`` takes ``val`` with both labels, the test is all of ``test``. Figures of one
    size do not stand beside those of another. OCTMNIST is made of OCT2017 and ChestMNIST of ChestX-ray14. The sets of three dimensions are
    not read. Licence: CC BY 4.0, DermaMNIST CC BY-NC 4.0.

    Args:
        root: Folder of the ``.npz`` files; by default ``$ANOMALY_SUITE_DATA/medmnist``, or ``data/medmnist`` where the variable is not set.
        flag: Which set.
        size: Pixels a side of the published images.
        normal_class: Number of the normal class; null takes the healthy one, which blood, tissue and organs do not have.
        download: Fetch a missing file with the package ``medmnist`` (``pip install 'anomaly-suite[medmnist]'``); reading needs no package.
        subset: Use a file with other counts than the published ones, and say so; otherwise that is an error.
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
        validation: ``holdout`` takes the part ``val``; ``augmented`` its normal images and a pseudo-anomaly of each, ``medmix`` a copy with
            lesions and their mask; ``test`` validates on the test set; ``none``.
        val_size: Not used, since there is a part for validation.

    Raises:
        ConfigError: a set, size or class that there is not, or the package is missing.
        DatasetNotFoundError: the file is not there.
        DatasetError: the file is damaged, or not the published one.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        flag: Flag = "pneumoniamnist",
        size: Size = 28,
        normal_class: int | None = None,
        download: bool = False,
        subset: bool = False,
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
        published = SETS[flag]
        self.normal = published.normal if normal_class is None else normal_class
        known = range(0 if flag == "chestmnist" else published.classes)
        if self.normal is None or (normal_class is not None and normal_class not in known):
            wanted = "null (no finding)" if flag == "chestmnist" else f"0 to {published.classes - 1}"
            raise ConfigError(
                f"normal_class of {flag} must be {wanted}; got {normal_class}. Choose the class that is normal."
            )
        self.root = data_root(root, "medmnist")
        self.flag = flag
        self.size = size
        self.normal_class = normal_class
        self.download = download
        self.subset = subset
        self.train_transform = train_transform

    @property
    def file(self) -> Path:
        """Where the set is."""
        return self.root / (f"{self.flag}.npz" if self.size == 28 else f"{self.flag}_{self.size}.npz")

    def prepare_data(self) -> None:
        """Download a missing file, in one process.

        Raises:
            ConfigError: the package is missing.
            DatasetNotFoundError: the file could not be fetched.
        """
        if not self.download or self.file.is_file():
            return
        try:
            import medmnist
        except ImportError as error:
            raise ConfigError(
                f"download: true needs the package medmnist, which is not installed. Run pip install 'anomaly-suite[medmnist]', or put the file "
                f"'{self.file}' there."
            ) from error
        self.root.mkdir(parents=True, exist_ok=True)
        kind = getattr(medmnist, medmnist.INFO[self.flag]["python_class"])
        try:
            kind(split="test", download=True, size=self.size, root=str(self.root))
        except (RuntimeError, OSError) as error:
            raise DatasetNotFoundError(
                f"MedMNIST expects '{self.file}', which could not be fetched ({' '.join(str(error).split())[:80]}). Put the file from Zenodo there."
            ) from error

    def preparation(self) -> PicturePreparation:
        """New pictures are resized to the size of this set's."""
        return PicturePreparation(
            Pipeline(image_size=self.size, center_crop=None, steps=()), channels=SETS[self.flag].channels
        )

    def build(self) -> Splits:
        """Read the file and take normal training images, validation and test part.

        Raises:
            DatasetNotFoundError: the file is not there.
            DatasetError: it is damaged, or not the published one.
        """
        self.prepare_data()
        find_root(
            self.root,
            dataset="MedMNIST",
            is_root=lambda folder: (folder / self.file.name).is_file(),
            layout=f"the file {self.file.name}",
            obtain="Set download: true, or put the file from Zenodo there.",
        )
        train, val, test = (self._images(images, targets, part) for part, (images, targets) in self._read().items())
        normal = torch.nonzero(train.label == 0).flatten()
        if len(normal) == 0:
            raise DatasetError(
                f"'{self.file}' has no training image of class {self.normal}. Choose another normal_class."
            )
        names = [train.names[index] for index in normal.tolist()]
        kept = ImageSet(
            image=train.image[normal],
            label=train.label[normal],
            names=names,
            transform=self.train_transform,
            seed=self.seed,
            kinds=[train.kinds[index] for index in normal.tolist()],
        )
        held: ImageSet | None = val if self.validation == "holdout" else None
        if self.validation in ("augmented", "medmix"):
            rows = torch.nonzero(val.label == 0).flatten()
            clean = ImageSet(
                image=val.image[rows], label=val.label[rows], names=[val.names[row] for row in rows.tolist()]
            )
            held = clean.with_pseudo_anomalies(self.seed, self.validation)
        return Splits(kept, held, test)

    def _read(self) -> dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
        """Images (N, S, S) or (N, S, S, 3) and labels (N, L) of the parts, checked."""
        published = SETS[self.flag]
        try:
            with np.load(self.file, allow_pickle=False) as arrays:
                found = {part: (arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in PARTS}
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise DatasetError(
                f"'{self.file}' is damaged or no file of MedMNIST ({error}). Delete it and fetch it again."
            ) from error
        shape = (self.size, self.size) + ((3,) if published.channels == 3 else ())
        width = published.classes if self.flag == "chestmnist" else 1
        highest = 1 if self.flag == "chestmnist" else published.classes - 1
        for part, (images, labels) in found.items():
            if (
                images.shape[1:] != shape
                or images.dtype != np.uint8
                or labels.shape != (len(images), width)
                or labels.dtype.kind not in "iu"
            ):
                raise DatasetError(
                    f"{part} of '{self.file}' must hold uint8 images of {shape} and as many whole labels of {width}; got {images.dtype} "
                    f"{images.shape} and {labels.dtype} {labels.shape}. Delete the file and fetch it again."
                )
            if labels.size and not 0 <= labels.min() <= labels.max() <= highest:
                raise DatasetError(
                    f"{part} of '{self.file}' must have labels of 0 to {highest}; got {labels.min()} to {labels.max()}. Delete the file and fetch it again."
                )
        counts = tuple(len(images) for images, _ in found.values())
        self._check_published(counts)
        return {part: (images, labels.astype(np.int64)) for part, (images, labels) in found.items()}

    def _check_published(self, counts: tuple[int, ...]) -> None:
        published = SETS[self.flag]
        self.dataset_version = (
            f"{self.flag}, {self.size} px, normal class {'none of 14' if self.normal == NO_FINDING else self.normal}"
        )
        if counts != published.counts:
            told = f"train, val and test {counts} of {published.counts}"
            if not self.subset:
                raise DatasetError(
                    f"MedMNIST expects the published number of images in '{self.file}'; found {told}. Fetch the file again, or set subset: true."
                )
            self.dataset_version += f"; subset ({told})"
        elif self.size == 28 and (md5 := _md5(self.file)) != published.md5:
            raise DatasetError(
                f"the md5 of '{self.file}' must be {published.md5}; got {md5}. Delete the file and fetch it again."
            )

    def _images(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], part: str) -> ImageSet:
        """One part, label 1 for what is not of the normal class."""
        anomalous = labels.any(1) if self.normal == NO_FINDING else labels[:, 0] != self.normal
        image = torch.from_numpy(images)
        image = image.unsqueeze(1) if image.ndim == 3 else image.permute(0, 3, 1, 2).contiguous()  # (N, C, S, S)
        classes = (
            ["+".join(map(str, np.flatnonzero(row))) or "none" for row in labels]
            if self.normal == NO_FINDING
            else labels[:, 0].tolist()
        )
        names = [f"{part}/{name}/{row:06d}" for row, name in enumerate(classes)]
        label = torch.from_numpy(anomalous.astype(np.int64))
        return ImageSet(image=image, label=label, names=names, kinds=list(map(str, classes)))


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        digest: Any = hashlib.md5(usedforsecurity=False)
        while block := stream.read(1 << 20):
            digest.update(block)
    return str(digest.hexdigest())

"""MedIAnomaly: seven medical sets with fixed lists of training and test images.

Cai et al., "MedIAnomaly: A comparative study of anomaly detection in medical images", Medical Image Analysis 2025; code
caiyu6666/MedIAnomaly. One folder a set, as published in ``MedIAnomaly-Data``: ``images`` and ``data.json``; ISIC 2018 with its tables;
Camelyon16 and BraTS 2021 in folders of their labels.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from anomaly_suite.contract import Validation
from anomaly_suite.data.images.benchmark_images import BenchmarkImages, require_known
from anomaly_suite.data.images.bit_depth import Bits
from anomaly_suite.data.images.image_files import Found, Item
from anomaly_suite.data.images.label_lists import read_label_lists
from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import (
    by_name,
    data_root,
    find_root,
    image_files,
    pair_masks,
    require_files,
    require_images,
    subfolders,
)
from anomaly_suite.io.image_headers import Exif
from anomaly_suite.io.rows import read_rows

Dataset = Literal["RSNA", "VinCXR", "BrainTumor", "LAG", "ISIC2018", "Camelyon16", "BraTS2021"]

PUBLISHED = {  # training, normal and anomalous test images
    "RSNA": (3851, 1000, 1000),
    "VinCXR": (4000, 1000, 1000),
    "BrainTumor": (1000, 600, 600),
    "LAG": (1500, 811, 811),
    "ISIC2018": (6705, 909, 603),
    "Camelyon16": (5088, 1120, 1113),
    "BraTS2021": (4211, 828, 1948),
}
FOLDERS = {"ISIC2018": "ISIC2018_Task3"}  # where it is not the name


class MedIAnomaly(BenchmarkImages):
    """MedIAnomaly: RSNA, VinDr-CXR, Brain Tumour, LAG, ISIC 2018, Camelyon16 and BraTS 2021, the last with masks.

    There is no validation part: with ``validation: holdout`` training normals serve. RSNA is a part of ChestX-ray14, and BMAD has Camelyon16
    and BraTS 2021 too, so one is no external test of the other. Its code reads images at 64 x 64, grey but for Camelyon16.

    Args:
        root: Folder with the folders of the sets; by default ``$ANOMALY_SUITE_DATA/medianomaly``, or ``data/medianomaly`` where the
            variable is not set.
        dataset: Which set.
        subset: Use a copy with other counts than the published ones, and say so; otherwise that is an error.
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

    Raises:
        ConfigError: the set is not known.
        DatasetNotFoundError: root, a folder or a listed file is missing.
        DatasetError: counts are not the published ones, a label is not known, a mask is missing, or lists and files do not fit together.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        dataset: Dataset = "RSNA",
        subset: bool = False,
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
            subset=subset, image_size=image_size, center_crop=center_crop, channels=channels, bit_depth=bit_depth,
            exif=exif, transform=transform, train_transform=train_transform, train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed, num_anomalous=num_anomalous,
            anomalous_list=anomalous_list, anomalous_types=anomalous_types, anomalous_seed=anomalous_seed,
            balanced=balanced, validation=validation, val_size=val_size,
        )  # fmt: skip
        self.root = data_root(root, "medianomaly")
        self.dataset = dataset

    def find(self) -> Found:
        """Training and test images of the set.

        Raises:
            DatasetNotFoundError: root, a folder or a listed file is missing.
            DatasetError: see the class.
        """
        name = FOLDERS.get(self.dataset, self.dataset)
        find_root(
            self.root,
            dataset="MedIAnomaly",
            is_root=lambda folder: (folder / name).is_dir(),
            layout=f"the folder {name}",
            obtain="MedIAnomaly-Data is on Zenodo, one archive a set; ISIC 2018 comes from the ISIC archive (task 3).",
        )
        folder = self.root / name
        readers = {"ISIC2018": self._isic, "Camelyon16": self._camelyon, "BraTS2021": self._brats}
        found = readers.get(self.dataset, self._listed)(folder)
        self.say(self.dataset)
        anomalous = sum(item.label for item in found.test)
        counts = (len(found.train), len(found.test) - anomalous, anomalous)
        parts = ("train", "test normal", "test anomalous")
        self.require_counts(
            dict(zip(parts, counts, strict=True)), dict(zip(parts, PUBLISHED[self.dataset], strict=True))
        )
        return found

    def _listed(self, folder: Path) -> Found:
        file = folder / "data.json"
        _require_list(file)
        lists = read_label_lists(file)
        files = by_name(
            require_images(folder / "images", dataset="MedIAnomaly"),
            lambda path: path.name,
            what="images of one name",
            advice="Delete the wrong one.",
        )
        train, normal, anomalous = (self.listed(names, files, source=f"'{file}'") for names in lists)
        return _found(train, normal, [Item(path, 1) for path in anomalous])

    def _isic(self, folder: Path) -> Found:
        train, test = (_isic_part(folder, part, subset=self.subset) for part in ("Training", "Test"))
        return Found([item for item in train if not item.label], [], test)

    def _camelyon(self, folder: Path) -> Found:
        known = {"train": ("good",), "test": ("good", "Ungood")}
        for part, labels in known.items():
            require_known(
                (path.name for path in subfolders(folder / part)), labels, what=f"a folder in '{folder / part}'"
            )
        places = ("train/good", "test/good", "test/Ungood")
        train, normal, anomalous = (require_images(folder / place, dataset="MedIAnomaly") for place in places)
        return _found(train, normal, [Item(path, 1) for path in anomalous])

    def _brats(self, folder: Path) -> Found:
        kinds = ("normal", "tumor", "annotation")
        require_known(
            (path.name for path in subfolders(folder / "test")), kinds, what=f"a folder in '{folder / 'test'}'"
        )
        places = ("train", "test/normal", "test/tumor")
        train, normal, tumor = (require_images(folder / place, dataset="MedIAnomaly") for place in places)
        annotation = folder / "test" / "annotation"
        masks = pair_masks(annotation, {path: [path.stem.replace("flair", "seg")] for path in tumor})
        bare = [path for path in tumor if path not in masks]
        if bare:
            wanted = annotation / bare[0].name.replace("flair", "seg")
            raise DatasetError(
                f"'{bare[0]}' has no mask; looked for '{wanted}' ({len(bare)} images without a mask). Complete the folder annotation."
            )
        return _found(train, normal, [Item(path, 1, masks[path], defect="tumor", rule="positive") for path in tumor])


def _found(train: list[Path], normal: list[Path], anomalous: list[Item]) -> Found:
    return Found([Item(path) for path in train], [], [Item(path) for path in normal] + anomalous)


def _require_list(file: Path) -> None:
    """Check that a list of images is there.

    Raises:
        DatasetNotFoundError: it is not.
    """
    if not file.is_file():
        raise DatasetNotFoundError(
            f"MedIAnomaly expects the list '{file}', which does not exist. Unpack the published archive again."
        )


def _isic_part(folder: Path, part: str, *, subset: bool) -> list[Item]:
    """Images of one part with labels: a naevus (NV) is normal."""
    name = f"ISIC2018_Task3_{part}"
    table = folder / f"{name}_GroundTruth" / f"{name}_GroundTruth.csv"
    _require_list(table)
    listed = [row.values for row in read_rows(table, ("image", "nv"))]
    rows = {row["image"]: row["nv"] for row in listed}
    if twice := [name for name, count in Counter(row["image"] for row in listed).items() if count > 1]:
        raise DatasetError(
            f"'{table}' lists {twice[0]!r} more than once ({len(twice)} such images). Restore the published table."
        )
    require_known((value.removesuffix(".0") for value in rows.values()), ("0", "1"), what=f"a value of NV in '{table}'")
    where = folder / f"{name}_Input"
    images = {path.stem: path for path in image_files(where)}
    unlisted = sorted(images.keys() - rows.keys())
    if unlisted:
        raise DatasetError(
            f"'{images[unlisted[0]]}' has no row in '{table}' ({len(unlisted)} such images). Restore the published table."
        )
    if not subset:
        require_files((images.get(stem, where / f"{stem}.jpg") for stem in rows), source=f"'{table}'")
    return [Item(images[stem], int(float(value) == 0)) for stem, value in rows.items() if stem in images]

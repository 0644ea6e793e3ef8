"""Liu et al.'s colonoscopy frames, and sets like it: normal frames against polyps, one-class or with a few labelled polyps.

Liu et al., "Photoshopping Colonoscopy Video Frames", ISBI 2020; few-shot: Tian et al., "Few-Shot Anomaly Detection for Polyp Frames from
Colonoscopy", MICCAI 2020. The set is not public. Layout: ``<root>/train/normal``, ``train/abnormal`` (the pool of labelled polyps),
``val/normal|abnormal``, ``test/normal|abnormal`` and perhaps ``patients.csv``; the training part may also be as the released code has it,
``train/train_set/normal_<n>`` and ``train/abnormal_<K>/<word>_<n>``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from anomaly_suite.contract import Validation
from anomaly_suite.data.images.benchmark_images import BenchmarkImages, ThresholdSet, shared_patients
from anomaly_suite.data.images.bit_depth import Bits
from anomaly_suite.data.images.image_files import Found, Item
from anomaly_suite.errors import ConfigError, DatasetError
from anomaly_suite.io.folders import data_root, find_root, image_files, require_images, subfolders
from anomaly_suite.io.image_headers import Exif
from anomaly_suite.io.images import image_size as size_of
from anomaly_suite.io.rows import read_rows

Variant = Literal["one_class", "few_shot"]

PUBLISHED = {
    "one_class": {"train": 13250, "val normal": 100, "val abnormal": 0, "test normal": 677, "test abnormal": 290},
    "few_shot": {"train": 13250, "val normal": 100, "val abnormal": 100, "test normal": 700, "test abnormal": 217},
}
SIDE = 64  # pixels of the published frames


class LiuColonoscopy(BenchmarkImages):
    """Colonoscopy frames of Liu et al. or a set like it: one-class, or few-shot with labelled polyps in training.

    The few-shot variant is for methods that read the labels of training images: others leave the polyps out.

    Args:
        root: Folder with ``train``, ``val`` and ``test``; by default ``$ANOMALY_SUITE_DATA/liu_colonoscopy``, or ``data/liu_colonoscopy`` where
            the variable is not set.
        variant: ``one_class`` trains on normal frames; ``few_shot`` on ``shots`` polyps, too.
        shots: Polyps of the pool that the seed draws for training; fewer are always among more. Published are 10 to 80.
        strict_counts: Refuse a set with other counts than the published ones; otherwise they are said.
        threshold_set: Validation images of ``holdout``, drawn from the test part by the seed: ``apart`` takes them out of it; ``leaky`` leaves
            them in it, as the thesis does, which every result file then says; ``none`` draws none and holds out training normals.
        threshold_images: How many of them of each label.
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
        ConfigError: an option is not known or does not fit the images.
        DatasetNotFoundError: root or a folder is missing.
        DatasetError: counts are not the published ones, a file's name does not say its label, or an image or patient is in two parts.
    """

    root: Path
    takes_less = "strict_counts: false"

    def __init__(
        self,
        *,
        root: str | None = None,
        variant: Variant = "one_class",
        shots: int = 10,
        strict_counts: bool = False,
        threshold_set: ThresholdSet = "apart",
        threshold_images: int = 50,
        image_size: int | tuple[int, int] | None = 64,
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
            subset=not strict_counts, threshold_set=threshold_set, threshold_images=threshold_images,
            image_size=image_size, center_crop=center_crop, channels=channels, bit_depth=bit_depth, exif=exif,
            transform=transform, train_transform=train_transform, train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed, num_anomalous=num_anomalous,
            anomalous_list=anomalous_list, anomalous_types=anomalous_types, anomalous_seed=anomalous_seed,
            balanced=balanced, validation=validation, val_size=val_size,
        )  # fmt: skip
        self.root = data_root(root, "liu_colonoscopy")
        self.variant = variant
        self.shots = shots
        self.strict_counts = strict_counts
        self._patients: dict[str, str] = {}
        self.trains_on_anomalies = variant == "few_shot" and shots > 0

    def find(self) -> Found:
        """The three parts, polyps for few-shot training drawn.

        Raises:
            ConfigError: the pool has too few polyps.
            DatasetNotFoundError: root or a folder is missing.
            DatasetError: see the class.
        """
        find_root(
            self.root,
            dataset="LiuColonoscopy",
            is_root=lambda folder: all((folder / part).is_dir() for part in ("train", "test")),
            layout="train and test",
            obtain="The set is not public: bring it, or frames of your own in its folders.",
        )
        normals, pool = self._training()
        val, test = (self._part(part) for part in ("val", "test"))
        counts = {"train": len(normals)}
        for part, items in {"val": val, "test": test}.items():
            counts[f"{part} abnormal"] = sum(item.label for item in items)
            counts[f"{part} normal"] = len(items) - counts[f"{part} abnormal"]
        self.require_counts(counts, PUBLISHED[self.variant])
        drawn = self._drawn_polyps(pool) if self.variant == "few_shot" else []
        self.say(f"{self.variant}, {len(drawn)} polyps in training")
        self._check_patients({"training": normals + pool, "validation": val, "test": test})
        if (size := size_of(test[0].path)) != (SIDE, SIDE):
            rank_zero_warn(
                f"LiuColonoscopy has frames of {SIDE} x {SIDE}; '{test[0].path}' is {size[0]} x {size[1]} (H x W). Its figures do not stand beside "
                "published ones."
            )
        return Found(normals + drawn, val, test)

    def _training(self) -> tuple[list[Item], list[Item]]:
        """Normal frames and the pool of polyps, in the folders of either layout."""
        train = self.root / "train"
        released = (train / "train_set").is_dir()
        paths = sorted(
            require_images(train / ("train_set" if released else "normal"), dataset="LiuColonoscopy"), key=_number
        )
        wrong = [path for path in paths if released and not path.name.startswith("normal")]
        if wrong:
            raise DatasetError(
                f"a file in '{train / 'train_set'}' must be named normal_<number>; got '{wrong[0].name}' ({len(wrong)} such files). Move it to a folder "
                "abnormal_<count>."
            )
        folders = [
            path for path in subfolders(train) if path.name == "abnormal" or re.fullmatch(r"abnormal_\d+", path.name)
        ]
        if released and len(folders) > 1:  # each has another draw
            folders = [path for path in folders if path.name == f"abnormal_{self.shots}"] or folders[-1:]
        pool = sorted((path for folder in folders for path in image_files(folder)), key=_number)
        normal = [path for path in pool if released and path.name.startswith("normal")]
        if normal:
            raise DatasetError(
                f"'{normal[0]}' is named as a normal frame, but lies among polyps ({len(normal)} such files). Move it to train_set."
            )
        return [Item(path) for path in paths], [Item(path, 1, defect="polyp") for path in pool]

    def _part(self, part: str) -> list[Item]:
        folders = {label: self.root / part / label for label in ("normal", "abnormal")}
        if part == "test":
            images = {label: require_images(folder, dataset="LiuColonoscopy") for label, folder in folders.items()}
        else:
            images = {label: image_files(folder) for label, folder in folders.items()}
        return [Item(path) for path in images["normal"]] + [
            Item(path, 1, defect="polyp") for path in images["abnormal"]
        ]

    def _drawn_polyps(self, pool: list[Item]) -> list[Item]:
        if self.shots > len(pool):
            raise ConfigError(
                f"shots={self.shots} polyps are drawn from the pool in '{self.root / 'train'}', which has {len(pool)}. Give fewer."
            )
        if self.shots:
            rank_zero_warn(
                f"LiuColonoscopy trains on {self.shots} polyps, labelled 1: use a method that reads the labels of training images, others leave them out."
            )
        order = np.random.default_rng(self.seed).permutation(len(pool))[: self.shots]
        return [pool[index] for index in sorted(order)]

    def subject_of(self, name: str) -> str | None:
        """The patient that ``patients.csv`` says."""
        path = Path(name)
        return self._patients.get(path.relative_to(self.root).as_posix(), self._patients.get(path.name))

    def _check_patients(self, parts: dict[str, list[Item]]) -> None:
        file = self.root / "patients.csv"
        if not file.is_file():
            rank_zero_warn(
                f"LiuColonoscopy cannot tell whether a patient is in two parts: there is no '{file}' with the columns file and patient."
            )
            return
        self._patients = {
            row.values["file"].replace("\\", "/"): row.values["patient"] for row in read_rows(file, ("file", "patient"))
        }
        paths = [item.path for items in parts.values() for item in items]
        unknown = [path for path in paths if self.subject_of(str(path)) is None]
        if len(unknown) == len(paths):
            raise DatasetError(
                f"'{file}' must name frames as they lie below '{self.root}'; none of its {len(self._patients)} rows does, as 'train/normal/x.png' "
                "would. Correct its column file."
            )
        if unknown:
            rank_zero_warn(
                f"LiuColonoscopy cannot tell whether a patient is in two parts: {len(unknown)} of {len(paths)} frames are not in '{file}', "
                f"first '{unknown[0]}'."
            )
        shared = shared_patients(
            {"training and validation": parts["training"] + parts["validation"], "test": parts["test"]},
            lambda path: self.subject_of(str(path)),
        )
        if shared:
            raise DatasetError(f"{shared[0]} ({len(shared)} such patients). Keep all frames of a patient in one part.")


def _number(path: Path) -> tuple[int, str]:
    """Frames in the order of the number after the last underscore."""
    tail = path.stem.rpartition("_")[2]
    return int(tail) if tail.isdecimal() else -1, path.as_posix()

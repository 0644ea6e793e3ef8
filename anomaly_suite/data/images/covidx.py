"""COVIDx: chest radiographs from many sources, COVID-19 against all others, in the versions of its list files.

Wang et al., "COVID-Net", Scientific Reports 2020; lists in the repository of COVID-Net. Layout: ``<root>/train/<file>`` and
``<root>/test/<file>``, the lists ``train_COVIDx<V>.txt`` and ``test_COVIDx<V>.txt`` in root or in ``<root>/labels``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal, get_args

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from anomaly_suite.contract import Validation
from anomaly_suite.data.images.benchmark_images import BenchmarkImages, ThresholdSet
from anomaly_suite.data.images.bit_depth import Bits
from anomaly_suite.data.images.covidx_lists import LABELS, Row, count_sources, read_list
from anomaly_suite.data.images.image_files import Found, Item
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import by_name, data_root, find_root, image_files
from anomaly_suite.io.image_headers import Exif

Version = Literal["2", "3", "4", "5", "6", "7A", "7B", "8A", "8B", "9A", "9B"]
Negatives = Literal["all", "normal_only"]

BINARY = ("6", "7B", "8B", "9B")  # negative and positive; the others tell normal from pneumonia
PUBLISHED = {  # rows by label, where they were counted
    "train": {
        "5": {"normal": 7966, "pneumonia": 5475, "COVID-19": 517},
        "6": {"negative": 13794, "positive": 517},
        "7B": {"negative": 13794, "positive": 1670},
        "8A": {"normal": 7966},
        "8B": {"negative": 13794, "positive": 2158},
        "9B": {"negative": 13992, "positive": 16490},
    },
    "test": {
        "5": {"normal": 100, "pneumonia": 100, "COVID-19": 100},
        "6": {"negative": 100, "positive": 100},
        "7B": {"negative": 100, "positive": 100},
        "8A": {"normal": 100},
        "8B": {"negative": 200, "positive": 200},
        "9B": {"negative": 200, "positive": 200},
    },
}
KNOWN_LEAKS = ("ANON191",)  # patients in both lists of versions 6 and 7B, as published


class COVIDx(BenchmarkImages):
    """COVIDx: chest radiographs without COVID-19, among them other pneumonias, against those with it; no masks.

    Positive training rows are not used. **Normal training images, normal test images and anomalous test images come from different sources**,
    so a detector of sources solves much of the test: the sources stand in every result file. Licences differ by source.

    Args:
        root: Folder with ``train`` and ``test``; by default ``$ANOMALY_SUITE_DATA/covidx``, or ``data/covidx`` where the variable is not
            set.
        version: Version of the lists. Negatives of ``8B`` against its 200 + 200 test images are the thesis' numbers. Version 1, which
            repeats thousands of files, is refused.
        train_list: Another list in place of the version's, a file.
        test_list: The same for testing.
        negatives: ``normal_only`` leaves other pneumonias out, which the lists 2 to 5 and A name.
        subset: Use a copy with other counts than the published ones, and say so; otherwise that is an error.
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
        ConfigError: an option is not known or does not fit the lists.
        DatasetNotFoundError: root, a list or a listed image is missing.
        DatasetError: counts are not the published ones, a row or label cannot be read, rows are repeated, or a file or patient is in two
            parts.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        version: Version = "8B",
        train_list: str | None = None,
        test_list: str | None = None,
        negatives: Negatives = "all",
        subset: bool = False,
        threshold_set: ThresholdSet = "apart",
        threshold_images: int = 50,
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
            subset=subset, threshold_set=threshold_set, threshold_images=threshold_images, image_size=image_size,
            center_crop=center_crop, channels=channels, bit_depth=bit_depth, exif=exif, transform=transform,
            train_transform=train_transform, train_batch_size=train_batch_size, eval_batch_size=eval_batch_size,
            num_workers=num_workers, seed=seed, num_anomalous=num_anomalous, anomalous_list=anomalous_list,
            anomalous_types=anomalous_types, anomalous_seed=anomalous_seed, balanced=balanced, validation=validation,
            val_size=val_size,
        )  # fmt: skip
        if negatives == "normal_only" and version in BINARY:
            several = [name for name in get_args(Version) if name not in BINARY]
            raise ConfigError(
                f"negatives: normal_only needs a list that names other pneumonias, version {', '.join(several)}; got {version}. Choose one of them."
            )
        self.root = data_root(root, "covidx")
        self.version = version
        self.lists = {"train": train_list, "test": test_list}
        self.negatives = negatives
        self._patients: dict[str, str] = {}

    def find(self) -> Found:
        """Negative training images and the test part.

        Raises:
            DatasetNotFoundError: root, a list or a listed image is missing.
            DatasetError: see the class.
        """
        find_root(
            self.root,
            dataset="COVIDx",
            is_root=lambda folder: (folder / "train").is_dir() and (folder / "test").is_dir(),
            layout="train and test",
            obtain="Assemble it with the notebooks of COVID-Net, or unpack the ready-made set covidx-cxr2.",
        )
        self.say(f"lists {self.version}, negatives {self.negatives}")
        rows = {part: self._rows(part) for part in ("train", "test")}
        rows["train"] = [row for row in rows["train"] if not LABELS[row.label]]
        if self.negatives == "normal_only":
            rows = {part: [row for row in kept if row.label != "pneumonia"] for part, kept in rows.items()}
        rows["train"] = self._without_leaks(rows["train"], rows["test"])
        items = {part: self._items(part, kept) for part, kept in rows.items()}
        return Found(items["train"], [], items["test"])

    def subject_of(self, name: str) -> str | None:
        """The patient that the lists say."""
        return self._patients.get(name)

    def _rows(self, part: str) -> list[Row]:
        name = f"{part}_COVIDx{self.version}.txt"
        given = self.lists[part]
        places = [Path(given).expanduser()] if given else [self.root / name, self.root / "labels" / name]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise DatasetNotFoundError(
                f"COVIDx expects the list '{places[-1]}', which does not exist. It is in the folder labels of COVID-Net; give it as {part}_list if "
                "it lies elsewhere."
            )
        rows = read_list(file)
        counts = Counter(row.label for row in rows)
        published = PUBLISHED[part].get(self.version, {}) if given is None else {}
        self.require_counts(
            {f"{part} {label}": count for label, count in counts.items()},
            {f"{part} {label}": count for label, count in published.items()},
        )
        return rows

    def _without_leaks(self, train: list[Row], test: list[Row]) -> list[Row]:
        """Training rows without patients of the test list that are known to be in both; any other file or patient in both is an error."""
        tested = {row.patient: row for row in test}
        names = {row.name for row in test}
        for row in train:
            if row.name in names or (row.patient in tested and row.patient not in KNOWN_LEAKS):
                other = row if row.name in names else tested[row.patient]
                raise DatasetError(
                    f"patient {row.patient!r} has {row.name!r} in the training list and {other.name!r} in the test list. Take one of the two "
                    "out of its list."
                )
        kept = [row for row in train if row.patient not in tested]
        if len(kept) < len(train):
            told = f"{len(train) - len(kept)} training images of {', '.join(KNOWN_LEAKS)}, a patient of the test list, left out"
            rank_zero_warn(f"COVIDx: {told}.")
            self.say(told)
        return kept

    def _items(self, part: str, rows: list[Row]) -> list[Item]:
        """Images of a part, by its rows; their sources are told, and those of missing images."""
        files = by_name(
            image_files(self.root / part),
            lambda path: path.name,
            what=f"{part} images of one name",
            advice="Delete the wrong one.",
        )
        missing = [row for row in rows if row.name not in files]
        if missing:
            told = f"{len(missing)} of {len(rows)} listed {part} images do not exist in '{self.root / part}', by source: {count_sources(missing)}"
            if not self.subset:
                raise DatasetNotFoundError(
                    f"{told}; first '{missing[0].name}'. Complete these sources, or set subset: true."
                )
            rank_zero_warn(f"COVIDx: {told}. Its figures do not stand beside published ones.")
            self.say(f"subset ({told.partition(' in ')[0]})")
        there = [row for row in rows if row.name in files]
        self._patients.update({str(files[row.name]): row.patient for row in there})
        for label, name in enumerate(("normal", "anomalous")):
            if of_label := [row for row in there if LABELS[row.label] == label]:
                rank_zero_info(f"COVIDx {part}, {name}: {count_sources(of_label)}")
                self.say(f"{part} {name} from {count_sources(of_label)}")
        return [
            Item(files[row.name], LABELS[row.label], defect="COVID-19" if LABELS[row.label] else "") for row in there
        ]

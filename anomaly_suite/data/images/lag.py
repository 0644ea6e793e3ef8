"""LAG: fundus photographs with and without suspected glaucoma, and maps of where ophthalmologists looked.

Li et al., "Attention based Glaucoma Detection", CVPR 2019. Layout: ``<root>/non_glaucoma`` and ``suspicious_glaucoma``, each with
``image/NNNN.jpg``, ``attention_map/NNNN.jpg`` (grey, 112 x 112) and perhaps ``label/NNNN.txt``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from anomaly_suite.contract import Validation
from anomaly_suite.data.images.benchmark_images import BenchmarkImages, ThresholdSet
from anomaly_suite.data.images.bit_depth import Bits
from anomaly_suite.data.images.image_files import Found, Item
from anomaly_suite.data.images.label_lists import read_label_lists
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import by_name, data_root, find_root, pair_masks, require_images
from anomaly_suite.io.image_headers import Exif
from anomaly_suite.io.rows import read_text

Protocol = Literal["thesis", "medianomaly"]

CLASSES = {"non_glaucoma": 3143, "suspicious_glaucoma": 1711}
TRAIN, TEST = 2343, 800  # normals of Tian's thesis
LISTED = {"train": 1500, "test normal": 811, "test anomalous": 811}  # of MedIAnomaly


class LAG(BenchmarkImages):
    """LAG (part 1): fundus photographs, suspected glaucoma is anomalous; attention maps say where, which are regions of interest.

    No patients are known, so the two eyes of a person may be in different parts. Academic use only; the set may not be passed on.

    Args:
        root: Folder with ``non_glaucoma`` and ``suspicious_glaucoma``; by default ``$ANOMALY_SUITE_DATA/lag``, or ``data/lag`` where the
            variable is not set.
        protocol: ``thesis``: 2,343 normals drawn by the seed for training, the other 800 and all 1,711 anomalies for testing;
            ``medianomaly``: the published lists of MedIAnomaly, 1,500 and 811 + 811.
        split_file: The ``data.json`` of those lists; by default in root.
        attention: Take the attention maps of anomalous images as masks; without them there is detection alone.
        attention_threshold: Share of a map's own maximum from which on a pixel belongs to the region.
        subset: Use a copy with other counts than the published ones, and say so; otherwise that is an error.
        threshold_set: Validation images of ``holdout``, drawn from the test part by the seed: ``apart`` takes them out of it; ``leaky`` leaves
            them in it, as the thesis does, which every result file then says; ``none`` draws none and holds out training normals.
        threshold_images: How many of them of each label.
        localisation_groups: Random groups of anomalous test images that ``LocalisationMetrics`` compares, 5 in the thesis; 0 for none.
        localisation_size: Anomalous images of a group; no image is in two groups.
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
        DatasetNotFoundError: root, a folder or a listed file is missing.
        DatasetError: counts are not the published ones, an image is in both classes, contradicts its label file or has no attention map,
            or the lists are not right.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        protocol: Protocol = "thesis",
        split_file: str | None = None,
        attention: bool = True,
        attention_threshold: float = 0.5,
        subset: bool = False,
        threshold_set: ThresholdSet = "apart",
        threshold_images: int = 50,
        localisation_groups: int = 0,
        localisation_size: int = 100,
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
            subset=subset, threshold_set=threshold_set, threshold_images=threshold_images,
            localisation_groups=localisation_groups, localisation_size=localisation_size, image_size=image_size,
            center_crop=center_crop, channels=channels, bit_depth=bit_depth, exif=exif, transform=transform,
            train_transform=train_transform, train_batch_size=train_batch_size, eval_batch_size=eval_batch_size,
            num_workers=num_workers, seed=seed, num_anomalous=num_anomalous, anomalous_list=anomalous_list,
            anomalous_types=anomalous_types, anomalous_seed=anomalous_seed, balanced=balanced, validation=validation,
            val_size=val_size,
        )  # fmt: skip
        if split_file is not None and protocol == "thesis":
            raise ConfigError(
                f"split_file belongs to protocol: medianomaly; got {split_file!r} with thesis, which draws by the seed. Change one of the two."
            )
        self.root = data_root(root, "lag")
        self.protocol = protocol
        self.split_file = None if split_file is None else Path(split_file).expanduser()
        self.attention = attention
        self.attention_threshold = float(attention_threshold)

    def find(self) -> Found:
        """Training normals and test images of the protocol.

        Raises:
            DatasetNotFoundError: root, a folder or a listed file is missing.
            DatasetError: see the class.
        """
        find_root(
            self.root,
            dataset="LAG",
            is_root=lambda folder: all((folder / name).is_dir() for name in CLASSES),
            layout="non_glaucoma and suspicious_glaucoma",
            obtain="LAG_database_part_1.rar comes from its authors, with a password on request; unpack it and point root to it.",
        )
        normals, anomalies = (
            sorted(require_images(self.root / name / "image", dataset="LAG"), key=_number) for name in CLASSES
        )
        by_name(
            normals + anomalies,
            lambda path: path.stem,
            what="images of one number",
            advice="Delete the wrong one.",
        )
        for label, paths in enumerate((normals, anomalies)):
            _check_labels(paths, label)
        counts = dict(zip(CLASSES, map(len, (normals, anomalies)), strict=True))
        self.require_counts(counts, CLASSES)
        self.say(f"protocol {self.protocol}")
        if self.protocol == "medianomaly":
            train, normals, anomalies = self._listed(normals, anomalies)
        else:
            parts = self.drawn_parts([Item(path) for path in normals], (TRAIN, TEST), total=CLASSES["non_glaucoma"])
            train, normals = ([item.path for item in part] for part in parts)
        return Found([Item(path) for path in train], [], [Item(path) for path in normals] + self._anomalies(anomalies))

    def _listed(self, normals: list[Path], anomalies: list[Path]) -> tuple[list[Path], list[Path], list[Path]]:
        file = self.root / (self.split_file or "data.json")
        if not file.is_file():
            raise DatasetNotFoundError(
                f"LAG expects the lists of MedIAnomaly at '{file}', which does not exist. Give their data.json as split_file."
            )
        lists = read_label_lists(file)
        known = [{path.name: path for path in paths} for paths in (normals, anomalies)]
        for label, names in enumerate((lists.train + lists.normal, lists.anomalous)):
            wrong = [name for name in names if name in known[1 - label]]
            if wrong:
                raise DatasetError(
                    f"'{file}' lists {wrong[0]!r} under label {label}, but it is in the folder '{list(CLASSES)[1 - label]}' ({len(wrong)} such "
                    "files). Restore the published list."
                )
        train, normal, anomalous = (
            self.listed(names, files, source=f"'{file}'")
            for names, files in zip(lists, (known[0], *known), strict=True)
        )
        self.require_counts(dict(zip(LISTED, map(len, (train, normal, anomalous)), strict=True)), LISTED)
        return train, normal, anomalous

    def _anomalies(self, paths: list[Path]) -> list[Item]:
        if not self.attention:
            return [Item(path, 1, defect="glaucoma") for path in paths]
        folder = self.root / "suspicious_glaucoma" / "attention_map"
        every = require_images(self.root / "suspicious_glaucoma" / "image", dataset="LAG")
        maps = pair_masks(folder, {path: [path.stem] for path in every})
        bare = [path for path in paths if path not in maps]
        if bare:
            raise DatasetError(
                f"'{bare[0]}' has no attention map; looked for '{folder / bare[0].name}' ({len(bare)} images without one). "
                "Complete the maps, or set attention: false for detection alone."
            )
        self.say(f"masks are attention regions, not lesions (at least {self.attention_threshold:g} of a map's maximum)")
        return [Item(path, 1, maps[path], defect="glaucoma", rule=self.attention_threshold) for path in paths]


def _number(path: Path) -> tuple[int, str]:
    return int(path.stem) if path.stem.isdecimal() else -1, path.stem


def _check_labels(paths: list[Path], label: int) -> None:
    """Label files are left out of some copies; where there are any, they agree with the folder."""
    for path in paths:
        file = path.parents[1] / "label" / f"{path.stem}.txt"
        if file.is_file() and (said := read_text(file).strip()) != str(label):
            raise DatasetError(
                f"'{file}' says {said!r}, but its image is in '{path.parents[1].name}', whose label is {label}. Move the image or correct the label."
            )

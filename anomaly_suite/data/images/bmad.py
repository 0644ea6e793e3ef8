"""BMAD: six medical sets with a training, a validation and a test part; three have masks.

Bao et al., "BMAD: Benchmarks for Medical Anomaly Detection", CVPR workshops 2024; code DorisBao/BMAD. Copies in use differ in the order and
names of folders: an image's part, label and kind are read from the folders that it lies in, in whatever order.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from anomaly_suite.contract import Validation
from anomaly_suite.data.images.benchmark_images import BenchmarkImages, require_known, shared_patients
from anomaly_suite.data.images.bit_depth import Bits
from anomaly_suite.data.images.image_files import Found, Item
from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import by_name, data_root, find_root, require_images, subfolders
from anomaly_suite.io.image_headers import Exif
from anomaly_suite.io.images import MaskRule

Dataset = Literal["brain", "liver", "RESC", "OCT2017", "RSNA", "Camelyon16"]

PARTS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}  # folders, whatever their case
LABELS = {"good": 0, "ungood": 1}
KINDS = ("img", "train", "val", "test")  # other folders that images may lie in
MASKS = ("anomaly_mask", "label", "val_label", "test_label")


class Published(NamedTuple):
    """One set: names of its folder, counts, the rule of its masks, and how a file's name says the patient."""

    names: tuple[str, ...]
    counts: dict[str, int]
    rule: MaskRule | None = None
    patient: str = ""


SETS = {
    "brain": Published(
        ("brain", "brain_ad"),
        {"train": 7500, "valid good": 39, "valid Ungood": 44, "test good": 640, "test Ungood": 3075},
        "positive",  # coloured by class, of which a threshold would lose two
        r"^(\d+)_\d+$",
    ),
    "liver": Published(
        ("liver", "liver_ad"),
        {"train": 1542, "valid good": 93, "valid Ungood": 73, "test good": 833, "test Ungood": 660},
        "positive",
        r"^(\d+)_\d+$",
    ),
    "RESC": Published(
        ("resc", "resc_ad", "retina_resc", "retina_resc_ad"),
        {"train": 4297, "valid good": 45, "valid Ungood": 70, "test good": 1041, "test Ungood": 764},
        "auto",
    ),
    "OCT2017": Published(
        ("oct2017", "oct2017_ad", "retina_oct2017", "retina_oct2017_ad"),
        {"train": 26315, "valid good": 8, "valid Ungood": 24, "test good": 242, "test Ungood": 726},
        None,
        r"^[A-Z]+-(\d+)-\d+$",
    ),
    "RSNA": Published(("rsna", "rsna_ad", "chest", "chest_ad"), {"train": 8000, "valid": 1490, "test": 17194}),
    "Camelyon16": Published(
        ("camelyon16", "camelyon16_ad", "histopathology", "histopathology_ad"),
        {"train": 5088, "valid": 236, "test": 1997},
    ),
}


class BMAD(BenchmarkImages):
    """BMAD: brain, liver and retina (RESC) with masks, retina (OCT2017), chest (RSNA) and histopathology (Camelyon16) without.

    ``validation: holdout`` takes the set's own validation part, normal and anomalous. Of the chest set "no lung opacity, not normal" is
    anomalous too, unlike MedIAnomaly's RSNA. The sets are parts of others, as RSNA is of ChestX-ray14: one is no external test of the other.

    Args:
        root: Folder with the folders of the sets, or one set's own with its parts; by default ``$ANOMALY_SUITE_DATA/bmad``, or ``data/bmad``
            where the variable is not set.
        dataset: Which set.
        subset: Use a copy with other counts than the published ones, and say so; otherwise that is an error.
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
        ConfigError: the set is not known.
        DatasetNotFoundError: root, a part or its images are missing.
        DatasetError: counts are not the published ones, a folder is not known, or masks and images do not fit together.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        dataset: Dataset = "brain",
        subset: bool = False,
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
            subset=subset, localisation_groups=localisation_groups, localisation_size=localisation_size,
            image_size=image_size, center_crop=center_crop, channels=channels, bit_depth=bit_depth, exif=exif,
            transform=transform, train_transform=train_transform, train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed, num_anomalous=num_anomalous,
            anomalous_list=anomalous_list, anomalous_types=anomalous_types, anomalous_seed=anomalous_seed,
            balanced=balanced, validation=validation, val_size=val_size,
        )  # fmt: skip
        self.root = data_root(root, "bmad")
        self.dataset = dataset

    def find(self) -> Found:
        """The three parts.

        Raises:
            DatasetNotFoundError: root, a part or its images are missing.
            DatasetError: see the class.
        """
        published = SETS[self.dataset]
        find_root(
            self.root,
            dataset="BMAD",
            is_root=lambda folder: _set_folder(folder, published.names) is not None,
            layout=f"a folder {' or '.join(published.names)} with train and test",
            obtain="BMAD comes from the drive folder of its project, and as bmad.zip of anomalib.",
        )
        folder = _set_folder(self.root, published.names) or self.root
        places = {part: _part_folder(folder, part) for part in PARTS}
        if places["train"] is None:
            raise DatasetNotFoundError(
                f"BMAD expects a folder train in '{folder}', which does not exist; the copies of MVFA-AD have none. Add it from the published set."
            )
        if places["valid"] is None and self.validation == "holdout":
            raise DatasetNotFoundError(
                f"BMAD expects a folder valid in '{folder}', which does not exist. Complete the set, or set validation: none."
            )
        parts = {part: [] if place is None else _read_part(place, published.rule) for part, place in places.items()}
        shown = next((item.path for item in parts["test"] if item.label), folder)
        self.say(f"{self.dataset}, layout {shown.relative_to(folder).parent.as_posix()}")
        self._check_parts(parts, published)
        return Found(parts["train"], parts["valid"], parts["test"])

    def _check_parts(self, parts: dict[str, list[Item]], published: Published) -> None:
        counts: dict[str, int] = {part: len(items) for part, items in parts.items()}
        for part in ("valid", "test"):
            for name, label in (("good", 0), ("Ungood", 1)):
                counts[f"{part} {name}"] = sum(item.label == label for item in parts[part])
        compared = {part: count for part, count in published.counts.items() if parts[part.partition(" ")[0]]}
        self.require_counts(counts, compared)
        if shared := shared_patients(parts, lambda path: self.subject_of(str(path))):
            rank_zero_warn(f"BMAD {self.dataset}: {shared[0]} ({len(shared)} such patients).")

    def subject_of(self, name: str) -> str | None:
        """The patient that a file's name says, in the sets where it does."""
        pattern = SETS[self.dataset].patient
        found = re.match(pattern, Path(name).stem)
        return found[1] if found and pattern else None


def _set_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    """Folder of a set below root, or root where it has the parts itself."""
    found = next((path for path in subfolders(root) if path.name.casefold() in names), None)
    if found is not None and _part_folder(found, "test") is not None:
        return found
    others = {name for each in SETS.values() for name in each.names} - set(names)
    has_parts = _part_folder(root, "test") and (_part_folder(root, "train") or _part_folder(root, "valid"))
    return root if has_parts and root.name.casefold() not in others else None


def _part_folder(folder: Path, part: str) -> Path | None:
    return next((path for path in subfolders(folder) if path.name.casefold() in PARTS[part]), None)


def _read_part(part: Path, rule: MaskRule | None) -> list[Item]:
    """Images of one part with labels and, where the set has a rule for them, masks."""
    images: dict[tuple[str, str], Path] = {}
    masks: list[Path] = []
    for path in require_images(part, dataset="BMAD"):
        folders = _folders(path, part)
        require_known(folders, (*LABELS, *KINDS, *MASKS), what=f"a folder that '{path}' lies in, whatever its case,")
        if set(folders) & set(MASKS):
            masks.append(path)
            continue
        twin = images.setdefault(_key(path, part), path)
        if twin != path:
            raise DatasetError(f"'{twin}' and '{path}' are images of one name and label. Delete the wrong one.")
    if rule is None:
        return [Item(path, LABELS[label]) for (label, _), path in images.items()]
    pairs = by_name(
        masks, lambda path: "/".join(_key(path, part)), what="masks of one name", advice="Delete the wrong one."
    )
    orphans = sorted(pairs.keys() - {"/".join(key) for key in images})
    if orphans:
        raise DatasetError(
            f"mask '{pairs[orphans[0]]}' has no image ({len(orphans)} such masks). Restore the image or delete the mask."
        )
    items = [Item(path, LABELS[key[0]], pairs.get("/".join(key)), rule=rule) for key, path in images.items()]
    bare = [item.path for item in items if item.label and item.mask is None]
    if bare:
        raise DatasetError(
            f"'{bare[0]}' has no mask; looked for '{bare[0].stem}' in a folder {' or '.join(MASKS)} of '{part}' ({len(bare)} images without a mask). "
            "Complete the masks."
        )
    return items


def _folders(path: Path, part: Path) -> list[str]:
    return [name.casefold() for name in path.relative_to(part).parts[:-1]]


def _key(path: Path, part: Path) -> tuple[str, str]:
    """Label folder and stem of a file."""
    label = next((name for name in _folders(path, part) if name in LABELS), None)
    if label is None:
        raise DatasetError(
            f"'{path}' lies in no folder good or Ungood, so its label is not known. Restore the published folders."
        )
    return label, path.stem

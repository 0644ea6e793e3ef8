"""Folder: your own images, in folders of normal and anomalous ones or listed in an index file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from anomaly_suite.contract import Validation
from anomaly_suite.data.images.bit_depth import Bits
from anomaly_suite.data.images.drawn_masks import Annotations, annotation_files, holds_masks
from anomaly_suite.data.images.image_files import Found, ImageFileModule, Item
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError, did_you_mean
from anomaly_suite.io.folders import on_disk, pair_masks, require_files, require_images
from anomaly_suite.io.image_headers import Exif
from anomaly_suite.io.polygons import Drawing
from anomaly_suite.io.rows import read_rows

LABELS = {
    **dict.fromkeys(("normal", "good", "0", "ok", "false", "normal_test"), 0),
    **dict.fromkeys(("anomaly", "anomalous", "abnormal", "1", "defect", "defective", "bad", "nok", "ng", "true"), 1),
}
SPLITS = ("train", "val", "test")
PARTS = {**{name: name for name in SPLITS}, "training": "train", "valid": "val", "validation": "val", "testing": "test"}
ALSO = {
    "path": ("image_path", "filename", "file_name", "filepath", "file_path", "image", "img_path"),
    "label": ("label_index", "is_anomaly", "is_anomalous", "anomalous", "target"),
    "mask": ("mask_path", "mask_file", "gt_path", "gt_mask"),
    "defect_type": ("defect", "anomaly_type"),
}
"""What columns of an index are called elsewhere, in the tables of anomalib for example."""


class Folder(ImageFileModule):
    """Your own images, in folders of normal and anomalous ones or listed in an index file.

    Subfolders are searched. Masks are found by name: ``<mask_dir>/<defect folder>/<stem>_mask`` or
    ``<mask_dir>/<stem>_mask``, each also without ``_mask``. In place of images they may be polygons: LabelMe files (``<stem>.json``, perhaps
    beside the images), or a COCO file. Normal images without a place of their own for testing are split by the seed.

    An index has one row per image: CSV with a header (separated by commas, semicolons, tabs or bars), or JSON lines, in UTF-8, UTF-16 or
    Windows-1252. Columns, in any case: ``path``, ``label`` (normal, good, ok, 0, 0.0, False, anomaly, anomalous, abnormal, defect, bad, nok, 1, 1.0,
    True), and if wanted ``mask`` (an image, a LabelMe or a COCO file; empty or nan for none), ``split`` (train, val, test) and ``defect_type``; the
    names in anomalib's tables (``image_path``, ``label_index``, ``mask_path``) do as well. Paths are relative to ``root`` or to the index. Anomalies
    listed for training serve validation, like those listed for it; listed without a split they are for testing.

    Args:
        root: Folder that the other folders are relative to; the index file's own folder by default.
        normal_dir: Normal images, one folder or several.
        abnormal_dir: Anomalous images, one folder or several, one for each kind of defect.
        mask_dir: Folder of masks, or of LabelMe or COCO files, or one COCO file; some or all anomalous images may have none.
        normal_test_dir: Normal images for testing; then all in ``normal_dir`` are for training.
        test_fraction: Share of the normal images that is for testing where nothing says which.
        index: Index file, instead of the folders.
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
        ConfigError: neither root nor index, or ``test_fraction`` out of range.
        DatasetNotFoundError: a folder or listed file is missing or empty.
        DatasetError: a label or split is not known, masks and images do not fit together, or an image is listed
            twice or repeated in another split.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        normal_dir: str | list[str] = "normal",
        abnormal_dir: str | list[str] = "abnormal",
        mask_dir: str | None = None,
        normal_test_dir: str | list[str] | None = None,
        test_fraction: float = 0.2,
        index: str | None = None,
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
            image_size=image_size, center_crop=center_crop, channels=channels, bit_depth=bit_depth, exif=exif,
            transform=transform, train_transform=train_transform, train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed, num_anomalous=num_anomalous,
            anomalous_list=anomalous_list, anomalous_types=anomalous_types, anomalous_seed=anomalous_seed,
            balanced=balanced, validation=validation, val_size=val_size,
        )  # fmt: skip
        if root is None and index is None:
            raise ConfigError(
                "Folder needs root (with normal and abnormal folders) or index (a CSV or JSON lines file)."
            )
        if not 0 < test_fraction < 1:
            raise ConfigError(f"test_fraction must be in (0, 1); got {test_fraction}.")
        self.index = on_disk(Path(index).expanduser()) if index is not None else None
        self.root = on_disk(Path(root).expanduser()) if root is not None else Path(index or "").expanduser().parent
        self.normal_dir = normal_dir
        self.abnormal_dir = abnormal_dir
        self.mask_dir = mask_dir
        self.normal_test_dir = normal_test_dir
        self.test_fraction = test_fraction

    def read(self) -> Found:
        """List the images, from the index or the folders, and print what was found.

        Raises:
            DatasetNotFoundError: a folder or listed file is missing or empty.
            DatasetError: a label or split is not known, or images cannot be split or paired with masks.
        """
        found = self._read_folders() if self.index is None else self._read_index(self.index)
        rank_zero_info(_summary(self.index or self.root, found))
        anomalies = [item for item in found.test if item.label]
        bare = [item for item in anomalies if item.mask is None]
        if 0 < len(bare) < len(anomalies):
            rank_zero_warn(
                f"{len(bare)} of {len(anomalies)} anomalous test images have no mask, first '{bare[0].path}': masks are left "
                "out and there are no pixel metrics. Add the masks, or leave these images out of the test set."
            )
        return found

    def _read_folders(self) -> Found:
        if not self.root.is_dir():
            raise DatasetNotFoundError(
                f"Folder expects a folder at root='{self.root}', which does not exist. Correct root."
            )
        normals = [Item(path) for _, path in self._images(self.normal_dir)]
        tests = [Item(path) for _, path in self._images(self.normal_test_dir or [])]
        if not tests:
            normals, tests = self._split(normals)
        names: dict[Path, list[str]] = {}
        defects: dict[Path, str] = {}
        for folder, path in self._images(self.abnormal_dir):
            stem = path.relative_to(folder).with_suffix("")
            names[path] = [f"{where}{end}" for where in (folder.name / stem, stem) for end in ("_mask", "")]
            names[path] = [Path(name).as_posix() for name in names[path]]
            defects[path] = stem.parent.as_posix() if len(stem.parts) > 1 else folder.name
        masks = (
            {} if self.mask_dir is None else self._masks(on_disk(self.root / self.mask_dir), names, [*normals, *tests])
        )
        for path, defect in defects.items():
            mask, drawing = masks.get(path, (None, None))
            tests.append(Item(path, 1, mask, defect=defect, drawing=drawing))
        return Found(normals, [], tests)

    def _masks(
        self, where: Path, names: dict[Path, list[str]], normals: list[Item]
    ) -> Mapping[Path, tuple[Path, Drawing | None]]:
        """Masks of anomalous images: images of their own, or drawn from annotation files."""
        files = annotation_files(where)
        if not files:
            require_images(where, dataset="Folder")
            return {path: (mask, None) for path, mask in pair_masks(where, names).items()}
        normal = [item.path for item in normals]
        if where.is_dir() and (mask := holds_masks(where, [*names, *normal])):
            raise DatasetError(
                f"'{where}' holds annotations ('{files[0].name}') and images that are none of the data set ('{mask.name}'), which could be masks. "
                "Keep the ones that count in a folder of their own."
            )
        return Annotations(normal).of_folder(where, names)

    def _images(self, folders: str | list[str]) -> list[tuple[Path, Path]]:
        names = [folders] if isinstance(folders, str) else folders
        where = [on_disk(self.root / name) for name in names]
        return [(folder, path) for folder in where for path in require_images(folder, dataset="Folder")]

    def _split(self, normals: list[Item]) -> tuple[list[Item], list[Item]]:
        """Training and test part by the seed."""
        count = max(1, round(self.test_fraction * len(normals)))
        if count >= len(normals):
            raise DatasetError(
                f"{len(normals)} normal images cannot be split into a training and a test part. Add images or set normal_test_dir."
            )
        order = np.random.default_rng(self.seed).permutation(len(normals)).tolist()
        train, test = sorted(order[count:]), sorted(order[:count])
        return [normals[index] for index in train], [normals[index] for index in test]

    def _read_index(self, index: Path) -> Found:
        if not index.is_file():
            raise DatasetNotFoundError(
                f"Folder expects an index file at '{index}', which does not exist. Correct index."
            )
        parts: dict[str, list[Item]] = {"": [], "train": [], "val": [], "test": []}
        lines: dict[str, int] = {}
        annotations = Annotations()
        for number, row in read_rows(index, ("path", "label"), ALSO):
            where = f"row {number} of '{index}'"
            label, kind = _label(row, where)
            split = row.get("split", "").casefold().removeprefix("split.")
            if split:
                split = PARTS.get(split) or _known(split, dict.fromkeys(SPLITS), f"split in {where}")
            if label:
                split = {"": "test", "train": "val"}.get(split, split)
            mask = self._locate(row["mask"], index) if row.get("mask") else None
            defect = row.get("defect_type") or kind or "anomaly" if label else ""
            path = self._locate(row["path"], index)
            drawing = None
            if mask is not None and mask.suffix.lower() == ".json":
                require_files([mask], source=f"'{index}'")
                mask, drawing = annotations.of_image(mask, path) or (None, None)
            first = lines.setdefault(os.path.realpath(path), number)
            if first != number:
                raise DatasetError(
                    f"rows {first} and {number} of '{index}' list the same image, '{path}'. List every image once."
                )
            parts[split].append(Item(path, label, mask, defect=defect, drawing=drawing))
        for name, items in parts.items():
            parts[name] = sorted(items, key=lambda item: item.path.as_posix())
        listed = [item for items in parts.values() for item in items]
        paths = [item.path for item in listed] + [item.mask for item in listed if item.mask is not None]
        require_files(paths, source=f"'{index}'")
        if parts[""] and all(item.label for item in parts["test"]):
            parts[""], extra = self._split(parts[""])
            parts["test"] += extra
        train = parts["train"] + parts[""]
        if not train or not parts["test"]:
            raise DatasetError(
                f"'{index}' lists {len(train)} training and {len(parts['test'])} test images; both are needed. Complete it."
            )
        return Found(train, parts["val"], parts["test"])

    def _locate(self, name: str, index: Path) -> Path:
        """A listed file as the disk spells it, beside the index or below root; lists made on Windows have backslashes."""
        places = [
            on_disk(folder / each) for each in (name, name.replace("\\", "/")) for folder in (index.parent, self.root)
        ]
        return next((place for place in places if os.path.isfile(place)), self.root / name)


def _label(row: Mapping[str, str], where: str) -> tuple[int, str]:
    """The label of a row, and the kind of defect where the label says it and ``label_index`` the label, as in anomalib's tables."""
    value, number = row["label"], row.get("label_index", "")
    kind = value if number and value.casefold() not in LABELS else ""
    try:
        share = float(number if kind else value)
    except ValueError:
        share = -1
    if share in (0, 1):
        return int(share), kind
    label: int = _known(number if kind else value, LABELS, f"label in {where}")
    return label, kind


def _known(value: str, table: dict[str, Any], what: str) -> Any:
    if value.casefold() not in table:
        raise DatasetError(f"{what} must be one of {', '.join(table)}; got {value!r}.{did_you_mean(value, table)}")
    return table[value.casefold()]


def _summary(where: Path, found: Found) -> str:
    """A short table: images and masks of each split and kind."""
    images: Counter[tuple[str, str]] = Counter()
    masks: Counter[tuple[str, str]] = Counter()
    for split, items in zip(SPLITS, found, strict=True):
        for item in items:
            images[split, item.defect or "normal"] += 1
            masks[split, item.defect or "normal"] += item.mask is not None
    width = max(len(kind) for _, kind in images)
    lines = [f"{split:5}  {kind:{width}}  {count:6}  {masks[split, kind]:5}" for (split, kind), count in images.items()]
    return "\n".join([f"Found in '{where}':", f"split  {'kind':{width}}  images  masks", *lines])

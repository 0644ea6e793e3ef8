"""MVTec AD and any data set with its folders: industrial parts and textures with pixel masks.

Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021. Layout: ``<root>/<category>/train/good``,
``test/good``, ``test/<defect>`` and ``ground_truth/<defect>/<stem>_mask.png``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from anomaly_suite.contract import Validation
from anomaly_suite.data.images.bit_depth import Bits
from anomaly_suite.data.images.image_files import Found, ImageFileModule, Item
from anomaly_suite.errors import DatasetError, DatasetNotFoundError, did_you_mean
from anomaly_suite.io.folders import (
    data_root,
    find_root,
    image_files,
    on_disk,
    pair_masks,
    require_images,
    same_name,
    subfolders,
)
from anomaly_suite.io.image_headers import Exif

log = logging.getLogger(__name__)

# category: training images, normal and anomalous test images, as published
CATEGORIES = {
    "bottle": (209, 20, 63),
    "cable": (224, 58, 92),
    "capsule": (219, 23, 109),
    "carpet": (280, 28, 89),
    "grid": (264, 21, 57),
    "hazelnut": (391, 40, 70),
    "leather": (245, 32, 92),
    "metal_nut": (220, 22, 93),
    "pill": (267, 26, 141),
    "screw": (320, 41, 119),
    "tile": (230, 33, 84),
    "toothbrush": (60, 12, 30),
    "transistor": (213, 60, 40),
    "wood": (247, 19, 60),
    "zipper": (240, 32, 119),
}


class MVTecAD(ImageFileModule):
    """MVTec AD: 15 categories of industrial parts and textures with pixel masks.

    Any folder with the same layout is a category. Images of several categories are mixed, and batches then say
    ``category``. A category with other counts than the published ones is used as it is and logged.

    Args:
        root: Folder that holds the category folders; by default ``$ANOMALY_SUITE_DATA/mvtec_ad``, or ``data/mvtec_ad``
            where the variable is not set.
        category: One category, several, or ``all`` that are found.
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
        DatasetNotFoundError: root, category or a folder is missing or empty.
        DatasetError: masks and images do not fit together, or a training image is anomalous or repeated in the test part.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        category: str | list[str] = "bottle",
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
        self.root = data_root(root, "mvtec_ad")
        self.category = category

    def read(self) -> Found:
        """All images of the chosen categories.

        Raises:
            DatasetNotFoundError: root, category or a folder is missing or empty.
            DatasetError: an anomalous test image has no mask, a mask no image, or there is no folder ``good``.
        """
        find_root(
            self.root,
            dataset="MVTecAD",
            is_root=lambda folder: bool(_categories(folder)),
            layout="category folders (each with train/good)",
            obtain="The archive comes from the MVTec AD page, after a form; unpack it and point root to it.",
        )
        known = _categories(self.root)
        wanted = [self.category] if isinstance(self.category, str) else self.category
        chosen = known if wanted == ["all"] else wanted
        known = [same_name(name) for name in known]
        for name in map(same_name, chosen):
            if name not in known:
                raise DatasetNotFoundError(
                    f"no category {name!r} in root='{self.root}'. Found {', '.join(known)}.{did_you_mean(name, known)}"
                )
        parts = [_read_category(on_disk(self.root / name), name if len(chosen) > 1 else "") for name in chosen]
        return Found(
            [item for part in parts for item in part.train], [], [item for part in parts for item in part.test]
        )


def _categories(root: Path) -> list[str]:
    parts = ("train", "test")  # either will do: what is missing is reported later
    return [folder.name for folder in subfolders(root) if any((folder / part / "good").is_dir() for part in parts)]


def _read_category(folder: Path, category: str) -> Found:
    train = [Item(path, category=category) for path in require_images(folder / "train" / "good", dataset="MVTecAD")]
    for other in subfolders(folder / "train"):
        if other.name != "good":
            train += [Item(path, 1, None, category, other.name) for path in image_files(other)]
    require_images(folder / "test", dataset="MVTecAD")
    kinds = subfolders(folder / "test")
    if "good" not in [kind.name for kind in kinds]:
        raise DatasetError(
            f"'{folder / 'test'}' has no folder 'good'; found {', '.join(kind.name for kind in kinds)}. "
            "Restore the published folders: normal images in good, others in one folder for each kind of defect."
        )
    tests = {path: kind.name for kind in kinds for path in image_files(kind)}
    truth = folder / "ground_truth"
    masks = pair_masks(
        truth, {path: [f"{kind}/{path.stem}_mask", f"{kind}/{path.stem}"] for path, kind in tests.items()}
    )
    bare = [path for path, kind in tests.items() if kind != "good" and path not in masks]
    if bare:
        expected = truth / tests[bare[0]] / f"{bare[0].stem}_mask.png"
        raise DatasetError(
            f"'{bare[0]}' has no mask; looked for '{expected}' ({len(bare)} images without a mask). "
            "Complete ground_truth, or use the data module Folder, where masks are optional."
        )
    test = [
        Item(path, int(kind != "good"), masks.get(path), category, "" if kind == "good" else kind)
        for path, kind in tests.items()
    ]
    anomalous = sum(item.label for item in test)
    counts = (len(train), len(test) - anomalous, anomalous)
    log.info("'%s': %d training, %d normal and %d anomalous test images", folder, *counts)
    if folder.name in CATEGORIES and counts != CATEGORIES[folder.name]:
        log.info("MVTec AD has published %d, %d and %d", *CATEGORIES[folder.name])
    return Found(train, [], test)

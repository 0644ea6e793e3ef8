"""Hyper-Kvasir: gastrointestinal endoscopy, of which normal views of the lower tract are learnt and polyps are found.

Borgli et al., Scientific Data 2020. Published layout: ``<root>/labeled-images/<organ>/<category>/<class>/*.jpg`` and
``<root>/segmented-images/images|masks/<id>.jpg``, which is also published as ``Kvasir-SEG``. The split is that of Tian's thesis, 5.4.1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from anomaly_suite.contract import Validation
from anomaly_suite.data.images.benchmark_images import BenchmarkImages, ThresholdSet, require_known
from anomaly_suite.data.images.bit_depth import Bits
from anomaly_suite.data.images.image_files import Found, Item
from anomaly_suite.errors import ConfigError, DatasetError
from anomaly_suite.io.folders import data_root, find_root, image_files, pair_masks, require_images, subfolders
from anomaly_suite.io.image_headers import Exif

Layout = Literal["published", "ccd_archive"]

NORMAL = {"cecum": 1009, "ileum": 9, "bbps-2-3": 1148}
OTHER = (
    *("retroflex-rectum", "bbps-0-1", "impacted-stool", "polyps", "hemorrhoids", "dyed-lifted-polyps"),
    *("dyed-resection-margins", "pylorus", "retroflex-stomach", "z-line", "barretts", "barretts-short-segment"),
    *("esophagitis-a", "esophagitis-b-d"),
    *(f"ulcerative-colitis-grade-{grade}" for grade in ("0-1", "1", "1-2", "2", "2-3", "3")),
)
TRAIN, TEST = 1600, 500
POLYPS = 1000
FRAME = (45 / 512, 45 / 512, 475 / 512, 475 / 512)  # what released code keeps of 512 pixels
SEGMENTED = ("segmented-images", "Kvasir-SEG")
ARCHIVE = ("train_set", "test_set/normal_test", "test_set/abnormal_test")


class HyperKvasir(BenchmarkImages):
    """Hyper-Kvasir: normal colonoscopy (cecum, ileum, bbps-2-3) against segmented polyps with pixel masks.

    Of the 2,166 normal images 1,600 are for training and 500 for testing, drawn by the seed; the authors' own draw is known from their
    ready-made archive alone. Licence: CC BY 4.0, and by the publisher's readme for research and education.

    Args:
        root: Folder with ``labeled-images`` and ``segmented-images``, or with ``train_set`` and ``test_set``; by default
            ``$ANOMALY_SUITE_DATA/hyper_kvasir``, or ``data/hyper_kvasir`` where the variable is not set.
        layout: ``published``, or ``ccd_archive``, the archive of the authors of CCD with their split.
        mask_dir: Folder with the masks of the archive's polyps, by name; without it they have none.
        crop_frame: Cut off the black frame and the inset of the endoscope, by which normal images and polyps could be told apart.
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
        DatasetNotFoundError: root or a folder is missing.
        DatasetError: a class is not known, counts are not the published ones, masks and images do not fit together, or an image is in
            two parts.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        layout: Layout = "published",
        mask_dir: str | None = None,
        crop_frame: bool = True,
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
        if mask_dir is not None and layout == "published":
            raise ConfigError(
                f"mask_dir belongs to layout: ccd_archive; got {mask_dir!r} with published, which has masks of its own. Change one of the two."
            )
        self.root = data_root(root, "hyper_kvasir")
        self.layout = layout
        self.mask_dir = None if mask_dir is None else Path(mask_dir).expanduser()
        self.crop_frame = crop_frame
        self.frame = FRAME if crop_frame else None

    def find(self) -> Found:
        """Training normals, test normals and polyps.

        Raises:
            DatasetNotFoundError: root or a folder is missing.
            DatasetError: see the class.
        """
        return self._archive() if self.layout == "ccd_archive" else self._published()

    def _published(self) -> Found:
        find_root(
            self.root,
            dataset="HyperKvasir",
            is_root=lambda folder: (folder / "labeled-images").is_dir() and _segmented(folder) is not None,
            layout="labeled-images and segmented-images",
            obtain="Both archives come from the publisher's page; for the authors' ready-made archive set layout: ccd_archive.",
        )
        classes = [
            path
            for organ in subfolders(self.root / "labeled-images")
            for kind in subfolders(organ)
            for path in subfolders(kind)
        ]
        require_known(
            (path.name for path in classes),
            (*NORMAL, *OTHER),
            what=f"a class folder in '{self.root / 'labeled-images'}'",
        )
        normals = {path.name: image_files(path) for path in classes if path.name in NORMAL}
        folder = _segmented(self.root) or self.root
        polyps = require_images(folder / "images", dataset="HyperKvasir")
        counts = {name: len(paths) for name, paths in normals.items()}
        self.require_counts({**counts, "segmented polyps": len(polyps)}, {**NORMAL, "segmented polyps": POLYPS})
        items = sorted((Item(path) for paths in normals.values() for path in paths), key=lambda item: item.path.name)
        train, test = self.drawn_parts(items, (TRAIN, TEST), total=sum(NORMAL.values()))
        return Found(train, [], test + _polyps(polyps, folder / "masks"))

    def _archive(self) -> Found:
        find_root(
            self.root,
            dataset="HyperKvasir",
            is_root=lambda folder: all((folder / part).is_dir() for part in ARCHIVE),
            layout=", ".join(ARCHIVE),
            obtain="The archive is linked in the readme of CCD; for the published folders set layout: published.",
        )
        train, normal, abnormal = (require_images(self.root / part, dataset="HyperKvasir") for part in ARCHIVE)
        self.say("ccd_archive")
        counts = {"train": len(train), "test normal": len(normal), "test polyps": len(abnormal)}
        self.require_counts(counts, {"train": TRAIN, "test normal": TEST, "test polyps": POLYPS})
        tests = [Item(path, 1, defect="polyp") for path in abnormal]
        if self.mask_dir is not None:
            tests = _polyps(abnormal, self.root / self.mask_dir)
        return Found([Item(path) for path in train], [], [Item(path) for path in normal] + tests)


def _segmented(root: Path) -> Path | None:
    return next((root / name for name in SEGMENTED if (root / name).is_dir()), None)


def _polyps(images: list[Path], folder: Path) -> list[Item]:
    """Polyps with their masks, which have the same names; boxes are not used, since many differ from the mask."""
    masks = pair_masks(folder, {path: [path.stem] for path in images})
    bare = [path for path in images if path not in masks]
    if bare:
        raise DatasetError(
            f"'{bare[0]}' has no mask; looked for '{folder / bare[0].stem}.jpg' ({len(bare)} images without a mask). Complete the folder of masks."
        )
    return [Item(path, 1, masks[path], defect="polyp") for path in images]

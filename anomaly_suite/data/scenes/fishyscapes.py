"""Fishyscapes, public validation sets: Lost and Found labelled anew, and objects blended into Cityscapes.

Blum et al., "The Fishyscapes Benchmark: Measuring Blind Spots in Semantic Segmentation", IJCV 2021. The official download
holds labels (``<nnnn>_<id>_labels.png``) and, for Static, differences to Cityscapes images (``<nnnn>_<id>_rgb.npz``). A
repackaged layout, used by PEBAL and SynBoost, holds ``original`` images beside ``labels_with_ROI`` and ``labels``.

Static has three versions, ``fs_val_v1`` to ``fs_val_v3``, which blend their objects differently: figures on two of them cannot be
compared. The name of the folder says which one was read; several under one root are refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from lightning.pytorch.utilities import rank_zero_warn

from anomaly_suite.contract import VOID
from anomaly_suite.data.scenes.datasets import EvaluationScenes
from anomaly_suite.data.scenes.labels import label_table, read_label
from anomaly_suite.data.scenes.module import SceneTestModule
from anomaly_suite.data.scenes.scene_files import Scene, SceneFiles, check_scenes, log_counts
from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import by_name, data_root, image_files, require_images

TABLE = label_table({0: 0, 1: 1})
PUBLISHED = {"LostAndFound": 100, "Static": 30}
_KIND = re.compile(r"_(labels|rgb|leftImg8bit|gtFine_labelIds|gtCoarse_labelIds)$")
_NUMBER = re.compile(r"^\d{4}_")
_VERSION = re.compile(r"(?:.*[_.-])?v(\d)(?:\.\d+)*", re.IGNORECASE)  # of a folder's name: fs_val_v3, Static_v2, v1.0.0


class _Fishyscapes(SceneTestModule):
    """What both sets share.

    ``part`` is the folder's name in the repackaged layout, ``label_name`` a pattern of the official label files' names, by
    which the two sets are told apart in one folder.
    """

    part: ClassVar[str]
    label_name: ClassVar[str]
    root: Path

    def __init__(self, *, root: str | None = None, eval_batch_size: int = 1, num_workers: int = 0) -> None:
        super().__init__(eval_batch_size=eval_batch_size, num_workers=num_workers)
        self.root = data_root(root, "fishyscapes")

    def read(self) -> EvaluationScenes:
        """All scenes, from whichever layout is there.

        Raises:
            DatasetNotFoundError: see the class.
            DatasetError: see the class.
        """
        folder = self.root / self.part if (self.root / self.part).is_dir() else self.root
        repackaged = (folder / "original").is_dir()
        scenes = _repackaged(folder) if repackaged else self.official(folder)
        label = scenes[0].label
        self._refuse_others(folder if repackaged else label.parent)
        self.dataset_version = self.version_of(label)
        log_counts(f"Fishyscapes {self.part}", folder, {"test": len(scenes)}, [PUBLISHED[self.part]])
        if not any((read_label(scene.label) == VOID).any() for scene in scenes):
            rank_zero_warn(
                f"no label in '{scenes[0].label.parent}' holds 255: void is scored as normal there, which changes every metric. "
                "Use the labels of the official download, or the folder labels_with_ROI."
            )
        check_scenes(test=scenes)
        return EvaluationScenes(SceneFiles(scenes), tables={"ood_mask": TABLE})

    def version_of(self, label: Path) -> str | None:
        """Which version of the set a label file belongs to; None where there is one."""
        return None

    def _refuse_others(self, used: Path) -> None:
        """Refuse a root with copies or versions of the set beside the one in ``used``."""
        official = {path.parent for path in image_files(self.root) if re.fullmatch(self.label_name, path.stem)}
        repackaged = {path.parent for path in self.root.glob("*/original") if path.parent.name.startswith(self.part)}
        others = sorted(path for path in official | repackaged if used not in (path, *path.parents))
        if others:
            raise DatasetError(
                f"root must hold Fishyscapes {self.part} once; found it in '{used}' and in '{others[0]}'. Versions differ in their images: "
                "give the folder of one."
            )

    def official(self, folder: Path) -> list[Scene]:
        """Scenes of the official download.

        Raises:
            NotImplementedError: the data set does not define it.
        """
        raise NotImplementedError

    def official_labels(self, folder: Path) -> list[Path]:
        """Label files of the official download, by their numbers.

        Raises:
            DatasetNotFoundError: there are none.
        """
        labels = [path for path in image_files(folder) if re.fullmatch(self.label_name, path.stem)]
        if not labels:
            raise DatasetNotFoundError(
                f"Fishyscapes {self.part} expects <nnnn>_<id>_labels.png, or folders original and labels_with_ROI, in '{folder}'; "
                "found neither. The labels come from the Fishyscapes page."
            )
        return sorted(labels, key=lambda path: path.name)


class FishyscapesLostAndFound(_Fishyscapes):
    """Fishyscapes LostAndFound validation: 100 street scenes with small obstacles, all of the scene scored.

    The scenes are of Lost and Found, 64 of its training and 36 of its test part: do not choose a model on one set and call
    the other held out.

    Args:
        root: Folder with the label files or ``LostAndFound/{original,labels_with_ROI}``; by default
            ``$ANOMALY_SUITE_DATA/fishyscapes``, or ``data/fishyscapes`` where the variable is not set.
        lost_and_found: Folder of Lost and Found, which has the images of the official download; by default
            ``$ANOMALY_SUITE_DATA/lost_and_found`` or ``data/lost_and_found``.
        eval_batch_size: Scenes per test or predict step and process; more than one only where all have one size.
        num_workers: Loader processes; 0 loads in the main process.

    Raises:
        DatasetNotFoundError: a folder is missing.
        DatasetError: labels and images do not fit together, or there are several copies.
    """

    part = "LostAndFound"
    label_name = r"\d{4}_\d\d_.*_labels"

    def __init__(
        self,
        *,
        root: str | None = None,
        lost_and_found: str | None = None,
        eval_batch_size: int = 1,
        num_workers: int = 0,
    ) -> None:
        super().__init__(root=root, eval_batch_size=eval_batch_size, num_workers=num_workers)
        self.lost_and_found = data_root(lost_and_found, "lost_and_found")

    def official(self, folder: Path) -> list[Scene]:
        """Labels of the download with the images of Lost and Found.

        Raises:
            DatasetNotFoundError: a folder is missing.
            DatasetError: a label has no image.
        """
        images = _images_by_id(self.lost_and_found, ("train", "test"))
        return [Scene(_image_of(label, images, self.lost_and_found), label) for label in self.official_labels(folder)]


class FishyscapesStatic(_Fishyscapes):
    """Fishyscapes Static validation: 30 scenes of Cityscapes with objects blended in.

    ``dataset_version`` in the result file is the number at the end of the folder's name (3 for ``fs_val_v3``), or ``unknown``. The
    published figures of this package's methods do not say theirs.

    Args:
        root: Folder with label and difference files or ``Static/{original,labels_with_ROI}``; by default
            ``$ANOMALY_SUITE_DATA/fishyscapes``, or ``data/fishyscapes`` where the variable is not set.
        cityscapes: Folder of Cityscapes, whose validation images the differences are added to; by default
            ``$ANOMALY_SUITE_DATA/cityscapes`` or ``data/cityscapes``.
        eval_batch_size: Scenes per test or predict step and process; more than one only where all have one size.
        num_workers: Loader processes; 0 loads in the main process.

    Raises:
        DatasetNotFoundError: a folder is missing.
        DatasetError: labels, differences and images do not fit together, or there are several versions.
    """

    part = "Static"
    label_name = r"\d{4}_[a-z]+_.*_labels"

    def __init__(
        self, *, root: str | None = None, cityscapes: str | None = None, eval_batch_size: int = 1, num_workers: int = 0
    ) -> None:
        super().__init__(root=root, eval_batch_size=eval_batch_size, num_workers=num_workers)
        self.cityscapes = data_root(cityscapes, "cityscapes")

    def version_of(self, label: Path) -> str:
        """The number at the end of the name of a folder that holds it, the nearest that has one."""
        found = [match[1] for folder in label.resolve().parents if (match := _VERSION.fullmatch(folder.name))]
        return found[0] if found else "unknown"

    def official(self, folder: Path) -> list[Scene]:
        """Labels and differences of the download with the images of Cityscapes.

        Raises:
            DatasetNotFoundError: a folder is missing.
            DatasetError: a label has no image or no difference file.
        """
        images = _images_by_id(self.cityscapes, ("val",))
        scenes = []
        for label in self.official_labels(folder):
            overlay = label.with_name(f"{_KIND.sub('', label.stem)}_rgb.npz")
            if not overlay.is_file():
                raise DatasetError(f"'{label}' has no difference file; looked for '{overlay}'. Complete the download.")
            scenes.append(Scene(_image_of(label, images, self.cityscapes), label, overlay))
        return scenes


def _images_by_id(root: Path, parts: tuple[str, ...]) -> dict[str, Path]:
    found = [path for part in parts for path in image_files(root / "leftImg8bit" / part)]
    if not found:
        raise DatasetNotFoundError(
            f"Fishyscapes takes its images from leftImg8bit/{'|'.join(parts)} in '{root}', which holds none. "
            "Give the folder of the data set that the images come from."
        )
    return _by_id(found)


def _image_of(label: Path, images: dict[str, Path], root: Path) -> Path:
    name = _NUMBER.sub("", _KIND.sub("", label.stem))
    if name not in images:
        raise DatasetError(
            f"'{label}' belongs to the image {name!r}, which '{root}' does not have. Complete that data set."
        )
    return images[name]


def _repackaged(folder: Path) -> list[Scene]:
    with_void = folder / "labels_with_ROI"
    labels = require_images(with_void if with_void.is_dir() else folder / "labels", dataset="Fishyscapes")
    of_label = _by_id(labels)
    images = require_images(folder / "original", dataset="Fishyscapes")
    bare = [path for path in images if _KIND.sub("", path.stem) not in of_label]
    if bare:
        raise DatasetError(f"'{bare[0]}' has no label of its name in '{labels[0].parent}'. Restore the folders' files.")
    _by_id(images)
    return [Scene(path, of_label[_KIND.sub("", path.stem)]) for path in images]


def _by_id(paths: Sequence[Path]) -> dict[str, Path]:
    return by_name(
        paths, lambda path: _KIND.sub("", path.stem), what="files of one scene", advice="Delete the wrong one."
    )

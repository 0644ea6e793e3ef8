"""Road Anomaly: photographs from the web with unusual things on or near roads.

Lis et al., "Detecting the Unexpected via Image Resynthesis", ICCV 2019. Layout: ``<root>/frame_list.json``,
``<root>/frames/<name>.webp`` (or ``.jpg``) and ``<root>/frames/<name>.labels/labels_semantic.png``; repackaged:
``<root>/original/<name>.jpg`` and ``<root>/labels/<name>.png``.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from anomaly_suite.data.scenes.datasets import EvaluationScenes
from anomaly_suite.data.scenes.labels import label_table
from anomaly_suite.data.scenes.module import SceneTestModule
from anomaly_suite.data.scenes.scene_files import Scene, SceneFiles, check_scenes, log_counts, require_labels
from anomaly_suite.errors import DatasetError
from anomaly_suite.io.folders import by_name, data_root, find_root, require_images
from anomaly_suite.io.rows import read_text

TABLE = label_table({0: 0, 1: 0, **dict.fromkeys(range(2, 255), 1)})
REPACKAGED_TABLE = label_table({0: 0, 1: 1})
PUBLISHED = 60  # images


class RoadAnomaly(SceneTestModule):
    """Road Anomaly: 60 photographs with animals, rocks, vehicles out of place; every pixel is scored.

    Not to be confused with RoadAnomaly21 of SegmentMeIfYouCan.

    Args:
        root: Folder with ``frame_list.json``, or with ``original`` and ``labels``; by default
            ``$ANOMALY_SUITE_DATA/road_anomaly``, or ``data/road_anomaly`` where the variable is not set.
        eval_batch_size: Scenes per test or predict step and process; more than one only where all have one size.
        num_workers: Loader processes; 0 loads in the main process.

    Raises:
        DatasetNotFoundError: root is missing.
        DatasetError: a listed image or its label is missing.
    """

    root: Path

    def __init__(self, *, root: str | None = None, eval_batch_size: int = 1, num_workers: int = 0) -> None:
        super().__init__(eval_batch_size=eval_batch_size, num_workers=num_workers)
        self.root = data_root(root, "road_anomaly")

    def read(self) -> EvaluationScenes:
        """All photographs.

        Raises:
            DatasetNotFoundError: root is missing.
            DatasetError: a listed image or its label is missing.
        """
        find_root(
            self.root,
            dataset="RoadAnomaly",
            is_root=lambda folder: (folder / "frame_list.json").is_file() or (folder / "original").is_dir(),
            layout="frame_list.json and frames, or original and labels",
            obtain="The archive comes from the page of the paper.",
        )
        official = (self.root / "frame_list.json").is_file()
        scenes = _official(self.root) if official else _repackaged(self.root)
        require_labels(scenes, labels="the data set")
        log_counts("Road Anomaly", self.root, {"test": len(scenes)}, [PUBLISHED])
        check_scenes(test=scenes)
        return EvaluationScenes(SceneFiles(scenes), tables={"ood_mask": TABLE if official else REPACKAGED_TABLE})


def _official(root: Path) -> list[Scene]:
    """Images of the list, by name: a copy may hold them in another format than the list says."""
    file = root / "frame_list.json"
    try:
        stems = [Path(name).stem for name in json.loads(read_text(file))]
    except (ValueError, TypeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"'{file}' is no list of file names ({error}). Restore the published file.") from error
    repeated = [stem for stem, count in Counter(stems).items() if count > 1]
    if repeated:
        raise DatasetError(f"'{file}' lists {repeated[0]!r} twice. Restore the published file.")
    images = by_name(
        (path for path in require_images(root / "frames", dataset="RoadAnomaly") if path.parent.name == "frames"),
        lambda path: path.stem,
        what="images of one name",
        advice="Delete the wrong one.",
    )
    missing = [stem for stem in stems if stem not in images]
    if missing:
        raise DatasetError(
            f"frame_list.json lists {missing[0]!r}, of which there is no image in '{root / 'frames'}' ({len(missing)} missing). "
            "Complete the data set."
        )
    return [Scene(images[stem], root / "frames" / f"{stem}.labels" / "labels_semantic.png") for stem in stems]


def _repackaged(root: Path) -> list[Scene]:
    images = require_images(root / "original", dataset="RoadAnomaly")
    return [Scene(path, root / "labels" / f"{path.stem}.png") for path in images]

"""RoadAnomaly21 and RoadObstacle21, the two tracks of SegmentMeIfYouCan: few scenes with labels, the others for the server alone.

Chan et al., "SegmentMeIfYouCan: A Benchmark for Anomaly Segmentation", NeurIPS Datasets and Benchmarks 2021. Layout of both:
``<root>/images/<id>.jpg`` (``.webp`` of the obstacles) and ``<root>/labels_masks/<id>_labels_semantic.png``, the latter of validation
scenes alone; ``*_color.png`` beside them are pictures of the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from anomaly_suite.data.scenes.datasets import EvaluationScenes
from anomaly_suite.data.scenes.labels import label_table
from anomaly_suite.data.scenes.module import SceneTestModule
from anomaly_suite.data.scenes.scene_files import (
    Scene,
    SceneFiles,
    UnlabelledFiles,
    check_scenes,
    log_counts,
    require_labels,
)
from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import by_name, data_root, find_root, require_images

TABLE = label_table({0: 0, 1: 1})
VALIDATION = "validation"
LABEL = "_labels_semantic.png"

ANOMALIES = (10, 100)  # validation and hidden scenes
WEATHER = {"snowstorm": ("snowstorm1", "snowstorm2"), "night": ("driveway",)}
ROADS = ("curvy-street", "one-way-street", "gravel", "greyasphalt", "motorway", "paving", "darkasphalt", "darkasphalt2")
OBSTACLES = {"validation": 30, "test": 327, "snowstorm": 55, "night": 30}
LEFT_OUT = ("validation_19", *(f"validation_2{digit}" for digit in range(1, 10)))
"""How the names of validation scenes begin that the benchmark does not score."""


class _Track(SceneTestModule):
    """What both tracks share: ``images`` and ``labels_masks`` in the folder ``published``."""

    published: ClassVar[str]
    root: Path

    def __init__(self, *, root: str | None = None, eval_batch_size: int = 1, num_workers: int = 0) -> None:
        super().__init__(eval_batch_size=eval_batch_size, num_workers=num_workers)
        self.root = data_root(root, self.published)
        self._images: list[Path] = []

    def read(self) -> EvaluationScenes:
        """The scenes with labels.

        Raises:
            DatasetNotFoundError: see the class.
            DatasetError: see the class.
        """
        find_root(
            self.root,
            dataset=type(self).__name__,
            is_root=lambda folder: (folder / "images").is_dir() and (folder / "labels_masks").is_dir(),
            layout="images and labels_masks",
            obtain=f"The archive {self.published} comes from the page of SegmentMeIfYouCan.",
        )
        self._images = list(
            by_name(
                require_images(self.root / "images", dataset=type(self).__name__),
                lambda path: path.stem,
                what="images of one name",
                advice="Delete the wrong one.",
            ).values()
        )
        scored = [path for path in self._images if self.is_scored(path.stem)]
        if not scored:
            raise DatasetNotFoundError(
                f"{type(self).__name__} tests on the scenes {VALIDATION}...; '{self.root / 'images'}' has none. Complete the data set."
            )
        scenes = [Scene(path, self.root / "labels_masks" / f"{path.stem}{LABEL}") for path in scored]
        require_labels(scenes, labels="labels_masks")
        self.check(self._images)
        check_scenes(test=scenes)
        return EvaluationScenes(SceneFiles(scenes), tables={"ood_mask": TABLE})

    def read_hidden(self) -> EvaluationScenes:
        """The scenes that ``predict`` scores, without labels."""
        return EvaluationScenes(
            UnlabelledFiles([path for path in self._images if self.is_predicted(path.stem)]), tables={}
        )

    def is_scored(self, name: str) -> bool:
        """Whether a scene has a label that counts."""
        return name.startswith(VALIDATION)

    def is_predicted(self, name: str) -> bool:
        """Whether ``predict`` takes a scene.

        Raises:
            NotImplementedError: the track does not define it.
        """
        raise NotImplementedError

    def check(self, images: Sequence[Path]) -> None:
        """Say how many there are, and refuse what does not belong.

        Raises:
            NotImplementedError: the track does not define it.
        """
        raise NotImplementedError


class RoadAnomaly21(_Track):
    """RoadAnomaly21: photographs of roads with anomalies of any size; 10 have labels, those of 100 the server keeps.

    A test scores the validation scenes. ``predict`` scores all, or the hidden ones alone, and ``BenchmarkMaps`` writes what the server
    takes. Void (255), such as what is seen through an anomaly, is not scored. Not to be confused with ``RoadAnomaly``.

    Args:
        root: Folder with ``images`` and ``labels_masks``; by default ``$ANOMALY_SUITE_DATA/dataset_AnomalyTrack``, or
            ``data/dataset_AnomalyTrack`` where the variable is not set.
        predicted: What ``predict`` scores: ``all`` scenes, as a submission has them, or the hidden ones (``test``).
        eval_batch_size: Scenes per test or predict step and process; more than one only where all have one size.
        num_workers: Loader processes; 0 loads in the main process.

    Raises:
        DatasetNotFoundError: root or the validation scenes are missing.
        DatasetError: a validation scene has no label, or a label holds colours or other numbers.
    """

    published = "dataset_AnomalyTrack"
    submission = "AnomalyTrack-all"

    def __init__(
        self,
        *,
        root: str | None = None,
        predicted: Literal["all", "test"] = "all",
        eval_batch_size: int = 1,
        num_workers: int = 0,
    ) -> None:
        super().__init__(root=root, eval_batch_size=eval_batch_size, num_workers=num_workers)
        self.predicted = predicted

    def is_predicted(self, name: str) -> bool:
        """All scenes, or those without labels."""
        return self.predicted == "all" or not self.is_scored(name)

    def check(self, images: Sequence[Path]) -> None:
        """Any name may be that of a hidden scene."""
        scored = sum(self.is_scored(path.stem) for path in images)
        log_counts("RoadAnomaly21", self.root, {"validation": scored, "hidden": len(images) - scored}, ANOMALIES)


class RoadObstacle21(_Track):
    """RoadObstacle21: obstacles on roads; 30 validation scenes have labels, those of the hidden ones the server keeps.

    The road and the obstacles are scored, all else (255) is not. Hidden scenes are 327 of the test, 55 in snow and 30 at night, told
    by the name up to its first ``_``. The benchmark leaves out validation scenes whose names begin with ``validation_19`` or
    ``validation_21`` to ``validation_29``, and so does a test.

    Args:
        root: Folder with ``images`` and ``labels_masks``; by default ``$ANOMALY_SUITE_DATA/dataset_ObstacleTrack``, or
            ``data/dataset_ObstacleTrack`` where the variable is not set.
        predicted: What ``predict`` scores: ``all`` scenes, as a submission has them, or the hidden ones of the ``test``, in the
            ``snowstorm`` or at ``night``.
        eval_batch_size: Scenes per test or predict step and process; more than one only where all have one size.
        num_workers: Loader processes; 0 loads in the main process.

    Raises:
        DatasetNotFoundError: root or the validation scenes are missing.
        DatasetError: a validation scene has no label, a label holds colours or other numbers, or a name is of no scene.
    """

    published = "dataset_ObstacleTrack"
    submission = "ObstacleTrack-all"

    def __init__(
        self,
        *,
        root: str | None = None,
        predicted: Literal["all", "test", "snowstorm", "night"] = "all",
        eval_batch_size: int = 1,
        num_workers: int = 0,
    ) -> None:
        super().__init__(root=root, eval_batch_size=eval_batch_size, num_workers=num_workers)
        self.predicted = predicted

    def is_scored(self, name: str) -> bool:
        """Validation scenes, but for those that the benchmark leaves out."""
        return part_of(name) == "validation" and not name.startswith(LEFT_OUT)

    def is_predicted(self, name: str) -> bool:
        """All scenes, or those of one part."""
        return self.predicted in ("all", part_of(name))

    def check(self, images: Sequence[Path]) -> None:
        """Count the parts.

        Raises:
            DatasetError: an image of no scene of the track.
        """
        strange = [path for path in images if part_of(path.stem) is None]
        if strange:
            raise DatasetError(
                f"images of RoadObstacle21 must be of the scenes {', '.join((*ROADS, *sum(WEATHER.values(), ()), VALIDATION))}; got "
                f"'{strange[0]}' ({len(strange)} such images). Take them out, or give them their published names."
            )
        found = {part: sum(part_of(path.stem) == part for path in images) for part in OBSTACLES}
        found["validation"] = sum(self.is_scored(path.stem) for path in images)
        log_counts("RoadObstacle21", self.root, found, list(OBSTACLES.values()))


def part_of(name: str) -> str | None:
    """The part of RoadObstacle21 that a scene belongs to; None if there is no such scene.

    Example:
        >>> part_of("gravel_12"), part_of("snowstorm2_3"), part_of("validation_1"), part_of("beach_1")
        ('test', 'snowstorm', 'validation', None)
    """
    scene = name.partition("_")[0]
    weather = next((part for part, scenes in WEATHER.items() if scene in scenes), None)
    return "test" if scene in ROADS else VALIDATION if scene == VALIDATION else weather

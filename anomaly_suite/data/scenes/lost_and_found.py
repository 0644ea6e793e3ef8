"""Lost and Found: small obstacles left on the road.

Pinggera et al., "Lost and Found: Detecting Small Road Hazards for Self-Driving Vehicles", IROS 2016. Layout:
``<root>/leftImg8bit/<part>/<scene>/<id>_leftImg8bit.png`` and
``<root>/gtCoarse/<part>/<scene>/<id>_gtCoarse_{labelIds,labelTrainIds}.png``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from anomaly_suite.data.scenes.datasets import EvaluationScenes
from anomaly_suite.data.scenes.labels import label_table, read_label
from anomaly_suite.data.scenes.module import SceneTestModule
from anomaly_suite.data.scenes.scene_files import Scene, SceneFiles, check_scenes, find_scenes, log_counts
from anomaly_suite.errors import ConfigError, DatasetNotFoundError
from anomaly_suite.io.folders import data_root, find_root

ROAD, OBJECTS = 1, range(2, 44)
NON_HAZARDS = (31, 33, 34, 36, 37, 38, 39)  # lying poles, posts, timber, a wheel cap, thin wood
PUBLISHED = 1203  # test images
OBTAIN = "leftImg8bit.zip and gtCoarse.zip come from the Lost and Found page; unpack both in one folder."

# Road and obstacles alone; non-hazards are not scored. The published training ids say the same in other numbers.
A_LABEL_IDS = label_table(
    {ROAD: 0, **{number: 1 for number in OBJECTS if number not in NON_HAZARDS}}, void={0, *NON_HAZARDS}
)
A_TRAIN_IDS = label_table({1: 0, 2: 1}, void=[0])
B_LABEL_IDS = label_table({ROAD: 0, **dict.fromkeys(OBJECTS, 1)}, void=[0])
C_LABEL_IDS = label_table({0: 0, ROAD: 0, **dict.fromkeys(OBJECTS, 1)})

# Frames whose labels are all 0, by position in the complete test part; from the code of SegmentMeIfYouCan.
UNLABELLED = (17, 37, 55, 72, 91, 110, 129, 153, 174, 197, 218, 353, 490, 618, 686, 792, 793)
KNOWN = "15_Rechbergstr_Deckenpfronn"  # children; the bicycles that the same code drops are in the training part


class LostAndFound(SceneTestModule):
    """Lost and Found, test part: 1203 street scenes with small obstacles on the road.

    Protocols differ in what is scored, so their numbers cannot be compared. ``A`` (PEBAL, Meta-OoD): road against
    obstacles; all else, and objects that are no hazard, are left out. ``B`` (SegmentMeIfYouCan): as ``A``, but all
    objects count, and 17 frames without labels are dropped from a complete copy. ``C`` (SynBoost): obstacles against
    everything else inside a region of interest.

    Args:
        root: Folder with ``leftImg8bit`` and ``gtCoarse``; by default ``$ANOMALY_SUITE_DATA/lost_and_found``, or
            ``data/lost_and_found`` where the variable is not set.
        protocol: See above.
        drop_known: Drop the scene with children, a class of Cityscapes (``NoKnown`` of protocol ``B``).
        region: For ``C``, an image of the size of the scenes that is not 0 where pixels are scored, such as
            ``LAF_roi_2048.png`` of SegmentMeIfYouCan's code.
        eval_batch_size: Scenes per test or predict step and process; more than one only where all have one size.
        num_workers: Loader processes; 0 loads in the main process.

    Raises:
        ConfigError: an unknown protocol, or ``region`` without ``C`` or the other way round.
        DatasetNotFoundError: root or the test part is missing.
        DatasetError: an image has no label, or a label file holds numbers of another kind.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        protocol: Literal["A", "B", "C"] = "A",
        drop_known: bool = False,
        region: str | None = None,
        eval_batch_size: int = 1,
        num_workers: int = 0,
    ) -> None:
        super().__init__(eval_batch_size=eval_batch_size, num_workers=num_workers)
        if protocol not in ("A", "B", "C"):
            raise ConfigError(f"protocol of LostAndFound is A, B or C; got {protocol!r}.")
        if (region is not None) != (protocol == "C"):
            raise ConfigError(
                f"protocol: C and region belong together; got protocol: {protocol}, region: {region}. "
                "C needs an image that says which pixels are scored."
            )
        self.root = data_root(root, "lost_and_found")
        self.protocol = protocol
        self.drop_known = drop_known
        self.region = region

    def read(self) -> EvaluationScenes:
        """The test scenes with the labels of the protocol.

        Raises:
            DatasetNotFoundError: root or the test part is missing, or ``drop_known`` leaves nothing.
            DatasetError: see the class.
        """
        find_lost_and_found(self.root)
        by_name = find_scenes(self.root, "test", truth="gtCoarse", labels="labelIds")
        table = {"A": A_LABEL_IDS, "B": B_LABEL_IDS, "C": C_LABEL_IDS}[self.protocol]
        if self.protocol == "A":
            by_train_ids = [_with_train_ids(scene) for scene in by_name]
            if all(scene.label.is_file() for scene in by_train_ids):
                by_name, table = by_train_ids, A_TRAIN_IDS
        scenes = sorted(by_name, key=lambda scene: scene.image.name)
        log_counts("Lost and Found", self.root, {"test": len(scenes)}, [PUBLISHED])
        if len(scenes) == PUBLISHED and self.protocol == "B":
            scenes = [scene for position, scene in enumerate(scenes) if position not in UNLABELLED]
        if self.drop_known:
            scenes = [scene for scene in scenes if scene.image.parent.name != KNOWN]
        if not scenes:
            raise DatasetNotFoundError(f"'{self.root}' holds no test scene but '{KNOWN}'. Use drop_known: false.")
        check_scenes(test=scenes)
        region = None if self.region is None else read_label(Path(self.region).expanduser()) > 0
        return EvaluationScenes(SceneFiles(scenes), tables={"ood_mask": table}, region=region)


def find_lost_and_found(root: Path) -> None:
    """Check that a folder is the root of Lost and Found.

    Raises:
        DatasetNotFoundError: it is not; see :func:`~anomaly_suite.io.folders.find_root`.
    """
    find_root(
        root,
        dataset="LostAndFound",
        is_root=lambda folder: (folder / "leftImg8bit" / "test").is_dir() and (folder / "gtCoarse").is_dir(),
        layout="leftImg8bit/test and gtCoarse",
        obtain=OBTAIN,
    )


def _with_train_ids(scene: Scene) -> Scene:
    return scene._replace(label=scene.label.with_name(scene.label.name.replace("_labelIds", "_labelTrainIds")))

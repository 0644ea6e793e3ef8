"""XD-Violence: untrimmed films, streets and sports with six kinds of violence.

Wu et al., "Not only Look, but also Listen: Learning Multimodal Violence Detection under Weak Supervision", ECCV 2020. Layout:
``<root>/i3d-features/{RGB,RGBTest,Flow,FlowTest}/<video>__<crop>.npy``, five files of shape (T, 1024) a video, and
``annotations.txt``.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Literal

from anomaly_suite.contract import SEGMENTS, SNIPPET_FRAMES, Validation
from anomaly_suite.data.videos.feature_files import Layout, Video, find_features, require_features, snippets_of
from anomaly_suite.data.videos.frame_truth import LengthRule, mark_events
from anomaly_suite.data.videos.lists import choose_names, find_folders, read_lines, split_name
from anomaly_suite.data.videos.module import VideoFeatures, log_counts
from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import data_root

log = logging.getLogger(__name__)

OBTAIN = "The authors of XD-Violence offer features and annotations.txt on the page of their data set."
PUBLISHED = (2049, 1905, 300, 500)  # normal and anomalous training videos, normal and anomalous test videos


class XDViolence(VideoFeatures):
    """XD-Violence videos: 3,954 for training and 800 for testing, five crops each.

    A video is normal exactly when its name contains ``_label_A``. Truth has 16 frames per snippet, as the released ground truth
    has, so ``length_rule`` changes nothing.

    Args:
        root: Folder of all that follows; by default ``$ANOMALY_SUITE_DATA/xd_violence``, or ``data/xd_violence`` where the
            variable is not set.
        features: ``rgb`` or ``flow`` of width 1024, or ``both``, RGB first; snippets that flow lacks are left out.
        train_rgb: Folder of the RGB features of training videos, relative to root.
        test_rgb: Folder of the RGB features of test videos.
        train_flow: Folder of the flow features of training videos.
        test_flow: Folder of the flow features of test videos.
        train_list: File of training videos, one name or path per line (or one for each crop), relative to root; None takes
            all in the folder.
        test_list: The same for test videos.
        annotation: File of the events of violent test videos, relative to root.
        segments: Parts to which a video is averaged in training.
        layout: Axes of three-dimensional files: ``snippets_first`` (T, C, D) or ``crops_first`` (C, T, D).
        length_rule: What happens to truth and features of different lengths: ``cut`` both or ``extend`` the truth.
        standardize: Give features mean 0 and variance 1 over the snippets of normal training videos.
        batches_per_epoch: Training batches of an epoch; as many as the larger class fills if None.
        cache: Folder where pooled training videos are kept; None reads the whole files every time.
        train_batch_size: Normal videos, and as many anomalous ones, per training step and process.
        eval_batch_size: Whole videos per validation, test or predict step and process.
        num_workers: Loader processes; 0 loads in the main process.
        seed: Decides the validation split and the order of training videos.
        validation: ``holdout`` keeps ``val_size`` of the training videos of each class; ``test`` takes the test videos; ``none``.
        val_size: A fraction of the training videos of each class, or a count if an integer.

    Raises:
        DatasetNotFoundError: root, a list, features or the annotation of a video is missing.
        DatasetError: a name without ``_label_``, or an annotation that cannot be read or does not fit.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        features: Literal["rgb", "flow", "both"] = "rgb",
        train_rgb: str = "i3d-features/RGB",
        test_rgb: str = "i3d-features/RGBTest",
        train_flow: str = "i3d-features/Flow",
        test_flow: str = "i3d-features/FlowTest",
        train_list: str | None = None,
        test_list: str | None = None,
        annotation: str = "annotations.txt",
        segments: int = SEGMENTS,
        layout: Layout = "snippets_first",
        length_rule: LengthRule = "cut",
        standardize: bool = False,
        batches_per_epoch: int | None = None,
        cache: str | None = None,
        train_batch_size: int = 32,
        eval_batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        validation: Validation = "holdout",
        val_size: int | float = 0.1,
    ) -> None:
        super().__init__(
            segments=segments, layout=layout, length_rule=length_rule, standardize=standardize,
            batches_per_epoch=batches_per_epoch, cache=cache, train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed, validation=validation,
            val_size=val_size,
        )  # fmt: skip
        self.root = data_root(root, "xd_violence")
        self.features = features
        self.train_folders = self._chosen(train_rgb, train_flow)
        self.test_folders = self._chosen(test_rgb, test_flow)
        self.train_list = train_list
        self.test_list = test_list
        self.annotation = annotation

    def _chosen(self, rgb: str, flow: str) -> list[str]:
        return {"rgb": [rgb], "flow": [flow], "both": [rgb, flow]}[self.features]

    def read(self) -> tuple[list[Video], list[Video]]:
        """Listed videos, with the events of those for testing.

        Raises:
            DatasetNotFoundError: see the class.
            DatasetError: see the class.
        """
        find_folders(self.root, self.train_folders + self.test_folders, dataset="XDViolence", obtain=OBTAIN)
        train = self._videos(self.train_list, self.train_folders)
        test = self._videos(self.test_list, self.test_folders)
        events = self._annotations()
        for video in test:
            if video.label and video.name not in events:
                raise DatasetNotFoundError(
                    f"'{self.root / self.annotation}' has no event of the violent test video {video.name!r}. {OBTAIN}"
                )
        log_counts("XD-Violence", train, test, PUBLISHED)
        unused = len(events.keys() - {video.name for video in test})
        if unused:
            log.info("%d annotated videos are not in the test part", unused)
        return train, [self._with_truth(video, events[video.name]) if video.label else video for video in test]

    def _videos(self, listed: str | None, folders: list[str]) -> list[Video]:
        found = [find_features(self.root / folder, dataset="XDViolence", obtain=OBTAIN) for folder in folders]
        names, source = choose_names(
            self.root,
            listed,
            list(found[0]),
            source=f"'{self.root / folders[0]}'",
            dataset="XDViolence",
            obtain=OBTAIN,
        )
        for folder, files in zip(folders, found, strict=True):
            require_features(names, files, folder=self.root / folder, source=source)
        return [
            Video(name, _label(name, source), found[0][name], beside=found[1][name] if len(found) > 1 else ())
            for name in names
        ]

    def _annotations(self) -> dict[str, list[tuple[int, int]]]:
        """Events of every violent test video: first frame from 0, and the frame after the last."""
        file = self.root / self.annotation
        events: dict[str, list[tuple[int, int]]] = {}
        for line in read_lines(file, dataset="XDViolence", obtain=OBTAIN):
            found = re.fullmatch(r"(\S+)((?:\s+\d+\s+\d+)+)", line)
            name = split_name(found[1])[0] if found else ""
            if found is None or name in events or not _label(name, f"'{file}'"):
                raise DatasetError(
                    f"'{file}' has the line {line!r}; expected the name of a violent video, once, and pairs of frame numbers. "
                    "Restore the published annotation."
                )
            numbers = [int(word) for word in found[2].split()]
            events[name] = list(zip(numbers[::2], numbers[1::2], strict=True))
        return events

    def _with_truth(self, video: Video, events: list[tuple[int, int]]) -> Video:
        frames = SNIPPET_FRAMES * snippets_of(video, self.layout)
        return video._replace(frame_label=mark_events(events, frames, video=video.name))


def _label(name: str, source: str) -> int:
    if "_label_" not in name:
        raise DatasetError(
            f"video {name!r} in {source} has no label in its name (_label_A is normal, _label_B1-0-0 fighting). "
            "Restore the published names."
        )
    return int("_label_A" not in name)

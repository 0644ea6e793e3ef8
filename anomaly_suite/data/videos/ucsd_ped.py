"""UCSD pedestrian walkways under weak supervision: clips with bicycles, skaters and carts among people who walk.

Mahadevan et al., "Anomaly Detection in Crowded Scenes", CVPR 2010; protocol of Zhong et al., "Graph Convolutional Label Noise
Cleaner", CVPR 2019. Layout: ``<root>/UCSDped2/Train/Train001/001.tif``, ``Test/Test001/001.tif``, pixel masks
``Test/Test001_gt/001.bmp``, frame truth ``Test/UCSDped2.m``, and one feature file for each clip, ``Train001.npy``, in a folder
of its own.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from anomaly_suite.contract import SEGMENTS, Validation
from anomaly_suite.data.videos.feature_files import Layout, Video, find_features, require_features
from anomaly_suite.data.videos.frame_truth import LengthRule, mark_events
from anomaly_suite.data.videos.module import VideoFeatures
from anomaly_suite.data.videos.ucsd_clips import OBTAIN, annotated_spans
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import by_name, data_root, find_root, image_files, subfolders
from anomaly_suite.io.images import read_mask
from anomaly_suite.io.videos import frame_files

log = logging.getLogger(__name__)

FOLDERS = {"ped1": "UCSDped1", "ped2": "UCSDped2"}
PUBLISHED = {"ped1": (34, 36), "ped2": (16, 12)}  # normal and anomalous clips


class UCSDPedWeak(VideoFeatures):
    """UCSD Ped1 or Ped2 with labels of clips: some are drawn for training, all others are for testing.

    ``Train`` holds normal clips, every clip in ``Test`` has anomalies. Figures are means over ten random splits, here
    ``split: 0`` to ``9``, with ``validation: none``; the seed does not change a split. Ped1 is drawn the same way, though no
    such figures are published for it.

    Args:
        root: Folder that holds ``UCSDped1`` or ``UCSDped2``; by default ``$ANOMALY_SUITE_DATA/ucsd/UCSD_Anomaly_Dataset.v1p2``,
            or the same in ``data`` where the variable is not set.
        subset: Which of the two walkways.
        features: Folder of the features of all clips, as extract-features makes them, relative to root; by default
            ``features`` in the subset's folder.
        split: Which random split, from 0.
        train_normal: Normal clips for training.
        train_anomalous: Anomalous clips for training.
        truth: Frame truth from the ``annotation`` in the ``.m`` file, or from the pixel ``masks``, where a frame with any
            anomalous pixel is anomalous. Ped1 has masks of ten clips only.
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
        ConfigError: a negative split, or no clips left for training or testing.
        DatasetNotFoundError: root, clips, features, masks or the annotation are missing.
        DatasetError: an annotation that cannot be read, or masks that do not fit the frames.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        subset: Literal["ped1", "ped2"] = "ped2",
        features: str | None = None,
        split: int = 0,
        train_normal: int = 4,
        train_anomalous: int = 6,
        truth: Literal["annotation", "masks"] = "annotation",
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
        if split < 0:
            raise ConfigError(f"split must be at least 0; got {split}. Published figures are means over ten splits.")
        self.root = data_root(root, "ucsd/UCSD_Anomaly_Dataset.v1p2")
        self.subset = subset
        self.features = features
        self.split = split
        self.train_normal = train_normal
        self.train_anomalous = train_anomalous
        self.truth = truth

    def read(self) -> tuple[list[Video], list[Video]]:
        """Clips of this split, those for testing with frame truth.

        Raises:
            ConfigError: no clips left for training or testing.
            DatasetNotFoundError: see the class.
            DatasetError: see the class.
        """
        clips = self.clips()
        names = [name for part in clips for name in part]
        where = self._folder / "features" if self.features is None else self.root / self.features
        obtain = f"Make them with: anomaly-suite extract-features, from the clips in '{self._folder}'."
        found = find_features(where, dataset="UCSDPedWeak", obtain=obtain)
        require_features(names, found, folder=where, source=f"'{self._folder}'")
        train: list[Video] = []
        test: list[Video] = []
        rng = np.random.default_rng(self.split)
        for label, (part, count) in enumerate(zip(clips, (self.train_normal, self.train_anomalous), strict=True)):
            if not 0 < count < len(part):
                kind = ("normal", "anomalous")[label]
                raise ConfigError(
                    f"train_{kind} must be 1 to {len(part) - 1}, since there are {len(part)} {kind} clips; got {count}."
                )
            rows = rng.permutation(len(part))
            videos = [Video(name, label, found[name]) for name in part]
            train += [videos[row] for row in sorted(rows[:count])]
            test += [videos[row] for row in sorted(rows[count:])]
        truth = self.frame_truth()
        return train, [video._replace(frame_label=truth[video.name]) for video in test]

    def clips(self) -> tuple[list[str], list[str]]:
        """Names of all normal and all anomalous clips, sorted.

        Raises:
            DatasetNotFoundError: root or clips are missing.
        """
        find_root(
            self.root,
            dataset="UCSDPedWeak",
            is_root=lambda folder: (folder / FOLDERS[self.subset]).is_dir(),
            layout=f"the folder {FOLDERS[self.subset]}",
            obtain=OBTAIN,
        )
        normal, anomalous = (self._clips(part) for part in ("Train", "Test"))
        log.info("'%s': %d normal and %d anomalous clips", self._folder, len(normal), len(anomalous))
        if (len(normal), len(anomalous)) != PUBLISHED[self.subset]:
            log.info("%s has published %d and %d", FOLDERS[self.subset], *PUBLISHED[self.subset])
        return normal, anomalous

    def frame_truth(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Whether each frame of each clip is anomalous, shape (frames,), by name of the clip.

        Raises:
            DatasetNotFoundError: frames, masks or the annotation are missing.
            DatasetError: an annotation that cannot be read, or masks that do not fit the frames.
        """
        normal, anomalous = (self._clips(part) for part in ("Train", "Test"))
        truth = {name: np.zeros(self._frames("Train", name), np.bool_) for name in normal}
        if self.truth == "masks":
            return truth | {name: self._from_masks(name) for name in anomalous}
        return truth | self._from_annotation(anomalous)

    @property
    def _folder(self) -> Path:
        return self.root / FOLDERS[self.subset]

    def _clips(self, part: str) -> list[str]:
        names = [path.name for path in subfolders(self._folder / part) if re.fullmatch(rf"{part}\d+", path.name)]
        if not names:
            raise DatasetNotFoundError(f"UCSDPedWeak expects clips {part}001, ... in '{self._folder / part}'. {OBTAIN}")
        return names

    def _frames(self, part: str, name: str) -> int:
        frames = len(frame_files(self._folder / part / name))
        if not frames:
            raise DatasetNotFoundError(f"clip '{self._folder / part / name}' has no frames. {OBTAIN}")
        return frames

    def _from_annotation(self, names: list[str]) -> dict[str, npt.NDArray[np.bool_]]:
        """Truth from the lines ``TestVideoFile{end+1}.gt_frame = [5:90, 140:200];``, one for each clip in order."""
        file = self._folder / "Test" / f"{FOLDERS[self.subset]}.m"
        found = annotated_spans(file, dataset="UCSDPedWeak")
        truth = {}
        for name in names:
            number = int(name.removeprefix("Test"))
            if not 0 < number <= len(found):
                raise DatasetError(f"'{file}' annotates {len(found)} clips, so not {name}. Restore the published file.")
            truth[name] = mark_events(found[number - 1], self._frames("Test", name), video=name)
        return truth

    def _from_masks(self, name: str) -> npt.NDArray[np.bool_]:
        folder = self._folder / "Test" / f"{name}_gt"
        frames = self._frames("Test", name)
        masks = by_name(
            image_files(folder),
            lambda path: int("0" + re.sub(r"\D", "", path.stem)),
            what="masks of one frame",
            advice="Delete the wrong one, or set truth: annotation.",
        )
        if not masks:
            raise DatasetNotFoundError(
                f"UCSDPedWeak expects pixel masks in '{folder}', which holds none. Set truth: annotation, or complete the masks."
            )
        if sorted(masks) != list(range(1, frames + 1)):
            raise DatasetError(
                f"'{folder}' must hold one mask for each of {frames} frames, named 001 to {frames:03d}; got {len(masks)}. "
                "Complete the masks, or set truth: annotation."
            )
        return np.array([read_mask(masks[frame], anomalous=None).any() for frame in sorted(masks)])

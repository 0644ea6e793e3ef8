"""Colonoscopy videos with and without polyps, from Hyper-Kvasir and LDPolypVideo.

Tian et al., "Contrastive Transformer-based Multiple Instance Learning for Weakly Supervised Polyp Frame Detection", MICCAI 2022.
Layout: ``<root>/train_set/colon_i3d_feature_train_{normal,abnormal}/*.npy``, ``test_set/colon_i3d_feature_test_{normal,abnormal}``
with the same, and ``gt-colon.npy``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from anomaly_suite.contract import SEGMENTS, Validation
from anomaly_suite.data.videos.feature_files import Layout, Video
from anomaly_suite.data.videos.frame_truth import LengthRule, read_truth, split_series
from anomaly_suite.data.videos.lists import find_folders
from anomaly_suite.data.videos.module import VideoFeatures, log_counts
from anomaly_suite.errors import DatasetNotFoundError
from anomaly_suite.io.folders import data_root, is_junk

OBTAIN = "Features and gt-colon.npy come with the released code of the paper; their owners allow research only."
PUBLISHED = (61, 102, 30, 60)  # normal and anomalous training videos, normal and anomalous test videos


class PolypVideo(VideoFeatures):
    """Colonoscopy videos: 163 for training and 90 for testing; those with polyps are anomalous.

    The label is that of the folder. The released truth has 16 frames per snippet, so ``length_rule`` changes nothing there.

    Args:
        root: Folder of all that follows; by default ``$ANOMALY_SUITE_DATA/polyp_video``, or ``data/polyp_video`` where the
            variable is not set.
        truth: Frame truth of test videos, relative to root: one file for all of them, first the normal ones and then the
            others, each sorted by file name; or a folder with a file ``<name>.npy`` for each anomalous video.
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
        DatasetNotFoundError: root, features or truth are missing.
        DatasetError: truth and features do not fit together.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        truth: str = "gt-colon.npy",
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
        self.root = data_root(root, "polyp_video")
        self.truth = truth

    def read(self) -> tuple[list[Video], list[Video]]:
        """All videos, those for testing with frame truth.

        Raises:
            DatasetNotFoundError: see the class.
            DatasetError: see the class.
        """
        find_folders(self.root, ("train_set", "test_set"), dataset="PolypVideo", obtain=OBTAIN)
        train = self._videos("train", "normal") + self._videos("train", "abnormal")
        test = self._videos("test", "normal") + self._videos("test", "abnormal")
        log_counts("PolypVideo", train, test, PUBLISHED)
        where = self.root / self.truth
        if not where.exists():
            raise DatasetNotFoundError(f"PolypVideo expects frame truth at '{where}', which does not exist. {OBTAIN}")
        return train, self._from_folder(test, where) if where.is_dir() else self._from_series(test, where)

    def _videos(self, part: Literal["train", "test"], kind: Literal["normal", "abnormal"]) -> list[Video]:
        folder = self.root / f"{part}_set" / f"colon_i3d_feature_{part}_{kind}"
        files = [path for path in sorted(folder.glob("*.npy")) if not is_junk(path.name)]
        if not files:
            state = "holds no .npy file" if folder.is_dir() else "does not exist"
            raise DatasetNotFoundError(f"PolypVideo expects snippet features in '{folder}', which {state}. {OBTAIN}")
        # Files of different folders may have the same name.
        return [Video(f"{part}/{kind}/{path.stem}", int(kind == "abnormal"), path) for path in files]

    def _from_folder(self, videos: list[Video], folder: Path) -> list[Video]:
        return [
            video._replace(frame_label=read_truth(folder / f"{video.files[0].stem}.npy")) if video.label else video
            for video in videos
        ]

    def _from_series(self, videos: list[Video], file: Path) -> list[Video]:
        instead = "set truth to a folder with one file for each anomalous video"
        truth = split_series(file, videos, self.layout, instead=instead)
        return [video._replace(frame_label=truth[video.name]) for video in videos]

"""Colonoscopy videos with and without polyps, from Hyper-Kvasir and LDPolypVideo.

Tian et al., "Contrastive Transformer-based Multiple Instance Learning for Weakly Supervised Polyp Frame Detection", MICCAI 2022.
Layout: ``<root>/train_set/colon_i3d_feature_train_{normal,abnormal}/*.npy``, ``test_set/colon_i3d_feature_test_{normal,abnormal}``
with the same, and ``gt-colon.npy``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from anomaly_suite.data.files import data_root, find_root, is_junk
from anomaly_suite.data.videos.features import Video, VideoFeatures, snippets_of
from anomaly_suite.data.videos.lists import log_counts, read_truth
from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.snippets import SNIPPET_FRAMES

OBTAIN = "Features and gt-colon.npy come with the released code of the paper; their owners allow research only."
PUBLISHED = (61, 102, 30, 60)  # normal and anomalous training videos, normal and anomalous test videos


class PolypVideo(VideoFeatures):
    """Colonoscopy videos: 163 for training and 90 for testing; those with polyps are anomalous.

    The label is that of the folder. The released truth has 16 frames a snippet, so ``length_rule`` changes nothing there.

    Args:
        root: Folder of all that follows; by default ``$ANOMALY_SUITE_DATA/polyp_video``, or ``data/polyp_video`` where the
            variable is not set.
        truth: Frame truth of test videos, relative to root: one file for all of them, first the normal ones and then the
            others, each sorted by file name; or a folder with a file ``<name>.npy`` for each anomalous video.
        options: Options of :class:`~anomaly_suite.data.videos.features.VideoFeatures`.

    Raises:
        DatasetNotFoundError: root, features or truth are missing.
        DatasetError: truth and features do not fit together.
    """

    def __init__(self, *, root: str | None = None, truth: str = "gt-colon.npy", **options: Any) -> None:
        super().__init__(**options)
        self.root = data_root(root, "polyp_video")
        self.truth = truth

    def read(self) -> tuple[list[Video], list[Video]]:
        """All videos, those for testing with frame truth."""
        find_root(
            self.root,
            dataset="PolypVideo",
            is_root=lambda folder: any((folder / f"{part}_set").is_dir() for part in ("train", "test")),
            layout="the folders train_set and test_set",
            obtain=OBTAIN,
        )
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
        series = read_truth(file)
        frames = [SNIPPET_FRAMES * snippets_of(video, self.layout) for video in videos]
        if len(series) != sum(frames):
            raise DatasetError(
                f"'{file}' has {len(series)} frames, the features of {len(videos)} test videos {sum(frames)}. Complete the test "
                "features, or set truth to a folder with one file for each anomalous video."
            )
        parts = np.split(series, np.cumsum(frames)[:-1])
        for video, part in zip(videos, parts, strict=True):
            if part.any() and not video.label:
                raise DatasetError(
                    f"'{file}' has anomalous frames in the normal test video '{video.files[0]}'. Its order is that of the "
                    "published file names: restore them."
                )
        return [video._replace(frame_label=part) for video, part in zip(videos, parts, strict=True)]

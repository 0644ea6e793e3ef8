"""Video data sets in memory, and the parts of a data set as the tests read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from anomaly_suite.contract import Batch, Splits
from anomaly_suite.data.videos.datasets import WholeVideos
from anomaly_suite.data.videos.feature_files import Video
from anomaly_suite.data.videos.module import VideoFeatures


def parts(data: VideoFeatures) -> tuple[WholeVideos, WholeVideos]:
    """Training and test videos."""
    found = data.require_splits()
    assert isinstance(found.train, WholeVideos)
    assert isinstance(found.test, WholeVideos)
    return found.train, found.test


def everything(part: WholeVideos) -> Batch:
    """All videos of a part in one batch."""
    return part.batch(list(range(len(part))))


class Listed(VideoFeatures):
    """A data set of the given videos."""

    def __init__(self, train: list[Video], test: list[Video], **options: Any) -> None:
        super().__init__(**options)
        self.listed = train, test

    def read(self) -> tuple[list[Video], list[Video]]:
        return self.listed


def videos(part: str, normal: int, anomalous: int, *, snippets: int = 8, width: int = 4, crops: int = 2) -> list[Video]:
    """Videos in memory; the first number of all features is the video's own."""
    made = []
    for label, count in enumerate((normal, anomalous)):
        for row in range(count):
            value = torch.rand(crops, snippets, width)
            value[..., 0] = row + 1000 * label
            truth = np.arange(16 * snippets) < 20 if label else None
            made.append(Video(f"{part}/{label}/{row:03d}", label, value, truth))
    return made


def listed(normal: int = 7, anomalous: int = 5, **options: Any) -> Listed:
    """A data set of so many training videos and two test videos of each class, set up."""
    data = Listed(videos("train", normal, anomalous), videos("test", 2, 2), **{"validation": "none", **options})
    data.setup()
    return data


def splits(data: Listed) -> Splits:
    """All parts of a data set."""
    return data.require_splits()


def names(data: Listed, epoch: int = 0) -> list[list[str]]:
    """Names in every training batch of an epoch."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined] # what the trainer does
    return [batch["image_path"] for batch in loader]

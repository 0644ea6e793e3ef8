"""NewVideos: snippet features of videos without labels, with as many frames as the videos have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from anomaly_suite.data.batched_dataset import BatchedDataset
from anomaly_suite.data.videos.datasets import WholeVideos
from anomaly_suite.data.videos.feature_files import Layout, Video
from anomaly_suite.data.videos.scale import Scale


class NewVideo(NamedTuple):
    """A video: what results call it, its features, and its frames, None where they are not known."""

    name: str
    features: Path
    frames: int | None = None


class NewVideos(BatchedDataset):
    """Whole videos without labels.

    Args:
        videos: The videos, all of known frames or none.
        layout: Order of the axes in the files.
        scale: Of the run; None where features are taken as they are.
        unreadable: A sentence for each video that could not be read; said in the first batch.
    """

    def __init__(
        self,
        videos: Sequence[NewVideo],
        *,
        layout: Layout = "snippets_first",
        scale: Scale | None = None,
        unreadable: Sequence[str] = (),
    ) -> None:
        self.videos = videos
        self.unreadable = list(unreadable)
        self._whole = WholeVideos([Video(each.name, 0, each.features) for each in videos], layout=layout, scale=scale)

    def __len__(self) -> int:
        return len(self.videos)

    def batch(self, indices: list[int]) -> Any:
        """Some videos.

        Returns:
            ``snippet_features`` (B, C, T, D), ``length`` (B,), ``image_path``, ``frame_count`` (B,) where frames are known; ``unreadable``.

        Raises:
            DatasetError: features that cannot be used.
        """
        batch: dict[str, Any] = dict(self._whole.batch(indices))
        del batch["label"]  # nobody knows it
        frames = [self.videos[index].frames for index in indices]
        if None not in frames:
            batch["frame_count"] = torch.tensor(frames)
        return {**batch, "unreadable": self.unreadable} if self.unreadable and 0 in indices else batch

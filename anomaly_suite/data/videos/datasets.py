"""Batches of whole videos, and balanced bags of pooled videos for training; nothing is kept beyond a batch.

Axes: B videos, C crops, T snippets, L segments, D feature width, F frames of all videos, one video after another.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anomaly_suite.contract import Batch, pool_segments
from anomaly_suite.data.batched_dataset import BatchedDataset
from anomaly_suite.data.videos.feature_files import Layout, Video, read_pooled, read_video, require_same_shape
from anomaly_suite.data.videos.frame_truth import LengthRule, fit_length
from anomaly_suite.data.videos.scale import Scale
from anomaly_suite.io.atomic import save_array

log = logging.getLogger(__name__)


class WholeVideos(BatchedDataset):
    """Videos with all their snippets, padded to the longest of a batch.

    Args:
        videos: The videos.
        layout: See :func:`open_features`.
        rule: See :func:`fit_length`.
        scale: Applied to all features.
        frames: Give frame truth; a normal video without it is normal throughout.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        *,
        layout: Layout = "snippets_first",
        rule: LengthRule = "cut",
        scale: Scale | None = None,
        frames: bool = False,
    ) -> None:
        self.videos = videos
        self.layout = layout
        self.rule: LengthRule = rule
        self.scale = scale
        self.frames = frames

    def __len__(self) -> int:
        return len(self.videos)

    def features(self, index: int) -> Tensor:
        """Features of one video, scaled.

        Returns:
            Float32, shape (C, T, D).

        Raises:
            DatasetError: its files cannot be used.
        """
        video = self.videos[index]
        features = read_video(video, self.layout)
        if self.scale is None:
            return features
        return self.scale(features) if isinstance(video.source, Tensor) else self.scale.apply_(features)

    def batch(self, indices: list[int]) -> Batch:
        """Some videos.

        Returns:
            ``snippet_features`` (B, C, T, D), 0 after the end of a video, ``length`` (B,), ``label`` (B,) and ``image_path``;
            with frame truth also ``frame_label`` (F,) and ``frame_count`` (B,).

        Raises:
            DatasetError: videos that cannot share a batch, or files or truth that cannot be used.
        """
        videos = [self.videos[index] for index in indices]
        parts = [self.features(index) for index in indices]
        require_same_shape([(video.name, part) for video, part in zip(videos, parts, strict=True)])
        length = [part.shape[1] for part in parts]
        if len(parts) == 1 and not isinstance(videos[0].source, Tensor):
            features = parts[0].unsqueeze(0)  # the batch's own, and perhaps gigabytes
        else:
            features = parts[0].new_zeros(len(parts), parts[0].shape[0], max(length), parts[0].shape[2])
            for row, part in zip(features, parts, strict=True):
                row[:, : part.shape[1]] = part
        batch: Batch = {
            "snippet_features": features,
            "length": torch.tensor(length),
            "label": torch.tensor([video.label for video in videos]),
            "image_path": [video.name for video in videos],
        }
        if self.frames:
            truths = [fit_length(video, count, self.rule) for video, count in zip(videos, length, strict=True)]
            batch["frame_label"] = torch.from_numpy(np.concatenate(truths))
            batch["frame_count"] = torch.tensor([len(truth) for truth in truths])
        return batch


class BalancedBags(BatchedDataset):
    """Pairs of a normal and an anomalous training video, pooled to segments; a batch holds all normal ones first.

    Each class has a new order in every epoch, which the seed decides, and starts again, in another order, where it can fill
    no whole batch. So no video is twice in a batch unless its class is smaller than the batch.

    Args:
        videos: Training videos of both classes.
        segments: L.
        block: Pairs of a batch, of all processes together.
        batches: Batches of an epoch; as many as the larger class fills if None.
        seed: Decides the order.
        cache: Folder for pooled videos, so that each is pooled once; None pools every time.
    """

    def __init__(
        self,
        videos: WholeVideos,
        *,
        segments: int,
        block: int,
        batches: int | None,
        seed: int,
        cache: Path | None = None,
    ) -> None:
        self.videos = videos
        self.segments = segments
        self.block = block
        labels = np.array([video.label for video in videos.videos])
        self.rows = (np.flatnonzero(labels == 0), np.flatnonzero(labels == 1))
        largest = max(map(len, self.rows))
        self.batches = max(1, largest // block) if batches is None else batches
        self.seed = seed
        self.cache = cache
        self.epoch = 0  # the sampler sets it

    def __len__(self) -> int:
        return self.batches * self.block

    def batch(self, indices: list[int]) -> Batch:
        """Some pairs.

        Returns:
            ``snippet_features`` (2B, C, L, D), ``label`` (2B,) and ``image_path``, all normal videos first.

        Raises:
            DatasetError: videos with other crops or another width, or files that cannot be used.
        """
        rows = [int(row) for kind in (0, 1) for row in self._order(kind)[indices]]
        parts = [self._pooled(row) for row in rows]
        videos = [self.videos.videos[row] for row in rows]
        require_same_shape([(video.name, part) for video, part in zip(videos, parts, strict=True)])
        return {
            "snippet_features": torch.stack(parts),
            "label": torch.tensor([video.label for video in videos]),
            "image_path": [video.name for video in videos],
        }

    def _order(self, kind: int) -> npt.NDArray[np.int64]:
        """Row of every pair of this epoch."""
        rows = self.rows[kind]
        rounds = max(1, len(rows) // self.block)  # whole batches before a restart
        orders = []
        for turn in range(-(-self.batches // rounds)):
            order = np.random.default_rng((self.seed, self.epoch, kind, turn)).permutation(rows)
            orders.append(np.resize(order, rounds * self.block))
        return np.concatenate(orders)[: len(self)]

    def _pooled(self, row: int) -> Tensor:
        video = self.videos.videos[row]
        if self.cache is None or isinstance(video.source, Tensor):
            return self._pool(row)
        # A file that was extracted again has another time, a standardised one other numbers.
        states = [(str(file.resolve()), file.stat().st_mtime_ns) for file in video.files + video.beside]
        fingerprint = "" if self.videos.scale is None else self.videos.scale.fingerprint()
        state = f"{states} {self.segments} {self.videos.layout} {fingerprint}"
        pooled = self.cache / f"{hashlib.sha256(state.encode()).hexdigest()[:24]}.npy"
        if pooled.is_file():
            try:
                return torch.from_numpy(np.load(pooled, allow_pickle=False))
            except (OSError, ValueError, EOFError) as error:  # cut by a full disk, or by what else wrote there
                log.warning("'%s' is no whole array (%s): video %r is pooled again", pooled, error, video.name)
        features = self._pool(row)
        save_array(pooled, features.numpy())  # whole at once: several processes may pool the same video
        return features

    def _pool(self, row: int) -> Tensor:
        if self.videos.scale is None:
            return read_pooled(self.videos.videos[row], self.segments, self.videos.layout)
        # Standardised values are clipped, which a mean cannot make up for.
        return pool_segments(self.videos.features(row).unsqueeze(0), self.segments)[0]

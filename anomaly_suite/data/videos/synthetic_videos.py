"""SyntheticVideos: snippet features of videos with planted events and exact frame truth, made in memory from a seed.

Axes: N videos, C crops, T snippets, D feature width.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from anomaly_suite.contract import SEGMENTS, SNIPPET_FRAMES, Batch, Validation
from anomaly_suite.data.batched_dataset import BatchedDataset
from anomaly_suite.data.videos.feature_files import Layout, Video
from anomaly_suite.data.videos.frame_truth import LengthRule
from anomaly_suite.data.videos.module import VideoFeatures
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.seeds import derive_seed

SNIPPET_NOISE = 0.5  # standard deviation of every feature value
EVENT_STRENGTH = 3.0  # length of the vector that an event adds to its snippets
EVENT_KINDS = 3


class SyntheticVideos(VideoFeatures):
    """Snippet features of videos, some with one short event; made from a seed, nothing to download.

    A snippet is ``relu(scene * scene_of_video + 0.5 * noise)`` with standard normal numbers, the first constant over a
    video; the 3 to 6 consecutive snippets of an event add one of three fixed directions before the ReLU. Training videos
    have ``segments`` snippets, test videos 32 to 64 and frame truth with ragged ends.

    Args:
        train_size: Training videos of each class.
        fresh: Make new training videos for every batch instead, so that nothing can be learnt by heart.
        test_size: Test videos of each class.
        feature_dim: D.
        crops: C; crops of a video differ by their noise.
        scene: How much videos differ from one another.
        difficulty: 0 adds events of length 3, towards 1 they fade; in [0, 1).
        segments: Snippets of a training video.
        layout: Has no effect: there are no files.
        length_rule: ``cut``: the frame truth of a test video ends with the video; ``extend`` fills up its last snippet.
        standardize: Give every feature value mean 0 and variance 1 over the snippets of normal training videos.
        batches_per_epoch: Training batches of an epoch; as many as the larger class fills if None.
        cache: Has no effect: there are no files.
        train_batch_size: Videos of each class per training step and process.
        eval_batch_size: Whole videos per validation, test or predict step and process.
        num_workers: Loader processes; 0 loads in the main process.
        seed: Decides all numbers, the split and the order of training videos.
        validation: ``holdout`` keeps ``val_size`` of the training videos; ``test`` validates on the test set; ``none``.
        val_size: Training videos of each class held out for validation: a fraction, or a count if an integer.

    Raises:
        ConfigError: a size or the difficulty is out of range.
    """

    def __init__(
        self,
        *,
        train_size: int = 60,
        fresh: bool = False,
        test_size: int = 40,
        feature_dim: int = 64,
        crops: int = 1,
        scene: float = 0.3,
        difficulty: float = 0.0,
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
        sizes = {"train_size": train_size, "test_size": test_size, "feature_dim": feature_dim, "crops": crops}
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}.")
        if not 0 <= difficulty < 1 or scene < 0:
            raise ConfigError(
                f"difficulty must be in [0, 1) and scene at least 0; got {difficulty} and {scene}. 0 is the easiest."
            )
        self.train_size = train_size
        self.fresh = fresh
        self.test_size = test_size
        self.feature_dim = feature_dim
        self.crops = crops
        self.scene = scene
        self.difficulty = difficulty

    def read(self) -> tuple[list[Video], list[Video]]:
        """Make all videos."""
        train = [self.make("train", row, label) for label in (0, 1) for row in range(self.train_size)]
        test = [self.make("test", row, label) for label in (0, 1) for row in range(self.test_size)]
        return train, test

    def make(self, part: Literal["train", "test", "fresh"], row: int, label: int) -> Video:
        """One video; it depends on the seed and the arguments alone."""
        numbers = Generator().manual_seed(
            derive_seed(self.seed, 10 + ("train", "test", "fresh").index(part), row, label)
        )
        length = self.segments if part != "test" else int(torch.randint(32, 65, (), generator=numbers))
        scene = self.scene * torch.randn(self.feature_dim, generator=numbers)
        value = scene + SNIPPET_NOISE * torch.randn(self.crops, length, self.feature_dim, generator=numbers)
        event = torch.zeros(length, dtype=torch.bool)
        if label:
            duration = min(int(torch.randint(3, 7, (), generator=numbers)), length)
            start = int(torch.randint(length - duration + 1, (), generator=numbers))
            event[start : start + duration] = True
            kind = int(torch.randint(EVENT_KINDS, (), generator=numbers))
            value[:, event] += EVENT_STRENGTH * (1 - self.difficulty) * self._directions()[kind]
        frames = SNIPPET_FRAMES * length - int(torch.randint(SNIPPET_FRAMES, (), generator=numbers))
        truth = np.repeat(event.numpy(), SNIPPET_FRAMES)[:frames]
        name = f"{part}/{('normal', 'anomalous')[label]}/{row:04d}"
        return Video(name, label, value.relu(), truth if part == "test" else None)

    def training_bags(self, *, block: int) -> BatchedDataset:
        """Training bags, new ones in every batch if ``fresh``."""
        bags = super().training_bags(block=block)
        return _FreshBags(self, len(bags)) if self.fresh else bags

    def _directions(self) -> Tensor:
        direction = torch.randn(
            EVENT_KINDS, self.feature_dim, generator=Generator().manual_seed(derive_seed(self.seed))
        )
        return torch.nn.functional.normalize(direction, dim=1)


class _FreshBags(BatchedDataset):
    """Pairs of videos that no other epoch or index has."""

    def __init__(self, data: SyntheticVideos, count: int) -> None:
        self.data = data
        self.count = count
        self.epoch = 0  # the sampler sets it

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: list[int]) -> Batch:
        """Normal videos, then anomalous ones."""
        rows = [self.epoch * self.count + index for index in indices]
        videos = [self.data.make("fresh", row, label) for label in (0, 1) for row in rows]
        features = [video.source for video in videos]
        return {
            "snippet_features": torch.stack(features),  # type: ignore[arg-type] # made in memory: tensors all
            "label": torch.tensor([video.label for video in videos]),
            "image_path": [video.name for video in videos],
        }

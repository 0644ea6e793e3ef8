"""Standardised features: mean 0 and variance 1 over the snippets of normal training videos.

Axes: C crops, T snippets, D feature width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anomaly_suite.data.videos.feature_files import Layout, Video, read_video, require_same_shape

STANDARD_LIMIT = 5.0  # standardised features beyond it say nothing more; rtfm.md's Ped2 experiment


class Scale(NamedTuple):
    """Mean and standard deviation of every feature value over normal training snippets, shapes (D,)."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, videos: Sequence[Video], layout: Layout) -> Scale:
        """Mean and deviation in one pass over the normal videos, in float64.

        Args:
            videos: At least one of them normal.
            layout: Order of axes in the files.

        Raises:
            DatasetError: videos with other crops or another width, or a file that cannot be used.
        """
        total: Any = 0
        square: Any = 0
        count = 0
        first: tuple[str, Tensor] | None = None
        for video in videos:
            if not video.label:
                whole = read_video(video, layout)
                first = first or (video.name, whole[:, :1].clone())  # kept for its shape
                require_same_shape([first, (video.name, whole)])
                for crop in whole:  # in float64, which for all at once would be as much memory again, twice
                    features = crop.double()
                    total, square = total + features.sum(0), square + features.square().sum(0)
                    count += len(features)
        mean = total / count
        deviation = (square / count - mean.square()).clamp_min(0).sqrt()
        return cls(mean.float(), deviation.clamp_min(1e-6).float())

    def __call__(self, features: Tensor) -> Tensor:
        """:meth:`apply_` to a copy."""
        return self.apply_(features.clone())

    def apply_(self, features: Tensor) -> Tensor:
        """Standardise features in place and clip them to 5 standard deviations.

        Args:
            features: Shape (C, T, D).

        Returns:
            The same tensor.
        """
        return features.sub_(self.mean).div_(self.deviation).clamp_(-STANDARD_LIMIT, STANDARD_LIMIT)

    def fingerprint(self) -> str:
        """Checksum of all numbers."""
        return hashlib.sha256(torch.stack(self).numpy().tobytes()).hexdigest()

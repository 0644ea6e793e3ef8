"""Standardised features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from video_parts import Listed, splits, videos

from anomaly_suite.data.videos.datasets import WholeVideos
from anomaly_suite.data.videos.feature_files import Video, read_video
from anomaly_suite.data.videos.scale import Scale
from anomaly_suite.errors import DatasetError

Save = Callable[..., Path]


class TestStandardize:
    def test_normal_training_videos_decide(self, save: Save) -> None:
        normal = [np.random.default_rng(seed).normal(3, 2, (5 + seed, 2, 4)) for seed in range(2)]
        for values in normal:
            values[..., 3] = 7.0  # never varies
        odd = np.full((5, 2, 4), 7.0)
        odd[..., 0] = 1e4
        train = [Video(f"n{i}", 0, save(f"n{i}.npy", values=values)) for i, values in enumerate(normal)]
        train.append(Video("odd", 1, save("odd.npy", values=odd)))
        test = Video("odd test", 1, torch.tensor(odd).float().transpose(0, 1))
        train_set, _, test_set = splits(Listed(train, [test], validation="none", standardize=True))
        rows = np.concatenate([values.reshape(-1, 4) for values in normal])
        wanted = (normal[1] - rows.mean(0))[..., :3] / rows.std(0)[:3]
        got = train_set.batch([1])["snippet_features"][0].transpose(0, 1)  # type: ignore[attr-defined] # a BatchedDataset
        np.testing.assert_allclose(got[..., :3], wanted.clip(-5, 5), atol=1e-5)
        assert not got[..., 3].any()
        scaled = test_set.batch([0])["snippet_features"]  # type: ignore[attr-defined] # a BatchedDataset
        assert (scaled[..., 0] == 5).all()
        assert isinstance(test.source, Tensor)
        assert (test.source[..., 0] == 1e4).all()

    def test_held_out_videos_do_not(self) -> None:
        train = videos("train", 4, 4)
        whole = splits(Listed(train, videos("test", 1, 1), validation="holdout", val_size=1, standardize=True))
        kept = whole.train
        assert isinstance(kept, WholeVideos)
        rows = torch.cat([read_video(video).flatten(0, 1) for video in kept.videos if not video.label]).double()
        assert kept.scale is not None
        np.testing.assert_allclose(kept.scale.mean, rows.mean(0), rtol=1e-6)
        np.testing.assert_allclose(kept.scale.deviation, rows.std(0, correction=0), rtol=1e-5)

    def test_videos_of_different_networks(self) -> None:
        parts = [Video("a", 0, torch.rand(2, 3, 4)), Video("b", 0, torch.rand(2, 3, 5))]
        with pytest.raises(DatasetError, match="video 'a' has 2 crops of width 4, 'b' 2 of 5"):
            Scale.of(parts, "snippets_first")

"""Batches of videos; pooling to segments and spreading over frames, against slow loops and by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_suite.contract import SNIPPET_FRAMES, as_batch, frame_scores, pool_segments, snippet_count
from anomaly_suite.errors import ShapeError


def slow_pool(features: Tensor, segments: int) -> Tensor:
    """Pool one video (T, D) by the bounds of the published code."""
    bounds = np.linspace(0, len(features), segments + 1).astype(int)
    return torch.stack([features[a:b].mean(0) if a < b else features[a] for a, b in itertools.pairwise(bounds)])


@pytest.mark.parametrize("segments", [1, 3, 32])
def test_pooling_equals_a_slow_loop_in_padded_batches(segments: int) -> None:
    length = torch.tensor([1, 2, 5, 31, 32, 33, 64, 67])
    features = torch.rand(len(length), 2, int(length.max()), 3, dtype=torch.float64)
    pooled = pool_segments(features, segments, length)
    assert pooled.shape == (8, 2, segments, 3)
    for row, count in enumerate(length.tolist()):
        for crop in range(2):
            torch.testing.assert_close(pooled[row, crop], slow_pool(features[row, crop, :count], segments))


def test_as_many_snippets_as_segments_stay_as_they_are() -> None:
    features = torch.rand(2, 3, 32, 4)
    assert torch.equal(pool_segments(features), features)
    assert torch.equal(pool_segments(features, 32, torch.tensor([32, 32])), features)


def test_twice_as_many_are_averaged_in_pairs() -> None:
    features = torch.rand(1, 1, 64, 4)
    torch.testing.assert_close(pool_segments(features), features.view(1, 1, 32, 2, 4).mean(3))


def test_one_snippet_is_repeated() -> None:
    features = torch.rand(1, 2, 1, 4)
    assert torch.equal(pool_segments(features), features.expand(1, 2, 32, 4))


def test_five_snippets_give_27_repeats() -> None:
    pooled = pool_segments(torch.arange(5.0).view(1, 1, 5, 1)).flatten()
    assert int((pooled.diff() == 0).sum()) == 27
    assert pooled.tolist() == sorted(pooled.tolist())
    assert set(pooled.tolist()) == {0, 1, 2, 3, 4}


def test_bounds_of_67_snippets() -> None:
    pooled = pool_segments(torch.arange(67.0).view(1, 1, 67, 1)).flatten().tolist()
    assert pooled[:3] == [0.5, 2.5, 4.5]  # bounds 0 2 4 6
    assert pooled[-2:] == [62.5, 65.0]  # bounds 62 64 67


@pytest.mark.parametrize("snippets", [32, 50, 64, 67, 1000])
def test_segments_weighted_by_length_have_the_mean_of_the_video(snippets: int) -> None:
    bounds = torch.arange(33) * snippets // 32
    length = bounds.diff()
    assert int(length.max() - length.min()) <= 1
    features = torch.rand(1, 1, snippets, 4, dtype=torch.float64)
    mean = (pool_segments(features)[0, 0] * length.unsqueeze(1)).sum(0) / snippets
    torch.testing.assert_close(mean, features[0, 0].mean(0))


def test_padding_never_matters() -> None:
    features = torch.rand(2, 1, 9, 3)
    length = torch.tensor([5, 9])
    wanted = pool_segments(features, 4, length)
    for padding in (1e9, float("inf"), float("nan")):
        features[0, :, 5:] = padding
        assert torch.equal(pool_segments(features, 4, length), wanted)


def test_gradients_reach_every_snippet_but_no_padding() -> None:
    features = torch.rand(1, 1, 9, 2, requires_grad=True)
    pool_segments(features, 3, torch.tensor([7])).sum().backward()
    assert features.grad is not None
    weight = features.grad[0, 0, :, 0]
    torch.testing.assert_close(weight, torch.tensor([1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3, 0, 0]))


@pytest.mark.parametrize(("frames", "snippets"), [(1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
def test_snippets_of_a_video(frames: int, snippets: int) -> None:
    assert snippet_count(frames) == snippets
    assert 0 <= SNIPPET_FRAMES * snippets - frames < SNIPPET_FRAMES


def test_frame_scores_equal_a_slow_loop() -> None:
    length = torch.randint(1, 9, (20,))
    score = torch.rand(20, 8)
    count = (SNIPPET_FRAMES * length + torch.randint(-20, 20, (20,))).clamp_min(
        0
    )  # none, ragged, and more than 16 each
    wanted = [
        score[video, min(frame // 16, int(length[video]) - 1)].item()
        for video in range(20)
        for frame in range(int(count[video]))
    ]
    assert frame_scores(score, length, count).tolist() == wanted
    whole = [score[video, t].item() for video in range(20) for t in range(int(length[video])) for _ in range(16)]
    assert frame_scores(score, length).tolist() == whole


def test_frame_scores_need_every_video() -> None:
    with pytest.raises(ShapeError, match="one entry per video; got 2 and 1 for 2 videos"):
        frame_scores(torch.rand(2, 3), torch.tensor([3, 3]), torch.tensor([48]))
    with pytest.raises(ShapeError, match="got 1 and 1 for 2 videos"):
        frame_scores(torch.rand(2, 3), torch.tensor([3]))


class TestBags:
    """Weak-video batches: several videos as snippet features."""

    FEATURES = torch.rand(2, 3, 5, 4)  # B C T D

    def test_missing_parts_are_filled_in(self) -> None:
        batch = as_batch({"snippet_features": self.FEATURES[:, 0], "bag_label": [0, 1], "image": None, "more": 1})
        assert torch.equal(batch["snippet_features"], self.FEATURES[:, :1])
        assert batch["length"].tolist() == [5, 5]
        assert batch["label"].tolist() == [0, 1]
        assert batch["label"].dtype == torch.int64
        assert set(batch) == {"snippet_features", "length", "label", "more"}
        assert as_batch(batch) is batch

    def test_what_is_given_stays(self) -> None:
        raw: dict[str, Any] = {
            "snippet_features": self.FEATURES,
            "length": torch.tensor([[2], [5]]),
            "label": torch.tensor([1.0, 0.0]),
            "frame_label": torch.tensor([0, 1, 1] + [0] * 70, dtype=torch.uint8),
            "frame_count": [3, 70],
        }
        batch = as_batch(raw)
        assert batch["snippet_features"] is self.FEATURES
        assert batch["length"].tolist() == [2, 5]
        assert batch["label"].tolist() == [1, 0]
        assert batch["frame_label"].dtype == torch.bool
        assert batch["frame_label"].nonzero().flatten().tolist() == [1, 2]
        assert batch["frame_count"].tolist() == [3, 70]
        assert raw["length"].shape == (2, 1)

    def test_frames_are_16_a_snippet_where_nothing_says_otherwise(self) -> None:
        raw = {"snippet_features": self.FEATURES, "length": torch.tensor([2, 5]), "frame_label": torch.zeros(112)}
        assert as_batch(raw)["frame_count"].tolist() == [32, 80]

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ({"snippet_features": FEATURES[0, 0]}, r"must be .* \(B, C, T, D\); got \(5, 4\)"),
            ({"snippet_features": FEATURES.long()}, "torch.int64"),
            ({"snippet_features": FEATURES.numpy()}, "got ndarray. Pad and stack the videos"),
            ({"length": [5]}, r"1 to 5 snippets for each of 2 videos; got \[5\]"),
            ({"length": [0, 5]}, r"got \[0, 5\]"),
            ({"length": [5, 6]}, r"got \[5, 6\]"),
            ({"label": [0, 1, 1]}, "3 labels for 2 videos"),
            ({"bag_label": [0, 2]}, "got 2. Map class indices"),
            ({"frame_label": torch.zeros(159)}, r"got 159 for frame_count \[80, 80\]"),
            ({"frame_label": torch.zeros(80), "frame_count": [80]}, r"got 80 for frame_count \[80\]"),
            ({"frame_label": torch.zeros(80), "frame_count": [20, 70]}, r"got 80 for frame_count \[20, 70\]"),
        ],
    )
    def test_parts_that_do_not_fit(self, parts: dict[str, Any], message: str) -> None:
        with pytest.raises(ShapeError, match=message):
            as_batch({"snippet_features": self.FEATURES, **parts})

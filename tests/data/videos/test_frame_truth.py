"""Frame truth from files and events, and of ragged lengths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anomaly_suite.contract import frame_scores
from anomaly_suite.data.videos.feature_files import Video
from anomaly_suite.data.videos.frame_truth import fit_length, mark_events, read_truth
from anomaly_suite.errors import DatasetError, DatasetNotFoundError

Save = Callable[..., Path]


class TestTruth:
    @pytest.mark.parametrize("kind", ["uint8", "float64", "bool", "int64"])
    @pytest.mark.parametrize("shape", [(5,), (1, 5), (5, 1)])
    def test_published_types(self, save: Save, kind: str, shape: tuple[int, ...]) -> None:
        values = np.array([0, 1, 1, 0, 1])
        truth = read_truth(save("t.npy", values=values.reshape(shape).astype(kind)))
        assert truth.dtype == np.bool_
        assert truth.tolist() == values.astype(bool).tolist()

    @pytest.mark.parametrize(
        "values",
        [np.array([0, 2]), np.array([0.5]), np.zeros((3, 4)), np.array([0, np.nan]), np.array(["0", "1"]), np.array(1), np.array(1 + 0j)],
        ids=["two", "half", "table", "nan", "text", "number", "complex"],
    )  # fmt: skip
    def test_anything_else(self, save: Save, values: Any) -> None:
        with pytest.raises(DatasetError, match=r"t.npy' must hold a 0 or 1 for each frame"):
            read_truth(save("t.npy", values=values))

    def test_no_frames(self, save: Save) -> None:
        with pytest.raises(DatasetError, match=r"t.npy' (must hold|is no plain)"):
            read_truth(save("t.npy", values=np.zeros(0)))

    def test_pickles_are_never_loaded(self, tmp_path: Path) -> None:
        np.save(tmp_path / "t.npy", np.array([0, 1], dtype=object), allow_pickle=True)
        with pytest.raises(DatasetError, match=r"t.npy' is no plain NumPy array"):
            read_truth(tmp_path / "t.npy")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetNotFoundError, match=r"no file '.*t.npy'"):
            read_truth(tmp_path / "t.npy")


class TestEvents:
    def test_several_events_cut_at_the_end(self) -> None:
        truth = mark_events([(0, 2), (5, 5), (7, 12)], 10, video="v")
        assert truth.nonzero()[0].tolist() == [0, 1, 7, 8, 9]
        assert len(truth) == 10

    @pytest.mark.parametrize("event", [(-1, 3), (5, 4), (48, 50)])
    def test_events_of_another_video(self, event: tuple[int, int]) -> None:
        with pytest.raises(DatasetError, match=f"event of video 'v' lasts from frame {event[0]} to before {event[1]}"):
            mark_events([event], 32, video="v")

    def test_an_event_in_lost_frames_is_none(self) -> None:
        assert not mark_events([(47, 60)], 32, video="v").any()
        assert not mark_events([(16 * 102 - 1, 16 * 110)], 16 * 100, video="v").any()
        with pytest.raises(DatasetError, match="has 1600 frames"):
            mark_events([(16 * 102, 16 * 110)], 16 * 100, video="v")


class TestLength:
    def test_both_rules_against_a_loop(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(50):
            snippets = int(rng.integers(1, 70))
            frames = max(1, 16 * snippets + int(rng.integers(-16, 17)))
            truth = rng.random(frames) < 0.5
            video = Video("v", 1, torch.zeros(1, snippets, 1), truth)
            scores = torch.rand(1, snippets)
            for rule in ("cut", "extend"):
                fitted = fit_length(video, snippets, rule)
                count = min(frames, 16 * snippets) if rule == "cut" else 16 * snippets
                assert fitted.tolist() == [truth[min(frame, frames - 1)] for frame in range(count)]
                spread = frame_scores(scores, torch.tensor([snippets]), torch.tensor([count]))
                assert len(spread) == len(fitted)

    def test_normal_videos_need_no_truth(self) -> None:
        assert fit_length(Video("v", 0, torch.zeros(1, 3, 1)), 3, "cut").tolist() == [False] * 48

    @pytest.mark.parametrize(("frames", "snippets"), [(160, 8), (160, 12), (16 * 200, 195), (0, 2)])
    def test_truth_of_another_video(self, frames: int, snippets: int) -> None:
        video = Video("v", 1, torch.zeros(1, snippets, 1), np.ones(frames, np.bool_))
        with pytest.raises(DatasetError, match=f"'v' has frame truth of {frames} frames.* but features of {snippets}"):
            fit_length(video, snippets, "cut")

    @pytest.mark.parametrize(("frames", "snippets"), [(160, 9), (160, 11), (16 * 200, 196), (16 * 200, 204)])
    def test_decoders_may_lose_some_frames(self, frames: int, snippets: int) -> None:
        video = Video("v", 1, torch.zeros(1, snippets, 1), np.ones(frames, np.bool_))
        assert fit_length(video, snippets, "extend").sum() == 16 * snippets

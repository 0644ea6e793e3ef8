from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from anomaly_suite.callbacks.videos import Frames, bare_name, frames_of, video_names
from anomaly_suite.contract import as_batch
from anomaly_suite.errors import ConfigError, ShapeError


def batch_of(count, **more):
    return as_batch({"snippet_features": torch.zeros(len(count), 1, 3, 2), "frame_count": torch.tensor(count), **more})


def test_frames_are_cut_where_each_video_ends():
    truth = torch.rand(12) > 0.5
    score = torch.rand(12, dtype=torch.float64)
    videos = frames_of({"frame_score": score}, batch_of([5, 1, 6], frame_label=truth))
    assert [len(video.score) for video in videos] == [5, 1, 6]
    np.testing.assert_array_equal(np.concatenate([video.score for video in videos]), score.float())
    np.testing.assert_array_equal(np.concatenate([video.label for video in videos]), truth)
    assert all(video.score.dtype == np.float32 and video.label.dtype == bool for video in videos)


def test_without_counts_frames_are_spread_over_the_snippets():
    batch = as_batch({"snippet_features": torch.zeros(2, 1, 3, 2), "length": torch.tensor([3, 1])})
    videos = frames_of({"frame_score": torch.arange(64.0)}, batch)
    assert [len(video.score) for video in videos] == [48, 16]
    assert [video.label for video in videos] == [None, None]
    assert frames_of({"anomaly_score": torch.zeros(2)}, batch) == []
    (one,) = frames_of({"frame_score": torch.arange(7.0)}, {"image": torch.zeros(7, 1, 2, 2)})
    assert len(one.score) == 7


def test_half_precision_becomes_a_float():
    (video,) = frames_of({"frame_score": torch.tensor([0.5, 0.25], dtype=torch.bfloat16)}, batch_of([2]))
    assert video.score.tolist() == [0.5, 0.25]


def test_frames_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"shapes \(6,\) and \(5,\)"):
        frames_of({"frame_score": torch.zeros(6)}, batch_of([5], frame_label=torch.zeros(5)))
    with pytest.raises(ShapeError, match=r"got 6 for 2 videos\. Give frame_count"):
        frames_of({"frame_score": torch.zeros(6)}, batch_of([2, 3]))


@pytest.mark.parametrize("seed", range(20))
def test_events_are_the_runs_of_a_slow_loop(seed):
    label = np.random.default_rng(seed).random(30) < (0.1, 0.5, 0.95)[seed % 3]
    events, start = [], None
    for frame, anomalous in enumerate([*label, False]):
        if anomalous and start is None:
            start = frame
        if not anomalous and start is not None:
            events.append((start, frame))
            start = None
    assert Frames(np.zeros(30, np.float32), label).events() == events
    assert Frames(np.zeros(30, np.float32), None).events() == []


def test_area_and_peak_inside_one_video():
    rng = np.random.default_rng(0)
    label = rng.random(200) < 0.3
    score = (rng.normal(size=200) + label).round(1).astype(np.float32)
    video = Frames(score, label)
    assert video.auroc() == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert score[video.peak()] == score.max()
    assert (score[: video.peak()] < score.max()).all()
    assert Frames(score, np.zeros(200, bool)).auroc() is None
    assert Frames(score, np.ones(200, bool)).auroc() is None
    assert Frames(score, None).auroc() is None
    score[3] = np.nan
    assert Frames(score, label).auroc() is None
    assert Frames(score, label).peak() is None
    assert Frames(score[:0], label[:0]).peak() is None


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("Abuse028_x264.mp4", "Abuse028_x264"),
        ("a/v.AVI", "a/v"),
        ("v.npy", "v"),
        ("Film.2001__#0-1_label_A", "Film.2001__#0-1_label_A"),
        ("01_0014", "01_0014"),
        (".mp4", ".mp4"),
    ],
)
def test_only_the_suffix_of_a_video_is_no_part_of_its_name(name, bare):
    assert bare_name(name) == bare


@pytest.mark.parametrize("name", ["..", "a/..", "/", ".", "../.."])
def test_a_name_that_is_a_folder_is_refused(name):
    with pytest.raises(ConfigError, match=f"image_path must name a file; got {re.escape(repr(name))}"):
        video_names(["a", name])


def test_no_two_videos_share_a_file():
    names = ["Film.2001__#1_label_A", "Film.2001__#2_label_A", "/data/far/away/a/V.mp4", "a/v", None, "../../b/x"]
    found = [str(name) for name in video_names(names)]
    assert found == [
        "Film.2001__#1_label_A",
        "Film.2001__#2_label_A",
        "away/a/V",
        "a/v",
        "video_000004",
        "b/x",
    ]
    assert [str(name) for name in video_names(["a/V.mp4", "a/v", "a/v.npy"])] == ["a/V", "a/v-2", "a/v-3"]

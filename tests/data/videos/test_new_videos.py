"""Videos without labels, scaled as those of the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from anomaly_suite.data.videos.new_videos import NewVideo, NewVideos
from anomaly_suite.data.videos.scale import Scale


def test_batches_hold_frames_and_no_labels(tmp_path: Path) -> None:
    videos = []
    for name, snippets, frames in (("a.mp4", 2, 20), ("b.mp4", 3, 48)):
        np.save(tmp_path / f"{name}.npy", np.full((snippets, 1, 4), snippets, np.float32))
        videos.append(NewVideo(name, tmp_path / f"{name}.npy", frames))
    scale = Scale(torch.ones(4), torch.full((4,), 2.0))
    data = NewVideos(videos, scale=scale, unreadable=["'c.mp4' is cut."])
    batch = data.batch([0, 1])
    assert batch["snippet_features"][:, 0, :, 0].tolist() == [[0.5, 0.5, 0], [1, 1, 1]]
    assert batch["frame_count"].tolist() == [20, 48]
    assert batch["length"].tolist() == [2, 3]
    assert batch["image_path"] == ["a.mp4", "b.mp4"]
    assert batch["unreadable"] == ["'c.mp4' is cut."]
    assert set(data.batch([1])) == {"snippet_features", "length", "image_path", "frame_count"}
    unknown = NewVideos([videos[0]._replace(frames=None)])
    assert set(unknown.batch([0])) == {"snippet_features", "length", "image_path"}

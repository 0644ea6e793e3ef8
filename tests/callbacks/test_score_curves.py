from __future__ import annotations

import csv
import json
import logging

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader

from anomaly_suite.callbacks import score_curves
from anomaly_suite.callbacks.score_curves import ScoreCurves, ScoredVideo, draw_curve
from anomaly_suite.callbacks.videos import Frames
from anomaly_suite.contract import AnomalyModule, frame_scores
from anomaly_suite.data import SyntheticVideos
from anomaly_suite.errors import ConfigError, DatasetNotFoundError


class MeanSnippet(AnomalyModule):
    def predict(self, batch):
        score = batch["snippet_features"].mean((1, 3)).sigmoid()
        return {
            "anomaly_score": score.amax(1),
            "frame_score": frame_scores(score, batch["length"], batch.get("frame_count")),
        }


class Pictures(AnomalyModule):
    def forward(self, image):
        return image.flatten(1).mean(1), None


@pytest.fixture
def drawn(monkeypatch):
    """What is handed to ``draw_curve``, in order; nothing is drawn."""
    calls = []
    monkeypatch.setattr(score_curves, "draw_curve", lambda axes, video, **words: calls.append((video, words)))
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **words: path.touch())
    return calls


def data(**options):
    return SyntheticVideos(feature_dim=8, train_size=2, test_size=3, validation="none", eval_batch_size=4, **options)


def run(trainer_in, *, stage="test", module=None, videos=None, **options):
    module = module or MeanSnippet()
    trainer = trainer_in(callbacks=[ScoreCurves(**options)])
    if stage == "test":
        trainer.test(module, videos or data(), verbose=False)
    else:
        trainer.predict(module, videos or data())


def files(folder):
    """Relative names of all files but the lists of what was written."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl")
    return sorted(path.relative_to(folder).as_posix() for path in found)


def test_a_picture_says_its_curve_in_numbers(tmp_path, trainer_in):
    module = MeanSnippet()
    module.calibration.set("image", threshold=0.6, low=0.0, high=1.0)
    run(trainer_in, module=module, limit=2, save_scores="npy")
    folder = tmp_path / "curves"
    said = json.loads(Image.open(folder / "test" / "test" / "anomalous" / "0001.png").info["curve"])
    score = np.load(folder / "test_scores" / "test" / "anomalous" / "0001.npy")
    truth = {video.name: video for video in data().read()[1]}["test/anomalous/0001"]
    assert (said["index"], said["loader"], said["label"], said["name"]) == (4, 0, 1, "test/anomalous/0001")
    assert (said["frames"], said["threshold"], said["fps"]) == (len(score), 0.6, None)
    assert len(said["score"]) == min(600, len(score))
    assert max(said["score"]) == pytest.approx(score.max(), rel=1e-5)
    inside = sum(end - start for start, end in said["events"])
    assert inside == int(truth.frame_label.sum()) > 0


def test_each_video_is_drawn_with_its_own_frames(tmp_path, trainer_in, drawn):
    module = MeanSnippet()
    module.calibration.set("image", threshold=0.6, low=0.0, high=1.0)
    run(trainer_in, module=module, fps=24.0)
    truth = {video.name: video for video in data().read()[1]}
    assert [words["title"] for _, words in drawn] == [f"test/anomalous/000{row}" for row in range(3)] + [
        f"test/normal/000{row}" for row in range(3)
    ]
    assert files(tmp_path) == [f"curves/test/{name}.png" for name in sorted(truth)]
    for video, words in drawn:
        expected = truth[words["title"]]
        snippets = expected.source.mean((0, 2)).sigmoid().repeat_interleave(16)[: len(expected.frame_label)]
        np.testing.assert_allclose(video.frames.score, snippets, rtol=1e-6)
        np.testing.assert_array_equal(video.frames.label, expected.frame_label)
        assert (video.name, video.label) == (expected.name, expected.label)
        assert (words["threshold"], words["fps"]) == (0.6, 24.0)


def test_limit_and_order(trainer_in, drawn):
    run(trainer_in, limit=4)
    assert [video.label for video, _ in drawn] == [1, 1, 1, 0]
    drawn.clear()
    run(trainer_in, limit=4, first="dataset")
    assert [video.label for video, _ in drawn] == [0, 0, 0, 1]
    drawn.clear()
    run(trainer_in, limit=0)
    assert drawn == []


def test_predict_needs_neither_truth_nor_labels(tmp_path, trainer_in, drawn):
    batch = {"snippet_features": torch.rand(2, 1, 3, 4), "length": torch.tensor([3, 2])}
    run(trainer_in, stage="predict", videos=DataLoader([batch], batch_size=None), folder=str(tmp_path / "own"))
    assert files(tmp_path) == ["own/predict/video_000000.png", "own/predict/video_000001.png"]
    assert [len(video.frames.score) for video, _ in drawn] == [48, 32]
    assert [(video.label, video.frames.label, words["threshold"]) for video, words in drawn] == [(None, None, None)] * 2


def test_a_video_without_label_is_anomalous_by_its_frames():
    score = np.zeros(3, np.float32)
    assert ScoredVideo("v", None, Frames(score, np.array([False, True, False]))).is_anomalous
    assert not ScoredVideo("v", None, Frames(score, np.zeros(3, bool))).is_anomalous
    assert not ScoredVideo("v", 0, Frames(score, np.array([False, True, False]))).is_anomalous
    assert ScoredVideo("v", 1, Frames(score, None)).is_anomalous


def test_images_and_videos_without_frame_scores_are_left_alone(tmp_path, trainer_in):
    class NoFrames(MeanSnippet):
        def predict(self, batch):
            return {"anomaly_score": super().predict(batch)["anomaly_score"]}

    run(trainer_in, module=Pictures(), videos=DataLoader([(torch.rand(1, 4, 4), 1)]))
    run(trainer_in, module=NoFrames())
    assert files(tmp_path) == []


def test_a_video_of_no_frames_is_left_out(tmp_path, trainer_in, drawn):
    batch = {"snippet_features": torch.rand(2, 1, 1, 4), "frame_count": torch.tensor([0, 5])}
    run(trainer_in, videos=DataLoader([batch], batch_size=None))
    assert files(tmp_path) == ["curves/test/video_000001.png"]


# Files of scores -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "npy"])
def test_scores_of_all_videos_are_saved_exactly(tmp_path, trainer_in, kind):
    run(trainer_in, limit=0, save_scores=kind)
    expected = {video.name: video for video in data().read()[1]}
    assert files(tmp_path) == [f"curves/test_scores/{name}.{kind}" for name in sorted(expected)]
    for name, video in expected.items():
        path = tmp_path / "curves" / "test_scores" / f"{name}.{kind}"
        snippets = video.source.mean((0, 2)).sigmoid().repeat_interleave(16)[: len(video.frame_label)].numpy()
        if kind == "npy":
            stored = np.load(path, allow_pickle=False)
            assert stored.dtype == np.float32
            np.testing.assert_allclose(stored, snippets, rtol=1e-6)
            continue
        header, *rows = list(csv.reader(path.open(newline="", encoding="utf-8")))
        assert header == ["frame", "score", "label"]
        assert [int(row[0]) for row in rows] == list(range(len(snippets)))
        np.testing.assert_allclose([float(row[1]) for row in rows], snippets, rtol=1e-6)
        assert [int(row[2]) for row in rows] == video.frame_label.astype(int).tolist()


def test_scores_without_truth_have_no_label(tmp_path, trainer_in):
    batch = {"snippet_features": torch.zeros(1, 1, 1, 4), "image_path": ["Film.2001__#1"]}
    run(trainer_in, limit=0, save_scores="csv", videos=DataLoader([batch], batch_size=None))
    text = (tmp_path / "curves" / "test_scores" / "Film.2001__#1.csv").read_text()
    assert text.split() == ["frame,score", *(f"{frame},0.5" for frame in range(16))]


# Drawing -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def axes(monkeypatch):
    """Axes of a figure that is not saved, which remember what was shaded."""
    made = Figure().subplots()
    made.shaded = []
    shade = Axes.axvspan

    def remember(self, start, end, **words):
        self.shaded.append((start, end))
        return shade(self, start, end, **words)

    monkeypatch.setattr(Axes, "axvspan", remember)
    return made


LABEL = np.array([1, 0, 0, 1, 1, 0, 1], bool)
SCORE = np.array([0.9, 0.1, 0.2, 0.6, 0.6, 0.6, 0.3], np.float32)


def test_the_curve_holds_each_score_for_its_frame_and_events_are_shaded(axes):
    draw_curve(axes, ScoredVideo("v", 1, Frames(SCORE, LABEL)), title="a/v_$x$", threshold=0.55, fps=None)
    curve, line = axes.lines
    frame, score = curve.get_data()
    assert curve.get_drawstyle() == "steps-post"
    np.testing.assert_array_equal(frame, range(8))
    np.testing.assert_array_equal(score, [*SCORE, SCORE[-1]])
    assert axes.shaded == [(0, 1), (3, 5), (6, 7)]
    assert list(line.get_ydata()) == [0.55, 0.55]
    assert axes.get_title() == f"a/v_$x$, AUROC inside {roc_auc_score(LABEL, SCORE):.4f}"
    assert not axes.title.get_parse_math()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["true event", "threshold 0.55"]
    assert axes.get_xlim() == (0, 7)
    low, high = axes.get_ylim()
    assert -0.1 < low < 0 < 1 < high < 1.1
    assert axes.child_axes == []


@pytest.mark.parametrize(
    ("label", "truth", "title"),
    [
        (0, np.zeros(7, bool), "v, normal video"),
        (1, np.ones(7, bool), "v, anomalous video"),
        (1, None, "v, anomalous video"),
        (None, None, "v"),
    ],
)
def test_a_title_without_an_area(axes, label, truth, title):
    draw_curve(axes, ScoredVideo("v", label, Frames(SCORE, truth)), title="v", threshold=None, fps=None)
    assert axes.get_title() == title
    assert len(axes.lines) == 1
    assert (axes.get_legend() is None) == (truth is None or not truth.any())


def test_seconds_above_the_frames(axes):
    draw_curve(axes, ScoredVideo("v", 1, Frames(np.zeros(100, np.float32), None)), title="v", threshold=None, fps=25.0)
    (seconds,) = axes.child_axes
    axes.figure.draw_without_rendering()
    assert seconds.get_xlim() == pytest.approx((0, 4))


def test_scores_on_another_scale_fill_the_axes(axes):
    score = np.array([20.0, 30.0, np.nan], np.float32)
    draw_curve(axes, ScoredVideo("v", 1, Frames(score, None)), title="v", threshold=40.0, fps=None)
    assert axes.get_ylim() == pytest.approx((20 - 0.8, 40 + 0.8))


def test_a_picture_is_written_whole(tmp_path, trainer_in):
    import cv2

    run(trainer_in, limit=1, fps=30.0)
    (name,) = files(tmp_path)
    picture = cv2.imread(str(tmp_path / name))
    assert name == "curves/test/test/anomalous/0000.png"
    assert picture.shape == (450, 1350, 3)
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert border.min() == 255  # nothing is cut off
    shade = np.abs(picture.astype(int) - (206, 213, 241)).max(-1) < 4  # a quarter of the event's colour on white
    assert shade.sum() > 1000


# Overlays ------------------------------------------------------------------------------------------------------------


def test_overlays_of_the_videos_drawn_and_a_warning_for_the_others(tmp_path, trainer_in, drawn, monkeypatch, caplog):
    written = []

    def remember(original, target, frames, *, threshold, fps, span):
        written.append((original, target, len(frames.score), threshold, fps, span))

    monkeypatch.setattr(score_curves, "write_overlay", remember)
    original = tmp_path / "originals" / "test" / "anomalous" / "0001.avi"
    original.parent.mkdir(parents=True)
    original.touch()
    module = MeanSnippet()
    module.calibration.set("image", threshold=0.6, low=0.0, high=1.0)
    trainer = trainer_in(callbacks=[ScoreCurves(limit=2, fps=10.0, videos=str(tmp_path / "originals"))])
    with caplog.at_level(logging.WARNING):
        trainer.test(module, data(), verbose=False)
    target = tmp_path / "curves" / "test_overlay" / "test" / "anomalous" / "0001.mp4"
    frames = len(data().read()[1][4].frame_label)
    assert written == [(original, target, frames, 0.6, 10.0, (0.0, 1.0))]
    assert "1 of 2 overlays are missing: no originals of video 'test/anomalous/0000' in" in caplog.text


def test_a_warning_names_ten_videos(tmp_path, trainer_in, drawn, caplog):
    batch = {"snippet_features": torch.rand(12, 1, 1, 4), "image_path": [f"film{number:02d}" for number in range(12)]}
    trainer = trainer_in(callbacks=[ScoreCurves(videos=str(tmp_path))])
    with caplog.at_level(logging.WARNING):
        trainer.test(MeanSnippet(), DataLoader([batch], batch_size=None), verbose=False)
    assert "12 of 12 overlays are missing" in caplog.text
    assert "'film09'" in caplog.text
    assert "'film10'" not in caplog.text
    assert "and 2 more" in caplog.text
    assert len(drawn) == 12  # curves do not need originals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": -1}, "limit must be at least 0; got -1"),
        ({"fps": 0.0}, "fps must be positive; got 0.0"),
        ({"fps": -25.0}, "got -25.0"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        ScoreCurves(**options)


def test_a_folder_of_originals_that_is_not_there_ends_the_run_at_once(tmp_path, trainer_in):
    trainer = trainer_in(callbacks=[ScoreCurves(videos=str(tmp_path / "none"))])
    with pytest.raises(DatasetNotFoundError, match=r"videos expects a folder of original videos; got '.*none'"):
        trainer.test(MeanSnippet(), data(), verbose=False)

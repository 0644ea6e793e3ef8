from __future__ import annotations

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.utils.data import DataLoader

from anomaly_suite.callbacks import plots
from anomaly_suite.callbacks.plots import ScorePlots
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.errors import ShapeError


class MeanIsOdd(AnomalyModule):
    def forward(self, image):
        return image.flatten(1).mean(1), None

    def training_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return None


class Video(MeanIsOdd):
    """A frame's score is the first feature of its snippet, held for two frames."""

    def predict(self, batch):
        score = batch["snippet_features"][:, 0, :, 0]
        return {"anomaly_score": score.amax(1), "frame_score": score.flatten().repeat_interleave(2)}


@pytest.fixture
def drawn(monkeypatch):
    """The axes of every figure saved, in order."""
    axes = []
    save = Figure.savefig

    def remember(figure, *args, **kwargs):
        axes.append(figure.axes[0])
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)
    return axes


def run(data, trainer_in, *, module=None, stage="test", batch_size=3, folder=None):
    trainer = trainer_in(callbacks=[ScorePlots(folder=folder)])
    loader = DataLoader(data, batch_size=batch_size)
    if stage == "test":
        trainer.test(module or MeanIsOdd(), loader, verbose=False)
    else:
        trainer.predict(module or MeanIsOdd(), loader)


def flat(score):
    return torch.full((1, 2, 2), float(score))


def files(folder):
    """Relative names of all files but the lists of what was written."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl")
    return sorted(path.relative_to(folder).as_posix() for path in found)


SCORE = [0.1, 3.5, 2.0, 2.0, 40.0, 7.25, 2.0, 6.5]
LABEL = [0, 0, 1, 0, 1, 1, 0, 0]


def test_histogram_counts_and_curves_have_the_exact_areas(tmp_path, trainer_in, drawn):
    module = MeanIsOdd()
    module.calibration.set("image", threshold=5.0, low=0.0, high=9.0, rule="fixed")
    run([(flat(score), label) for score, label in zip(SCORE, LABEL, strict=True)], trainer_in, module=module)
    assert files(tmp_path) == ["plots/test_histogram.png", "plots/test_pr.png", "plots/test_roc.png"]
    histogram, roc, pr = drawn
    names = [text.get_text() for text in histogram.get_legend().get_texts()]
    assert names == ["normal (5)", "anomalous (3)", "threshold 5"]
    (line,) = histogram.lines
    assert list(line.get_xdata()) == [5.0, 5.0]

    score, label = np.float32(SCORE), np.array(LABEL)
    assert roc.get_title() == f"ROC, AUROC = {roc_auc_score(label, score):.4f}"
    assert pr.get_title() == f"Precision-recall, AP = {average_precision_score(label, score):.4f}"
    fpr, tpr = roc.lines[1].get_data()
    assert np.trapezoid(tpr, fpr) == pytest.approx(roc_auc_score(label, score))
    recall, precision = pr.lines[1].get_data()
    assert pr.lines[1].get_drawstyle() == "steps-post"
    assert np.sum(-np.diff(recall) * precision[:-1]) == pytest.approx(average_precision_score(label, score))
    assert pr.lines[0].get_ydata()[0] == pytest.approx(3 / 8)

    for name in files(tmp_path):
        picture = cv2.imread(str(tmp_path / name))
        assert picture.shape == (600, 750, 3)
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert border.min() == 255  # nothing is cut off
        assert picture.min() < 60


def test_histogram_bars_hold_every_sample(trainer_in, drawn):
    run([(flat(score), label) for score, label in zip(SCORE, LABEL, strict=True)], trainer_in)
    outlines = [patch.get_xy() for patch in drawn[0].patches]
    assert len(outlines) == 2
    for outline, count in zip(outlines, (5, 3), strict=True):
        tops = outline[1 : 2 * 10 + 1 : 2]  # ten bins; each has its height at its left and right edge
        assert tops[:, 1].sum() == count


@pytest.mark.parametrize(("normal", "shows"), [(21, "samples"), (22, "density of samples, area 1 for each label")])
def test_a_rare_label_is_seen(trainer_in, drawn, normal, shows):
    """More than three times as many of one label: the area of each is 1, and the legend has the counts."""
    data = [(flat(index / 10), 0) for index in range(normal)] + [(flat(5 + index / 10), 1) for index in range(7)]
    run(data, trainer_in, batch_size=40)
    (axes,) = (each for each in drawn if each.get_xlabel() == "anomaly score")
    assert axes.get_ylabel() == shows
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [f"normal ({normal})", "anomalous (7)"]
    for outline, count in zip([patch.get_xy() for patch in axes.patches], (normal, 7), strict=True):
        x, y = outline.T
        area = abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2
        width = np.ptp(x) / round(np.ptp(x) / np.diff(np.unique(x)).min())
        assert area == pytest.approx(1.0 if shows != "samples" else count * width, rel=1e-6)


def test_each_of_several_loaders_has_its_pictures_beside_those_of_all(tmp_path, trainer_in, drawn):
    loaders = [DataLoader([(flat(score), 1) for score in SCORE]), DataLoader([(flat(9.0), 0)])]
    trainer_in(callbacks=[ScorePlots()]).test(MeanIsOdd(), loaders, verbose=False)
    names = [f"test_{kind}" for kind in ("histogram", "pr", "roc")]
    names += [f"test_dataloader_idx_{index}_histogram" for index in (0, 1)]
    assert files(tmp_path) == sorted(f"plots/{name}.png" for name in names)


@pytest.mark.parametrize("label", [0, 1])
def test_one_label_has_no_curves(tmp_path, trainer_in, drawn, label):
    run([(flat(score), label) for score in SCORE], trainer_in)
    assert files(tmp_path) == ["plots/test_histogram.png"]
    assert [text.get_text() for text in drawn[0].get_legend().get_texts()] == [f"{('normal', 'anomalous')[label]} (8)"]


def test_predict_without_labels_is_one_histogram(tmp_path, trainer_in, drawn):
    run([(flat(score),) for score in SCORE], trainer_in, stage="predict", folder=str(tmp_path / "own"))
    assert files(tmp_path) == ["own/predict_histogram.png"]
    assert [text.get_text() for text in drawn[0].get_legend().get_texts()] == ["unlabelled (8)"]


def test_scores_that_are_not_finite_are_counted_not_hidden(tmp_path, trainer_in, drawn):
    run([(flat(score), label) for score, label in zip([*SCORE, "nan", "inf"], [*LABEL, 0, 1], strict=True)], trainer_in)
    assert files(tmp_path) == ["plots/test_histogram.png"]
    assert drawn[0].get_title() == "Scores, 2 not finite left out"
    assert [text.get_text() for text in drawn[0].get_legend().get_texts()] == ["normal (5)", "anomalous (3)"]


def videos(frames=6):
    """Four videos of three snippets; the first two frames of every other one are anomalous."""
    generator = torch.Generator().manual_seed(0)
    for index in range(4):
        frame_label = torch.zeros(frames, dtype=torch.long)
        frame_label[:2] = index % 2
        yield {
            "snippet_features": torch.rand(1, 3, 2, generator=generator),
            "bag_label": torch.tensor([index % 2]),
            "frame_label": frame_label,
            "frame_count": torch.tensor([frames]),
        }


def run_videos(data, trainer_in):
    trainer_in(callbacks=[ScorePlots()]).test(Video(), DataLoader(data, batch_size=None), verbose=False)


def test_frames_have_their_own_plots(tmp_path, trainer_in, drawn):
    data = list(videos())
    run_videos(data, trainer_in)
    kinds = ("histogram", "pr", "roc")
    assert files(tmp_path) == [f"plots/test_{kind}.png" for kind in [*(f"frame_{kind}" for kind in kinds), *kinds]]
    score = torch.cat([video["snippet_features"][0, :, 0].repeat_interleave(2) for video in data])
    label = torch.cat([video["frame_label"] for video in data])
    assert drawn[3].get_ylabel() == "density of frames, area 1 for each label"  # 4 of 24 are anomalous
    assert drawn[4].get_title() == f"ROC, AUROC = {roc_auc_score(label, score):.4f}"


def test_videos_in_batches_are_drawn_from_the_same_scores(trainer_in, monkeypatch):
    drawings = []
    monkeypatch.setattr(
        plots, "_draw", lambda _, prefix, score, label, **words: drawings.append((prefix, score, label))
    )
    data = list(videos())
    together = {
        "snippet_features": torch.cat([video["snippet_features"] for video in data]),
        "label": torch.cat([video["bag_label"] for video in data]),
        "frame_label": torch.cat([video["frame_label"] for video in data]),
        "frame_count": torch.tensor([6] * 4),
    }
    run_videos(data, trainer_in)
    run_videos([together], trainer_in)
    assert [prefix for prefix, _, _ in drawings] == ["test", "test_frame"] * 2
    for (_, *one), (_, *all_at_once) in zip(drawings[:2], drawings[2:], strict=True):
        np.testing.assert_array_equal(one, all_at_once)
    score = together["snippet_features"][..., 0].flatten().repeat_interleave(2)
    np.testing.assert_array_equal(drawings[1][1], score)
    np.testing.assert_array_equal(drawings[1][2], together["frame_label"])


def test_frames_and_annotation_of_another_length(tmp_path, trainer_in):
    with pytest.raises(ShapeError, match=r"shapes \(6,\) and \(5,\)"):
        run_videos(list(videos(frames=5)), trainer_in)
    assert files(tmp_path) == []


def test_drawing_leaves_pyplot_alone(trainer_in):
    from matplotlib import pyplot

    before, backend = pyplot.get_fignums(), matplotlib.get_backend()
    run([(flat(score),) for score in SCORE], trainer_in)
    assert pyplot.get_fignums() == before
    assert matplotlib.get_backend() == backend

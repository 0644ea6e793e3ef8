from __future__ import annotations

import csv
import json
import logging
import math
import re

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from anomaly_suite.callbacks import AnomalyMetrics, Calibrate, ScoreCurves, ScorePlots, ScoreTable
from anomaly_suite.contract import AnomalyDataModule, AnomalyModule, Splits, frame_scores
from anomaly_suite.data import SyntheticVideos
from anomaly_suite.data.images.image_set import ImageSet
from anomaly_suite.errors import ConfigError, NotFiniteError, ShapeError
from anomaly_suite.metrics import aupro


class MeanScore(AnomalyModule):
    """The score is the mean of the image, the map its first channel."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image):
        return self.scale * image.flatten(1).mean(1), self.scale * image[:, :1]

    def training_step(self, batch, batch_idx):
        return self.scale * batch["image"].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class NoMap(MeanScore):
    def forward(self, image):
        return super().forward(image)[0], None


def around_20(count=60, seed=0, size=4):
    """Images whose mean is near 20, where a sigmoid is 1 in float32, and labels that fit to some degree."""
    generator = torch.Generator().manual_seed(seed)
    label = (torch.arange(count) % 3 == 0).long()
    image = 20 + torch.randn(count, 1, size, size, generator=generator) + 0.3 * label.view(-1, 1, 1, 1)
    return image, label


def run(trainer_in, module, loader, stage="test", **options):
    trainer = trainer_in(callbacks=[AnomalyMetrics(**options)])
    getattr(trainer, stage)(module, loader, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def result(folder):
    text = (folder / "metrics.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    return json.loads(text)


def f1_max(label, score):
    precision, recall, _ = precision_recall_curve(label, score)
    return (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()


def fpr95(label, score):
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    return fpr[tpr >= 0.95].min()


# Images --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_image_values_equal_sklearn_on_raw_scores(tmp_path, trainer_in, batch_size):
    image, label = around_20()
    module = NoMap()
    module.calibration.set("image", threshold=20.2, low=19.0, high=21.0)
    loader = DataLoader(list(zip(image, label, strict=True)), batch_size=batch_size)
    logged = run(trainer_in, module, loader)
    score = image.flatten(1).mean(1).numpy()
    decided, truth = score >= 20.2, label.numpy() == 1
    expected = {
        "image_AUROC": roc_auc_score(truth, score),
        "image_AP": average_precision_score(truth, score),
        "image_F1Max": f1_max(truth, score),
        "image_Accuracy": (decided == truth).mean(),
        "image_Sensitivity": decided[truth].mean(),
        "image_Specificity": (~decided[~truth]).mean(),
    }
    assert 0.5 < expected["image_AUROC"] < 1
    written = result(tmp_path)
    assert written["metrics"] == pytest.approx(expected, abs=1e-12)
    assert {name.removeprefix("test/"): value for name, value in logged.items()} == pytest.approx(expected, abs=1e-6)
    assert written["undefined"] == {}


def test_the_result_file_says_what_was_measured(tmp_path, trainer_in):
    image, label = around_20(9)
    module = NoMap()
    module.calibration.set("image", threshold=20.2, low=19.0, high=21.0, rule="fixed", split="holdout")
    seed_everything(17, verbose=False)
    run(trainer_in, module, DataLoader(list(zip(image, label, strict=True)), batch_size=4), image=["AUROC", "Accuracy"])
    written = result(tmp_path)
    assert set(written["metrics"]) == {"image_AUROC", "image_Accuracy"}
    assert written["definitions"].keys() == {"AUROC", "Accuracy"}
    assert written["definitions"]["Accuracy"] == "Share of right decisions."
    assert written["data"] == {"normal": 6, "anomalous": 3}
    assert (written["method"], written["dataset"], written["validation"]) == ("NoMap", "unknown", "unknown")
    assert written["calibration"]["image"] == {
        "threshold": 20.2,
        "low": 19.0,
        "high": 21.0,
        "rule": "fixed",
        "split": "holdout",
    }
    assert written["seed"] == 17
    assert written["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"python", "anomaly-suite", "lightning", "torchmetrics"} <= set(written["versions"])


def test_validation_logs_no_decisions_but_the_mean_normal_score(trainer_in, tmp_path):
    image, label = around_20()
    module = NoMap()
    module.calibration.set("image", threshold=20.2, low=19.0, high=21.0)
    loader = DataLoader(list(zip(image, label, strict=True)), batch_size=8)
    logged = run(trainer_in, module, loader, "validate")
    assert set(logged) == {"val/image_AUROC", "val/image_AP", "val/image_F1Max", "val/normal_score"}
    score = image.flatten(1).mean(1)
    assert logged["val/normal_score"] == pytest.approx(float(score[label == 0].mean()), rel=1e-6)
    assert logged["val/image_AUROC"] == pytest.approx(roc_auc_score(label, score), abs=1e-6)
    assert not (tmp_path / "metrics.json").exists()


def test_one_label_is_explained_once_and_never_a_nan(tmp_path, trainer_in, caplog):
    image, _ = around_20(6)
    loader = DataLoader([(each, 0) for each in image], batch_size=4)
    trainer = trainer_in(callbacks=[AnomalyMetrics()], max_epochs=3)
    with caplog.at_level(logging.WARNING, "anomaly_suite"):
        trainer.fit(NoMap(), loader, loader)
    warnings = [record.message for record in caplog.records if record.name.startswith("anomaly_suite")]
    assert len(warnings) == 1  # not once an epoch
    assert "val has no image_AP, image_AUROC, image_F1Max" in warnings[0].replace(
        "image_AUROC, image_AP", "image_AP, image_AUROC"
    )
    assert "got 6 normal and 0 anomalous" in warnings[0]
    logged = trainer.callback_metrics
    assert "val/image_AUROC" not in logged
    assert float(logged["val/normal_score"]) == pytest.approx(float(image.mean()), rel=1e-6)

    trainer.test(NoMap(), loader, verbose=False)
    written = result(tmp_path)
    assert written["metrics"] == {}
    assert set(written["undefined"]) == {"image_AUROC", "image_AP", "image_F1Max"}
    assert written["undefined"]["image_AUROC"].startswith("AUROC needs normal and anomalous samples; got 6 normal")
    assert written["data"] == {"normal": 6, "anomalous": 0}


def test_each_test_starts_anew(tmp_path, trainer_in):
    image, label = around_20()
    trainer = trainer_in(callbacks=[AnomalyMetrics()])
    trainer.test(NoMap(), DataLoader([(each, 0) for each in image[:3]]), verbose=False)
    trainer.test(NoMap(), DataLoader(list(zip(image[:6], label[:6], strict=True))), verbose=False)
    written = result(tmp_path)
    assert written["data"] == {"normal": 4, "anomalous": 2}
    assert written["undefined"] == {}


@pytest.mark.parametrize("level", ["image", "pixel", "ood", "video", "frame"])
def test_an_unknown_metric_names_the_nearest(level):
    with pytest.raises(ConfigError, match=r"no metric 'AUROK'; known are .*Did you mean 'AUROC'\?"):
        AnomalyMetrics(**{level: ["AP", "AUROK"]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame": ["Accuracy"]}, "frame has no metric 'Accuracy'"),
        ({"frame": ["AUPRO"]}, "frame has no metric 'AUPRO'"),
        ({"frame": ["FAR_inside"]}, "frame has no metric 'FAR_inside'"),
        ({"frame": ["AUROC_insid"]}, "Did you mean 'AUROC_inside'?"),
        ({"video": ["AUROC_inside"]}, "video has no metric 'AUROC_inside'"),
        ({"pixel": ["PRAUC"]}, "PRAUC needs every pixel; got exact: false. Use exact: true, or AP"),
        ({"ood": ["PRAUC"]}, "PRAUC needs every pixel; got exact: false. Use exact: true, or AP"),
        ({"ood": ["AUPRO"]}, "ood has no metric 'AUPRO'"),
        ({"ood": ["IoU"]}, "ood has no metric 'IoU'"),
    ],
)
def test_a_metric_that_its_level_does_not_have(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        AnomalyMetrics(**options)


def test_another_module_beside_it_is_left_alone(tmp_path, trainer_in):
    class Plain(LightningModule):
        def validation_step(self, batch, batch_idx):
            return batch[0].mean()

        def test_step(self, batch, batch_idx):
            return batch[0].mean()

    image, label = around_20(4)
    loader = DataLoader(list(zip(image, label, strict=True)), batch_size=2)
    assert run(trainer_in, Plain(), loader, "validate") == {}
    assert run(trainer_in, Plain(), loader) == {}
    assert result(tmp_path)["metrics"] == {}


# Pixels --------------------------------------------------------------------------------------------------------------


def maps(count=10, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(count, 1, size, size, dtype=torch.bool)
    for index in range(0, count, 2):
        top, left = 3 + index, 17 - index
        mask[index, :, top : top + 6, left : left + 9] = True
        mask[index, :, 28:31, 2:5] = True
    # Skewed scores around 20: e to a normal draw.
    image = 20 + torch.randn(count, 1, size, size, generator=generator).exp() + 2 * mask
    return image, mask.flatten(1).any(1).long(), mask


def test_pixel_values_equal_sklearn_within_the_error_bound(tmp_path, trainer_in):
    image, label, mask = maps()
    module = MeanScore()
    module.calibration.set("pixel", threshold=22.5, low=20.0, high=30.0)
    logged = run(trainer_in, module, DataLoader(list(zip(image, label, mask, strict=True)), batch_size=3))
    score, truth = image.flatten().numpy(), mask.flatten().numpy()
    both = (score >= 22.5) & truth
    f1 = f1_max(truth, score)
    exact = {
        "pixel_AUROC": roc_auc_score(truth, score),
        "pixel_AP": average_precision_score(truth, score),
        "pixel_F1Max": f1,
        "pixel_FPR95": fpr95(truth, score),
        "pixel_AUPRO": float(aupro(image, mask)),
        "pixel_IoU": both.sum() / ((score >= 22.5) | truth).sum(),
        "pixel_Dice": 2 * both.sum() / ((score >= 22.5).sum() + truth.sum()),
        "pixel_DiceMax": f1,
        "pixel_IoUMax": f1 / (2 - f1),
    }
    written = result(tmp_path)
    values = {name: value for name, value in written["metrics"].items() if name.startswith("pixel")}
    assert values.keys() == exact.keys()
    decided = {"pixel_IoU", "pixel_Dice"}
    assert written["error_bound"].keys() == exact.keys() - decided
    for name, value in exact.items():
        bound = 0 if name in decided else written["error_bound"][name]
        assert abs(values[name] - value) <= bound + 1e-9, name
        assert bound < 1e-2
        assert logged[f"test/{name}"] == pytest.approx(values[name], abs=1e-6)


def test_exact_pixels_equal_sklearn_and_need_no_bound(tmp_path, trainer_in):
    image, label, mask = maps()
    loader = DataLoader(list(zip(image, label, mask, strict=True)), batch_size=3)
    run(trainer_in, MeanScore(), loader, exact=True, pixel=["AUROC", "AP", "AUPRO"])
    written = result(tmp_path)
    score, truth = image.flatten().numpy(), mask.flatten().numpy()
    assert written["metrics"]["pixel_AUROC"] == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
    assert written["metrics"]["pixel_AP"] == pytest.approx(average_precision_score(truth, score), abs=1e-12)
    assert written["metrics"]["pixel_AUPRO"] == pytest.approx(float(aupro(image, mask)), abs=1e-12)
    assert written["error_bound"] == {}


def test_pixels_in_validation_only_if_asked_for(trainer_in):
    image, label, mask = maps(4)
    loader = DataLoader(list(zip(image, label, mask, strict=True)))
    assert not [name for name in run(trainer_in, MeanScore(), loader, "validate") if "pixel" in name]
    logged = run(trainer_in, MeanScore(), loader, "validate", pixel_in_validation=True, pixel=["AUROC"])
    expected = roc_auc_score(mask.flatten(), image.flatten())
    assert logged["val/pixel_AUROC"] == pytest.approx(expected, abs=1e-4)


# Categories and frames -----------------------------------------------------------------------------------------------


def test_categories_one_by_one_and_their_mean(tmp_path, trainer_in):
    image, label = around_20(60)
    category = [("bottle", "cable", "screw")[index // 5 % 3] for index in range(60)]  # batches of 7 mix them
    items = [
        {"image": each, "label": truth, "category": name}
        for each, truth, name in zip(image, label, category, strict=True)
    ]
    logged = run(trainer_in, NoMap(), DataLoader(items, batch_size=7), image=["AUROC", "AP"])
    score, names = image.flatten(1).mean(1).numpy(), np.array(category)
    values = result(tmp_path)["metrics"]
    aurocs = []
    for name in ("bottle", "cable", "screw"):
        rows = names == name
        aurocs.append(roc_auc_score(label[rows], score[rows]))
        assert values[f"{name}/image_AUROC"] == pytest.approx(aurocs[-1], abs=1e-12)
        assert values[f"{name}/image_AP"] == pytest.approx(average_precision_score(label[rows], score[rows]), abs=1e-12)
    assert values["mean/image_AUROC"] == pytest.approx(np.mean(aurocs), abs=1e-12)
    assert values["image_AUROC"] == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert logged["test/mean/image_AUROC"] == pytest.approx(np.mean(aurocs), abs=1e-6)
    assert len(values) == 2 * 5


def test_one_category_has_no_mean(tmp_path, trainer_in):
    image, label = around_20(9)
    items = [{"image": each, "label": truth, "category": "a"} for each, truth in zip(image, label, strict=True)]
    run(trainer_in, NoMap(), DataLoader(items, batch_size=2), image=["AUROC"])
    assert set(result(tmp_path)["metrics"]) == {"image_AUROC", "a/image_AUROC"}


class MeanSnippet(AnomalyModule):
    """The score of a snippet is a squashed mean of its features, that of a video the highest of its snippets."""

    def predict(self, batch):
        score = (8 * batch["snippet_features"].mean((1, 3)) - 2.4).sigmoid()
        score = score.masked_fill(torch.arange(score.shape[1]) >= batch["length"].unsqueeze(1), 0)
        frames = frame_scores(score, batch["length"], batch.get("frame_count"))
        return {"anomaly_score": score.amax(1), "snippet_score": score, "frame_score": frames}


class Given(AnomalyModule):
    """Frame scores that the batch brings along."""

    def predict(self, batch):
        return {"anomaly_score": batch["given"].new_zeros(len(batch["length"])), "frame_score": batch["given"]}


def videos(label, frames, score, **more):
    """One batch: ``frames`` is a list of frame labels a video, ``score`` of frame scores."""
    return {
        "snippet_features": torch.zeros(len(label), 1, 4, 1),
        "label": torch.tensor(label),
        "frame_label": torch.tensor([value for video in frames for value in video]),
        "frame_count": torch.tensor([len(video) for video in frames]),
        "given": torch.tensor([value for video in score for value in video]),
        **more,
    }


def run_frames(trainer_in, folder, batches, **options):
    run(trainer_in, Given(), DataLoader(batches, batch_size=None), **options)
    return result(folder)


def small_videos(**options):
    return SyntheticVideos(feature_dim=8, train_size=2, test_size=6, validation="none", difficulty=0.4, **options)


def crossing(truth, score):
    fpr, tpr, _ = roc_curve(truth, score)
    grid = np.linspace(0, 1, 100_001)
    return grid[np.argmin(np.abs(1 - np.interp(grid, fpr, tpr) - grid))]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_frames_and_videos_equal_a_slow_loop_over_videos(tmp_path, trainer_in, batch_size):
    data = small_videos(eval_batch_size=batch_size)
    module = MeanSnippet()
    module.calibration.set("image", threshold=0.62, low=0.0, high=1.0)
    trainer = trainer_in(callbacks=[AnomalyMetrics()])
    trainer.test(module, data, verbose=False)
    score, truth, of_video, best, label = [], [], [], [], []
    for video in data.splits.test.videos:
        snippets = (8 * video.source.mean((0, 2)) - 2.4).sigmoid()
        for frame, value in enumerate(video.frame_label):
            score.append(snippets[frame // 16].item())
            truth.append(bool(value))
            of_video.append(video.label)
        best.append(snippets.max().item())
        label.append(video.label)
    assert len(truth) % 16  # ragged ends
    score, truth, of_video, best, label = map(np.array, (score, truth, of_video, best, label))
    inside = of_video == 1
    precision, recall, _ = precision_recall_curve(truth, score)
    decided = best >= 0.62
    expected = {
        "frame_AUROC": roc_auc_score(truth, score),
        "frame_AP": average_precision_score(truth, score),
        "frame_PRAUC": auc(recall, precision),
        "frame_FAR": np.mean([value > 0.5 for value, anomalous in zip(score, of_video, strict=True) if not anomalous]),
        "frame_AUROC_inside": roc_auc_score(truth[inside], score[inside]),
        "frame_AP_inside": average_precision_score(truth[inside], score[inside]),
        "frame_AUROC_oracle": roc_auc_score(truth, of_video),
        "frame_AP_oracle": average_precision_score(truth, of_video),
        "video_AUROC": roc_auc_score(label, best),
        "video_AP": average_precision_score(label, best),
        "video_F1Max": f1_max(label, best),
        "video_Accuracy": (decided == label).mean(),
        "video_Sensitivity": decided[label == 1].mean(),
        "video_Specificity": (~decided[label == 0]).mean(),
    }
    written = result(tmp_path)
    eer = written["metrics"].pop("frame_EER")
    assert eer == pytest.approx(crossing(truth, score), abs=2e-5)
    assert written["metrics"] == pytest.approx(expected, abs=1e-9)
    assert len({round(value, 6) for value in expected.values()}) > 10  # nothing is compared with a constant
    assert 0 < expected["frame_FAR"] < 1
    assert written["data"] == {"normal": 6, "anomalous": 6, "unit": "videos"}
    assert written["definitions"]["AP_inside"].endswith("Of the frames of anomalous videos alone.")
    assert "label of the whole video" in written["definitions"]["AUROC_oracle"]
    assert "score above 0.5" in written["definitions"]["FAR"]
    assert "alone" not in written["definitions"]["AP"]
    assert float(trainer.callback_metrics["test/frame_AUROC_inside"]) == pytest.approx(expected["frame_AUROC_inside"])


def test_the_two_figures_by_hand(tmp_path, trainer_in):
    batch = videos([0, 1], [[0, 0, 0, 0], [0, 0, 1, 1, 1, 0]], [[0.5, 0.5, 0.6, 0.1], [0.9, 0.2, 0.8, 0.8, 0.1, 0.1]])
    metrics = run_frames(trainer_in, tmp_path, [batch])["metrics"]
    assert metrics["frame_FAR"] == 1 / 4  # above 0.5, not at it
    # Of 3 x 3 pairs inside: 0.8 and 0.8 each beat two of three; 0.1 ties with one.
    assert metrics["frame_AUROC_inside"] == pytest.approx((2 + 2 + 0.5) / 9)
    # All anomalous frames tie with the three normal ones of their video and beat four others.
    assert metrics["frame_AUROC_oracle"] == pytest.approx((4 + 3 / 2) / 7)
    assert metrics["frame_AP_oracle"] == pytest.approx(3 / 6)
    assert metrics["video_AUROC"] == 0.5


def test_the_oracle_does_not_depend_on_the_scores(tmp_path, trainer_in):
    frames = [[0] * 5, [0, 1, 1], [1, 0, 0, 0]]
    found = []
    for seed in range(2):
        score = [torch.rand(len(part), generator=torch.Generator().manual_seed(seed)).tolist() for part in frames]
        found.append(run_frames(trainer_in, tmp_path, [videos([0, 1, 1], frames, score)])["metrics"])
    assert found[0]["frame_AUROC_oracle"] == found[1]["frame_AUROC_oracle"]
    assert found[0]["frame_AUROC"] != found[1]["frame_AUROC"]


# UCSD Ped2: first and last anomalous frame (counted from 1) and frames of each test clip, frames of each training clip.
PED2_EVENTS = [(61, 180), (95, 180), (1, 146), (31, 180), (1, 129), (1, 159)]
PED2_EVENTS += [(46, 180), (1, 180), (1, 120), (1, 150), (1, 180), (88, 180)]
PED2_TEST = [180, 180, 150, 180, 150, 180, 180, 180, 120, 150, 180, 180]
PED2_TRAIN = [120, 150, 150, 180, 180, 150, 150, 120, 180, 180, 180, 180, 180, 150, 150, 150]


def test_the_oracle_of_ped2_is_high(tmp_path, trainer_in):
    """Six abnormal and four normal clips are taken for training, ten times: 95.6 % and 81.8 % in our notes on the data set."""
    truth = [
        [int(first <= frame <= last) for frame in range(1, frames + 1)]
        for (first, last), frames in zip(PED2_EVENTS, PED2_TEST, strict=True)
    ]
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        frames = [truth[row] for row in rng.permutation(12)[:6]]
        frames += [[0] * PED2_TRAIN[row] for row in rng.permutation(16)[:12]]
        scores = [[0.5] * len(part) for part in frames]
        metrics = run_frames(trainer_in, tmp_path, [videos([1] * 6 + [0] * 12, frames, scores)])["metrics"]
        assert metrics["frame_AUROC"] == metrics["frame_AUROC_inside"] == 0.5
        found.append((metrics["frame_AUROC_oracle"], metrics["frame_AP_oracle"]))
    np.testing.assert_allclose(np.mean(found, axis=0), (0.956, 0.818), atol=0.01)


def test_figures_that_a_test_set_does_not_have_are_explained_once(tmp_path, trainer_in, caplog):
    scored = [[0.1, 0.2, 0.3]]
    with caplog.at_level(logging.WARNING, "anomaly_suite"):
        written = run_frames(trainer_in, tmp_path, [videos([0], [[0, 0, 0]], scored)] * 2)
    assert set(written["metrics"]) == {"frame_FAR"}
    assert written["undefined"]["frame_AUROC_inside"].startswith(
        "AUROC needs normal and anomalous samples; got 0 normal"
    )
    assert written["undefined"]["frame_AP_oracle"].startswith("AP needs normal and anomalous samples; got 6 normal")
    warnings = [record.message for record in caplog.records if record.name.startswith("anomaly_suite")]
    assert len(warnings) == 3  # one label of frames, no frames inside, one label of videos; not once a metric
    (inside,) = (warning for warning in warnings if "inside" in warning)
    assert "frame_AUROC_inside" in inside
    assert "frame_AP_inside" in inside

    written = run_frames(trainer_in, tmp_path, [videos([1], [[1, 1, 1]], scored)])
    assert "got 0 normal and 3 anomalous" in written["undefined"]["frame_AUROC_inside"]
    assert written["undefined"]["frame_FAR"].startswith("FAR needs normal samples")
    assert not any(name.startswith("frame") for name in written["metrics"])


def test_frames_of_videos_without_labels_have_the_plain_metrics(tmp_path, trainer_in):
    batch = videos([0, 1], [[0, 0, 1], [1, 0]], [[0.1, 0.7, 0.6], [0.9, 0.2]])
    del batch["label"]
    written = run_frames(trainer_in, tmp_path, [batch])
    assert set(written["metrics"]) == {"frame_AUROC", "frame_AP", "frame_EER", "frame_PRAUC"}
    assert written["metrics"]["frame_AUROC"] == pytest.approx(5 / 6)
    assert written["undefined"] == {}


def test_the_frame_option_chooses(tmp_path, trainer_in):
    batch = videos([0, 1], [[0, 0, 1], [1, 0]], [[0.1, 0.7, 0.6], [0.9, 0.2]])
    written = run_frames(trainer_in, tmp_path, [batch], frame=["F1Max_inside", "FPR95"], video=["AP"])
    assert set(written["metrics"]) == {"frame_F1Max_inside", "frame_FPR95", "video_AP"}
    assert written["metrics"]["frame_F1Max_inside"] == 1
    assert set(written["definitions"]) == {"F1Max_inside", "FPR95", "AP"}
    assert run_frames(trainer_in, tmp_path, [batch], frame=[], video=[])["metrics"] == {}


def test_frames_are_scored_in_validation_too(trainer_in):
    batch = videos([0, 1], [[0, 0], [1, 0]], [[0.1, 0.7], [0.9, 0.2]])
    logged = run(trainer_in, Given(), DataLoader([batch], batch_size=None), "validate")
    assert logged["val/frame_AUROC_inside"] == 1
    assert logged["val/frame_FAR"] == 0.5
    assert "val/video_Accuracy" not in logged


@pytest.mark.parametrize("frame", [["AUROC"], ["AUROC_inside"], ["FAR"]])
def test_frames_that_cannot_be_scored(tmp_path, trainer_in, frame):
    batch = videos([0, 1], [[0, 0], [1, 0]], [[0.1, 0.7], [0.9]])
    with pytest.raises(ShapeError, match=r"got \(3,\) and \(4,\)"):
        run_frames(trainer_in, tmp_path, [batch], frame=frame)


def test_a_frame_score_that_is_no_number_is_an_error(tmp_path, trainer_in):
    batch = videos([0, 1], [[0, 0], [1, 0]], [[0.1, math.nan], [0.9, 0.3]])
    with pytest.raises(NotFiniteError, match="1 of 4 are NaN or infinite"):
        run_frames(trainer_in, tmp_path, [batch])


def test_what_frames_keep(trainer_in):
    """Twelve bytes a frame at most, in one state for all metrics of a group."""
    callback = AnomalyMetrics()
    trainer_in(callbacks=[callback]).test(MeanSnippet(), small_videos(), verbose=False)
    kept = 0
    for (_, _, key), collection in callback._collections.items():
        members = list(collection.values(copy_state=False))
        if key.option == "frame" and not key.decides:
            assert all(member.score is members[0].score for member in members)
            kept += sum(part.nbytes for name in ("score", "target", "weight") for part in getattr(members[0], name))
    frames = sum(len(video.frame_label) for video in small_videos().read()[1])
    assert 7 * frames < kept < 12 * frames


# With other callbacks ------------------------------------------------------------------------------------------------


def test_monitored_by_early_stopping_and_checkpointing(tmp_path, trainer_in):
    class GoodAtEpochOne(NoMap):
        def forward(self, image):
            score, _ = super().forward(image)
            return score if self.current_epoch == 1 else -score, None

    image, label = around_20(12)
    image = image + label.view(-1, 1, 1, 1) * 10
    loader = DataLoader(list(zip(image, label, strict=True)), batch_size=4)
    saver = ModelCheckpoint(dirpath=tmp_path, monitor="val/image_AUROC", mode="max", filename="{epoch}")
    stopper = EarlyStopping(monitor="val/image_AUROC", mode="max", patience=2)
    trainer = trainer_in(callbacks=[stopper, saver, AnomalyMetrics()], enable_checkpointing=True, max_epochs=10)
    trainer.fit(GoodAtEpochOne(), loader, loader)
    assert float(saver.best_model_score) == 1
    assert saver.best_model_path.endswith("epoch=1.ckpt")
    assert trainer.current_epoch == 4  # epochs 2 and 3 were worse


# Several processes ---------------------------------------------------------------------------------------------------


class WithCategories(ImageSet):
    """The second image has a category of its own."""

    def batch(self, indices):
        return {**super().batch(indices), "category": ["b" if index == 1 else "a" for index in indices]}


class Nine(AnomalyDataModule):
    """Nine validation images, uneven for two processes."""

    def build(self):
        image = torch.randint(0, 200, (9, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
        label = (torch.arange(9) % 2 == 0).long()
        mask = torch.zeros(9, 1, 8, 8, dtype=torch.bool)
        mask[::2, :, 2:5, 2:6] = True
        image = image + 30 * mask + 10 * label.view(-1, 1, 1, 1).byte()
        nine = WithCategories(image=image, label=label, names=[str(index) for index in range(9)], mask=mask)
        return Splits(nine, nine, nine)


class AsTest(AnomalyMetrics):
    """Does in validation what it does in a test without anomalous pixels: two processes take long to start twice."""

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, *args):
        self.on_test_batch_end(trainer, pl_module, outputs, {**batch, "mask": torch.zeros_like(batch["mask"])})

    def on_validation_epoch_end(self, trainer, pl_module):
        self.on_test_epoch_end(trainer, pl_module)


def validate_and_test(trainer_in, folder, **options):
    callbacks = [Calibrate(), AnomalyMetrics(pixel_in_validation=True), AsTest()]
    trainer = trainer_in(callbacks=callbacks, default_root_dir=folder, **options)
    module = MeanScore()
    for level in ("image", "pixel"):
        module.calibration.set(level, threshold=0.42, low=0.0, high=1.0)
    trainer.validate(module, Nine(eval_batch_size=2), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}, result(folder)


@pytest.mark.slow
def test_two_processes_give_the_values_of_one(tmp_path, trainer_in, two_processes):
    logged, written = validate_and_test(trainer_in, tmp_path / "one")
    logged_by_two, written_by_two = validate_and_test(trainer_in, tmp_path / "two", **two_processes)
    assert logged_by_two == pytest.approx(logged, rel=1e-6)
    assert {"val/image_AUROC", "val/pixel_AUPRO", "val/a/pixel_AP", "val/normal_score"} <= set(logged)
    assert all(math.isfinite(value) for value in logged.values())
    assert written_by_two["metrics"] == written["metrics"]
    assert {"image_AUROC", "image_Accuracy", "a/image_AUROC", "b/image_Accuracy"} <= set(written["metrics"])
    assert written_by_two["undefined"] == written["undefined"]
    assert {"b/image_AUROC", "pixel_AUROC", "pixel_AUPRO", "pixel_Dice"} <= set(written["undefined"])
    assert written_by_two["data"] == written["data"] == {"normal": 4, "anomalous": 5}
    assert written_by_two["calibration"] == written["calibration"]
    assert written["calibration"]["image"]["normal"] == 4
    assert written["calibration"]["pixel"]["anomalous"] == 5 * 12


class FiveVideos(SyntheticVideos):
    """Uneven for two processes: the first gets the three normal ones, the second the two anomalous ones."""

    def read(self):
        train, test = super().read()
        normal, anomalous = test[:3], test[3:5]
        return train, [normal[0], anomalous[0], normal[1], anomalous[1], normal[2]]


def score_videos(trainer_in, folder, **options):
    module = MeanSnippet()
    module.calibration.set("image", threshold=0.62, low=0.0, high=1.0)
    data = FiveVideos(feature_dim=8, train_size=2, test_size=3, validation="none", difficulty=0.4, eval_batch_size=2)
    callbacks = [AnomalyMetrics(), ScoreTable(), ScorePlots(), ScoreCurves(limit=3, save_scores="npy")]
    trainer_in(callbacks=callbacks, default_root_dir=folder, **options).test(module, data, verbose=False)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    scores = {name: np.load(path, allow_pickle=False) for name, path in files.items() if name.endswith(".npy")}
    with files["test_scores.csv"].open(newline="", encoding="utf-8") as file:
        return result(folder), set(files), scores, list(csv.DictReader(file))


@pytest.mark.slow
def test_two_processes_score_videos_as_one(tmp_path, trainer_in, two_processes):
    written, files, scores, table = score_videos(trainer_in, tmp_path / "one")
    written_by_two, files_by_two, scores_by_two, table_by_two = score_videos(
        trainer_in, tmp_path / "two", **two_processes
    )
    assert written_by_two["metrics"] == pytest.approx(written["metrics"], abs=1e-6)
    assert {"frame_AUROC_inside", "frame_AP_oracle", "frame_FAR", "video_Accuracy"} <= set(written["metrics"])
    assert written_by_two["undefined"] == written["undefined"] == {}
    assert written_by_two["data"] == written["data"] == {"normal": 3, "anomalous": 2, "unit": "videos"}
    assert [row.keys() for row in table_by_two] == [row.keys() for row in table]
    for row, row_by_two in zip(table, table_by_two, strict=True):
        for name, value in row.items():
            if "score" in name or ("AUROC" in name and value):
                assert float(row_by_two[name]) == pytest.approx(float(value), rel=1e-6)  # for the reason below
            else:
                assert row_by_two[name] == value
    assert files_by_two == files
    assert sum(name.startswith("curves/test/") for name in files) == 3
    assert len(scores) == 5
    for name, score in scores.items():
        # Two processes make other batches, and sums of float32 may then be added in another order.
        np.testing.assert_allclose(scores_by_two[name], score, rtol=1e-6, atol=1e-7)


# A user's own metrics -------------------------------------------------------------------------------------------------


class Spread(Metric):
    """Difference of the mean scores of the two labels. See nowhere."""

    full_state_update = False

    def __init__(self, *, times=1.0):
        super().__init__()
        self.times = times
        self.add_state("total", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, score, target):
        target = target.flatten().long()
        self.total.index_add_(0, target, score.flatten().double())
        self.count += torch.bincount(target, minlength=2)

    def compute(self):
        if not self.times:
            raise RuntimeError("nothing to multiply by")
        mean = self.total / self.count
        return self.times * (mean[1] - mean[0])


def test_own_metrics_see_raw_scores_of_their_level_and_are_written(tmp_path, trainer_in):
    image, label = around_20()
    mask = torch.zeros_like(image)
    mask[label == 1, :, 0, 0] = 1
    batches = [
        {"image": image[part], "label": label[part], "mask": mask[part], "category": ["a", "b"] * 15}
        for part in (slice(0, 30), slice(30, 60))
    ]
    loader = DataLoader(batches, batch_size=None)
    extra = {"image": {"Spread": Spread(), "Twice": Spread(times=2.0)}, "pixel": {"Spread": Spread()}}
    logged = run(trainer_in, MeanScore(), loader, extra=extra, pixel=[])
    score, truth = image.flatten(1).mean(1).double(), label == 1
    expected = float(score[truth].mean() - score[~truth].mean())
    values = result(tmp_path)["metrics"]
    assert values["image_Spread"] == pytest.approx(expected, abs=1e-6)
    assert values["image_Twice"] == pytest.approx(2 * expected, abs=1e-6)
    pixels = image.double()[mask == 1].mean() - image.double()[mask == 0].mean()
    assert values["pixel_Spread"] == pytest.approx(float(pixels), abs=1e-6)
    assert logged["test/image_Spread"] == pytest.approx(expected, abs=1e-6)
    parts = [score[c::2][truth[c::2]].mean() - score[c::2][~truth[c::2]].mean() for c in (0, 1)]
    assert [values["a/image_Spread"], values["b/image_Spread"]] == pytest.approx([float(x) for x in parts], abs=1e-6)
    assert values["mean/image_Spread"] == pytest.approx(float(sum(parts)) / 2, abs=1e-6)
    assert result(tmp_path)["definitions"]["Spread"] == "Difference of the mean scores of the two labels."
    assert extra["image"]["Spread"].update_count == 0  # a copy is updated


def test_a_fault_of_an_own_metric_loses_no_other(tmp_path, trainer_in):
    image, label = around_20()
    loader = DataLoader(list(zip(image, 0 * label, strict=True)), batch_size=20)  # without anomalies a mean is NaN
    logged = run(trainer_in, NoMap(), loader, extra={"image": {"Spread": Spread(), "Broken": Spread(times=0.0)}})
    written = result(tmp_path)
    assert written["undefined"]["image_Spread"] == "Spread is not a number on this data."
    assert written["undefined"]["image_Broken"] == (
        "Broken could not be computed: RuntimeError: nothing to multiply by"
    )
    assert "test/image_Spread" not in logged
    assert written["data"] == {"normal": 60, "anomalous": 0}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"images": {}}, "extra has no level 'images'; known are image, .* Did you mean 'image'?"),
        ({"image": [Spread()]}, "extra: image must map names to metrics; got list. Write for example"),
        ({"image": {"Spread": 3}}, "extra: image: Spread must be a torchmetrics.Metric; got int. Give an instance"),
        ({"image": {"AUROC": Spread()}}, "extra: image has AUROC already. Give your metric another name"),
    ],
)
def test_own_metrics_that_cannot_be(extra, message):
    with pytest.raises(ConfigError, match=message):
        AnomalyMetrics(extra=extra)


def test_a_wrong_option_names_the_nearest():
    with pytest.raises(ConfigError, match=r"AnomalyMetrics has no option 'frames'. Did you mean 'frame'\?"):
        AnomalyMetrics(frames=[])


# Driving scenes ------------------------------------------------------------------------------------------------------


def scenes(count=8, height=24, width=40, seed=0):
    """Images whose first channel is the score, and labels with void; the last image is void altogether."""
    generator = torch.Generator().manual_seed(seed)
    ood = torch.zeros(count, height, width, dtype=torch.uint8)
    ood[::2, 3:9, 5:20] = 1
    image = -12 - torch.randn(count, 1, height, width, generator=generator).exp() + 2 * (ood == 1)[:, None]
    ood[:, -6:] = 255
    ood[1, :, :7] = 255
    ood[-1] = 255
    image[ood[:, None] == 255] = 1e9  # would be the highest scores
    return [{"image": each, "ood_mask": truth} for each, truth in zip(image, ood, strict=True)]


def pooled(items, height=24, width=40):
    """Scores, resized with OpenCV if need be, and truth of all scored pixels."""
    score, truth = [], []
    for item in items:
        plane, ood = item["image"][0].numpy(), item["ood_mask"].numpy()
        if plane.shape != ood.shape:
            plane = cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)
        score.append(plane[ood != 255])
        truth.append(ood[ood != 255] == 1)
    return np.concatenate(score), np.concatenate(truth)


def ood_values(score, truth):
    return {
        "pixel_AUROC": roc_auc_score(truth, score),
        "pixel_AP": average_precision_score(truth, score),
        "pixel_FPR95": fpr95(truth, score),
    }


@pytest.mark.parametrize("exact", [False, True])
def test_scored_pixels_of_scenes_are_pooled(tmp_path, trainer_in, exact):
    items = scenes()
    logged = run(trainer_in, MeanScore(), DataLoader(items, batch_size=3), exact=exact)
    expected = ood_values(*pooled(items))
    written = result(tmp_path)
    assert written["metrics"].keys() == expected.keys()  # none of whole images
    assert written["error_bound"].keys() == (set() if exact else expected.keys())
    for name, value in expected.items():
        bound = written["error_bound"].get(name, 0)
        assert abs(written["metrics"][name] - value) <= bound + 1e-12, name
        assert bound < 1e-3
        assert logged[f"test/{name}"] == pytest.approx(value, abs=1e-3)
    assert 0.2 < expected["pixel_AP"] < 0.95
    assert written["data"] == {"normal": 3, "anomalous": 4, "without_scored_pixels": 1}
    assert written["definitions"]["AP"] == "Average precision, the step-wise sum."


def test_maps_of_another_size_are_resized_to_the_labels(tmp_path, trainer_in):
    class HalfSize(MeanScore):
        def forward(self, image):
            score, anomaly_map = super().forward(image)
            return score, anomaly_map[:, :, ::2, ::2]

    items = scenes()
    run(trainer_in, HalfSize(), DataLoader(items, batch_size=4), exact=True)
    small = [{**item, "image": item["image"][:, ::2, ::2]} for item in items]
    expected = ood_values(*pooled(small))
    values = result(tmp_path)["metrics"]
    assert values == {
        name: pytest.approx(value, abs=1e-3) for name, value in expected.items()
    }  # OpenCV rounds otherwise
    assert abs(values["pixel_AP"] - ood_values(*pooled(items))["pixel_AP"]) > 0.02


def test_scenes_without_scored_pixels_have_no_values(tmp_path, trainer_in):
    logged = run(trainer_in, MeanScore(), DataLoader(scenes()[-1:]))
    assert logged == {}
    written = result(tmp_path)
    assert written["metrics"] == written["error_bound"] == {}
    assert set(written["undefined"]) == {"pixel_AUROC", "pixel_AP", "pixel_FPR95"}
    assert "got 0 normal and 0 anomalous" in written["undefined"]["pixel_AP"]


def test_scenes_in_validation_only_if_asked_for(trainer_in):
    loader = DataLoader(scenes(), batch_size=2)
    assert set(run(trainer_in, MeanScore(), loader, "validate")) == {"val/normal_score"}
    logged = run(trainer_in, MeanScore(), loader, "validate", pixel_in_validation=True, ood=["F1Max", "AP"])
    assert set(logged) == {"val/normal_score", "val/pixel_F1Max", "val/pixel_AP"}
    score, truth = pooled(scenes())
    assert logged["val/pixel_F1Max"] == pytest.approx(f1_max(truth, score), abs=1e-3)


def test_scenes_with_labels_have_metrics_of_images_too_and_no_pixels_of_masks(tmp_path, trainer_in):
    items = [
        {**item, "label": index % 2, "mask": (item["ood_mask"] == 1)[None]}
        for index, item in enumerate(scenes(count=6))
    ]
    run(trainer_in, MeanScore(), DataLoader(items, batch_size=3), image=["AUROC"], pixel=["AUROC"], ood=["AP"])
    score, truth = pooled(items)
    values = result(tmp_path)["metrics"]
    assert values.keys() == {"image_AUROC", "pixel_AP"}
    assert values["pixel_AP"] == pytest.approx(average_precision_score(truth, score), abs=1e-3)


@pytest.mark.parametrize("foreign", [False, True])
def test_void_pixels_do_not_score_scenes_as_a_whole(tmp_path, trainer_in, caplog, foreign):
    class Highest(MeanScore):
        def forward(self, image):
            return image.amax((1, 2, 3)), image[:, :1]

    class Theirs(LightningModule):
        def validation_step(self, batch, batch_idx):
            return {"pred_score": batch["image"].amax((1, 2, 3)), "anomaly_map": batch["image"][:, 0]}

        test_step = validation_step

    generator = torch.Generator().manual_seed(0)
    label = torch.arange(10) % 2
    image = torch.rand(10, 1, 4, 6, generator=generator)
    ood = torch.zeros(10, 4, 6, dtype=torch.uint8)
    ood[label == 1, 0, 0] = 1
    image[label == 1, :, 0, 0] += 1  # every anomalous scene above every normal one
    ood[:, -1] = 255
    image[:, :, -1] = 5 * torch.rand(10, 1, 6, generator=generator)  # were it not for what is void
    ood[:2] = 255  # nothing to score, whatever the label says
    assert roc_auc_score(label, image.amax((1, 2, 3))) < 0.8
    items = [
        {"image": one, "ood_mask": truth, "label": of, "category": "ab"[index % 3 == 0]}
        for index, (one, truth, of) in enumerate(zip(image, ood, label, strict=True))
    ]
    loader = DataLoader(items, batch_size=4)
    trainer = trainer_in(callbacks=[AnomalyMetrics(image=["AUROC"], ood=[]), ScoreTable()])
    module = Theirs() if foreign else Highest()
    with caplog.at_level(logging.WARNING, "anomaly_suite"):
        trainer.validate(module, loader, verbose=False)
        assert float(trainer.callback_metrics["val/normal_score"]) < 1
        trainer.test(module, loader, verbose=False)
    written = result(tmp_path)
    assert written["metrics"] == dict.fromkeys(("image_AUROC", "a/image_AUROC", "b/image_AUROC", "mean/image_AUROC"), 1)
    assert written["data"] == {"normal": 4, "anomalous": 4, "without_scored_pixels": 2}
    assert (
        caplog.text.count("test leaves scenes without any scored pixel out of the metrics of images: 2 there are") == 1
    )
    with (tmp_path / "test_scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["", "", *map(str, label[2:].tolist())]
    known = rows[2:]
    assert roc_auc_score([int(row["label"]) for row in known], [float(row["anomaly_score"]) for row in known]) == 1


class MeansOverImages(LightningDataModule):
    mean_over_images = True

    def test_dataloader(self):
        return DataLoader(scenes(), batch_size=3)


def test_a_benchmark_that_takes_means_over_scenes_has_them_beside_the_pool(tmp_path, trainer_in):
    callback = AnomalyMetrics(ood=["AUROC", "AP", "IoUMax"])
    trainer = trainer_in(callbacks=[callback])
    trainer.test(MeanScore(), datamodule=MeansOverImages(), verbose=False)
    found = result(tmp_path)
    names = {f"pixel_{name}" for name in ("AUROC", "AP", "IoUMax", "AUROC_per_image", "AP_per_image")}
    assert found["metrics"].keys() == names
    pairs = [pooled([item]) for item in scenes()]
    values = [ood_values(score, truth) for score, truth in pairs if truth.any() and not truth.all()]
    for name in ("AUROC", "AP"):
        mean = np.mean([each[f"pixel_{name}"] for each in values])
        assert found["metrics"][f"pixel_{name}_per_image"] == pytest.approx(mean, abs=1e-12)
        assert found["error_bound"][f"pixel_{name}_per_image"] == 0
    assert found["definitions"]["AP_per_image"].startswith("Mean over scenes of the exact metric")
    trainer_in(callbacks=[callback]).test(MeanScore(), DataLoader(scenes(), batch_size=3), verbose=False)
    assert result(tmp_path)["metrics"].keys() == {
        f"pixel_{name}" for name in ("AUROC", "AP", "IoUMax")
    }  # of other data


def test_means_over_scenes_can_be_asked_for(tmp_path, trainer_in):
    loader = DataLoader(scenes(), batch_size=3)
    run(trainer_in, MeanScore(), loader, ood=["FPR95_per_image"])
    assert result(tmp_path)["metrics"].keys() == {"pixel_FPR95_per_image"}

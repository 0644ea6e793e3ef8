from __future__ import annotations

import csv
import sys

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from anomaly_suite.callbacks.heatmaps import HeatmapExport
from anomaly_suite.callbacks.plots import ScorePlots
from anomaly_suite.callbacks.table import ScoreTable
from anomaly_suite.contract import AnomalyModule, ShardSampler
from anomaly_suite.errors import ConfigError

HEADER = ["index", "path", "label", "anomaly_score", "normalized_score", "decision"]


class MeanIsOdd(AnomalyModule):
    """The score is the mean of the image, the map the image."""

    def forward(self, image):
        return image.flatten(1).mean(1), image[:, :1]

    def training_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return None


class NoScore(MeanIsOdd):
    def test_step(self, batch, batch_idx, dataloader_idx=0):
        return {"loss": torch.zeros(())}


class Nothing(MeanIsOdd):
    def test_step(self, batch, batch_idx, dataloader_idx=0):
        return None


class Numbered(Dataset):
    """Image ``i`` has the score ``i / 7``."""

    def __init__(self, count, folder="/d"):
        self.count = count
        self.folder = folder

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {
            "image": torch.full((1, 8, 8), index / 7),
            "image_path": f"{self.folder}/x/{index}/same.png",
            "label": index % 2,
        }


def run(callback, data, trainer_in, *, module=None, stage="test", batch_size=2):
    trainer = trainer_in(callbacks=[callback])
    loaders = [DataLoader(each, batch_size=batch_size) for each in (data if isinstance(data, tuple) else (data,))]
    if stage == "test":
        trainer.test(module or MeanIsOdd(), loaders, verbose=False)
    else:
        trainer.predict(module or MeanIsOdd(), loaders)


def calibrated():
    module = MeanIsOdd()
    module.calibration.set("image", threshold=0.5, low=0.0, high=2.0, rule="fixed")
    return module


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_csv_holds_the_exact_scores_in_order(tmp_path, trainer_in):
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    paths = ["/d/a.png", '/d/with, comma "and" quotes.png', "/d/ü.png", "/d/a.png", "d"]
    data = [
        {"image": image, "label": i % 2, "image_path": path}
        for i, (image, path) in enumerate(zip(images, paths, strict=True))
    ]
    run(ScoreTable(), data, trainer_in, module=calibrated())
    assert [path.name for path in tmp_path.rglob("*")] == ["test_scores.csv"]
    header, *rows = read(tmp_path / "test_scores.csv")
    assert header == HEADER
    score = calibrated()(images)[0]
    assert [row[0] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row[1] for row in rows] == paths
    assert [row[2] for row in rows] == ["0", "1", "0", "1", "0"]
    assert [float(row[3]) for row in rows] == score.tolist()
    assert [row[3] for row in rows] == [repr(value) for value in score.tolist()]
    assert [float(row[4]) for row in rows] == calibrated().calibration.normalize(score).tolist()
    assert [row[5] for row in rows] == [("normal", "anomalous")[value >= 0.5] for value in score.tolist()]
    assert len({row[5] for row in rows}) == 2


def test_what_is_unknown_stays_empty(tmp_path, trainer_in):
    run(ScoreTable(), [(torch.full((1, 2, 2), 0.25),), (torch.full((1, 2, 2), 0.75),)], trainer_in)
    assert read(tmp_path / "test_scores.csv") == [HEADER, ["0", "", "", "0.25", "", ""], ["1", "", "", "0.75", "", ""]]


def test_tuples_and_categories(tmp_path, trainer_in):
    image = torch.full((1, 2, 2), 0.5)
    run(ScoreTable(), [(image, 1)], trainer_in)
    assert read(tmp_path / "test_scores.csv")[1] == ["0", "", "1", "0.5", "", ""]
    run(ScoreTable(), [{"image": image, "category": "bottle"}], trainer_in)
    assert read(tmp_path / "test_scores.csv") == [
        ["index", "path", "category", *HEADER[2:]],
        ["0", "", "bottle", "", "0.5", "", ""],
    ]


def test_stages_and_the_path_asked_for(tmp_path, trainer_in):
    callback = ScoreTable(path=str(tmp_path / "runs" / "a.csv"))
    run(callback, [torch.zeros(1, 2, 2)], trainer_in)
    run(callback, [torch.ones(1, 2, 2)], trainer_in, stage="predict")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["predict_a.csv", "test_a.csv"]
    assert read(tmp_path / "runs" / "test_a.csv")[1:] == [["0", "", "", "0.0", "", ""]]
    assert read(tmp_path / "runs" / "predict_a.csv")[1:] == [["0", "", "", "1.0", "", ""]]


def test_several_loaders_follow_each_other(tmp_path, trainer_in):
    run(ScoreTable(), (Numbered(3), Numbered(2)), trainer_in)
    assert [row[:2] for row in read(tmp_path / "test_scores.csv")[1:]] == [
        [str(index), f"/d/x/{item}/same.png"] for index, item in enumerate([0, 1, 2, 0, 1])
    ]


def test_parquet_has_types_and_nulls(tmp_path, trainer_in):
    parquet = pytest.importorskip("pyarrow.parquet")
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    data = [{"image": image, "image_path": f"{index}.png", "label": 1} for index, image in enumerate(images)]
    run(ScoreTable(format="parquet"), data, trainer_in)
    table = parquet.read_table(tmp_path / "test_scores.parquet")
    assert table.column_names == HEADER
    assert list(map(str, table.schema.types)) == ["int64", "string", "int8", "double", "double", "string"]
    columns = table.to_pydict()
    assert columns["anomaly_score"] == MeanIsOdd()(images)[0].tolist()
    assert columns["path"] == ["0.png", "1.png", "2.png"]
    assert columns["normalized_score"] == columns["decision"] == [None] * 3


VIDEO_HEADER = [*HEADER, "snippets", "frames", "peak_frame", "frame_AUROC"]


class Video(MeanIsOdd):
    """A snippet's score is the mean of its features, held for two frames of those that the batch counts."""

    def predict(self, batch):
        score = batch["snippet_features"].mean((1, 3))
        frames = [row.repeat_interleave(2)[:count] for row, count in zip(score, batch["frame_count"], strict=True)]
        return {"anomaly_score": score.amax(1), "frame_score": torch.cat(frames)}


def video_batch(scores, labels, truths, **more):
    """Videos of one feature value a snippet, padded with a high one that must not count."""
    longest = max(map(len, scores))
    rows = [[*score, *[9.0] * (longest - len(score))] for score in scores]
    return {
        "snippet_features": torch.tensor(rows)[:, None, :, None],
        "length": torch.tensor([len(score) for score in scores]),
        "label": torch.tensor(labels),
        "image_path": [f"v{number}.mp4" for number in range(len(labels))],
        "frame_label": torch.tensor([value for truth in truths for value in truth]),
        "frame_count": torch.tensor([len(truth) for truth in truths]),
        **more,
    }


def run_videos(batches, trainer_in, **options):
    trainer_in(callbacks=[ScoreTable(**options)]).test(Video(), DataLoader(batches, batch_size=None), verbose=False)


def test_videos_have_a_row_each_and_columns_of_their_own(tmp_path, trainer_in):
    scores = [[0.5, 0.25, 0.75], [0.5, 0.75], [0.25]]
    truths = [[0, 1, 0, 0, 1], [0, 0, 0, 0], [1, 1]]
    run_videos([video_batch(scores, [1, 0, 1], truths)], trainer_in)
    header, *rows = read(tmp_path / "test_scores.csv")
    assert header == VIDEO_HEADER
    # 0.5 0.5 0.25 0.25 0.75: the frame at 0.75 beats three normal ones, that at 0.5 two and ties with one
    assert rows[0][1:3] + rows[0][6:9] == ["v0.mp4", "1", "3", "5", "4"]
    assert float(rows[0][9]) == pytest.approx((3 + 2.5) / 6)
    assert rows[1][6:] == ["2", "4", "2", ""]  # one label only: no AUROC
    assert rows[2][6:] == ["1", "2", "0", ""]


def test_videos_one_by_one_give_the_same_table(tmp_path, trainer_in):
    scores = [[0.5, 0.25, 0.75], [0.5, 0.75]]
    truths = [[0, 1, 0, 0, 1], [0, 0, 0, 1]]
    run_videos([video_batch(scores, [1, 1], truths)], trainer_in)
    together = read(tmp_path / "test_scores.csv")
    single = [video_batch(scores[i : i + 1], [1], truths[i : i + 1], image_path=[f"v{i}.mp4"]) for i in range(2)]
    run_videos(single, trainer_in)
    found = read(tmp_path / "test_scores.csv")
    score = VIDEO_HEADER.index("anomaly_score")  # this network looks at padding; the frames must not
    assert [row[:score] + row[score + 1 :] for row in found] == [row[:score] + row[score + 1 :] for row in together]


def test_without_truth_and_numbers_less_is_said(tmp_path, trainer_in):
    batch = video_batch([[0.5, float("nan")], [0.5, 0.75]], [1, 0], [[0, 1, 1], [0, 1, 1, 1]])
    run_videos([batch], trainer_in)
    header, *rows = read(tmp_path / "test_scores.csv")
    assert header == VIDEO_HEADER
    assert [row[6:] for row in rows] == [["2", "3", "", ""], ["2", "4", "2", "0.8333333333333334"]]
    del batch["frame_label"]
    run_videos([batch], trainer_in)
    header, *rows = read(tmp_path / "test_scores.csv")
    assert header == VIDEO_HEADER[:-1]
    assert [row[6:] for row in rows] == [["2", "3", ""], ["2", "4", "2"]]


def test_parquet_of_videos_has_numbers(tmp_path, trainer_in):
    parquet = pytest.importorskip("pyarrow.parquet")
    batch = video_batch([[0.5, 0.25], [0.5, 0.75]], [1, 0], [[0, 1, 1], [0, 0, 0]])
    run_videos([batch], trainer_in, format="parquet")
    table = parquet.read_table(tmp_path / "test_scores.parquet")
    assert table.column_names == VIDEO_HEADER
    assert list(map(str, table.schema.types))[6:] == ["int64", "int64", "int64", "double"]
    assert table.to_pydict()["frame_AUROC"] == [0.25, None]


def test_video_scores_take_the_label_of_the_bag(tmp_path, trainer_in):
    class NoFrames(MeanIsOdd):
        def predict(self, batch):
            return {"anomaly_score": batch["snippet_features"].mean((1, 2, 3))}

    data = [{"snippet_features": torch.full((3, 2), 0.5), "bag_label": 1, "image_path": "v.mp4"}]
    run(ScoreTable(), data, trainer_in, module=NoFrames())
    assert read(tmp_path / "test_scores.csv") == [
        [*HEADER, "snippets"],
        ["0", "v.mp4", "1", "0.5", "", "", "3"],
    ]


@pytest.mark.parametrize("module", [NoScore(), Nothing()])
def test_without_scores_nothing_is_written(tmp_path, trainer_in, module):
    run(ScoreTable(), [torch.zeros(1, 2, 2)], trainer_in, module=module)
    assert list(tmp_path.rglob("*")) == []


def test_a_failed_test_leaves_no_table(tmp_path, trainer_in):
    class Broken(MeanIsOdd):
        def test_step(self, batch, batch_idx, dataloader_idx=0):
            if batch_idx:
                raise RuntimeError("broken")
            return super().test_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="broken"):
        run(ScoreTable(), [torch.zeros(1, 2, 2)] * 4, trainer_in, module=Broken())
    assert list(tmp_path.rglob("*")) == []


def test_errors_say_what_to_do(monkeypatch):
    with pytest.raises(ConfigError, match=r"path must end in \.parquet for format: parquet; got 'a.csv'"):
        ScoreTable(path="a.csv", format="parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="Install pyarrow"):
        ScoreTable(format="parquet")


class ThreeLoaders(MeanIsOdd):
    """Five images each: in shards, with one repeated to fill up the second process, and in halves."""

    def test_dataloader(self):
        def loader(name, sampler):
            data = Numbered(5, folder=f"/d/{name}")
            return DataLoader(data, batch_size=2, sampler=sampler(data))

        rank = self.global_rank
        return [
            loader("shards", lambda data: ShardSampler(data, world=2, rank=rank, shuffle=False, seed=0)),
            loader("filled", lambda data: DistributedSampler(data, num_replicas=2, rank=rank, shuffle=False)),
            loader("halves", lambda data: range(3) if rank == 0 else range(3, 5)),
        ]


@pytest.mark.slow
def test_two_processes_write_every_image_once(tmp_path, trainer_in, two_processes):
    callbacks = [ScoreTable(), ScorePlots(), HeatmapExport(raw="npy")]
    trainer = trainer_in(callbacks=callbacks, **two_processes, use_distributed_sampler=False)
    trainer.test(ThreeLoaders(), verbose=False)
    rows = read(tmp_path / "test_scores.csv")[1:]
    assert [row[1] for row in rows] == [
        f"/d/{name}/x/{index}/same.png" for name in ("shards", "filled", "halves") for index in range(5)
    ]
    np.testing.assert_allclose([float(row[3]) for row in rows], np.tile(np.arange(5) / 7, 3), rtol=1e-6)
    plots = sorted(path.name for path in (tmp_path / "plots").iterdir())
    prefixes = ("test", "test_dataloader_idx_0", "test_dataloader_idx_1", "test_dataloader_idx_2")
    assert plots == sorted(f"{prefix}_{kind}.png" for prefix in prefixes for kind in ("histogram", "pr", "roc"))
    panels = sorted((tmp_path / "heatmaps" / "test").rglob("*.png"))
    assert len(panels) == 15
    stored = {path: np.load(path, allow_pickle=False)[0, 0] for path in (tmp_path / "heatmaps").rglob("*.npy")}
    np.testing.assert_allclose(sorted(stored.values()), np.repeat(np.arange(5) / 7, 3), rtol=1e-6)
    # One colour for one score, whichever process drew it: the first batch of the first was images 0 and 2.
    colors = {}
    for panel in panels:
        raw = tmp_path / "heatmaps" / "test_raw" / panel.relative_to(tmp_path / "heatmaps" / "test").with_suffix(".npy")
        shown = cv2.imread(str(panel))[40, 4 + 132 + 40]  # in the second tile
        colors.setdefault(round(float(stored[raw]) * 7), set()).add(tuple(shown.tolist()))
    assert {score: len(some) for score, some in colors.items()} == dict.fromkeys(range(5), 1)
    assert len(set.union(*colors.values())) >= 3
    # What one process wrote here before goes, too, though the files of two have other names.
    assert [path.name for path in tmp_path.rglob(".*")] == [".HeatmapExport_test.jsonl"]
    trainer_in(callbacks=[HeatmapExport()]).test(ThreeLoaders(), verbose=False)
    assert len(list((tmp_path / "heatmaps").rglob("*.png"))) == 9
    assert not list((tmp_path / "heatmaps").rglob("*.npy"))

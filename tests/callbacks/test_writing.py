"""Where files cannot be written: known before the first batch, or at the end without losing the values; nothing stale stays."""

from __future__ import annotations

import csv
import io
import json
import resource
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from anomaly_suite.callbacks import (
    AnomalyMetrics,
    ComponentMetrics,
    FrameMetrics,
    HeatmapExport,
    LocalisationMetrics,
    ScoreCurves,
    ScorePlots,
    ScoreTable,
    SegmentationMetrics,
)
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.errors import FileWriteError, ShapeError


class Brightness(AnomalyModule):
    """The map is the first channel, the score its mean."""

    seen = 0

    def forward(self, image):
        self.seen += 1
        return image[:, 0].flatten(1).mean(1), image[:, :1]


class Videos(AnomalyModule):
    def predict(self, batch):
        score = batch["snippet_features"][:, 0, :, 0]
        return {"anomaly_score": score.amax(1), "frame_score": score.flatten().repeat_interleave(2)}


def images(*names, side=8, rare=1):
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.rand(1, side, side, generator=generator),
            "label": int(i < rare),
            "image_path": f"/d/x/y/{name}",
        }
        for i, name in enumerate(names)
    ]


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CALLBACKS = [
    AnomalyMetrics,
    SegmentationMetrics,
    ComponentMetrics,
    FrameMetrics,
    LocalisationMetrics,
    HeatmapExport,
    ScorePlots,
    ScoreCurves,
    ScoreTable,
]


@pytest.mark.parametrize("callback", CALLBACKS)
def test_a_place_that_cannot_be_written_to_is_known_before_the_first_batch(tmp_path, trainer_in, callback):
    (tmp_path / "file").touch()
    module = Brightness()
    trainer = trainer_in(callbacks=[callback()], default_root_dir=tmp_path / "file" / "run")
    with pytest.raises(FileWriteError, match=r"results are to be written to .*file/run.* choose a folder"):
        trainer.test(module, DataLoader(images("a.png")), verbose=False)
    assert module.seen == 0
    assert list(files(tmp_path)) == ["file"]


@pytest.mark.parametrize("in_the_way", ["metrics.json", "test_scores.csv"])
def test_a_folder_in_the_place_of_a_file(tmp_path, trainer_in, in_the_way):
    (tmp_path / in_the_way).mkdir()
    module = Brightness()
    with pytest.raises(FileWriteError, match=f"the file '.*{in_the_way}', which is a folder"):
        trainer_in(callbacks=[ScoreTable(), AnomalyMetrics()]).test(module, DataLoader(images("a.png")), verbose=False)
    assert module.seen == 0


@pytest.mark.parametrize("folder", ["test", "test_raw"])
def test_a_file_in_the_place_of_a_folder_of_panels(tmp_path, trainer_in, folder):
    (tmp_path / folder).touch()
    with pytest.raises(FileWriteError, match=f"results are to be written to '.*/{folder}'"):
        trainer_in(callbacks=[HeatmapExport(raw="npy", folder=str(tmp_path))]).test(
            Brightness(), DataLoader(images("a.png")), verbose=False
        )


def test_what_is_switched_off_needs_no_place(tmp_path, trainer_in):
    (tmp_path / "file").touch()
    callback = HeatmapExport(max_images=0, folder=str(tmp_path / "file"))
    trainer_in(callbacks=[callback]).test(Brightness(), DataLoader(images("a.png")), verbose=False)


class FillsDisk(Brightness):
    """From its first batch on no file can become larger than 64 bytes."""

    def forward(self, image):
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return super().forward(image)


@pytest.fixture
def full_disk():
    """Gives the room back that a test took."""
    limit, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    signal.signal(signal.SIGXFSZ, before)


def test_a_disk_that_fills_up_loses_no_value(tmp_path, trainer_in, full_disk, capsys):
    """Values and rows are printed, old files stay, and the end says what is missing."""
    callbacks = [HeatmapExport(raw="npy"), AnomalyMetrics(), ScorePlots(), ScoreTable()]
    trainer = trainer_in(callbacks=callbacks)
    trainer.test(Brightness(), DataLoader(images("a.png", "b.png", "c.png")), verbose=False)
    before = files(tmp_path)
    capsys.readouterr()
    with pytest.raises(FileWriteError, match=r"could not be written .*So it was with \d+ other files\."):
        trainer.test(FillsDisk(), DataLoader(images("a.png", "b.png", "c.png")), verbose=False)
    said = capsys.readouterr().out
    left = {name: content for name, content in files(tmp_path).items() if not name.endswith(".jsonl")}
    assert left.items() <= before.items()
    assert len(left) == len(before) - 1
    assert json.loads(said[: said.index("index,path")])["metrics"] == json.loads(before["metrics.json"])["metrics"]
    assert said[said.index("index,path") :].splitlines()[:4] == before["test_scores.csv"].decode().splitlines()


# Files of an earlier stage -------------------------------------------------------------------------------------------


def test_a_second_test_leaves_no_picture_of_the_first(tmp_path, trainer_in):
    def test(data, **options):
        callbacks = [HeatmapExport(**options), ScorePlots(), ScoreTable()]
        trainer_in(callbacks=callbacks).test(Brightness(), DataLoader(data), verbose=False)

    test(images("bad/a.png", "b.png", "c.png"), raw="png16")
    own = tmp_path / "heatmaps" / "test" / "x" / "mine.png"
    own.parent.mkdir(exist_ok=True)
    own.write_bytes(b"mine")
    (tmp_path / "plots" / "test_notes.png").write_bytes(b"mine")
    edited = tmp_path / "heatmaps" / "test" / "x" / "y" / "c.png"
    edited.write_bytes(b"a circle was drawn")

    class Broken(Brightness):
        def forward(self, image):
            raise RuntimeError("broken")

    before = files(tmp_path)
    with pytest.raises(RuntimeError, match="broken"):
        trainer_in(callbacks=[HeatmapExport(), ScorePlots()]).test(Broken(), DataLoader(images("z.png")), verbose=False)
    assert files(tmp_path) == before  # a test that fails at once takes nothing away

    test(images("b.png", rare=0))
    left = {name for name in files(tmp_path) if not name.endswith(".jsonl")}
    assert left == {
        "heatmaps/test/x/y/b.png",
        "heatmaps/test/x/y/c.png",  # changed since it was written
        "heatmaps/test/x/mine.png",
        "plots/test_histogram.png",
        "plots/test_notes.png",
        "test_scores.csv",
    }
    assert not (tmp_path / "heatmaps" / "test_raw").exists()


def test_runs_that_share_a_folder_keep_their_pictures(tmp_path, trainer_in):
    def test(run, *names):
        trainer = trainer_in(callbacks=[HeatmapExport(folder=str(tmp_path / "all"))], default_root_dir=tmp_path / run)
        trainer.test(Brightness(), DataLoader(images(*names)), verbose=False)
        return sorted(path.name for path in (tmp_path / "all").rglob("*.png"))

    test("one", "a.png", "b.png")
    assert test("two", "c.png", "d.png") == ["a.png", "b.png", "c.png", "d.png"]
    assert test("one", "b.png") == ["b.png", "c.png", "d.png"]


def test_a_second_test_of_videos_leaves_no_curve_of_the_first(tmp_path, trainer_in):
    def test(*names, **options):
        data = [{"snippet_features": torch.rand(1, 1, 2, 3), "image_path": [name]} for name in names]
        callback = ScoreCurves(**options)
        trainer_in(callbacks=[callback]).test(Videos(), DataLoader(data, batch_size=None), verbose=False)
        return {name for name in files(tmp_path / "curves") if not name.endswith(".jsonl")}

    assert test("a", "b", save_scores="csv") == {"test/a.png", "test/b.png", "test_scores/a.csv", "test_scores/b.csv"}
    assert test("b", "c", save_scores="npy") == {"test/b.png", "test/c.png", "test_scores/b.npy", "test_scores/c.npy"}
    assert test("c", limit=0) == set()


# Shapes --------------------------------------------------------------------------------------------------------------


class Shaped(Brightness):
    shape: tuple[int, ...] = ()

    def predict(self, batch):
        prediction = super().predict(batch)
        return {**prediction, "anomaly_score": prediction["anomaly_score"].reshape(-1, *self.shape)}


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_axes_of_length_one_change_no_file(tmp_path, trainer_in, shape):
    module = Shaped()
    module.shape = shape
    module.calibration.set("image", threshold=0.5, low=0.0, high=1.0)
    data = images("a.png", "b.png", "c.png")
    for batch in (batches := list(DataLoader(data, batch_size=2))):
        batch["label"] = batch["label"].reshape(-1, *shape)
    trainer = trainer_in(callbacks=[ScoreTable(), AnomalyMetrics(pixel=[]), HeatmapExport()])
    trainer.test(module, DataLoader(batches, batch_size=None), verbose=False)
    rows = list(csv.DictReader(io.StringIO(files(tmp_path)["test_scores.csv"].decode())))
    expected = [item["image"].mean().item() for item in data]
    np.testing.assert_allclose([float(row["anomaly_score"]) for row in rows], expected, rtol=1e-6)
    assert [row["decision"] for row in rows] == [("normal", "anomalous")[value >= 0.5] for value in expected]
    assert [row["label"] for row in rows] == ["1", "0", "0"]
    values = json.loads(files(tmp_path)["metrics.json"])["metrics"]
    assert values["image_AUROC"] == np.mean([expected[0] > other for other in expected[1:]])
    assert {"image_Accuracy", "image_AP"} <= values.keys()


@pytest.mark.parametrize("callback", [ScoreTable, ScorePlots, HeatmapExport])
def test_several_scores_of_an_image_are_one_sentence(trainer_in, callback):
    module = Shaped()
    module.shape = (2,)
    with pytest.raises(
        ShapeError, match=r"anomaly_score must have shape \(B,\), one value per sample of the 2; got \(1, 2\)"
    ):
        trainer_in(callbacks=[callback()]).test(
            module, DataLoader(images("a.png", "b.png"), batch_size=2), verbose=False
        )

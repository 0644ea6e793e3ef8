"""predict on new pictures: no labels, no data set, the run's own size and threshold."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_parts import QUIET, command, succeed
from video_files import frames, write_video

import anomaly_suite
from anomaly_suite.cli.verbs.predict import split_inputs
from anomaly_suite.io.runs import find_run

pytestmark = pytest.mark.xdist_group("predict")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A folder with three pictures in two folders, one file that is cut, and a video of three frames."""
    folder = tmp_path / "new parts"
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "sub/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (20, 24), dtype=np.uint8))
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:60])
    write_video(folder / "clip.avi", frames(3))
    return folder


def fail(*words: str) -> str:
    done = command(*words)
    assert done.code in (1, 2)
    (said,) = (line for line in done.err.splitlines() if line.startswith("anomaly-suite: "))
    assert "Traceback" not in done.err
    return said


def table(file: Path) -> dict[str, dict[str, str]]:
    with file.open(newline="") as opened:
        return {row["path"]: row for row in csv.DictReader(opened)}


def test_a_folder_with_everything(dae_run, new, monkeypatch):
    monkeypatch.chdir(dae_run)
    said = succeed("predict", "--run", "runs", str(new), "--on_error", "skip", "--data.eval_batch_size", "2")
    folder = dae_run / "runs" / "predictions" / "new parts"
    rows = table(folder / "predictions.csv")
    names = [
        new / name for name in ("a.png", "b.png", "clip.avi/000000", "clip.avi/000001", "clip.avi/000002", "sub/a.png")
    ]
    assert list(rows) == [str(name) for name in names]
    assert {row["label"] for row in rows.values()} == {""}
    assert {row["decision"] for row in rows.values()} <= {"normal", "anomalous"}
    panels = {str(path.relative_to(folder / "heatmaps" / "predict")) for path in (folder / "heatmaps").rglob("*.png")}
    assert panels == {"a.png", "b.png", "sub/a.png", *(f"clip.avi/00000{number}.png" for number in range(3))}
    assert "cut.png" in (folder / "unreadable.txt").read_text()
    flagged = sum(row["decision"] == "anomalous" for row in rows.values())
    assert "6 scored in " in said.out
    assert f": {flagged} anomalous (score at least" in said.out
    assert "1 could not be read" in said.out
    assert f"results: {folder.relative_to(dae_run)}" in said.out.replace(f"{dae_run}/", "")
    found = anomaly_suite.Predictor.from_run("runs", device="cpu")(new, on_error="skip")
    scores = [float(row["anomaly_score"]) for row in rows.values()]
    assert [each.anomaly_score for each in found] == pytest.approx(scores, rel=1e-4)
    assert not list(folder.glob("metrics.json"))


def test_again_replaces_what_was_there(dae_run, new, monkeypatch, tmp_path):
    monkeypatch.chdir(dae_run)
    (new / "cut.png").unlink()
    place = tmp_path / "here"
    options = ["--run=runs", f"--output={place}", "--table.format", "parquet"]
    pytest.importorskip("pyarrow")
    succeed("predict", *options, str(new / "a.png"), str(new / "sub"), "--heatmaps.raw", "npy")
    assert (place / "predictions.parquet").is_file()
    assert len(list((place / "heatmaps" / "predict_raw").rglob("*.npy"))) == 2
    succeed("predict", *options, str(new / "*.png"))
    assert {path.name for path in (place / "heatmaps" / "predict").rglob("*.png")} == {"a.png", "b.png"}
    assert not list((place / "heatmaps" / "predict").rglob("sub"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["gone.png"], "'gone.png' does not exist"),
        ([".", "--run", "runs"], "predict expects pictures or videos in '.'; it holds none"),
        (["--on_error", "skip"], "--output, --on_error and --features are for new pictures and videos; got none"),
        (["--features.network", "c3d"], "are for new pictures and videos; got none"),
        (["a.png", "--run", "runs", "--features.crops", "1"], "snippet features of videos; the run's method is DAE"),
        (["a.png", "--on_error", "ignore"], "on_error must be raise or skip; got 'ignore'"),
        (["a.png", "--output"], "--output needs a folder for the results"),
        (["a.png", "--run", "gone"], "no run (a folder with config.yaml) in 'gone'"),
        (["a.png", "--data.imagesize", "8", "--run", "runs"], "imagesize"),
        (["a.png"], "are required: "),
    ],
)
def test_what_cannot_be_predicted(dae_run, new, monkeypatch, tmp_path, words, says):
    place = tmp_path / "empty"
    place.mkdir()
    monkeypatch.chdir(place)
    words = [
        str(new / "a.png") if word == "a.png" else str(dae_run / "runs") if word == "runs" else word for word in words
    ]
    assert says in fail("predict", *words)


def test_a_picture_that_cannot_be_read_stops(dae_run, new, monkeypatch):
    monkeypatch.chdir(dae_run)
    assert "cut.png' " in fail("predict", "--run", "runs", str(new / "cut.png"))


@pytest.mark.parametrize(
    ("words", "options", "inputs"),
    [
        (["a", "--run", "r", "b"], ["--run", "r"], ["a", "b"]),
        (["--run=r", "a"], ["--run=r"], ["a"]),
        (["--trainer.devices", "-1", "a"], ["--trainer.devices", "-1"], ["a"]),
        (["--print_config", "a"], ["--print_config"], ["a"]),
        ([], [], []),
    ],
)
def test_options_and_inputs_in_any_order(words, options, inputs):
    assert split_inputs(words) == (options, inputs)


def test_large_pictures_in_tiles(new, tmp_path, monkeypatch):
    """Pictures of other sizes than the run's, in tiles of the run's size."""
    monkeypatch.chdir(tmp_path)
    model = ["--model", "DAE", "--model.image_size", "16", "--model.in_channels", "1", "--model.widths", "[4, 8]"]
    for part in ("normal", "abnormal"):
        (new / "set" / part).mkdir(parents=True)
        for name in ("a.png", "b.png"):
            pixels = cv2.imread(str(new / name))[:: 1 if part == "normal" else -1]
            cv2.imwrite(str(new / "set" / part / f"{part}_{name}"), pixels)
    options = [
        "--data",
        "Folder",
        "--data.root",
        str(new / "set"),
        "--data.channels",
        "1",
        "--data.test_fraction",
        "0.5",
    ]
    (new / "cut.png").unlink()
    options += [
        "--data.image_size",
        "16",
        "--data.validation",
        "none",
        "--trainer.max_epochs",
        "1",
        "--trainer.logger",
        "false",
    ]
    succeed("fit", *model, "--model.latent_dim", "4", *options, *QUIET)
    words = [
        "predict",
        "--run",
        "runs",
        str(new / "a.png"),
        str(new / "sub"),
        "--tile.size",
        "16",
        "--heatmaps.raw",
        "npy",
    ]
    succeed(*words)
    folder = find_run("runs") / "predictions" / "a"
    assert len(table(folder / "predictions.csv")) == 2
    assert np.load(next((folder / "heatmaps" / "predict_raw").rglob("*.npy"))).shape == (20, 24)
    found = anomaly_suite.Predictor.from_run("runs", device="cpu", tile=16)(new / "a.png")
    score = float(table(folder / "predictions.csv")[str(new / "a.png")]["anomaly_score"])
    assert found[0].anomaly_score == pytest.approx(score, rel=1e-4)
    assert "at least as large as a tile" in fail(*words[:4], "--tile.size", "32")

"""predict on video files with a method on snippet features: one command from files to scores of frames."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_parts import QUIET, command, succeed, table
from video_files import frames, write_folder, write_video

pytestmark = pytest.mark.xdist_group("predict")

DATA = '''
from pathlib import Path

from anomaly_suite.data.videos.feature_files import Video
from anomaly_suite.data.videos.module import VideoFeatures


class Mine(VideoFeatures):
    """Videos in ``features``, anomalous ones by their names."""

    def read(self):
        files = sorted(Path("features").glob("*.npy"))
        videos = [Video(file.stem, int(file.stem.startswith("bad")), file) for file in files]
        return videos[::2], videos[1::2]
'''


@pytest.fixture(scope="module")
def video_run(tmp_path_factory) -> Path:
    """A folder with eight videos, their features, and a run of DeepMIL on these."""
    root = tmp_path_factory.mktemp("videos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for number in range(8):
            write_video(root / "old" / f"{'bad' if number < 4 else 'good'}{number}.avi", frames(40, seed=number))
        (root / "my_videos.py").write_text(DATA)
        succeed("extract-features", "old", "features", "--network", "motion_energy")
        options = ["--model", "DeepMIL", "--model.feature_dim", "256", "--data", "my_videos.Mine"]
        options += ["--data.standardize", "true", "--data.train_batch_size", "2", "--data.validation", "test"]
        options += ["--trainer.max_epochs", "1", "--trainer.logger", "false", "--trainer.default_root_dir", "runs"]
        succeed("fit", *options, *QUIET)
    return root


@pytest.fixture
def moved(video_run, monkeypatch, tmp_path) -> Path:
    """Another place, where only the run and the code of its data set are."""
    shutil.copytree(video_run / "runs", tmp_path / "runs")
    shutil.copy(video_run / "my_videos.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_video_files_to_curves_and_overlays(video_run, moved, monkeypatch):
    """The data set is not there any more: its extraction and its scale are in the checkpoint."""
    clip = write_video(moved / "new" / "clip.avi", frames(37, seed=9))
    write_folder(moved / "new" / "folder", frames(20, seed=10))
    (moved / "new" / "cut.avi").write_bytes(clip.read_bytes()[:300])
    said = succeed("predict", "--run", "runs", "new", "--on_error", "skip", "--output", "out")
    rows = {row["path"]: row for row in table(Path("out/predictions.csv"))}
    assert list(rows) == ["new/clip.avi", "new/folder"]
    assert [(row["frames"], row["snippets"], row["label"]) for row in rows.values()] == [
        ("37", "3", ""),
        ("20", "2", ""),
    ]
    assert len(table(Path("out/curves/predict_scores/new/clip.csv"))) == 37
    assert Path("out/curves/predict/new/folder.png").is_file()
    capture = cv2.VideoCapture("out/curves/predict_overlay/new/clip.mp4")
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 37
    assert "cut.avi" in Path("out/unreadable.txt").read_text()
    assert "1 could not be read" in said.out
    features = Path("out/features/new/clip.npy").resolve()
    again = succeed("predict", "--run", "runs", str(features), "--output", "again")  # features as they are
    (row,) = table(Path("again/predictions.csv"))
    assert float(row["anomaly_score"]) == float(rows["new/clip.avi"]["anomaly_score"])
    assert "1 scored in" in again.out


@pytest.mark.matrix
def test_scores_are_those_of_the_data_set(video_run, monkeypatch):
    """A test video gets as a file what it has as a member of the data set; a second prediction extracts anew."""
    monkeypatch.chdir(video_run)
    succeed("predict", "--run", "runs", "--disable", "curves,plots")
    known = {row["path"]: row["anomaly_score"] for row in table(video_run / "runs" / "predict_scores.csv")}
    for name in ("bad1", "good5"):
        shutil.copy(f"old/{name}.avi", "same.avi")
        succeed("predict", "--run", "runs", "same.avi", "--output", "same", "--disable", "curves")
        (row,) = table(Path("same/predictions.csv"))
        assert float(row["anomaly_score"]) == pytest.approx(float(known[name]), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a.png"], "'a.png' is no video, and the run's method takes snippet features of videos"),
        (["empty"], "predict expects videos in 'empty', as the run's method takes them; there is none"),
        (["gone.mp4"], "'gone.mp4' does not exist"),
        (["cut.avi"], "cannot be opened as a video"),
        (["clip.avi", "--features.network", "c3d"], "c3d needs weights: a local file"),
        (["clip.avi", "--features.network", "c3d", "--features.weights", "random"], "width 256; c3d gives 4096"),
        (["clip.avi", "--features.netwrk", "c3d"], "Did you mean 'network'?"),
        (["clip.avi", "--features.crops", "some"], "crops"),
        (["clip.avi", "--features.device", "cuda:9"], "device 'cuda:9' cannot be used here"),
    ],
)
def test_what_cannot_be_predicted(moved, words, says):
    cv2.imwrite("a.png", np.zeros((8, 8), np.uint8))
    clip = write_video(moved / "clip.avi", frames(17))
    (moved / "cut.avi").write_bytes(clip.read_bytes()[:300])
    (moved / "empty").mkdir()
    done = command("predict", "--run", "runs", *words)
    assert done.code in (1, 2)
    assert says in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_features_of_an_unknown_network(video_run, monkeypatch):
    """As published ones are: there is no features.json beside them."""
    monkeypatch.chdir(video_run)
    record = Path("features/features.json")
    content = record.read_text()
    record.unlink()
    try:
        options = ["--ckpt_path", str(without_extraction(Path("runs/checkpoints/model.ckpt")))]
        said = command("predict", "--run", "runs", "old/bad1.avi", *options).err
        assert (
            "no features.json lies beside them. Name the network: --features.network i3d_resnet50 --features.weights FILE"
            in said
        )
        assert "of width 256" in said
        done = succeed("predict", "--run", "runs", "old/bad1.avi", *options, "--features.network=motion_energy")
        assert "1 scored in" in done.out
    finally:
        record.write_text(content)


def without_extraction(file: Path) -> Path:
    """A checkpoint of a time when it was not kept."""
    import torch

    content = torch.load(file, weights_only=True)
    content["anomaly_suite"]["data"].pop("extraction")
    content.pop("Mine", None)
    torch.save(content, file.with_name("older.ckpt"))
    return file.with_name("older.ckpt")


def test_weights_that_moved_or_changed(moved, monkeypatch):
    from anomaly_suite.data.videos.module import VideoFeatures

    settings = {"network": "frame_average", "backbone": "resnet18", "weights": "mine.pth", "crops": ["centre"]}
    settings |= {"weights_file": "/gone/mine.pth", "weights_sha256": "0"}
    monkeypatch.setattr(VideoFeatures, "load_state_dict", lambda self, state: setattr(self, "extraction", settings))
    write_video(moved / "clip.avi", frames(17))
    said = command("predict", "--run", "runs", "clip.avi").err
    assert (
        "frame_average with the weights 'mine.pth', whose file is not /gone/mine.pth. Say where it is: --features.weights FILE"
        in said
    )

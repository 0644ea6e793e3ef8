"""Whole runs: what is written, resumed, shared, refused; failures; the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from video_files import Pixels, frames, write_folder, write_video

from anomaly_suite.cli import main
from anomaly_suite.data.videos.feature_files import open_features
from anomaly_suite.errors import ConfigError, DatasetError
from anomaly_suite.features.decode import read_clips
from anomaly_suite.features.extract import extract
from anomaly_suite.features.networks import build_network, crop_clips
from anomaly_suite.features.record import Counts
from anomaly_suite.nn.video import VideoBackbone


class Means(VideoBackbone):
    """Stands for a network with crops: mean colour of a crop, and the weighted mean of its red half-planes."""

    feature_dim, resize, crop, normalization = 5, (24, 32), (16, 20), "none"

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.calls = 0
        self.fail_at: int | None = None
        self.freeze()

    def normalize(self, clip: Tensor) -> Tensor:
        return clip * self.scale

    def features(self, clip: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        ramp = torch.linspace(0, 1, clip.shape[4])
        steps = torch.linspace(0, 1, clip.shape[2]).view(-1, 1, 1)
        extra = torch.stack([(clip[:, 0] * ramp).mean((1, 2, 3)), (clip[:, 0] * steps).mean((1, 2, 3))], 1)
        return torch.cat([clip.mean((2, 3, 4)), extra], 1)


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Means:
    """The network that every run gets, whatever its options say."""
    made = Means()
    monkeypatch.setattr("anomaly_suite.features.extract.build_network", lambda *_args, **_options: made)
    return made


def load(folder: Path, name: str) -> npt.NDArray[Any]:
    return np.load(folder / f"{name}.npy", allow_pickle=False)


def table(file: Path) -> dict[str, Counts]:
    with file.open(newline="", encoding="utf-8") as opened:
        return {row["name"]: Counts(int(row["frames"]), int(row["snippets"])) for row in csv.DictReader(opened)}


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def all_clips(images: Pixels, size: tuple[int, int] = (24, 32), block: int = 1) -> tuple[Pixels, int]:
    parts = list(read_clips(iter(images), size=size, block=block))
    return np.concatenate([clips for clips, _ in parts]), sum(used for _, used in parts)


class TestExtract:
    @pytest.fixture
    def videos(self, tmp_path: Path) -> Path:
        for number, count in enumerate((20, 33, 16), 1):
            write_folder(tmp_path / "in" / "part" / f"v{number}", frames(count, seed=number))
        return tmp_path / "in"

    def test_what_is_written(self, tmp_path: Path, videos: Path, net: Means) -> None:
        out = tmp_path / "out"
        done = extract(str(videos), str(out), crops=5)
        counts = {"part/v1": Counts(20, 2), "part/v2": Counts(33, 3), "part/v3": Counts(16, 1)}
        assert (done.written, done.skipped) == (counts, [])
        assert table(out / "videos.csv") == counts
        assert files(out) == {"features.json", "videos.csv", "part/v1.npy", "part/v2.npy", "part/v3.npy"}
        for name, count in counts.items():
            array = load(out, name)
            assert (array.shape, array.dtype) == ((count.snippets, 5, 5), np.float32)
            assert open_features(out / f"{name}.npy").shape == (5, count.snippets, 5)

    def test_values_are_those_of_the_network_on_each_clip_and_crop(
        self, tmp_path: Path, videos: Path, net: Means
    ) -> None:
        extract(str(videos), str(tmp_path / "out"))
        clips, _ = all_clips(frames(33, seed=2))
        for t, clip in enumerate(torch.from_numpy(clips)):
            for c, crop in enumerate(crop_clips(clip.unsqueeze(0), net.crop, 10)[0]):
                expected = net(crop.unsqueeze(0))[0].numpy()
                np.testing.assert_allclose(load(tmp_path / "out", "part/v2")[t, c], expected, rtol=1e-5)

    @pytest.mark.parametrize("crops", [1, 10])
    def test_batch_size_changes_nothing(self, tmp_path: Path, videos: Path, net: Means, crops: Any) -> None:
        for size in (1, 3, 64):
            extract(str(videos), str(tmp_path / f"out{size}"), crops=crops, batch_size=size)
        for size in (1, 3):
            np.testing.assert_allclose(
                load(tmp_path / f"out{size}", "part/v2"), load(tmp_path / "out64", "part/v2"), rtol=1e-5
            )

    def test_a_still_video_has_equal_snippets(self, tmp_path: Path, net: Means) -> None:
        write_folder(tmp_path / "still", np.repeat(frames(1), 37, 0))
        extract(str(tmp_path / "still"), str(tmp_path / "out"))
        array = load(tmp_path / "out", "still")
        assert len(array) == 3
        assert np.array_equal(array, array[:1].repeat(3, 0))

    def test_bf16_is_written_as_float32(self, tmp_path: Path, videos: Path, net: Means) -> None:
        extract(str(videos), str(tmp_path / "out"), precision="bf16-mixed")
        assert load(tmp_path / "out", "part/v1").dtype == np.float32

    def test_a_second_run_skips_what_is_there(self, tmp_path: Path, videos: Path, net: Means) -> None:
        out = tmp_path / "out"
        extract(str(videos), str(out))
        before = {file: file.stat().st_mtime_ns for file in out.rglob("*.npy")}
        (out / "part" / "v2.npy").unlink()
        net.calls = 0
        done = extract(str(videos), str(out), batch_size=10)
        assert (done.written, done.skipped) == ({"part/v2": Counts(33, 3)}, ["part/v1", "part/v3"])
        assert net.calls == 3
        assert {file for file, time in before.items() if file.stat().st_mtime_ns != time} == {out / "part" / "v2.npy"}
        assert len(table(out / "videos.csv")) == 3

    def test_overwrite_does_them_all(self, tmp_path: Path, videos: Path, net: Means) -> None:
        extract(str(videos), str(tmp_path / "out"))
        done = extract(str(videos), str(tmp_path / "out"), overwrite=True)
        assert (len(done.written), done.skipped) == (3, [])

    def test_videos_of_several_inputs_share_a_folder(self, tmp_path: Path, videos: Path, net: Means) -> None:
        write_folder(tmp_path / "more" / "w1", frames(5))
        extract(str(videos), str(tmp_path / "out"), flat=True)
        extract(str(tmp_path / "more"), str(tmp_path / "out"), flat=True)
        assert list(table(tmp_path / "out" / "videos.csv")) == ["v1", "v2", "v3", "w1"]

    def test_the_record(self, tmp_path: Path, videos: Path) -> None:
        extract(str(videos), str(tmp_path / "out"), network="motion_energy")
        record = json.loads((tmp_path / "out" / "features.json").read_text())
        assert record["network"] == "motion_energy"
        assert (record["resize"], record["crop"], record["crops"]) == ([120, 180], [120, 180], ["centre"])
        assert record["versions"]["torch"] == torch.__version__
        assert record["weights_sha256"] is None

    def test_other_settings_are_refused(self, tmp_path: Path, videos: Path, net: Means) -> None:
        out = str(tmp_path / "out")
        extract(str(videos), out)
        before = files(tmp_path / "out")
        with pytest.raises(ConfigError, match=r"have crops=\['top left', .*\], this run has \['centre'\]"):
            extract(str(videos), out, crops=1, overwrite=True)
        with pytest.raises(ConfigError, match="have precision='32', this run has 'bf16-mixed'"):
            extract(str(videos), out, precision="bf16-mixed")
        net.scale.data += 1
        with pytest.raises(ConfigError, match=r"have weights_sha256='.*', this run has '.*'"):
            extract(str(videos), out)
        assert files(tmp_path / "out") == before

    def test_foreign_features_are_not_touched(self, tmp_path: Path, videos: Path, net: Means) -> None:
        (tmp_path / "out" / "part").mkdir(parents=True)
        np.save(tmp_path / "out" / "part" / "v1.npy", np.zeros(3))
        with pytest.raises(ConfigError, match="holds arrays of unknown origin"):
            extract(str(videos), str(tmp_path / "out"))
        assert files(tmp_path / "out") == {"part/v1.npy"}

    def test_an_interrupt_leaves_whole_files_and_the_next_run_goes_on(
        self, tmp_path: Path, videos: Path, net: Means
    ) -> None:
        out = tmp_path / "out"
        net.fail_at = 4  # v1 has two snippets, v2 three
        with pytest.raises(KeyboardInterrupt):
            extract(str(videos), str(out), batch_size=10)
        assert files(out) == {"features.json", "videos.csv", "part/v1.npy"}
        done = extract(str(videos), str(out), batch_size=10)
        assert (list(done.written), done.skipped) == (["part/v2", "part/v3"], ["part/v1"])
        assert load(out, "part/v2").shape == (3, 10, 5)

    def test_shards_share_the_work_and_a_last_run_the_table(self, tmp_path: Path, videos: Path, net: Means) -> None:
        out = tmp_path / "out"
        assert list(extract(str(videos), str(out), shard="1/2").written) == ["part/v1", "part/v3"]
        assert list(extract(str(videos), str(out), shard="2/2").written) == ["part/v2"]
        assert list(table(out / "videos-1-of-2.csv")) == ["part/v1", "part/v3"]
        assert list(table(out / "videos-2-of-2.csv")) == ["part/v2"]
        assert extract(str(videos), str(out)) == ({}, ["part/v1", "part/v2", "part/v3"])
        assert list(table(out / "videos.csv")) == ["part/v1", "part/v2", "part/v3"]

    def test_a_mirrored_video_permutes_its_crops(self, tmp_path: Path, net: Means) -> None:
        images = frames(20)
        write_folder(tmp_path / "in" / "plain", images)
        write_folder(tmp_path / "in" / "mirrored", images[:, :, ::-1])
        extract(str(tmp_path / "in"), str(tmp_path / "out"))
        plain, mirrored = load(tmp_path / "out", "plain"), load(tmp_path / "out", "mirrored")
        assert plain.shape == (2, 10, 5)
        assert np.ptp(plain, axis=1).min() > 1e-4  # crops differ
        np.testing.assert_allclose(mirrored, plain[:, [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]], rtol=1e-6)

    def test_a_folder_of_frames_equals_a_lossless_video(self, tmp_path: Path, net: Means) -> None:
        images = frames(40, size=(30, 50))
        write_folder(tmp_path / "in" / "a", images)
        write_video(tmp_path / "in" / "b.avi", images)
        extract(str(tmp_path / "in"), str(tmp_path / "out"), crops=5)
        assert load(tmp_path / "out", "a").shape == (3, 5, 5)
        assert np.array_equal(load(tmp_path / "out", "a"), load(tmp_path / "out", "b"))

    @pytest.mark.parametrize(("codec", "suffix"), [("mp4v", "mp4"), ("MJPG", "avi")])
    def test_a_lossy_video_is_close(self, tmp_path: Path, net: Means, codec: str, suffix: str) -> None:
        smooth = np.broadcast_to(np.linspace(0, 200, 40)[:, None, None, None], (40, 48, 64, 3)).astype(np.uint8)
        write_video(tmp_path / f"v.{suffix}", smooth, codec)
        done = extract(str(tmp_path / f"v.{suffix}"), str(tmp_path / "out"), crops=1)
        assert done.written == {"v": Counts(40, 3)}
        expected = all_clips(smooth)[0].mean((2, 3, 4)) / 255
        assert np.abs(load(tmp_path / "out", "v")[:, 0, :3] - expected).max() < 0.02

    def test_impossible_options(self, tmp_path: Path, videos: Path) -> None:
        def refused(message: str, **options: Any) -> None:
            with pytest.raises(ConfigError, match=message):
                extract(str(videos), str(tmp_path / "out"), **options)

        refused("i3d_resnet50 needs weights: a local file; got none")
        refused("frame_average needs weights: a local file, or imagenet", network="frame_average")
        refused("motion_energy has no weights; got 'w.pth'", network="motion_energy", weights="w.pth")
        refused(
            "motion_energy takes whole frames, which have one crop; got crops=10", network="motion_energy", crops=10
        )
        refused("batch_size must be at least 1; got 0", batch_size=0)
        refused("device 'gpu' cannot be used here", network="motion_energy", device="gpu")
        assert not (tmp_path / "out").exists()


class TestFailures:
    def test_a_damaged_video_does_not_end_the_run(self, tmp_path: Path, net: Means) -> None:
        write_video(tmp_path / "in" / "a.avi", frames(20))
        write_video(tmp_path / "in" / "c.avi", frames(20))
        (tmp_path / "in" / "b.avi").write_bytes(b"no video at all")
        out = tmp_path / "out"
        with pytest.raises(
            DatasetError,
            match=r"1 of 3 videos failed, all others are written: b: .*b\.avi' \(15 bytes\) cannot be opened",
        ):
            extract(str(tmp_path / "in"), str(out))
        assert files(out) == {"features.json", "videos.csv", "a.npy", "c.npy"}
        assert list(table(out / "videos.csv")) == ["a", "c"]
        write_video(tmp_path / "in" / "b.avi", frames(20))
        assert extract(str(tmp_path / "in"), str(out)).written == {"b": Counts(20, 2)}

    def test_a_truncated_video(self, tmp_path: Path, net: Means) -> None:
        whole = write_video(tmp_path / "v.avi", frames(64), "MJPG")
        whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(DatasetError, match=r"announces 64 frames, and decoding ended after \d+: it is truncated"):
            extract(str(whole), str(tmp_path / "out"))
        assert not list((tmp_path / "out").rglob("*.npy"))

    def test_a_damaged_frame(self, tmp_path: Path, net: Means) -> None:
        folder = write_folder(tmp_path / "in" / "v", frames(20))
        (folder / "18.png").write_bytes((folder / "18.png").read_bytes()[:100])
        write_folder(tmp_path / "in" / "w", frames(20))
        with pytest.raises(DatasetError, match=r"v: '.*18\.png' \(100 bytes\) is truncated or damaged"):
            extract(str(tmp_path / "in"), str(tmp_path / "out"))
        assert {name for name in files(tmp_path / "out") if name.endswith(".npy")} == {"w.npy"}

    def test_features_that_are_no_numbers(self, tmp_path: Path, net: Means) -> None:
        write_folder(tmp_path / "v", frames(20))
        net.scale.data.fill_(float("nan"))
        with pytest.raises(DatasetError, match="the network gave NaN or infinity from snippet 0 on"):
            extract(str(tmp_path / "v"), str(tmp_path / "out"))

    def test_many_failures_are_not_all_told_twice(
        self, tmp_path: Path, net: Means, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "in").mkdir()
        for number in range(7):
            (tmp_path / "in" / f"{number}.avi").write_bytes(b"x")
        with pytest.raises(DatasetError, match="7 of 7 videos failed") as caught:
            extract(str(tmp_path / "in"), str(tmp_path / "out"))
        assert str(caught.value).count("cannot be opened") == 5
        assert capsys.readouterr().err.count("cannot be opened") == 7


class TestCommand:
    def run(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
        code: Any = 0
        capsys.readouterr()
        try:
            main(["extract-features", *words])
        except SystemExit as stopped:
            code = stopped.code
        out, err = capsys.readouterr()
        return code, out, err

    def test_from_frames_to_features(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_folder(tmp_path / "in" / "Test" / "Test001", frames(20))
        write_folder(tmp_path / "in" / "Test" / "Test001_gt", frames(20))
        where = (str(tmp_path / "in"), str(tmp_path / "out"))
        options = ("--network", "motion_energy", "--exclude", "*_gt", "--flat", "true")
        code, out, err = self.run(capsys, *where, *options)
        assert code == 0, err
        assert out == f"1 videos written to {where[1]} (20 frames, 2 snippets), 0 were there.\n"
        assert "1/1 videos" in err
        assert load(tmp_path / "out", "Test001").shape == (2, 1, 256)

    def test_failures_end_in_status_1(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_folder(tmp_path / "in" / "a", frames(3))
        (tmp_path / "in" / "b.avi").write_bytes(b"x")
        code, _, err = self.run(capsys, str(tmp_path / "in"), str(tmp_path / "out"), "--network", "motion_energy")
        assert code == 1
        assert "failed: b: " in err
        assert "anomaly-suite: DatasetError: 1 of 2 videos failed" in err

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("x", "y", "--weihgts", "w"), "no option 'weihgts'. Did you mean 'weights'?"),
            (("x", "y", "--crops", "3"), "crops: Expected a typing.Literal[1, 5, 10]"),
            (("x",), "required: output"),
        ],
    )
    def test_wrong_options_end_in_one_sentence(
        self, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
    ) -> None:
        code, _, err = self.run(capsys, *words)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1

    def test_help_lists_the_options(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, _ = self.run(capsys, "--help")
        assert code == 0
        for option in ("input", "output", "--network", "--weights", "--crops", "--exclude", "--shard", "--overwrite"):
            assert option in out


def test_i3d_end_to_end_on_a_tiny_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real network through the whole command, its frames made small to be quick."""
    from anomaly_suite.nn.video import I3DResNet50

    monkeypatch.setattr(I3DResNet50, "resize", (36, 36))
    monkeypatch.setattr(I3DResNet50, "crop", (32, 32))
    write_video(tmp_path / "in" / "v.avi", frames(17))
    extract(str(tmp_path / "in"), str(tmp_path / "out"), weights="random")
    array = load(tmp_path / "out", "v")
    assert array.shape == (2, 10, 2048)
    assert bool(np.isfinite(array).all())
    assert array.min() >= 0
    assert (array.max(2) > 0).all()
    net = build_network("i3d_resnet50", weights="random", backbone="")
    clips, _ = all_clips(frames(17), size=(36, 36))
    expected = net(crop_clips(torch.from_numpy(clips), (32, 32), 10).flatten(0, 1)).view(2, 10, 2048)
    np.testing.assert_allclose(array, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_deep_frames_of_all_videos_have_one_scale(tmp_path: Path, net: Means) -> None:
    for name, top in (("a", 1000), ("b", 4000)):
        deep = np.linspace(0, top, 24 * 32).astype(np.uint16).reshape(24, 32)
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(16):
            cv2.imwrite(str(tmp_path / "in" / name / f"{number}.png"), deep)
    extract(str(tmp_path / "in"), str(tmp_path / "out"), network="motion_energy", crops=1)
    one, two = (load(tmp_path / "out", name)[0, 0, :3].mean() for name in "ab")
    assert two / one == pytest.approx(4, rel=0.02)
    assert json.loads((tmp_path / "out/features.json").read_text())["bit_depth"] == 12
    with pytest.raises(ConfigError, match=r"have bit_depth=12, this run has 14"):
        extract(str(tmp_path / "in"), str(tmp_path / "out"), network="motion_energy", crops=1, bit_depth=14)
    with pytest.raises(ConfigError, match=r"bit_depth must be auto or a whole number from 8 to 16; got 20"):
        extract(str(tmp_path / "in"), str(tmp_path / "out"), bit_depth=20)

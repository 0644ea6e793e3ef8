from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from anomaly_suite import extraction
from anomaly_suite.cli import main
from anomaly_suite.data.videos.features import open_features
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError
from anomaly_suite.extraction import Counts, build_network, crop_clips, extract, find_videos, open_video, read_clips
from anomaly_suite.nn.video_backbones import VideoBackbone
from anomaly_suite.snippets import snippet_count

Pixels = npt.NDArray[np.uint8]


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
    monkeypatch.setattr(extraction, "build_network", lambda *_args, **_options: made)
    return made


def frames(count: int, seed: int = 0, size: tuple[int, int] = (24, 32)) -> Pixels:
    """Noise of (count, H, W, 3), RGB, brighter from frame to frame."""
    noise = np.random.default_rng(seed).integers(0, 100, (count, *size, 3))
    return (noise + np.linspace(0, 150, count).astype(int)[:, None, None, None]).astype(np.uint8)


def write_folder(folder: Path, images: Pixels, pattern: str = "{}.png") -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(images, 1):
        cv2.imwrite(str(folder / pattern.format(number)), image[..., ::-1])
    return folder


def write_video(path: Path, images: Pixels, codec: str = "FFV1") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = images.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25, (width, height))
    assert writer.isOpened()
    for image in images:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    return path


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


class TestClips:
    @pytest.mark.parametrize(("count", "snippets"), [(1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
    @pytest.mark.parametrize("block", [1, 2, 5])
    def test_number_of_snippets(self, count: int, snippets: int, block: int) -> None:
        clips, used = all_clips(frames(count), block=block)
        assert (len(clips), used) == (snippets, count)
        assert snippet_count(count) == snippets
        assert 0 <= 16 * snippets - count < 16

    def test_the_last_frame_fills_up(self) -> None:
        images = frames(19)
        clips, _ = all_clips(images)
        assert clips.shape == (2, 3, 16, 24, 32)
        padded = np.concatenate([images, np.repeat(images[-1:], 13, 0)]).reshape(2, 16, 24, 32, 3)
        assert np.array_equal(clips.transpose(0, 2, 3, 4, 1), padded)

    def test_frames_are_scaled_by_area_when_they_shrink(self) -> None:
        images = frames(16, size=(48, 64))
        means = images.reshape(16, 24, 2, 32, 2, 3).mean((2, 4))
        clips, _ = all_clips(images)
        assert np.abs(clips[0].transpose(1, 2, 3, 0) - means).max() <= 0.5

    def test_no_frame_is_read_before_its_clip(self) -> None:
        read = 0

        def counted() -> Iterator[Pixels]:
            nonlocal read
            for image in frames(100):
                read += 1
                yield image

        clips = read_clips(counted(), size=(24, 32), block=2)
        next(clips)
        assert read == 32


class TestCrops:
    def test_positions(self) -> None:
        row = torch.arange(256).view(1, 1, 1, 256, 1).expand(1, 3, 1, 256, 340)
        column = torch.arange(340).view(1, 1, 1, 1, 340).expand(1, 3, 1, 256, 340)
        rows, columns = (crop_clips(each, (224, 224), 10)[0, :, 0, 0] for each in (row, column))
        corners = list(zip(rows[:, 0, 0].tolist(), columns[:, 0, 0].tolist(), strict=True))
        assert corners[:5] == [(0, 0), (0, 116), (32, 0), (32, 116), (16, 58)]
        assert (int(rows[4, -1, 0]), int(columns[4, 0, -1])) == (239, 281)
        assert corners[5:] == [(0, 339), (0, 223), (32, 339), (32, 223), (16, 281)]

    def test_fewer_crops_are_the_first_five_and_the_centre(self) -> None:
        clips = torch.rand(2, 3, 4, 12, 14)
        ten = crop_clips(clips, (8, 9), 10)
        assert ten.shape == (2, 10, 3, 4, 8, 9)
        assert torch.equal(crop_clips(clips, (8, 9), 5), ten[:, :5])
        assert torch.equal(crop_clips(clips, (8, 9), 1), ten[:, 4:5])

    def test_a_mirrored_video_permutes_its_crops(self, tmp_path: Path, net: Means) -> None:
        images = frames(20)
        write_folder(tmp_path / "in" / "plain", images)
        write_folder(tmp_path / "in" / "mirrored", images[:, :, ::-1])
        extract(str(tmp_path / "in"), str(tmp_path / "out"))
        plain, mirrored = load(tmp_path / "out", "plain"), load(tmp_path / "out", "mirrored")
        assert plain.shape == (2, 10, 5)
        assert np.ptp(plain, axis=1).min() > 1e-4  # crops differ
        np.testing.assert_allclose(mirrored, plain[:, [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]], rtol=1e-6)


class TestReading:
    def test_frames_are_in_numeric_order(self, tmp_path: Path) -> None:
        images = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.full((1, 4, 4, 3), 20, np.uint8)
        announced, found = open_video(write_folder(tmp_path / "v", images, "frame_{}.png"))
        assert announced == 12
        assert [int(image[0, 0, 0]) for image in found] == [20 * n for n in range(12)]

    @pytest.mark.parametrize("kind", ["folder", "video"])
    def test_colours_are_red_green_blue(self, tmp_path: Path, kind: str) -> None:
        images = np.zeros((3, 16, 16, 3), np.uint8)
        images[..., 0], images[..., 1] = 200, 100
        path = write_folder(tmp_path / "v", images) if kind == "folder" else write_video(tmp_path / "v.avi", images)
        _, found = open_video(path)
        assert [image[0, 0].tolist() for image in found] == [[200, 100, 0]] * 3

    @pytest.mark.parametrize("pattern", ["{:03d}.jpg", "{:03d}.bmp", "{:03d}.tif"])
    def test_grey_frames_become_colour(self, tmp_path: Path, pattern: str) -> None:
        (tmp_path / "v").mkdir()
        for number in range(1, 4):
            cv2.imwrite(str(tmp_path / "v" / pattern.format(number)), np.full((8, 8), 10 * number, np.uint8))
        (tmp_path / "v" / "._001.jpg").write_bytes(b"left over")
        _, found = open_video(tmp_path / "v")
        images = list(found)
        assert [image.shape for image in images] == [(8, 8, 3)] * 3
        assert [int(image.mean()) for image in images] == [10, 20, 30]

    def test_masks_beside_frames_are_refused(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "v", frames(3))
        (folder / "2.bmp").write_bytes(b"")
        with pytest.raises(DatasetError, match=r"holds '2\.bmp' and '2\.png'"):
            open_video(folder)

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


class TestFindVideos:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        for name in ("Train/Train1", "Train/Train10", "Train/Train9", "Test/Test1", "Test/Test1_gt", "__MACOSX/Train1"):
            write_folder(tmp_path / name, frames(1))
        for name in ("films/a.b.mp4", "films/thumbnail.png", "films/notes.txt", "Test/UCSDped2.m"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"x")
        return tmp_path

    def test_folders_and_files_in_numeric_order(self, tree: Path) -> None:
        found = find_videos(tree)
        assert list(found) == [
            "Test/Test1",
            "Test/Test1_gt",
            "Train/Train1",
            "Train/Train9",
            "Train/Train10",
            "films/a.b",
        ]
        assert found["films/a.b"] == tree / "films" / "a.b.mp4"
        assert found["Train/Train9"] == tree / "Train" / "Train9"

    @pytest.mark.parametrize(
        ("include", "exclude", "names"),
        [
            (["*"], ["*_gt", "films/*"], ["Test/Test1", "Train/Train1", "Train/Train9", "Train/Train10"]),
            (["Train1", "*.mp4"], [], ["Train/Train1", "films/a.b"]),
            (["Train/*"], ["Train?"], ["Train/Train10"]),
        ],
    )
    def test_patterns(self, tree: Path, include: list[str], exclude: list[str], names: list[str]) -> None:
        assert list(find_videos(tree, include=include, exclude=exclude)) == names

    def test_flat_names(self, tree: Path) -> None:
        assert list(find_videos(tree, include=["Test/*"], flat=True)) == ["Test1", "Test1_gt"]

    def test_two_videos_of_one_flat_name(self, tree: Path) -> None:
        write_folder(tree / "more" / "Test1", frames(1))
        with pytest.raises(ConfigError, match=r"would both be written to Test1\.npy\. Set flat to false"):
            find_videos(tree, flat=True)

    def test_a_single_folder_of_frames(self, tree: Path) -> None:
        assert find_videos(tree / "Train" / "Train9") == {"Train9": tree / "Train" / "Train9"}

    def test_nothing_to_do(self, tree: Path) -> None:
        with pytest.raises(
            DatasetNotFoundError, match=r"holds 6, all of which include=\['x'\] and exclude=\[\] leave out"
        ):
            find_videos(tree, include=["x"])
        (tree / "empty").mkdir()
        with pytest.raises(DatasetNotFoundError, match=r"in '.*empty', which holds none"):
            find_videos(tree / "empty")
        with pytest.raises(DatasetNotFoundError, match="which does not exist"):
            find_videos(tree / "none")


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

    @pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0"])
    def test_impossible_shards(self, tmp_path: Path, shard: str) -> None:
        with pytest.raises(ConfigError, match="shard must be a number and a count"):
            extract(str(tmp_path), str(tmp_path / "out"), shard=shard)

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

    def test_random_weights_are_the_same_every_time(self) -> None:
        torch.manual_seed(5)
        first = build_network("frame_average", weights="random", backbone="resnet18").state_dict()
        drawn = torch.rand(1)
        torch.manual_seed(6)
        second = build_network("frame_average", weights="random", backbone="resnet18").state_dict()
        assert all(torch.equal(value, second[name]) for name, value in first.items())
        torch.manual_seed(5)
        assert torch.equal(torch.rand(1), drawn)


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
    from anomaly_suite.nn.video_backbones import I3DResNet50

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

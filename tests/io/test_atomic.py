"""Files appear whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from anomaly_suite.callbacks.heatmaps import _write_raw
from anomaly_suite.callbacks.overlay import _check_written, write_overlay
from anomaly_suite.callbacks.plots import new_axes
from anomaly_suite.callbacks.score_curves import _write_csv, _write_npy
from anomaly_suite.callbacks.videos import Frames
from anomaly_suite.callbacks.writing import write_png
from anomaly_suite.errors import FileWriteError
from anomaly_suite.features.record import growing_array
from anomaly_suite.io.atomic import (
    check_size,
    replacing,
    save_array,
    save_bytes,
    save_columns,
    save_csv,
    save_json,
    save_text,
    try_file,
    try_folder,
)

NOISE = np.random.default_rng(0).random((64, 64)).astype(np.float32)
FRAMES = Frames(NOISE.ravel(), None)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert files(tmp_path) == ["new/a.txt"]
    assert path.read_text() == "old"


def test_json_is_readable_and_objects_are_text(tmp_path: Path) -> None:
    save_json(tmp_path / "new/a.json", {"metrics": {"AUROC": 0.5}, "file": Path("b/c"), "undefined": None})
    text = (tmp_path / "new/a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"metrics": {"AUROC": 0.5}, "file": "b/c", "undefined": None}
    assert text.startswith('{\n  "metrics": {\n    "AUROC"')
    assert text.endswith("}\n")
    save_json(tmp_path / "new/a.json", {"low": 0, "high": 1}, indent=None)
    assert (tmp_path / "new/a.json").read_text() == '{"low": 0, "high": 1}\n'


def test_csv_quotes_names_and_leaves_unknown_values_empty(tmp_path: Path) -> None:
    save_csv(tmp_path / "a.csv", ("name", "score"), [("a,b", 0.1), ("c", None)])
    assert (tmp_path / "a.csv").read_bytes() == b'name,score\r\n"a,b",0.1\r\nc,\r\n'


def test_csv_keeps_names_of_any_kind_apart_and_readable(tmp_path: Path) -> None:
    names = ["a,b", 'a"b', "a\nb", "a\r\nb", "é", "名", " a", "=1+1", os.fsdecode(b"caf\xe9"), os.fsdecode(b"caf\xe8")]
    save_csv(tmp_path / "a.csv", ("name", "score"), [(name, float("nan")) for name in names])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    assert [row[0] for row in rows] == [*names[:-2], "caf\\udce9", "caf\\udce8"]
    assert {row[1] for row in rows} == {"nan"}


@pytest.mark.parametrize(
    "save",
    [
        lambda path: save_json(path, {1: object, (1, 2): "no key of JSON"}),
        lambda path: save_csv(path, ("name",), (row for row in [("a",), 3])),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, save: Callable[[Path], None]) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises((TypeError, csv.Error)):
        save(path)
    assert files(tmp_path) == ["a"]
    assert path.read_text() == "old"


# A full disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file can become larger than 8,192 bytes, which stands for a disk that has no more room."""
    limit, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limit[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    signal.signal(signal.SIGXFSZ, before)


def write_features(path: Path) -> None:
    with growing_array(path, (4, 64)) as append:
        for _ in range(20):
            append(torch.zeros(2, 4, 64))


def draw(path: Path) -> None:
    with new_axes(path) as axes:
        axes.plot(NOISE[0])


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.npy": lambda path: save_array(path, NOISE),
    "b.csv": lambda path: save_columns(path, {"score": NOISE.ravel().tolist()}),
    "c.json": lambda path: save_json(path, NOISE.tolist()),
    "d.txt": lambda path: save_text(path, "a" * 9000),
    "e.png": lambda path: write_png(path, (255 * NOISE).astype(np.uint8).repeat(4, 0).repeat(4, 1) ^ 3),
    "f.npy": lambda path: _write_raw(path, NOISE, "npy"),
    "g.png": lambda path: _write_raw(path, np.random.default_rng(1).random((96, 96)).astype(np.float32), "png16"),
    "h.npy": lambda path: _write_npy(path, FRAMES),
    "i.csv": lambda path: _write_csv(path, FRAMES),
    "j.npy": write_features,
    "k.png": draw,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_one_sentence(name: str, tmp_path: Path, small_disk: None) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    with pytest.raises(FileWriteError, match=f"'{path}' could not be written .*Make room on the disk"):
        WRITERS[name](path)
    assert path.read_bytes() == b"old"
    assert not [file for file in files(tmp_path) if file.startswith(".")]


@pytest.mark.parametrize("name", WRITERS)
def test_with_room_they_write(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert (tmp_path / name).stat().st_size > 8192


def test_a_video_that_was_cut_is_noticed(tmp_path: Path, small_disk: None) -> None:
    (tmp_path / "frames").mkdir()
    for number in range(40):
        (tmp_path / "frames" / f"{number}.jpg").write_bytes(
            cv2.imencode(".jpg", np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8))[1].tobytes()
        )
    target, scores = tmp_path / "out.mp4", Frames(NOISE.ravel()[:40], None)
    with pytest.raises(FileWriteError, match=f"'{target}' could not be written"):
        write_overlay(tmp_path / "frames", target, scores)
    assert [file for file in files(tmp_path) if not file.startswith("frames/")] == []
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
    write_overlay(tmp_path / "frames", target, scores)
    whole = target.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) - 500, unlimited))
    with pytest.raises(
        FileWriteError, match=rf"'{target}' could not be written .*older file of that name is as it was"
    ):
        write_overlay(tmp_path / "frames", target, scores)
    assert target.read_bytes() == whole


def test_frames_that_a_video_announces_are_read(tmp_path: Path) -> None:
    """The index of a video may be whole where the frames are not, as on a disk that was full for a while."""
    video = tmp_path / "a.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (64, 64))
    for number in range(20):
        writer.write(np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8))
    writer.release()
    _check_written(video, 20)
    content = bytearray(video.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    video.write_bytes(content)
    assert cv2.VideoCapture(str(video), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FRAME_COUNT) == 20
    with pytest.raises(OSError, match=r"\d+ of 20 frames were written"):
        _check_written(video, 20)


def test_an_array_whose_last_flush_failed_unnoticed(tmp_path: Path) -> None:
    """8,192 of 8,228 bytes, as ``numpy.save`` once left them: the size is checked before the file gets its name."""
    (tmp_path / "a").write_bytes(b"x" * 8192)
    with pytest.raises(OSError, match="8192 of 8228 bytes were written"):
        check_size(tmp_path / "a", 8228)
    check_size(tmp_path / "a", 8192)


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("fsync"), sync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("replace"), rename(*names)))
    save_bytes(tmp_path / "a", b"content")
    assert done == ["fsync", "replace"]


@pytest.mark.parametrize("cut", range(5))
def test_files_that_belong_together_are_never_a_wrong_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Cut before each step on the disk: what is there is the old pair, the new pair, or one of the two pictures alone."""
    picture, scale = tmp_path / "a.png", tmp_path / "a.json"
    low, high = NOISE - 1, NOISE + 1
    _write_raw(picture, low, "png16")
    old = files(tmp_path), picture.read_bytes(), scale.read_bytes()
    steps: list[str] = []

    def counted(name: str, step: Callable[..., None]) -> Callable[..., None]:
        def run(*words: object, **options: object) -> None:
            if name == "replace" or not Path(str(words[0])).name.startswith("."):
                if len(steps) == cut:
                    raise KeyboardInterrupt
                steps.append(name)
            step(*words, **options)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted("replace", os.replace))
        patch.setattr(Path, "unlink", counted("unlink", Path.unlink))
        try:
            _write_raw(picture, high, "png16")
        except KeyboardInterrupt:
            assert cut < 3
    assert steps == ["unlink", "replace", "replace"][: len(steps)]
    with Image.open(picture) as image:
        inside = json.loads(image.info["scale"])
    assert inside == {"low": float(low.min()), "high": float(low.max())} or len(steps) > 1
    assert not scale.exists() or json.loads(scale.read_text()) == inside
    assert (cut > 0) or old == (files(tmp_path), picture.read_bytes(), scale.read_bytes())
    assert set(files(tmp_path)) <= {"a.png", "a.json"}


@pytest.fixture
def nobody() -> Iterator[None]:
    """Somebody who may not write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_place_is_tried_before_there_is_something_to_lose(tmp_path: Path, nobody: None) -> None:
    if os.geteuid() != 65534:
        tmp_path.chmod(0o500)
    for path in (tmp_path / "a" / "b" / "c.json", tmp_path / "c.json"):
        with pytest.raises(
            FileWriteError, match=r"which cannot be written to .*choose a folder that can be written to"
        ):
            try_file(path)


def test_trying_leaves_nothing(tmp_path: Path) -> None:
    before = tmp_path.stat().st_mtime_ns
    assert try_folder(tmp_path / "a" / "b") >= before
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder in ("file", "file/a", "link", "link/a", "x" * 300):
        with pytest.raises(FileWriteError, match="which cannot be written to"):
            try_folder(tmp_path / folder)
    with pytest.raises(FileWriteError, match=f"the file '{tmp_path}', which is a folder"):
        try_file(tmp_path)


def test_a_full_disk_is_known_at_once(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        with pytest.raises(FileWriteError, match=r"which cannot be written to .*Make room on the disk"):
            try_folder(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.json", tmp_path / "folder"):
        with pytest.raises(FileWriteError, match=f"'{path}' could not be written"):
            save_json(path, {})

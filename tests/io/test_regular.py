"""Pipes, devices, sockets and folders are refused at once, whatever their suffix says."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anomaly_suite.data.scenes.labels import read_label
from anomaly_suite.data.scenes.scene_files import add_overlay
from anomaly_suite.data.videos.feature_files import open_array
from anomaly_suite.errors import AnomalySuiteError, DatasetError, ImageReadError
from anomaly_suite.io.images import check_file, image_size, read_image, read_mask
from anomaly_suite.io.regular import require_regular
from anomaly_suite.io.videos import open_video

READERS: list[Callable[[Path], Any]] = [
    *(check_file, image_size, read_image, read_mask, read_label, open_array, open_video),
    lambda path: add_overlay(None, path),  # type: ignore[arg-type] # the image is not looked at
]


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """Opening a pipe that nobody writes to waits for ever."""

    def stop(*args: object) -> None:
        raise TimeoutError("a reader waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_regular_file_is_not_opened(read: Callable[[Path], Any], tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe.png", tmp_path / "link.png"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    for path, what in ((pipe, "is a pipe"), (link, "is a device")):
        with pytest.raises(AnomalySuiteError, match=f"'{path}'.* {what}"):
            read(path)


def test_other_kinds_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    Path("folder.png").mkdir()
    Path("nowhere.png").symlink_to("gone.png")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket.png")
        for name, what in (
            ("folder.png", "is a folder"),
            ("nowhere.png", "is a link to nothing"),
            ("absent.png", "does not exist"),
            ("socket.png", "is a socket"),
        ):
            with pytest.raises(ImageReadError, match=what):
                require_regular(Path(name))
    with pytest.raises(DatasetError):
        require_regular(Path("absent.png"), DatasetError)


def test_links_to_files_are_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").symlink_to("a")
    require_regular(tmp_path / "b")

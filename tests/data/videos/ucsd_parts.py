"""A tiny look-alike of UCSD Ped2: a textured walkway, people that walk, and in the test clips something bright and fast."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

SIZE = (20, 33)  # patches of 6: 3 x 5, and 2 rows and 3 columns left over
TRAIN = {"Train001": 9, "Train002": 7}  # frames
TEST = {"Test001": 8, "Test002": 9, "Test003": 6}
EVENTS = {
    "Test001": [(3, 5)],
    "Test002": [(1, 2), (7, 8)],
    "Test003": [],
}  # from 1, last frame included; fewer than half of a clip, or the anomaly would be its background
LINES = {"Test001": "3:5", "Test002": "1:2, 7:8", "Test003": "1:0"}
PLACES = {"Test001": (6, 12), "Test002": (0, 0), "Test003": (0, 0)}  # of the 6 x 6 anomaly: row and column


def write(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def is_anomalous(clip: str, frame: int) -> bool:
    """Whether a frame, counted from 1, is."""
    return any(first <= frame <= last for first, last in EVENTS.get(clip, []))


def frame_of(clip: str, number: int, *, people: bool = True) -> npt.NDArray[np.uint8]:
    """A frame, counted from 1."""
    rng = np.random.default_rng(0)
    frame = rng.integers(90, 110, SIZE).astype(np.uint8)  # the background, the same in all
    if people:
        row, column = 12, (number * 5) % 27  # one person of 6 x 3 pixels
        frame[row : row + 6, column : column + 3] = 30 + number
    if is_anomalous(clip, number):
        row, column = PLACES[clip]
        frame[row : row + 6, column : column + 6] = 240
    return frame


def mask_of(clip: str, number: int) -> npt.NDArray[np.uint8]:
    mask = np.zeros(SIZE, np.uint8)
    if is_anomalous(clip, number):
        row, column = PLACES[clip]
        mask[row : row + 6, column : column + 6] = 255
    return mask


def make(root: Path, *, suffix: str = ".tif", mask_suffix: str = ".bmp", start: int = 1) -> Path:
    """Write it, and return the folder ``UCSDped2``; the masks of the third clip are called frame001 and so on, as in the published set."""
    folder = root / "UCSDped2"
    for part, clips in (("Train", TRAIN), ("Test", TEST)):
        for clip, frames in clips.items():
            for number in range(1, frames + 1):
                name = f"{number - 1 + start:03d}"
                write(folder / part / clip / f"{name}{suffix}", frame_of(clip, number))
                if part == "Test":
                    before = "frame" if clip == "Test003" else ""
                    write(folder / part / f"{clip}_gt" / f"{before}{name}{mask_suffix}", mask_of(clip, number))
    for junk in ("Train/.DS_Store", "Train/Train001/._001.tif", "Test/Test001_gt/._001.bmp"):
        (folder / junk).write_bytes(b"junk")
    annotate(folder, [LINES[clip] for clip in TEST])
    return folder


def annotate(folder: Path, lines: list[str]) -> None:
    text = "TestVideoFile = {};\n" + "".join(f"TestVideoFile{{end+1}}.gt_frame = [{line}];\n" for line in lines)
    (folder / "Test" / "UCSDped2.m").write_text(text)

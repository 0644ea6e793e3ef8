"""Overlay videos: the frames of an original, the curve of their scores below, a red border where they reach the threshold.

Axes: H and W pixels, F frames with a score.
"""

from __future__ import annotations

import errno
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from anomaly_suite.callbacks.drawing import FONT, Picture
from anomaly_suite.callbacks.videos import Frames, Scores, bare_name
from anomaly_suite.errors import DatasetError
from anomaly_suite.io.atomic import replacing
from anomaly_suite.io.videos import frame_rate, open_video, walk_videos

SLACK = (
    16,
    0.02,
)  # frames, or a share of them, that an original may have more or fewer than scores, which come in snippets
RED, EVENT, LINE, CURVE = (0, 0, 255), (205, 205, 255), (90, 90, 90), (176, 118, 59)
SMALL = 0.4  # size of numbers


class Originals:
    """Finds the originals of videos, files or folders of frames, anywhere below a folder.

    Args:
        folder: Searched once, at the first question.
        names: All videos. Folders in a name may be missing in the path of its original where no other video has the same
            last component.
        known: Originals by name; then nothing is searched.
    """

    def __init__(self, folder: Path, names: Iterable[str], known: Mapping[str, Path] | None = None) -> None:
        self._known = known
        self.folder = folder
        self._twins = Counter(Path(bare_name(name)).name for name in names)
        self._found: dict[str, list[tuple[tuple[str, ...], Path]]] | None = None

    def find(self, name: str) -> Path:
        """The original of one video.

        Raises:
            DatasetError: none, or several.
        """
        if self._known is not None:
            if name not in self._known:
                raise DatasetError(f"no original of video {name!r} among those named")
            return self._known[name]
        if self._found is None:
            self._found = defaultdict(list)
            for path in walk_videos(self.folder):
                parts = Path(bare_name(str(path.relative_to(self.folder)))).parts
                self._found[parts[-1] if parts else ""].append((parts, path))
        wanted = Path(bare_name(name)).parts
        namesakes = self._found.get(wanted[-1], [])
        fitting = [path for parts, path in namesakes if parts[-len(wanted) :] == wanted]
        if not fitting and self._twins[wanted[-1]] == 1:
            fitting = [path for _, path in namesakes]
        if len(fitting) != 1:
            raise DatasetError(f"{len(fitting) or 'no'} originals of video {name!r} in '{self.folder}'")
        return fitting[0]


def _read_frames(original: Path) -> Iterator[Picture]:
    """Frames of a video file or a folder, blue first, as they are drawn on and written."""
    _, frames = open_video(original)
    return (cast(Picture, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)) for frame in frames)


def write_overlay(
    original: Path,
    target: Path,
    frames: Frames,
    *,
    threshold: float | None = None,
    fps: float | None = None,
    span: tuple[float, float] | None = None,
) -> None:
    """Write an ``.mp4`` of all frames that have a score; width and height grow to even numbers.

    Args:
        original: Video file or folder of frames.
        target: File to write.
        frames: Scores; true events are shaded.
        threshold: Frames that score at least this get a red border; None for no border.
        fps: Frames per second; those of the original if None.
        span: Lowest and highest score of the curve's axis; those of the video if None.

    Raises:
        DatasetError: the original cannot be read, or has other numbers of frames than there are scores, by more than 16 and
            2 %; then nothing is written.
        FileWriteError: not every frame can be read from what was written, as on a full disk; an older file is as it was.
    """
    source = _read_frames(original)
    first = next(source, None)
    if first is None:
        raise DatasetError(f"'{original}' holds no frame that can be decoded")
    high, wide = first.shape[:2]
    strip = score_strip(frames, wide + wide % 2, max(48, high // 4), threshold=threshold, span=span)
    strip = _numbered(strip, span or score_range(frames.score, threshold), threshold)
    strip = np.pad(strip, ((0, (high + len(strip)) % 2), (0, 0), (0, 0)), mode="edge")
    with replacing(target) as temporary:
        size = (strip.shape[1], high + len(strip))
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), fps or frame_rate(original), size)
        if not writer.isOpened():
            raise DatasetError(f"this build of OpenCV cannot write '{target.name}'")
        written = 0
        try:
            # Scores come first: zip must not take a frame that has none.
            for score, picture in zip(frames.score.tolist(), itertools.chain([first], source), strict=False):
                picture = picture if picture.shape == first.shape else cv2.resize(picture, (wide, high))
                alarmed = threshold is not None and score >= threshold
                writer.write(_overlaid(picture, strip, written / len(frames.score), score, alarmed=alarmed))
                written += 1
        finally:
            writer.release()
        slack = max(SLACK[0], int(SLACK[1] * len(frames.score)))
        surplus = written + sum(1 for _ in itertools.islice(source, slack + 1)) - len(frames.score)
        if abs(surplus) > slack:
            raise DatasetError(
                f"'{original}' has {'more' if surplus > 0 else 'fewer'} frames than the {len(frames.score)} scores of its video"
            )
        _check_written(temporary, written)


def _check_written(video: Path, frames: int) -> None:
    """OpenCV says nothing of a disk that is full, and a file may announce frames that it lacks: read them all again."""
    capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG)
    count = 0
    while capture.grab():
        count += 1
    capture.release()
    if count != frames:
        raise OSError(errno.EIO, f"{count} of {frames} frames were written")


def _overlaid(picture: Picture, strip: Picture, place: float, score: float, *, alarmed: bool) -> Picture:
    """One frame above the strip, whose cursor stands at the share ``place`` of its width."""
    picture = np.pad(picture, ((0, 0), (0, strip.shape[1] - picture.shape[1]), (0, 0)))
    high, wide = picture.shape[:2]
    if alarmed:
        border = max(2, wide // 80)
        corner = (wide - 1 - border // 2, high - 1 - border // 2)
        cv2.rectangle(picture, (border // 2, border // 2), corner, RED, border)
    below = strip.copy()
    column = int(place * wide)
    cv2.line(below, (column, 0), (column, len(below) - 1), RED if alarmed else (0, 0, 0), 1)
    _write(below, f"{score:.3f}", (4, 12))
    return np.vstack([picture, below])


def _write(picture: Picture, text: str, corner: tuple[int, int]) -> None:
    """Dark on a bright seam, to be read above the curve."""
    for color, width in (((255, 255, 255), 4), ((0, 0, 0), 1)):
        cv2.putText(picture, text, corner, FONT, SMALL, color, width, cv2.LINE_AA)


def _numbered(strip: Picture, span: tuple[float, float], threshold: float | None) -> Picture:
    """The strip with the ends of its axis and the threshold in numbers, as far as a quarter of its width holds them."""
    high, wide = strip.shape[:2]
    low, top = span
    numbers = {12: f"{top:.4g}", high - 4: f"{low:.4g}"}
    if threshold is not None:
        line = round((high - 3) * (1 - (threshold - low) / (top - low)) + 1)
        row = line - 3 if line > 16 else line + 12  # beside its line
        numbers = {other: text for other, text in numbers.items() if abs(other - row) > 11}
        numbers[row] = f"{threshold:.4g} threshold"
    for row, text in numbers.items():
        needed = cv2.getTextSize(text, FONT, SMALL, 1)[0][0]
        if needed <= wide // 4:
            _write(strip, text, (wide - needed - 4, row))
    return strip


def score_strip(
    frames: Frames, wide: int, high: int, *, threshold: float | None, span: tuple[float, float] | None = None
) -> Picture:
    """The curve of a whole video: true events shaded, a line at the threshold; a column shows its highest frame."""
    count = len(frames.score)
    low, top = span or score_range(frames.score, threshold)
    strip = np.full((high, wide, 3), 255, np.uint8)
    for start, end in frames.events():
        strip[:, start * wide // count : max(end * wide // count, start * wide // count + 1)] = EVENT

    def rows(score: npt.NDArray[np.floating]) -> npt.NDArray[np.int32]:
        """Row of the strip for each score."""
        return np.round((high - 3) * (1 - (score - low) / (top - low)) + 1).astype(np.int32)

    if threshold is not None:
        strip[rows(np.array(threshold))] = LINE
    score = np.nan_to_num(frames.score, nan=low, posinf=top, neginf=low)
    highest = np.maximum.reduceat(score, np.arange(wide) * count // wide)
    points = np.stack([np.arange(wide, dtype=np.int32), rows(highest)], axis=1)
    return cast(Picture, cv2.polylines(strip, [points], False, CURVE, 1))


def shared_range(scores: Iterable[Scores], threshold: float | None) -> tuple[float, float]:
    """The same for several videos; an axis that they share."""
    finite = (score[np.isfinite(score)] for score in scores)
    ends = [end for score in finite if len(score) for end in (score.min(), score.max())]
    return score_range(np.array(ends, dtype=np.float32), threshold)


def score_range(score: Scores, threshold: float | None) -> tuple[float, float]:
    """Lower and upper end of an axis for scores: 0 and 1 where all lie between, else those of the scores and the threshold."""
    shown = score[np.isfinite(score)].tolist() + ([] if threshold is None else [threshold])
    if not shown or (min(shown) >= 0 and max(shown) <= 1):
        return 0.0, 1.0
    low, high = min(shown), max(shown)
    margin = max(1.0, abs(low)) / 2 if low == high else 0.0
    return low - margin, high + margin

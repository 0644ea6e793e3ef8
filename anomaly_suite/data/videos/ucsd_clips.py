"""Clips of the UCSD pedestrian walkways, checked: frames, truth of frames, and masks where there are any.

Layout: ``<folder>/Train/Train001/001.tif``, ``Test/Test001/001.tif``, masks ``Test/Test001_gt/001.bmp``, truth ``Test/<folder>.m``. Copies
with other kinds of images are read as well, and frames that are numbered from 0.
Axes: T frames, H and W pixels.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from anomaly_suite.data.videos.frame_truth import mark_events
from anomaly_suite.data.videos.lists import read_lines
from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import image_files, subfolders
from anomaly_suite.io.images import image_size, read_image, read_mask
from anomaly_suite.io.videos import frame_files

Part = Literal["Train", "Test"]

OBTAIN = "UCSD_Anomaly_Dataset comes from the page of UCSD's Statistical Visual Computing Lab."


class Clip(NamedTuple):
    """One clip: frames and masks in order, and whether each frame is anomalous (T,); masks are empty where there are none."""

    name: str
    frames: list[Path]
    masks: list[Path]
    truth: npt.NDArray[np.bool_]


def annotated_spans(file: Path, *, dataset: str) -> list[list[tuple[int, int]]]:
    """Events of every clip from the lines ``TestVideoFile{end+1}.gt_frame = [5:90, 140:200];``, the k-th line for the k-th clip.

    Args:
        file: The annotation.
        dataset: Name for messages.

    Returns:
        First frame of each event, counted from 0, and the frame after its last.

    Raises:
        DatasetNotFoundError: there is no such file.
        DatasetError: a line that cannot be read.
    """
    found: list[list[tuple[int, int]]] = []
    for line in read_lines(file, dataset=dataset, obtain=OBTAIN):
        if (match := re.search(r"gt_frame\s*=\s*\[(.*)\]", line)) is None:
            continue
        spans = re.split(r"[,\s]+", match[1].strip())
        if not all(re.fullmatch(r"\d+(:\d+)?", span) for span in spans):
            raise DatasetError(
                f"'{file}' annotates Test{len(found) + 1:03d} with [{match[1]}]; expected frames as 5:90, 140:200. "
                "Restore the published file."
            )
        ends = [[int(end) for end in span.split(":")] for span in spans]
        found.append([(end[0] - 1, end[-1]) for end in ends])
    return found


def read_clips(folder: Path, part: Part) -> list[Clip]:
    """All clips of one part, checked without decoding a frame.

    Args:
        folder: ``UCSDped1`` or ``UCSDped2``.
        part: Training clips are normal throughout.

    Raises:
        DatasetNotFoundError: clips, frames or the annotation are missing.
        DatasetError: frames are not numbered without gaps, differ in size or have other masks or truth than one each; a training clip
            has masks.
    """
    names = [path.name for path in subfolders(folder / part) if re.fullmatch(rf"{part}\d+", path.name)]
    if not names:
        raise DatasetNotFoundError(
            f"UCSDPed expects clips {part}001, ... in '{folder / part}', which has none. {OBTAIN}"
        )
    if part == "Train":
        if marked := [path for path in subfolders(folder / part) if path.name.endswith("_gt")]:
            raise DatasetError(
                f"'{marked[0]}' holds masks, but training clips must be normal. Move the clip to '{folder / 'Test'}', or take the masks away."
            )
        clips = [_clip(folder / part / name) for name in names]
    else:
        spans = annotated_spans(folder / part / f"{folder.name}.m", dataset="UCSDPed")
        if len(spans) != len(names):
            raise DatasetError(
                f"'{folder / part / folder.name}.m' annotates {len(spans)} clips, but '{folder / part}' holds {len(names)}. Complete the clips, or "
                "restore the published file."
            )
        clips = [_clip(folder / part / name, events) for name, events in zip(names, spans, strict=True)]
    sizes = {image_size(clip.frames[0]): clip.name for clip in clips}
    if len(sizes) > 1:
        (first, one), (second, other) = list(sizes.items())[:2]
        raise DatasetError(
            f"frames of '{folder / part}' must have one size; got {first} in {one} and {second} in {other} (H, W). Restore the published frames."
        )
    return clips


def _clip(path: Path, events: list[tuple[int, int]] | None = None) -> Clip:
    frames = frame_files(path)
    if not frames:
        raise DatasetNotFoundError(f"clip '{path}' has no frames. {OBTAIN}")
    _require_numbers(frames, path)
    masks = image_files(path.with_name(f"{path.name}_gt"))
    if masks:
        masks = sorted(masks, key=_number)
        if len(masks) != len(frames):
            raise DatasetError(
                f"'{masks[0].parent}' must hold one mask for each of {len(frames)} frames; got {len(masks)}. Complete the masks, or take the folder away."
            )
        _require_numbers(masks, masks[0].parent)
    if events and max(stop for _, stop in events) > len(frames):
        raise DatasetError(
            f"{path.name} is annotated up to frame {max(stop for _, stop in events)}, but '{path}' has {len(frames)}. Complete the frames."
        )
    return Clip(path.name, frames, masks, mark_events(events or [], len(frames), video=path.name))


def _number(path: Path) -> int:
    found = re.search(r"(\d+)$", path.stem)
    return -1 if found is None else int(found[1])


def _require_numbers(files: list[Path], folder: Path) -> None:
    numbers = [_number(file) for file in files]
    if numbers not in (list(range(1, len(files) + 1)), list(range(len(files)))):
        wrong = next(
            (
                file
                for start in numbers[:1]
                for file, number in zip(files, range(start, start + len(files)), strict=True)
                if _number(file) != number
            ),
            files[0],
        )
        raise DatasetError(
            f"'{folder}' must hold frames numbered from 1 (or 0) without gaps; got '{wrong.name}' in the place of another. Complete the frames."
        )


def read_frames(files: list[Path], *, size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """Frames of one clip, grey.

    Args:
        files: In order.
        size: Height and width to which they are resized; None keeps theirs.

    Returns:
        Shape (T, H, W).

    Raises:
        ImageReadError: a frame cannot be read.
        DatasetError: one has another size than the first.
    """
    import cv2

    found: npt.NDArray[np.uint8] | None = None
    for row, file in enumerate(files):
        image = read_image(file, channels=1)[..., 0]
        if size is not None:
            image = np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
        if found is None:
            found = np.empty((len(files), *image.shape), np.uint8)
        if image.shape != found.shape[1:]:
            raise DatasetError(
                f"frames of a clip must have one size; got {image.shape} in '{file}' and {found.shape[1:]} before it (H, W). Restore the published frames."
            )
        found[row] = image
    return np.empty((0, 0, 0), np.uint8) if found is None else found


def read_masks(clip: Clip, *, size: tuple[int, int] | None = None, must_agree: bool = False) -> npt.NDArray[np.bool_]:
    """Masks of one clip.

    Args:
        clip: With masks.
        size: Height and width to which they are resized, by the nearest pixel.
        must_agree: Frames that masks mark must be those that are annotated, as they are in all of Ped2.

    Returns:
        Shape (T, H, W).

    Raises:
        DatasetError: a mask has another size than its frame, or marks other frames than the annotation.
    """
    import cv2

    masks = []
    for frame, file, anomalous in zip(clip.frames, clip.masks, clip.truth, strict=True):
        mask = read_mask(file, anomalous=None)
        if (wanted := image_size(frame)) != mask.shape:
            raise DatasetError(
                f"mask '{file}' is {mask.shape}, but its frame '{frame}' is {wanted} (H, W). Restore the published mask."
            )
        if must_agree and bool(mask.any()) != bool(anomalous):
            raise DatasetError(
                f"mask '{file}' marks {int(mask.sum())} pixels, but the annotation calls the frame {'anomalous' if anomalous else 'normal'}. Take "
                "masks and annotation from one source."
            )
        masks.append(mask if size is None else cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST))
    return np.stack(masks).astype(np.bool_)

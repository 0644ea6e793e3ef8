"""Files of snippet features: found by the name of their video, opened memory-mapped, read whole or pooled to segments.

Files are plain NumPy arrays. Axes: C crops, T snippets, L segments, D feature width.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anomaly_suite.contract.videos import pool_segments, segment_bounds
from anomaly_suite.data.videos.lists import split_name
from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import is_junk, same_name
from anomaly_suite.io.regular import fault_of

Layout = Literal["snippets_first", "crops_first"]

PIECE = 2**24
"""Bytes of a file that are in memory at a time while it is read."""


class Video(NamedTuple):
    """One video.

    Attributes:
        name: Unique in the data set.
        label: 1 if anomalous.
        source: A file of all crops, several files of one crop each, or the features themselves, shape (C, T, D).
        frame_label: Shape (frames,), where the truth is known; a normal video needs none.
        beside: Files of other features of the same crops (optical flow beside RGB), which are appended along D.
    """

    name: str
    label: int
    source: Path | tuple[Path, ...] | Tensor
    frame_label: npt.NDArray[np.bool_] | None = None
    beside: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of ``source``; none where that is a tensor."""
        if isinstance(self.source, Tensor):
            return ()
        return self.source if isinstance(self.source, tuple) else (self.source,)


def open_array(file: Path) -> npt.NDArray[Any]:
    """Open a ``.npy`` file without reading it.

    Returns:
        Memory-mapped, of any shape and type but Python objects.

    Raises:
        DatasetNotFoundError: there is no such file.
        DatasetError: it is no plain array.
    """
    if not file.exists():
        raise DatasetNotFoundError(f"there is no file '{file}'. Check root and the list of videos.")
    if (fault := fault_of(file)) is not None:
        raise DatasetError(f"'{file}' is no plain NumPy array: it {fault}. Take it out of the folder of features.")
    try:
        # numpy.load would open archives of arrays as well.
        array: npt.NDArray[Any] = np.lib.format.open_memmap(file, mode="r")
    except Exception as error:  # damaged headers raise errors of many kinds
        raise DatasetError(
            f"'{file}' is no plain NumPy array ({error}). Object arrays hold pickles, which are never loaded: save it again with "
            "numpy.save(file, numpy.asarray(array, dtype='float32'))."
        ) from error
    return array


def open_features(file: Path, layout: Layout = "snippets_first") -> npt.NDArray[Any]:
    """Open a file of snippet features without reading it.

    Args:
        file: A ``.npy`` array of shape (T, C, D), (C, T, D) with ``layout: crops_first``, or (T, D) for one crop.
        layout: Order of the first two of three axes.

    Returns:
        Memory-mapped, shape (C, T, D).

    Raises:
        DatasetNotFoundError: there is no such file.
        DatasetError: no plain array of numbers of such a shape.
    """
    array = open_array(file)
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "fiu":
        raise DatasetError(
            f"'{file}' must be numbers of shape (T, D), (T, C, D) or (C, T, D); got {array.shape} {array.dtype}. "
            "Extract the features of this video again."
        )
    if array.ndim == 2:
        return array[None]
    return array if layout == "crops_first" else np.swapaxes(array, 0, 1)


def read_video(video: Video, layout: Layout = "snippets_first") -> Tensor:
    """Features of a whole video.

    Args:
        video: The video.
        layout: See :func:`open_features`.

    Returns:
        Float32, shape (C, T, D).

    Raises:
        DatasetNotFoundError: a file is missing.
        DatasetError: crops of different lengths, or values that are no finite numbers.
    """
    if isinstance(video.source, Tensor):
        return video.source
    parts = [_open_crops(video.name, files, layout) for files in (video.files, video.beside) if files]
    snippets = _common_length(video, parts)
    read = [_read_crops(video.name, crops, snippets) for crops in parts]
    return read[0] if len(read) == 1 else torch.cat(read, 2)


def read_pooled(video: Video, segments: int, layout: Layout = "snippets_first") -> Tensor:
    """A video averaged to segments, each value of its files read once and nothing kept; see :func:`read_video` for errors.

    Args:
        video: The video.
        segments: L.
        layout: See :func:`open_features`.

    Returns:
        Float32, shape (C, L, D): ``pool_segments`` of :func:`read_video`, but for the order of its sums.
    """
    if isinstance(video.source, Tensor):
        return pool_segments(video.source.unsqueeze(0), segments)[0]
    parts = [_open_crops(video.name, files, layout) for files in (video.files, video.beside) if files]
    snippets = _common_length(video, parts)
    pooled = torch.cat([_pool_crops(crops, snippets, segments) for crops in parts], 2)
    if bool(pooled.isfinite().all()):
        return pooled
    # A mean is no number if one value is none, which reading says, or if the sum of large ones is too large.
    return pool_segments(read_video(video, layout).unsqueeze(0), segments)[0]


Crops = list[tuple[Path, npt.NDArray[Any]]]
"""Files of the crops of a video with their arrays (C, T, D), which together hold all crops."""


def _open_crops(name: str, files: tuple[Path, ...], layout: Layout) -> Crops:
    crops = [(file, open_features(file, layout)) for file in files]
    if len({part.shape[1:] for _, part in crops}) > 1:
        shapes = ", ".join(f"{file.name} {part.shape}" for file, part in crops)
        raise DatasetError(f"the crops of video {name!r} differ in length or width: {shapes}. Extract them again.")
    return crops


def _common_length(video: Video, parts: Sequence[Crops]) -> int:
    """T of a video whose features may be in two parts: flow has one frame less than RGB."""
    shapes = [(sum(len(part) for _, part in crops), *crops[0][1].shape[1:]) for crops in parts]
    lengths = [shape[1] for shape in shapes]
    if shapes[0][0] != shapes[-1][0] or abs(lengths[0] - lengths[-1]) > 1:
        raise DatasetError(
            f"'{video.files[0]}' holds features of shape {shapes[0]} and '{video.beside[0]}' beside it of "
            f"{shapes[1]} (C, T, D). Extract both from the same crops and frames."
        )
    return int(min(lengths))


def _read_crops(name: str, crops: Crops, snippets: int) -> Tensor:
    """The first snippets of all crops, float32 (C, T, D), copied piece by piece."""
    width = crops[0][1].shape[2]
    features = np.empty((sum(len(part) for _, part in crops), snippets, width), np.float32)
    start = 0
    for file, part in crops:
        mine = features[start : start + len(part)]
        start += len(part)
        step = max(1, PIECE // (len(part) * width * part.itemsize))
        for first in range(0, snippets, step):
            piece = mine[:, first : first + step]
            piece[:] = part[:, first : min(first + step, snippets)]
            _give_back(part)
            if not np.isfinite(piece).all():
                raise DatasetError(
                    f"'{file}' holds NaN or infinity. Extract the features of video {name!r} again, or leave the video out."
                )
    return torch.from_numpy(features)


def _pool_crops(crops: Crops, snippets: int, segments: int) -> Tensor:
    """Means of the segments of all crops, float32 (C, L, D)."""
    bounds = torch.cat(segment_bounds(torch.tensor([snippets]), segments)).T.tolist()
    pooled = np.empty((sum(len(part) for _, part in crops), segments, crops[0][1].shape[2]), np.float32)
    start = 0
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at what comes out
        for _, part in crops:
            mine = pooled[start : start + len(part)]
            start += len(part)
            for segment, (first, last) in enumerate(bounds):
                np.add.reduce(part[:, first:last], axis=1, dtype=np.float32, out=mine[:, segment])
                mine[:, segment] /= last - first
    return torch.from_numpy(pooled)


def _give_back(array: npt.NDArray[Any]) -> None:
    """Pages of a mapped file count as memory of the process until they are given back."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def snippets_of(video: Video, layout: Layout = "snippets_first") -> int:
    """T of a video, from the headers of its files.

    Raises:
        DatasetNotFoundError: a file is missing.
        DatasetError: a file holds no features.
    """
    if isinstance(video.source, Tensor):
        return video.source.shape[1]
    return min(int(open_features(files[0], layout).shape[1]) for files in (video.files, video.beside) if files)


def require_same_shape(parts: Sequence[tuple[str, Tensor]]) -> None:
    """Check that videos have as many crops and features of the same width.

    Args:
        parts: Name and features of each video, shape (C, T, D); T may differ.

    Raises:
        DatasetError: two videos differ; names both.
    """
    first, one = parts[0]
    for name, part in parts:
        if (part.shape[0], part.shape[2]) != (one.shape[0], one.shape[2]):
            raise DatasetError(
                f"video {first!r} has {one.shape[0]} crops of width {one.shape[2]}, {name!r} {part.shape[0]} of "
                f"{part.shape[2]}. Extract all videos with the same network and crops."
            )


def find_features(folder: Path, *, dataset: str, obtain: str) -> dict[str, tuple[Path, ...]]:
    """Feature files in a folder and below, by name of the video; several where each crop has its own.

    Names lose ``.npy``, a number of a crop (``_0`` or ``__0``) and ``_i3d`` or ``_c3d``.

    Raises:
        DatasetNotFoundError: the folder is missing or holds none; says how to obtain them.
        DatasetError: two files of the same video and crop, or videos with other crops than the first one.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*.npy")):
        if any(map(is_junk, path.relative_to(folder).parts)):
            continue
        name, crop = split_name(same_name(path.name))
        twin = found.setdefault(name, {}).setdefault(crop, path)
        if twin != path:
            raise DatasetError(f"'{twin}' and '{path}' are features of one video. Move one of them out of '{folder}'.")
    if not found:
        state = "holds no .npy file" if folder.is_dir() else "does not exist"
        raise DatasetNotFoundError(f"{dataset} expects snippet features in '{folder}', which {state}. {obtain}")
    first = next(iter(found))
    expected = sorted(found[first])
    whole = expected == [""] or expected == [str(crop) for crop in range(len(expected))]
    for name, crops in found.items():
        if not whole or sorted(crops) != expected:
            raise DatasetError(
                f"'{folder}' has crops {', '.join(sorted(crops))} of video {name!r} and {', '.join(expected)} of {first!r}. "
                "Give every video the same files: one of all crops, or one for each crop, counted from 0."
            )
    return {name: tuple(crops[crop] for crop in expected) for name, crops in found.items()}


def require_features(names: Sequence[str], found: Iterable[str], *, folder: Path, source: str) -> None:
    """Check that all videos have features.

    Raises:
        DatasetNotFoundError: some have none; names the first three.
    """
    known = set(found)
    missing = [name for name in names if name not in known]
    if missing:
        raise DatasetNotFoundError(
            f"{len(missing)} of {len(names)} videos in {source} have no features in '{folder}': "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else '.'} Complete the features, or give a list of those "
            "that are there."
        )

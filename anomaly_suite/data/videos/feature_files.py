"""Files of snippet features: found by the name of their video, opened memory-mapped, read whole.

Files are plain NumPy arrays. Axes: C crops, T snippets, D feature width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anomaly_suite.data.videos.lists import split_name
from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import is_junk
from anomaly_suite.io.regular import fault_of

Layout = Literal["snippets_first", "crops_first"]


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
    features = [_read_crops(video.name, files, layout) for files in (video.files, video.beside) if files]
    if len(features) == 1:
        return features[0]
    lengths = [part.shape[1] for part in features]
    if features[0].shape[0] != features[1].shape[0] or abs(lengths[0] - lengths[1]) > 1:
        raise DatasetError(
            f"'{video.files[0]}' holds features of shape {tuple(features[0].shape)} and '{video.beside[0]}' beside it of "
            f"{tuple(features[1].shape)} (C, T, D). Extract both from the same crops and frames."
        )
    return torch.cat([part[:, : min(lengths)] for part in features], dim=2)  # flow has one frame less than RGB


def _read_crops(name: str, files: tuple[Path, ...], layout: Layout) -> Tensor:
    parts = [open_features(file, layout) for file in files]
    if len({part.shape[1:] for part in parts}) > 1:
        shapes = ", ".join(f"{file.name} {part.shape}" for file, part in zip(files, parts, strict=True))
        raise DatasetError(f"the crops of video {name!r} differ in length or width: {shapes}. Extract them again.")
    features = torch.from_numpy(np.concatenate([np.array(part, dtype=np.float32) for part in parts]))
    finite = features.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        file = files[int(finite.int().argmin()) * len(files) // len(features)]
        raise DatasetError(
            f"'{file}' holds NaN or infinity. Extract the features of video {name!r} again, or leave the video out."
        )
    return features


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
        name, crop = split_name(path.name)
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

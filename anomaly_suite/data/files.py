"""Find, check and read image files. Every complaint names the file or folder and the way out.

Files are decoded by content; the suffix only says what claims to be an image. Axes: H and W pixels, C channels.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from anomaly_suite.errors import DatasetError, DatasetNotFoundError, ImageReadError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})
ARCHIVE_SUFFIXES = frozenset({".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".xz", ".bz2"})
JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx"})

GREY_SHARE = 0.01  # of a mask's pixels between black and white above which its encoding is doubted


def data_root(root: str | None, name: str) -> Path:
    """``root``, or by default the folder ``name`` in ``$ANOMALY_SUITE_DATA`` (``data`` if the variable is not set)."""
    return Path(root).expanduser() if root is not None else Path(os.environ.get("ANOMALY_SUITE_DATA", "data")) / name


def is_junk(name: str) -> bool:
    """Whether a file or folder is a leftover of an operating system or editor."""
    return name.startswith(".") or name.endswith("~") or name.lower() in JUNK


def subfolders(folder: Path) -> list[Path]:
    """Sorted folders inside a folder; none if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_junk(path.name))


def image_files(folder: Path) -> list[Path]:
    """All images in a folder and below, sorted by relative path; none if it does not exist."""
    found: list[Path] = []
    for where, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not is_junk(name)]
        found += [
            Path(where, name)
            for name in names
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not is_junk(name)
        ]
    return sorted(found, key=lambda path: path.as_posix())


def require_images(folder: Path, *, dataset: str) -> list[Path]:
    """The same, for a folder that must hold images.

    Raises:
        DatasetNotFoundError: it is missing or empty.
    """
    found = image_files(folder)
    if not found:
        state = "holds no image" if folder.is_dir() else "does not exist"
        near = "" if folder.is_dir() else f" Beside it: {_some(path.name for path in subfolders(folder.parent))}."
        raise DatasetNotFoundError(
            f"{dataset} expects images ({', '.join(sorted(IMAGE_SUFFIXES))}) in '{folder}', which {state}.{near} "
            "Correct the folder's name or complete the data set."
        )
    return found


def find_root(root: Path, *, dataset: str, is_root: Callable[[Path], bool], layout: str, obtain: str) -> None:
    """Check that a folder is the root of a data set.

    Args:
        root: What the user gave.
        dataset: Name for messages.
        is_root: Whether a folder is the right one.
        layout: What the right folder holds, for messages.
        obtain: How to get the data, for messages.

    Raises:
        DatasetNotFoundError: it is missing, a file, some levels too high or too low, still packed, or another folder.
    """
    if is_root(root):
        return
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise DatasetNotFoundError(
            f"{dataset} expects a folder with {layout} at root='{root}', which {state}. {obtain}"
        )
    below = subfolders(root)
    deeper = itertools.chain.from_iterable(map(subfolders, below[:1000]))
    for candidate in (*root.resolve().parents[:2], *below, *deeper):
        if is_root(candidate):
            raise DatasetNotFoundError(f"{dataset}: root should be '{candidate}', which holds {layout}; got '{root}'.")
    inside = itertools.islice(root.rglob("*"), 10_000)
    archive = next((path for path in inside if path.suffix.lower() in ARCHIVE_SUFFIXES), None)
    if archive is not None:
        raise DatasetNotFoundError(
            f"{dataset} expects {layout} in root='{root}', which holds the archive '{archive.name}'. "
            f"Unpack it in '{archive.parent}'."
        )
    names = _some(path.name for path in root.iterdir())
    raise DatasetNotFoundError(f"{dataset} expects {layout} in root='{root}'; found {names}. {obtain}")


def require_files(paths: Iterable[Path], *, source: str) -> None:
    """Check that listed files exist.

    Raises:
        DatasetNotFoundError: some do not; names the first five and the count.
    """
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise DatasetNotFoundError(
            f"{len(missing)} files listed in {source} do not exist: {_some(missing)}. "
            "Give paths relative to root or to the list, or take the rows out."
        )


def pair_masks(mask_dir: Path, names: Mapping[Path, Sequence[str]]) -> dict[Path, Path]:
    """Match masks to images by name, never by position.

    Args:
        mask_dir: Folder with all masks.
        names: For every image the names its mask may have, without suffix and relative to ``mask_dir``, best first.

    Returns:
        The mask of every image that has one.

    Raises:
        DatasetError: a mask fits two images, or none.
    """
    masks = {path.relative_to(mask_dir).with_suffix("").as_posix(): path for path in image_files(mask_dir)}
    pairs: dict[Path, Path] = {}
    owner: dict[str, Path] = {}
    for image, candidates in names.items():
        name = next((name for name in candidates if name in masks), None)
        if name is None:
            continue
        if name in owner:
            raise DatasetError(
                f"mask '{masks[name]}' fits both '{owner[name]}' and '{image}'. Put masks into one folder for each defect folder."
            )
        owner[name] = image
        pairs[image] = masks[name]
    orphans = sorted(masks.keys() - owner.keys())
    if orphans:
        name = orphans[0]
        raise DatasetError(
            f"mask '{masks[name]}' has no image; expected one named '{name.removesuffix('_mask')}' "
            f"({len(orphans)} such masks). Restore the image or delete the mask."
        )
    return pairs


def check_leaks(splits: Mapping[str, Sequence[Path]]) -> None:
    """Check that all files are whole and no content is in two splits.

    Only files of equal size are compared, by sha256, so that few are read.

    Args:
        splits: The files of each split.

    Raises:
        DatasetError: the same content in two splits.
        ImageReadError: a file is empty, truncated or a Git LFS pointer.
    """
    sized: dict[int, list[tuple[str, Path]]] = defaultdict(list)
    for split, paths in splits.items():
        for path in paths:
            sized[check_file(path)].append((split, path))
    repeated: list[tuple[str, Path, str, Path]] = []
    for group in sized.values():
        if len({split for split, _ in group}) > 1:
            first: dict[str, tuple[str, Path]] = {}
            for split, path in group:
                other, twin = first.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), (split, path))
                if other != split:
                    repeated.append((other, twin, split, path))
    if repeated:
        other, twin, split, path = repeated[0]
        raise DatasetError(
            f"the {split} image '{path}' has the same content as the {other} image '{twin}' "
            f"({len(repeated)} such pairs). Take one of the two out of the data set."
        )


def check_file(path: Path) -> int:
    """Size of an image file in bytes, after checks that need no decoding.

    Raises:
        ImageReadError: it is empty, truncated or a Git LFS pointer.
    """
    with path.open("rb") as file:
        head = file.read(_EDGE)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _EDGE))
        tail = file.read()
    if _is_suspicious(head, tail):
        _explain(path, path.read_bytes())
    return size


def check_mask_size(image: Path, mask: Path) -> None:
    """Check from their headers that a mask is as large as its image.

    Raises:
        DatasetError: it is not.
        ImageReadError: one of them has no readable header.
    """
    height, width = image_size(image)
    mask_height, mask_width = image_size(mask)
    if (height, width) != (mask_height, mask_width):
        raise DatasetError(
            f"mask '{mask}' is {mask_height} x {mask_width}, but its image '{image}' is {height} x {width} (H x W). "
            "Give every mask the size of its image."
        )


def image_size(path: Path) -> tuple[int, int]:
    """Height and width from a file's header.

    Raises:
        ImageReadError: it has none.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise ImageReadError(f"'{path}' is not a readable image: {error}. Replace the file.") from error


def read_image(path: Path, *, channels: Literal[1, 3] = 3) -> npt.NDArray[np.uint8]:
    """Read one image of any kind as 8-bit RGB or grey.

    Grey and paletted images become RGB, alpha is dropped, rotation marks (EXIF) are ignored. 16-bit values are scaled by
    the depth that they use: 8 bits if all are below 256, 12 bits if all are below 4096, else 16.

    Args:
        path: The file.
        channels: 3 for RGB, 1 for grey.

    Returns:
        Shape (H, W, C).

    Raises:
        ImageReadError: it cannot be read; says why.
    """
    mode = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
    image = _decode(path, mode | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image) if channels == 3 else image[..., None]


def read_mask(path: Path, *, anomalous: bool = True) -> npt.NDArray[np.uint8]:
    """Read a mask as 0 and 1.

    Values of at most 15 are taken for numbers of defects, anything above 0 being anomalous; else the threshold is 128.
    Warns where many pixels lie between black and white, or where the mask of an anomalous image is empty.

    Args:
        path: The file.
        anomalous: Whether the image is.

    Returns:
        Shape (H, W).

    Raises:
        ImageReadError: it cannot be read; says why.
    """
    values = _decode(path, cv2.IMREAD_UNCHANGED)
    if values.ndim == 3:
        values = values[..., :3].max(-1)  # without alpha
    low, high = (int(value) for value in cv2.minMaxLoc(values)[:2])
    mask = values > 0 if high <= 15 else values >= 128
    if cv2.countNonZero(cv2.inRange(values, 16, 239)) > GREY_SHARE * values.size:
        warnings.warn(
            f"mask '{path}' has grey pixels between black and white (values {low} to {high}); "
            "those of at least 128 count as anomalous. Store masks as PNG with the values 0 and 255.",
            stacklevel=2,
        )
    if anomalous and not mask.any():
        warnings.warn(
            f"mask '{path}' of an anomalous image is empty (values {low} to {high}): "
            "all its pixels count as normal. Complete the mask, or take the image out of the test set.",
            stacklevel=2,
        )
    return mask.view(np.uint8)


_EDGE = 64  # bytes at either end of a file that tell whether it is whole
_LFS = b"version https://git-lfs"


def _is_suspicious(head: bytes, tail: bytes) -> bool:
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if head.startswith(b"\x89PNG"):
        return b"IEND" not in tail
    return not head or head.startswith(_LFS)


def _explain(path: Path, data: bytes) -> None:
    """Raise what is wrong with a suspicious file; return if it is only unusual, such as bytes after a JPEG's end."""
    if not data:
        raise ImageReadError(f"'{path}' is empty (0 bytes). Fetch the file again.")
    if data.startswith(_LFS):
        raise ImageReadError(
            f"'{path}' is a Git LFS pointer ({len(data)} bytes), not the image. Run 'git lfs pull' where it came from."
        )
    from PIL import Image  # OpenCV before version 5 fills the missing part of a JPEG with grey and says nothing

    try:
        Image.open(io.BytesIO(data)).load()
    except (OSError, SyntaxError) as error:
        raise ImageReadError(
            f"'{path}' ({len(data)} bytes) is truncated or damaged: {error}. Fetch the file again."
        ) from error


def _decode(path: Path, flags: int) -> npt.NDArray[np.uint8]:
    data = path.read_bytes()
    if _is_suspicious(data[:_EDGE], data[-_EDGE:]):
        _explain(path, data)
    image: npt.NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ImageReadError(
            f"'{path}' ({len(data)} bytes) cannot be decoded as an image. Fetch the file again or take it out of the data set."
        )
    if image.dtype == np.uint16:
        high = int(image.max())
        image = (image >> (0 if high < 256 else 4 if high < 4096 else 8)).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ImageReadError(f"'{path}' holds {image.dtype} pixels; expected 8 or 16 bits. Convert the file.")
    return image


def _some(names: Iterable[str]) -> str:
    listed = list(itertools.islice(sorted(names), 6))
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "") or "nothing"

"""Folders of a data set: find the root, list the images, pair them with masks, look for leaks between splits.

Every complaint names the folder or file and the way out.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io.images import IMAGE_SUFFIXES, check_file

_Name = TypeVar("_Name", str, int)

ARCHIVE_SUFFIXES = frozenset({".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".xz", ".bz2"})
UNREAD_SUFFIXES = frozenset(
    {".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".exr", ".hdr", ".dcm", ".dng", ".jfif"}
)
JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


def data_root(root: str | Path | None, name: str) -> Path:
    """``root``, or by default the folder ``name`` in ``$ANOMALY_SUITE_DATA`` (``data`` if the variable is not set)."""
    if root is not None:
        return on_disk(Path(root).expanduser())
    return Path(os.environ.get("ANOMALY_SUITE_DATA", "data")) / name


def same_name(name: str) -> str:
    """A name in the one Unicode form in which names are compared: systems store ``ä`` as one character or as two."""
    return unicodedata.normalize("NFC", name)


def on_disk(path: Path) -> Path:
    """A path as the disk spells it: a name that is there in another Unicode form is found; what is not there stays as it is."""
    if str(path).isascii() or os.path.exists(path) or path == path.parent:
        return path
    parent = on_disk(path.parent)
    if not parent.is_dir():
        return path
    alike = (name for name in sorted(os.listdir(parent)) if same_name(name) == same_name(path.name))
    return parent / next(alike, path.name)


def is_junk(name: str) -> bool:
    """Whether a file or folder is a leftover of an operating system or editor."""
    return name.startswith(".") or name.endswith("~") or name.lower() in JUNK


def subfolders(folder: Path) -> list[Path]:
    """Sorted folders inside a folder; none if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_junk(path.name))


def image_files(folder: Path) -> list[Path]:
    """All images in a folder and below, sorted by relative path; none if it does not exist.

    Links to folders are followed, but for those that lead back to a folder that they lie in.

    Raises:
        DatasetError: a folder cannot be read.
    """
    return _files_of(folder, IMAGE_SUFFIXES)


def _files_of(folder: Path, suffixes: Collection[str]) -> list[Path]:
    found: list[Path] = []
    for where, inner, names in os.walk(folder, followlinks=True, onerror=_refuse):
        inner[:] = [name for name in inner if not is_junk(name) and not leads_back(os.path.join(where, name))]
        found += [
            Path(where, name) for name in names if os.path.splitext(name)[1].lower() in suffixes and not is_junk(name)
        ]
    return sorted(found, key=lambda path: path.as_posix())


def leads_back(path: str) -> bool:
    """Whether a folder is a link to one that it lies in: whoever follows it finds the same files over and over."""
    if not os.path.islink(path):
        return False
    target = os.path.join(os.path.realpath(path), "")
    above = Path(os.path.abspath(path)).parents  # as they were reached, which may be by other links
    return any(os.path.join(os.path.realpath(folder), "").startswith(target) for folder in above)


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise DatasetError(
            f"the folder '{error.filename}' cannot be read ({error.strerror}), so its images would be missing. "
            "Give the right to read it, correct the link, or take it out of the data set."
        ) from error


def require_images(folder: Path, *, dataset: str) -> list[Path]:
    """The same, for a folder that must hold images; warns where it also holds pictures of kinds that are not read.

    Raises:
        DatasetNotFoundError: it is missing or empty.
        DatasetError: a folder cannot be read.
    """
    every = _files_of(folder, IMAGE_SUFFIXES | UNREAD_SUFFIXES)
    found = [path for path in every if path.suffix.lower() in IMAGE_SUFFIXES]
    if found and len(found) < len(every):
        left = next(path for path in every if path.suffix.lower() in UNREAD_SUFFIXES)
        warnings.warn(
            f"{len(every) - len(found)} pictures in '{folder}' are of a kind that is not read, first '{left}': they are left out. "
            "Convert them to PNG, or take them away.",
            stacklevel=2,
        )
    if not found:
        state = "holds no image" if folder.is_dir() else "does not exist"
        near = "" if folder.is_dir() else f" Beside it: {_some(path.name for path in subfolders(folder.parent))}."
        raise DatasetNotFoundError(
            f"{dataset} expects images ({', '.join(sorted(IMAGE_SUFFIXES))}) in '{folder}', which {state}.{near} "
            "Correct the folder's name or complete the data set."
        )
    return found


def by_name(paths: Iterable[Path], name: Callable[[Path], _Name], *, what: str, advice: str) -> dict[_Name, Path]:
    """Files by a name that only one of them may have.

    Args:
        paths: The files.
        name: The name of a file, such as its stem.
        what: What two files of a name are, for the message.
        advice: What to do about them.

    Raises:
        DatasetError: two files have one name; names both.
    """
    found: dict[_Name, Path] = {}
    for path in paths:
        twin = found.setdefault(name(path), path)
        if twin != path:
            raise DatasetError(f"'{twin}' and '{path}' are {what}, and only one can be used. {advice}")
    return found


def require_once(parts: Mapping[str, Sequence[Path]]) -> None:
    """Check that no file is listed twice, in one part or in two, by whatever name.

    Raises:
        DatasetError: one is; names it.
    """
    seen: dict[str, tuple[str, Path]] = {}
    real = lru_cache(maxsize=None)(os.path.realpath)
    for part, paths in parts.items():
        for path in paths:
            place = os.path.realpath(path) if path.is_symlink() else os.path.join(real(path.parent), path.name)
            if place in seen:
                other, twin = seen[place]
                alias = "" if twin == path else f" (as '{twin}')"
                raise DatasetError(
                    f"'{path}' is in the {part} part, and in the {other} part before{alias}. List every image once: look for folders that lie "
                    "in one another, links and repeated rows."
                )
            seen[place] = part, path


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
    if root.is_dir() and not os.access(root, os.R_OK | os.X_OK):
        raise DatasetNotFoundError(
            f"{dataset} expects a folder with {layout} at root='{root}', which may not be read. Give the right to read it."
        )
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
    missing = [str(path) for path in paths if not os.path.isfile(path)]  # which a name of any length cannot break
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
        DatasetError: a mask fits two images, or none; or two masks fit one image.
    """
    return pair_names(image_files(mask_dir), mask_dir, names)


def pair_names(files: Iterable[Path], mask_dir: Path, names: Mapping[Path, Sequence[str]]) -> dict[Path, Path]:
    """The same for masks of any kind of file.

    Args:
        files: All masks.
        mask_dir: Folder that they lie in, or one of them.
        names: See :func:`pair_masks`.

    Raises:
        DatasetError: see :func:`pair_masks`.
    """
    below = mask_dir if mask_dir.is_dir() else mask_dir.parent
    masks = by_name(
        files,
        lambda path: same_name(path.relative_to(below).with_suffix("").as_posix()),
        what="masks of one name",
        advice="Delete the wrong one.",
    )
    pairs: dict[Path, Path] = {}
    owner: dict[str, Path] = {}
    for image, candidates in names.items():
        fitting = [name for name in dict.fromkeys(map(same_name, candidates)) if name in masks]
        if not fitting:
            continue
        name = fitting[0]
        if name.endswith("_mask") and name.removesuffix("_mask") in fitting:
            raise DatasetError(
                f"'{masks[name]}' and '{masks[name.removesuffix('_mask')]}' are both masks of '{image}'. Delete the wrong one."
            )
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


def _some(names: Iterable[str]) -> str:
    listed = list(itertools.islice(sorted(names), 6))
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "") or "nothing"

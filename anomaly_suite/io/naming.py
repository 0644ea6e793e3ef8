"""Names of files: their natural order, and names in an output folder that no two inputs share."""

from __future__ import annotations

import itertools
import os
import re
import zlib
from pathlib import Path

from anomaly_suite.errors import ConfigError

LONGEST_PART = 200  # bytes of a name; file systems take 255, and suffixes follow


def natural_key(name: str) -> list[tuple[str, int]]:
    """Sorting key that reads digits as numbers.

    Example:
        >>> sorted(["frame_10", "frame_9"], key=natural_key)
        ['frame_9', 'frame_10']
    """
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def tree_parts(path: str) -> tuple[str, ...]:
    """The last three components of a path, without what would leave the output folder.

    Example:
        >>> tree_parts("/data/bottle/test/../test/broken/000.png")
        ('test', 'broken', '000.png')
    """
    given = Path(os.path.normpath(path))
    return tuple(part for part in given.parts if part not in (given.anchor, os.pardir))[-3:]


def require_file_name(path: str) -> None:
    """Check that an ``image_path`` names a file, not a folder such as ``..``: output files are called after it.

    Raises:
        ConfigError: it names none.
    """
    if os.path.basename(os.path.normpath(path)) in ("", os.curdir, os.pardir) or "\0" in path:
        raise ConfigError(
            f"image_path must name a file; got {path!r}. Give every image or video its own path in the loader."
        )


def short_parts(name: Path) -> Path:
    """The name with every part that is too long for a file system, once suffixes come to it, cut and told apart by a checksum.

    Example:
        >>> str(short_parts(Path("a", "b" * 300))) == "a/" + "b" * 191 + "-369820e6"
        True
    """
    return Path(*map(_short, name.parts))


def _short(part: str) -> str:
    whole = os.fsencode(part)
    if len(whole) <= LONGEST_PART:
        return part
    # A character that is cut in two is left out.
    return f"{whole[: LONGEST_PART - 9].decode(errors='ignore')}-{zlib.crc32(whole):08x}"


def free_name(name: Path, used: set[str]) -> Path:
    """A name that is not taken in any case of letters: ``name``, or the first free one of ``name-2``, ``name-3`` and so on.

    Args:
        name: The name wished for; parts that are too long are cut.
        used: Names taken so far, case-folded; the new one is added.
    """
    name = short_parts(name)
    again = (name.with_name(f"{name.name}-{time}") for time in itertools.count(2))
    free = next(each for each in itertools.chain([name], again) if str(each).casefold() not in used)
    used.add(str(free).casefold())
    return free


class MirroredNames:
    """One file name for each image of a stage; no two images get names that differ in case or suffix alone.

    With a path: the path below ``root``, or its last three components where it does not lie there, with the suffix
    ``.png``; a name that is taken gets ``-2``, ``-3`` and so on. Without: ``image_000123.png``, numbered in the order of
    the data set, of which process ``rank`` sees every ``world``-th image.

    Several processes cannot see each other's names, so there the name of a path ends in a checksum of the whole path.

    Args:
        root: Root of the input tree; None if there is none.
        rank: Number of this process.
        world: How many processes share the images.
    """

    def __init__(self, root: str | Path | None = None, *, rank: int = 0, world: int = 1) -> None:
        self._root = None if root is None else Path(os.path.abspath(root))
        self._rank, self._world = rank, world
        self._count = 0
        self._used: set[str] = set()

    def next(self, path: str | None) -> Path:
        """The name of the next image, relative to the output folder."""
        number = self._rank + self._count * self._world
        self._count += 1
        name = self._mirrored(path) if path else Path(f"image_{number:06d}")
        free = free_name(name, self._used)
        return free.with_name(f"{free.name}.png")

    def skip(self) -> None:
        """Count an image that gets no name."""
        self._count += 1

    def _mirrored(self, path: str) -> Path:
        require_file_name(path)
        whole = Path(os.path.abspath(path))
        if self._root is not None and whole.is_relative_to(self._root):
            parts = whole.relative_to(self._root).parts
        else:
            parts = tree_parts(path)
        checksum = f"-{zlib.crc32(os.fsencode(whole)):08x}" if self._world > 1 else ""
        return Path(*parts[:-1], Path(parts[-1]).stem + checksum)

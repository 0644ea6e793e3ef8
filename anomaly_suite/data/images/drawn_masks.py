"""Masks as polygons in files of annotation tools: which annotation belongs to which image."""

from __future__ import annotations

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io.coco import CocoPicture, coco_pictures, is_coco
from anomaly_suite.io.folders import image_files, is_junk, pair_names, same_name
from anomaly_suite.io.labelme import is_labelme, labelme_drawing
from anomaly_suite.io.polygons import Drawing
from anomaly_suite.io.rows import read_text


class Drawn(NamedTuple):
    """What is drawn in an image, and the file that says it."""

    file: Path
    drawing: Drawing


class Annotations:
    """Annotation files, each read once.

    Args:
        normal: Images that are labelled normal, in which nothing may be marked.
    """

    def __init__(self, normal: Iterable[Path] = ()) -> None:
        self.normal = {_spelt(path): path for path in normal}
        self._read: dict[Path, Drawing | list[CocoPicture]] = {}

    def content(self, file: Path) -> Drawing | list[CocoPicture]:
        """A LabelMe file as its drawing, a COCO file as its pictures.

        Raises:
            DatasetError: no JSON, or of neither kind.
        """
        if file not in self._read:
            content = _json(file)
            if is_labelme(content):
                self._read[file] = labelme_drawing(content, file)
            elif is_coco(content):
                self._read[file] = coco_pictures(content, file)
            else:
                raise DatasetError(
                    f"'{file}' is neither a LabelMe file (with shapes) nor a COCO file (with images and annotations). Export one of these, or "
                    "give masks as images."
                )
        return self._read[file]

    def of_image(self, file: Path, image: Path) -> Drawn | None:
        """What a file that is listed for one image says of it; None where nothing is drawn.

        Args:
            file: LabelMe, or COCO, which must list the image.
            image: The image.

        Raises:
            DatasetError: it cannot be read, or does not list the image.
        """
        content = self.content(file)
        if isinstance(content, Drawing):
            return Drawn(file, content) if content.marks else None
        found = _match(content, {_spelt(image): image}, file)
        if not found:
            raise DatasetError(
                f"'{file}' lists no image named '{image.name}'. Correct its file_name, or take the mask out of the row."
            )
        return Drawn(file, found[image].drawing) if found[image].drawing.marks else None

    def of_folder(self, where: Path, names: Mapping[Path, Sequence[str]]) -> dict[Path, Drawn]:
        """What the annotation files in a folder, or one file, say of images.

        Args:
            where: The folder or file.
            names: For every image the names that its LabelMe file may have, see :func:`~anomaly_suite.io.folders.pair_masks`.

        Raises:
            DatasetError: a file that cannot be read, an annotation that fits no image or several, a normal image in which something is marked,
                or nothing is drawn at all.
        """
        files = annotation_files(where)
        labelme = [file for file in files if isinstance(self.content(file), Drawing)]
        found: dict[Path, Drawn] = {}
        drawn = [file for file in labelme if self._labelme(file).marks]
        for image, file in pair_names(drawn, where, names).items():
            found[image] = Drawn(file, self._labelme(file))
        for file in files:
            content = self.content(file)
            if isinstance(content, Drawing):
                continue
            for image, picture in self._of_coco(content, file, names).items():
                if image in found:
                    raise DatasetError(
                        f"'{found[image].file}' and '{file}' both annotate '{image}'. Take it out of one of the two."
                    )
                found[image] = Drawn(file, picture.drawing)
        if not found:
            raise DatasetError(
                f"'{where}' marks nothing in any of {len(names)} anomalous images. Annotate them, or leave mask_dir out."
            )
        return found

    def _labelme(self, file: Path) -> Drawing:
        content = self.content(file)
        if not isinstance(content, Drawing):
            raise TypeError(f"expected a drawing; got {type(content).__name__}. Ask of_folder.")
        return content

    def _of_coco(self, pictures: list[CocoPicture], file: Path, images: Collection[Path]) -> dict[Path, CocoPicture]:
        marked = [picture for picture in pictures if picture.drawing.marks]
        every = {**self.normal, **{_spelt(path): path for path in images}}
        found = _match(marked, every, file, second=self.normal)
        taken = {picture.name for picture in found.values()}
        left = [picture for picture in marked if picture.name not in taken]
        wrong = [image for image in found if image not in images]
        if wrong:
            raise DatasetError(
                f"'{file}' marks {len(found[wrong[0]].drawing.shapes)} objects in '{wrong[0]}' ({len(wrong)} such images), which is labelled "
                "normal. Correct the label, or take the annotation away."
            )
        if found and left:
            warnings.warn(
                f"{len(left)} annotated images of '{file}' are not among the {len(images)} anomalous images, first {left[0].name!r}: they are "
                "left out. Complete the data set, or take them out of the file.",
                stacklevel=4,
            )
        return found


def annotation_files(where: Path) -> list[Path]:
    """JSON files in a folder and below that are annotations, or the one file; none in a folder of masks.

    Raises:
        DatasetNotFoundError: a file that does not exist.
        DatasetError: a file that is no JSON.
    """
    if where.suffix.lower() == ".json" and not where.is_dir():
        if not where.is_file():
            raise DatasetNotFoundError(
                f"Folder expects annotations at '{where}', which does not exist. Correct mask_dir."
            )
        return [where]
    files = sorted(path for path in where.rglob("*") if path.suffix.lower() == ".json" and not is_junk(path.name))
    return [file for file in files if is_labelme(content := _json(file)) or is_coco(content)]


def holds_masks(where: Path, images: Iterable[Path]) -> Path | None:
    """An image in a folder that is none of the data set, so that it could be a mask; None where there is none.

    Args:
        where: The folder.
        images: Those of the data set.
    """
    known = {_spelt(path) for path in images}
    return next((path for path in image_files(where) if _spelt(path) not in known), None)


def _json(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except ValueError as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"'{file}' is no JSON ({error}). Export the annotations again.") from error


def _spelt(path: Path) -> str:
    return same_name(path.absolute().as_posix())


def _match(
    pictures: Sequence[CocoPicture], images: Mapping[str, Path], file: Path, second: Collection[str] = ()
) -> dict[Path, CocoPicture]:
    """Images by the pictures that a COCO file names: of those of its name the one with which it shares the most folders.

    The folder must be the same, too, where the file names it and has other pictures of that name.

    Args:
        pictures: Of the file.
        images: By their paths as they are compared.
        file: For messages.
        second: Those that are meant only where no other fits as well.

    Raises:
        DatasetError: a name that fits several images, or an image that several names fit.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for spelt in images:
        by_name[spelt.rpartition("/")[2]].append(spelt)
    names = [same_name(picture.name) for picture in pictures]
    count = Counter(name.rpartition("/")[2] for name in names)
    found: dict[Path, CocoPicture] = {}
    for picture, name in zip(pictures, names, strict=True):
        last = name.rpartition("/")[2]
        least = 2 if "/" in name and count[last] > 1 else 1
        rank = {spelt: (_shared(spelt, name), spelt not in second) for spelt in by_name.get(last, ())}
        best = [images[spelt] for spelt, each in rank.items() if each == max(rank.values()) and each[0] >= least]
        if len(best) > 1:
            raise DatasetError(
                f"{picture.name!r} in '{file}' fits both '{best[0]}' and '{best[1]}'. Write the image's folder into file_name."
            )
        if best and best[0] in found:
            raise DatasetError(
                f"'{file}' lists '{best[0]}' twice, as {found[best[0]].name!r} and as {picture.name!r}. List every image once, its folder in "
                "file_name."
            )
        if best:
            found[best[0]] = picture
    return found


def _shared(path: str, name: str) -> int:
    """How many parts at their ends two paths have in common."""
    count = 0
    for one, other in zip(reversed(path.split("/")), reversed(name.split("/")), strict=False):
        if one != other:
            break
        count += 1
    return count

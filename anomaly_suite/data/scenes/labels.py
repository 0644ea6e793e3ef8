"""Label images of driving scenes: their numbers, read as they are stored, and what these mean.

Numbers in label files differ between data sets. A table of 256 entries maps them to training classes (``target``) or to
normal, anomalous and not scored (``ood_mask``), so nothing beyond this folder knows them. Axes: H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from anomaly_suite.contract import VOID
from anomaly_suite.data.transforms import Pixels
from anomaly_suite.errors import DatasetError
from anomaly_suite.io.image_headers import mark_of, opened, turned_upright
from anomaly_suite.io.images import check_file

LabelTable = npt.NDArray[np.int16]


def label_table(known: Mapping[int, int], *, void: Iterable[int] = ()) -> LabelTable:
    """What the numbers of a label file mean: 256 entries, -1 for numbers that must not occur.

    Args:
        known: New value of each number.
        void: Numbers that become 255; 255 itself does in any case.

    Returns:
        Shape (256,).

    Example:
        >>> label_table({7: 0}, void=[3])[[7, 3, 255, 8]].tolist()
        [0, 255, 255, -1]
    """
    table = np.full(256, -1, np.int16)
    table[[*void, VOID]] = VOID
    table[list(known)] = list(known.values())
    return table


def relabel(label: Pixels, table: LabelTable, *, source: str) -> Pixels:
    """Map the numbers of a label image.

    Args:
        label: Shape (H, W).
        table: See :func:`label_table`.
        source: Whose numbers they are, for the message.

    Returns:
        Shape (H, W).

    Raises:
        DatasetError: a number that the data set does not have: the file is damaged or of another kind.
    """
    found = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
    foreign = found[table[found] < 0]
    if len(foreign):
        raise DatasetError(
            f"the label of '{source}' holds {foreign[0]}, which is no label of this data set ({len(foreign)} such values). "
            "Check that the files are the ones named in the documentation, not colours, instances or other ids."
        )
    mapped: Pixels = cv2.LUT(label, table.astype(np.uint8))
    return mapped


def read_label(path: Path) -> Pixels:
    """Read label numbers as they are stored: palette indices are not turned into colours, 16 bits not into 8.

    Returns:
        Shape (H, W).

    Raises:
        DatasetError: colours, or numbers above 255.
        ImageReadError: it cannot be read.
    """
    check_file(path)
    mark = mark_of(path)
    with opened(path) as file:  # OpenCV turns palette indices into colours
        mode, values = file.mode, np.asarray(file)
        if file.format != "TIFF":  # Pillow has turned those
            values = turned_upright(values, mark)
    if values.ndim != 2 or values.dtype == np.bool_:
        raise DatasetError(
            f"'{path}' must hold one number per pixel; its mode is {mode}. Give the label file, not its coloured version."
        )
    if values.max(initial=0) > VOID:
        raise DatasetError(
            f"'{path}' holds numbers up to {values.max()}; labels end at {VOID}. Give the label file, not that of instances."
        )
    return values.astype(np.uint8)

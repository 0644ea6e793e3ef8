"""One image file of a data set, and what such a data set consists of. Axes: H and W pixels."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from anomaly_suite.data.transforms import Pixels
from anomaly_suite.errors import DatasetError
from anomaly_suite.io.image_headers import Exif, read_header
from anomaly_suite.io.images import MaskRule, check_mask_size, image_size, read_mask
from anomaly_suite.io.polygons import Drawing


class Item(NamedTuple):
    """One image file; ``category`` is given where a data set has several, ``defect`` for anomalous images.

    ``rule`` says how the mask is read; ``group`` is the number of the image's group for localisation, 0 for none. ``drawing`` is what the mask
    is drawn from, where ``mask`` is no image but a file of annotations.
    """

    path: Path
    label: int = 0
    mask: Path | None = None
    category: str = ""
    defect: str = ""
    rule: MaskRule = "auto"
    group: int = 0
    drawing: Drawing | None = None

    def check_mask(self, exif: Exif) -> int:
        """Check that the mask is as large as the image, or was drawn on such a picture.

        Returns:
            The image's rotation mark (EXIF), 1 where it is stored upright.
        """
        if self.mask is None or self.drawing is None:
            return 1 if self.mask is None else check_mask_size(self.path, self.mask, exif=exif)
        header = read_header(self.path)
        self.drawing.require_size(self.path, header.size(exif), header.size("ignore" if exif == "apply" else "apply"))
        return header.mark

    def read_mask(self, size: tuple[int, int] | None, exif: Exif) -> Pixels | None:
        """The mask as 0 and 1, shape (H, W); None where there is none.

        Args:
            size: Height and width of the decoded image; None reads them from its header.
            exif: See :func:`~anomaly_suite.io.images.read_image`.

        Raises:
            DatasetError: the mask of a normal image marks pixels, or what it is drawn from does not fit.
        """
        if self.mask is None:
            return None
        if self.drawing is None:
            return read_mask(self.mask, anomalous=bool(self.label), exif=exif, rule=self.rule, size=size)
        if self.drawing.marks and not self.label:
            raise DatasetError(
                f"{self.drawing.source} marks {len(self.drawing.shapes)} objects, but the image '{self.path}' is labelled normal. Correct the "
                "label, or take the mask away."
            )
        return self.drawing.mask(size or image_size(self.path, exif=exif)).view(np.uint8)


class Found(NamedTuple):
    """What a data set consists of: training normals, images that it sets apart for validation, test images."""

    train: list[Item]
    val: list[Item]
    test: list[Item]

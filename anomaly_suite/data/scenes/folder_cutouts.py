"""Outlier objects from a folder of images with masks, or of RGBA images. Axes: H and W pixels."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np

from anomaly_suite.data.scenes.anomaly_mix import Cutout
from anomaly_suite.errors import DatasetError
from anomaly_suite.io.folders import pair_masks, require_images
from anomaly_suite.io.image_headers import UPRIGHT, mark_of, opened, turned_upright
from anomaly_suite.io.images import check_file, read_image, read_mask

log = logging.getLogger(__name__)


class FolderCutouts:
    """Images with a mask each, or RGBA images whose opaque half is the object.

    In masks every connected region counts as one object.

    Args:
        images: Folder of the images, RGBA if there are no masks.
        masks: Folder of masks with the same names (a mask may end in ``_mask``); images without a mask are left out.

    Raises:
        DatasetNotFoundError: a folder is missing or empty.
        DatasetError: a mask has no image.
    """

    def __init__(self, images: Path, masks: Path | None) -> None:
        self.files = require_images(images, dataset="outliers")
        self.masks: list[Path] = []
        if masks is not None:
            require_images(masks, dataset="outliers")
            stems = {file: file.relative_to(images).with_suffix("").as_posix() for file in self.files}
            pairs = pair_masks(masks, {file: [stem, f"{stem}_mask"] for file, stem in stems.items()})
            self.files, self.masks = list(pairs), list(pairs.values())
        log.info("outliers: %d images of '%s'", len(self), images)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Cutout:
        """Read one image and its objects.

        Raises:
            DatasetError: a mask of another size than its image, or an image without transparency.
            ImageReadError: a file cannot be read.
        """
        if not self.masks:
            return _read_rgba(self.files[index])
        image = read_image(self.files[index])
        mask = read_mask(self.masks[index], anomalous=None)
        if mask.shape != image.shape[:2]:
            raise DatasetError(
                f"mask '{self.masks[index]}' is {mask.shape}, but '{self.files[index]}' is {image.shape[:2]} (H, W). "
                "Give every mask the size of its image."
            )
        return Cutout(image, cv2.connectedComponents(mask)[1])


def _read_rgba(path: Path) -> Cutout:
    check_file(path)
    mark = mark_of(path)
    with opened(path) as file:  # OpenCV turns a palette with transparency into RGB
        if not file.has_transparency_data:
            raise DatasetError(
                f"'{path}' has no transparency to cut its object out. Give RGBA images, or folders 'images' and 'masks'."
            )
        pixels = turned_upright(np.asarray(file.convert("RGBA")), UPRIGHT if file.format == "TIFF" else mark)
    return Cutout(np.ascontiguousarray(pixels[..., :3]), (pixels[..., 3] >= 128).astype(np.int32))

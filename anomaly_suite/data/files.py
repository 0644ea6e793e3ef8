"""Old place of :mod:`anomaly_suite.io.images` and :mod:`anomaly_suite.io.folders`."""

from anomaly_suite.io.folders import (
    check_leaks,
    data_root,
    find_root,
    image_files,
    is_junk,
    pair_masks,
    require_files,
    require_images,
    subfolders,
)
from anomaly_suite.io.images import IMAGE_SUFFIXES, check_file, check_mask_size, image_size, read_image, read_mask

__all__ = [
    "IMAGE_SUFFIXES",
    "check_file",
    "check_leaks",
    "check_mask_size",
    "data_root",
    "find_root",
    "image_files",
    "image_size",
    "is_junk",
    "pair_masks",
    "read_image",
    "read_mask",
    "require_files",
    "require_images",
    "subfolders",
]

"""AnomalyMix: paste an outlier object into a driving scene, label and all.

Source: Tian et al., "Pixel-wise Energy-biased Abstention Learning for Anomaly Segmentation on Complex Urban Driving Scenes",
ECCV 2022, section 3. Axes: H and W pixels of the scene, h and w of the cut-out.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from anomaly_suite.contract import OUTLIER
from anomaly_suite.data.transforms import Pixels
from anomaly_suite.io.images import area_or_linear


class Cutout(NamedTuple):
    """An image with outlier objects: RGB pixels (h, w, 3) and the number of the object at each (h, w), 0 for none."""

    image: Pixels
    instance: npt.NDArray[np.int32]


def anomaly_mix(
    image: Pixels,
    target: Pixels,
    cutout: Cutout,
    *,
    rng: np.random.Generator,
    single: bool = False,
    rescale: tuple[float, float] | None = None,
    road: int | None = None,
) -> tuple[Pixels, Pixels]:
    """Paste the objects of a cut-out, in their positions to one another, at a uniformly random place of a scene.

    The box around the objects lies wholly inside the scene, in the sky as well as on the road; its pixels have a hard edge,
    and void is overwritten too. Objects larger than the scene are shrunk to fit. Without any object nothing is pasted.

    Args:
        image: RGB, shape (H, W, 3).
        target: Class of every pixel, shape (H, W).
        cutout: The objects.
        rng: Source of all draws.
        single: Paste one object alone, drawn uniformly.
        rescale: Smallest and largest factor by which the objects are resized; None keeps their size.
        road: Class on which the middle of the box's lower edge has to stand; nothing is pasted where that is nowhere
            possible. None allows every place.

    Returns:
        Copies of image and target, 254 in the target where an object was pasted.
    """
    image, target = image.copy(), target.copy()
    patch, mask = _cut(cutout, rng, single=single)
    if not mask.size:
        return image, target
    factor = 1.0 if rescale is None else rng.uniform(*rescale)
    factor = min(factor, image.shape[0] / mask.shape[0], image.shape[1] / mask.shape[1])
    if factor != 1:
        size = max(1, round(factor * mask.shape[0])), max(1, round(factor * mask.shape[1]))
        how = area_or_linear((mask.shape[0], mask.shape[1]), size)
        patch = cv2.resize(patch, size[::-1], interpolation=how)
        mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    height, width = mask.shape
    places = (image.shape[0] - height + 1, image.shape[1] - width + 1)
    if road is None:
        top, left = (int(rng.integers(count)) for count in places)
    else:
        foot = target[height - 1 :, width // 2 :][: places[0], : places[1]]  # of the box at every place
        allowed = np.flatnonzero(foot == road)
        if not len(allowed):
            return image, target
        top, left = divmod(int(rng.choice(allowed)), places[1])
    window = np.s_[top : top + height, left : left + width]
    image[window][mask > 0] = patch[mask > 0]
    target[window][mask > 0] = OUTLIER
    return image, target


def _cut(cutout: Cutout, rng: np.random.Generator, *, single: bool) -> tuple[Pixels, Pixels]:
    """The box around the objects: pixels, and 1 where an object is; empty if there is none."""
    mask = cutout.instance > 0
    if single and mask.any():
        mask = cutout.instance == rng.choice(np.unique(cutout.instance[mask]))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return cutout.image[:0, :0], mask[:0, :0].view(np.uint8)
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return cutout.image[box], np.ascontiguousarray(mask[box]).view(np.uint8)

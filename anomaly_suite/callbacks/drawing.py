"""Drawing: tensors as pictures, tiles side by side, masks as outlines.

Pictures are uint8 arrays (H, W, 3), blue first, as cv2 has them.
"""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor

from anomaly_suite.errors import ConfigError, did_you_mean

Picture = npt.NDArray[np.uint8]

TINY = float(np.finfo(np.float32).tiny)  # a range of width zero must not divide by zero
GAP = 4  # white pixels between and around the tiles
FONT = cv2.FONT_HERSHEY_SIMPLEX


def color_table(name: str) -> Picture:
    """256 colours, as ``cv2.applyColorMap`` takes them.

    Args:
        name: A colour map of OpenCV or matplotlib.

    Raises:
        ConfigError: there is none of this name.
    """
    prefix = "COLORMAP_"
    own = {key.removeprefix(prefix).lower(): getattr(cv2, key) for key in dir(cv2) if key.startswith(prefix)}
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    if name in own:
        return cast(Picture, cv2.applyColorMap(ramp, own[name]))
    from matplotlib import colormaps

    if name not in colormaps:
        raise ConfigError(
            f"colormap must be a colour map of OpenCV or matplotlib; got {name!r}.{did_you_mean(name, [*own, *colormaps])} "
            "Take for example 'turbo' or 'viridis'."
        )
    return np.ascontiguousarray(colormaps[name](ramp, bytes=True)[..., 2::-1])


def pixels(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor of shape (B, C, H, W) as an array (B, H, W, C)."""
    tensor = tensor.detach().movedim(1, -1)
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()


def displayed(image: npt.NDArray[Any]) -> Picture:
    """Colours from a float image; of two channels the first is shown as grey, of more than three the first three."""
    image = np.nan_to_num(image[..., 2::-1] if image.shape[-1] >= 3 else image[..., :1].repeat(3, -1))
    low, high = image.min(), image.max()
    if low < 0 or high > 1:
        image = (image - low) / max(high - low, TINY)
    return np.ascontiguousarray((image * 255).round().astype(np.uint8))


def enlarged(image: npt.NDArray[Any], factor: int) -> npt.NDArray[Any]:
    """The image with every pixel repeated ``factor`` times in both directions."""
    return cast(npt.NDArray[Any], cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST))


def outlined(image: Picture, mask: npt.NDArray[Any]) -> Picture:
    """The image with a red line on a dark seam, visible on any ground, along the edge of the mask."""
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    width = max(1, image.shape[1] // 256)
    seam = cv2.drawContours(image.copy(), contours, -1, (0, 0, 0), width + 2)
    return cast(Picture, cv2.drawContours(seam, contours, -1, (0, 0, 255), width))


def side_by_side(tiles: dict[str, Picture], caption: str) -> Picture:
    """One row of tiles of one height, each below its title, above a caption."""
    size = max(0.45, 0.5 * tiles["image"].shape[1] / 256)
    columns = [np.vstack([_text(title, tile.shape[1], size), tile]) for title, tile in tiles.items()]
    gap = np.full((len(columns[0]), GAP, 3), 255, np.uint8)
    row = np.hstack([gap, *(part for column in columns for part in (column, gap))])
    return np.vstack([row, _text(caption, row.shape[1], size)])


def _text(text: str, width: int, size: float) -> Picture:
    """A white strip with one centred line, made smaller where it would not fit."""
    thickness = max(1, round(size))
    height = round(48 * size)
    (needed, _), _ = cv2.getTextSize(text, FONT, size, thickness)
    size *= min(1.0, (width - 2 * GAP) / max(needed, 1))
    (needed, tall), _ = cv2.getTextSize(text, FONT, size, thickness)
    strip = np.full((height, width, 3), 255, np.uint8)
    corner = ((width - needed) // 2, (height + tall) // 2)
    return cast(Picture, cv2.putText(strip, text, corner, FONT, size, (40, 40, 40), thickness, cv2.LINE_AA))

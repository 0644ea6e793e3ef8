"""Drawing: tensors as pictures, tiles side by side, masks as outlines.

Pictures are uint8 arrays (H, W, 3), blue first, as cv2 has them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor

from anomaly_suite.errors import ConfigError, did_you_mean

Picture = npt.NDArray[np.uint8]

TINY = float(np.finfo(np.float32).tiny)  # a range of width zero must not divide by zero
MIN_TILE_WIDTH = 128  # smaller images are enlarged by a whole factor, so that titles fit
GAP = 4  # white pixels between and around the tiles
FONT = cv2.FONT_HERSHEY_SIMPLEX
INK = (40, 40, 40)


class ColorBar(NamedTuple):
    """What colours mean: places from 0 to 1 on the scale, and the number that is written at each.

    ``noted`` is the place that a line across the bar marks, with ``note`` behind its number; None for none.
    """

    title: str
    colors: Picture
    marks: list[tuple[float, str]]
    noted: float | None = None
    note: str = ""


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


def png_of(picture: npt.NDArray[Any]) -> bytes:
    """A picture as the content of a PNG file."""
    return bytes(cv2.imencode(".png", picture)[1])


def tile_factor(width: int) -> int:
    """How often the pixels of an image so wide are repeated to be looked at."""
    return -(-MIN_TILE_WIDTH // width)


def enlarged(image: npt.NDArray[Any], factor: int) -> npt.NDArray[Any]:
    """The image with every pixel repeated ``factor`` times in both directions."""
    return cast(npt.NDArray[Any], cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST))


def outlined(image: Picture, mask: npt.NDArray[Any]) -> Picture:
    """The image with a red line on a dark seam, visible on any ground, along the edge of the mask."""
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    width = max(1, image.shape[1] // 256)
    seam = cv2.drawContours(image.copy(), contours, -1, (0, 0, 0), width + 2)
    return cast(Picture, cv2.drawContours(seam, contours, -1, (0, 0, 255), width))


def side_by_side(tiles: dict[str, Picture], caption: str, bar: ColorBar | None = None) -> Picture:
    """One row of tiles of one height, each below its title, above a caption; at its right end what the colours mean."""
    size = _text_size(tiles)
    if bar is not None:
        tiles = {**tiles, bar.title: _drawn(bar, len(tiles["image"]), size)}
    columns = [np.vstack([_text(title, tile.shape[1], size), tile]) for title, tile in tiles.items()]
    gap = np.full((len(columns[0]), GAP, 3), 255, np.uint8)
    row = np.hstack([gap, *(part for column in columns for part in (column, gap))])
    return np.vstack([row, _text(caption, row.shape[1], size)])


def tile_places(tiles: dict[str, Picture]) -> dict[str, tuple[int, int, int, int]]:
    """Where :func:`side_by_side` puts each tile, as left, top, width and height in pixels.

    Args:
        tiles: As there, without the bar.
    """
    left, top = GAP, _strip_height(_text_size(tiles))
    places = {}
    for title, tile in tiles.items():
        places[title] = (left, top, tile.shape[1], tile.shape[0])
        left += tile.shape[1] + GAP
    return places


def _text_size(tiles: dict[str, Picture]) -> float:
    return float(max(0.45, 0.5 * tiles["image"].shape[1] / 256))


def _strip_height(size: float) -> int:
    return round(48 * size)


def _drawn(bar: ColorBar, high: int, size: float) -> Picture:
    """The bar upright, its lowest colour at the bottom, with a line and a number at every mark."""
    wide, line, thickness = round(28 * size), round(8 * size), max(1, round(size))
    shown = [(mark, text + bar.note * (mark == bar.noted)) for mark, text in bar.marks]
    needed = max(
        cv2.getTextSize(text, FONT, 0.8 * size, thickness)[0][0] for text in (bar.title, *dict(shown).values())
    )
    picture = np.full((high, wide + line + needed + 3 * GAP, 3), 255, np.uint8)
    rows = np.linspace(255, 0, high).round().astype(np.uint8)[:, None]
    picture[:, :wide] = cv2.applyColorMap(np.repeat(rows, wide, axis=1), bar.colors)
    for mark, text in shown:
        row = round((1 - mark) * (high - 1))
        start = 0 if mark == bar.noted else wide  # a line through the colours, to be seen
        for color, width in (((255, 255, 255), thickness + 2), (INK, thickness))[start > 0 :]:
            cv2.line(picture, (start, row), (wide + line, row), color, width)
        tall = cv2.getTextSize(text, FONT, 0.8 * size, thickness)[0][1]
        corner = (wide + line + GAP, int(np.clip(row + tall // 2, tall + 1, high - 2)))
        cv2.putText(picture, text, corner, FONT, 0.8 * size, INK, thickness, cv2.LINE_AA)
    return cast(Picture, picture)


def _text(text: str, width: int, size: float) -> Picture:
    """A white strip with one centred line, made smaller where it would not fit."""
    thickness = max(1, round(size))
    height = _strip_height(size)
    (needed, _), _ = cv2.getTextSize(text, FONT, size, thickness)
    size *= min(1.0, (width - 2 * GAP) / max(needed, 1))
    (needed, tall), _ = cv2.getTextSize(text, FONT, size, thickness)
    strip = np.full((height, width, 3), 255, np.uint8)
    corner = ((width - needed) // 2, (height + tall) // 2)
    return cast(Picture, cv2.putText(strip, text, corner, FONT, size, INK, thickness, cv2.LINE_AA))

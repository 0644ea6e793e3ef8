"""Pictures inside a page: decoded, made small, edges of masks as lines, and all of them within a number of bytes.

Axes: H and W pixels.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt

from anomaly_suite.errors import ImageReadError
from anomaly_suite.io.images import area_or_linear, read_image
from anomaly_suite.report.results import Panel

Pixels = npt.NDArray[np.uint8]

LADDER = ((256, 82), (224, 75), (192, 70), (160, 60), (128, 50), (96, 40), (64, 30), (48, 20))
"""Side of a square of as many pixels, and quality; the first with which all pictures fit is taken."""
LINE_POINTS = 2000  # of the edges of one mask; more than that is noise, drawn coarser
RED = (255, 0, 0)


class Shown(NamedTuple):
    """A picture as a page shows it; what there is not is None."""

    image: Pixels
    """Shape (H, W, 3), red first."""
    heat: Pixels | None = None
    """The anomaly map in its colours, of the same size."""
    truth: str | None = None
    """Edges of the true mask as a path of SVG, in shares of 1000 of width and height; empty where it marks nothing."""
    marked: str | None = None
    """The same of the predicted mask."""


def of_panel(panel: Panel) -> Shown:
    """The parts of a panel.

    Raises:
        ImageReadError: it cannot be read.
    """
    whole = read_image(panel.file)

    def tile(name: str) -> Pixels | None:
        left, top, width, height = panel.tiles.get(name, (0, 0, 0, 0))
        return whole[top : top + height, left : left + width] if width else None

    image, truth, marked = tile("image"), tile("truth mask"), tile("predicted mask")
    if image is None:
        raise ImageReadError(f"'{panel.file}' has no tile of the image. Test the run anew.")
    edges = None if truth is None else _edges((truth[..., 0] > 127).astype(np.uint8))
    # The outline is drawn in pure red on the image, so where the two differ in pure red there is the line.
    drawn = None if marked is None else ((marked == RED).all(-1) & (image != marked).any(-1)).astype(np.uint8)
    return Shown(image, tile("anomaly map"), edges, None if drawn is None else _edges(drawn))


def of_file(path: Path) -> Shown:
    """The image alone.

    Raises:
        ImageReadError: it cannot be read.
    """
    return Shown(shrunk(read_image(path), LADDER[0][0]))


def _edges(mask: Pixels) -> str:
    """Outer edges of all regions of a mask of 0 and 1 as a path of SVG."""
    found, levels = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer = [line for line, level in zip(found, levels[0] if levels is not None else (), strict=True) if level[3] < 0]
    if sum(map(len, outer)) > LINE_POINTS:
        outer = sorted((cv2.approxPolyDP(line, 1.5, True) for line in outer), key=len, reverse=True)
        outer = outer[: int(np.searchsorted(np.cumsum([len(line) for line in outer]), LINE_POINTS))]
    size = np.array(mask.shape[1::-1])
    parts = []
    for line in outer:
        points = ((line[:, 0] + 0.5) * 1000 / size).round().astype(int).tolist()
        parts.append("M" + "L".join(f"{x} {y}" for x, y in points) + "Z")
    return "".join(parts)


def shrunk(image: Pixels, side: int) -> Pixels:
    """The image with at most as many pixels as a square of ``side``; smaller ones stay as they are."""
    high, wide = image.shape[:2]
    share = side / (high * wide) ** 0.5
    if share >= 1:
        return image
    after = max(1, round(high * share)), max(1, round(wide * share))
    return cast(Pixels, cv2.resize(image, after[::-1], interpolation=area_or_linear((high, wide), after)))


def data_uri(image: Pixels, quality: int) -> str:
    """A picture, red first, as a WebP file inside an address."""
    done, content = cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])
    kind = "webp"
    if not done:  # a build of OpenCV without WebP
        content, kind = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1], "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(content.tobytes()).decode()


def encoded(pictures: Sequence[Shown], budget: int) -> list[dict[str, Any]]:
    """Pictures as plain values: ``image`` and ``heat`` as addresses, ``truth`` and ``marked`` as paths, width and height.

    Args:
        pictures: All of a page.
        budget: Characters that they may take together; they are made smaller and coarser until they do.
    """
    found: list[dict[str, Any]] = []
    for side, quality in LADDER:
        found, left = [], budget
        for shown in pictures:
            found.append(_encoded(shown, side, quality))
            left -= sum(len(value) for value in found[-1].values() if isinstance(value, str))
            if left < 0:
                break
        else:
            return found
    return [_encoded(shown, *LADDER[-1]) for shown in pictures]


def _encoded(shown: Shown, side: int, quality: int) -> dict[str, Any]:
    image = shrunk(shown.image, side)
    parts: dict[str, Any] = {"w": image.shape[1], "h": image.shape[0], "image": data_uri(image, quality)}
    if shown.heat is not None:
        parts["heat"] = data_uri(shrunk(shown.heat, side // 2), quality)
    return parts | {name: path for name in ("truth", "marked") if (path := getattr(shown, name)) is not None}

"""Pictures as programs hold them: paths, arrays, PIL pictures, tensors, and lists of these. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anomaly_suite.errors import ShapeError
from anomaly_suite.io.pictures import Picture, Pixels, find_pictures


class Given(NamedTuple):
    """One picture: where it is, or its pixels (H, W, C), C being 1 for grey and 3 for RGB."""

    name: str
    picture: Picture | None = None
    pixels: Pixels | None = None


def pictures_of(inputs: Any) -> Iterator[Given]:
    """Every picture of what a caller gives, in its order.

    Args:
        inputs: A path, a folder, a pattern, a video or a list file, see :func:`~anomaly_suite.io.pictures.find_pictures`; a PIL picture;
            an array (H, W) or (H, W, C); a tensor (C, H, W) or (B, C, H, W); or a list, tuple or iterator of these. Arrays and tensors
            hold 8 bits, or floats from 0 to 1; C is 1, 3 or 4, of which the last, alpha, is dropped.

    Raises:
        ShapeError: an array that is no picture, or of another type.
        DatasetNotFoundError: there is no such file.
        DatasetError: a file of another kind.
    """
    yield from _walk(inputs, "picture")


def _walk(given: Any, name: str) -> Iterator[Given]:
    if isinstance(given, str | os.PathLike):
        for picture in find_pictures([os.fspath(given)]):
            yield Given(picture.name, picture)
    elif isinstance(given, np.ndarray):
        yield Given(name, pixels=as_pixels(given, name))
    elif hasattr(given, "detach"):  # a tensor, whose channels come first
        yield from _tensor(given.detach().cpu().numpy(), name)
    elif hasattr(given, "convert"):  # a PIL picture, of whatever mode
        mode = "L" if given.mode in ("1", "L", "LA") else "RGB"
        yield Given(getattr(given, "filename", "") or name, pixels=as_pixels(np.asarray(given.convert(mode)), name))
    elif isinstance(given, Iterable) and not isinstance(given, dict | bytes):
        for number, each in enumerate(given):
            yield from _walk(each, f"{name} {number}")
    else:
        raise ShapeError(
            f"a picture must be a path, an array (H, W, C), a tensor (C, H, W), a PIL picture or a list of these; got {type(given).__name__}. "
            "Give one of them."
        )


def _tensor(values: npt.NDArray[Any], name: str) -> Iterator[Given]:
    if values.ndim not in (3, 4):
        raise ShapeError(
            f"a tensor must be (C, H, W) or (B, C, H, W); {name} is {values.shape}. Add or take away axes."
        )
    if values.ndim == 3:
        yield Given(name, pixels=as_pixels(values.transpose(1, 2, 0), name))
        return
    for number, each in enumerate(values):
        yield Given(f"{name} {number}", pixels=as_pixels(each.transpose(1, 2, 0), f"{name} {number}"))


def as_pixels(values: npt.NDArray[Any], name: str) -> Pixels:
    """An array as 8-bit pixels (H, W, C), C being 1 or 3.

    Args:
        values: Shape (H, W) or (H, W, C), uint8, or floats from 0 to 1.
        name: What it is, for messages.

    Raises:
        ShapeError: another shape, type or range.
    """
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or 0 in values.shape:
        raise ShapeError(
            f"a picture must be (H, W) or (H, W, C) with 1, 3 or 4 channels; {name} is {values.shape}. "
            "Give tensors with the channels first, arrays with the channels last."
        )
    values = values[..., :3] if values.shape[2] == 4 else values
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if not np.issubdtype(values.dtype, np.floating):
        raise ShapeError(
            f"a picture must hold uint8, or floats from 0 to 1; {name} holds {values.dtype}. Scale it to 8 bits."
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise ShapeError(
            f"a picture of floats must lie in [0, 1]; {name} reaches from {low:.4g} to {high:.4g}. Divide by its largest value, and do not standardise: "
            "methods normalise their own input."
        )
    return np.ascontiguousarray(np.rint(values * 255).astype(np.uint8))

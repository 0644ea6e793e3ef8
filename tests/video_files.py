"""Small videos written by tests: noise, as folders of frames or video files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def frames(count: int, seed: int = 0, size: tuple[int, int] = (24, 32)) -> Pixels:
    """Noise of (count, H, W, 3), RGB, brighter from frame to frame."""
    noise = np.random.default_rng(seed).integers(0, 100, (count, *size, 3))
    return (noise + np.linspace(0, 150, count).astype(int)[:, None, None, None]).astype(np.uint8)


def write_folder(folder: Path, images: Pixels, pattern: str = "{}.png") -> Path:
    """Write frames (count, H, W, 3), RGB, as images numbered from 1."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images, 1):
        cv2.imwrite(str(folder / pattern.format(number)), image[..., ::-1])
    return folder


def write_video(path: Path, images: Pixels, codec: str = "FFV1") -> Path:
    """Write frames (count, H, W, 3), RGB, as a video; without loss unless another codec is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = images.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25, (width, height))
    assert writer.isOpened()
    for image in images:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    return path

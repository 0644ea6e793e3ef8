"""Small sets of real images for ``encoders.py``: what is taken of each, written as PNG files with an index.

* ``chest_xray``: 350 normal X-rays for training; 149 normal ones, 150 of 500 with pneumonia and 124 with COVID-19 for testing.
  ``test/normal/00002658_001.jpg`` is left out: it is the training image ``00002658_002.jpg``.
* ``hyper_kvasir``: the sample has 60 polyp images and nine images of normal mucosa, too few of these. So windows of a quarter of the frame's
  area are taken: of 30 polyp images those without a polyp, and of the nine, for training; of the 30 others those
  without a polyp (normal) and those that a polyp fills by half or more (anomalous) for testing, with masks.
* ``magnetic_tile``: 350 of 752 normal tiles for training; 150 of 200 normal and 227 of 392 defective ones (up to 50 a kind), with masks,
  for testing.
* ``mnist``: digit 3, of which 350 training images, 150 test images and 250 test images of other digits are drawn.

What is fewer than there is was drawn by a fixed seed, for time.

The files' own size and brightness go into columns of the index: a baseline needs them, and the PNG files are all of one size.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from anomaly_suite.data import MNIST
from anomaly_suite.data.images.hyper_kvasir import FRAME

DUPLICATE = "test/normal/00002658_001.jpg"
DIGIT = 3
WINDOWS, STEP = 10, 1 / 8  # of an image at most, and from one to the next as a share of the frame
FULL = 0.5  # of a window that a polyp fills
DARK = 16  # of 255; windows with black corners are left out
MOST = {
    ("chest_xray", "test", "pneumonia"): 150,
    ("magnetic_tile", "train", ""): 350,
    ("magnetic_tile", "test", ""): 150,
    ("mnist", "train", ""): 350,
    ("mnist", "test", ""): 150,
    ("mnist", "test", "other"): 250,
} | {("magnetic_tile", "test", kind): 50 for kind in ("blowhole", "break", "crack", "fray", "uneven")}
"""Images that are taken where there are more, by set, part and kind."""
COLUMNS = ("mean", "std", "q05", "q50", "q95", "height", "width")


class Picture(NamedTuple):
    """An image of a set before it is resized."""

    split: str
    kind: str
    """Empty for a normal image."""
    image: Image.Image
    mask: Image.Image | None = None


class ImageList(NamedTuple):
    """A set, its size in pixels, and whether it has colours."""

    pictures: Callable[[Path], Iterator[Picture]]
    size: int
    colour: bool


class Statistics(NamedTuple):
    """Brightness and size of the images of a split, (N, 7), with their labels and kinds, (N,)."""

    value: np.ndarray[Any, Any]
    label: np.ndarray[Any, Any]
    kind: np.ndarray[Any, Any]


def chest_xray(root: Path) -> Iterator[Picture]:
    """X-rays but for the one that is in both parts."""
    folder = root / "chest_xray"
    files = [file for file in sorted(folder.glob("*/*/*")) if file.relative_to(folder).as_posix() != DUPLICATE]
    for file in _some("chest_xray", files):
        split, kind = file.parts[-3:-1]
        yield Picture(split, "" if kind == "normal" else kind, Image.open(file).convert("RGB"))


def magnetic_tile(root: Path) -> Iterator[Picture]:
    """Tiles in MVTec AD's layout."""
    folder = root / "magnetic_tile" / "tile"
    for file in _some("magnetic_tile", sorted([*folder.glob("train/*/*"), *folder.glob("test/*/*")])):
        split, kind = file.parts[-3:-1]
        mask = folder / "ground_truth" / kind / f"{file.stem}_mask.png"
        yield Picture(
            split, "" if kind == "good" else kind, Image.open(file).convert("RGB"),
            Image.open(mask).convert("L") if kind != "good" else None,
        )  # fmt: skip


def mnist(root: Path) -> Iterator[Picture]:
    """Some digits, drawn by a fixed seed."""
    generator = np.random.default_rng(0)
    data = MNIST(root=str(root / "mnist"), normal_class=DIGIT, image_size=28, validation="none", train_batch_size=1000)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    loaders = {"train": data.train_dataloader(), "test": data.test_dataloader()}
    for split, kind in (("train", ""), ("test", ""), ("test", "other")):
        found = [batch["image"][batch["label"] == bool(kind)].numpy() for batch in loaders[split]]
        image = np.concatenate(found)
        for number in sorted(generator.permutation(len(image))[: MOST["mnist", split, kind]]):
            grey = Image.fromarray((image[number, 0] * 255).round().astype(np.uint8))
            yield Picture(split, kind, grey.convert("RGB"))


def hyper_kvasir(root: Path) -> Iterator[Picture]:
    """Windows of colonoscopy images, of an image all in one part."""
    folder = root / "hyper_kvasir_sample"
    files = sorted((folder / "segmented-images" / "images").glob("*"))
    order = np.random.default_rng(0).permutation(len(files))
    for place, number in enumerate(order):
        mask = Image.open(folder / "segmented-images" / "masks" / files[number].name).convert("L")
        yield from _windows(
            "train" if place < len(order) // 2 else "test", Image.open(files[number]).convert("RGB"), mask
        )
    for file in sorted((folder / "labeled-images").rglob("*.jpg")):
        image = Image.open(file).convert("RGB")
        yield from _windows("train", image, Image.new("L", image.size))


def _some(name: str, files: list[Path]) -> list[Path]:
    """As many files of each part and kind as ``MOST`` says."""
    generator = np.random.default_rng(0)
    groups: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        groups.setdefault(file.parts[-3:-1], []).append(file)  # type: ignore[arg-type] # two parts
    chosen = []
    for (split, kind), group in groups.items():
        most = MOST.get((name, split, "" if kind in ("good", "normal") else kind), len(group))
        chosen += [group[number] for number in sorted(generator.permutation(len(group))[:most])]
    return chosen


def _windows(split: str, image: Image.Image, mask: Image.Image) -> Iterator[Picture]:
    """Some windows without a polyp, and for the test some that one fills by half, drawn by the image's pixels."""
    box = tuple(round(share * side) for share, side in zip(FRAME, image.size * 2, strict=True))
    image, mask = image.crop(box), mask.crop(box)  # type: ignore[arg-type] # four numbers
    pixels, polyp = np.asarray(image), np.asarray(mask) > 127
    width, height = image.width // 2, image.height // 2
    found: dict[str, list[Picture]] = {"": [], "polyp": []}
    for top in np.arange(0, 0.5 + STEP / 2, STEP):
        for left in np.arange(0, 0.5 + STEP / 2, STEP):
            y, x = round(top * image.height), round(left * image.width)
            part = (slice(y, y + height), slice(x, x + width))
            share = polyp[part].mean()
            if (pixels[part].max(2) < DARK).mean() > 0.01 or 0 < share < FULL:
                continue
            corners = (x, y, x + width, y + height)
            kind = "polyp" if share else ""
            found[kind].append(Picture(split, kind, image.crop(corners), mask.crop(corners) if share else None))
    generator = np.random.default_rng(int(pixels.sum()))
    for kind, windows in found.items():
        if split == "train" and kind:
            continue
        for number in sorted(generator.permutation(len(windows))[:WINDOWS]):
            yield windows[number]


SETS = {
    "chest_xray": ImageList(chest_xray, 32, colour=False),
    "hyper_kvasir": ImageList(hyper_kvasir, 32, colour=True),
    "magnetic_tile": ImageList(magnetic_tile, 32, colour=False),
    "mnist": ImageList(mnist, 32, colour=False),
}


def prepare(name: str, folder: Path) -> Path:
    """The index of a set, written with its images if it is not there.

    Args:
        name: One of ``SETS``; its originals are in ``$ANOMALY_SUITE_DATA``.
        folder: For images and index.

    Returns:
        The index, CSV with the columns of ``Folder`` and those of ``COLUMNS``.
    """
    index, wanted = folder / name / "index.csv", SETS[name]
    if index.is_file():
        return index
    index.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, picture in enumerate(wanted.pictures(Path(os.environ["ANOMALY_SUITE_DATA"]))):
        side = (wanted.size, wanted.size)
        file = f"{picture.kind or 'normal'}/{number:05}.png"
        mask = f"{Path(file).with_suffix('')}_mask.png" if picture.mask else ""
        (index.parent / file).parent.mkdir(exist_ok=True)
        picture.image.resize(side, Image.Resampling.BILINEAR, reducing_gap=3).save(index.parent / file)
        if picture.mask is not None:
            binary = picture.mask.point(lambda value: 255 * (value > 127)).convert("L")
            binary.resize(side, Image.Resampling.BOX).point(lambda value: 255 * (value > 0)).save(index.parent / mask)
        label = "anomalous" if picture.kind else "normal"
        rows.append([file, label, picture.split, mask, picture.kind, *_statistics(picture.image)])
    with index.with_suffix(".part").open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([["path", "label", "split", "mask", "defect_type", *COLUMNS], *rows])
    index.with_suffix(".part").rename(index)
    return index


def _statistics(image: Image.Image) -> list[float]:
    grey = np.asarray(image.convert("L")) / 255
    return [grey.mean(), grey.std(), *np.quantile(grey, (0.05, 0.5, 0.95)), image.height, image.width]


def file_statistics(index: Path) -> tuple[Statistics, Statistics]:
    """Brightness and size of training and test images."""
    with index.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return tuple(  # type: ignore[return-value] # two of them
        Statistics(
            np.array([[float(row[column]) for column in COLUMNS] for row in rows if row["split"] == split]),
            np.array([int(row["label"] != "normal") for row in rows if row["split"] == split]),
            np.array([row["defect_type"] for row in rows if row["split"] == split]),
        )
        for split in ("train", "test")
    )

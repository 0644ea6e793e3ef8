"""SyntheticStreets: small procedural streets with unknown objects and exact truth; nothing to download.

After the small experiments of PEBAL's method card. Axes: N scenes, H and W pixels; rows and columns are measured in
heights of the scene, from the top left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anomaly_suite.contract import OUTLIER, VOID
from anomaly_suite.data.scenes.coco_cutouts import Exclusion
from anomaly_suite.data.scenes.labels import label_table
from anomaly_suite.data.scenes.module import SceneModule, SceneParts, SceneValidation
from anomaly_suite.data.scenes.shape_cutouts import SHAPES
from anomaly_suite.data.transforms import Pixels, Size
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.seeds import derive_seed

CLASSES = ("road", "sidewalk", "building", "vegetation", "sky", "car", "person")
ROAD, SIDEWALK, BUILDING, VEGETATION, SKY, CAR, PERSON = range(len(CLASSES))

NOISE = 0.03  # standard deviation of every pixel, in [0, 1]
VOID_ROWS = 0.05  # height of the own bonnet at the bottom, which has no class
# Usual colour of each class in [0, 1], and the standard deviation around it.
COLOURS = np.array(
    [
        (0.3, 0.3, 0.33),
        (0.62, 0.56, 0.54),
        (0.5, 0.36, 0.3),
        (0.2, 0.42, 0.18),
        (0.6, 0.72, 0.85),
        (0.2, 0.25, 0.7),
        (0.85, 0.5, 0.2),
    ]
)
SPREAD = np.array([[0.03], [0.03], [0.05], [0.04], [0.04], [0.15], [0.15]])

Grid = npt.NDArray[np.float64]
Inside = npt.NDArray[np.bool_]
Part = Literal["train", "val", "test"]


class SyntheticStreets(SceneModule):
    """Procedural streets of 7 classes for tests and tutorials; made from a seed, nothing to download.

    Road, sidewalks, houses, trees, sky, cars and people; a strip at the bottom has no class (255). Outliers for training
    are checked or spotted ellipses and diamonds (``outliers: shapes``), unknown objects of the test part striped triangles
    and rings, one in three of four scenes, so that neither kind is known to the other. Test batches have ``ood_mask`` and
    ``target``, which is 255 on unknown objects.

    Args:
        train_size: Training scenes.
        val_size: Validation scenes, without unknown objects.
        test_size: Test scenes.
        image_size: Height and width in pixels, at least 32 x 32 and not higher than wide.
        difficulty: 0 draws unknown objects in full contrast, towards 1 they fade into the scene; in [0, 1).
        outliers: Where outliers for training come from: ``shapes``, a COCO annotation file, or a folder of cut-outs; see
            :class:`~anomaly_suite.data.scenes.module.SceneModule`. None pastes nothing.
        outlier_fraction: Training scenes with outliers an epoch, as a fraction of ``train_size``: 0 to train a segmenter, 0.6
            for 3 in 8 to teach it unknown objects.
        crop_size: Height and width of training crops, one number for both; None for the size of the scenes.
        flip: Probability of a mirror image.
        scales: Factors by which training scenes are resized; one is drawn for each.
        scale_range: Smallest and largest factor, drawn uniformly, instead of ``scales``.
        train_transform: Steps of albumentations or torchvision v2 on training crops, such as ``{class: ColorJitter, p: 0.5}``.
        outlier_exclude: Classes of COCO whose images are not used: ``released``, ``disjoint`` or a list of names.
        outlier_share: Share of the cut-outs that is used at all, drawn by ``seed``, in (0, 1].
        outlier_class_share: Share of COCO's classes, less those left out, whose objects are used, drawn by ``seed``, in (0, 1].
        outlier_min_size: Least height and width of a COCO image in pixels.
        outlier_single: Paste one object of a cut-out, not all.
        outlier_rescale: Smallest and largest factor by which objects are resized; None keeps their size.
        outlier_on_road: Paste only where the object stands on the road.
        train_batch_size: Crops per training step and process.
        eval_batch_size: Scenes per validation, test or predict step and process.
        num_workers: Loader processes; 0 loads in the main process.
        seed: Decides every draw and the order of training scenes.
        validation: ``holdout`` takes the data set's own validation part, ``test`` its test part, ``none`` nothing.

    Raises:
        ConfigError: a size or the difficulty is out of range.
    """

    classes: Sequence[str] = CLASSES

    def __init__(
        self,
        *,
        train_size: int = 256,
        val_size: int = 32,
        test_size: int = 60,
        image_size: tuple[int, int] = (64, 128),
        difficulty: float = 0.2,
        outliers: str | None = SHAPES,
        outlier_fraction: float = 0.0,
        crop_size: Size | None = None,
        flip: float = 0.5,
        scales: Sequence[float] = (1.0,),
        scale_range: tuple[float, float] | None = None,
        train_transform: list[Any] | None = None,
        outlier_exclude: Exclusion | list[str] = "released",
        outlier_share: float = 1.0,
        outlier_class_share: float = 1.0,
        outlier_min_size: int = 480,
        outlier_single: bool = False,
        outlier_rescale: tuple[float, float] | None = None,
        outlier_on_road: bool = False,
        train_batch_size: int = 8,
        eval_batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        validation: SceneValidation = "holdout",
    ) -> None:
        super().__init__(
            crop_size=crop_size, flip=flip, scales=scales, scale_range=scale_range, train_transform=train_transform,
            outliers=outliers, outlier_fraction=outlier_fraction, outlier_exclude=outlier_exclude,
            outlier_share=outlier_share, outlier_class_share=outlier_class_share, outlier_min_size=outlier_min_size,
            outlier_single=outlier_single, outlier_rescale=outlier_rescale, outlier_on_road=outlier_on_road,
            train_batch_size=train_batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed,
            validation=validation,
        )  # fmt: skip
        self.sizes: dict[Part, int] = {"train": train_size, "val": val_size, "test": test_size}
        for part, value in self.sizes.items():
            if value < 1:
                raise ConfigError(f"{part}_size must be at least 1; got {value}.")
        if not 32 <= image_size[0] <= image_size[1]:
            raise ConfigError(
                f"image_size must be at least 32 x 32 and not higher than wide; got {image_size[0]} x {image_size[1]}."
            )
        if not 0 <= difficulty < 1:
            raise ConfigError(f"difficulty must be in [0, 1); got {difficulty}. 0 is the easiest.")
        self.image_size = image_size
        self.difficulty = difficulty

    def read(self) -> SceneParts:
        """Make all scenes."""
        numbers = range(len(CLASSES))
        target = label_table({number: number for number in numbers}, void=[OUTLIER])
        ood_mask = label_table({**dict.fromkeys(numbers, 0), OUTLIER: 1})
        return SceneParts(
            self._make("train"),
            self._make("val"),
            self._make("test"),
            target,
            {"target": target, "ood_mask": ood_mask},
        )

    def _make(self, part: Part) -> StreetImages:
        count = self.sizes[part]
        image = np.empty((count, *self.image_size, 3), np.uint8)
        label = np.empty((count, *self.image_size), np.uint8)
        for index in range(count):
            rng = np.random.default_rng(derive_seed(self.seed, list(self.sizes).index(part), index))
            street = Street(self.image_size, rng)
            if part == "test" and index % 4:
                street.add_unknown(strength=1 - self.difficulty)
            image[index], label[index] = street.finish()
        return StreetImages(image, label, [f"{part}/{index:04d}" for index in range(count)])


class StreetImages:
    """Scenes in memory: images (N, H, W, 3) and label numbers (N, H, W), both 8 bits."""

    def __init__(self, image: Pixels, label: Pixels, names: list[str]) -> None:
        self.image = image
        self.label = label
        self.names = names

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Copies of image and label numbers."""
        return self.image[index].copy(), self.label[index].copy()


class Street:
    """One scene while it is drawn, from the far to the near.

    Args:
        size: Height and width in pixels.
        rng: Source of all draws.
    """

    def __init__(self, size: tuple[int, int], rng: np.random.Generator) -> None:
        height, width = size
        self.rng = rng
        self.y: Grid = ((np.arange(height) + 0.5) / height)[:, None]
        self.x: Grid = (np.arange(width) + 0.5) / height
        self.wide = width / height
        self.image = np.zeros((height, width, 3))
        self.label = np.full(size, SKY, np.uint8)
        self.horizon = rng.uniform(0.35, 0.45)
        self._draw_sky()
        for _ in range(rng.integers(1, 4)):
            self._draw_building()
        for _ in range(rng.integers(1, 3)):
            self._draw_tree()
        self._draw_ground()
        for _ in range(rng.integers(1, 3)):
            self._draw_car()
        for _ in range(rng.integers(1, 3)):
            self._draw_person()

    def finish(self) -> tuple[Pixels, Pixels]:
        """Bonnet, light and noise: the image (H, W, 3) and label numbers (H, W), both 8 bits."""
        bonnet = np.broadcast_to(self.y > 1 - VOID_ROWS, self.label.shape)
        self._paint(bonnet, VOID, np.full(3, 0.15))
        image = self.image * self.rng.uniform(0.8, 1.1) + self.rng.normal(0, NOISE, self.image.shape)
        return (255 * image).round().clip(0, 255).astype(np.uint8), self.label

    def add_unknown(self, *, strength: float) -> None:
        """Draw one striped triangle or ring on or beside the road.

        Args:
            strength: 1 covers what is behind it, towards 0 it becomes transparent; in (0, 1].
        """
        rng = self.rng
        radius = rng.uniform(0.16, 0.28)
        y, x = self.y - rng.uniform(self.horizon, 0.85), self.x - rng.uniform(0.2, self.wide - 0.2)
        distance = np.hypot(y, x) / radius
        ring = (distance <= 1) & (distance >= 0.4)
        triangle = (np.abs(y) <= radius) & (np.abs(x) <= (y + radius) / 2)
        angle = rng.uniform(0, np.pi)
        stripes = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / rng.uniform(0.07, 0.14)) > 0
        pattern = np.where(stripes[..., None], rng.uniform(0.05, 0.25, 3), rng.uniform(0.75, 0.95, 3))
        inside = ring if rng.random() < 0.5 else triangle
        self._paint(inside, OUTLIER, self.image + strength * (pattern - self.image))

    def _paint(self, inside: Inside, number: int, colour: Grid) -> None:
        """Give pixels a label number and a colour, of shape (3,) or (H, W, 3)."""
        np.copyto(self.label, number, where=inside)
        np.copyto(self.image, colour, where=inside[..., None])

    def _palette(self) -> Grid:
        """A colour of each class around its usual one, shape (7, 3)."""
        return COLOURS + self.rng.normal(0, SPREAD, COLOURS.shape)

    def _draw_sky(self) -> None:
        self._paint(self.label == SKY, SKY, self._palette()[SKY] + 0.15 * self.y[..., None])

    def _draw_building(self) -> None:
        rng = self.rng
        left, width, top = rng.uniform(-0.2, self.wide), rng.uniform(0.4, 0.9), rng.uniform(0.05, 0.25)
        inside = (self.x > left) & (self.x < left + width) & (self.y > top) & (self.y < self.horizon + 0.1)
        step = rng.uniform(0.07, 0.1)
        windows = ((self.x - left) % step < 0.45 * step) & ((self.y - top) % step < 0.5 * step)
        colour = self._palette()[BUILDING] + rng.normal(0, 0.05, 3)
        self._paint(inside, BUILDING, np.where(windows[..., None], 0.55 * colour, colour))

    def _draw_tree(self) -> None:
        rng = self.rng
        y, x = rng.uniform(0.2, self.horizon), rng.uniform(0, self.wide)
        inside = np.hypot((self.y - y) / rng.uniform(0.14, 0.24), (self.x - x) / rng.uniform(0.14, 0.28)) <= 1
        leaves = rng.normal(0, 0.1, (*self.label.shape, 1))
        self._paint(inside, VEGETATION, self._palette()[VEGETATION] + leaves)

    def _draw_ground(self) -> None:
        rng, palette = self.rng, self._palette()
        depth = (self.y - self.horizon) / (1 - self.horizon)  # 0 at the horizon, 1 at the bottom
        middle = self.wide / 2 + rng.uniform(-0.2, 0.2)
        offset = np.abs(self.x - middle) / (0.1 + rng.uniform(0.6, 0.8) * depth)
        ground = np.broadcast_to(depth > 0, self.label.shape)
        tiles = (np.sin(60 * self.x) * np.sin(40 / (0.15 + depth.clip(0))) > 0.2)[..., None]
        self._paint(ground, SIDEWALK, palette[SIDEWALK] - 0.06 * tiles)
        self._paint(ground & (offset < 1), ROAD, palette[ROAD])
        dashes = ground & (offset < 0.04) & (np.sin(12 / (0.1 + depth.clip(0))) > 0)
        self._paint(dashes, ROAD, np.full(3, 0.75))

    def _draw_car(self) -> None:
        rng = self.rng
        foot, x = rng.uniform(self.horizon + 0.12, 0.9), rng.uniform(0.3, self.wide - 0.3)
        size = 0.18 + 0.3 * (foot - self.horizon)
        u, v = (self.x - x) / size, (foot - self.y) / size  # v is 0 at the ground
        body, cabin = (np.abs(u) < 1) & (v > 0) & (v < 0.6), (np.abs(u) < 0.6) & (v >= 0.6) & (v < 1)
        self._paint(body | cabin, CAR, self._palette()[CAR])
        self._paint(cabin & (np.abs(u) < 0.45) & (v < 0.9), CAR, np.array([0.2, 0.25, 0.3]))
        self._paint((np.abs(np.abs(u) - 0.6) < 0.2) & (v > 0) & (v < 0.2), CAR, np.full(3, 0.08))

    def _draw_person(self) -> None:
        rng = self.rng
        foot, x = rng.uniform(self.horizon + 0.15, 0.9), rng.uniform(0.1, self.wide - 0.1)
        size = 0.32 + 0.4 * (foot - self.horizon)
        u, v = (self.x - x) / size, (foot - self.y) / size
        upper, lower = self._palette()[PERSON], self._palette()[PERSON]
        self._paint((np.abs(u) < 0.26) & (v > 0) & (v < 0.5), PERSON, lower)
        self._paint((np.abs(u) < 0.3) & (v >= 0.5) & (v < 0.85), PERSON, upper)
        self._paint(np.hypot(u, v - 0.96) < 0.18, PERSON, np.array([0.75, 0.55, 0.45]))

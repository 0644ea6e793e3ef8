"""SyntheticTextures: woven textures with planted defects and exact masks, made in memory from a seed.

Axes: N images, C channels, H and W pixels; coordinates run from 0 to 1 over an image.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from anomaly_suite.contract import Splits, Validation
from anomaly_suite.data.images.image_data import ImageDataModule
from anomaly_suite.data.images.image_set import BatchTransform, ImageSet
from anomaly_suite.data.preparation import PicturePreparation
from anomaly_suite.data.transforms import Pipeline
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.seeds import derive_seed

NOISE = 0.02  # standard deviation of every pixel
CHUNK = 64  # images made at once


class SyntheticTextures(ImageDataModule):
    """Woven textures with planted spots, scratches and turned patches; made from a seed, nothing to download.

    Half of the test images have one defect; labelled defects for validation are separate images. The seed decides the
    weave and its colour too, so each seed is another data set.

    Args:
        train_size: Normal training images, before validation images are held out.
        test_size: Test images.
        val_anomalies: Anomalous images that ``validation: holdout`` adds to the held-out normals.
        image_size: Height and width in pixels, at least 16.
        channels: 3 for colour, 1 for grey.
        difficulty: 0 plants defects in full contrast, towards 1 they fade into the texture; in [0, 1).
        train_transform: Random transform of training batches, ``(image, generator) -> image``.
        train_batch_size: Images per training step and process.
        eval_batch_size: Images per validation, test or predict step and process.
        num_workers: Loader processes; 0 loads in the main process.
        seed: Decides every split and the order of training images.
        num_anomalous: Anomalous test images that move into training, labelled 1, kinds of defects in turn; fewer are always among more.
            Methods that train on normal images alone leave them out.
        anomalous_list: File that names them, one a line, in place of ``num_anomalous``.
        anomalous_types: Kinds of defects that they are drawn from; null for all.
        anomalous_seed: Decides which are drawn, and nothing else.
        balanced: Training batches of as many anomalous as normal images, the anomalous ones drawn again and again; a number in (0, 1) is another
            share of anomalous images.
        validation: ``holdout`` keeps ``val_size`` training normals, and anomalies that are labelled but not for testing;
            ``augmented`` keeps the normals and adds a pseudo-anomaly of each, ``medmix`` a copy with lesions and their mask; ``test``
            validates on the test set; ``none``.
        val_size: Training normals held out for validation: a fraction, or a count if an integer.

    Raises:
        ConfigError: a size or the difficulty is out of range.
    """

    def __init__(
        self,
        *,
        train_size: int = 128,
        test_size: int = 64,
        val_anomalies: int = 16,
        image_size: int = 64,
        channels: Literal[1, 3] = 3,
        difficulty: float = 0.3,
        train_transform: BatchTransform | None = None,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        num_anomalous: int = 0,
        anomalous_list: str | None = None,
        anomalous_types: list[str | int] | None = None,
        anomalous_seed: int = 0,
        balanced: bool | float = False,
        validation: Validation = "holdout",
        val_size: int | float = 0.1,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed,
            num_anomalous=num_anomalous, anomalous_list=anomalous_list, anomalous_types=anomalous_types,
            anomalous_seed=anomalous_seed, balanced=balanced, validation=validation, val_size=val_size,
        )  # fmt: skip
        sizes = {"train_size": (train_size, 1), "test_size": (test_size, 2), "val_anomalies": (val_anomalies, 0)}
        for name, (value, least) in {**sizes, "image_size": (image_size, 16)}.items():
            if value < least:
                raise ConfigError(f"{name} must be at least {least}; got {value}.")
        if not 0 <= difficulty < 1:
            raise ConfigError(f"difficulty must be in [0, 1); got {difficulty}. 0 is the easiest.")
        self.train_size = train_size
        self.test_size = test_size
        self.val_anomalies = val_anomalies
        self.image_size = image_size
        self.channels = channels
        self.difficulty = difficulty
        self.train_transform = train_transform

    def preparation(self) -> PicturePreparation:
        """New pictures are resized to the size of this set's."""
        return PicturePreparation(
            Pipeline(image_size=self.image_size, center_crop=None, steps=()), channels=self.channels
        )

    def build(self) -> Splits:
        """Make all images."""
        normals, _ = self._make("train", self.train_size, 0)
        kept, held = self.hold_out(self.train_size)
        train = self._set(normals[kept], None, "train", transform=self.train_transform)
        test = self._set(*self._make("test", self.test_size, self.test_size // 2), "test")
        val = None
        if self.validation == "holdout":
            image, mask = self._make("val", self.val_anomalies, self.val_anomalies)
            blank = mask.new_zeros(len(held), *mask.shape[1:])
            val = self._set(torch.cat([normals[held], image]), torch.cat([blank, mask]), "val")
        elif self.validation in ("augmented", "medmix"):
            val = self._set(normals[held], None, "val").with_pseudo_anomalies(self.seed, self.validation)
        return Splits(train, val, test)

    def _make(self, part: Literal["train", "val", "test"], count: int, defects: int) -> tuple[Tensor, Tensor]:
        """``count`` images, the last ``defects`` of them with a defect: uint8 (N, C, H, W) and bool (N, 1, H, W)."""
        weave = Weave.draw(Generator().manual_seed(derive_seed(self.seed)), self.channels)
        generator = Generator().manual_seed(derive_seed(self.seed, 1 + ("train", "val", "test").index(part)))
        shape = (self.image_size, self.image_size)
        images, masks = (
            torch.empty(count, self.channels, *shape, dtype=torch.uint8),
            torch.zeros(count, 1, *shape).bool(),
        )
        for rows in torch.split(torch.arange(count), CHUNK):
            phase = math.tau * torch.rand(len(rows), 2, generator=generator)
            clean = weave.render(phase, self.image_size)
            broken, mask = plant_defects(clean, weave, strength=1 - self.difficulty, generator=generator)
            masks[rows] = mask & (rows >= count - defects).view(-1, 1, 1, 1)
            image = torch.where(masks[rows], broken, clean)
            image += NOISE * torch.randn(image.shape, generator=generator)
            images[rows] = image.mul_(255).round_().clamp_(0, 255).byte()
        return images, masks

    def _set(self, image: Tensor, mask: Tensor | None, part: str, **options: Any) -> ImageSet:
        label = torch.zeros(len(image), dtype=torch.long) if mask is None else mask.flatten(1).any(1).long()
        names = [f"{part}/{'defect' if bad else 'good'}/{index:04d}" for index, bad in enumerate(label.tolist())]
        return ImageSet(image=image, label=label, mask=mask, names=names, seed=self.seed, **options)


class Weave(NamedTuple):
    """Two crossing waves in one colour: periods over an image's side, angle of the first in radians, factor per channel."""

    frequency: Tensor
    angle: float
    tint: Tensor

    @classmethod
    def draw(cls, generator: Generator, channels: int) -> Weave:
        """A random weave."""
        frequency = 4 + 4 * torch.rand(2, generator=generator)
        angle = float(math.pi * torch.rand(1, generator=generator))
        return cls(frequency, angle, 0.7 + 0.6 * torch.rand(channels, 1, 1, generator=generator))

    def render(self, phase: Tensor, size: int, *, turn: float = 0.0) -> Tensor:
        """Draw it.

        Args:
            phase: Of both waves in radians, shape (N, 2).
            size: Height and width in pixels.
            turn: Further angle in radians.

        Returns:
            Float in [0, 1], shape (N, C, H, W).
        """
        y, x = _grid(size)
        cos, sin = math.cos(self.angle + turn), math.sin(self.angle + turn)
        position = torch.stack([x * cos + y * sin, y * cos - x * sin])  # 2 H W
        wave = torch.sin(math.tau * self.frequency.view(2, 1, 1) * position + phase[..., None, None])  # N 2 H W
        value = 0.45 + 0.13 * wave[:, :1] + 0.1 * wave[:, 1:]
        return (value * self.tint).clamp_(0, 1)


def plant_defects(clean: Tensor, weave: Weave, *, strength: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Break the texture at one place of every image: a spot, a scratch, or an ellipse where the weave is turned.

    Args:
        clean: Float in [0, 1], shape (N, C, H, W).
        weave: What the images show.
        strength: Contrast of a defect, in (0, 1].
        generator: Source of all draws.

    Returns:
        Images of the same shape that differ only where the mask, bool (N, 1, H, W), is True.
    """
    count, _, size, _ = clean.shape

    def uniform(low: float, high: float) -> Tensor:
        """One number per image, shape (N, 1, 1, 1)."""
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)

    kind = torch.randint(3, (count, 1, 1, 1), generator=generator)
    y, x = _grid(size)
    dy, dx, angle = y - uniform(0.25, 0.75), x - uniform(0.25, 0.75), uniform(0, math.pi)
    along, across = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
    ellipse = (along / uniform(0.06, 0.16)) ** 2 + (across / uniform(0.06, 0.16)) ** 2 <= 1
    line = (along.abs() <= uniform(0.15, 0.25)) & (across.abs() <= max(0.012, 0.75 / size))
    shift = uniform(0.25, 0.5) * torch.where(uniform(-1, 1) < 0, -1.0, 1.0)
    turned = weave.render(math.tau * torch.rand(count, 2, generator=generator), size, turn=math.pi / 4)
    broken = torch.where(kind == 2, turned, (clean + shift).clamp(0, 1))
    mask = torch.where(kind == 1, line, ellipse)
    return torch.where(mask, torch.lerp(clean, broken, strength), clean), mask


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """Vertical and horizontal coordinates of pixel centres, shapes (H, 1) and (W,)."""
    steps = (torch.arange(size) + 0.5) / size
    return steps.view(-1, 1), steps

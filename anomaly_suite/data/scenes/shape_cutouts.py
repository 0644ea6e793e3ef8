"""Outlier objects that are drawn: ellipses and diamonds, nothing to download."""

from __future__ import annotations

import math

import numpy as np

from anomaly_suite.data.scenes.anomaly_mix import Cutout
from anomaly_suite.io.seeds import derive_seed

SHAPES = "shapes"  # the value of the option ``outliers`` that asks for them


class ShapeCutouts:
    """Ellipses and diamonds in two random colours, checked, spotted or speckled; made when they are read.

    Args:
        seed: Decides all of them.
        height: Height of the scenes in pixels; shapes are 0.12 to 0.4 of it across.
    """

    def __init__(self, *, seed: int, height: int) -> None:
        self.seed = seed
        self.height = height

    def __len__(self) -> int:
        return 4096

    def read(self, index: int) -> Cutout:
        """Draw one shape."""
        rng = np.random.default_rng(derive_seed(self.seed, index))
        side = max(3, round(self.height * rng.uniform(0.12, 0.4)))
        steps = np.linspace(-1, 1, side)
        angle, aspect = rng.uniform(0, math.pi), rng.uniform(0.5, 1)
        along = steps * math.cos(angle) + steps[:, None] * math.sin(angle)
        across = (steps[:, None] * math.cos(angle) - steps * math.sin(angle)) / aspect
        inside = along**2 + across**2 <= 1 if rng.random() < 0.5 else np.abs(along) + np.abs(across) <= 1
        cycles = rng.uniform(2, 4) * math.pi
        waves = np.sin(cycles * along + rng.uniform(0, 6)), np.sin(cycles * across + rng.uniform(0, 6))
        kind = rng.integers(3)
        pattern = (waves[0] * waves[1] > 0, waves[0] + waves[1] > 0.6, rng.random((side, side)) < 0.5)[kind]
        colours = rng.uniform(0, 255, (2, 3))
        image = colours[pattern.astype(int)] + rng.normal(0, 6, (side, side, 1))
        return Cutout(image.round().clip(0, 255).astype(np.uint8), inside.astype(np.int32))

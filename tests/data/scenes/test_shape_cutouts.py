"""Drawn outliers."""

from __future__ import annotations

import numpy as np

from anomaly_suite.data.scenes.shape_cutouts import ShapeCutouts


def test_shapes_repeat_and_fill_ellipses_or_diamonds() -> None:
    first, second, other = (ShapeCutouts(seed=seed, height=64) for seed in (0, 0, 1))
    assert (first.read(5).image == second.read(5).image).all()
    assert first.read(5).image.shape != other.read(5).image.shape or (first.read(5).image != other.read(5).image).any()
    sides = []
    for index in range(60):
        image, instance = first.read(index)
        sides.append(len(instance))
        filled = (instance > 0).mean()
        assert 0.2 < filled < 0.85  # a diamond of aspect 0.5 fills a quarter of its box, a disc 0.785
        assert np.unique(instance).tolist() == [0, 1]
        assert image.std() > 5
    assert min(sides) >= round(0.12 * 64)
    assert max(sides) <= round(0.4 * 64)
    assert len(set(sides)) > 8

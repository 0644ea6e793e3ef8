from __future__ import annotations

import numpy as np
import pytest

from anomaly_suite.contract import OUTLIER
from anomaly_suite.data.scenes.anomaly_mix import Cutout, anomaly_mix

RNG = np.random.default_rng(7)
IMAGE = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
TARGET = RNG.integers(0, 3, (20, 30)).astype(np.uint8)
TARGET[:4] = 255


def cutout(shape: tuple[int, int] = (12, 16), seed: int = 0) -> Cutout:
    """Two objects of different sizes, with a hole and away from the edges."""
    rng = np.random.default_rng(seed)
    instance = np.zeros(shape, np.int32)
    instance[2:6, 3:8] = 4
    instance[3, 4] = 0
    instance[7:10, 9:14] = 9
    return Cutout(rng.integers(0, 256, (*shape, 3), dtype=np.uint8), instance)


def paste(seed: int, **options: object) -> tuple[np.ndarray, np.ndarray]:
    return anomaly_mix(IMAGE, TARGET, cutout(), rng=np.random.default_rng(seed), **options)  # type: ignore[arg-type] # mixed types


def box(target: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(target == OUTLIER)
    return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1


@pytest.mark.parametrize("seed", range(20))
def test_exactly_the_objects_pixels_change(seed: int) -> None:
    before = IMAGE.copy(), TARGET.copy()
    image, target = paste(seed)
    objects = cutout()
    assert (target == OUTLIER).sum() == (objects.instance > 0).sum()
    top, left, bottom, right = box(target)
    assert (bottom - top, right - left) == (8, 11)  # both objects, in their positions to one another
    mask = np.zeros(TARGET.shape, bool)
    mask[top:bottom, left:right] = objects.instance[2:10, 3:14] > 0
    assert ((target == OUTLIER) == mask).all()
    assert (image[mask] == objects.image[objects.instance > 0]).all()  # hard edge: no blending
    assert (image[~mask] == IMAGE[~mask]).all()
    assert (target[~mask] == TARGET[~mask]).all()
    assert (before[0] == IMAGE).all()  # the inputs are left alone
    assert (before[1] == TARGET).all()


def test_every_place_is_equally_likely() -> None:
    places = np.zeros((13, 20), int)
    for seed in range(5200):
        top, left, _, _ = box(paste(seed)[1])
        places[top, left] += 1
    expected = 5200 / places.size
    assert places.min() > 0  # void and sky included, up to both edges
    assert ((places - expected) ** 2 / expected).sum() < 330  # chi-square with 259 degrees of freedom, p = 0.002


def test_single_pastes_one_object_at_a_time() -> None:
    sizes = {int((paste(seed, single=True)[1] == OUTLIER).sum()) for seed in range(30)}
    assert sizes == {4 * 5 - 1, 3 * 5}


def test_rescale_stays_in_its_range() -> None:
    heights = []
    for seed in range(60):
        top, _, bottom, _ = box(paste(seed, rescale=(0.5, 1.5))[1])
        heights.append(bottom - top)
    assert min(heights) == 4
    assert max(heights) == 12
    assert len(set(heights)) > 5


def test_objects_larger_than_the_scene_are_shrunk() -> None:
    whole = Cutout(np.zeros((100, 60, 3), np.uint8), np.ones((100, 60), np.int32))
    _, target = anomaly_mix(IMAGE, TARGET, whole, rng=np.random.default_rng(0))
    top, left, bottom, right = box(target)
    assert (bottom - top, right - left) == (20, 12)


def test_on_road_stands_on_the_road_or_nowhere() -> None:
    target = np.full((20, 30), 5, np.uint8)
    target[12:14, 10:20] = 0
    feet = set()
    for seed in range(200):
        _, mixed = anomaly_mix(IMAGE, target, cutout(), rng=np.random.default_rng(seed), road=0)
        _, left, bottom, right = box(mixed)
        feet.add((bottom - 1, left + (right - left) // 2))
    assert feet == {(row, column) for row in (12, 13) for column in range(10, 20)}
    image, nothing = anomaly_mix(IMAGE, target, cutout(), rng=np.random.default_rng(0), road=3)
    assert (nothing == target).all()
    assert (image == IMAGE).all()


def test_empty_cutout_pastes_nothing() -> None:
    empty = Cutout(np.zeros((5, 5, 3), np.uint8), np.zeros((5, 5), np.int32))
    for single in (False, True):
        image, target = anomaly_mix(IMAGE, TARGET, empty, rng=np.random.default_rng(0), single=single)
        assert (image == IMAGE).all()
        assert (target == TARGET).all()

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomaly_suite.errors import ShapeError
from anomaly_suite.nn.size import height_width, require_image


@pytest.mark.parametrize(("size", "expected"), [(28, (28, 28)), ((28, 32), (28, 32)), ([28, 32], (28, 32))])
def test_one_number_or_two(size: int | tuple[int, int], expected: tuple[int, int]) -> None:
    assert height_width(size) == expected


def test_images_of_the_shape_that_was_built_for() -> None:
    require_image(torch.rand(5, 3, 8, 9), channels=3, size=(8, 9))


@pytest.mark.parametrize("shape", [(1, 1, 8, 9), (1, 3, 9, 9), (1, 3, 8, 8), (3, 8, 9)])
def test_images_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"\(C, H, W\) = \(3, 8, 9\); got .*resize the images"):
        require_image(torch.rand(shape), channels=3, size=(8, 9))


def test_numbers_of_numpy_are_sizes_too() -> None:
    assert height_width(np.int32(32)) == height_width((np.int64(32), np.int32(32))) == (32, 32)  # type: ignore[arg-type]

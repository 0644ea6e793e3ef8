from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.patches import PatchGrid, random_patches, rescaled_patches

GRIDS = [
    (4, 2, 8, 8),
    (4, 4, 8, 12),
    (4, 3, 10, 7),
    (4, 1, 6, 5),
    (4, 3, 9, 11),
    (5, 4, 5, 6),
    (3, 3, 3, 3),
    (4, 4, 10, 9),
]
"""Side, stride, height and width; the last ones are not covered by the grid."""


def corners(side: int, *, size: int, stride: int) -> list[int]:
    """First pixels of patches until one reaches the end."""
    found = [0]
    while found[-1] + size < side:
        found.append(found[-1] + stride)
    return found


def slow_cut(image: Tensor, *, size: int, stride: int) -> Tensor:
    """Pixel by pixel; what lies beyond the border is the nearest pixel."""
    _, _, height, width = image.shape
    patches = []
    for one in image:
        for top in corners(height, size=size, stride=stride):
            for left in corners(width, size=size, stride=stride):
                rows = [min(row, height - 1) for row in range(top, top + size)]
                columns = [min(column, width - 1) for column in range(left, left + size)]
                patches.append(one[:, rows][:, :, columns])
    return torch.stack(patches)


def slow_join(patches: Tensor, *, size: int, stride: int, height: int, width: int) -> Tensor:
    """Average of all patches over each pixel."""
    places = [
        (top, left)
        for top in corners(height, size=size, stride=stride)
        for left in corners(width, size=size, stride=stride)
    ]
    shape = (len(patches) // len(places), patches.shape[1], height + size, width + size)
    total, hits = torch.zeros(shape), torch.zeros(shape)
    for index, patch in enumerate(patches):
        image, (top, left) = index // len(places), places[index % len(places)]
        total[image, :, top : top + size, left : left + size] += patch
        hits[image, :, top : top + size, left : left + size] += 1
    return (total / hits)[:, :, :height, :width]


@pytest.mark.parametrize(("size", "stride", "height", "width"), GRIDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_cut_equals_a_slow_loop(size: int, stride: int, height: int, width: int, channels: int) -> None:
    grid, image = PatchGrid(size=size, stride=stride), torch.rand(2, channels, height, width)
    patches = grid.cut(image)
    assert torch.equal(patches, slow_cut(image, size=size, stride=stride))
    assert len(patches) == 2 * grid.count(height, width)


@pytest.mark.parametrize(("size", "stride", "height", "width"), GRIDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_join_equals_a_slow_loop(size: int, stride: int, height: int, width: int, channels: int) -> None:
    grid = PatchGrid(size=size, stride=stride)
    patches = torch.rand(2 * grid.count(height, width), channels, size, size)
    expected = slow_join(patches, size=size, stride=stride, height=height, width=width)
    torch.testing.assert_close(grid.join(patches, height=height, width=width), expected)


@pytest.mark.parametrize(("size", "stride", "height", "width"), [*GRIDS, (32, 16, 256, 256), (32, 16, 100, 70)])
def test_join_undoes_cut(size: int, stride: int, height: int, width: int) -> None:
    grid, image = PatchGrid(size=size, stride=stride), torch.rand(2, 3, height, width)
    torch.testing.assert_close(grid.join(grid.cut(image), height=height, width=width), image)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (64, 90)])
def test_a_constant_stays_one(height: int, width: int) -> None:
    grid = PatchGrid(size=32, stride=16)
    patches = torch.full((2 * grid.count(height, width), 1, 32, 32), 0.7)
    joined = grid.join(patches, height=height, width=width)
    torch.testing.assert_close(joined, torch.full((2, 1, height, width), 0.7))


@pytest.mark.parametrize(
    ("size", "stride", "height", "width", "expected"),
    [
        (32, 16, 256, 256, 225),
        (32, 32, 256, 256, 64),
        (32, 16, 32, 32, 1),
        (32, 16, 33, 32, 2),
        (32, 16, 48, 49, 6),
        (32, 30, 256, 256, 81),
        (4, 1, 6, 5, 6),
    ],
)
def test_counts(size: int, stride: int, height: int, width: int, expected: int) -> None:
    grid = PatchGrid(size=size, stride=stride)
    assert grid.count(height, width) == expected
    assert len(grid.cut(torch.rand(1, 1, height, width))) == expected


def test_gradients_reach_every_pixel_evenly() -> None:
    image = torch.rand(1, 2, 10, 7, requires_grad=True)
    grid = PatchGrid(size=4, stride=3)
    grid.join(grid.cut(image), height=10, width=7).sum().backward()
    torch.testing.assert_close(image.grad, torch.ones_like(image))


@pytest.mark.parametrize("count", [1, 7, 11])
def test_sample_draws_without_replacement(count: int) -> None:
    grid, image = PatchGrid(size=4, stride=2), torch.rand(2, 1, 6, 8)
    every = grid.cut(image)
    assert len(every) == 12
    drawn = grid.sample(image, count, generator=torch.Generator().manual_seed(0))
    again = grid.sample(image, count, generator=torch.Generator().manual_seed(0))
    match = (drawn[:, None] == every[None]).flatten(2).all(2)  # (count, 12)
    assert (match.sum(1) == 1).all()
    assert match.any(0).sum() == count
    assert torch.equal(drawn, again)


@pytest.mark.parametrize("count", [None, 12, 100])
def test_sample_takes_all_where_there_are_no_more(count: int | None) -> None:
    grid, image = PatchGrid(size=4, stride=2), torch.rand(2, 1, 6, 8)
    assert torch.equal(grid.sample(image, count, generator=torch.Generator()), grid.cut(image))


@pytest.mark.parametrize("stride", [0, -1, 33])
def test_a_stride_that_leaves_pixels_out(stride: int) -> None:
    with pytest.raises(ConfigError, match=rf"between 1 and patch_size=32; got {stride}\."):
        PatchGrid(size=32, stride=stride)


@pytest.mark.parametrize("size", [(31, 40), (40, 31)])
def test_an_image_smaller_than_a_patch(size: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match=r"at least as large as a patch of 32 pixels; got \(1, 3, \d+, \d+\)"):
        PatchGrid(size=32, stride=16).cut(torch.rand(1, 3, *size))


def test_score_is_that_of_the_highest_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomaly_suite.nn.patches.PATCHES_AT_ONCE", 5)  # less than the nine patches of one image
    grid, image = PatchGrid(size=4, stride=2), torch.rand(3, 1, 8, 8)
    score, anomaly_map = grid.score(image, lambda piece: (piece.mean((1, 2, 3)), piece))
    expected = torch.stack([grid.cut(each.unsqueeze(0)).mean((1, 2, 3)).max() for each in image])
    assert torch.allclose(score, expected)
    assert torch.allclose(anomaly_map, image)


class TestRandomPatches:
    def test_every_place_of_every_image(self) -> None:
        count, height, width, size = 3, 7, 9, 4
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        image = torch.stack([torch.stack([torch.full_like(rows, b), rows, columns]) for b in range(count)]).float()
        patch = random_patches(image, size=size, count=200, generator=torch.Generator().manual_seed(0))
        assert patch.shape == (600, 3, size, size)
        owner, row, column = patch[:, :, 0, 0].long().unbind(1)
        assert owner.tolist() == [b for b in range(count) for _ in range(200)]
        for index in range(600):
            cut = image[owner[index], :, row[index] : row[index] + size, column[index] : column[index] + size]
            assert torch.equal(patch[index], cut)
        assert set(zip(row.tolist(), column.tolist(), strict=True)) == {(r, c) for r in range(4) for c in range(6)}

    def test_draws_follow_from_the_generator(self) -> None:
        image = torch.rand(2, 3, 16, 16)
        first, again, other = (
            random_patches(image, size=5, count=3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_a_patch_as_large_as_the_image(self) -> None:
        image = torch.rand(2, 3, 16, 16)
        patch = random_patches(image, size=16, count=1, generator=torch.Generator())
        assert torch.equal(patch, image)
        with pytest.raises(ShapeError, match=r"patch of 17 pixels; got \(2, 3, 16, 16\)"):
            random_patches(image, size=17, count=1, generator=torch.Generator())


class TestRescaledPatches:
    @pytest.mark.parametrize(("size", "patch"), [((20, 31), 17), ((17, 17), 17), ((150, 90), 33)])
    def test_random_patches_fit_at_any_scale(self, size: tuple[int, int], patch: int) -> None:
        image = torch.rand(2, 1, *size)
        for seed in range(8):
            patches = rescaled_patches(image, size=patch, count=4, generator=torch.Generator().manual_seed(seed))
            assert patches.shape == (8, 1, patch, patch)
            assert patches.min() >= 0
            assert patches.max() <= 1

    def test_patches_are_resized_and_half_of_them_mirrored(self) -> None:
        ramp = torch.linspace(0, 1, 60).expand(1, 1, 60, 60)
        slopes = []
        for seed in range(20):
            patch = rescaled_patches(ramp, size=17, count=200, generator=torch.Generator().manual_seed(seed))
            slope = (
                (patch[:, 0, :, 12] - patch[:, 0, :, 4]).mean(1) * 59 / 8
            )  # change a pixel, 1 at the image's own scale
            assert 0.3 < (slope < 0).float().mean() < 0.7
            slopes.append(slope.abs().median().item())
        assert 0.45 < min(slopes) < 0.7
        assert 1.3 < max(slopes) < 2.1

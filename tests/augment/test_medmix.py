from __future__ import annotations

import itertools

import pytest
import torch
from torch import Generator, Tensor

from anomaly_suite.augment.draws import ContentDraws, GeneratorDraws, image_keys
from anomaly_suite.augment.medmix import _cut, _others, medmix


def draws(seed: int = 0) -> GeneratorDraws:
    return GeneratorDraws(Generator().manual_seed(seed))


def images(count: int = 32, size: int = 64) -> Tensor:
    return torch.rand(count, 3, size, size, generator=Generator().manual_seed(1))


@pytest.mark.parametrize("size", [32, 64])
def test_so_many_disjoint_boxes_and_nothing_outside_changes(size: int) -> None:
    image, count = images(64, size), torch.arange(64) % 4
    lesions = medmix(image, count, draws())
    assert torch.equal(lesions.label, count)
    assert lesions.image.min() >= 0
    assert lesions.image.max() <= 1
    for row, boxes in enumerate(lesions.boxes.tolist()):
        real = [box for box in boxes if box[2]]
        assert len(real) == count[row]
        painted = torch.zeros(size, size, dtype=torch.int)
        for top, left, tall, broad in real:
            assert 0 <= top <= size - tall
            assert 0 <= left <= size - broad
            painted[top : top + tall, left : left + broad] += 1
        assert painted.max() <= 1
        assert torch.equal(painted.bool(), lesions.mask[row, 0])
    outside = ~lesions.mask.expand_as(image)
    assert torch.equal(lesions.image[outside], image[outside])
    changed = (lesions.image != image).any(1, keepdim=True)
    assert (changed & lesions.mask).sum() > 0.98 * lesions.mask.sum()
    assert torch.equal(lesions.image[count == 0], image[count == 0])


@pytest.mark.parametrize(("size", "low", "high"), [(32, 0.04, 0.12), (128, 0.01, 0.06)])
def test_areas_and_aspects(size: int, low: float, high: float) -> None:
    boxes = medmix(images(100, size), torch.full((100,), 1), draws()).boxes[:, 0].double()
    area, aspect = boxes[:, 2] * boxes[:, 3] / size**2, boxes[:, 2] / boxes[:, 3]
    assert 0.8 * low < area.min()
    assert area.max() < 1.2 * high
    assert abs(area.mean() - (low + high) / 2) < 0.1 * high
    assert aspect.min() > 0.4
    assert aspect.max() < 2.5


def test_a_full_image_has_fewer_lesions_and_says_so() -> None:
    lesions = medmix(images(8, 8), torch.full((8,), 40), draws(), area=(0.1, 0.12))
    assert (lesions.label < 40).all()
    for boxes, count in zip(lesions.boxes, lesions.label.tolist(), strict=True):
        assert int((boxes[:, 2] * boxes[:, 3]).sum()) <= 64
        real = boxes[boxes[:, 2] > 0].tolist()
        assert len(real) == count
        for (a, b, h, w), (c, d, k, m) in itertools.combinations(real, 2):
            assert a + h <= c or c + k <= a or b + w <= d or d + m <= b


def test_a_seed_decides_and_the_batch_does_not() -> None:
    image, count = images(6), torch.tensor([3, 1, 2, 0, 3, 2])
    first, again, other = (medmix(image, count, draws(seed)).image for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    whole, part = (
        medmix(image[rows], count[rows], ContentDraws(image_keys(image[rows])), pool=images(5, 64))
        for rows in (slice(None), slice(3, 6))
    )
    assert torch.equal(whole.boxes[3:], part.boxes)
    torch.testing.assert_close(whole.image[3:], part.image, atol=1e-5, rtol=0)


def test_lesions_come_from_other_images() -> None:
    colours = torch.linspace(0.1, 0.9, 5).view(5, 1, 1, 1).expand(5, 3, 64, 64)
    cut = medmix(colours, torch.full((5,), 3), draws(), deform=False, feather=0)
    for row in range(5):
        values = cut.image[row][cut.mask[row].expand(3, -1, -1)].unique()
        assert min(abs(values[:, None] - colours[:, 0, 0, 0]).min(1).values) < 1e-5
        assert (values - colours[row, 0, 0, 0]).abs().min() > 0.1
    uniform = torch.rand(4000)
    source = _others(uniform, torch.full((4000,), 2), 4)
    assert torch.bincount(source, minlength=4).tolist()[2] == 0
    assert torch.bincount(source)[[0, 1, 3]].min() > 1200
    assert _others(torch.rand(3), torch.zeros(3, dtype=torch.long), 1).tolist() == [0, 0, 0]
    assert set(_others(uniform, torch.full((4000,), -1), 4).tolist()) == {0, 1, 2, 3}


def test_a_blended_border() -> None:
    pool = torch.ones(1, 1, 64, 64)
    lesions = medmix(torch.zeros(1, 1, 64, 64), torch.ones(1, dtype=torch.long), draws(), pool=pool, deform=False)
    top, left, tall, broad = lesions.boxes[0, 0].tolist()
    box = lesions.image[0, 0, top : top + tall, left : left + broad]
    torch.testing.assert_close(box[tall // 2, :3], torch.tensor([0.25, 0.75, 1.0]))
    torch.testing.assert_close(box[:3, broad // 2], torch.tensor([0.25, 0.75, 1.0]))


def fisheye_and_wave(draw: list[float], y: float, x: float) -> tuple[float, float]:
    """Where a pixel in coordinates of the lesion, -1 to 1, is taken from: the card's formulas, one by one."""
    k, radius = 0.2 + 0.4 * draw[1], (x * x + y * y) ** 0.5
    if draw[2] < 0.5 and radius <= 1:
        source = radius * (radius**2 * k + 1 - k)
        y, x = (y * source / radius, x * source / radius) if radius else (0.0, 0.0)
    if draw[6] < 0.5:
        amplitude, period = 0.02 + 0.06 * draw[5], 0.3 + 0.7 * draw[3]  # of the width, of the height
        phase = torch.tensor(2 * torch.pi * ((y + 1) / 2 / period + draw[4]), dtype=torch.float64)
        x += 2 * amplitude * float(phase.sin())
        x = 2 - x if x > 1 else -2 - x if x < -1 else x
    return y, x


@pytest.mark.parametrize("warps", [(0.9, 0.9), (0.1, 0.9), (0.9, 0.1), (0.1, 0.1)])
def test_warps_take_pixels_from_where_the_card_says(warps: tuple[float, float]) -> None:
    size, tall, broad = 40, 12, 16
    ramp = torch.arange(size, dtype=torch.float64)
    image = torch.stack([ramp.view(-1, 1).expand(size, size), ramp.expand(size, size)]).unsqueeze(0)
    uniform = torch.rand(1, 16)
    uniform[0, 2], uniform[0, 6] = warps
    draw = uniform[0].double().tolist()
    found = _cut(image, torch.tensor([[0, 0, tall, broad]]), uniform, (tall, broad), warp=True)[0]
    top, left = int(draw[7] * (size - tall + 1)), int(draw[8] * (size - broad + 1))
    for row, column in itertools.product(range(tall), range(broad)):
        y, x = fisheye_and_wave(draw, 2 * (row + 0.5) / tall - 1, 2 * (column + 0.5) / broad - 1)
        source = (top + (y + 1) / 2 * tall - 0.5, left + (x + 1) / 2 * broad - 0.5)
        expected = torch.tensor(source, dtype=torch.float64).clamp(0, size - 1)
        torch.testing.assert_close(found[:, row, column], expected, atol=1e-5, rtol=0)


def test_grey_images_of_half_precision_and_none_at_all() -> None:
    image = torch.rand(3, 1, 40, 48).bfloat16()
    lesions = medmix(image, torch.tensor([1, 2, 3]), draws())
    assert lesions.image.dtype == torch.bfloat16
    assert lesions.label.tolist() == [1, 2, 3]
    none = medmix(image, torch.zeros(3, dtype=torch.long), draws())
    assert torch.equal(none.image, image)
    assert not none.mask.any()
    assert none.mask.shape == (3, 1, 40, 48)

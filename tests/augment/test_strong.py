from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from anomaly_suite.augment.draws import GeneratorDraws
from anomaly_suite.augment.strong import add_noise, cut_out, permute_halves, require_versions, rotate, strong_versions
from anomaly_suite.errors import ConfigError, ShapeError

K = torch.arange(4)


def draws() -> GeneratorDraws:
    return GeneratorDraws(Generator().manual_seed(0))


def same(size: int = 32) -> Tensor:
    """Four copies of one image."""
    return torch.rand(1, 3, size, size, generator=Generator().manual_seed(1)).repeat(4, 1, 1, 1) * 0.8 + 0.1


@pytest.mark.parametrize("kind", ["permutation", "rotation", "cutout", "cutmix", "medmix"])
def test_version_0_is_the_image_and_the_others_are_not(kind: str) -> None:
    image = same()
    out = strong_versions(image, K, draws(), kind=kind, pool=torch.rand(3, 3, 32, 32))  # type: ignore[arg-type]
    assert torch.equal(out[0], image[0])
    assert all(not torch.equal(first, second) for i, first in enumerate(out) for second in out[:i])


def test_permutation() -> None:
    image = same()
    out = permute_halves(image, K)
    assert torch.equal(permute_halves(out, K), image)
    assert torch.equal(out[2, :, :16], image[0, :, 16:])  # top and bottom
    assert torch.equal(out[1, :, :, :16], image[0, :, :, 16:])  # left and right
    assert torch.equal(out.flatten(1).sort(1).values, image.flatten(1).sort(1).values)
    with pytest.raises(ShapeError, match=r"even sides; got \(1, 3, 7, 8\)"):
        permute_halves(torch.rand(1, 3, 7, 8), K[:1])


def test_rotation() -> None:
    image = same()
    out = rotate(image, K)
    for k in range(4):
        assert torch.equal(out[k], torch.rot90(image[k], k, (1, 2)))
    one = torch.ones(4, dtype=torch.long)
    assert torch.equal(rotate(rotate(rotate(rotate(image, one), one), one), one), image)
    with pytest.raises(ShapeError, match="square images"):
        rotate(torch.rand(1, 3, 6, 8), K[:1])


def test_cutout_has_so_many_holes() -> None:
    image = torch.ones(400, 1, 32, 32)
    k = torch.arange(400) % 4
    holes = (cut_out(image, k, draws()) == 0).flatten(1).sum(1)
    assert (holes <= 64 * k).all()
    assert (holes[k > 0] >= 64).all()
    assert (holes[k == 1] == 64).all()


def test_noise() -> None:
    image = torch.rand(4, 3, 100, 100) * 0.2 + 0.4
    image = image[:1].repeat(4, 1, 1, 1)
    out = add_noise(image, K, draws())
    low, high = image[0].aminmax()
    scaled = (image[0] - low) / (high - low)
    torch.testing.assert_close(out[0], scaled)
    middle = (scaled > 0.4) & (scaled < 0.6)  # a clip at 2 deviations of 0.22
    change = (out - scaled)[:, middle]
    assert abs(change[1].std() - 0.22) < 0.02
    assert abs((change[2] / scaled[middle]).std() - 0.22) < 0.02
    assert abs(out[3].eq(0).double().mean() - 0.025) < 0.004
    assert abs(out[3].eq(1).double().mean() - 0.025) < 0.004


def test_numbers_of_versions() -> None:
    require_versions("medmix", 7)
    with pytest.raises(ConfigError, match=r"num_strong must be 2 to 4 for strong: rotation.*; got 5"):
        require_versions("rotation", 5)
    with pytest.raises(ConfigError, match=r"at least 2 for strong: medmix.*; got 1"):
        require_versions("medmix", 1)

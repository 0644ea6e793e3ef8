from __future__ import annotations

import torch

from anomaly_suite.augment.draws import ContentDraws, GeneratorDraws, between, image_keys, normal


def test_numbers_of_an_image_do_not_depend_on_its_batch() -> None:
    image = torch.rand(6, 3, 5, 7)
    together, alone = ContentDraws(image_keys(image)), ContentDraws(image_keys(image[[4, 1]]))
    for shape in ((2, 3), (5,)):
        assert torch.equal(together(6, *shape)[[4, 1]], alone(2, *shape))


def test_images_and_salts_have_numbers_of_their_own() -> None:
    image = torch.zeros(3, 1, 4, 4)
    image[1, 0, 0, 0], image[2, 0, 0, 1] = 1e-3, 1e-3  # the same pixels in another place
    keys = torch.cat([image_keys(image), image_keys(image, 1)])
    assert len(keys.unique()) == 6


def test_both_sources_are_uniform() -> None:
    for draws in (ContentDraws(torch.arange(100)), GeneratorDraws(torch.Generator().manual_seed(0))):
        uniform = draws(100, 1000)
        assert uniform.dtype == torch.float32
        assert uniform.min() >= 0
        assert uniform.max() < 1
        assert abs(uniform.mean() - 0.5) < 0.005
        assert torch.histc(uniform, 10).sub(10_000).abs().max() < 500
        assert torch.corrcoef(uniform[:2])[0, 1].abs() < 0.15
        assert abs(normal(uniform).mean()) < 0.02
        assert abs(normal(uniform).std() - 1) < 0.02
        assert between(uniform, 2, 4).min() >= 2
        assert between(uniform, 2, 4).max() <= 4

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from anomaly_suite.errors import ShapeError
from anomaly_suite.nn.pooled_autoencoder import PooledDecoder, PooledEncoder, running_statistics_kept

WIDTHS = (4, 6, 8)


def pair(size: Any, widths: Sequence[int] = WIDTHS, **options: Any) -> tuple[PooledEncoder, PooledDecoder]:
    encoder = PooledEncoder(in_channels=1, image_size=size, widths=widths, latent_dim=5, **options)
    return encoder, PooledDecoder(latent_dim=5, out_channels=1, image_size=size, widths=widths)


def count(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


def test_published_parameter_counts() -> None:
    options: dict[str, Any] = {"image_size": 28, "widths": (64, 96, 128), "latent_dim": 64}
    assert count(PooledEncoder(in_channels=1, **options)) == 668_128
    assert count(PooledDecoder(out_channels=1, **options)) == 1_537_377


@pytest.mark.parametrize("size", [28, 30, (9, 14)])
@pytest.mark.parametrize("pool", ["mean", "flatten"])
def test_shapes_of_sizes_that_do_not_halve(size: Any, pool: str) -> None:
    encoder, decoder = pair(size, pool=pool)
    height, width = size if isinstance(size, tuple) else (size, size)
    code = encoder(torch.rand(3, 1, height, width))
    image = decoder(code)
    assert code.shape == (3, 5)
    assert image.shape == (3, 1, height, width)
    assert image.abs().max() < 1


def test_borders_are_cut_from_the_middle() -> None:
    whole, cut = (PooledDecoder(latent_dim=5, out_channels=1, image_size=size, widths=WIDTHS) for size in (32, 30))
    cut.load_state_dict(whole.state_dict())
    code = torch.randn(2, 5)
    assert torch.equal(cut(code), whole(code)[:, :, 1:31, 1:31])


def test_a_mean_forgets_places_and_flatten_does_not() -> None:
    image = torch.zeros(1, 1, 64, 64)  # so large that no border is seen
    image[:, :, 24:28, 24:28] = 1
    moved = image.roll((8, 8), (2, 3))
    for pool, same in (("mean", True), ("flatten", False)):
        encoder = pair(64, pool=pool)[0].eval()
        assert torch.allclose(encoder(image), encoder(moved), atol=1e-5) == same


def test_weights_are_drawn_after_glorot() -> None:
    encoder, _ = pair(28, (64, 96, 128))
    weight = encoder.levels[3].weight
    assert isinstance(weight, torch.Tensor)
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (25 * (64 + 96))), rel=0.02)
    assert not encoder.levels[3].bias.any()  # type: ignore[union-attr, operator]


def test_running_statistics_are_kept_but_the_batch_normalises() -> None:
    encoder, _ = pair(16)
    image = torch.rand(4, 1, 16, 16)
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    with running_statistics_kept(encoder):
        kept = encoder(image)
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())
    assert torch.equal(encoder(image), kept)  # as in training
    assert not all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 28, 28\); got \(1, 30, 30\)"):
        pair(28)[0](torch.rand(1, 1, 30, 30))


@pytest.mark.parametrize(("output", "low"), [("tanh", -1.0), ("leaky_relu", -0.2 * 50), ("linear", -50.0)])
def test_what_ends_the_decoder(output: str, low: float) -> None:
    decoder = PooledDecoder(latent_dim=5, out_channels=1, image_size=16, widths=(4, 4, 4), output=output)  # type: ignore[arg-type]
    last = decoder.levels[-2]
    nn.init.zeros_(last.weight)  # type: ignore[arg-type]
    nn.init.constant_(last.bias, -50.0)  # type: ignore[arg-type]
    image = decoder(torch.randn(2, 5))
    assert torch.allclose(image, torch.tensor(low))
    assert torch.autograd.grad(image.sum(), last.bias)[0].item() == pytest.approx(
        {"tanh": 0, "leaky_relu": 0.2, "linear": 1}[output] * image.numel(), rel=1e-4
    )

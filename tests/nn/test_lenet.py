from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import nn

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.lenet import (
    LeNetDecoder,
    LeNetEncoder,
    build_lenets,
    global_contrast_normalization,
    mirrored_grids,
)


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (16, 16), (29, 21), (64, 40), (4, 4), (7, 100)])
@pytest.mark.parametrize("widths", [(8, 4), (8, 8, 4)])
def test_any_size_is_rebuilt(size: tuple[int, int], widths: tuple[int, ...]) -> None:
    if min(size) < 2 ** len(widths):
        with pytest.raises(ConfigError, match="at least 8 for 3 poolings"):
            LeNetEncoder(in_channels=1, image_size=size, widths=widths)
        return
    encoder = LeNetEncoder(in_channels=1, image_size=size, widths=widths)
    assert encoder(torch.rand(2, 1, *size)).shape == (2, encoder.out_features)
    decoder = LeNetDecoder(out_channels=1, image_size=size, widths=widths, latent_dim=16, normalize_code=False)
    image = decoder(torch.randn(2, 16))
    assert image.shape == (2, 1, *size)
    assert image.min() >= 0
    assert image.max() <= 1


def test_the_encoder_cannot_make_a_constant() -> None:
    encoder = LeNetEncoder(in_channels=3, image_size=(16, 16), widths=(4, 6))
    kinds = [type(layer) for layer in encoder.levels]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU, nn.MaxPool2d] * 2 + [nn.Flatten]
    assert not [name for name, _ in encoder.named_parameters() if name.endswith("bias")]
    assert all(not layer.affine for layer in encoder.levels if isinstance(layer, nn.BatchNorm2d))
    assert encoder.out_features == 6 * 4 * 4


def test_images_of_another_shape() -> None:
    encoder = LeNetEncoder(in_channels=1, image_size=(16, 16), widths=(4, 4))
    with pytest.raises(ShapeError, match=r"\(1, 16, 16\); got \(3, 16, 16\)"):
        encoder(torch.rand(2, 3, 16, 16))


def test_a_code_without_cells() -> None:
    with pytest.raises(ConfigError, match="multiple of 16 to be decoded; got 20"):
        LeNetDecoder(out_channels=1, image_size=(16, 16), widths=(4, 4), latent_dim=20, normalize_code=False)


def test_codes_are_normalised_over_the_batch_alone() -> None:
    decoder = LeNetDecoder(out_channels=3, image_size=(16, 16), widths=(4, 4), latent_dim=16, normalize_code=True)
    with pytest.raises(ShapeError, match="at least 2 images in every training batch; got 1"):
        decoder(torch.rand(1, 16))
    assert decoder(torch.rand(2, 16)).shape == (2, 3, 16, 16)
    assert decoder.eval()(torch.rand(1, 16)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("side", [7, 16, 28, 29, 32, 100])
def test_grids_grow_to_the_side(side: int) -> None:
    grids = mirrored_grids(side, 3)
    after = [size - 2 * (padding - 2) for size, padding in grids]  # a kernel of 5 keeps a size with a padding of 2
    assert after[-1] == side + side % 2  # of an odd side, the last row is cut off
    assert all(size % 2 == 0 for size in after[:-1])
    assert [size for size, _ in grids[1:]] == [2 * size for size in after[:-1]]


def test_both_networks_are_built_for_one_code() -> None:
    encoder, decoder = build_lenets(channels=3, image_size=(12, 16), widths=(4, 6), latent_dim=32, with_decoder=True)
    assert decoder is not None
    assert decoder.normalize is not None  # as for colour images
    image = torch.rand(2, 3, 12, 16)
    code = nn.Linear(encoder.out_features, 32)(encoder(image))
    assert decoder(code).shape == image.shape
    assert build_lenets(channels=1, image_size=(12, 16), widths=(4, 6), latent_dim=7, with_decoder=False)[1] is None


@pytest.mark.parametrize("initialization", ["torch", "xavier"])
def test_initial_weights(initialization: Literal["torch", "xavier"]) -> None:
    """The released autoencoder of CIFAR10: ``xavier_uniform_`` with the gain of leaky ReLU on every convolution."""
    torch.manual_seed(0)
    encoder, decoder = build_lenets(
        channels=3,
        image_size=(32, 32),
        widths=(32, 64, 128),
        latent_dim=128,
        with_decoder=True,
        initialization=initialization,
    )
    assert decoder is not None
    layers = [m for m in (*encoder.modules(), *decoder.modules()) if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(layers) == 7
    for layer in layers:
        fan_in, fan_out = 25 * layer.weight.shape[1], 25 * layer.weight.shape[0]
        # torch: uniform within 1 / sqrt(fan in); for transposed convolutions it takes the second axis as input, too
        bound = math.sqrt(2 / (1 + 0.01**2) * 6 / (fan_in + fan_out)) if initialization == "xavier" else fan_in**-0.5
        assert 0.98 * bound < float(layer.weight.detach().abs().max()) <= bound


def test_contrast_normalization() -> None:
    x = global_contrast_normalization(torch.rand(3, 3, 9, 7) * 5 + 2)
    torch.testing.assert_close(x.mean((1, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.abs().mean((1, 2, 3)), torch.ones(3))
    assert global_contrast_normalization(torch.full((1, 1, 4, 4), 0.3)).abs().max() < 0.01

from __future__ import annotations

import pytest
import torch

from anomaly_suite.errors import ShapeError
from anomaly_suite.nn.dcgan import (
    DCGANDecoder,
    DCGANEncoder,
    dcgan_pair,
    dcgan_weights,
    default_widths,
    to_signed,
    to_unit,
)


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (28, 28), (28, 20), (37, 64), (9, 5), (4, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_image_to_vector_and_back(size: tuple[int, int], channels: int) -> None:
    widths = [max(2, width // 32) for width in default_widths(size)]
    encoder = DCGANEncoder(in_channels=channels, image_size=size, widths=widths, out_features=5).eval()
    decoder = DCGANDecoder(in_features=5, out_channels=channels, image_size=size, widths=widths).eval()
    code = encoder(torch.rand(2, channels, *size) * 2 - 1)
    image = decoder(code)
    assert code.shape == (2, 5)
    assert image.shape == (2, channels, *size)
    assert image.min() >= -1
    assert image.max() <= 1


def test_the_card_table() -> None:
    assert default_widths((64, 64)) == (64, 128, 256, 512)
    assert default_widths((32, 32)) == default_widths((28, 28)) == (64, 128, 256)
    encoder = DCGANEncoder(in_channels=3, image_size=(64, 64), widths=(64, 128, 256, 512), out_features=128)
    decoder = DCGANDecoder(in_features=128, out_channels=3, image_size=(64, 64), widths=(64, 128, 256, 512))
    convolutions = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512)
    norms = 2 * (128 + 256 + 512)
    assert sum(p.numel() for p in encoder.parameters()) == convolutions + 64 + norms + 8192 * 128 + 128
    assert (
        sum(p.numel() for p in decoder.parameters()) == 128 * 8192 + 2 * 512 + convolutions + 2 * (256 + 128 + 64) + 3
    )


def test_padding_is_black() -> None:
    encoder = DCGANEncoder(in_channels=1, image_size=(28, 28), widths=(4, 4, 4), out_features=3).eval()
    bigger = DCGANEncoder(in_channels=1, image_size=(32, 32), widths=(4, 4, 4), out_features=3).eval()
    bigger.load_state_dict(encoder.state_dict())
    image = torch.rand(2, 1, 28, 28)
    padded = torch.full((2, 1, 32, 32), -1.0)
    padded[:, :, 2:30, 2:30] = image
    torch.testing.assert_close(encoder(image), bigger(padded))


def test_a_single_training_image_has_batch_statistics() -> None:
    decoder = DCGANDecoder(in_features=3, out_channels=1, image_size=(16, 16), widths=(4, 4)).train()
    assert decoder(torch.rand(1, 3)).isfinite().all()


def test_another_size_is_refused() -> None:
    encoder = DCGANEncoder(in_channels=1, image_size=(16, 16), widths=(4, 4), out_features=3)
    with pytest.raises(ShapeError, match=r"\(1, 16, 16\); got \(3, 16, 16\)"):
        encoder(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize(("widths", "out_features"), [(None, None), ((4, 8), 7)])
def test_a_pair_fits_together(widths: tuple[int, ...] | None, out_features: int | None) -> None:
    encoder, decoder = dcgan_pair(
        in_channels=1, image_size=(16, 12), widths=widths, latent_dim=5, out_features=out_features
    )
    assert encoder(torch.rand(2, 1, 16, 12)).shape == (2, out_features or 5)
    assert decoder(torch.rand(2, 5)).shape == (2, 1, 16, 12)
    assert encoder.levels[0].out_channels == (widths or default_widths((16, 12)))[0]


def test_the_signed_range() -> None:
    assert to_signed(torch.tensor([0.0, 0.25, 1.0])).tolist() == [-1.0, -0.5, 1.0]


def test_signed_values_and_back() -> None:
    assert to_unit(to_signed(torch.tensor([0.0, 0.25, 1.0]))).tolist() == [0.0, 0.25, 1.0]
    assert to_unit(torch.zeros(2, dtype=torch.bfloat16)).dtype == torch.float32


def test_initial_weights() -> None:
    encoder = DCGANEncoder(in_channels=3, image_size=(16, 16), widths=(64, 128), out_features=64, kernel=5)
    dcgan_weights(encoder)
    first, second, norm = encoder.levels[0], encoder.levels[2], encoder.levels[3]
    assert first.kernel_size == second.kernel_size == (5, 5)
    for layer in (first, second, encoder.head):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.01)
    assert not first.bias.any()
    assert not norm.bias.any()


def test_convolutions_of_5_halve_as_those_of_4() -> None:
    encoder = DCGANEncoder(in_channels=1, image_size=(28, 20), widths=(2, 3), out_features=5, kernel=5).eval()
    assert encoder.levels(torch.zeros(1, 1, 28, 20)).shape == (1, 3, 7, 5)
    assert encoder(torch.zeros(2, 1, 28, 20)).shape == (2, 5)

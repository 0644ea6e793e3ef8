"""The descriptor autoencoder: shapes, and what is trained of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.autoencoder import DescriptorAutoencoder


def make(**options: Any) -> DescriptorAutoencoder:
    defaults: dict[str, Any] = {"encoder": "residual", "image_size": 16, "latent_dim": 5, "width": 2}
    return DescriptorAutoencoder(**{**defaults, "freeze_encoder": False, **options})


@pytest.mark.parametrize(("encoder", "size"), [("residual", (16, 24)), ("resnet18", 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_to_codes_and_standardised_images(encoder: str, size: Any, channels: int) -> None:
    net = make(encoder=encoder, image_size=size).eval()
    height, width = size if isinstance(size, tuple) else (size, size)
    image = torch.rand(2, channels, height, width)
    latent, reconstruction = net(image)
    assert latent.shape == (2, 5)
    assert reconstruction.shape == (2, 3, height, width)
    assert torch.equal(net.encode(image), latent)
    assert torch.equal(net.decoder(latent), reconstruction)


@pytest.mark.parametrize("freeze", [False, True])
def test_a_frozen_encoder_keeps_weights_and_statistics(freeze: bool) -> None:
    net = make(freeze_encoder=freeze).train()
    before = {key: value.clone() for key, value in net.encoder.state_dict().items()}
    net(torch.rand(4, 3, 16, 16))[1].sum().backward()
    assert all((weight.grad is None) == freeze for weight in net.encoder.parameters())
    assert all(weight.grad is not None for part in (net.projection, net.decoder) for weight in part.parameters())
    assert all(torch.equal(value, before[key]) for key, value in net.encoder.state_dict().items()) == freeze


def test_a_size_that_the_decoder_does_not_have() -> None:
    with pytest.raises(ConfigError, match="8, 16, 32"):
        make(image_size=28)

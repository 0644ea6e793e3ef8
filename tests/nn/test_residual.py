from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.residual import (
    DownBlock,
    DownConv,
    Norm,
    ResidualDecoder,
    ResidualEncoder,
    UpBlock,
    UpConv,
    glorot_weights,
)

NORMS: tuple[Norm, ...] = ("batch", "layer", "group")


def plain_down(layer: DownConv, x: Tensor) -> Tensor:
    return F.avg_pool2d(F.conv2d(x, layer.weight, layer.bias, padding=1), 2)


def plain_up(layer: UpConv, x: Tensor) -> Tensor:
    return F.conv2d(F.interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=1)


def with_gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Output, and gradients of an uneven function of it."""
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((weights * out.square()).mean(), inputs)]


def convolutions(network: nn.Module) -> list[tuple[str, int, int, int, int]]:
    """Class, channels before and after, kernel side and stride of every convolution in their order."""
    return [
        (type(layer).__name__, layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0])
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
    ]


def down(before: int, after: int) -> list[tuple[str, int, int, int, int]]:
    return [("Conv2d", before, before, 3, 1), ("DownConv", before, after, 3, 1), ("Conv2d", before, after, 1, 1)]


def up(before: int, after: int) -> list[tuple[str, int, int, int, int]]:
    return [("UpConv", before, after, 3, 1), ("Conv2d", after, after, 3, 1), ("Conv2d", before, after, 1, 1)]


def down_weights(before: int, after: int, norm: int) -> int:
    """Two norms, convolution without bias, convolution, 1 x 1 convolution."""
    return 2 * norm + 9 * before**2 + (9 * before * after + after) + (before * after + after)


def up_weights(before: int, after: int) -> int:
    """Two batch norms, convolution without bias, convolution, 1 x 1 convolution."""
    return 2 * before + 2 * after + 9 * before * after + (9 * after**2 + after) + (before * after + after)


def weights_of(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


class TestConvolutions:
    @pytest.mark.parametrize("size", [(8, 8), (2, 2), (6, 14)])
    @pytest.mark.parametrize("kind", ["down", "up", "up without bias"])
    def test_equal_the_plain_composition(self, kind: str, size: tuple[int, int]) -> None:
        layer = DownConv(5, 7) if kind == "down" else UpConv(5, 7, bias=kind == "up")
        plain = plain_down if kind == "down" else plain_up
        x = torch.randn(3, 5, *size, requires_grad=True)
        inputs = [x, *layer.parameters()]
        assert len(inputs) == (2 if kind == "up without bias" else 3)
        expected = with_gradients(plain(layer, x), inputs)  # type: ignore[operator] # a layer and its own function
        for ours, theirs in zip(with_gradients(layer(x), inputs), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("layer", [DownConv(3, 4), UpConv(3, 4)])
    def test_tensors_are_those_of_a_plain_convolution(self, layer: nn.Conv2d) -> None:
        assert {key: value.shape for key, value in layer.state_dict().items()} == {
            key: value.shape for key, value in nn.Conv2d(3, 4, 3).state_dict().items()
        }

    @pytest.mark.parametrize("layer", [DownConv(3, 4), UpConv(3, 4)])
    def test_low_precision(self, layer: nn.Conv2d) -> None:
        x = torch.randn(2, 3, 8, 8)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = layer(x)
        assert low.dtype == torch.bfloat16
        torch.testing.assert_close(low.float(), layer(x), rtol=0.03, atol=0.03)


class TestBlocks:
    @pytest.mark.parametrize("norm", NORMS)
    def test_down(self, norm: Norm) -> None:
        block = DownBlock(4, 6, size=(8, 12), norm=norm).train()
        x = torch.randn(3, 4, 8, 12)
        axes = (0, 2, 3) if norm == "batch" else (1, 2, 3)

        def normalise(y: Tensor) -> Tensor:
            variance, mean = torch.var_mean(y, axes, correction=0, keepdim=True)
            return torch.relu((y - mean) / torch.sqrt(variance + 1e-5))

        first, second, short = block.residual[2], block.residual[5], block.shortcut[1]
        y = F.conv2d(normalise(x), first.weight, padding=1)
        expected = plain_down(second, normalise(y)) + F.conv2d(F.avg_pool2d(x, 2), short.weight, short.bias)
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)

    def test_up(self) -> None:
        block = UpBlock(6, 4).train()
        x = torch.randn(3, 6, 4, 5)

        def normalise(y: Tensor) -> Tensor:
            return torch.relu(F.batch_norm(y, None, None, training=True))

        first, second, short = block.residual[2], block.residual[5], block.shortcut[0]
        y = F.conv2d(normalise(plain_up(first, normalise(x))), second.weight, second.bias, padding=1)
        expected = y + F.conv2d(F.interpolate(x, scale_factor=2), short.weight, short.bias)
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("norm", ["layer", "group"])
    def test_norms_that_treat_images_alone(self, norm: Norm) -> None:
        critic = ResidualEncoder(in_channels=3, image_size=(16, 16), width=4, out_features=1, norm=norm).train()
        image = torch.randn(4, 3, 16, 16)
        torch.testing.assert_close(critic(image)[:1], critic(image[:1]))
        torch.testing.assert_close(critic.features(image)[2:], critic.features(image[2:]))

    def test_batch_norm_does_not(self) -> None:
        encoder = ResidualEncoder(in_channels=3, image_size=(16, 16), width=4, out_features=1).train()
        image = torch.randn(4, 3, 16, 16)
        assert (encoder(image)[:1] - encoder(image[:1])).abs().max() > 1e-4

    def test_group_norm_has_the_statistics_of_layer_norm(self) -> None:
        layer = ResidualEncoder(in_channels=1, image_size=(8, 16), width=4, out_features=2, norm="layer")
        group = ResidualEncoder(in_channels=1, image_size=(8, 16), width=4, out_features=2, norm="group")
        shared = {
            key: value for key, value in layer.state_dict().items() if value.ndim != 3
        }  # affine ones start as 1, 0
        group.load_state_dict(shared, strict=False)
        image = torch.randn(2, 1, 8, 16)
        torch.testing.assert_close(layer(image), group(image))

    def test_a_gradient_penalty_has_finite_gradients(self) -> None:
        critic = ResidualEncoder(in_channels=1, image_size=(8, 8), width=2, out_features=1, norm="layer")
        image = torch.randn(2, 1, 8, 8, requires_grad=True)
        (slope,) = torch.autograd.grad(critic(image).sum(), image, create_graph=True)
        (slope.flatten(1).norm(dim=1) - 1).square().sum().backward()
        for name, weight in critic.named_parameters():
            if weight.grad is not None:  # biases behind the last ReLU do not change the slope
                assert weight.grad.isfinite().all(), name
        stem = critic.trunk[0].weight.grad
        assert isinstance(stem, Tensor)
        assert stem.abs().max() > 0


class TestNetworks:
    @pytest.mark.parametrize(
        "size", [(8, 8), (16, 16), (32, 32), (64, 64), (128, 128), (256, 256), (32, 64), (48, 16), (256, 320), (8, 10)]
    )
    @pytest.mark.parametrize("channels", [1, 3])
    def test_image_to_vector_and_back(self, size: tuple[int, int], channels: int) -> None:
        encoder = ResidualEncoder(in_channels=channels, image_size=size, width=2, out_features=5).eval()
        decoder = ResidualDecoder(in_features=5, out_channels=channels, image_size=size, width=2).eval()
        image = torch.rand(2, channels, *size)
        factor = min(size) // 4
        with torch.no_grad():
            features, latent = encoder.features(image), encoder(image)
            reconstruction = decoder(latent)
        assert features.shape == (2, 2 * min(factor, 8) * (size[0] // factor) * (size[1] // factor))
        assert encoder.trunk_features == features.shape[1]
        torch.testing.assert_close(latent, encoder.head(features))
        assert latent.shape == (2, encoder.out_features) == (2, 5)
        assert reconstruction.shape == image.shape

    @pytest.mark.parametrize("size", [(8, 8), (128, 128)])
    def test_the_output_is_unbounded(self, size: tuple[int, int]) -> None:
        decoder = ResidualDecoder(in_features=3, out_channels=1, image_size=size, width=2)
        last = decoder.layers[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        latent = torch.randn(4, 3)
        before = decoder(latent)
        with torch.no_grad():
            last.bias += 100
        torch.testing.assert_close(decoder(latent), before + 100)

    def test_the_card_at_32_pixels(self) -> None:
        critic = ResidualEncoder(in_channels=3, image_size=(32, 32), out_features=1, norm="layer")
        encoder = ResidualEncoder(in_channels=3, image_size=(32, 32))
        decoder = ResidualDecoder(in_features=128, out_channels=3, image_size=(32, 32))
        levels = [("Conv2d", 3, 64, 3, 1), *down(64, 128), *down(128, 256), *down(256, 512)]
        assert convolutions(encoder) == convolutions(critic) == levels
        assert convolutions(decoder) == [*up(512, 256), *up(256, 128), *up(128, 64), ("Conv2d", 64, 3, 3, 1)]
        assert encoder.trunk_features == critic.trunk_features == 512 * 4 * 4

        stem = 3 * 64 * 9 + 64
        blocks = down_weights(64, 128, 2 * 64) + down_weights(128, 256, 2 * 128) + down_weights(256, 512, 2 * 256)
        assert blocks == 119_296 + 476_160 + 1_902_592
        assert weights_of(encoder) == stem + blocks + (8192 * 512 + 512) == 6_694_656
        planes = [64 * 32 * 32, 128 * 16 * 16, 256 * 8 * 8]  # elements that a layer norm weights
        norms = [2 * (2 * elements) - 2 * (2 * width) for elements, width in zip(planes, (64, 128, 256), strict=True)]
        assert weights_of(critic) == stem + blocks + sum(norms) + (8192 + 1) == 2_964_993
        ups = up_weights(512, 256) + up_weights(256, 128) + up_weights(128, 64)
        assert ups == 1_902_592 + 476_160 + 119_296
        assert weights_of(decoder) == (128 * 8192 + 8192) + ups + 2 * 64 + (64 * 3 * 9 + 3) == 3_556_675

    def test_the_card_at_256_pixels(self) -> None:
        critic = ResidualEncoder(in_channels=3, image_size=(256, 256), out_features=1, norm="layer")
        grouped = ResidualEncoder(in_channels=3, image_size=(256, 256), out_features=1, norm="group")
        decoder = ResidualDecoder(in_features=128, out_channels=3, image_size=(256, 256))
        blocks = [*down(64, 128), *down(128, 256), *down(256, 512), *down(512, 512)]
        levels = [("Conv2d", 3, 64, 5, 2), *blocks, ("Conv2d", 512, 512, 3, 2)]
        assert convolutions(critic) == convolutions(grouped) == levels
        ups = [*up(512, 512), *up(512, 256), *up(256, 128), *up(128, 64)]
        assert convolutions(decoder) == [("UpConv", 512, 512, 3, 1), *ups, ("Conv2d", 64, 3, 5, 1)]
        linear = decoder.layers[0]
        assert isinstance(linear, nn.Linear)
        assert (linear.in_features, linear.out_features) == (128, 8192)

        sizes = [(64, 128, 128**2), (128, 256, 64**2), (256, 512, 32**2), (512, 512, 16**2)]
        ends = (3 * 64 * 25 + 64) + (512 * 512 * 9 + 512) + (8192 + 1)
        layer = sum(down_weights(before, after, 2 * before * pixels) for before, after, pixels in sizes)
        group = sum(down_weights(before, after, 2 * before) for before, after, _ in sizes)
        assert weights_of(critic) == ends + layer == 17_715_201
        assert weights_of(grouped) == ends + group == 9_854_721
        expected = (128 * 8192 + 8192) + (512 * 512 * 9 + 512)
        expected += up_weights(512, 512) + up_weights(512, 256) + up_weights(256, 128) + up_weights(128, 64)
        assert weights_of(decoder) == expected + 2 * 64 + (64 * 3 * 25 + 3) == 10_903_363

    def test_an_end_alone_at_128_pixels(self) -> None:
        encoder = ResidualEncoder(in_channels=1, image_size=(128, 128), width=2, out_features=3)
        decoder = ResidualDecoder(in_features=3, out_channels=1, image_size=(128, 128), width=2)
        assert [layer[3:] for layer in convolutions(encoder)].count((3, 2)) == 0
        assert convolutions(encoder)[0] == ("Conv2d", 1, 2, 5, 2)
        assert convolutions(decoder)[0] == ("UpConv", 16, 16, 3, 1)
        assert convolutions(decoder)[-1] == ("Conv2d", 2, 1, 5, 1)

    @pytest.mark.parametrize("size", [(28, 28), (4, 4), (512, 512), (32, 36), (0, 0), (33, 32)])
    def test_sizes_that_cannot_be_halved_to_4(self, size: tuple[int, int]) -> None:
        with pytest.raises(ConfigError, match=r"8, 16, 32, 64, 128 or 256.*got \(\d+, \d+\).*28-pixel sets to 32"):
            ResidualEncoder(in_channels=1, image_size=size, width=2)
        with pytest.raises(ConfigError, match="8, 16, 32, 64, 128 or 256"):
            ResidualDecoder(in_features=3, out_channels=1, image_size=size, width=2)

    def test_another_image_is_refused(self) -> None:
        encoder = ResidualEncoder(in_channels=1, image_size=(16, 16), width=2)
        with pytest.raises(ShapeError, match=r"\(1, 16, 16\); got \(1, 32, 32\)"):
            encoder(torch.rand(1, 1, 32, 32))


@pytest.mark.parametrize("size", [32, 256])
def test_released_initial_weights(size: int) -> None:
    """Uniform after Glorot; 3 x 3 and 5 x 5 convolutions but the first of an encoder have sqrt(2) times the width."""
    torch.manual_seed(0)
    nets = nn.Sequential(
        ResidualEncoder(in_channels=3, image_size=(size, size), width=16, out_features=1, norm="layer"),
        ResidualDecoder(in_features=32, out_channels=3, image_size=(size, size), width=16),
    )
    glorot_weights(nets)
    kinds = set()
    for name, layer in nets.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        kernel = layer.weight[0, 0].numel()
        plain = isinstance(layer, nn.Linear) or kernel == 1 or name == "0.trunk.0"
        bound = (1 if plain else 2**0.5) * (6 / (kernel * (layer.weight.shape[0] + layer.weight.shape[1]))) ** 0.5
        assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound, name
        assert layer.bias is None or not layer.bias.any()
        kinds.add((type(layer).__name__, plain))
    assert kinds >= {("Linear", True), ("Conv2d", True), ("Conv2d", False), ("DownConv", False), ("UpConv", False)}

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from anomaly_suite.nn.deeplab import DeepLabNetwork

Make = Callable[..., DeepLabNetwork]


@pytest.mark.parametrize(("backbone", "low"), [("resnet18", 64), ("tf_efficientnet_lite0", 24), ("convnext_atto", 40)])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_levels_of_timm_networks_are_chosen_by_stride(
    on_meta: Make, backbone: str, low: int, output_stride: int
) -> None:
    network = on_meta(backbone=backbone, num_classes=7, width=16, output_stride=output_stride)
    maps = network.trunk(torch.rand(1, 3, 64, 128, device="meta"))
    assert maps[0].shape[1:] == (low, 16, 32)
    assert maps[-1].shape[2:] == (64 // output_stride, 128 // output_stride)
    assert network(torch.rand(1, 1, 65, 127, device="meta")).shape == (1, 7, 65, 127)
    assert [view[0].dilation[0] for view in network.aspp.features[1:]] == [96 // output_stride * i for i in (1, 2, 3)]


@pytest.mark.parametrize("output_stride", [8, 16])
def test_shifting_the_image_by_the_output_stride_shifts_the_trunk_by_one_cell(tiny: Make, output_stride: int) -> None:
    trunk = tiny(output_stride=output_stride).trunk.eval()
    image = torch.rand(1, 3, 16, 1024 + output_stride)
    with torch.no_grad():
        whole, shifted = (trunk(part)[-1] for part in (image[..., :-output_stride], image[..., output_stride:]))
    edge = 480 // output_stride  # beyond the receptive field of the border
    torch.testing.assert_close(whole[..., edge + 1 : -edge], shifted[..., edge : -edge - 1], rtol=1e-4, atol=1e-5)
    assert whole[..., edge + 1 : -edge].std(-1).max() > 1e-3  # not the same everywhere


def test_released_dilation_reaches_the_first_blocks(on_meta: Make) -> None:
    def first(released: bool, output_stride: int) -> list[tuple[int, int]]:
        network = on_meta(backbone="resnet50", released_dilation=released, output_stride=output_stride)
        convs = [network.trunk.net[stage][0].conv2 for stage in ("layer2", "layer3", "layer4")]
        return [(conv.dilation[0], conv.padding[0]) for conv in convs]

    assert first(False, 8) == [(1, 1), (1, 1), (2, 2)]
    assert first(True, 8) == [(1, 1), (2, 2), (4, 4)]
    assert first(True, 16) == [(1, 1), (1, 1), (2, 2)]


def test_released_dilation_keeps_the_size_of_the_maps(tiny: Make) -> None:
    shapes = [tuple(tiny(released_dilation=option)(torch.rand(1, 3, 40, 56)).shape) for option in (False, True)]
    assert shapes == [(1, 5, 40, 56)] * 2

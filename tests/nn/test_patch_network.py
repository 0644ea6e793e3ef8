from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.patch_network import PATCH_SIZES, PatchNetwork


class TestPatchNetwork:
    @pytest.mark.parametrize(
        ("size", "sides"),
        [(65, [61, 30, 26, 13, 9, 4, 1, 1]), (33, [29, 14, 10, 5, 4, 1]), (17, [12, 8, 4, 1])],
    )
    def test_sides_and_widths_on_one_patch(self, size: int, sides: list[int]) -> None:
        net, seen, channels = PatchNetwork(size=size, width=128), [], []
        for layer in net.layers:
            if not isinstance(layer, nn.LeakyReLU):
                layer.register_forward_hook(lambda _, __, out: seen.append(out.shape[2]))
        convolutions = [layer for layer in net.layers if isinstance(layer, nn.Conv2d)]
        assert net(torch.rand(2, 3, size, size)).shape == (2, 128)
        assert seen == sides
        channels = {65: [128, 128, 256, 256, 128], 33: [128, 256, 256, 128], 17: [128, 256, 256, 128]}[size]
        assert [layer.out_channels for layer in convolutions] == channels
        kernels = {65: [5, 5, 5, 4, 1], 33: [5, 5, 2, 4], 17: [6, 5, 5, 4]}[size]
        assert [layer.kernel_size for layer in convolutions] == [(kernel, kernel) for kernel in kernels]

    @pytest.mark.parametrize("size", [17, 33, 65])
    def test_layers(self, size: int) -> None:
        net = PatchNetwork(size=size, width=4)
        slopes = [layer.negative_slope for layer in net.layers if isinstance(layer, nn.LeakyReLU)]
        assert slopes == [5e-3] * (sum(isinstance(layer, nn.Conv2d) for layer in net.layers) - 1)
        assert isinstance(net.layers[-1], nn.Conv2d)
        kinds = {nn.Conv2d, nn.LeakyReLU, nn.MaxPool2d}  # no batch norm, and no dropout to disagree by chance
        assert {type(layer) for layer in net.layers} <= kinds

    @pytest.mark.parametrize("shape", [(40, 37), (33, 48), (35, 34)])
    @pytest.mark.parametrize("size", [17, 33, 65])
    def test_dense_is_patch_by_patch(self, size: int, shape: tuple[int, int]) -> None:
        torch.manual_seed(0)
        net, image = PatchNetwork(size=size, width=4), torch.randn(2, 3, *shape)
        with torch.no_grad():
            dense = net.dense(image)
            assert dense.shape == (2, 4, *shape)
            height, width = shape
            padded = F.pad(image, (size // 2,) * 4, mode="reflect")
            places = torch.stack([torch.randint(side, (30,)) for side in shape], 1).tolist()
            for row, column in [(0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1), *places]:
                patch = padded[:, :, row : row + size, column : column + size]
                torch.testing.assert_close(dense[:, :, row, column], net(patch), atol=1e-5, rtol=0)

    @pytest.mark.parametrize(("size", "before", "after"), [(17, 8, 8), (33, 16, 15), (65, 32, 27)])
    def test_a_pixel_changes_only_descriptors_of_patches_around_it(self, size: int, before: int, after: int) -> None:
        torch.manual_seed(0)
        net, image = PatchNetwork(size=size, width=2), torch.rand(1, 3, 90, 96)
        spot = image.clone()
        spot[:, :, 44, 47] += 100
        with torch.no_grad():
            changed = (net.dense(spot) - net.dense(image)).abs().amax((0, 1)) > 1e-4
        rows, columns = (changed.any(axis).nonzero().flatten() for axis in (1, 0))
        assert (44 - rows.min().item(), rows.max().item() - 44) == (after, before)
        assert (47 - columns.min().item(), columns.max().item() - 47) == (after, before)

    def test_an_image_too_small_to_be_continued(self) -> None:
        net = PatchNetwork(size=33, width=2)
        assert net.dense(torch.rand(1, 3, 17, 17)).shape == (1, 2, 17, 17)
        with pytest.raises(
            ShapeError, match="patches of 33 pixels need images of more than 16 pixels a side; got 16x40"
        ):
            net.dense(torch.rand(1, 3, 16, 40))

    def test_the_sizes_of_the_paper(self) -> None:
        assert PATCH_SIZES == (17, 33, 65)
        with pytest.raises(ConfigError, match="17, 33 or 65 pixels; got 16"):
            PatchNetwork(size=16, width=2)

from __future__ import annotations

import torch

from anomaly_suite.nn.deeplab.blocks import conv_norm_relu, resize


def test_a_block_keeps_height_and_width_and_has_no_bias() -> None:
    for side, dilation in ((1, 1), (3, 1), (3, 4)):
        block = conv_norm_relu(2, 5, side, dilation)
        assert block(torch.rand(2, 2, 9, 7)).shape == (2, 5, 9, 7)
        assert block[0].bias is None
        assert block(torch.randn(2, 2, 9, 7)).min() >= 0


def test_resizing_keeps_the_corners() -> None:
    ramp = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 3, 5)
    torch.testing.assert_close(resize(ramp, (2, 9))[0, 0, 0], torch.linspace(0, 4, 9))

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.nn.deeplab import PreActivationBlock


@pytest.mark.parametrize(("channels", "stride"), [((6, 6), 1), ((6, 8), 2), ((4, 6, 8), 1), ((4, 4, 6), 1)])
def test_block_equals_its_formula(channels: tuple[int, ...], stride: int) -> None:
    block = PreActivationBlock(6, channels, stride=stride, dilation=2, dropout=0.5).eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.running_mean = torch.randn(module.num_features)
            module.running_var = torch.rand(module.num_features) + 0.5
    state = block.state_dict()

    def active(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.0.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).clamp_min(0)

    x = torch.randn(2, 6, 10, 12)
    a = active(x, "bn1")
    projected = stride != 1 or channels[-1] != 6
    expected = F.conv2d(a, state["proj_conv.weight"], stride=stride) if projected else x
    y = a
    for number in range(1, len(channels) + 1):
        y = y if number == 1 else active(y, f"convs.bn{number}")
        weight, step = state[f"convs.conv{number}.weight"], stride if number == 1 else 1
        spread = {"stride": step, "padding": 2, "dilation": 2} if weight.shape[-1] == 3 else {"stride": step}
        y = F.conv2d(y, weight, **spread)
    torch.testing.assert_close(block(x), y + expected)
    assert {name.partition(".")[0] for name in state} == {"bn1", "convs", *(["proj_conv"] if projected else [])}


def test_dropout_takes_whole_channels_in_training_alone() -> None:
    block = PreActivationBlock(4, (4, 4), dropout=0.5)
    dropout = block.convs.get_submodule("dropout")
    assert isinstance(dropout, nn.Dropout2d)
    x = torch.rand(2, 4, 6, 6)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))

from __future__ import annotations

import torch
from torch import nn

from anomaly_suite.nn.layout import channels_last


def kernels() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3), nn.Linear(2, 2))


def test_weights_are_laid_out_again_and_stay_the_same_objects() -> None:
    net = kernels()
    before, weights = [weight.clone() for weight in net.parameters()], list(net.parameters())
    with torch.inference_mode():
        channels_last(net)
    assert net[2].weight.stride() == (36, 1, 12, 4)
    for weight, old, new in zip(weights, before, net.parameters(), strict=True):
        assert weight is new
        assert torch.equal(new, old)
    net[2](torch.rand(1, 4, 3, 3)).sum().backward()
    place = net[2].weight.data_ptr()
    channels_last(net)
    assert net[2].weight.data_ptr() == place  # nothing to do


def test_a_graph_takes_them_as_they_are() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            channels_last(self)
            return self.conv(x)

    net, x = Net(), torch.rand(2, 3, 5, 5)
    torch.export.export(net, (x,))
    torch.jit.trace(net, x, check_trace=False)
    torch.compile(net, backend="eager", fullgraph=True)(x)
    assert net.conv.weight.is_contiguous()

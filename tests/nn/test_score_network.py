from __future__ import annotations

import torch
from torch import nn

from anomaly_suite.nn.score_network import ScoreNetwork


def test_sizes_and_weights_of_the_release() -> None:
    net = ScoreNetwork(64)
    assert sum(weight.numel() for weight in net.parameters()) == 271_681
    assert [type(layer).__name__ for layer in net.layers] == ["Linear", "ReLU", "BatchNorm1d"] * 3 + ["Linear"]
    linear = [layer for layer in net.layers if isinstance(layer, nn.Linear)]
    assert all(not layer.bias.any() for layer in linear)
    bound = (6 / (64 + 1000)) ** 0.5  # Xavier's
    assert 0.98 * bound < linear[0].weight.detach().abs().max().item() <= bound
    assert net(torch.randn(5, 64)).shape == (5,)


def test_one_layer_and_a_single_training_sample() -> None:
    assert [type(layer).__name__ for layer in ScoreNetwork(8, hidden=()).layers] == ["Linear"]
    net = ScoreNetwork(8, hidden=(4,))
    assert net(torch.randn(1, 8)).isfinite().all()
    assert not net.layers[2].num_batches_tracked
    net(torch.randn(2, 8))
    assert net.layers[2].num_batches_tracked == 1

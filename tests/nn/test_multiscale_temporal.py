from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.multiscale_temporal import TemporalNetwork, blank

D, L = 16, 8


def settled(network: TemporalNetwork) -> TemporalNetwork:
    """The network in eval mode as training leaves it: no bias, scale or running statistic at its initial value."""
    layer: Any
    for layer in network.modules():
        if getattr(layer, "bias", None) is not None:
            torch.nn.init.normal_(layer.bias)
        if isinstance(layer, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(layer.weight)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return network.eval()


def slow_conv(x: Tensor, conv: Any, dilation: int = 1) -> Tensor:
    kernel = conv.weight.shape[2]
    out = torch.zeros(conv.weight.shape[0], x.shape[1])
    for t, tap in product(range(x.shape[1]), range(kernel)):
        source = t + (tap - kernel // 2) * dilation
        if 0 <= source < x.shape[1]:
            out[:, t] += conv.weight[:, :, tap] @ x[:, source]
    return out if conv.bias is None else out + conv.bias.unsqueeze(1)


def slow_norm(x: Tensor, norm: Any) -> Tensor:
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (x - norm.running_mean.unsqueeze(1)) * scale.unsqueeze(1) + norm.bias.unsqueeze(1)


def test_attention_starts_as_its_reduction() -> None:
    attention: Any = TemporalNetwork(feature_dim=D).attention
    x = torch.rand(5, D, L)
    for layer in (attention.train(), attention.eval()):
        assert torch.allclose(layer(x, None), layer.reduce(x).relu())


def test_attention_of_few_segments_is_summed_in_the_other_order() -> None:
    attention: Any = settled(TemporalNetwork(feature_dim=64)).attention
    x = torch.rand(3, 64, 5)  # fewer than the attention is wide
    for padding in (None, torch.tensor([[False] * 3 + [True] * 2]).expand(3, 1, 5)):
        expected = attention.train(False)(x, padding)
        attention.training = True  # its batch norm keeps its statistics
        torch.testing.assert_close(attention(x, padding), expected)
    assert attention.value(attention.reduce(x)).shape[1] > 5


def test_attention_alone_does_not_know_the_order_of_time() -> None:
    network: Any = settled(TemporalNetwork(feature_dim=D))
    x, order = torch.rand(2, D, L), torch.randperm(L)
    assert torch.allclose(network.attention(x[..., order], None), network.attention(x, None)[..., order], atol=1e-5)
    for part in (*network.branches, network.fuse):
        assert not torch.allclose(part(x[..., order]), part(x)[..., order], atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize(("variant", "fuse"), [("released", True), ("thesis", False)])
def test_temporal_network(variant: str, fuse: bool) -> None:
    options: Any = (
        {} if variant == "released" else {"fuse": fuse, "attention_width": "full", "attention_scaling": False}
    )
    network: Any = settled(TemporalNetwork(feature_dim=D, **options))
    x = torch.rand(D, 7)
    parts = []
    for (conv, _, norm), dilation in zip(network.branches, (1, 2, 4), strict=True):
        parts.append(slow_norm(slow_conv(x, conv, dilation).relu(), norm))
    attention = network.attention
    width = D // 8 if variant == "released" else D // 4
    assert attention.query.weight.shape == (width, D // 4, 1)
    reduced = slow_conv(x, attention.reduce).relu()
    query, key, value = (slow_conv(reduced, conv) for conv in (attention.query, attention.key, attention.value))
    attended = torch.zeros(width, 7)
    for t, u in product(range(7), range(7)):
        weight = float(query[:, t] @ key[:, u]) / (7 if variant == "released" else 1)
        attended[:, t] += weight * value[:, u]
    parts.append(slow_norm(slow_conv(attended, attention.expand), attention.norm) + reduced)
    joined = torch.cat(parts)
    if fuse:
        conv, _, norm = network.fuse
        joined = slow_norm(slow_conv(joined, conv).relu(), norm)
    assert torch.allclose(network(x.unsqueeze(0), None)[0], joined + x, atol=1e-4)


def test_zeros_and_ends_of_a_video_are_the_same_to_a_convolution() -> None:
    # Why padding is made zero before each convolution: that is what a convolution sees beyond the ends.
    network: Any = settled(TemporalNetwork(feature_dim=D))
    conv, x = network.branches[2][0], torch.rand(1, D, 5)
    assert torch.allclose(conv(F.pad(x, (0, 6)))[..., :5], conv(x), atol=1e-6)


def test_padding_is_blanked_and_changes_nothing_before_it() -> None:
    x, padding = torch.rand(2, D, 6), torch.zeros(2, 1, 6, dtype=torch.bool)
    padding[1, :, 4:] = True
    assert torch.equal(blank(x, padding)[1, :, 4:], torch.zeros(D, 2))
    assert blank(x, None) is x
    network = settled(TemporalNetwork(feature_dim=D))
    together = network(x.masked_fill(padding, torch.nan), padding)
    torch.testing.assert_close(together[:1], network(x[:1], None))
    torch.testing.assert_close(together[1:, :, :4], network(x[1:, :, :4], None))


def test_parts_that_do_not_add_up_need_the_fusion() -> None:
    assert TemporalNetwork(feature_dim=D, pdc=False)(torch.rand(2, D, L), None).shape == (2, D, L)
    with pytest.raises(ConfigError, match="need 16 channels; got 4"):
        TemporalNetwork(feature_dim=D, pdc=False, fuse=False)

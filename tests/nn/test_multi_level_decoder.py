"""The decoder: gated cross-attention against a loop over levels, closed and half-open gates, which levels are read."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anomaly_suite.nn.multi_level_decoder import DecoderBlock, Gate, GatedLevels, MultiLevelDecoder

WIDTH, HEADS, LEVELS = 12, 3, 4
GATES = pytest.mark.parametrize("gate", ["channel", "scalar"])


def layer(gate: Gate = "channel", **options: Any) -> GatedLevels:
    built = GatedLevels(width=WIDTH, heads=HEADS, levels=LEVELS, gate=gate, **options)
    for part in (built.q, built.kv, built.proj):
        nn.init.normal_(part.bias)
    nn.init.normal_(built.gate_bias)
    return built


def crossed(part: GatedLevels, query: Tensor, level: Tensor) -> Tensor:
    """C_l of one level by the library's attention."""
    library = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    with torch.no_grad():
        library.in_proj_weight.copy_(torch.cat([part.q.weight, part.kv.weight]))
        library.in_proj_bias.copy_(torch.cat([part.q.bias, part.kv.bias]))
        library.out_proj.load_state_dict(part.proj.state_dict())
    return library(query, level, level)[0]  # type: ignore[no-any-return]


@GATES
@pytest.mark.parametrize("scaled", [True, False])
def test_gated_sum_over_levels(gate: Gate, scaled: bool) -> None:
    part, query, levels = layer(gate, scaled=scaled), torch.randn(2, 7, WIDTH), torch.randn(LEVELS, 2, 5, WIDTH)
    expected = torch.zeros_like(query)
    for index, level in enumerate(levels):
        c = crossed(part, query, level)
        logit = torch.cat([query, c], 2) @ part.gate_weight[index] + part.gate_bias[index]
        expected = expected + logit.sigmoid() * c
    expected = expected / math.sqrt(LEVELS) if scaled else expected
    torch.testing.assert_close(part(query, levels), expected, rtol=1e-4, atol=1e-5)


@GATES
def test_half_open_and_closed_gates(gate: Gate) -> None:
    part, query, levels = layer(gate), torch.randn(2, 7, WIDTH), torch.randn(LEVELS, 2, 5, WIDTH)
    with torch.no_grad():
        part.gate_weight.zero_()
        part.gate_bias.zero_()
    half = 0.5 * sum(crossed(part, query, level) for level in levels) / math.sqrt(LEVELS)
    torch.testing.assert_close(part(query, levels), half, rtol=1e-4, atol=1e-5)
    nn.init.constant_(part.gate_bias, -30.0)
    assert part(query, levels).abs().max() < 1e-10
    block = DecoderBlock(width=WIDTH, heads=HEADS, cross=part, residual=True, cosine=False)
    plain = DecoderBlock(width=WIDTH, heads=HEADS, cross=None, residual=True, cosine=False)
    plain.load_state_dict({name: value for name, value in block.state_dict().items() if "cross" not in name})
    torch.testing.assert_close(block(query, levels), plain(query, levels))


@GATES
def test_gates_start_like_linear_maps_of_their_level(gate: Gate) -> None:
    part = GatedLevels(width=64, heads=4, levels=3, gate=gate)
    bound = math.sqrt(6 / (128 + (64 if gate == "channel" else 1)))
    assert bound * 0.9 < part.gate_weight.abs().max() <= bound
    assert not part.gate_bias.any()
    names = {name: tuple(weight.shape) for name, weight in part.named_parameters() if "gate" in name}
    outputs = 64 if gate == "channel" else 1
    assert names == {"gate_weight": (3, 128, outputs), "gate_bias": (3, 1, outputs)}


def test_without_the_residual_the_cross_attention_replaces_its_input() -> None:
    part, query, levels = layer(), torch.randn(2, 7, WIDTH), torch.randn(LEVELS, 2, 5, WIDTH)
    with torch.no_grad():
        part.gate_bias.fill_(-40.0)
    block = DecoderBlock(width=WIDTH, heads=HEADS, cross=part, residual=False, cosine=False)
    torch.testing.assert_close(
        block(query, levels), block(torch.randn(2, 7, WIDTH), levels)
    )  # nothing but the mlp's biases


def decoder(**options: Any) -> MultiLevelDecoder:
    options = {"levels": 3, "skips": True, **options}
    return MultiLevelDecoder(
        in_features=16, width=WIDTH, depth=4, heads=HEADS, grid=(2, 4), out_features=6, **options
    ).eval()


def test_every_level_is_read() -> None:
    net, levels, visible = decoder(), list(torch.randn(3, 2, 3, 16)), torch.tensor([[0, 3, 5], [7, 1, 2]])
    before = net(levels, visible)
    assert before.shape == (2, 8, 6)
    for index in range(3):
        zeroed = [torch.zeros_like(level) if place == index else level for place, level in enumerate(levels)]
        assert not torch.allclose(net(zeroed, visible), before, atol=1e-3), index
    for block in net.blocks:
        nn.init.constant_(block.cross.gate_bias, -30.0)  # type: ignore[union-attr, arg-type]
    closed = net(levels, visible)
    torch.testing.assert_close(net([0 * levels[0], 0 * levels[1], levels[2]], visible), closed)
    assert not torch.allclose(net([levels[0], levels[1], 0 * levels[2]], visible), closed, atol=1e-3)  # by its tokens


def test_a_plain_decoder_has_neither_gates_nor_other_levels() -> None:
    net, visible = decoder(levels=0), torch.tensor([[0, 3, 5]])
    assert not [name for name, _ in net.named_parameters() if "cross" in name or "gate" in name]
    assert net(list(torch.randn(1, 1, 3, 16)), visible).shape == (1, 8, 6)


def test_the_decoder_is_told_where_the_tokens_stand() -> None:
    net, levels = decoder(levels=0, skips=False), list(torch.randn(1, 1, 3, 16))
    visible, moved = torch.tensor([[0, 3, 5]]), torch.tensor([[1, 3, 5]])
    assert not torch.allclose(net(levels, visible), net(levels, moved), atol=1e-3)
    order = [2, 0, 1]  # tokens are a set
    torch.testing.assert_close(net([levels[0][:, order]], visible[:, order]), net(levels, visible))

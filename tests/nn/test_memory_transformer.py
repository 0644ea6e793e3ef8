"""The encoder: attention over tokens and memory against its formula, skips, initial weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.memory_transformer import MemoryAttention, MemoryEncoder, attend, run_blocks

WIDTH, HEADS, SLOTS = 12, 3, 5


def by_hand(layer: MemoryAttention, x: Tensor, *, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Output and attention rows, head by head; ``shift`` is added to what queries and memory give."""
    query, key, value = layer.qkv(x).chunk(3, 2)
    slots = 0
    if layer.memory_key is not None and layer.memory_value is not None:
        slots = len(layer.memory_key)
        key = torch.cat([key, layer.memory_key.expand(len(x), -1, -1)], 1)
        value = torch.cat([value, layer.memory_value.expand(len(x), -1, -1)], 1)
    parts, rows = [], []
    for q, k, v in zip(*(part.chunk(HEADS, 2) for part in (query, key, value)), strict=True):
        logits = q @ k.transpose(1, 2) / math.sqrt(WIDTH / HEADS)
        logits = logits + shift * (torch.arange(k.shape[1]) >= k.shape[1] - slots)
        rows.append(logits.softmax(2))
        parts.append(rows[-1] @ v)
    return layer.proj(torch.cat(parts, 2)), torch.stack(rows)


def test_attention_reads_tokens_and_memory() -> None:
    layer, x = MemoryAttention(width=WIDTH, heads=HEADS, slots=SLOTS), torch.randn(2, 7, WIDTH)
    expected, rows = by_hand(layer, x)
    assert rows.shape == (HEADS, 2, 7, 7 + SLOTS)
    torch.testing.assert_close(rows.sum(3), torch.ones(HEADS, 2, 7))
    torch.testing.assert_close(layer(x), expected)


def test_memory_out_of_reach_is_no_memory() -> None:
    layer, plain = MemoryAttention(width=WIDTH, heads=HEADS, slots=SLOTS), MemoryAttention(width=WIDTH, heads=HEADS)
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if "memory" not in name})
    x = torch.randn(2, 7, WIDTH)
    torch.testing.assert_close(by_hand(layer, x, shift=-1e4)[0], plain(x))
    assert not torch.allclose(layer(x), plain(x))


def test_without_memory_it_is_ordinary_attention() -> None:
    layer, library = MemoryAttention(width=WIDTH, heads=HEADS), nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    with torch.no_grad():
        library.in_proj_weight.copy_(layer.qkv.weight)
        library.in_proj_bias.copy_(layer.qkv.bias)
        library.out_proj.load_state_dict(layer.proj.state_dict())
    x = torch.randn(2, 7, WIDTH)
    torch.testing.assert_close(layer(x), library(x, x, x)[0])


def test_cosines_do_not_depend_on_lengths() -> None:
    query, key, value = torch.randn(3, 2, 3, 7, 4)
    found = attend(query, key, value, cosine=True)
    torch.testing.assert_close(found, attend(5 * query, 0.1 * key, value, cosine=True))
    cosine = nn.functional.cosine_similarity(query.unsqueeze(3), key.unsqueeze(2), dim=4)
    torch.testing.assert_close(found, (cosine.softmax(3) @ value).transpose(1, 2).flatten(2))


def test_memory_starts_at_the_size_at_which_it_is_used() -> None:
    layer = MemoryAttention(width=768, heads=12, slots=40)
    assert layer.memory_key is not None
    assert layer.memory_value is not None
    assert layer.memory_key.std().item() == pytest.approx(64**-0.5, rel=0.02)
    assert layer.memory_value.std().item() == pytest.approx(40**-0.5, rel=0.02)


class Add(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value


def test_skips_join_late_blocks_with_early_ones() -> None:
    powers = nn.ModuleList(Add(2.0**index) for index in range(8))
    outputs = run_blocks(powers, torch.zeros(1), skips=True)
    expected: list[float] = []
    x = 0.0
    for index, partner in enumerate([None] * 5 + [2, 1, 0]):
        x += 2.0**index + (expected[partner] if partner is not None else 0)
        expected.append(x)
    assert [value.item() for value in outputs] == expected
    assert [value.item() for value in run_blocks(powers, torch.zeros(1), skips=False)] == [
        2.0 ** (i + 1) - 1 for i in range(8)
    ]


def test_initial_weights() -> None:
    encoder = MemoryEncoder(width=48, depth=1, heads=4, patch_size=4, grid=(4, 4), slots=2)
    conv, linear = encoder.patch_embed.proj, encoder.blocks[0].mlp.fc1  # type: ignore[union-attr]
    for part, inputs, outputs in ((conv, 48, 48), (linear, 48, 192)):
        bound = math.sqrt(6 / (inputs + outputs))
        assert part.weight.abs().max() <= bound  # type: ignore[operator, union-attr]
        assert part.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)  # type: ignore[operator, union-attr]
        assert not part.bias.any()  # type: ignore[operator, union-attr]
    assert encoder.norm.eps == 1e-6


def test_levels_are_the_normalised_outputs_of_blocks() -> None:
    encoder = MemoryEncoder(width=16, depth=3, heads=4, patch_size=4, grid=(2, 2), slots=2)
    tokens = torch.randn(2, 3, 16)
    levels = encoder(tokens)
    x = tokens
    for level, block in zip(levels, encoder.blocks, strict=True):
        x = block(x)
        torch.testing.assert_close(level, encoder.norm(x))
    (last,) = encoder(tokens, every_level=False)
    assert torch.equal(last, levels[-1])


def test_an_embedded_patch_sees_its_own_pixels() -> None:
    encoder = MemoryEncoder(width=16, depth=1, heads=4, patch_size=4, grid=(2, 2))
    image = torch.rand(1, 3, 8, 8)
    changed = image.clone()
    changed[..., 4:, :4] = 0  # patch 2
    moved = (encoder.embed(image) - encoder.embed(changed)).abs().sum(2)[0]
    assert (moved > 0).tolist() == [False, False, True, False]


def test_heads_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"heads must divide the width of a token, 12; got 5\. Try 1, 2, 4 or 8"):
        MemoryAttention(width=12, heads=5)

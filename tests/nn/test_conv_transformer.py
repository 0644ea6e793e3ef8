"""The convolutional transformer: against slow loops, what sees what, padding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.conv_transformer import ConvAttention, ConvTransformer


def settled(module: nn.Module, width: int) -> Any:
    """In eval mode, with running statistics and affine weights other than their defaults."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean = 0.3 * torch.randn(width)
            part.running_var = 0.5 + torch.rand(width)
            nn.init.normal_(part.weight, 1, 0.3)
            nn.init.normal_(part.bias, 0, 0.3)
    return module.eval()


def slow_mix(rest: Tensor, mixer: nn.Module, stride: int, kernel: int) -> Tensor:
    """Depth-wise convolution and batch norm of one sequence (N, W), value by value."""
    if kernel == 1:
        return rest
    convolution, norm = mixer
    count, width = rest.shape
    rows = []
    for start in range(0, count, stride):
        row = torch.zeros(width)
        for channel in range(width):
            for tap in range(kernel):
                source = start + tap - kernel // 2
                if 0 <= source < count:
                    row[channel] += convolution.weight[channel, 0, tap] * rest[source, channel]
        rows.append((row - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias)
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("kernel", "stride", "scale"), [(3, 1, "head"), (3, 2, "width"), (5, 3, "head"), (1, 1, "width")]
)
@torch.no_grad()
def test_attention_equals_a_slow_loop(kernel: int, stride: int, scale: Any) -> None:
    width, heads, count = 6, 2, 7
    attention = settled(ConvAttention(width=width, heads=heads, kernel=kernel, kv_stride=stride, scale=scale), width)
    tokens = torch.randn(2, 1 + count, width)
    found = attention(tokens)
    for row in range(2):
        parts = [
            project(torch.cat([tokens[row, :1], slow_mix(tokens[row, 1:], mixer, step, kernel)]))
            for mixer, project, step in zip(attention.mixers, attention.projections, (1, stride, stride), strict=True)
        ]
        assert len(parts[1]) == 1 + math.ceil(count / stride)
        answers = torch.zeros(1 + count, width)
        for head in range(heads):
            columns = slice(3 * head, 3 * head + 3)
            query, key, value = (part[:, columns] for part in parts)
            for position in range(1 + count):
                products = [float(query[position] @ one) / math.sqrt(3 if scale == "head" else 6) for one in key]
                shares = [math.exp(product) for product in products]
                answers[position, columns] = sum(
                    share / sum(shares) * one for share, one in zip(shares, value, strict=True)
                )
        assert torch.allclose(found[row], attention.output(answers), atol=1e-5)


@torch.no_grad()
def test_a_block_normalises_before_each_part_and_adds() -> None:
    transformer = settled(ConvTransformer(width=4, depth=1, heads=2), 4)
    tokens = torch.randn(3, 5, 4)
    (block,) = transformer.blocks
    x = torch.cat([transformer.class_token.expand(3, 1, 4), tokens], 1)
    x = x + block.attention(nn.functional.layer_norm(x, (4,), block.attention_norm.weight, block.attention_norm.bias))
    _, wide, _, narrow = block.mlp
    x = x + narrow(nn.functional.gelu(wide(nn.functional.layer_norm(x, (4,)))))
    rest, class_token = transformer(tokens)
    assert torch.allclose(rest, x[:, 1:], atol=1e-6)
    assert torch.allclose(class_token, x[:, 0], atol=1e-6)
    assert wide.out_features == 16


def test_convolutions_see_neighbours_only() -> None:
    attention = settled(ConvAttention(width=4, heads=2), 4)
    rest = torch.randn(1, 4, 9)
    changed = rest.clone()
    changed[:, :, 5] += 1
    for mixer in attention.mixers:
        moved = (mixer(rest) != mixer(changed)).any(1).squeeze(0)
        assert moved.nonzero().flatten().tolist() == [4, 5, 6]


@pytest.mark.parametrize(("kernel", "equivariant"), [(1, True), (3, False)])
@torch.no_grad()
def test_only_convolutions_know_the_order(kernel: int, equivariant: bool) -> None:
    transformer = settled(ConvTransformer(width=8, depth=2, heads=4, kernel=kernel), 8)
    tokens, order = torch.randn(2, 6, 8), torch.tensor([3, 0, 5, 1, 4, 2])
    rest, class_token = transformer(tokens)
    shuffled, shuffled_class_token = transformer(tokens[:, order])
    assert torch.allclose(rest[:, order], shuffled, atol=1e-5) is equivariant
    assert torch.allclose(class_token, shuffled_class_token, atol=1e-6) is equivariant


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (5, 3)])
@torch.no_grad()
def test_padding_does_not_matter(kernel: int, stride: int) -> None:
    transformer = settled(ConvTransformer(width=8, depth=3, heads=2, kernel=kernel, kv_stride=stride), 8)
    length = torch.tensor([1, 4, 5, 9, 12])
    tokens = torch.randn(5, 12, 8)
    other = tokens.masked_fill((torch.arange(12) >= length.unsqueeze(1)).unsqueeze(2), 1e3)
    for padded in (tokens, other):
        rest, class_token = transformer(padded, length)
        for row, count in enumerate(length.tolist()):
            alone, alone_class_token = transformer(tokens[row : row + 1, :count])
            assert torch.allclose(rest[row, :count], alone[0], atol=1e-5)
            assert torch.allclose(class_token[row], alone_class_token[0], atol=1e-5)


def test_class_token_starts_small_and_is_cut_off() -> None:
    class_token = ConvTransformer(width=512, depth=1, heads=1, kernel=1).class_token.detach()
    assert class_token.shape == (1, 1, 512)
    assert float(class_token.std()) == pytest.approx(0.02, rel=0.1)
    assert float(class_token.mean()) == pytest.approx(0, abs=4e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "heads must divide the width of a token, 8; got 3"),
        ({"heads": 0}, "got 0"),
        ({"kernel": 2}, "kernel must be odd"),
        ({"kernel": -1}, "kernel must be odd"),
        ({"kv_stride": 0}, "kv_stride must be at least 1"),
        ({"kernel": 1, "kv_stride": 2}, "above 1 needs a convolution"),
        ({"depth": 0}, "depth must be at least 1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConvTransformer(**{"width": 8, "depth": 1, "heads": 2, **options})

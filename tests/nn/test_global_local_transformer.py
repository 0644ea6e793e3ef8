"""Attention to the whole video and to what is near, against loops; padding."""

from __future__ import annotations

import math

import pytest
import torch

from anomaly_suite.nn.global_local_transformer import GlobalLocalAttention, GlobalLocalTransformer, local_attention

HELD = torch.tensor([[True, True, True, True], [True, True, False, False]])


def test_local_attention_equals_a_loop() -> None:
    found = local_attention(HELD)
    for row, length in enumerate((4, 2)):
        for i in range(4):
            weight = [math.exp(-abs(i - j) / math.e) for j in range(length)]
            expected = [value / sum(weight) for value in weight] + [0.0] * (4 - length)
            assert found[row, i].tolist() == pytest.approx(expected, rel=1e-5)


def test_attention_equals_a_loop_over_heads() -> None:
    part = GlobalLocalAttention(width=6, heads=2, head_width=3, dropout=0.0)
    x = torch.randn(1, 4, 6)
    query, key, value, near = part.project(x[0]).chunk(4, 1)  # T (H w)
    parts = []
    for head in (slice(0, 3), slice(3, 6)):
        weight = (query[:, head] @ key[:, head].T / math.sqrt(3)).softmax(1)
        parts += [torch.cat([weight @ value[:, head], local_attention(HELD[:1])[0] @ near[:, head]], 1)]
    assert torch.allclose(part(x, HELD[:1])[0], part.join(torch.cat(parts, 1)), atol=1e-6)


def test_padding_changes_nothing() -> None:
    model = GlobalLocalTransformer(width=8, depth=2, heads=2, head_width=4, inner=8, dropout=0.5).eval()
    x = torch.randn(2, 4, 8)
    changed = x.clone()
    changed[1, 2:] = 50
    found = model(changed, HELD)
    assert torch.allclose(found[1, :2], model(x[1:, :2], HELD[1:, :2])[0], atol=1e-5)
    assert torch.allclose(found[0], model(x, HELD)[0], atol=1e-5)
    assert model(x, torch.zeros(2, 4, dtype=torch.bool)).isfinite().all()

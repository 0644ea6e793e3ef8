"""A transformer whose heads attend to the whole video and, beside it, to what is near in time.

Paper: Zhou, Yu and Yang, "Dual Memory Units with Uncertainty Regulation for Weakly Supervised Video Anomaly Detection", AAAI 2023.
Axes: S sequences, H heads, T snippets, W width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RANGE = math.e  # tau: snippets after which the local weight has fallen to 1 / e


def local_attention(held: Tensor) -> Tensor:
    """Weights exp(-|i - j| / e) of snippets j that are there, of which the sum is 1: bool (S, T) to float32 (S, T, T)."""
    position = torch.arange(held.shape[1], dtype=torch.float32, device=held.device)
    near = torch.exp(-(position.unsqueeze(1) - position).abs() / RANGE) * held.unsqueeze(1)
    return near / near.sum(2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


class GlobalLocalAttention(nn.Module):
    """Attention by products, and attention by distance in time to values of its own; both results go side by side through a linear layer.

    Args:
        width: W.
        heads: H.
        head_width: Of each head and kind.
        dropout: Of the result.
    """

    def __init__(self, *, width: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 4 * heads * head_width, bias=False)
        self.join = nn.Linear(2 * heads * head_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, held: Tensor) -> Tensor:
        """Shape (S, T, W) and bool (S, T), snippets that are there, to (S, T, W)."""
        query, key, value, near = self.project(x).unflatten(2, (4, self.heads, -1)).permute(2, 0, 3, 1, 4)  # S H T w
        # A row without any snippet is padding; it may attend to all.
        mask = held | ~held.any(1, keepdim=True)
        whole = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        around = local_attention(held).to(near.dtype).unsqueeze(1) @ near
        both = torch.cat([whole, around], 3).transpose(1, 2).flatten(2)
        joined: Tensor = self.dropout(self.join(both))
        return joined


class GlobalLocalTransformer(nn.Module):
    """Blocks of attention and two linear layers, each after a layer normalisation and added to what it takes.

    Args:
        width: W.
        depth: Blocks.
        heads: H.
        head_width: Of each head.
        inner: Width between the two linear layers.
        dropout: Of all results.
    """

    def __init__(self, *, width: int, depth: int, heads: int, head_width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.attentions = nn.ModuleList(
            GlobalLocalAttention(width=width, heads=heads, head_width=head_width, dropout=dropout) for _ in range(depth)
        )
        self.perceptrons = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout),
                nn.Linear(inner, width), nn.Dropout(dropout),
            )
            for _ in range(depth)
        )  # fmt: skip

    def forward(self, x: Tensor, held: Tensor) -> Tensor:
        """Transform sequences.

        Args:
            x: Shape (S, T, W).
            held: Bool (S, T), snippets that are there; the others change none of these.

        Returns:
            Shape (S, T, W), anything in padding.
        """
        for norm, attention, perceptron in zip(self.norms, self.attentions, self.perceptrons, strict=True):
            x = x + attention(norm(x), held)
            x = x + perceptron(x)
        return x

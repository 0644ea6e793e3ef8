"""A transformer over short sequences whose queries, keys and values first mix neighbouring tokens.

Paper: the convolutional transformer encoder of Tian et al., "Contrastive Transformer-based Multiple Instance Learning for
    Weakly Supervised Polyp Frame Detection", MICCAI 2022.
Axes: B sequences, N tokens, W token width, H heads.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError

INIT_STD = 0.02
MLP_RATIO = 4

AttentionScale = Literal["head", "width"]


class ConvAttention(nn.Module):
    """Self-attention; each of queries, keys and values comes from a depth-wise convolution over the tokens and a batch norm.

    The first token, the class token, takes part in the attention but not in the convolutions.

    Args:
        width: W.
        heads: H, a divisor of W.
        kernel: Tokens that one output of the convolutions sees, odd; 1 leaves convolutions and batch norms out.
        kv_stride: Step of the convolutions of keys and values: every ``kv_stride``-th token has a key.
        scale: Products of queries and keys are divided by the root of the width of a ``head``, or of the whole ``width``.

    Raises:
        ConfigError: options that do not fit together.
    """

    def __init__(
        self, *, width: int, heads: int, kernel: int = 3, kv_stride: int = 1, scale: AttentionScale = "head"
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ConfigError(f"heads must divide the width of a token, {width}; got {heads}. Try 1, 2, 4 or 8.")
        if kernel < 1 or kernel % 2 == 0:
            raise ConfigError(f"kernel must be odd, so that it has a middle; got {kernel}. Use 3, or 1 for none.")
        if kv_stride < 1 or (kv_stride > 1 and kernel == 1):
            raise ConfigError(
                f"kv_stride must be at least 1, and above 1 needs a convolution; got {kv_stride} with kernel {kernel}."
            )
        self.heads = heads
        self.kv_stride = kv_stride
        self.scale = float(width // heads if scale == "head" else width) ** -0.5
        self.mixers = nn.ModuleList(_mixer(width, kernel, stride) for stride in (1, kv_stride, kv_stride))
        self.projections = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor, length: Tensor | None = None) -> Tensor:
        """Mix tokens.

        Args:
            tokens: Shape (B, 1 + N, W), the class token first.
            length: Tokens of each sequence without the class token, shape (B,); N for all if None. What comes after them
                changes nothing before them.

        Returns:
            Shape (B, 1 + N, W).
        """
        class_token, rest = tokens[:, :1], tokens[:, 1:].transpose(1, 2)  # B W N
        if length is not None:  # zeros are what a convolution sees beyond the end of an unpadded sequence
            rest = rest.masked_fill(_after(length, rest.shape[2]).unsqueeze(1), 0)
        mixed = (torch.cat([class_token, mix(rest).transpose(1, 2)], 1) for mix in self.mixers)
        query, key, value = (
            project(part).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part, project in zip(mixed, self.projections, strict=True)
        )  # B H 1+N W/H
        mask = None
        if length is not None:
            keys = (length + self.kv_stride - 1) // self.kv_stride
            mask = ~_after(1 + keys, key.shape[2]).view(len(keys), 1, 1, -1)
        answer = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale)
        out: Tensor = self.output(answer.transpose(1, 2).flatten(2))
        return out


class ConvTransformer(nn.Module):
    """A class token, then blocks of :class:`ConvAttention` and a two-layer perceptron, normalised before each; no dropout.

    Args:
        width: W.
        depth: Blocks.
        heads: See :class:`ConvAttention`, as ``kernel``, ``kv_stride`` and ``scale``.
        kernel: Without convolutions (1) the order of the tokens does not matter.
        kv_stride: Every ``kv_stride``-th token has a key.
        scale: Of the products of queries and keys.

    Raises:
        ConfigError: options that do not fit together.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        kernel: int = 3,
        kv_stride: int = 1,
        scale: AttentionScale = "head",
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ConfigError(f"depth must be at least 1 block; got {depth}.")
        self.class_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=INIT_STD))
        self.blocks = nn.ModuleList(
            _Block(width, ConvAttention(width=width, heads=heads, kernel=kernel, kv_stride=kv_stride, scale=scale))
            for _ in range(depth)
        )

    def forward(self, tokens: Tensor, length: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode sequences.

        Args:
            tokens: Shape (B, N, W).
            length: Tokens of each sequence, shape (B,); N for all if None. What comes after them does not matter.

        Returns:
            The tokens, shape (B, N, W) with anything after ``length``, and the class token, shape (B, W).
        """
        tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1).to(tokens.dtype), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens, length)
        return tokens[:, 1:], tokens[:, 0]


class _Block(nn.Module):
    """Attention and a two-layer perceptron, each normalised before and added to its input."""

    def __init__(self, width: int, attention: ConvAttention) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = attention
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width)
        )

    def forward(self, tokens: Tensor, length: Tensor | None) -> Tensor:
        """Shape (B, 1 + N, W) to the same."""
        tokens = tokens + self.attention(self.attention_norm(tokens), length)
        out: Tensor = tokens + self.mlp(tokens)
        return out


def _mixer(width: int, kernel: int, stride: int) -> nn.Module:
    """Depth-wise convolution and batch norm, (B, W, N) to (B, W, ceil(N / stride))."""
    if kernel == 1:
        return nn.Identity()
    convolution = nn.Conv1d(width, width, kernel, stride=stride, padding=kernel // 2, groups=width, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm1d(width))


def _after(length: Tensor, count: int) -> Tensor:
    """True from position ``length`` on: (B,) to (B, count)."""
    return torch.arange(count, device=length.device) >= length.unsqueeze(1)

"""A transformer decoder that fills in hidden patches and reads every level of the encoder through learned gates.

Paper: cross-attention to all encoder levels, weighted by gates: Cornia et al., "Meshed-Memory Transformer for Image Captioning", CVPR 2020,
    section 3.2; its place in a masked autoencoder: Tian, thesis, ch. 7.
Axes: S sequences, N patches, K visible ones, L levels, D width of a token, E that of the encoder, h heads.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.nn.memory_transformer import EPS, MemoryAttention, Mlp, attend, initialize, run_blocks
from anomaly_suite.nn.patch_tokens import put_back, sine_cosine_positions

TOKEN_STD = 0.02  # of the mask token

Gate = Literal["channel", "scalar"]
"""Whether a gate has a value for every channel of a token, or one for the token."""


class GatedLevels(nn.Module):
    """``scale * sum over l of sigmoid(gate_l [q; C_l]) * C_l``, C_l being the cross-attention of the queries q to level l.

    Queries, keys, values and outputs have one projection each for all levels; every level has a gate.

    Args:
        width: D.
        heads: h, a divisor of D.
        levels: L.
        gate: See :data:`Gate`. A scalar gate can be taken before the output projection, which is then made once and not for
            every level.
        scaled: Divide the sum by the root of L.
        cosine: See :func:`~anomaly_suite.nn.memory_transformer.attend`.
    """

    def __init__(
        self, *, width: int, heads: int, levels: int, gate: Gate = "channel", scaled: bool = True, cosine: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.cosine = heads, cosine
        self.scale = levels**-0.5 if scaled else 1.0
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        outputs = width if gate == "channel" else 1
        bound = math.sqrt(6 / (2 * width + outputs))  # Xavier's, of each level's map
        self.gate_weight = nn.Parameter(torch.empty(levels, 2 * width, outputs).uniform_(-bound, bound))
        self.gate_bias = nn.Parameter(torch.zeros(levels, 1, outputs))

    def forward(self, query: Tensor, levels: Tensor) -> Tensor:
        """Queries (S, N, D) to levels (L, S, K, D): shape (S, N, D)."""
        count, width = levels.shape[0], query.shape[2]
        q = self.q(query).unflatten(2, (self.heads, -1)).transpose(1, 2)  # S h N d
        q = q.expand(count, -1, -1, -1, -1).flatten(0, 1)  # L*S h N d
        key, value = self.kv(levels).flatten(0, 1).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        answer = attend(q, key, value, cosine=self.cosine).reshape(count, -1, width)  # L S*N D
        flat = query.flatten(0, 1)
        of_query, of_level = self.gate_weight[:, :width], self.gate_weight[:, width:]
        if of_level.shape[2] == 1:
            # gate_l C_l = (gate_l W) answer_l + gate_l b, and W goes out of the sum.
            bias = self.gate_bias + self.proj.bias @ of_level.unsqueeze(1)
            logit = torch.baddbmm(bias.flatten(1).unsqueeze(2), answer, self.proj.weight.T @ of_level) + flat @ of_query
            alpha = logit.sigmoid()  # L S*N 1
            mixed = F.linear((alpha * answer).sum(0), self.proj.weight) + alpha.sum(0) * self.proj.bias
        else:
            crossed = self.proj(answer)
            logit = torch.baddbmm(self.gate_bias, crossed, of_level) + flat @ of_query
            mixed = (logit.sigmoid() * crossed).sum(0)
        return (self.scale * mixed).view_as(query)


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to the levels, perceptron, each normalised before.

    Args:
        width: D.
        heads: h.
        cross: Cross-attention to the levels; None for the block of an ordinary masked autoencoder.
        residual: Add the cross-attention to its input; off, it replaces it.
        cosine: Of the self-attention.
    """

    def __init__(self, *, width: int, heads: int, cross: GatedLevels | None, residual: bool, cosine: bool) -> None:
        super().__init__()
        self.residual = residual
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = MemoryAttention(width=width, heads=heads, cosine=cosine)
        self.cross = cross
        self.cross_norm = nn.LayerNorm(width, eps=EPS) if cross is not None else None
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, levels: Tensor) -> Tensor:
        """Tokens (S, N, D), with levels (L, S, K, D), to the shape of the tokens."""
        x = x + self.attn(self.norm1(x))
        if self.cross is not None and self.cross_norm is not None:
            crossed = self.cross(self.cross_norm(x), levels)
            x = x + crossed if self.residual else crossed
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class MultiLevelDecoder(nn.Module):
    """Outputs of an encoder's blocks at visible patches to the pixels of all patches.

    Its input is the last level at visible patches and one learned token at all others.

    Args:
        in_features: E.
        width: D, a multiple of 4.
        depth: Blocks.
        heads: h.
        levels: L; 0 leaves the cross-attention out.
        grid: Rows and columns of patches.
        out_features: Numbers of a patch.
        gate: See :class:`GatedLevels`, as for ``scaled``.
        scaled: Of the sum over levels.
        residual: See :class:`DecoderBlock`.
        skips: See :func:`~anomaly_suite.nn.memory_transformer.run_blocks`.
        cosine: See :func:`~anomaly_suite.nn.memory_transformer.attend`.

    Raises:
        ConfigError: heads that do not divide the width.
    """

    positions: Tensor

    def __init__(
        self,
        *,
        in_features: int,
        width: int,
        depth: int,
        heads: int,
        levels: int,
        grid: tuple[int, int],
        out_features: int,
        gate: Gate = "channel",
        scaled: bool = True,
        residual: bool = True,
        skips: bool = False,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        self.skips, self.levels = skips, levels
        self.embed = nn.Linear(in_features, width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, width) * TOKEN_STD)

        def cross() -> GatedLevels | None:
            """How one block reads the levels of the encoder, if it does."""
            options = {"width": width, "heads": heads, "levels": levels}
            return GatedLevels(**options, gate=gate, scaled=scaled, cosine=cosine) if levels else None

        self.blocks = nn.ModuleList(
            DecoderBlock(width=width, heads=heads, cross=cross(), residual=residual, cosine=cosine)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.pred = nn.Linear(width, out_features)
        self.register_buffer("positions", sine_cosine_positions(width, grid), persistent=False)
        initialize(self)

    def forward(self, levels: list[Tensor], visible: Tensor) -> Tensor:
        """Predict all patches.

        Args:
            levels: Outputs of the encoder's blocks, each (S, K, E); without cross-attention the last alone.
            visible: Numbers of the visible patches, int64 (S, K).

        Returns:
            Shape (S, N, ``out_features``).
        """
        read = self.embed(torch.stack(levels))  # L S K D
        tokens = put_back(read[-1], visible, self.mask_token, len(self.positions))
        tokens = tokens + self.positions.to(tokens.dtype)
        out: Tensor = self.pred(self.norm(run_blocks(self.blocks, tokens, read, skips=self.skips)[-1]))
        return out

"""A vision transformer over visible patches whose self-attention also reads learned memory.

Papers: Dosovitskiy et al., ViT, ICLR 2021; He et al., masked autoencoders, CVPR 2022; memory as keys and values beside those of the
    tokens: Cornia et al., "Meshed-Memory Transformer for Image Captioning", CVPR 2020, section 3.1.
Names of tensors are those of timm's ViT, so that published weights fit.
Axes: S sequences, N tokens, M memory slots, D width of a token, h heads, L levels (blocks), C channels, H and W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.exporting import is_exporting
from anomaly_suite.nn.patch_tokens import sine_cosine_positions

EPS = 1e-6  # of layer normalisation
MLP_RATIO = 4


def attend(query: Tensor, key: Tensor, value: Tensor, *, cosine: bool) -> Tensor:
    """Softmax attention of all heads.

    Args:
        query: Shape (S, h, N, d).
        key: Shape (S, h, N', d).
        value: The same shape.
        cosine: Compare by the cosine between queries and keys instead of their product over the root of d.

    Returns:
        Shape (S, N, h * d).
    """
    if cosine:
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
    answer = F.scaled_dot_product_attention(query, key, value, scale=1.0 if cosine else None)
    return answer.transpose(1, 2).flatten(2)


class MemoryAttention(nn.Module):
    """Self-attention whose keys and values go on with learned ones, the same for every input.

    Memory has no position and no projection. It is kept at the size at which it is used: keys with a deviation of 1 / sqrt(d),
    values of 1 / sqrt(M). The Meshed-Memory Transformer keeps it smaller and enlarges it in the forward pass, which under Adam makes
    it learn faster by the same factors.

    Args:
        width: D.
        heads: h, a divisor of D.
        slots: M; 0 for ordinary self-attention.
        cosine: See :func:`attend`.

    Raises:
        ConfigError: heads that do not divide the width.
    """

    def __init__(self, *, width: int, heads: int, slots: int = 0, cosine: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"heads must divide the width of a token, {width}; got {heads}. Try 1, 2, 4 or 8.")
        self.heads, self.cosine = heads, cosine
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.memory_key: nn.Parameter | None = None
        self.memory_value: nn.Parameter | None = None
        if slots:
            self.memory_key = nn.Parameter(torch.randn(slots, width) * (width // heads) ** -0.5)
            self.memory_value = nn.Parameter(torch.randn(slots, width) * slots**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (S, N, D) to the same."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each S h N d
        if self.memory_key is not None and self.memory_value is not None:
            key, value = self._extend(key, self.memory_key), self._extend(value, self.memory_value)
        out: Tensor = self.proj(attend(query, key, value, cosine=self.cosine))
        return out

    def _extend(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Keys or values (S, h, N, d) with those of the memory (M, D) behind them, (S, h, N + M, d)."""
        slots = memory.to(tokens.dtype).view(memory.shape[0], self.heads, -1).transpose(0, 1)  # h M d
        if is_exporting():  # a traced ONNX takes the number of sequences, by which slots are repeated, for fixed
            return F.pad(tokens, (0, 0, 0, len(memory))) + F.pad(slots, (0, 0, tokens.shape[2], 0))
        return torch.cat([tokens, slots.expand(tokens.shape[0], -1, -1, -1)], 2)


class Mlp(nn.Module):
    """Two layers with GELU between them, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (S, N, D) to the same."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class EncoderBlock(nn.Module):
    """Attention and a perceptron, each normalised before and added to its input."""

    def __init__(self, *, width: int, heads: int, slots: int, cosine: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = MemoryAttention(width=width, heads=heads, slots=slots, cosine=cosine)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (S, N, D) to the same."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbedding(nn.Module):
    """Images (B, 3, H, W) to tokens (B, N, D), one a patch."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """Shape (B, 3, H, W) to (B, N, D)."""
        out: Tensor = self.proj(image).flatten(2).transpose(1, 2)
        return out


class MemoryEncoder(nn.Module):
    """Blocks over the visible patches; no class token. A first embedding is no level, the blocks' outputs are.

    Args:
        width: D, a multiple of 4.
        depth: L.
        heads: h.
        patch_size: Side of a patch in pixels.
        grid: Rows and columns of patches.
        slots: M of each block, each with memory of its own; 0 for none.
        skips: Add the output of block ``L - 1 - j`` to the input of block j, for j above L / 2.
        cosine: See :func:`attend`.

    Raises:
        ConfigError: heads that do not divide the width.
    """

    positions: Tensor

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        patch_size: int,
        grid: tuple[int, int],
        slots: int = 0,
        skips: bool = False,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        self.skips = skips
        self.patch_embed = PatchEmbedding(width, patch_size)
        self.blocks = nn.ModuleList(
            EncoderBlock(width=width, heads=heads, slots=slots, cosine=cosine) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.register_buffer("positions", sine_cosine_positions(width, grid), persistent=False)
        initialize(self)

    def embed(self, image: Tensor) -> Tensor:
        """Tokens (B, N, D) of all patches of images (B, 3, H, W), with their positions; each sees its own pixels alone."""
        tokens: Tensor = self.patch_embed(image)
        return tokens + self.positions.to(tokens.dtype)

    def forward(self, tokens: Tensor, *, every_level: bool = True) -> list[Tensor]:
        """Visible tokens (S, K, D) to the normalised outputs of all L blocks, or of the last alone, each (S, K, D)."""
        levels = run_blocks(self.blocks, tokens, skips=self.skips)
        return [self.norm(level) for level in (levels if every_level else levels[-1:])]


def run_blocks(blocks: nn.ModuleList, x: Tensor, *more: Tensor, skips: bool) -> list[Tensor]:
    """Outputs of blocks that follow each other.

    Args:
        blocks: n of them, each of ``(x, *more)``.
        x: Shape (S, N, D).
        more: What every block is given beside it.
        skips: Add the output of block ``n - 1 - j`` to the input of block j, for j above n / 2.

    Returns:
        n tensors of the shape of ``x``.
    """
    outputs: list[Tensor] = []
    for index, block in enumerate(blocks):
        if skips and 2 * index > len(blocks):
            x = x + outputs[len(blocks) - 1 - index]
        x = block(x, *more)
        outputs.append(x)
    return outputs


def initialize(net: nn.Module) -> None:
    """Draw the linear maps and patch projections of a network as masked autoencoders do: Xavier's uniform weights, no biases."""
    for part in net.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.view(part.weight.shape[0], -1))
            if part.bias is not None:
                nn.init.zeros_(part.bias)

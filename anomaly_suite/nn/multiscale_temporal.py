"""The multi-scale temporal network of RTFM: dilated convolutions beside attention over the snippets of a video.

Paper: Tian et al., "Weakly-supervised Video Anomaly Detection with Robust Temporal Feature Magnitude Learning", ICCV 2021.
Differs: the attention is summed in the cheaper order for training or for videos, which without softmax is the same. Padding is seen as zeros, as beyond the ends.
Axes: S sequences, T snippets, D feature width, d channels of a branch, w of the attention.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError

DILATIONS = (1, 2, 4)


class TemporalAttention(nn.Module):
    """Self-attention over the snippets, without softmax (TSA): the products of queries and keys are the weights.

    Starts as its reduction alone: the batch norm after the attention has scale 0.

    Args:
        feature_dim: D.
        channels: d.
        width: w.
        scaled: Divide by the number of positions; without, attention grows with the length of a video.
    """

    def __init__(self, *, feature_dim: int, channels: int, width: int, scaled: bool) -> None:
        super().__init__()
        self.scaled = scaled
        self.reduce = nn.Conv1d(feature_dim, channels, 1, bias=False)
        self.query = nn.Conv1d(channels, width, 1)
        self.key = nn.Conv1d(channels, width, 1)
        self.value = nn.Conv1d(channels, width, 1)
        self.expand = nn.Conv1d(width, channels, 1)
        self.norm = nn.BatchNorm1d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Shape (S, D, T) to (S, d, T); ``padding``, bool (S, 1, T), marks what no position attends to."""
        reduced = self.reduce(x).relu()  # S d T
        value = blank(self.value(reduced), padding)  # S w T
        if self.scaled:
            value = value / (x.shape[2] if padding is None else (~padding).sum(2, keepdim=True))
        key, query = self.key(reduced).transpose(1, 2), self.query(reduced)
        few = self.training and x.shape[2] < value.shape[1]
        # T x T numbers for few segments; summed over the video first w x w numbers, for videos of any length.
        attended = value @ (key @ query) if few else value @ key @ query
        return self.norm(self.expand(attended)) + reduced  # type: ignore[no-any-return]


class TemporalNetwork(nn.Module):
    """Dilated convolutions beside attention, joined and added to the features (MTN).

    Args:
        feature_dim: D; each part has a quarter of it.
        pdc: Three convolutions of 3 snippets, dilated by 1, 2 and 4.
        tsa: :class:`TemporalAttention`. With neither of both the network is one convolution of kernel 1, without a
            shortcut: the ablation's baseline.
        fuse: A convolution of 3 snippets over the joined parts; without, they are added to the features as they are.
        attention_width: ``full`` is d, ``half`` half of it.
        attention_scaling: Divide attention by the number of snippets.

    Raises:
        ConfigError: without fusion, parts that do not add up to D.
    """

    def __init__(
        self,
        *,
        feature_dim: int,
        pdc: bool = True,
        tsa: bool = True,
        fuse: bool = True,
        attention_width: Literal["half", "full"] = "half",
        attention_scaling: bool = True,
    ) -> None:
        super().__init__()
        channels = max(1, feature_dim // 4)
        width = channels if attention_width == "full" else max(1, channels // 2)
        joined = channels * (len(DILATIONS) * pdc + tsa)
        if joined and joined != feature_dim and not fuse:
            raise ConfigError(
                f"fuse: false adds joined parts to the features, which then need {feature_dim} channels; got {joined}. "
                "Use pdc and tsa together and a feature_dim divisible by 4, or fuse: true."
            )
        self.pointwise = None if joined else nn.Conv1d(feature_dim, feature_dim, 1)
        self.branches = nn.ModuleList(
            _activated(nn.Conv1d(feature_dim, channels, 3, padding=dilation, dilation=dilation))
            for dilation in (DILATIONS if pdc else ())
        )
        attention = {"feature_dim": feature_dim, "channels": channels, "width": width}
        self.attention = TemporalAttention(**attention, scaled=attention_scaling) if tsa else None
        last = nn.Conv1d(joined, feature_dim, 3, padding=1, bias=False) if joined and fuse else None
        self.fuse = None if last is None else _activated(last)

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """Shape (S, D, T) to the same; ``padding``, bool (S, 1, T), is seen as zeros and may come out as anything."""
        features = blank(features, padding)
        if self.pointwise is not None:
            return self.pointwise(features)  # type: ignore[no-any-return]
        parts = [branch(features) for branch in self.branches]  # S d T each
        if self.attention is not None:
            parts.append(self.attention(features, padding))
        joined = torch.cat(parts, 1)  # S D T
        if self.fuse is not None:
            joined = self.fuse(blank(joined, padding))
        return joined + features


def _activated(convolution: nn.Conv1d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.ReLU(), nn.BatchNorm1d(convolution.out_channels))


def blank(x: Tensor, padding: Tensor | None) -> Tensor:
    """Zeros at padding.

    Args:
        x: Shape (S, C, T).
        padding: Bool, shape (S, 1, T); None where there is none.
    """
    return x if padding is None else x.masked_fill(padding, 0)

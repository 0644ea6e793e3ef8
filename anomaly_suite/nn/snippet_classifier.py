"""A score for every snippet from its own feature alone.

Axes: ... leading axes, D feature width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SnippetClassifier(nn.Module):
    """Linear layers, each followed by ReLU and dropout, then a linear layer and a sigmoid in float32.

    Args:
        feature_dim: D.
        hidden: Widths of the hidden layers; none makes it one linear layer.
        dropout: Share of hidden values dropped in training.
    """

    def __init__(self, *, feature_dim: int, hidden: Sequence[int] = (512, 128), dropout: float = 0.7) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out in zip((feature_dim, *hidden), hidden, strict=False):
            layers += [nn.Linear(width_in, width_out), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1] if hidden else feature_dim, 1))

    def forward(self, snippet_features: Tensor) -> Tensor:
        """Scores of snippet features: shape (..., D) to (...), float32 in [0, 1]."""
        return self.logits(snippet_features).sigmoid()

    def logits(self, snippet_features: Tensor) -> Tensor:
        """The same before the sigmoid, for losses that take logarithms: shape (..., D) to (...), float32."""
        logit: Tensor = self.layers(snippet_features)
        return logit.squeeze(-1).float()

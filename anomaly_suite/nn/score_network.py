"""The score inference network: features to one unbounded score.

Source: Pang et al., "Deep anomaly detection with deviation networks", KDD 2019, in the form of FSAD-Net's released code.
Axes: B batch, D width of the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn


class ScoreNetwork(nn.Module):
    """Linear layers, each but the last followed by a rectifier and batch normalisation, in this order.

    Weights are Xavier-uniform, biases 0.

    Args:
        in_features: D.
        hidden: Widths between; none of them is one linear layer.
    """

    def __init__(self, in_features: int, *, hidden: Sequence[int] = (1000, 200, 20)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((in_features, *hidden), hidden, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.BatchNorm1d(after)]
        self.layers = nn.Sequential(*layers, nn.Linear((in_features, *hidden)[-1], 1))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, feature: Tensor) -> Tensor:
        """Features (B, D) to scores (B,). A single training sample uses running statistics: it has none of its own."""
        if self.training:
            self.layers.train(len(feature) > 1)
        return cast(Tensor, self.layers(feature)).squeeze(1)

"""A graph network that cleans the scores of a video's snippets: what is near in time or alike is to be scored alike.

Paper: Zhong et al., "Graph Convolutional Label Noise Cleaner: Train a Plug-and-play Action Classifier for Anomaly Detection", CVPR 2019.
Axes: M videos, T snippets, D feature width, W hidden width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Similarity = Literal["max", "softmax"]

GRAPH_WIDTH = 32


def normalized(adjacency: Tensor) -> Tensor:
    """Divide by the roots of the sums of both rows, D^-1/2 A D^-1/2: shape (M, T, T); rows of zeros stay.

    Example:
        >>> normalized(torch.tensor([[[1.0, 3.0], [3.0, 1.0]]]))
        tensor([[[0.2500, 0.7500],
                 [0.7500, 0.2500]]])
    """
    degree = adjacency.sum(2)
    scale = degree.where(degree > 0, 1).rsqrt()
    return scale.unsqueeze(2) * adjacency * scale.unsqueeze(1)


def temporal_graph(vertex: Tensor) -> Tensor:
    """Edges of exp(-|i - j|) between the vertices at snippets i and j, normalised: bool (M, T) to (M, T, T)."""
    position = torch.arange(vertex.shape[1], dtype=torch.float32, device=vertex.device)
    near = torch.exp(-(position.unsqueeze(1) - position).abs())
    return normalized(near * _pairs(vertex))


def similarity_graph(hidden: Tensor, vertex: Tensor, *, kind: Similarity = "max") -> Tensor:
    """Edges by the products of hidden features.

    Args:
        hidden: Shape (M, T, W).
        vertex: Bool (M, T); others have no edge.
        kind: ``max``, exp of a product less the greatest of its row, then normalised, as in the release; it is not symmetric. ``softmax``, rows
            that sum to 1.

    Returns:
        Shape (M, T, T).
    """
    pair = _pairs(vertex)
    product = hidden @ hidden.transpose(1, 2)
    product = product.to(torch.promote_types(product.dtype, torch.float32)).masked_fill(~pair, -torch.inf)
    peak = product.amax(2, keepdim=True).where(vertex.unsqueeze(2), 0)
    weight = (product - peak).exp()
    if kind == "max":
        return normalized(weight)
    total = weight.sum(2, keepdim=True)
    return weight / total.where(total > 0, 1)


def _pairs(vertex: Tensor) -> Tensor:
    return vertex.unsqueeze(2) & vertex.unsqueeze(1)


class GraphBranch(nn.Module):
    """Two graph convolutions A x W without bias, a ReLU between them: features (M, T, W) to logits (M, T).

    Args:
        width: W.
        hidden: Width between them.
    """

    def __init__(self, *, width: int, hidden: int = GRAPH_WIDTH) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(width, hidden).uniform_(-(hidden**-0.5), hidden**-0.5))
        self.second = nn.Parameter(torch.empty(hidden, 1).uniform_(-1, 1))

    def forward(self, hidden: Tensor, adjacency: Tensor) -> Tensor:
        """Logits of vertices, 0 of others.

        Args:
            hidden: Shape (M, T, W).
            adjacency: Shape (M, T, T), the same for both.

        Returns:
            Shape (M, T).
        """
        adjacency = adjacency.to(hidden.dtype)
        mixed = (adjacency @ (hidden @ self.first)).relu()
        logit: Tensor = (adjacency @ (mixed @ self.second)).squeeze(2)
        return logit


class LabelGraph(nn.Module):
    """Two layers on every snippet, then the mean of a branch on the temporal and one on the similarity graph.

    Args:
        feature_dim: D.
        hidden: Widths of the two layers.
        dropout: Share of their values dropped in training.
        similarity: See :func:`similarity_graph`.
    """

    def __init__(
        self, *, feature_dim: int, hidden: tuple[int, int], dropout: float, similarity: Similarity = "max"
    ) -> None:
        super().__init__()
        wide, narrow = hidden
        self.layers = nn.Sequential(
            nn.Linear(feature_dim, wide), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(dropout),
        )  # fmt: skip
        self.temporal = GraphBranch(width=narrow)
        self.alike = GraphBranch(width=narrow)
        self.similarity: Similarity = similarity

    def forward(self, features: Tensor, vertex: Tensor) -> Tensor:
        """Logits of the vertices, of others 0.

        Args:
            features: Shape (M, T, D); they are given length 1.
            vertex: Bool (M, T).

        Returns:
            Float32, shape (M, T).
        """
        hidden = self.layers(F.normalize(features, dim=2))
        in_time = self.temporal(hidden, temporal_graph(vertex))
        alike = self.alike(hidden, similarity_graph(hidden, vertex, kind=self.similarity))
        logit: Tensor = (in_time.float() + alike.float()) / 2
        return logit

"""DeepMIL: the highest score of an anomalous video is to exceed the highest score of a normal one.

Paper: Sultani, Chen and Shah, "Real-world Anomaly Detection in Surveillance Videos", CVPR 2018.
Reference: the authors' Keras and MATLAB release (WaqasSultani/AnomalyDetectionCVPR2018) is described by our notes; no code
    was read.
Differs: features are normalised after they were averaged to segments, as the release does, where the paper does it before.
    Batches may hold unequal numbers of both classes. Everything else has an option: the paper's Adagrad at 1e-2 for C3D
    features, Adam at 1e-4 for I3D features, maximum or mean of the k highest, sums or means.
Axes: B bags, N normal and M anomalous ones, C crops, T snippets, L segments, D feature width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_suite.contract import SEGMENTS, Batch, pool_segments
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.weak_video.bags import BagModule, crop_portions, smoothness, top_mean

HIDDEN = (512, 32)  # section 3.2
DROPOUT = 0.6


def ranking_loss(normal: Tensor, anomalous: Tensor) -> Tensor:
    """Hinge of every normal with every anomalous bag: a mean over normal ones of a sum over anomalous ones.

    Args:
        normal: Scores of normal bags, shape (N,).
        anomalous: Scores of anomalous bags, shape (M,).

    Returns:
        Scalar, 0 or more; M where all scores are equal.

    Source:
        Equation 6 of the paper, over all pairs as in the release.

    Example:
        >>> ranking_loss(torch.tensor([0.0]), torch.tensor([1.0])), ranking_loss(torch.tensor([1.0]), torch.tensor([0.0]))
        (tensor(0.), tensor(2.))
    """
    return (1 - anomalous + normal.unsqueeze(1)).relu().sum(1).mean()


def ranking_network(feature_dim: int, hidden: tuple[int, int], dropout: float) -> nn.Sequential:
    """The network of the paper, which scores every snippet by itself: features (..., D) to logits (..., 1).

    Args:
        feature_dim: D.
        hidden: Widths of the two hidden layers.
        dropout: Share of hidden values dropped in training.
    """
    wide, narrow = hidden
    network = nn.Sequential(
        nn.Linear(feature_dim, wide), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(wide, narrow), nn.Dropout(dropout),  # no ReLU between, as in the release
        nn.Linear(narrow, 1),
    )  # fmt: skip
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network


class DeepMIL(BagModule):
    """Multiple-instance ranking: the best snippet of an anomalous video must outscore the best one of a normal video.

    Args:
        feature_dim: Width of the snippet features; 2048 for I3D ResNet-50, 4096 for C3D.
        hidden: Widths of the two hidden layers.
        dropout: Share of hidden values dropped in training.
        normalize: Give every segment or snippet length 1 before the network, as for C3D features.
        top_k: A video's score in training is the mean of its ``top_k`` highest; 1 is the paper's maximum.
        reduction: ``sum`` adds over anomalous bags and averages over normal ones, as the paper does, so the ranking loss
            starts near the number of bags; ``mean`` divides it and the two penalties by that number.
        smoothness_weight: Of squared differences of neighbouring scores of anomalous bags.
        sparsity_weight: Of the scores of anomalous bags.
        weight_penalty: Of the squared weights (not the biases).
        optimizer: ``adagrad`` or ``adam``.
        lr: Learning rate; 1e-2 goes with Adagrad, 1e-4 with Adam.
        weight_decay: Of Adam, in place of ``weight_penalty``.
        mode: ``snippets`` scores every snippet of a test video; ``segments`` averages it to segments first, as the paper
            does, and gives every snippet the score of its segment.
        segments: L.

    Raises:
        ConfigError: an option out of its range.

    Source:
        Equations 6 and 7 of the paper.
    """

    def __init__(
        self,
        *,
        feature_dim: int = 2048,
        hidden: tuple[int, int] = HIDDEN,
        dropout: float = DROPOUT,
        normalize: bool = False,
        top_k: int = 1,
        reduction: Literal["sum", "mean"] = "sum",
        smoothness_weight: float = 8e-5,
        sparsity_weight: float = 8e-5,
        weight_penalty: float = 1e-3,
        optimizer: Literal["adagrad", "adam"] = "adagrad",
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        mode: Literal["snippets", "segments"] = "snippets",
        segments: int = SEGMENTS,
    ) -> None:
        super().__init__(feature_dim=feature_dim, segments=segments)
        if top_k < 1 or not 0 <= dropout < 1:
            raise ConfigError(f"top_k must be at least 1 and dropout in [0, 1); got {top_k} and {dropout}.")
        self.save_hyperparameters()
        self.normalize = normalize
        self.top_k = top_k
        self.mode = mode
        self.scorer = ranking_network(feature_dim, hidden, dropout)

    def segment_scores(self, features: Tensor) -> Tensor:
        """Score each feature by itself: shape (B, C, L, D) to (B, L), the mean over crops, float32 in [0, 1]."""
        return self._crop_scores(features).mean(1)

    def _crop_scores(self, features: Tensor) -> Tensor:
        if self.normalize:
            features = F.normalize(features, dim=-1)
        logit: Tensor = self.scorer(features)
        return logit.squeeze(-1).float().sigmoid()  # B C L

    def snippet_scores(self, snippet_features: Tensor, length: Tensor) -> Tensor:
        """Scores of all snippets, shape (B, C, T, D) to (B, T)."""
        by_segment = self.mode == "segments"
        crops = (
            pool_segments(few, self.segments, length) if by_segment else few
            for few in crop_portions(snippet_features, apart=True)
        )
        score = torch.cat([self._crop_scores(few) for few in crops], 1).mean(1)
        if not by_segment:
            return score
        position = torch.arange(snippet_features.shape[2], device=score.device)
        # The last segment that holds the snippet: with fewer snippets than segments, several do, and all score alike.
        segment = ((position + 1) * self.segments - 1) // length.unsqueeze(1)
        return score.gather(1, segment.clamp(max=self.segments - 1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Ranking loss of all pairs, smoothness and sparsity of anomalous bags, penalty of weights."""
        bags = self.bags(batch)
        score = self.segment_scores(bags.snippet_features)
        normal, anomalous = score[: bags.normal], score[bags.normal :]
        best = top_mean(score, self.top_k)
        ranking = ranking_loss(best[: bags.normal], best[bags.normal :])
        smooth, sparse = smoothness(anomalous).sum(), anomalous.sum()
        loss: Tensor = ranking + self.hparams["smoothness_weight"] * smooth + self.hparams["sparsity_weight"] * sparse
        if self.hparams["reduction"] == "mean":
            loss = loss / bags.anomalous
        penalty = sum(layer.weight.float().square().sum() for layer in self.scorer if isinstance(layer, nn.Linear))
        loss = loss + self.hparams["weight_penalty"] * penalty
        values = {"loss": loss, "ranking": ranking, "smoothness": smooth, "sparsity": sparse}
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=len(score))
        self.log("train/score_gap", anomalous.amax(1).mean() - normal.amax(1).mean(), batch_size=len(score))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adagrad or Adam at a constant rate."""
        options: dict[str, Any] = {"lr": self.hparams["lr"], "weight_decay": self.hparams["weight_decay"]}
        if self.hparams["optimizer"] == "adagrad":
            return torch.optim.Adagrad(self.parameters(), eps=1e-8, **options)
        return torch.optim.Adam(self.parameters(), **options)

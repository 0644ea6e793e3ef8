"""AR-Net: the highest quarter of a video's snippets learn its label, and normal videos are to score alike throughout.

Paper: Wan et al., "Weakly Supervised Video Anomaly Detection via Center-Guided Discriminative Learning", ICME 2020.
Reference: the authors' PyTorch release is described by our notes; no code was read.
Differs: of a training video with more than ``segments`` snippets those are averaged to so many, where the release draws a window of a
    normal video and jittered steps of an anomalous one; shorter ones are taken as they are, and data modules that pool to ``data.segments`` have
    done this before. One stream of features: RGB and optical flow together are features of twice the width. Cross-entropies are computed from
    logits. A score is the mean over crops, where the release has one crop.
Published figures: the best checkpoint on the test set, of one every 200 steps, in the release. Here the last one is tested.
Axes: B bags, N normal ones, C crops, T snippets, D feature width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from anomaly_suite.contract import Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.weak_video.bags import (
    BagModule,
    bag_means,
    crop_portions,
    highest,
    soft_cross_entropy,
    valid_snippets,
)
from anomaly_suite.nn.snippet_classifier import SnippetClassifier

Variant = Literal["paper", "released"]

ALPHA = 4  # one snippet in so many is selected
MOST_SNIPPETS = 300  # T_max


def selected_count(length: Tensor, alpha: float) -> Tensor:
    """Selected snippets of every video, k: lengths (B,) to counts (B,), divided by alpha and rounded up.

    Example:
        >>> selected_count(torch.tensor([1, 4, 5, 300]), 4)
        tensor([ 1,  1,  2, 75])
    """
    return (length / alpha).ceil().long()


def dynamic_loss(
    logit: Tensor, label: Tensor, length: Tensor, *, alpha: float = ALPHA, variant: Variant = "paper"
) -> Tensor:
    """L_dmil: cross-entropy of the highest scores of every video with its label.

    Args:
        logit: Shape (B, C, T); a score is the mean over crops of the sigmoids.
        label: Shape (B,), 0 or 1.
        length: Snippets of each video, shape (B,).
        alpha: One snippet in so many is selected, at least 1; 1 selects all.
        variant: ``paper``, a mean inside each video, then over videos; ``released``, one mean over all selected snippets, in which long videos
            weigh more.

    Returns:
        Scalar, 0 or more.
    """
    target = label.to(logit.dtype).unsqueeze(1).expand(-1, logit.shape[2])
    chosen = highest(logit.detach().sigmoid().mean(1), selected_count(length, alpha), length)
    loss = soft_cross_entropy(logit, target)
    if variant == "paper":
        return bag_means(loss, chosen).mean()
    return loss.masked_fill(~chosen, 0).sum() / chosen.sum()


def center_loss(snippet_score: Tensor, length: Tensor, *, variant: Variant = "paper") -> Tensor:
    """L_c: mean over normal videos of the variance of their scores.

    Args:
        snippet_score: Scores of normal videos, shape (N, T).
        length: Snippets of each, shape (N,).
        variant: ``paper``, over the snippets of a video, divided by their number; ``released``, over all T rows, padding too, divided by T - 1.

    Returns:
        Scalar, 0 or more; 0 where the scores of every video are equal.
    """
    if variant == "released":
        return snippet_score.var(1, correction=min(1, snippet_score.shape[1] - 1)).mean()
    held = valid_snippets(length, snippet_score.shape[1])
    center = bag_means(snippet_score, held).unsqueeze(1)  # the gradient flows through it, too
    return bag_means((snippet_score - center).square(), held).mean()


class ARNet(BagModule):
    """Dynamic multiple-instance learning, and a centre that the scores of a normal video keep to.

    Args:
        feature_dim: D; 1024 for one stream of I3D, 2048 for both side by side.
        hidden: Width of the hidden layer; D if null.
        dropout: Share of hidden values dropped in training.
        alpha: A video's label is learned by its highest scores, one snippet in ``alpha``.
        center_weight: Of the variance of the scores of normal videos; lambda.
        variant: How the losses are averaged, see :func:`dynamic_loss` and :func:`center_loss`.
        lr: Learning rate of Adam, constant.
        weight_decay: Of Adam, added to gradients.
        segments: Most snippets of a training video, T_max; longer ones are averaged to so many.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(
        self,
        *,
        feature_dim: int = 2048,
        hidden: int | None = None,
        dropout: float = 0.7,
        alpha: float = ALPHA,
        center_weight: float = 20.0,
        variant: Variant = "paper",
        lr: float = 1e-4,
        weight_decay: float = 5e-4,
        segments: int = MOST_SNIPPETS,
    ) -> None:
        super().__init__(feature_dim=feature_dim, segments=segments)
        if alpha < 1:
            raise ConfigError(f"alpha must be at least 1, which selects all snippets; got {alpha}. The paper has 4.")
        self.save_hyperparameters()
        self.alpha = alpha
        self.variant: Variant = variant
        self.classifier = SnippetClassifier(
            feature_dim=feature_dim, hidden=(feature_dim if hidden is None else hidden,), dropout=dropout
        )
        for layer in self.classifier.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def snippet_scores(self, snippet_features: Tensor, length: Tensor) -> Tensor:
        """Scores of all snippets, the mean over crops: shape (B, C, T, D) to (B, T)."""
        return torch.cat([self.classifier(few) for few in crop_portions(snippet_features)], 1).mean(1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of the selected snippets, and the variance inside normal videos."""
        bags = self.bags(batch, whole=True)
        logit = self.classifier.logits(bags.snippet_features)  # B C T
        score = logit.sigmoid().mean(1)
        classified = dynamic_loss(logit, bags.label, bags.length, alpha=self.alpha, variant=self.variant)
        spread = center_loss(score[: bags.normal], bags.length[: bags.normal], variant=self.variant)
        loss: Tensor = classified + self.hparams["center_weight"] * spread
        values = {"loss": loss, "classification": classified, "center": spread}
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=len(score))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam at a constant rate, its weight decay coupled to the gradients."""
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"])

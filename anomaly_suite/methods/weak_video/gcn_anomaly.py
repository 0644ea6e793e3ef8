"""GCN-Anomaly: every snippet of an anomalous video is labelled so at first; a graph network cleans the labels, and the classifier learns again.

Paper: Zhong et al., "Graph Convolutional Label Noise Cleaner: Train a Plug-and-play Action Classifier for Anomaly Detection", CVPR 2019.
Reference: the authors' release (Python 2) is described by our notes; no code was read.
Differs: the classifier learns on fixed features, the network of DeepMIL with cross-entropy, where the paper trains C3D or TSN; rates and epochs of
    the classifier are ours. Nothing is kept of single videos: cleaned labels are computed anew in every step by frozen networks, and the
    running average of a snippet's outputs is the output of the running average of the cleaner's weights, mixed with the scores that it
    starts from in the same proportions. So memory does not grow with the data set, and several processes share all there is. Uncertainty is the
    variance over crops; with one crop, over sub-networks of the classifier. A graph has the snippets of one whole video, the mean of its crops; of a video of more than ``segments``
    they are averaged, where the release cuts out 4,000. Where less than 4 snippets are certain, the 4 scored farthest from one half are. Both
    layers of the similarity branch share one graph, as released.
Axes: B bags, N normal and M anomalous ones, C crops, T snippets, D feature width, R sub-networks.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.contract import Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.weak_video.bags import (
    BagModule,
    Bags,
    bag_means,
    crop_portions,
    highest,
    min_max,
    soft_cross_entropy,
    valid_snippets,
)
from anomaly_suite.methods.weak_video.deep_mil import DROPOUT, HIDDEN, ranking_network
from anomaly_suite.nn.label_graph import LabelGraph, Similarity

CONFIDENT_SHARE = 0.3  # share of the snippets, the most certain ones, that teach the cleaner
FEWEST = 4  # certain snippets
NEIGHBOURS = 4  # of a certain snippet, on both sides, that are vertices too
AVERAGE = 0.5  # of the running average of outputs
LR_DECAY, LR_DECAY_EPOCHS = 0.1, 5  # of the cleaner


def confident_snippets(score: Tensor, variance: Tensor, length: Tensor) -> Tensor:
    """H, the snippets whose score is most certain: three in ten, or the four most extreme scores where that is fewer.

    Args:
        score: Shape (M, T).
        variance: Of the score, shape (M, T).
        length: Snippets of each video, shape (M,).

    Returns:
        Bool (M, T).
    """
    count = (CONFIDENT_SHARE * length).long()
    certain = highest(-variance, count, length)
    extreme = highest((score - 0.5).abs(), torch.full_like(length, FEWEST), length)
    return torch.where((count < FEWEST).unsqueeze(1), extreme, certain)


def with_neighbours(chosen: Tensor, length: Tensor) -> Tensor:
    """Snippets at most four away from a chosen one, the vertices of the graph: bool (M, T) and lengths (M,) to bool (M, T)."""
    near = F.max_pool1d(chosen.float().unsqueeze(1), 2 * NEIGHBOURS + 1, 1, NEIGHBOURS).squeeze(1) > 0
    return near & valid_snippets(length, chosen.shape[1])


def relabel(score: Tensor, cleaned: Tensor, vertex: Tensor, length: Tensor) -> Tensor:
    """Labels of an anomalous video: cleaned scores where there are any, stretched to [0, 1].

    Args:
        score: Of the classifier, shape (M, T).
        cleaned: Scores of the cleaner, shape (M, T).
        vertex: Where they are, bool (M, T).
        length: Snippets of each video, shape (M,).

    Returns:
        Shape (M, T); zeros in padding.
    """
    return min_max(torch.where(vertex, cleaned, score), length)


def direct_loss(logit: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
    """Cross-entropy of the cleaner with the scores of chosen snippets: three tensors (B, T) to the mean of each video (B,)."""
    return bag_means(F.binary_cross_entropy_with_logits(logit, target, reduction="none"), chosen)


def indirect_loss(logit: Tensor, average: Tensor, vertex: Tensor) -> Tensor:
    """Distance of the cleaner's scores to the running average: logits, averages, bool, all (M, T), to the mean over vertices (M,)."""
    return bag_means((logit.sigmoid() - average).abs(), vertex)


def average_share(epochs: int) -> float:
    """Share of the outputs in a running average after some epochs; the rest is what it started from.

    Example:
        >>> [average_share(epochs) for epochs in range(3)]
        [0.0, 0.5, 0.75]
    """
    return 1 - AVERAGE**epochs


class GCNAnomaly(BagModule):
    """A classifier of snippets, whose labels a graph network cleans between rounds of its training.

    The classifier learns for ``classifier_epochs``, at first from the labels of videos; then in each round the cleaner learns for
    ``cleaner_epochs`` and the classifier from cleaned labels, after the last round until the end. The classifier alone scores.

    Args:
        feature_dim: D.
        hidden: Widths of the two hidden layers of the classifier.
        dropout: Share of hidden values dropped in training, in both networks.
        normalize: Give every snippet length 1 before the classifier, as for C3D features; the cleaner does so always.
        rounds: Times that labels are cleaned; 0 learns from the labels of videos alone.
        classifier_epochs: Before each cleaning.
        cleaner_epochs: Of each cleaning.
        cleaner_widths: Widths of the two layers before its graphs.
        similarity: See :func:`~anomaly_suite.nn.label_graph.similarity_graph`.
        uncertainty_samples: Sub-networks of the classifier whose scores tell how certain a snippet of a single crop is.
        lr: Learning rate of Adam, of the classifier.
        weight_decay: Of both optimisers.
        cleaner_lr: Learning rate of SGD at the start of each cleaning; a tenth every five epochs.
        momentum: Of SGD.
        segments: Most snippets of a training video; longer ones are averaged to so many.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(
        self,
        *,
        feature_dim: int = 2048,
        hidden: tuple[int, int] = HIDDEN,
        dropout: float = DROPOUT,
        normalize: bool = False,
        rounds: int = 2,
        classifier_epochs: int = 20,
        cleaner_epochs: int = 20,
        cleaner_widths: tuple[int, int] = (512, 128),
        similarity: Similarity = "max",
        uncertainty_samples: int = 8,
        lr: float = 1e-4,
        weight_decay: float = 5e-4,
        cleaner_lr: float = 1e-4,
        momentum: float = 0.9,
        segments: int = 300,
    ) -> None:
        super().__init__(feature_dim=feature_dim, segments=segments)
        if uncertainty_samples < 2:
            raise ConfigError(
                f"uncertainty_samples must be at least 2, to have a variance; got {uncertainty_samples}. The default is 8."
            )
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.normalize = normalize
        self.rounds, self.classifier_epochs, self.cleaner_epochs = rounds, classifier_epochs, cleaner_epochs
        self.scorer = ranking_network(feature_dim, hidden, dropout)
        self.cleaner = LabelGraph(
            feature_dim=feature_dim, hidden=cleaner_widths, dropout=dropout, similarity=similarity
        )
        self._cleans = False  # in the present epoch
        self.labeller = copy.deepcopy(self.scorer).requires_grad_(False)  # the classifier before the round
        self.average = copy.deepcopy(self.cleaner).requires_grad_(False)  # of the cleaner over the epochs of the round

    # Scores ------------------------------------------------------------------------------------------------------------

    def snippet_scores(self, snippet_features: Tensor, length: Tensor) -> Tensor:
        """Scores of all snippets, the mean over crops: shape (B, C, T, D) to (B, T)."""
        return torch.cat([self._logits(self.scorer, few).sigmoid() for few in crop_portions(snippet_features)], 1).mean(
            1
        )

    def _logits(self, scorer: nn.Module, features: Tensor) -> Tensor:
        """Shape (B, C, T, D) to (B, C, T)."""
        logit: Tensor = scorer(F.normalize(features, dim=-1) if self.normalize else features)
        return logit.squeeze(-1).float()

    @torch.no_grad()
    def scores_and_variances(self, snippet_features: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the classifier before the round, and how much crops, or else sub-networks, differ.

        Args:
            snippet_features: Shape (B, C, T, D).

        Returns:
            Two of shape (B, T).
        """
        score = self._logits(self.labeller, snippet_features).sigmoid()  # B C T
        if score.shape[1] > 1:
            return score.mean(1), score.var(1, correction=0)
        return score.squeeze(1), self._of_sub_networks(snippet_features).var(0, correction=0).squeeze(1)

    def _of_sub_networks(self, features: Tensor) -> Tensor:
        """Scores (R, B, C, T) of the same sub-networks in every step, so that labels do not change from one to the next."""
        generator = torch.Generator().manual_seed(0)
        value = F.normalize(features, dim=-1) if self.normalize else features
        for layer in self.labeller.children():
            if isinstance(layer, nn.Dropout):
                shape = (self.hparams["uncertainty_samples"], value.shape[-1])
                kept = torch.rand(shape, generator=generator, dtype=torch.float32) >= layer.p
                scale = (kept / (1 - layer.p)).to(value)
                value = value * scale.view(-1, *[1] * (features.ndim - 1), scale.shape[1])
            else:
                value = layer(value)
        return value.squeeze(-1).float().sigmoid()

    # Rounds ------------------------------------------------------------------------------------------------------------

    def place(self, epoch: int) -> tuple[int, bool, int]:
        """Cleanings that have begun, whether one is under way, and epochs since the present phase began."""
        if epoch < self.classifier_epochs or not self.rounds:
            return 0, False, epoch
        length = self.classifier_epochs + self.cleaner_epochs
        number, since = divmod(epoch - self.classifier_epochs, length)
        if number >= self.rounds:
            return self.rounds, False, epoch - self.rounds * length
        cleans = since < self.cleaner_epochs
        return number + 1, cleans, since if cleans else since - self.cleaner_epochs

    def at_rest(self) -> list[nn.Module]:
        """What the present epoch does not train, or the last one of a fit that is over."""
        return [self.labeller, self.average, self.scorer if self._cleans else self.cleaner]

    def on_train_start(self) -> None:
        """Warn if no label would be cleaned."""
        super().on_train_start()
        self._cleans = self.place(self.current_epoch)[1]
        if self.rounds:
            self.warn_of_first_phase("learns from the labels of videos", "classifier_epochs", self.classifier_epochs)

    def on_train_epoch_start(self) -> None:
        """At the start of a cleaning freeze the classifier; later in it, move the average of the cleaner."""
        super().on_train_epoch_start()
        _, self._cleans, since = self.place(self.current_epoch)
        if not self._cleans:
            return
        if since:
            self.move_average(since)
            return
        self.labeller.load_state_dict(self.scorer.state_dict())
        self.average.load_state_dict(self.cleaner.state_dict())
        self.trainer.optimizers[1].state.clear()

    @torch.no_grad()
    def move_average(self, epochs: int) -> None:
        """Take the cleaner of this epoch, so many after the start of the round, into the average: half of it is the last, a quarter the one before."""
        share = (1 - AVERAGE) / average_share(epochs)
        for mean, weight in zip(self.average.parameters(), self.cleaner.parameters(), strict=True):
            mean.lerp_(weight, share)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """A step of the classifier or, in a cleaning, of the cleaner."""
        bags = self.bags(batch, whole=True)
        cleaned, cleans, since = self.place(self.current_epoch)
        # Set in every step: a run that is resumed within an epoch does not start that epoch.
        self.scorer.train(not cleans)
        self.cleaner.train(cleans)
        self.labeller.eval()
        self.average.eval()
        classifier, cleaner = self._optimizers()
        if cleans:
            for group in cleaner.param_groups:
                group["lr"] = self.hparams["cleaner_lr"] * LR_DECAY ** (since // LR_DECAY_EPOCHS)
            self.step_alone(cleaner, losses=[self._cleaner_loss(bags, since)])
            return
        target = self.targets(bags, cleaned=cleaned > 0)
        held = valid_snippets(bags.length, target.shape[1])
        loss = bag_means(soft_cross_entropy(self._logits(self.scorer, bags.snippet_features), target), held).mean()
        self.log("train/loss", loss.detach(), batch_size=len(target))
        self.step_alone(classifier, losses=[loss])

    @torch.no_grad()
    def targets(self, bags: Bags, *, cleaned: bool) -> Tensor:
        """Labels of all snippets: 0 in normal videos; in anomalous ones 1, or what the cleaner makes of it.

        Args:
            bags: Whole videos.
            cleaned: Whether there was a cleaning.

        Returns:
            Shape (B, T); zeros in padding.
        """
        held = valid_snippets(bags.length, bags.snippet_features.shape[2])
        if not cleaned:
            return (held & (bags.label == 1).unsqueeze(1)).float()
        features, length = bags.snippet_features[bags.normal :], bags.length[bags.normal :]
        score, variance = self.scores_and_variances(features)
        vertex = with_neighbours(confident_snippets(score, variance, length), length)
        label = relabel(score, self.cleaner(features.mean(1), vertex).sigmoid(), vertex, length)
        return torch.cat([label.new_zeros(bags.normal, label.shape[1]), label])

    def _cleaner_loss(self, bags: Bags, epochs: int) -> Tensor:
        """Mean over videos of the direct and, for anomalous ones, the indirect loss; the running average is ``epochs`` old."""
        normal, features = bags.normal, bags.snippet_features.mean(1)  # B T D
        held = valid_snippets(bags.length, features.shape[1])
        score, variance = self.scores_and_variances(bags.snippet_features)
        score = score.masked_fill((bags.label == 0).unsqueeze(1), 0)
        chosen, vertex = held.clone(), held.clone()
        length = bags.length[normal:]
        chosen[normal:] = confident_snippets(score[normal:], variance[normal:], length)
        vertex[normal:] = with_neighbours(chosen[normal:], length)
        logit = self.cleaner(features, vertex)
        with torch.no_grad():
            output = self.average(features[normal:], vertex[normal:]).sigmoid()
        average = torch.lerp(score[normal:], output, average_share(epochs))
        direct = direct_loss(logit, score, chosen)
        indirect = indirect_loss(logit[normal:], average, vertex[normal:])
        self.log_dict(
            {"train/cleaning": direct.detach().mean(), "train/consistency": indirect.detach().mean()},
            batch_size=len(logit),
        )
        return (direct.sum() + indirect.sum()) / len(logit)

    def _optimizers(self) -> list[Any]:
        return self.optimizers()  # type: ignore[return-value] # two

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the classifier, SGD for the cleaner."""
        decay = self.hparams["weight_decay"]
        return [
            torch.optim.Adam(self.scorer.parameters(), lr=self.hparams["lr"], weight_decay=decay),
            torch.optim.SGD(
                self.cleaner.parameters(),
                lr=self.hparams["cleaner_lr"],
                momentum=self.hparams["momentum"],
                weight_decay=decay,
            ),
        ]

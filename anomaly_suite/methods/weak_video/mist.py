"""MIST, its first stage on features: what a ranking network says of snippets, smoothed, is the label from which a second one learns.

Paper: Feng, Hong and Zheng, "MIST: Multiple Instance Self-Training Framework for Video Anomaly Detection", CVPR 2021.
Reference: the authors' PyTorch release is described by our notes; no code was read.
Differs: the second stage of the paper trains I3D or C3D with an attention module on the videos themselves; here a second network of the first
    one's shape, which begins as its copy, learns from the pseudo labels on fixed features, with the paper's loss. Pseudo labels are computed in every step by the first network,
    which then rests, so none are stored; those of a video of more than ``segments`` snippets are of its averages. ``ranking: group`` is what the paper says of
    the score of a video, ``snippets`` what the release does. Where scores of a video are all equal, its labels are zeros, where the release divides by zero.
Published figures: those of the second stage on videos, the best checkpoint on the test set.
Axes: B bags, N normal and M anomalous ones, C crops, T snippets, D feature width, G groups of S snippets.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anomaly_suite.contract import Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.weak_video.bags import (
    BagModule,
    Bags,
    bag_means,
    crop_portions,
    log_probabilities,
    min_max,
    smoothness,
    top_mean,
    valid_snippets,
)
from anomaly_suite.methods.weak_video.deep_mil import DROPOUT, HIDDEN, ranking_network

Ranking = Literal["snippets", "group"]
NormalLabels = Literal["zero", "scores"]

SMOOTHING_WIDTH, SMOOTHING_TIMES = 5, 2  # of the moving average over pseudo labels
GENERATOR_CLIP, DETECTOR_CLIP = 10.0, 20.0  # greatest norms of gradients


def sample_groups(length: Tensor, shift: Tensor, *, groups: int, size: int) -> Tensor:
    """Places of groups of consecutive snippets, which start at equal steps; the last snippet is repeated where a video is shorter than a group.

    Args:
        length: Snippets of each video, shape (B,).
        shift: Of all groups of a video, as a share of a step, in [0, 1), shape (B,).
        groups: G.
        size: S.

    Returns:
        Long, shape (B, G * S).

    Example:
        >>> sample_groups(torch.tensor([8]), torch.tensor([0.0]), groups=2, size=4)
        tensor([[0, 1, 2, 3, 2, 3, 4, 5]])
    """
    step = (length - size).clamp_min(0).unsqueeze(1) / groups
    start = ((torch.arange(groups, device=length.device) + shift.unsqueeze(1)) * step).long()  # B G
    place = start.unsqueeze(2) + torch.arange(size, device=length.device)
    return torch.minimum(place.flatten(1), length.unsqueeze(1) - 1)


def video_scores(snippet_score: Tensor, *, size: int, ranking: Ranking = "snippets") -> Tensor:
    """Score of each video: scores (B, G * S) of groups of ``size`` snippets to (B,).

    ``snippets`` takes the mean of the ``size`` highest of all, ``group`` the mean of the best group.
    """
    if ranking == "snippets":
        return top_mean(snippet_score, size)
    return snippet_score.reshape(len(snippet_score), -1, size).mean(2).amax(1)


def pair_loss(normal: Tensor, anomalous: Tensor) -> Tensor:
    """Mean hinge over all pairs of a normal score (N,) and an anomalous one (M,); 1 where all are equal."""
    return (1 - anomalous + normal.unsqueeze(1)).relu().mean()


def moving_average(snippet_score: Tensor, length: Tensor) -> Tensor:
    """Mean of five neighbouring scores; beyond the ends of a video its first and last score count again.

    Args:
        snippet_score: Shape (B, T).
        length: Snippets of each video, shape (B,).

    Returns:
        Shape (B, T), anything in padding.
    """
    offset = torch.arange(SMOOTHING_WIDTH, device=length.device) - SMOOTHING_WIDTH // 2
    place = torch.arange(snippet_score.shape[1], device=length.device).unsqueeze(1) + offset  # T 5
    place = torch.minimum(place.clamp_min(0), length.view(-1, 1, 1) - 1)  # B T 5
    return snippet_score.gather(1, place.flatten(1)).view(place.shape).mean(2)


def pseudo_labels(snippet_score: Tensor, label: Tensor, length: Tensor, *, normal: NormalLabels = "zero") -> Tensor:
    """Labels of snippets: scores smoothed twice, in anomalous videos stretched to [0, 1].

    Args:
        snippet_score: Shape (B, T).
        label: Of videos, shape (B,).
        length: Snippets of each video, shape (B,).
        normal: Those of normal videos: ``zero``, as the paper has it, or their smoothed ``scores``, as the release.

    Returns:
        Shape (B, T); zeros in padding.
    """
    for _ in range(SMOOTHING_TIMES):
        snippet_score = moving_average(snippet_score, length)
    held = valid_snippets(length, snippet_score.shape[1])
    others = torch.zeros_like(snippet_score) if normal == "zero" else snippet_score.masked_fill(~held, 0)
    return torch.where((label == 1).unsqueeze(1), min_max(snippet_score, length), others)


def weighted_loss(logit: Tensor, target: Tensor, length: Tensor, weights: tuple[float, float]) -> Tensor:
    """Cross-entropy with soft labels, a weight for each class: mean over the snippets of a video, then over videos.

    Args:
        logit: Shape (B, C, T).
        target: Shape (B, T).
        length: Snippets of each video, shape (B,).
        weights: Of the normal and of the anomalous share of a label.

    Returns:
        Scalar, 0 or more.
    """
    sure, other = log_probabilities(logit)
    loss = -(weights[1] * target * sure + weights[0] * (1 - target) * other)
    return bag_means(loss, valid_snippets(length, target.shape[1])).mean()


class MIST(BagModule):
    """A network that ranks videos makes pseudo labels of snippets, from which another learns.

    For ``generator_epochs`` the first network learns from groups of consecutive snippets, with the labels of videos; then it rests, and the
    second, which begins as its copy, learns from what it says of all snippets. The second alone scores, unless ``self_training`` is false.

    Args:
        feature_dim: D; 1024 for I3D Inception, 4096 for C3D.
        hidden: Widths of the two hidden layers of either network.
        dropout: Share of their values dropped in training.
        groups: G.
        group_size: S; of the scores of a video as many make its own.
        ranking: See :func:`video_scores`.
        sparsity_weight: Of the mean score of anomalous videos.
        smoothness_weight: Of squared differences of neighbouring scores in a group of an anomalous video.
        self_training: Learn from pseudo labels; otherwise the first network scores, and learns until the end.
        normal_labels: Pseudo labels of normal videos, see :func:`pseudo_labels`.
        class_weights: Of normal and anomalous in the second loss; (0.65, 0.8) for ShanghaiTech.
        generator_epochs: Of the first network.
        generator_lr: Learning rate of its Adagrad.
        generator_decay: Its weight decay.
        lr: Learning rate of Adam, of the second.
        weight_decay: Of Adam.
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
        groups: int = 32,
        group_size: int = 7,
        ranking: Ranking = "snippets",
        sparsity_weight: float = 0.01,
        smoothness_weight: float = 0.0,
        self_training: bool = True,
        normal_labels: NormalLabels = "zero",
        class_weights: tuple[float, float] = (1.0, 1.0),
        generator_epochs: int = 100,
        generator_lr: float = 1e-2,
        generator_decay: float = 1e-3,
        lr: float = 1e-4,
        weight_decay: float = 5e-4,
        segments: int = 300,
    ) -> None:
        super().__init__(feature_dim=feature_dim, segments=segments)
        if not any(class_weights):
            raise ConfigError(f"class_weights must not both be 0; got {class_weights}. The default is (1, 1).")
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.groups, self.group_size, self.ranking = groups, group_size, ranking
        self.normal_labels, self.class_weights = normal_labels, class_weights
        self.generator_epochs = generator_epochs
        self.generator = ranking_network(feature_dim, hidden, dropout)
        self.detector = copy.deepcopy(self.generator) if self_training else None
        self._trains_itself = False  # in the present epoch

    def at_rest(self) -> list[nn.Module]:
        """What the present epoch does not train, or the last one of a fit that is over."""
        return [] if self.detector is None else [self.generator if self._trains_itself else self.detector]

    def fit_statistics(self) -> None:
        """In the first phase the second network is the first one."""
        if self.detector is not None and not self._trains_itself:
            self.detector.load_state_dict(self.generator.state_dict())

    def on_train_start(self) -> None:
        """Warn if nothing would be learned from pseudo labels."""
        super().on_train_start()
        self._trains_itself = self._second_phase()
        if self.detector is not None:
            self.warn_of_first_phase("makes pseudo labels", "generator_epochs", self.generator_epochs)

    def snippet_scores(self, snippet_features: Tensor, length: Tensor) -> Tensor:
        """Scores of all snippets, the mean over crops: shape (B, C, T, D) to (B, T)."""
        network = self.generator if self.detector is None else self.detector
        return torch.cat([_logits(network, few).sigmoid() for few in crop_portions(snippet_features)], 1).mean(1)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """A step of the first network or, after its epochs, of the second."""
        bags = self.bags(batch, whole=True)
        # Set in every step: a run that is resumed within an epoch does not start that epoch.
        self._trains_itself = second = self._second_phase()
        self.generator.train(not second)
        optimizers: Any = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        loss = self._detector_loss(bags) if second else self._generator_loss(bags, batch_idx)
        self.log("train/loss", loss.detach(), batch_size=len(bags.label))
        self.step_alone(optimizers[second], losses=[loss], clip=DETECTOR_CLIP if second else GENERATOR_CLIP)

    def _second_phase(self) -> bool:
        return self.detector is not None and self.current_epoch >= self.generator_epochs

    def _generator_loss(self, bags: Bags, batch_idx: int) -> Tensor:
        features, normal = bags.snippet_features, bags.normal
        generator = self.step_generator(batch_idx)
        shift = torch.rand(len(features), generator=generator, dtype=torch.float32, device=features.device)
        place = sample_groups(bags.length, shift, groups=self.groups, size=self.group_size)  # B GS
        where = place.view(len(place), 1, -1, 1).expand(-1, features.shape[1], -1, features.shape[3])
        score = _logits(self.generator, features.gather(2, where)).sigmoid().mean(1)  # B GS
        best = video_scores(score, size=self.group_size, ranking=self.ranking)
        ranked, sparse = pair_loss(best[:normal], best[normal:]), score[normal:].mean()
        smooth = smoothness(score[normal:].reshape(-1, self.group_size)).mean()
        self.log_dict({"train/ranking": ranked.detach(), "train/sparsity": sparse.detach()}, batch_size=len(score))
        loss: Tensor = ranked + self.hparams["sparsity_weight"] * sparse + self.hparams["smoothness_weight"] * smooth
        return loss

    def _detector_loss(self, bags: Bags) -> Tensor:
        target = self.targets(bags)
        network = self.generator if self.detector is None else self.detector
        return weighted_loss(_logits(network, bags.snippet_features), target, bags.length, self.class_weights)

    @torch.no_grad()
    def targets(self, bags: Bags) -> Tensor:
        """Pseudo labels of all snippets, shape (B, T), which the first network makes of them."""
        score = _logits(self.generator, bags.snippet_features).sigmoid().mean(1)
        return pseudo_labels(score, bags.label, bags.length, normal=self.normal_labels)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adagrad for the first network, Adam for the second."""
        options = self.hparams
        first = torch.optim.Adagrad(
            self.generator.parameters(), lr=options["generator_lr"], weight_decay=options["generator_decay"]
        )
        if self.detector is None:
            return [first]
        rate, decay = options["lr"], options["weight_decay"]
        return [first, torch.optim.Adam(self.detector.parameters(), lr=rate, weight_decay=decay)]


def _logits(network: nn.Module, features: Tensor) -> Tensor:
    """Shape (B, C, T, D) to (B, C, T), float32."""
    logit: Tensor = network(features)
    return logit.squeeze(-1).float()

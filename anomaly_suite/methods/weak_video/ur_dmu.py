"""UR-DMU: a memory of normal and one of anomalous snippets enlarge the features of a transformer; normal ones are drawn from a Gaussian.

Paper: Zhou, Yu and Yang, "Dual Memory Units with Uncertainty Regulation for Weakly Supervised Video Anomaly Detection", AAAI 2023.
Reference: henrryzh1/UR-DMU at 152c4dc (MIT); read, not copied. The weights of the dual memory's four terms, what is averaged over crops, and over what
    the divergence is summed follow the release (it is summed over time, and averaged over channels); the paper's text was not at hand in full.
Differs: a row of the local attention sums to 1, where the release divides by the sums of columns, which differ near the ends of a video alone.
    Cross-entropies of means of scores are bounded at 1e-7. Padding is neither attended to nor counted. Classes may have unequal numbers of videos: the
    triplet and the distance take the i-th normal with the i-th anomalous one.
Published figures: the best checkpoint on the test set, of one every ten steps, in the release. Here the last one is tested.
Axes: B bags, N normal and M anomalous ones, P pairs, C crops, S = B C sequences, T snippets, D feature width, W width, K items of a memory.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from anomaly_suite.contract import Batch
from anomaly_suite.methods.weak_video.bags import BagModule, Bags, crop_portions, top_mean, valid_snippets
from anomaly_suite.nn.global_local_transformer import GlobalLocalTransformer
from anomaly_suite.nn.snippet_classifier import SnippetClassifier

TOP_SHARE = 16  # one snippet in so many, and one more, is selected; of the items of a memory likewise
HEAD_WIDTH = 128  # of the classifier
SMALLEST = 1e-7  # of a probability in a logarithm
TRIPLET_MARGIN = 1.0


def selected(count: int) -> int:
    """How many of ``count`` snippets or items are selected.

    Example:
        >>> [selected(count) for count in (1, 15, 16, 200)]
        [1, 1, 2, 13]
    """
    return count // TOP_SHARE + 1


def cross_entropy(probability: Tensor, target: Tensor | float) -> Tensor:
    """Mean binary cross-entropy of probabilities of any shape."""
    p = probability.clamp(SMALLEST, 1 - SMALLEST)
    loss: Tensor = (target * p.log() + (1 - target) * (1 - p).log()).mean()
    return -loss


def top_snippets(snippet_features: Tensor, weight: Tensor) -> Tensor:
    """Mean feature of the snippets of largest weight: (S, T, W) and (S, T) to (S, W). No gradient goes through the choice."""
    index = weight.topk(selected(weight.shape[1]), dim=1).indices
    return snippet_features.gather(1, index.unsqueeze(2).expand(-1, -1, snippet_features.shape[2])).mean(1)


def memory_loss(
    anomalous_in_own: Tensor, anomalous_in_normal: Tensor, normal_in_own: Tensor, normal_in_anomalous: Tensor
) -> Tensor:
    """Normal snippets are to be in the normal memory and in no other; of an anomalous video some in the anomalous one and not in the normal one.

    Args:
        anomalous_in_own: Weights that anomalous bags have in the anomalous memory, shape (M, T).
        anomalous_in_normal: In the normal memory, shape (M, T).
        normal_in_own: Weights that normal bags have in the normal memory, shape (N, T).
        normal_in_anomalous: In the anomalous memory, shape (N, T).

    Returns:
        Scalar, the sum of four cross-entropies.
    """
    k = selected(anomalous_in_own.shape[1])
    return (
        cross_entropy(top_mean(anomalous_in_own, k), 1.0)
        + cross_entropy(top_mean(1 - anomalous_in_normal, k), 1.0)
        + cross_entropy(normal_in_own, 1.0)
        + cross_entropy(normal_in_anomalous, 0.0)
    )


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Normal features are to be nearer to the normal ones of an anomalous video than to the anomalous ones, by 1: three (P, W) to a scalar."""
    anchor, positive, negative = (F.normalize(part, dim=1) for part in (anchor, positive, negative))
    loss: Tensor = F.triplet_margin_loss(anchor, positive, negative, margin=TRIPLET_MARGIN)
    return loss


def draw(mean: Tensor, log_variance: Tensor, generator: Generator) -> Tensor:
    """Draw from Gaussians: means and logarithms of variances of one shape to that shape."""
    noise = torch.randn(mean.shape, generator=generator, dtype=torch.float32, device=mean.device)
    return mean + noise.to(mean.dtype) * (0.5 * log_variance).exp()


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Of Gaussians from the standard one: two (S, T, W), a sum over time, a mean over sequences and channels."""
    each = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return each.sum(1).mean()


def distance_loss(normal: Tensor, anomalous: Tensor, *, margin: float) -> Tensor:
    """Lengths of anomalous features are to exceed those of normal ones by the margin: two (P, W) to a scalar."""
    gap: Tensor = torch.linalg.vector_norm(anomalous, dim=1) - torch.linalg.vector_norm(normal, dim=1)
    return (margin - gap).relu().mean()


class Memory(nn.Module):
    """Items to which a snippet is compared, each by itself.

    Args:
        items: K.
        width: W.
    """

    def __init__(self, *, items: int, width: int) -> None:
        super().__init__()
        self.items = nn.Parameter(torch.empty(items, width).uniform_(-(width**-0.5), width**-0.5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Look snippets up.

        Args:
            x: Shape (S, T, W).

        Returns:
            Weight of each snippet in the memory, the mean of its largest ones of items, in (0, 1), float32 (S, T), and the sum of items by weight, (S, T, W).
        """
        weight = (x @ self.items.T * self.items.shape[1] ** -0.5).sigmoid()  # S T K
        strength = weight.float().topk(selected(weight.shape[2]), dim=2).values.mean(2)
        return strength, weight @ self.items


class Losses(NamedTuple):
    """The terms of a step, each a scalar."""

    classification: Tensor
    memory: Tensor
    triplet: Tensor
    divergence: Tensor
    distance: Tensor


class URDMU(BagModule):
    """Dual memory units with uncertainty regulation.

    Args:
        feature_dim: D; 1024 for I3D Inception, as published.
        width: W.
        depth: Blocks of the transformer.
        heads: Of its attention.
        head_width: Of each head.
        dropout: Of the transformer.
        normal_items: Of the memory of normal snippets.
        anomalous_items: Of the memory of anomalous ones.
        memory_weight: Of :func:`memory_loss`.
        triplet_weight: Of :func:`triplet_loss`.
        divergence_weight: Of :func:`divergence`.
        distance_weight: Of :func:`distance_loss`.
        margin: Of the latter.
        lr: Learning rate of Adam, constant.
        weight_decay: Of Adam, added to gradients.
        segments: Segments of a video in training.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(
        self,
        *,
        feature_dim: int = 1024,
        width: int = 512,
        depth: int = 2,
        heads: int = 4,
        head_width: int = 128,
        dropout: float = 0.5,
        normal_items: int = 60,
        anomalous_items: int = 60,
        memory_weight: float = 0.1,
        triplet_weight: float = 0.1,
        divergence_weight: float = 1e-3,
        distance_weight: float = 1e-4,
        margin: float = 100.0,
        lr: float = 1e-4,
        weight_decay: float = 5e-5,
        segments: int = 200,
    ) -> None:
        super().__init__(feature_dim=feature_dim, segments=segments)
        self.save_hyperparameters()
        self.embed = nn.Conv1d(feature_dim, width, 3, padding=1)
        self.transformer = GlobalLocalTransformer(
            width=width, depth=depth, heads=heads, head_width=head_width, inner=width, dropout=dropout
        )
        self.memories = nn.ModuleDict(
            {"normal": Memory(items=normal_items, width=width), "anomalous": Memory(items=anomalous_items, width=width)}
        )
        self.mean = nn.Linear(width, width)
        self.log_variance = nn.Linear(width, width)
        self.classifier = SnippetClassifier(feature_dim=2 * width, hidden=(HEAD_WIDTH,), dropout=0.0)

    def encode(self, snippet_features: Tensor, length: Tensor) -> Tensor:
        """Embed snippets, each crop as a sequence of its own: shape (B, C, T, D) and lengths (B,) to (S, T, W), anything in padding."""
        crops, snippets = snippet_features.shape[1:3]
        held = valid_snippets(length, snippets).unsqueeze(1)  # B 1 T
        x = snippet_features.masked_fill(~held.unsqueeze(3), 0).flatten(0, 1)
        x = self.embed(x.transpose(1, 2)).relu().transpose(1, 2)
        encoded: Tensor = self.transformer(x, held.expand(-1, crops, -1).flatten(0, 1))
        return encoded

    def snippet_scores(self, snippet_features: Tensor, length: Tensor) -> Tensor:
        """Scores of all snippets, the mean over crops: shape (B, C, T, D) to (B, T)."""
        scores = []
        for few in crop_portions(snippet_features):
            x = self.encode(few, length)
            score = self.classifier(torch.cat([x, sum(self.mean(self._read(name, x)[1]) for name in self.memories)], 2))
            scores.append(score.reshape(few.shape[:3]))
        return torch.cat(scores, 1).mean(1)

    def _read(self, memory: str, x: Tensor) -> tuple[Tensor, Tensor]:
        strength, read = self.memories[memory](x)
        return strength, read

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the losses, each of which is logged."""
        bags = self.bags(batch)
        losses = self.losses(bags, self.step_generator(batch_idx))
        names: list[Literal["memory", "triplet", "divergence", "distance"]] = [
            "memory",
            "triplet",
            "divergence",
            "distance",
        ]
        loss = (
            losses.classification
            + torch.stack([self.hparams[f"{name}_weight"] * getattr(losses, name) for name in names]).sum()
        )
        self.log("train/loss", loss, batch_size=len(bags.label))
        self.log_dict({f"train/{name}": value for name, value in losses._asdict().items()}, batch_size=len(bags.label))
        return loss

    def losses(self, bags: Bags, generator: Generator) -> Losses:
        """All terms of a step.

        Args:
            bags: Videos pooled to segments.
            generator: Of the draws from the Gaussians of normal snippets.
        """
        crops, pairs = bags.snippet_features.shape[1], bags.pairs
        x = self.encode(bags.snippet_features, bags.length)
        normal, anomalous = x[: crops * bags.normal], x[crops * bags.normal :]

        def of_videos(value: Tensor) -> Tensor:
            """Mean over crops, in float32."""
            return value.float().reshape(-1, crops, *value.shape[1:]).mean(1)

        own, own_read = self._read("anomalous", anomalous)  # of anomalous videos
        like_normal, like_normal_read = self._read("normal", anomalous)
        like_anomalous, like_anomalous_read = self._read("anomalous", normal)
        calm, calm_read = self._read("normal", normal)  # of normal videos

        triplet = triplet_loss(
            *(
                of_videos(top_snippets(part, weight))[:pairs]
                for part, weight in ((normal, calm), (anomalous, like_normal), (anomalous, own))
            )
        )
        mean, log_variance = self.mean(calm_read), self.log_variance(calm_read)
        drawn = draw(mean, log_variance, generator)
        own_mean = self.mean(own_read)
        distance = distance_loss(
            of_videos(top_snippets(drawn, calm))[:pairs],
            of_videos(top_snippets(own_mean, own))[:pairs],
            margin=self.hparams["margin"],
        )
        enlarged = torch.cat([drawn + self.mean(like_anomalous_read), own_mean + self.mean(like_normal_read)])
        score = of_videos(self.classifier(torch.cat([x, enlarged], 2)))  # B T
        return Losses(
            cross_entropy(top_mean(score, selected(score.shape[1])), bags.label.float()),
            memory_loss(*(of_videos(weight) for weight in (own, like_normal, calm, like_anomalous))),
            triplet,
            divergence(mean.float(), log_variance.float()),
            distance,
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam at a constant rate, its weight decay coupled to the gradients."""
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"])

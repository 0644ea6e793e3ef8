"""CLAWS, re-created: a softmax over time suppresses normal segments of a video, and two clusters of its features are kept together or apart.

Paper: Zaheer et al., "CLAWS: Clustering Assisted Weakly Supervised Learning with Normalcy Suppression for Anomalous Event Detection", ECCV 2020.
Reference: none was released by the authors. This is a re-creation on features from the paper's abstract and what is generally known of it, and not
    checked against it: the length of a run, the weights of the losses, their rates and the exact cluster loss are ours to have guessed.
Differs: a run is one video averaged to ``segments``, of which all of a batch are treated at once, each by itself; each crop is a run of its own.
    Clusters are found in standardised features, and cosines are those of the features themselves to the means of their clusters, so that equal
    rows are one compact cluster. Runs that are shorter than ``segments``, at the end of a test video, are masked, and keep the mean of the suppression.
Axes: B bags, C crops, T snippets, n segments of a run, S runs, D feature width, W hidden width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from anomaly_suite.contract import Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.weak_video.bags import BagModule, crop_portions
from anomaly_suite.tracing import untraced

OWN_SHARE = 0.7  # a: of the distance to the own centre, beside the likeness to the other
REACH = 0.25  # b: segments count that are nearer to their centre than this share of the distance of both centres
MEANS_STEPS = 10  # of the search for clusters
EPSILON = 1e-6


class Suppression(nn.Module):
    """A linear layer, each channel times a softmax over the run of another, then a ReLU.

    Args:
        feature_dim: D.
        width: W.
        run: n, segments of a run in training.
        rescale: Multiply by n, so that values do not depend on it.
    """

    def __init__(self, *, feature_dim: int, width: int, run: int, rescale: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(feature_dim, width)
        self.attention = nn.Linear(feature_dim, width)
        self.run, self.rescale = run, rescale

    def suppression(self, x: Tensor, held: Tensor | None = None) -> Tensor:
        """Weights of segments, of which the mean over a run is 1 / n, or 1 with ``rescale``.

        Args:
            x: Shape (..., n, D).
            held: Bool (..., n), segments that are there; all if None.

        Returns:
            Float32, shape (..., n, W).
        """
        logit: Tensor = self.attention(x).float()
        size = 1 if self.rescale else self.run
        if held is None:
            weight = logit.softmax(-2)
            return weight * (logit.shape[-2] / size)
        there = held.unsqueeze(-1)
        # The least finite number, and not minus infinity: a run of padding alone has no softmax.
        weight = logit.masked_fill(~there, torch.finfo(logit.dtype).min).softmax(-2)
        count = there.sum(-2, keepdim=True)
        scaled: Tensor = weight * (count / size)
        return scaled

    def forward(self, x: Tensor, held: Tensor | None = None) -> Tensor:
        """Shape (..., n, D) to (..., n, W)."""
        value: Tensor = self.layer(x)
        return (value * self.suppression(x, held).to(value.dtype)).relu()


@untraced  # a search
@torch.no_grad()
def two_means(points: Tensor) -> Tensor:
    """Part the rows of every run in two clusters, by k-means from two rows that lie far apart.

    Args:
        points: Shape (S, n, W).

    Returns:
        Bool (S, n), True in the second cluster; False for all where rows are equal.
    """
    rows = torch.arange(len(points), device=points.device)
    first = points[rows, (points - points.mean(1, keepdim=True)).square().sum(2).argmax(1)]
    second = points[rows, (points - first.unsqueeze(1)).square().sum(2).argmax(1)]
    centers = torch.stack([first, second], 1)  # S 2 W
    for _ in range(MEANS_STEPS):
        is_second = _is_nearer_to_second(points, centers)
        member = torch.stack([~is_second, is_second], 1).to(points.dtype)  # S 2 n
        count = member.sum(2, keepdim=True)
        centers = torch.where(count > 0, member @ points / count.clamp_min(1), centers)
    return _is_nearer_to_second(points, centers)


def _is_nearer_to_second(points: Tensor, centers: Tensor) -> Tensor:
    first, second = centers.unbind(1)  # S W
    middle = (second.square().sum(1) - first.square().sum(1)) / 2
    return (points @ (second - first).unsqueeze(2)).squeeze(2) > middle.unsqueeze(1)


def cluster_losses(hidden: Tensor, label: Tensor) -> Tensor:
    """L_clu of each run: normal runs are to be one compact cluster, the two of anomalous runs compact and apart.

    Args:
        hidden: Shape (S, n, W); the gradient goes through these alone, and not through centres.
        label: Of runs, shape (S,).

    Returns:
        Shape (S,), 0 or more.
    """
    hidden = hidden.float() if hidden.dtype in (torch.float16, torch.bfloat16) else hidden
    points = hidden.detach()
    spread = points.std(1, correction=0, keepdim=True)
    is_second = two_means((points - points.mean(1, keepdim=True)) / (spread + EPSILON))
    member = torch.stack([~is_second, is_second], 1).to(points.dtype)  # S 2 n
    count = member.sum(2, keepdim=True)
    centers = member @ points / count.clamp_min(1)
    centers = torch.where(count > 0, centers, centers.flip(1))  # an empty cluster lies on the other
    first, second = (centers[:, i].unsqueeze(1).expand_as(hidden) for i in (0, 1))
    normal = (1 - F.cosine_similarity(hidden, (first + second) / 2, dim=2)).mean(1)
    own, other = (torch.where((is_second == flag).unsqueeze(2), second, first) for flag in (True, False))
    far = 1 - F.cosine_similarity(hidden, own, dim=2)
    near = far < REACH * (1 - F.cosine_similarity(centers[:, 0], centers[:, 1], dim=1)).unsqueeze(1)
    pulled = OWN_SHARE * far + (1 - OWN_SHARE) * (1 + F.cosine_similarity(hidden, other, dim=2))
    anomalous = pulled.masked_fill(~near, 0).sum(1) / near.sum(1).clamp_min(1)
    return torch.where(label == 1, anomalous, normal)


def run_losses(score: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Squared error with the label of the run, squared differences of neighbours and mean score, each a mean over segments and runs.

    Args:
        score: Shape (S, n).
        label: Shape (S,).
    """
    difference = score.diff(dim=1).square()
    return {
        "regression": (score - label.to(score.dtype).unsqueeze(1)).square().mean(),
        "smoothness": difference.mean() if difference.numel() else score.new_zeros(()),
        "sparsity": score.mean(),
    }


class CLAWS(BagModule):
    """Regression of the label of a video in each of its segments, with a suppression of the normal ones and clustered features.

    A re-creation: the authors released no code, see the module.

    Args:
        feature_dim: D; 4096 for C3D, as in the paper.
        hidden: Widths of the two hidden layers.
        dropout: Share of hidden values dropped in training.
        rescale: Multiply the suppression by the length of a run; without, hidden values shrink with it.
        smoothness_weight: Of squared differences of neighbouring scores.
        sparsity_weight: Of scores.
        cluster_weight: Of the cluster losses of both hidden layers.
        lr: Learning rate of RMSprop.
        lr_drop_steps: Steps after which the rate is a tenth.
        segments: n, of a run: in training a video averaged to so many, at test so many consecutive snippets.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(
        self,
        *,
        feature_dim: int = 4096,
        hidden: tuple[int, int] = (512, 32),
        dropout: float = 0.6,
        rescale: bool = False,
        smoothness_weight: float = 8e-5,
        sparsity_weight: float = 8e-5,
        cluster_weight: float = 8e-5,
        lr: float = 1e-4,
        lr_drop_steps: int = 80_000,
        segments: int = 64,
    ) -> None:
        super().__init__(feature_dim=feature_dim, segments=segments)
        if segments < 2:
            raise ConfigError(f"CLAWS compares the segments of a run: segments must be at least 2; got {segments}.")
        self.save_hyperparameters()
        wide, narrow = hidden
        self.first = Suppression(feature_dim=feature_dim, width=wide, run=segments, rescale=rescale)
        self.second = Suppression(feature_dim=wide, width=narrow, run=segments, rescale=rescale)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(narrow, 1)

    def encode(self, x: Tensor, held: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden values of both layers, before dropout, and scores.

        Args:
            x: Runs, shape (..., n, D).
            held: Bool (..., n); all if None.

        Returns:
            Shapes (..., n, W), (..., n, W') and, float32, (..., n).
        """
        first = self.first(x, held)
        second = self.second(self.dropout(first), held)
        logit: Tensor = self.head(self.dropout(second))
        return first, second, logit.squeeze(-1).float().sigmoid()

    def snippet_scores(self, snippet_features: Tensor, length: Tensor) -> Tensor:
        """Scores of all snippets, ``segments`` consecutive ones at a time: shape (B, C, T, D) to (B, T)."""
        return torch.cat([self._crop_scores(few, length) for few in crop_portions(snippet_features)], 1).mean(1)

    def _crop_scores(self, features: Tensor, length: Tensor) -> Tensor:
        batch, _, snippets, _ = features.shape
        size, device = self.segments, features.device
        count = (snippets + size - 1) // size  # runs of every video
        every = torch.arange(batch * count, device=device)
        video = every // count
        run = every - video * count  # of its video; one exporter of ONNX has no remainder of a number that is not fixed
        position = size * run.unsqueeze(1) + torch.arange(size, device=device)  # S n
        held = position < length[video].unsqueeze(1)
        runs = features[video.unsqueeze(1), :, position.clamp(max=snippets - 1)].transpose(1, 2)  # S C n D
        held = held.unsqueeze(1)
        _, _, score = self.encode(runs.masked_fill(~held.unsqueeze(3), 0), held)  # S C n
        first = size * count * torch.arange(batch, device=device)
        place = first.unsqueeze(1) + torch.arange(snippets, device=device)  # B T
        return score.transpose(0, 1).flatten(1)[:, place].transpose(0, 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Regression, smoothness, sparsity and the cluster losses of all runs, each of which is logged."""
        bags = self.bags(batch)
        crops = bags.snippet_features.shape[1]
        label = bags.label.repeat_interleave(crops)
        first, second, score = self.encode(bags.snippet_features.flatten(0, 1))
        losses = run_losses(score, label)
        losses["cluster"] = (cluster_losses(first, label) + cluster_losses(second, label)).mean()
        weight = {name: 1.0 if name == "regression" else self.hparams[f"{name}_weight"] for name in losses}
        loss = torch.stack([weight[name] * value for name, value in losses.items()]).sum()
        self.log("train/loss", loss, batch_size=len(bags.label))
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, batch_size=len(bags.label))
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """RMSprop, whose rate falls to a tenth once."""
        optimizer = torch.optim.RMSprop(self.parameters(), lr=self.hparams["lr"])
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [self.hparams["lr_drop_steps"]])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

"""What methods of multiple-instance learning share: a video is a bag of snippets, and only bags have labels in training.

Axes: B bags, N normal and M anomalous ones of them, C crops, T snippets, L segments, D feature width, F frames.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.contract import SEGMENTS, AnomalyModule, Batch, Prediction, frame_scores, pool_segments
from anomaly_suite.contract.inputs import shape_of
from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.tracing import untraced

VALUES_AT_ONCE = 2**25
"""Feature values that are scored at once: 1,600 snippets of 10 crops and width 2048. Longer videos are scored a few crops at a time."""


class Bags(NamedTuple):
    """A training batch with the normal bags first: ``snippet_features`` (N + M, C, L, D), ``label`` (N + M,), N and M.

    ``length`` (N + M,) says what each bag holds; what comes after it is zero. Without ``whole`` that is L for all.
    """

    snippet_features: Tensor
    label: Tensor
    normal: int
    anomalous: int
    length: Tensor

    @property
    def pairs(self) -> int:
        """Pairs of a normal and an anomalous bag, the i-th with the i-th."""
        return min(self.normal, self.anomalous)


class BagModule(AnomalyModule):
    """A detector of anomalous snippets. A method writes ``__init__``, :meth:`snippet_scores` and ``training_step``.

    Training pools every video to ``segments`` parts; evaluation scores all snippets as they are.

    Args:
        feature_dim: Width D of the snippet features.
        segments: Parts of a video in training.

    Raises:
        ConfigError: an option below 1.
    """

    reads_labels = True

    def __init__(self, *, feature_dim: int, segments: int = SEGMENTS) -> None:
        super().__init__()
        for name, value in (("feature_dim", feature_dim), ("segments", segments)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}.")
        self.feature_dim = feature_dim
        self.segments = segments

    def snippet_scores(self, snippet_features: Tensor, length: Tensor) -> Tensor:
        """Score snippets; of a long video a few crops at a time, which :func:`crop_portions` cuts.

        Args:
            snippet_features: Shape (B, C, T, D).
            length: Snippets of each video, shape (B,); what comes after them is padding and must not matter.

        Returns:
            Shape (B, T), in [0, 1]; anything in padding.

        Raises:
            NotImplementedError: the method does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define snippet_scores(snippet_features, length).")

    def forward(self, snippet_features: Tensor, length: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Score videos.

        Args:
            snippet_features: Shape (B, C, T, D).
            length: Snippets of each video, shape (B,); T for all if None.

        Returns:
            ``anomaly_score`` of shape (B,), the highest score of a snippet, and ``snippet_score`` of shape (B, T), zero in
            padding.

        Raises:
            ShapeError: features of another width, shape or type, see :meth:`check_call`.
        """
        batch, _, snippets, _ = snippet_features.shape
        if length is None:
            length = torch.full((batch,), snippets, device=snippet_features.device)
        score = self.snippet_scores(snippet_features, length).float()
        padding = torch.arange(snippets, device=score.device) >= length.unsqueeze(1)
        score = score.masked_fill(padding, 0)  # scores are not negative, so padding is never the highest
        return score.amax(1), score

    def predict(self, batch: Batch) -> Prediction:
        """Scores of whole videos, of their snippets, and of their frames, the videos one after another.

        Raises:
            ShapeError: the batch has no features, or features of another width.
        """
        length = self._features(batch)["length"]
        anomaly_score, snippet_score = self(batch["snippet_features"], length)
        count = batch["frame_count"] if "frame_count" in batch else None  # noqa: SIM401 - torch 2.6 cannot trace get
        frames = frame_scores(snippet_score, length, count)
        return {"anomaly_score": anomaly_score, "snippet_score": snippet_score, "frame_score": frames}

    @untraced  # its checks need the values
    def bags(self, batch: Batch, *, whole: bool = False) -> Bags:
        """Order a training batch: normal bags first, every video pooled to segments.

        Args:
            batch: Of videos of both classes.
            whole: Pool only videos of more snippets than ``segments``; the others keep their snippets, and end in zeros.

        Raises:
            ShapeError: the batch has no features, no labels, or bags of one kind only.
        """
        if "label" not in self._features(batch):
            raise ShapeError(
                f"{type(self).__name__} learns from labels of videos; the batch has none. Give 'label' or 'bag_label'."
            )
        label = batch["label"]
        anomalous = int(label.sum())
        if not 0 < anomalous < len(label):
            raise ShapeError(
                f"a training batch needs normal and anomalous videos; got {len(label) - anomalous} normal and {anomalous} "
                "anomalous. Draw both in every batch, as the data modules of this package do."
            )
        features, length = batch["snippet_features"], batch["length"]
        if whole:
            features, length = _cut(features, length, self.segments)
        else:
            features, length = pool_segments(features, self.segments, length), torch.full_like(length, self.segments)
        if bool((label.diff() < 0).any()):  # else in order, as our data modules give them
            order = torch.argsort(label, stable=True)
            features, label, length = features[order], label[order], length[order]
        return Bags(features, label, len(label) - anomalous, anomalous, length)

    def _features(self, batch: Batch) -> Batch:
        if "snippet_features" not in batch:
            raise ShapeError(
                f"{type(self).__name__} takes snippet features of videos; the batch has {', '.join(map(str, batch))}. Use a data "
                "module of videos, or give 'snippet_features' (B, C, T, D); extract-features makes them from video files."
            )
        self.check_features(batch["snippet_features"])
        return batch

    def check_call(self, *inputs: Any, **named: Any) -> None:
        """Check features and, where they are given, lengths.

        Raises:
            ShapeError: see :meth:`check_features`; or other lengths than one for each video.
        """
        features: Any = inputs[0] if inputs else named.get("snippet_features")
        length = inputs[1] if len(inputs) > 1 else named.get("length")
        self.check_features(features)
        if length is not None and (not isinstance(length, Tensor) or length.shape != features.shape[:1]):
            raise ShapeError(
                f"{type(self).__name__} takes length as a tensor with one entry for each of {len(features)} videos; got {shape_of(length)}. "
                "Give a tensor (B,)."
            )

    def check_features(self, snippet_features: Tensor) -> None:
        """Check the features of videos.

        Args:
            snippet_features: What should be of shape (B, C, T, D).

        Raises:
            ShapeError: something else.
        """
        name = type(self).__name__
        is_fine = isinstance(snippet_features, Tensor) and snippet_features.ndim == 4
        if (
            not is_fine
            or not snippet_features.is_floating_point()
            or not len(snippet_features)
            or not snippet_features.shape[2]
        ):
            raise ShapeError(
                f"{name} takes snippet_features as a floating-point tensor (B, C, T, D), at least one snippet of one video; got "
                f"{shape_of(snippet_features)}. Pad and stack the videos."
            )
        if snippet_features.shape[3] != self.feature_dim:
            width = int(snippet_features.shape[3])
            raise ShapeError(
                f"{name} was built for snippet features of width {self.feature_dim}; got {width}. Set feature_dim: {width}, or load other features."
            )
        self.check_type("snippet_features", snippet_features)


def _cut(snippet_features: Tensor, length: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Videos (B, C, T, D) with zeros after their ends, those of more than ``most`` snippets pooled to so many, and their lengths (B,)."""
    longest = min(most, int(length.max()))
    held = length.clamp(max=longest)
    kept = snippet_features[:, :, :longest]
    if longest < int(length.max()):
        pooled = pool_segments(snippet_features, most, length)
        kept = torch.where((length > most).view(-1, 1, 1, 1), pooled, kept)
    return kept.masked_fill(~valid_snippets(held, longest)[:, None, :, None], 0), held


def valid_snippets(length: Tensor, snippets: int) -> Tensor:
    """Which of T snippets are no padding: lengths (B,) to bool (B, T)."""
    return torch.arange(snippets, device=length.device) < length.unsqueeze(1)


def crop_portions(snippet_features: Tensor, *, apart: bool = False) -> tuple[Tensor, ...]:
    """Crops of a few videos in portions that are scored at once; all together where they are short, or a graph is recorded.

    Args:
        snippet_features: Shape (B, C, T, D).
        apart: Every crop by itself: the rounding of products of many rows depends on how many there are.

    Returns:
        Shapes (B, some, T, D), in order.
    """
    batch, _, snippets, width = snippet_features.shape
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if recorded:  # how many depends on sizes that a graph leaves open
        return (snippet_features,)
    at_once = 1 if apart else max(1, VALUES_AT_ONCE // max(1, batch * snippets * width))
    return torch.split(snippet_features, at_once, 1)


def top_mean(snippet_score: Tensor, k: int) -> Tensor:
    """Mean of the ``k`` largest scores of every bag; of all where a bag has fewer.

    Args:
        snippet_score: Shape (B, L).
        k: At least 1.

    Returns:
        Shape (B,).
    """
    return snippet_score.topk(min(k, snippet_score.shape[1]), dim=1).values.mean(1)


def highest(snippet_score: Tensor, count: Tensor, length: Tensor) -> Tensor:
    """Which snippets are among the highest of their bag, as many as ``count`` says; padding never is.

    Args:
        snippet_score: Shape (B, T).
        count: Of each bag, shape (B,).
        length: Snippets of each bag, shape (B,).

    Returns:
        Bool (B, T), with ``min(count, length)`` True in each row.

    Example:
        >>> highest(torch.tensor([[0.2, 0.9, 0.5]]), torch.tensor([1]), torch.tensor([3])).int()
        tensor([[0, 1, 0]], dtype=torch.int32)
    """
    scored = snippet_score.masked_fill(~valid_snippets(length, snippet_score.shape[1]), -math.inf)
    order = scored.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return rank < torch.minimum(count, length).unsqueeze(1)


def log_probabilities(logit: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of a score that is the mean over crops of sigmoids, and of one less it, without a rounding to 0.

    Args:
        logit: Shape (B, C, T).

    Returns:
        Two of shape (B, T).
    """
    share = math.log(logit.shape[1])
    sure, other = (F.logsigmoid(side * logit).logsumexp(1) - share for side in (1, -1))
    return sure, other


def soft_cross_entropy(logit: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of the mean score of crops with a label in [0, 1] of each snippet.

    Args:
        logit: Shape (B, C, T).
        target: Shape (B, T).

    Returns:
        Shape (B, T), 0 or more.

    Example:
        >>> soft_cross_entropy(torch.zeros(1, 1, 1), torch.tensor([[0.5]]))
        tensor([[0.6931]])
    """
    sure, other = log_probabilities(logit)
    return -(target * sure + (1 - target) * other)


def bag_means(value: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen snippets of each bag; 0 where none is: shape (B, T) and bool (B, T) to (B,)."""
    return value.masked_fill(~chosen, 0).sum(1) / chosen.sum(1).clamp_min(1)


def min_max(snippet_score: Tensor, length: Tensor) -> Tensor:
    """Stretch the scores of every bag to [0, 1]: shape (B, T) and lengths (B,) to (B, T); zeros in padding and for equal scores.

    Example:
        >>> min_max(torch.tensor([[0.2, 0.4, 0.3], [0.5, 0.5, 0.5]]), torch.tensor([3, 3]))
        tensor([[0.0000, 1.0000, 0.5000],
                [0.0000, 0.0000, 0.0000]])
    """
    held = valid_snippets(length, snippet_score.shape[1])
    low = snippet_score.masked_fill(~held, math.inf).amin(1, keepdim=True)
    high = snippet_score.masked_fill(~held, -math.inf).amax(1, keepdim=True)
    span = high - low
    stretched = (snippet_score - low) / span.where(span > 0, 1)
    return stretched.masked_fill(~held | (span <= 0), 0)


def smoothness(snippet_score: Tensor) -> Tensor:
    """Sum of squared differences of neighbouring scores, inside each bag: shape (B, L) to (B,)."""
    return torch.diff(snippet_score, dim=1).square().sum(1)

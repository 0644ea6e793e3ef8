"""Scores of a trained segmenter that needs no more training: of its logits, of their usual size, or of its features.

Papers: Hendrycks and Gimpel, ICLR 2017 (softmax); Hendrycks et al., ICML 2022 (largest logit); Liu et al., NeurIPS 2020 (energy); Lee et
    al., NeurIPS 2018, arXiv:1807.03888 (Mahalanobis); Jung et al., "Standardized Max Logits", ICCV 2021, arXiv:2107.11264 (SML).
Reference: described by our notes; no code was read.
Differs: SML takes its statistics from the whole training set as the data module gives it, where the release stops after 50 batches; a
    class that is never predicted gets the pooled statistics. Mahalanobis shares one covariance as its paper does; one a class is an
    option. The features are those before the last convolution, at the scale of the low-level map; only the score is enlarged.
Axes: B batch, Y classes, D features, H and W pixels, h and w cells, N sampled cells.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.contract import Batch
from anomaly_suite.errors import CheckpointError, ConfigError, DatasetError
from anomaly_suite.methods.pixel_ood.scores import LOGIT_SCORES, LogitScore, energy
from anomaly_suite.methods.pixel_ood.segmenter import OUTLIER, SegmenterModule
from anomaly_suite.nn.deeplab import DeepLabNetwork
from anomaly_suite.nn.own_segmenter import OwnSegmenter

log = logging.getLogger(__name__)

RIDGE = 1e-4  # of the covariance, as a share of its mean diagonal
SMALLEST_VARIANCE = 1e-6
SMOOTHING_SIDE, SMOOTHING_SIGMA, SMOOTHING_DILATION = 7, 1.0, 6  # of SML, its appendix

Score = Literal["energy", "msp", "max_logit", "entropy", "mahalanobis", "sml"]


class PostHocScore(SegmenterModule):
    """Scores pixels by the outputs of a trained segmenter, without training it.

    ``mahalanobis`` and ``sml`` are fitted in one pass over the training scenes, the first one with their classes. The others need no fit:
    ``test`` loads ``segmenter_weights`` by itself.

    Args:
        score: ``energy``, ``msp`` (one less the largest probability), ``max_logit``, ``entropy``, ``mahalanobis`` (squared distance of
            the features to the nearest class), or ``sml`` (largest logit, standardised by class, smoothed at borders).
        temperature: T of ``energy``.
        sample: Share of the cells of every training scene that ``mahalanobis`` is fitted to, in (0, 1].
        per_class: A covariance for each class.
        boundary_width: Of ``sml``: pixels around borders of predicted classes whose score is replaced by that of their neighbours; 0
            leaves borders.
        boundary_steps: In how many steps; must divide ``boundary_width``.
        dilated_smoothing: Of ``sml``: smooth with a Gaussian of 7 x 7 pixels, 6 apart.
        abstention: The segmenter has an abstention channel, as those of PEBAL and DeepGamblers have; it is left out.
        own_segmenter: A network of yours in place of a DeepLabv3+; options of the latter are then without effect. See
            :class:`~anomaly_suite.nn.own_segmenter.OwnSegmenter` for what it must return. ``segmenter_weights`` may name a file
            of its weights.
        feature_layer: Of your network, the layer whose input ``mahalanobis`` scores, by its dotted name.
        standardized: Your network takes images standardised by ImageNet's statistics, not images in [0, 1].
        segmenter: Options of :class:`~anomaly_suite.methods.pixel_ood.segmenter.SegmenterModule`.

    Raises:
        ConfigError: an option out of its range.
    """

    single_pass = True

    count: Tensor
    mean: Tensor
    variance: Tensor
    whitening: Tensor

    def __init__(
        self,
        *,
        score: Score = "energy",
        temperature: float = 1.0,
        sample: float = 0.01,
        per_class: bool = False,
        boundary_width: int = 4,
        boundary_steps: int = 4,
        dilated_smoothing: bool = True,
        abstention: bool = False,
        own_segmenter: nn.Module | None = None,
        feature_layer: str | None = None,
        standardized: bool = True,
        **segmenter: Any,
    ) -> None:
        super().__init__(
            network=None
            if own_segmenter is None
            else partial(OwnSegmenter, own_segmenter, feature_layer=feature_layer, standardized=standardized),
            **segmenter,
        )
        # A network is no hyper-parameter: a checkpoint holds its weights, and whoever loads it gives the network again.
        self.save_hyperparameters(ignore=["own_segmenter"])
        self.automatic_optimization = False
        if score not in (*LOGIT_SCORES, "mahalanobis", "sml"):
            raise ConfigError(f"score must be {', '.join(LOGIT_SCORES)}, mahalanobis or sml; got {score!r}.")
        if temperature <= 0 or not 0 < sample <= 1:
            raise ConfigError(f"temperature must be above 0 and sample in (0, 1]; got {temperature} and {sample}.")
        boundary_schedule(boundary_width, boundary_steps)
        self.score: Score = score
        self.temperature = temperature
        self.sample = sample
        self.per_class = per_class
        self.boundary_width = boundary_width
        self.boundary_steps = boundary_steps
        self.dilated_smoothing = dilated_smoothing
        if own_segmenter is not None and feature_layer is None and score == "mahalanobis":
            raise ConfigError(
                "mahalanobis scores features of the segmenter. Set feature_layer to the name of its last convolution."
            )
        if abstention:
            self.network.extend_head()
        self.network.eval()
        self.fits = score in ("mahalanobis", "sml")
        for name in ("count", "mean", "variance", "whitening"):
            self.register_buffer(name, torch.empty(0))
        self._sums: list[Tensor] = []

    @property
    def is_fitted(self) -> bool:
        """Whether the statistics are there, where the score needs any."""
        return not self.fits or self.mean.numel() > 0

    def setup(self, stage: str) -> None:
        """Load the segmenter, also before a test without a checkpoint."""
        self.load_pretrained_once()

    def load_pretrained(self) -> None:
        """Load the segmenter; without one, the scores are those of an untrained classifier."""
        super().load_pretrained()
        if self.segmenter_weights is None and isinstance(self.network, DeepLabNetwork):
            log.warning(
                "PostHocScore scores a trained segmenter, and segmenter_weights is null: its last block is random. Give the checkpoint "
                "of a DeepLabV3Plus."
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another kind of segmenter.

        Raises:
            CheckpointError: it was saved with a network of one's own, and this module has none, or the other way round.
        """
        super().on_load_checkpoint(checkpoint)
        saved = any(key.startswith("network.network.") for key in checkpoint["state_dict"])
        if saved and not isinstance(self.network, OwnSegmenter):
            raise CheckpointError(
                "the checkpoint was saved with a segmenter of one's own, which is not in it but for its weights. Give it: "
                "load_from_checkpoint(file, own_segmenter=...), or own_segmenter in the configuration."
            )
        if not saved and isinstance(self.network, OwnSegmenter):
            raise CheckpointError("the checkpoint was saved without a segmenter of one's own. Leave own_segmenter out.")

    def train(self, mode: bool = True) -> PostHocScore:
        """Change the mode of everything but the network, which is always in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    # Scoring -----------------------------------------------------------------------------------------------------

    def evidence(self, image: Tensor) -> Tensor:
        """Logits (B, Y, H, W), with ``mahalanobis`` followed by the distance: (B, Y + 1, H, W)."""
        if self.score != "mahalanobis":
            return super().evidence(image)[:, : self.num_classes]
        logits, feature = self.network.with_feature(image)  # B K H W, B D h w
        with torch.autocast(image.device.type, enabled=False):
            distance = self.distance(feature.float())  # B 1 h w
        return torch.cat([logits[:, : self.num_classes], self.network.resize(distance, image)], 1)

    def score_map(self, evidence: Tensor) -> Tensor:
        """Score of the evidence, (B, Y or Y + 1, H, W) to (B, 1, H, W)."""
        if self.score == "mahalanobis":
            return evidence[:, -1:]
        if self.score == "sml":
            return -self._standardized(evidence)
        if self.score == "energy":
            return self.temperature * energy(evidence / self.temperature)
        logit_score: LogitScore = self.score
        return LOGIT_SCORES[logit_score](evidence)

    def distance(self, feature: Tensor) -> Tensor:
        """Squared Mahalanobis distance to the nearest class: (B, D, h, w) to (B, 1, h, w)."""
        flat = feature.movedim(1, -1).flatten(0, -2)  # cells D
        nearest = flat.new_full((len(flat),), torch.inf)
        for number, index in enumerate(self.count.nonzero().flatten().tolist()):
            if self.per_class or number == 0:
                # In float32 also where the module, and with it the statistics, is in half precision.
                whitening = self.whitening[index if self.per_class else 0].float()
                white = flat @ whitening.T
            nearest = torch.minimum(nearest, (white - whitening @ self.mean[index].float()).square().sum(1))
        return nearest.view(len(feature), 1, *feature.shape[2:])

    def _standardized(self, logits: Tensor) -> Tensor:
        """Largest logit by the statistics of its class, smoothed: (B, Y, H, W) to (B, 1, H, W)."""
        value, index = logits.float().max(1, keepdim=True)
        value = (value - self.mean.float()[index]) / self.variance.float()[index].sqrt()
        if self.boundary_width:
            value = suppress_boundaries(value, index, width=self.boundary_width, steps=self.boundary_steps)
        return smooth_dilated(value) if self.dilated_smoothing else value

    # Fitting -----------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the sums, in float64."""
        if not self.fits:
            return
        kept = ~batch["padding"] if "padding" in batch else torch.ones(len(batch["image"]), dtype=torch.bool)
        with torch.no_grad():
            if self.score == "sml":
                parts = self._logit_sums(batch["image"][kept])
            else:
                parts = self._feature_sums(batch["image"][kept], self.target(batch)[kept], batch_idx)
        self._sums = [total + part for total, part in zip(self._sums, parts, strict=True)] if self._sums else parts

    def _logit_sums(self, image: Tensor) -> list[Tensor]:
        """Number, sum and sum of squares of the largest logits of every predicted class, (Y,) each."""
        value, index = self.segment(image).double().max(1)  # as they will be scored, from windows if there are any
        value, index = value.flatten(), index.flatten()
        return [
            torch.zeros(self.num_classes, dtype=torch.float64, device=value.device).index_add_(0, index, part)
            for part in (torch.ones_like(value), value, value.square())
        ]

    def _feature_sums(self, image: Tensor, target: Tensor, batch_idx: int) -> list[Tensor]:
        """Number (Y,), sum (Y, D) and products (1 or Y, D, D) of the features of sampled cells by class."""
        generator, parts = self.step_generator(batch_idx), []
        for place in self.places((image.shape[2], image.shape[3])):  # features of the windows that will be scored
            feature = self.network.with_feature(image[place])[1].movedim(1, -1)  # B h w D
            size = (feature.shape[1], feature.shape[2])
            label = F.interpolate(target[place].unsqueeze(1).float(), size=size, mode="nearest").squeeze(1).long()
            known = label < OUTLIER
            if self.sample < 1:
                known &= torch.rand(label.shape, generator=generator, device=label.device) < self.sample
            parts.append((feature[known].double(), label[known]))
        feature, label = (torch.cat(kind) for kind in zip(*parts, strict=True))  # N D, N
        classes, width = self.num_classes, feature.shape[1]
        count = label.bincount(minlength=classes).double()
        total = feature.new_zeros(classes, width).index_add_(0, label, feature)
        if not self.per_class:
            return [count, total, (feature.T @ feature).unsqueeze(0)]
        product = feature.new_zeros(classes, width, width)
        for index in count.nonzero().flatten().tolist():
            members = feature[label == index]
            product[index] = members.T @ members
        return [count, total, product]

    def fit_statistics(self) -> None:
        """Turn the sums of all processes into statistics.

        Raises:
            DatasetError: the training scenes have no known pixel, or too few for a covariance.
        """
        if not self.fits or not self._sums:
            return
        count, *sums = (self.sum_over_ranks(total) for total in self._sums)
        self._sums = []
        if count.sum() < 2:
            raise DatasetError("the training scenes have no pixel of a known class. Check the labels, or raise sample.")
        if self.score == "sml":
            self._fit_logits(count, *sums)
        else:
            self._fit_features(count, *sums)
        # A single cell has no covariance: such a class is left out.
        self.count = count.where(count > self.per_class, 0).float()

    def _fit_logits(self, count: Tensor, total: Tensor, square: Tensor) -> None:
        mean = total / count.clamp_min(1)
        variance = (square - count * mean.square()) / (count - 1).clamp_min(1)
        pooled_mean = total.sum() / count.sum()
        pooled = (square.sum() - count.sum() * pooled_mean.square()) / (count.sum() - 1)
        rare = count < 2
        if bool(rare.any()):
            names = ", ".join(map(str, rare.nonzero().flatten().tolist()))
            log.warning(
                "Classes %s are hardly ever predicted on the training scenes; they get the statistics of all.", names
            )
        self.mean = mean.where(~rare, pooled_mean).float()
        self.variance = variance.where(~rare, pooled).clamp_min(SMALLEST_VARIANCE).float()

    def _fit_features(self, count: Tensor, total: Tensor, product: Tensor) -> None:
        mean = total / count.clamp_min(1).unsqueeze(1)
        if self.per_class:
            spread = product - count.view(-1, 1, 1) * mean.unsqueeze(2) * mean.unsqueeze(1)
            covariance = spread / count.clamp_min(1).view(-1, 1, 1)
        else:
            covariance = (product - torch.einsum("c,cd,ce->de", count, mean, mean)) / count.sum()
        scale = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float32).tiny)
        eye = torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)
        factor = torch.linalg.cholesky(covariance + RIDGE * scale.view(-1, 1, 1) * eye)
        self.mean = mean.float()
        inverse = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
        self.whitening = inverse.float().contiguous()  # the order in memory decides the rounding of products

    def configure_optimizers(self) -> None:
        """Nothing is learned by gradients."""


def boundary_schedule(width: int, steps: int) -> list[int]:
    """Radius of each step of :func:`suppress_boundaries`: from ``width - 1`` down, the last one 0.

    Raises:
        ConfigError: ``steps`` does not divide ``width``.

    Example:
        >>> boundary_schedule(4, 4), boundary_schedule(4, 2), boundary_schedule(0, 4)
        ([3, 2, 1, 0], [3, 0], [])
    """
    if width < 0 or steps < 1 or width % steps:
        raise ConfigError(
            f"boundary_steps must divide boundary_width, both from 1 (or a width of 0); got {steps} and {width}. Published: 4 and 4."
        )
    if width == 0:
        return []
    return [width - width // steps * step - 1 for step in range(steps - 1)] + [0]


def boundaries(label: Tensor) -> Tensor:
    """Where predicted classes meet: the largest class number of the pixel and its four neighbours differs from the smallest of 3 x 3.

    Args:
        label: Class numbers, shape (B, 1, H, W).

    Returns:
        Bool, shape (B, 1, H, W).
    """
    number = F.pad(label.float(), (1, 1, 1, 1), mode="replicate")
    rows, columns = number[:, :, :, 1:-1], number[:, :, 1:-1]
    largest = torch.maximum(F.max_pool2d(rows, (3, 1), 1), F.max_pool2d(columns, (1, 3), 1))
    smallest = -F.max_pool2d(-number, 3, 1)
    return largest != smallest


def dilate(mask: Tensor, radius: int) -> Tensor:
    """Grow a bool mask (B, 1, H, W) by all pixels that are ``radius`` steps along the axes or fewer away."""
    grown = mask.float()
    for _ in range(radius):
        grown = torch.maximum(F.max_pool2d(grown, (3, 1), 1, (1, 0)), F.max_pool2d(grown, (1, 3), 1, (0, 1)))
    return grown.bool()


def suppress_boundaries(value: Tensor, label: Tensor, *, width: int, steps: int) -> Tensor:
    """Replace scores near borders of classes by the mean of their 3 x 3 neighbours away from them, from outside in.

    Args:
        value: Shape (B, 1, H, W).
        label: Predicted classes, shape (B, 1, H, W).
        width: Pixels around a border.
        steps: See :func:`boundary_schedule`.

    Returns:
        Shape (B, 1, H, W).

    Source:
        Section 3.3 of the SML paper.
    """
    border = boundaries(label)
    for radius in boundary_schedule(width, steps):
        masked = dilate(border, radius)
        free = F.pad((~masked).to(value.dtype), (1, 1, 1, 1), mode="replicate")
        total = F.avg_pool2d(F.pad(value, (1, 1, 1, 1), mode="replicate") * free, 3, 1)
        share = F.avg_pool2d(free, 3, 1)
        value = torch.where(masked & (share > 0), total / share.clamp_min(1e-6), value)
    return value


def smooth_dilated(value: Tensor) -> Tensor:
    """Gaussian of 7 x 7 pixels, 6 apart, deviation 1 in these steps, borders repeated: (B, 1, H, W) to the same."""
    offset = torch.arange(SMOOTHING_SIDE, dtype=value.dtype, device=value.device) - SMOOTHING_SIDE // 2
    kernel = torch.softmax(-(offset**2) / (2 * SMOOTHING_SIGMA**2), 0)
    reach = SMOOTHING_SIDE // 2 * SMOOTHING_DILATION
    value = F.conv2d(
        F.pad(value, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1), dilation=(SMOOTHING_DILATION, 1)
    )
    return F.conv2d(
        F.pad(value, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1), dilation=(1, SMOOTHING_DILATION)
    )

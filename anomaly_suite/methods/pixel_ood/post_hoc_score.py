"""Post-hoc scores of a trained segmenter: of its logits, of standardised logits, or of its features.

Papers: Hendrycks and Gimpel, ICLR 2017 (softmax); Hendrycks et al., ICML 2022 (largest logit); Liu et al., NeurIPS 2020 (energy); Lee et
    al., NeurIPS 2018, arXiv:1807.03888 (Mahalanobis); Jung et al., "Standardized Max Logits", ICCV 2021, arXiv:2107.11264 (SML); Blum et
    al., IJCV 2021 (kNN).
Reference: described by our notes; no code was read.
Differs: SML takes its statistics from the whole training set as the data module gives it, where the release stops after 50 batches.
    Mahalanobis takes the features before the last convolution, at the scale of the low-level map; only the score is enlarged. See
    ``standardized_max_logits.py``, ``mahalanobis.py`` and ``embedding_distance.py`` for what else differs.
Axes: B batch, Y classes, D features, H and W pixels, h and w cells, N sampled cells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.contract import OUTLIER, Batch
from anomaly_suite.errors import CheckpointError, ConfigError, DatasetError
from anomaly_suite.methods.pixel_ood.embedding_distance import nearest_cell_distance, uniform_keys
from anomaly_suite.methods.pixel_ood.mahalanobis import class_sums, fit_gaussians, nearest_class_distance
from anomaly_suite.methods.pixel_ood.scores import LOGIT_SCORES, LogitScore, energy
from anomaly_suite.methods.pixel_ood.segmenter import SegmenterModule
from anomaly_suite.methods.pixel_ood.standardized_max_logits import (
    boundary_schedule,
    class_statistics,
    max_logit_sums,
    smooth_dilated,
    standardized_max_logit,
    suppress_boundaries,
)
from anomaly_suite.nn.deeplab import DeepLabNetwork
from anomaly_suite.nn.feature_bank import FeatureSample
from anomaly_suite.nn.segmenter_adapter import SegmenterAdapter
from anomaly_suite.nn.size import ImageSize
from anomaly_suite.nn.sliding_window import Blend

log = logging.getLogger(__name__)

Score = Literal["energy", "msp", "max_logit", "entropy", "mahalanobis", "sml", "knn"]
OF_FEATURES = ("mahalanobis", "knn")


class PostHocScore(SegmenterModule):
    """Scores pixels by the outputs of a trained segmenter, without training it.

    ``mahalanobis``, ``sml`` and ``knn`` are fitted in one pass over the training scenes, the first one with their classes. The others need no fit:
    ``test`` loads ``segmenter_weights`` by itself.

    Args:
        score: ``energy``, ``msp`` (1 - the largest probability), ``max_logit``, ``entropy``, ``mahalanobis`` (squared distance of
            the features to the nearest class), ``sml`` (largest logit, standardised by class, smoothed at borders), or ``knn``
            (distance of the features to the nearest of a sample of training cells with a class).
        temperature: T of ``energy``.
        sample: Share of the cells of every training scene that ``mahalanobis`` and ``knn`` are fitted to, in (0, 1].
        per_class: A covariance for each class.
        neighbours: Of ``knn``, whose distances are averaged.
        bank_size: Most cells that ``knn`` keeps, a uniform sample of those of ``sample``; time and memory of a score grow with it.
        boundary_width: Of ``sml``: pixels around borders of predicted classes whose score is replaced by that of their neighbours; 0
            leaves borders.
        boundary_steps: In how many steps; must divide ``boundary_width``.
        dilated_smoothing: Of ``sml``: smooth with a Gaussian of 7 x 7 pixels, 6 apart.
        abstention: The segmenter has an abstention channel, as those of PEBAL and DeepGamblers have; it is left out.
        segmenter_adapter: A network of yours in place of a DeepLabv3+, whose options then have no effect. It is wrapped in a
            :class:`~anomaly_suite.nn.segmenter_adapter.SegmenterAdapter`, which says what it must return.
            ``segmenter_weights`` may name a file of its weights.
        own_segmenter: The former name of ``segmenter_adapter``.
        feature_layer: Of your network, the layer whose input ``mahalanobis`` and ``knn`` score, by its dotted name.
        standardized: Your network takes images standardised by ImageNet's statistics, not images in [0, 1].
        backbone: ``wide_resnet38``, or a timm network that can be dilated.
        num_classes: Y, the classes of the training scenes.
        output_stride: Pixels for one cell of the deepest map, 8 or 16.
        width: Channels of the decoder.
        released_dilation: Of ResNets, dilate the first block of a stage as published weights need it.
        auxiliary: Build the auxiliary classifier, which no score reads.
        backbone_weights: ``imagenet``, a file, or null; not read with ``segmenter_weights``.
        segmenter_weights: A file of the whole network, a checkpoint of a DeepLabV3Plus, or the folder of its run.
        smoothing: Smooth the anomaly map with a Gaussian of 7 x 7 pixels.
        window: Height and width of the windows of evaluation; null takes whole images.
        stride: From one window to the next; null is two thirds of the window.
        blend: ``uniform`` or ``tapered`` mean of overlapping windows.

    Raises:
        ConfigError: an option out of its range, or your network given twice.
    """

    single_pass = True
    whole_weights = ("segmenter_weights", "segmenter_adapter", "own_segmenter")

    count: Tensor
    mean: Tensor
    variance: Tensor
    whitening: Tensor
    bank: Tensor

    def __init__(
        self,
        *,
        score: Score = "energy",
        temperature: float = 1.0,
        sample: float = 0.01,
        per_class: bool = False,
        neighbours: int = 1,
        bank_size: int = 1000,
        boundary_width: int = 4,
        boundary_steps: int = 4,
        dilated_smoothing: bool = True,
        abstention: bool = False,
        segmenter_adapter: nn.Module | None = None,
        own_segmenter: nn.Module | None = None,
        feature_layer: str | None = None,
        standardized: bool = True,
        backbone: str = "resnet101s",
        num_classes: int = 19,
        output_stride: int = 8,
        width: int = 256,
        released_dilation: bool = False,
        auxiliary: bool = False,
        backbone_weights: str | None = "imagenet",
        segmenter_weights: str | None = None,
        smoothing: bool = False,
        window: ImageSize | None = None,
        stride: ImageSize | None = None,
        blend: Blend = "uniform",
    ) -> None:
        adapted = None
        if (given := _one_network(segmenter_adapter, own_segmenter)) is not None:
            adapted = partial(SegmenterAdapter, given, feature_layer=feature_layer, standardized=standardized)
        super().__init__(
            network=adapted, backbone=backbone, num_classes=num_classes, output_stride=output_stride, width=width,
            released_dilation=released_dilation, auxiliary=auxiliary, backbone_weights=backbone_weights,
            segmenter_weights=segmenter_weights, smoothing=smoothing, window=window, stride=stride, blend=blend,
        )  # fmt: skip
        # A network is no hyper-parameter: a checkpoint holds its weights, and whoever loads it gives the network again.
        self.save_hyperparameters(ignore=["segmenter_adapter", "own_segmenter"])
        self.automatic_optimization = False
        if adapted is not None and not standardized:
            self.image_channels = None  # whatever the network takes
        _check_score(score, temperature, sample, has_features=given is None or feature_layer is not None)
        boundary_schedule(boundary_width, boundary_steps)
        self.score: Score = score
        self.temperature, self.sample, self.per_class = temperature, sample, per_class
        self.neighbours, self.bank_size, self.dilated_smoothing = neighbours, bank_size, dilated_smoothing
        self.boundary_width, self.boundary_steps = boundary_width, boundary_steps
        if abstention:
            self.network.extend_head()
        self.network.eval()
        self.fits = score in (*OF_FEATURES, "sml")
        for name in ("count", "mean", "variance", "whitening", *(["bank"] if score == "knn" else [])):
            self.register_buffer(name, torch.empty(0))
        self._sums: list[Tensor] = []
        self._cells: FeatureSample | None = None

    @property
    def is_fitted(self) -> bool:
        """Whether the statistics are there, where the score needs any."""
        return not self.fits or (self.bank if self.score == "knn" else self.mean).numel() > 0

    def statistics_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of what the fit fills, by class; the segmenter decides the width of features."""
        by_class = (self.num_classes,)
        if self.score == "knn":
            return {"bank": (None, None)}
        if self.score == "mahalanobis":
            return {"count": by_class, "mean": (*by_class, None), "whitening": (None, None, None)}
        return dict.fromkeys(("count", "mean", "variance"), by_class)

    @property
    def has_whole_weights(self) -> bool:
        """Always: there is nothing but a segmenter, and :meth:`load_pretrained` says where that is not given."""
        return True

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
        if saved and not isinstance(self.network, SegmenterAdapter):
            raise CheckpointError(
                "the checkpoint was saved with a segmenter of one's own, which is not in it but for its weights. Give it: "
                "load_from_checkpoint(file, segmenter_adapter=...), or segmenter_adapter in the configuration."
            )
        if not saved and isinstance(self.network, SegmenterAdapter):
            raise CheckpointError(
                "the checkpoint was saved without a segmenter of one's own. Leave segmenter_adapter out."
            )

    def train(self, mode: bool = True) -> PostHocScore:
        """Change the mode of everything but the network, which is always in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    # Scoring -----------------------------------------------------------------------------------------------------

    def network_output(self, image: Tensor) -> Tensor:
        """Logits of images (B, C, H, W), shape (B, Y, H, W), of a score of features followed by the distance: (B, Y + 1, H, W)."""
        if self.score not in OF_FEATURES:
            return super().network_output(image)[:, : self.num_classes]
        logits, feature = self.network.with_feature(image)  # B K H W, B D h w
        with torch.autocast(image.device.type, enabled=False):
            distance = self.distance(feature.float())  # B 1 h w
        return torch.cat([logits[:, : self.num_classes], self.network.resize(distance, image)], 1)

    def score_map(self, logits: Tensor) -> Tensor:
        """Score of what :meth:`network_output` gives, shape (B, Y or Y + 1, H, W) to (B, 1, H, W).

        Raises:
            NotFittedError: a score that is fitted, before that.
        """
        self.require_fitted()
        if self.score in OF_FEATURES:
            return logits[:, -1:]
        if self.score == "sml":
            return -self._standardized(logits)
        if self.score == "energy":
            return self.temperature * energy(logits / self.temperature)
        return LOGIT_SCORES[cast(LogitScore, self.score)](logits)

    def distance(self, feature: Tensor) -> Tensor:
        """Squared Mahalanobis distance to the nearest class, or that of ``knn``: shape (B, D, h, w) to (B, 1, h, w)."""
        if self.score == "knn":
            return nearest_cell_distance(feature, self.bank, neighbours=self.neighbours)
        return nearest_class_distance(feature, self.mean, self.whitening, self.count > 0)

    def _standardized(self, logits: Tensor) -> Tensor:
        """Largest logit by the statistics of its class, smoothed: (B, Y, H, W) to (B, 1, H, W)."""
        value, index = standardized_max_logit(logits, self.mean, self.variance)
        if self.boundary_width:
            value = suppress_boundaries(value, index, width=self.boundary_width, steps=self.boundary_steps)
        return smooth_dilated(value) if self.dilated_smoothing else value

    # Fitting -----------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Forget the sums of an earlier pass."""
        self._sums = []
        self._cells = None

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the sums, in float64."""
        if not self.fits:
            return
        kept = ~batch["padding"] if "padding" in batch else torch.ones(len(batch["image"]), dtype=torch.bool)
        with torch.no_grad():
            if self.score == "knn":
                self._keep_cells(batch["image"][kept], self.target(batch)[kept], batch_idx)
                return
            if self.score == "sml":
                parts = max_logit_sums(self.segment(batch["image"][kept]))  # from windows where they are scored so
            else:
                parts = self._feature_sums(batch["image"][kept], self.target(batch)[kept], batch_idx)
        self.watch("a feature", *parts)
        self._sums = [total + part for total, part in zip(self._sums, parts, strict=True)] if self._sums else parts

    def _sampled_cells(self, image: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Features (N, D) and classes (N,) of sampled cells with a class."""
        parts = []
        for place in self.places((image.shape[2], image.shape[3])):  # features of the windows that will be scored
            feature = self.network.with_feature(image[place])[1].movedim(1, -1)  # B h w D
            size = (feature.shape[1], feature.shape[2])
            label = F.interpolate(target[place].unsqueeze(1).float(), size=size, mode="nearest").squeeze(1).long()
            known = label < OUTLIER
            if self.sample < 1:
                known &= (
                    torch.rand(label.shape, generator=generator, dtype=torch.float32, device=label.device) < self.sample
                )
            parts.append((feature[known], label[known]))
        feature, label = (torch.cat(kind) for kind in zip(*parts, strict=True))
        return feature, label

    def _feature_sums(self, image: Tensor, target: Tensor, batch_idx: int) -> list[Tensor]:
        """Number (Y,), sum (Y, D) and products (1 or Y, D, D) of the features of sampled cells by class."""
        feature, label = self._sampled_cells(image, target, self.step_generator(batch_idx))
        return class_sums(feature.double(), label, num_classes=self.num_classes, per_class=self.per_class)

    def _keep_cells(self, image: Tensor, target: Tensor, batch_idx: int) -> None:
        """Add sampled cells to those of ``knn``."""
        generator = self.step_generator(batch_idx)
        feature, _ = self._sampled_cells(image, target, generator)
        self.watch("a feature", feature)
        self._cells = FeatureSample(self.bank_size) if self._cells is None else self._cells
        self._cells.add(uniform_keys(len(feature), generator, feature.device), feature.float())

    def _fit_cells(self, cells: FeatureSample) -> None:
        self.stop_if_not_finite()
        gather = cast(Callable[[Tensor], Tensor], self.all_gather)
        width = gather(torch.tensor(cells.features.shape[-1], device=self.device)).max()
        self.bank = cells.merge(int(width), all_gather=gather, device=self.device)
        if not len(self.bank):
            raise DatasetError("the training scenes have no pixel of a known class. Check the labels, or raise sample.")

    def fit_statistics(self) -> None:
        """Turn the sums of all processes into statistics.

        Raises:
            DatasetError: the training scenes have no known pixel, or too few for a covariance.
        """
        if self._cells is not None:
            self._fit_cells(self._cells)
        if not self.fits or not self._sums:
            return
        # Summing overwrites its argument, but an epoch that is validated half-way goes on collecting: hence the clones.
        count, *sums = (self.sum_over_ranks(total.clone()) for total in self._sums)
        if count.sum() < 2:
            raise DatasetError("the training scenes have no pixel of a known class. Check the labels, or raise sample.")
        if self.score == "sml":
            self.mean, self.variance = class_statistics(count, *sums)
        else:
            self.mean, self.whitening = fit_gaussians(count, *sums, per_class=self.per_class)
        # A single cell has no covariance: such a class is left out.
        self.count = count.where(count > self.per_class, 0).float()

    def configure_optimizers(self) -> None:
        """Nothing is learned by gradients."""


def _one_network(segmenter_adapter: nn.Module | None, own_segmenter: nn.Module | None) -> nn.Module | None:
    if segmenter_adapter is not None and own_segmenter is not None:
        raise ConfigError(
            "segmenter_adapter and own_segmenter are two names of one option. Give segmenter_adapter alone."
        )
    return own_segmenter if segmenter_adapter is None else segmenter_adapter


def _check_score(score: Score, temperature: float, sample: float, *, has_features: bool) -> None:
    if score not in (*LOGIT_SCORES, *OF_FEATURES, "sml"):
        raise ConfigError(f"score must be {', '.join(LOGIT_SCORES)}, mahalanobis, sml or knn; got {score!r}.")
    if temperature <= 0 or not 0 < sample <= 1:
        raise ConfigError(f"temperature must be above 0 and sample in (0, 1]; got {temperature} and {sample}.")
    if score in OF_FEATURES and not has_features:
        raise ConfigError(
            f"{score} scores features of the segmenter. Set feature_layer to the name of its last convolution."
        )

"""PEBAL: pasted outliers get a high free energy, and the higher it is, the better abstention from a class pays.

Paper: Tian et al., "Pixel-wise Energy-biased Abstention Learning for Anomaly Segmentation on Complex Urban Driving Scenes", ECCV 2022,
    arXiv:2111.12264; chapter 11 and appendix C of Yu Tian's thesis.
Reference: the authors' PyTorch release (tianyu0207/PEBAL) is described by our notes; of the code, the abstention loss was read for its clamp.
Differs: follows the release where it and the paper disagree (probabilities inside the logarithm, means over pixels, the outlier loss over
    all classes at a weight of 0.1, weights of the two regularisers, a penalty smoothed over the image); options take the paper's side
    where both are computable. Against both: the penalty is at least 1, without which abstention pays more the closer the energy is to
    0 and PAL alone collapses; pairs of neighbours with a void pixel are not smoothed; sums over all pixels are scaled to the
    published batch of 8 x 900 x 900; the frozen part stays in evaluation mode; the learning rate falls over the true steps; the
    logarithm of the outlier loss is not clamped, where the release has no gradient below 1e-7 (``outlier_clamp: 1e-7``).
Published figures: those of Lost and Found come from another checkpoint than those of Fishyscapes, as the authors say in public; the released
    one has an AP of .7223 and an FPR95 of .1460 on Lost and Found, where .7829 and .0081 are printed. Here the last epoch is one model.
Axes: B batch, Y classes, K = Y + 1 channels, the last for abstention, H and W pixels.
"""

from __future__ import annotations

import logging
import math
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from anomaly_suite.contract import OUTLIER, VOID
from anomaly_suite.errors import ConfigError, DatasetError
from anomaly_suite.methods.pixel_ood.abstention import (
    FineTunedSegmenter,
    OutlierForm,
    abstention_loss,
    check_outlier_clamp,
    mean_where,
)
from anomaly_suite.methods.pixel_ood.deeplab_v3_plus import cross_entropy
from anomaly_suite.methods.pixel_ood.scores import energy
from anomaly_suite.methods.pixel_ood.segmenter import BLUR_RADIUS, BLUR_SIGMA
from anomaly_suite.nn.blur import gaussian_blur
from anomaly_suite.nn.deeplab import TrunkMode
from anomaly_suite.nn.size import ImageSize
from anomaly_suite.nn.sliding_window import Blend

log = logging.getLogger(__name__)

PUBLISHED_PIXELS = 8 * 900 * 900  # of a batch; sums over all pixels have weights for this number
RELEASED_WEIGHTS = 3e-6, 5e-4  # of smoothness and sparsity; the paper prints them the other way round
MARGIN = 3.0  # from the mean energy of known pixels before tuning, where margins are measured
MARGIN_BATCHES = 50  # that are measured

Abstention = Literal["adaptive", "fixed", "extra_class", "none"]
Regularizer = Literal["released", "printed", "none"]


def adaptive_penalty(free: Tensor, *, floor: float, blur: bool) -> Tensor:
    """Squared energy, smoothed, at least ``floor``: the penalty a of every pixel.

    Args:
        free: Energies, shape (B, H, W).
        floor: Smallest penalty; 0 has none.
        blur: Smooth with a Gaussian of 7 x 7 pixels and deviation 1.

    Returns:
        Shape (B, H, W), above 0.
    """
    penalty = free.square()
    if blur:
        penalty = gaussian_blur(penalty.unsqueeze(1), sigma=BLUR_SIGMA, radius=BLUR_RADIUS).squeeze(1)
    return penalty.clamp_min(max(floor, torch.finfo(penalty.dtype).tiny))


def energy_loss(free: Tensor, known: Tensor, outlier: Tensor, *, margins: Tensor) -> Tensor:
    """Squared excess of known pixels over the first margin, and of the second margin over outliers; the mean of both.

    Args:
        free: Energies, shape (B, H, W).
        known: Bool, shape (B, H, W).
        outlier: Bool, shape (B, H, W). Without any, the loss is that of known pixels.
        margins: Of known pixels and of outliers, shape (2,).

    Returns:
        Scalar, 0 or more.

    Source:
        Equation 11.2 of the thesis, means for sums.
    """
    inside = mean_where((free - margins[0]).relu().square(), known)
    outside = mean_where((margins[1] - free).relu().square(), outlier)
    return torch.where(outlier.any(), (inside + outside) / 2, inside)


def smoothness(free: Tensor, scored: Tensor, *, form: Regularizer = "released") -> Tensor:
    """Half the sum of squared differences of neighbours, or with ``printed`` the sum of absolute ones.

    Args:
        free: Energies, shape (B, H, W).
        scored: Bool, shape (B, H, W); a pair with a pixel that is not scored counts nothing.
        form: ``released`` or ``printed``.

    Returns:
        Scalar, 0 or more.
    """
    total = free.new_zeros(())
    for dim in (1, 2):
        step = free.diff(dim=dim)
        first, second = scored.narrow(dim, 0, step.shape[dim]), scored.narrow(dim, 1, step.shape[dim])
        step = step.where(first & second, step.new_zeros(()))
        total = total + (step.square().sum() / 2 if form == "released" else step.abs().sum())
    return total


def sparsity(free: Tensor, outlier: Tensor, *, form: Regularizer = "released") -> Tensor:
    """Norm of the energies of outliers, or with ``printed`` the sum of absolute energies of all pixels.

    Args:
        free: Energies, shape (B, H, W).
        outlier: Bool, shape (B, H, W).
        form: ``released`` or ``printed``.

    Returns:
        Scalar, 0 or more.
    """
    if form == "printed":
        return free.abs().sum()
    norm: Tensor = torch.linalg.vector_norm(free.where(outlier, free.new_zeros(())))  # its gradient at zero is zero
    return norm


class PEBAL(FineTunedSegmenter):
    """Fine-tunes the last block of a segmenter with abstention, energy and smoothness losses; the smoothed energy is the score.

    Needs scenes with pasted outliers (target 254), as the data modules of driving scenes give with ``outlier_fraction``. The terms of
    the loss can be switched off one by one (table 11.5 of the thesis); ``abstention: none`` leaves the cross-entropy of known pixels.

    Args:
        abstention: ``adaptive``, penalty a = E^2, smoothed; ``fixed``, a constant; ``extra_class``, cross-entropy with outliers as
            a further class, whose probability is then the score; ``none``.
        penalty_floor: Smallest adaptive penalty; 0 has none.
        penalty_detach: Let no gradient through the adaptive penalty.
        penalty_blur: Smooth it over the image, as released.
        fixed_penalty: a of ``abstention: fixed``.
        outlier_weight: Of outlier pixels in the abstention loss; the paper's form has 1.
        outlier_form: See :func:`~anomaly_suite.methods.pixel_ood.abstention.abstention_out`.
        outlier_clamp: Smallest value inside its logarithm; the release has 1e-7, below which an outlier learns nothing. Null has none.
        energy: Learn to keep the energy of known pixels below ``margin_in`` and that of outliers above ``margin_out``.
        margin_in: Null for both measures the mean energy of known pixels before the training, and takes 3 less and 3 more: for networks
            other than the published ones.
        margin_out: See ``margin_in``.
        regularizer: ``released`` sums squared differences of neighbours and takes the norm of the outliers' energies; ``printed`` sums
            absolute values, as the paper says; ``none``.
        smoothness_weight: Null is 3e-6 for ``released``, 5e-4 for ``printed``.
        sparsity_weight: Null is 5e-4 for ``released``, 3e-6 for ``printed``.
        energy_weight: lambda, of everything but abstention; the headline row of the paper used 0.01.
        smoothing: Smooth the anomaly map with a Gaussian of 7 x 7 pixels and deviation 1.
        trunk_mode: ``eval`` or ``train``, of everything but the last block.
        lr: First learning rate of Adam, which falls polynomially.
        backbone: ``wide_resnet38``, or a timm network that can be dilated.
        num_classes: Y, the classes of the training scenes.
        output_stride: Pixels for one cell of the deepest map, 8 or 16.
        width: Channels of the decoder.
        released_dilation: Of ResNets, dilate the first block of a stage as published weights need it.
        backbone_weights: ``imagenet``, a file, or null; not read with ``segmenter_weights``.
        segmenter_weights: A file of the whole network, a checkpoint of a DeepLabV3Plus, or the folder of its run.
        window: Height and width of the windows of evaluation; null takes whole images.
        stride: From one window to the next; null is two thirds of the window.
        blend: ``uniform`` or ``tapered`` mean of overlapping windows.

    Raises:
        ConfigError: an option out of its range, or margins of which one is null.
    """

    margins: Tensor

    def __init__(
        self,
        *,
        abstention: Abstention = "adaptive",
        penalty_floor: float = 1.0,
        penalty_detach: bool = False,
        penalty_blur: bool = True,
        fixed_penalty: float = 4.5,
        outlier_weight: float = 0.1,
        outlier_form: OutlierForm = "released",
        outlier_clamp: float | None = None,
        energy: bool = True,
        margin_in: float | None = -12.0,
        margin_out: float | None = -6.0,
        regularizer: Regularizer = "released",
        smoothness_weight: float | None = None,
        sparsity_weight: float | None = None,
        energy_weight: float = 0.1,
        smoothing: bool = True,
        trunk_mode: TrunkMode = "eval",
        lr: float = 1e-5,
        backbone: str = "resnet101s",
        num_classes: int = 19,
        output_stride: int = 8,
        width: int = 256,
        released_dilation: bool = False,
        backbone_weights: str | None = "imagenet",
        segmenter_weights: str | None = None,
        window: ImageSize | None = None,
        stride: ImageSize | None = None,
        blend: Blend = "uniform",
    ) -> None:
        super().__init__(
            abstention=abstention != "none", trunk_mode=trunk_mode, lr=lr, backbone=backbone, num_classes=num_classes, output_stride=output_stride, width=width,
            released_dilation=released_dilation, backbone_weights=backbone_weights, segmenter_weights=segmenter_weights,
            smoothing=smoothing, window=window, stride=stride, blend=blend,
        )  # fmt: skip
        self.save_hyperparameters()
        smooth, sparse = RELEASED_WEIGHTS if regularizer == "released" else RELEASED_WEIGHTS[::-1]
        self.abstention: Abstention = abstention
        self.scores_abstention = abstention == "extra_class"
        self.penalty_floor = penalty_floor
        self.penalty_detach = penalty_detach
        self.penalty_blur = penalty_blur
        self.fixed_penalty = fixed_penalty
        self.outlier_weight = outlier_weight
        self.outlier_form: OutlierForm = outlier_form
        self.outlier_clamp = outlier_clamp
        self.energy = energy
        self.regularizer: Regularizer = regularizer
        self.smoothness_weight = smooth if smoothness_weight is None else smoothness_weight
        self.sparsity_weight = sparse if sparsity_weight is None else sparsity_weight
        self.energy_weight = energy_weight
        self._check_options(margin_in, margin_out)
        given = [math.nan if margin is None else margin for margin in (margin_in, margin_out)]
        self.register_buffer("margins", torch.tensor(given))

    def _check_options(self, margin_in: float | None, margin_out: float | None) -> None:
        if (margin_in is None) != (margin_out is None):
            raise ConfigError(
                f"margin_in and margin_out are both given or both null; got {margin_in} and {margin_out}. Null measures them."
            )
        if margin_in is not None and margin_out is not None and margin_in > margin_out:
            raise ConfigError(
                f"margin_in must be at most margin_out, since outliers have the higher energy; got {margin_in} and {margin_out}. Exchange them."
            )
        for name in ("penalty_floor", "outlier_weight", "smoothness_weight", "sparsity_weight", "energy_weight"):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"{name} must be 0 or above; got {value}.")
        check_outlier_clamp(self.outlier_clamp)
        if self.fixed_penalty <= 0:
            raise ConfigError(f"fixed_penalty must be above 0; got {self.fixed_penalty}. 4.5 is the release's.")

    def score_map(self, logits: Tensor) -> Tensor:
        """Free energy of the classes, or the probability of the extra class: (B, K, H, W) to (B, 1, H, W)."""
        if self.abstention == "extra_class":
            return logits.float().softmax(1)[:, -1:]
        return energy(logits[:, : self.num_classes])

    def on_train_start(self) -> None:
        """Measure the margins where they are not known yet; all processes get the same."""
        if self.energy and bool(self.margins.isnan().any()):
            mean = self._mean_energy()
            self.margins.copy_(torch.tensor([mean - MARGIN, mean + MARGIN]))
            log.info("mean energy of known pixels %.2f: margins %.2f and %.2f", mean, *self.margins.tolist())

    @torch.no_grad()
    def _mean_energy(self) -> float:
        """Of known pixels of the first batches, all processes together."""
        training = self.network.training
        self.network.eval()
        total = self.margins.new_zeros(2, dtype=torch.float64)
        for batch in islice(self.training_batches(), MARGIN_BATCHES):
            known = self.target(batch) < OUTLIER
            free = energy(self.network(batch["image"])[:, : self.num_classes]).squeeze(1)
            self.watch("an energy", free)
            total += torch.stack([free[known].double().sum(), known.sum().double()])
        self.network.train(training)
        value, count = self.sum_over_ranks(total).tolist()
        if count == 0:
            raise DatasetError(
                f"margins are measured on known pixels; the first {MARGIN_BATCHES} batches have none. Check the labels, or give "
                "margin_in and margin_out."
            )
        return float(value / count)

    def loss(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Abstention, energy, sparsity and smoothness, as far as they are switched on, by name.

        Args:
            logits: Float32, shape (B, K, H, W).
            target: Shape (B, H, W).
        """
        free = energy(logits[:, : self.num_classes]).squeeze(1)  # B H W
        known, outlier = target < OUTLIER, target == OUTLIER
        terms = {"classes": self._class_loss(logits, target, free)}
        weight = self.energy_weight
        if self.energy:
            terms["energy"] = weight * energy_loss(free, known, outlier, margins=self.margins)
        if self.regularizer != "none":
            scale = PUBLISHED_PIXELS / target.numel()
            smooth = scale * smoothness(free, target != VOID, form=self.regularizer)
            sparse = sparsity(free, outlier, form=self.regularizer)
            if self.regularizer == "printed":  # over all pixels, too
                sparse = scale * sparse
            terms["smoothness"] = weight * self.smoothness_weight * smooth
            terms["sparsity"] = weight * self.sparsity_weight * sparse
        return terms

    def _class_loss(self, logits: Tensor, target: Tensor, free: Tensor) -> Tensor:
        if self.abstention == "extra_class":
            target = target.masked_fill(target == OUTLIER, self.num_classes)
        if self.abstention in ("extra_class", "none"):
            return mean_where(cross_entropy(logits, target), target < OUTLIER)
        if self.abstention == "fixed":
            log_penalty = logits.new_tensor(math.log(self.fixed_penalty))
        else:
            log_penalty = adaptive_penalty(free, floor=self.penalty_floor, blur=self.penalty_blur).log()
            log_penalty = log_penalty.detach() if self.penalty_detach else log_penalty
        return abstention_loss(
            logits,
            target,
            log_penalty,
            outlier_weight=self.outlier_weight,
            form=self.outlier_form,
            clamp=self.outlier_clamp,
        )

"""FeatureDensity: the density of a network's features, or of pixels, is the score: kernels, one-class SVM, Gaussian or neighbours.

Papers: Parzen 1962 (KDE); Schölkopf et al., Neural Computation 2001 (OC-SVM); as comparators Ruff et al., "Deep One-Class Classification",
    ICML 2018. Fitted by scikit-learn (OC-SVM) and scored by PyTorch alone; see :mod:`anomaly_suite.nn.density`.
Formulas: ``kde`` -log of the mean Gaussian kernel of deviation h around the training features; ``ocsvm`` rho - sum a_i exp(-gamma |x - x_i|^2)
    with sum a_i = 1; ``gde`` the squared Mahalanobis distance; ``knn`` the mean distance to the nearest training features.
Reference: none was read.
Differs: Ruff et al. choose h from 2^0.5 to 2^5 and, for the OC-SVM, gamma on a part of the test set. Here h maximises the likelihood of
    held-out training features, between 1/16 and 4 of their deviation, and gamma is 1 / (D times the variance of all entries).
Axes: B batch, C channels, H and W pixels, D features, N training features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.augment.draws import image_keys
from anomaly_suite.contract import AnomalyModule, Batch
from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.density import (
    SupportVectors,
    fit_gaussian,
    fit_support_vectors,
    likely_bandwidth,
    negative_log_density,
    outside,
    principal_axes,
    spread_gamma,
)
from anomaly_suite.nn.encoders import INFOMAX, ImageEncoder
from anomaly_suite.nn.exporting import plain
from anomaly_suite.nn.feature_bank import FeatureSample, nearest
from anomaly_suite.nn.shrinkage import FeatureMoments
from anomaly_suite.nn.size import ImageSize

OF_ONE_SIZE = ("residual", *INFOMAX)
CHUNK = 32  # images of which features are computed at once
MOST_NUMBERS = 2**30  # of a sample: 4 GiB

Estimator = Literal["kde", "ocsvm", "gde", "knn"]


class FeatureDensity(AnomalyModule):
    """A density of the features of an encoder that is not trained, or of the pixels; one pass over the training images.

    The memory of the fit is a sample of ``bank_size`` features, which the images alone decide, whatever the order, the batches or the
    number of processes. ``kde`` and ``knn`` keep all of it in the checkpoint, ``ocsvm`` its support vectors, ``gde`` a mean and a matrix.

    Args:
        estimator: ``kde``, ``ocsvm``, ``gde`` (one Gaussian) or ``knn``.
        encoder: ``residual``, or the name of a timm network; null takes pixels.
        encoder_weights: ``imagenet``, a file, the run of a pre-training, or null for random weights.
        image_size: Height and width of the images that a ``residual`` encoder takes; the others take any.
        width: Channels of the first convolution of ``residual``.
        normalize: Features of length 1.
        variance: Share of the variance that the principal axes hold which features are projected on; null takes them as they are.
        bandwidth: Deviation of the kernels of ``kde``; null chooses the likeliest.
        nu: Of ``ocsvm``, the share of training features that may lie outside, in (0, 1).
        gamma: Of the kernel of ``ocsvm``; null is 1 / (D times the variance of all entries).
        eps: On the diagonal of the covariance of ``gde``; null takes Ledoit and Wolf's.
        neighbours: Of ``knn``.
        bank_size: Most features of the sample.

    Shapes: images (B, C, H, W) in [0, 1], C 1 or 3, all of one size for pixels; score (B,); no map.

    Raises:
        ConfigError: an unknown network, an option of the encoder without one, or a number out of its range.
    """

    single_pass = True
    image_channels = (1, 3)

    rows: Tensor
    weight: Tensor
    offset: Tensor
    scale: Tensor
    center: Tensor
    axes: Tensor
    whitening: Tensor

    def __init__(
        self,
        *,
        estimator: Estimator = "kde",
        encoder: str | None = None,
        encoder_weights: str | None = None,
        image_size: ImageSize | None = None,
        width: int = 64,
        normalize: bool = False,
        variance: float | None = None,
        bandwidth: float | None = None,
        nu: float = 0.1,
        gamma: float | None = None,
        eps: float | None = None,
        neighbours: int = 1,
        bank_size: int = 10_000,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        if encoder is None and encoder_weights is not None:
            raise ConfigError(
                f"encoder_weights needs an encoder; got encoder: null, encoder_weights: {encoder_weights!r}. Name the network, such as resnet18."
            )
        if not 0 < nu < 1:
            raise ConfigError(
                f"nu must lie between 0 and 1; got {nu}. 0.1 lets a tenth of the training features lie outside."
            )
        if encoder in OF_ONE_SIZE and image_size is None:
            raise ConfigError(
                f"the encoder {encoder} needs an image_size; got null. Give the height and width of the images."
            )
        self.estimator: Estimator = estimator
        self.encoder = None if encoder is None else ImageEncoder(encoder, image_size=image_size or 1, width=width)
        if self.encoder is None:
            self.unused = nn.Parameter(torch.zeros(()))  # DDP refuses a module without any parameter
        else:
            self.encoder.eval()
        self.encoder_weights = encoder_weights
        self.normalize, self.variance = normalize, variance
        self.bandwidth, self.nu, self.gamma, self.eps = bandwidth, nu, gamma, eps
        self.neighbours, self.bank_size = neighbours, bank_size
        for name in ("rows", "weight", "offset", "scale", "center", "axes", "whitening"):
            self.register_buffer(name, torch.empty(0))
        self._sample: FeatureSample | None = None

    @property
    def is_fitted(self) -> bool:
        """Whether there is a density."""
        return self.center.numel() > 0

    def statistics_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of what the fit fills; the training images decide most of them."""
        shapes: dict[Estimator, dict[str, tuple[int | None, ...]]] = {
            "kde": {"rows": (None, None), "scale": ()},
            "ocsvm": {"rows": (None, None), "weight": (None,), "offset": (), "scale": ()},
            "gde": {"whitening": (None, None)},
            "knn": {"rows": (None, None)},
        }
        axes: dict[str, tuple[int | None, ...]] = {} if self.variance is None else {"axes": (None, None)}
        return {"center": (None,), **axes, **shapes[self.estimator]}

    def load_pretrained(self) -> None:
        """Load the encoder's weights."""
        if self.encoder is not None:
            self.encoder.load_weights(self.encoder_weights)

    def train(self, mode: bool = True) -> FeatureDensity:
        """Switch mode; the encoder stays in evaluation mode, or scores would depend on the batch."""
        super().train(mode)
        if self.encoder is not None:
            self.encoder.eval()
        return self

    # The score -------------------------------------------------------------------------------------------------------

    def embed(self, image: Tensor) -> Tensor:
        """Features (B, D) of images (B, C, H, W), in float32, before the projection."""
        feature = (image.flatten(1) if self.encoder is None else self.encoder(image)).float()
        return F.normalize(feature, dim=1) if self.normalize else feature

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            Score (B,), and no map.

        Raises:
            ShapeError: pixels of another number than those of the training images.
        """
        feature = self.embed(image)
        if plain(feature.shape[1]) != plain(self.center.shape[0]):
            raise ShapeError(
                f"FeatureDensity was fitted on {self.center.shape[0]} pixels an image; got {tuple(image.shape)} (B, C, H, W). "
                "Give images of the size of the training images."
            )
        with torch.autocast(feature.device.type, enabled=False):
            return self.score(self._projected(feature)), None

    def score(self, feature: Tensor) -> Tensor:
        """Scores (B,) of projected features (B, K)."""
        if self.estimator == "kde":
            return negative_log_density(feature, self.rows, bandwidth=self.scale)
        if self.estimator == "ocsvm":
            return outside(feature, SupportVectors(self.rows, self.weight, self.offset), gamma=self.scale)
        if self.estimator == "gde":
            return ((feature @ self.whitening.T) ** 2).sum(1)
        return nearest(feature, self.rows, neighbours=self.neighbours).sqrt().mean(1)

    def _projected(self, feature: Tensor) -> Tensor:
        """Features less their mean, on the principal axes where there are any: the digits of distances are then those that count."""
        feature = feature - self.center
        return feature if self.variance is None else feature @ self.axes

    # Fitting ---------------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Forget the features of an earlier pass."""
        self._sample = None

    @torch.no_grad()
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Take in the features of training images; padding, which the sampler repeats, does not count.

        Raises:
            ShapeError: pixels of another number than those before.
            ConfigError: a sample that would take more than 4 GiB.
        """
        image = batch["image"][~batch["padding"]] if "padding" in batch else batch["image"]
        if self._sample is None:
            self._sample = FeatureSample(self.bank_size)
        for some in torch.split(image, CHUNK):
            if not len(some):
                continue
            feature = self.embed(some)
            self.watch("a feature", feature)
            self._check_width(feature, image)
            self._sample.add(image_keys(some), feature)

    def _check_width(self, feature: Tensor, image: Tensor) -> None:
        held = cast(FeatureSample, self._sample).features
        if held.numel() and held.shape[1] != feature.shape[1]:
            raise ShapeError(
                f"training images must all have one size, for their pixels are compared; got {tuple(image.shape)} (B, C, H, W) after images of "
                f"{held.shape[1]} numbers. Resize them in the data module."
            )
        if self.bank_size * feature.shape[1] > MOST_NUMBERS and len(held) * feature.shape[1] > MOST_NUMBERS // 2:
            raise ConfigError(
                f"FeatureDensity keeps at most bank_size={self.bank_size} features of {feature.shape[1]} numbers, which would take more than 4 GiB. "
                "Lower bank_size, give smaller images, or name an encoder."
            )

    @torch.no_grad()
    def fit_statistics(self) -> None:
        """Fit the density to the sample of all processes.

        Raises:
            ConfigError: fewer than two training images, or a Gaussian of a singular covariance.
        """
        if self._sample is None:
            return
        self.stop_if_not_finite()
        width = self._width()
        gather = cast(Callable[[Tensor], Tensor], self.all_gather)
        rows = self._sample.merge(width, all_gather=gather, device=self.device)
        if len(rows) < 2:
            raise ConfigError(
                f"FeatureDensity needs at least 2 training images to estimate a density; got {len(rows)}. Add training images."
            )
        self.center = rows.double().mean(0).float()
        if self.variance is not None:
            self.axes = principal_axes(rows - self.center, share=self.variance)
        # What `scale` is to scikit-learn, of features as they are: the means of columns count.
        gamma = spread_gamma(rows if self.variance is None else self._projected(rows))
        self._fit(self._projected(rows), gamma=gamma)

    def _width(self) -> int:
        """D, also in a process without an image."""
        held = cast(FeatureSample, self._sample).features
        mine = torch.tensor(held.shape[1] if held.ndim == 2 else 0, device=self.device)
        return int(cast(Tensor, self.all_gather(mine)).max())

    def _fit(self, rows: Tensor, *, gamma: Tensor) -> None:
        """Fit to projected features (N, K); ``gamma`` () where none was given."""
        if self.estimator == "gde":
            moments = FeatureMoments(rows.shape[1], device=rows.device)
            moments.add(rows)
            found = fit_gaussian(moments, ridge=self.eps)
            if found is None:
                raise ConfigError(
                    f"gde needs features that differ between training images; their covariance is singular with eps={self.eps}. "
                    "Look for images that are all alike, or give a larger eps."
                )
            self.whitening = found[1].float()
            return
        self.rows = rows.contiguous()
        if self.estimator == "kde":
            self.scale = likely_bandwidth(rows) if self.bandwidth is None else rows.new_tensor(self.bandwidth)
        elif self.estimator == "ocsvm":
            self.scale = gamma if self.gamma is None else rows.new_tensor(self.gamma)
            self.rows, self.weight, self.offset = fit_support_vectors(rows, nu=self.nu, gamma=self.scale)

    def configure_optimizers(self) -> None:
        """Nothing is optimised."""

"""PaDiM: one Gaussian of pretrained features at every position; the score is the Mahalanobis distance to it.

Paper: Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization",
    ICPR Workshops 2021, arXiv:2011.08785.
Formulas: for position p with features x of N training images, mean ``mu = sum(x) / N``, covariance
    ``Sigma = sum((x - mu)(x - mu)') / (N - 1) + eps I``, anomaly map ``sqrt((x - mu)' inv(Sigma) (x - mu))``, enlarged to the
    image and smoothed; the image's score is its maximum.
Reference: none was read; the paper and the released implementations' settings (eps 0.01, smoothing 4 px) were enough.
Differs: the smoothing width follows the image size, and mirrors maps at their outermost pixels, where released implementations (SciPy's
    default) repeat these (``border: symmetric``): up to a few per cent of the map's mean at the borders. Scores
    are raw, not min-max scaled over a test set. A checkpoint holds
    the inverse Cholesky factor of each covariance as a packed triangle, half the size of the inverse covariance.
Axes: B batch, C channels, H and W pixels, h and w cells of the shallowest map, P = h * w positions, D chosen channels, T and
    S entries of a triangle (see :mod:`anomaly_suite.nn.gaussian`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.trainer.states import TrainerStatus
from torch import Tensor

from anomaly_suite.contract import AnomalyModule, Batch, Prediction
from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.backbones import FeatureExtractor
from anomaly_suite.nn.blur import Border, smoothing_matrix, smoothing_sigma
from anomaly_suite.nn.encoders import load_backbone
from anomaly_suite.nn.exporting import plain
from anomaly_suite.nn.gaussian import POSITIONS_AT_ONCE, StreamedMoments, fit_gaussians, mahalanobis, packed_to_strips

BACKBONE_CHUNK = 4
"""Images whose features a CPU computes at once: memory does not grow with the batch, and resnet18 at 256 px is a fifth
faster than with 32, whose activations do not stay in cache."""

DISTANCE_CHUNK = 32
"""Images whose distances a CPU computes at once: the whitening matrices are read once for all of them."""


class PaDiM(AnomalyModule):
    """Gaussians of pretrained features at every position, fitted in one pass without gradients.

    Images must all have one size and should be aligned: the method compares each position with itself.

    Args:
        backbone: Any timm network with feature maps.
        layers: Its feature maps by index; null takes those of stride 4, 8 and 16.
        weights: ``imagenet``, a local file, or null for random weights from ``seed``.
        encoder_weights: Checkpoint or run folder of a pre-training whose encoder is the backbone, in place of ``weights``; or null.
        num_channels: D, drawn at random from all channels of the layers; 100 for resnet18, 550 for wide_resnet50_2.
        eps: Added to the diagonal of each covariance.
        normalization: ``imagenet`` standardises as the backbone's weights expect; ``none`` takes images as they are.
        score: ``smoothed`` is the maximum of the anomaly map, ``raw`` that of the distances before smoothing.
        sigma: Smoothing in pixels at an image size of 224 to 256, in proportion at other sizes.
        border: How the smoothing continues a map: ``mirror`` or ``symmetric``, see :data:`~anomaly_suite.nn.blur.Border`.
        seed: Decides the channels (and random weights).

    Raises:
        ConfigError: an unknown backbone or layer, or more channels than the layers have.
    """

    single_pass = True
    image_channels = (1, 3)
    factor: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(
        self,
        *,
        backbone: str = "resnet18",
        layers: Sequence[int] | None = None,
        weights: str | None = "imagenet",
        encoder_weights: str | None = None,
        num_channels: int = 100,
        eps: float = 0.01,
        normalization: Literal["imagenet", "none"] = "imagenet",
        score: Literal["smoothed", "raw"] = "smoothed",
        sigma: float = 4.0,
        border: Border = "mirror",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        # The parameters stay trainable, though nothing trains them: DDP refuses a module without any.
        self.backbone = FeatureExtractor(backbone, layers=layers, normalization=normalization, seed=seed, frozen=True)
        self.backbone.eval()
        available = sum(self.backbone.channels)
        if not 1 <= num_channels <= available:
            raise ConfigError(
                f"num_channels must be between 1 and the {available} channels of the chosen layers; got {num_channels}. "
                "Lower it or choose more layers."
            )
        chosen = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:num_channels].sort().values
        start = 0
        for index, width in enumerate(self.backbone.channels):
            mine = chosen[(chosen >= start) & (chosen < start + width)] - start
            self.register_buffer(f"channels_{index}", mine)
            start += width
        self.num_channels = num_channels
        self.weights = weights
        self.encoder_weights = encoder_weights
        self.eps = eps
        self.score = score
        self.sigma = sigma
        self.border: Border = border
        self.register_buffer("mean", torch.empty(0))  # (h, w, D)
        self.register_buffer("factor", torch.empty(0))  # (P, T), packed inverse Cholesky factors
        self.register_buffer("whitening", torch.empty(0), persistent=False)  # (P, S), the same as products take them
        self._grid = (0, 0)  # h, w
        self._moments: StreamedMoments | None = None

    @property
    def is_fitted(self) -> bool:
        """Whether the Gaussians are there."""
        return self.factor.numel() > 0

    def statistics_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of what the fit fills; the size of the images decides the grid."""
        width = self.num_channels
        return {"mean": (None, None, width), "factor": (None, width * (width + 1) // 2)}

    def load_pretrained(self) -> None:
        """Load the backbone's weights."""
        load_backbone(self.backbone, self.weights, self.encoder_weights)

    def train(self, mode: bool = True) -> PaDiM:
        """Switch mode; the backbone stays in eval mode, or scores would depend on the batch."""
        super().train(mode)
        self.backbone.eval()
        return self

    def embed(self, image: Tensor) -> Tensor:
        """Chosen channels of all layers on the grid of the shallowest one.

        Args:
            image: Shape (B, 3, H, W) or (B, 1, H, W), in [0, 1].

        Returns:
            Shape (B, h, w, D), float32.
        """
        maps = self.backbone(image)
        grid = maps[0].shape[2:]
        parts = []
        for index, x in enumerate(maps):
            channels = self.get_buffer(f"channels_{index}")
            if len(channels):
                # Channels are picked before they are spread, and last in memory, where picking is fast.
                x = x.permute(0, 2, 3, 1).index_select(3, channels).permute(0, 3, 1, 2)  # (B, D of this layer, ...)
                parts.append(F.interpolate(x, size=grid, mode="nearest"))
        return torch.cat(parts, 1).permute(0, 2, 3, 1).float()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images by the distance of their features to the training images'.

        Args:
            image: Shape (B, C, H, W), in [0, 1], the size of the training images.

        Returns:
            ``anomaly_score`` (B,) and ``anomaly_map`` (B, 1, H, W), both 0 or above.

        Raises:
            ShapeError: images of another size.
        """
        return self._score([self.embed(image)], image.shape[2:], positions=len(self.factor))

    def predict(self, batch: Batch) -> Prediction:
        """Raw scores of one batch: what ``forward`` gives, in portions that suit a CPU."""
        image = batch["image"]
        if image.device.type != "cpu":
            return super().predict(batch)
        scores, maps = zip(
            *(
                self._score(
                    [self.embed(few) for few in torch.split(some, BACKBONE_CHUNK)],
                    image.shape[2:],
                    positions=POSITIONS_AT_ONCE,
                )
                for some in torch.split(image, DISTANCE_CHUNK)
            ),
            strict=True,
        )
        return {"anomaly_score": torch.cat(scores), "anomaly_map": torch.cat(maps)}

    def _score(self, portions: Sequence[Tensor], size: Sequence[int], *, positions: int) -> tuple[Tensor, Tensor]:
        """Scores and maps of images of ``size`` (H, W), embedded in portions (B, h, w, D); so many positions at once."""
        (height, width), (rows, columns) = map(plain, size), map(plain, self.mean.shape[:2])
        if portions[0].shape[1:3] != (rows, columns):
            raise ShapeError(
                f"PaDiM was fitted on a grid of {rows}x{columns} positions; images of {height}x{width} pixels give "
                f"{portions[0].shape[1]}x{portions[0].shape[2]}. Resize images to the size of the training images."
            )
        vectors = [portion.flatten(1, 2) for portion in portions]  # B P D
        with torch.autocast(self.mean.device.type, enabled=False):
            if not self.whitening.numel():
                self._unpack()
            distance = mahalanobis(vectors, self.mean.flatten(0, 1), self.whitening, positions=positions)
            distance = distance.T.reshape(-1, 1, rows, columns)
            sigma = smoothing_sigma(height, width, sigma=self.sigma)
            smoothing = partial(smoothing_matrix, sigma=sigma, device=distance.device, border=self.border)
            down, across = smoothing(rows, height), smoothing(columns, width)
            smooth = down @ distance @ across.T  # B 1 H W
        return (smooth if self.score == "smoothed" else distance).amax((1, 2, 3)), smooth

    def on_train_epoch_start(self) -> None:
        """Forget the features of an earlier pass."""
        self._moments = None

    @torch.no_grad()
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the features of training images to the moments; padding, which the sampler repeats, does not count.

        Raises:
            ShapeError: the images have another size than those before.
        """
        image = batch["image"]
        if "padding" in batch:
            image = image[~batch["padding"]]
        chunk = BACKBONE_CHUNK if image.device.type == "cpu" else max(1, len(image))
        portions = [self.embed(portion) for portion in torch.split(image, chunk)]  # each (B, h, w, D)
        _, height, width, channels = portions[0].shape
        if self._moments is None:
            self._grid = (height, width)
            self._moments = StreamedMoments(height * width, channels, device=image.device)
        if self._grid != (height, width):
            raise ShapeError(
                f"training images must all have one size; batch {batch_idx} has shape {tuple(image.shape)}, a grid of "
                f"{(height, width)} instead of {self._grid}. Resize them in the data module."
            )
        with torch.autocast(image.device.type, enabled=False):
            self._moments.add([portion.flatten(1, 2) for portion in portions])
        self.watch("a feature", self._moments.total)

    def fit_statistics(self) -> None:
        """Turn the moments collected by all processes into means and factors.

        Raises:
            ConfigError: fewer than two training images, or singular covariances.
        """
        if self._moments is None:
            return
        # Summing overwrites its argument, but an epoch that is validated half-way goes on collecting: hence the clone.
        count = self.sum_over_ranks(self._moments.count.clone())
        if count < 2:
            raise ConfigError(
                f"PaDiM needs at least 2 training images to estimate covariances; got {int(count)}. Add training images."
            )
        mean, self.factor = fit_gaussians(self._moments, eps=self.eps, sum_over_ranks=self.sum_over_ranks)
        self.mean = mean.view(*self._grid, -1)
        if self.trainer.is_last_batch:
            self._moments = None  # before as much memory again is taken
        self._unpack()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room during a fit: a checkpoint is put together in memory. What products take is made again afterwards."""
        super().on_save_checkpoint(checkpoint)
        if self._trainer is not None and self.trainer.state.status == TrainerStatus.RUNNING:
            self.whitening = self.whitening.new_empty(0)

    def on_fit_end(self) -> None:
        """Be ready to score and to be exported."""
        super().on_fit_end()
        if self.is_fitted and not self.whitening.numel():
            self._unpack()

    @torch.inference_mode(False)
    def _unpack(self) -> None:
        self.whitening = packed_to_strips(self.factor, self.mean.shape[-1])

    def configure_optimizers(self) -> None:
        """Nothing is optimised."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}factor")
        if saved is not None and saved.ndim == 3:  # (P, T, 3), as once written: float32 without its lowest byte
            state_dict[f"{prefix}factor"] = F.pad(saved, (1, 0)).view(torch.float32).squeeze(-1)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.is_fitted:
            self._unpack()

"""PaDiM: one Gaussian of pretrained features at every position; the score is the Mahalanobis distance to it.

Paper: Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization",
    ICPR Workshops 2021, arXiv:2011.08785.
Reference: none was read; the paper and the released implementations' settings (eps 0.01, smoothing 4 px) were enough.
Differs: the smoothing width follows the image size; scores are raw, not min-max scaled over a test set; the factor of
    each inverse covariance is kept as a packed triangle of 24-bit floats, which makes a checkpoint 2.7 times smaller
    than full float32 matrices and changes scores by less than 1e-4 of their value.
Axes: B batch, C channels, H and W pixels, h and w cells of the shallowest map, P = h * w positions, D chosen channels,
    T = D * (D + 1) / 2 entries of a lower triangle, S entries of the strips that cover one (see :func:`strips`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.contract import AnomalyModule, Batch, Prediction
from anomaly_suite.errors import ConfigError, NotFiniteError, ShapeError
from anomaly_suite.nn.backbones import FeatureExtractor
from anomaly_suite.nn.blur import gaussian_blur, smoothing_sigma

BACKBONE_CHUNK = 4
"""Images whose features a CPU computes at once: memory does not grow with the batch, and resnet18 at 256 px is a fifth
faster than with 32, whose activations do not stay in cache."""

DISTANCE_CHUNK = 32
"""Images whose distances a CPU computes at once: the whitening matrices are read once for all of them."""

POSITION_CHUNK = 64
"""Positions worked on at once: their matrices stay in cache, and few double-precision ones exist at a time."""

STRIPS = 5
"""Strips of rows that cover a triangle: 40 % less memory and work than the square, in dense products."""

LAPACK_SIZE = 64
"""Widest matrices left to LAPACK, which takes them one by one; a batch of wider ones is split into products."""


class StreamedMoments:
    """Count, sum and second moment of the features at every position, in float64; memory does not grow with images.

    Args:
        grid: (h, w).
        channels: D.
        device: Where to accumulate.
    """

    def __init__(self, grid: tuple[int, int], channels: int, *, device: torch.device) -> None:
        positions = grid[0] * grid[1]
        entries = sum((stop - start) * stop for start, stop in strip_rows(channels))
        self.grid = grid
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.total = torch.zeros(positions, channels, dtype=torch.float64, device=device)
        self.second = torch.zeros(positions, entries, dtype=torch.float64, device=device)

    def add(self, portions: Sequence[Tensor]) -> None:
        """Take in a batch, in one or more portions of shape (B, P, D)."""
        self.count += sum(len(portion) for portion in portions)
        by_position = (portion.transpose(0, 1) for portion in portions)  # (P, B, D)
        for total, second, *rows in _by_positions(POSITION_CHUNK, self.total, self.second, *by_position):
            part = torch.cat(rows, 1).double()
            total += part.sum(1)
            for (start, stop), strip in strips(second, part.shape[2]):
                strip += torch.bmm(part[..., start:stop].mT, part[..., :stop])


def strip_rows(channels: int) -> list[tuple[int, int]]:
    """First row of every strip and the row after its last one; none is empty."""
    edges = [channels * index // STRIPS for index in range(STRIPS + 1)]
    return [(start, stop) for start, stop in itertools.pairwise(edges) if start < stop]


def strips(entries: Tensor, channels: int) -> list[tuple[tuple[int, int], Tensor]]:
    """Cut what covers lower triangles into strips: rows ``start`` to ``stop`` of (D, D) matrices, up to column ``stop``.

    Args:
        entries: Shape (P, S), strip by strip and row by row.
        channels: D.

    Returns:
        (start, stop) of every strip and its view of ``entries``, shape (P, stop - start, stop).
    """
    rows = strip_rows(channels)
    parts = torch.split(entries, [(stop - start) * stop for start, stop in rows], 1)
    shaped = (torch.unflatten(part, 1, (-1, stop)) for part, (_, stop) in zip(parts, rows, strict=True))
    return list(zip(rows, shaped, strict=True))


def covariance(count: Tensor, total: Tensor, second: Tensor) -> Tensor:
    """Unbiased sample covariances.

    Args:
        count: Number of samples N, at least 2.
        total: Their sum, shape (P, D), float64.
        second: Strips of the sums of their outer products, shape (P, S), float64.

    Returns:
        Shape (P, D, D); only the lower triangles are right.
    """
    channels = total.shape[1]
    matrix = total.new_zeros(len(total), channels, channels)
    for (start, stop), strip in strips(second, channels):
        matrix[:, start:stop, :stop] = strip
    matrix.baddbmm_(total.unsqueeze(2), (total / count).unsqueeze(1), alpha=-1)
    return matrix.div_(count - 1)


def triangle(channels: int, *, device: torch.device) -> Tensor:
    """Flat indices (T,) of the lower triangle of a (D, D) matrix, diagonal included."""
    row, column = torch.tril_indices(channels, channels, device=device).unbind()
    return row * channels + column


def strip_order(channels: int, *, device: torch.device) -> Tensor:
    """Which entry (0 to T - 1) of a triangle stands at every place (S,) of its strips; T for a zero."""
    lower = triangle(channels, device=device)
    entry = torch.full((channels, channels), len(lower), device=device)
    entry.view(-1)[lower] = torch.arange(len(lower), device=device)
    return torch.cat([entry[start:stop, :stop].flatten() for start, stop in strip_rows(channels)])


def to_24_bit(value: Tensor) -> Tensor:
    """Round float32 to its upper three bytes: 15 bits of mantissa, relative error at most 2**-16.

    Args:
        value: Any shape, float32, contiguous.

    Returns:
        The shape of ``value`` and an axis of 3, uint8.
    """
    rounded = value.view(torch.int32) + 0x80
    return rounded.view(torch.uint8).view(*value.shape, 4)[..., 1:]


def from_24_bit(packed: Tensor) -> Tensor:
    """Undo :func:`to_24_bit`: (..., 3) uint8 to (...) float32."""
    value = packed.new_zeros(*packed.shape[:-1], 4)
    for byte in range(3):  # far faster than rows of three
        value[..., byte + 1] = packed[..., byte]
    return value.view(torch.float32).squeeze(-1)


def whitening_factor(covariance: Tensor, *, eps: float) -> Tensor:
    """Inverse W of the Cholesky factor, so that ``|W (e - mean)|`` is the Mahalanobis distance.

    Args:
        covariance: Shape (P, D, D), float64; only the lower triangles are read.
        eps: Added to the diagonal.

    Returns:
        Shape (P, D, D), lower triangular, float64.

    Raises:
        ConfigError: a covariance is singular, which only a tiny ``eps`` allows.
    """
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    inverse, failed = inverse_cholesky(covariance + eps * identity)
    if bool(failed):
        raise ConfigError(
            f"eps must make every covariance invertible; eps={eps} does not for this training set. "
            "Give a larger eps, more training images or fewer channels."
        )
    return inverse


def inverse_cholesky(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Inverses of Cholesky factors, by halves.

    With ``[[A, .], [B, C]]``, ``U`` the inverse factor of ``A``, ``X = B U'`` and ``V`` that of ``C - X X'``, the
    inverse factor is ``[[U, 0], [-V X U, V]]``.

    Args:
        matrix: Shape (P, D, D), symmetric; only the lower triangles are read.

    Returns:
        Shape (P, D, D), and a flag (): whether a matrix is not positive definite.
    """
    size = matrix.shape[-1]
    if size <= LAPACK_SIZE:
        factor, info = torch.linalg.cholesky_ex(matrix)
        identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
        return torch.linalg.solve_triangular(factor, identity, upper=False), info.any()
    half = size // 2
    first, first_failed = inverse_cholesky(matrix[:, :half, :half])
    side = torch.bmm(matrix[:, half:, :half], first.mT)
    second, second_failed = inverse_cholesky(torch.baddbmm(matrix[:, half:, half:], side, side.mT, alpha=-1))
    inverse = torch.zeros_like(matrix)
    inverse[:, :half, :half] = first
    inverse[:, half:, :half] = torch.bmm(second, torch.bmm(side, first)).neg_()
    inverse[:, half:, half:] = second
    return inverse, first_failed | second_failed


def mahalanobis(embedding: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Distance of every feature vector to the Gaussian of its position.

    Args:
        embedding: Shape (P, B, D).
        mean: Shape (P, D).
        whitening: Strips of :func:`whitening_factor`, shape (P, S).

    Returns:
        Shape (P, B), 0 or above.
    """
    centred = embedding - mean.unsqueeze(1)
    white = [torch.bmm(centred[..., :stop], strip.mT) for (_, stop), strip in strips(whitening, mean.shape[1])]
    distance: Tensor = torch.linalg.vector_norm(torch.cat(white, 2), dim=2)
    return distance


def smoothing_matrix(cells: int, pixels: int, *, sigma: float, device: torch.device) -> Tensor:
    """What bilinear spreading and smoothing do to one axis, shape (pixels, cells): a product is all they are."""
    axis = F.interpolate(torch.eye(cells, device=device).view(cells, 1, cells, 1), size=(pixels, 1), mode="bilinear")
    return gaussian_blur(axis, sigma=sigma).view(cells, pixels).T


class PaDiM(AnomalyModule):
    """Gaussians of pretrained features at every position, fitted in one pass without gradients.

    Images must all have one size and should be aligned: the method compares each position with itself.

    Args:
        backbone: Any timm network with feature maps.
        layers: Its feature maps by index; null takes those of stride 4, 8 and 16.
        weights: ``imagenet``, a local file, or null for random weights from ``seed``.
        num_channels: D, drawn at random from all channels of the layers; 100 for resnet18, 550 for wide_resnet50_2.
        eps: Added to the diagonal of each covariance.
        normalization: ``imagenet`` standardises as the backbone's weights expect; ``none`` takes images as they are.
        score: ``smoothed`` is the maximum of the anomaly map, ``raw`` that of the distances before smoothing.
        sigma: Smoothing in pixels at an image size of 224 to 256, in proportion at other sizes.
        seed: Decides the channels (and random weights).

    Raises:
        ConfigError: an unknown backbone or layer, or more channels than the layers have.
    """

    single_pass = True
    factor: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(
        self,
        *,
        backbone: str = "resnet18",
        layers: Sequence[int] | None = None,
        weights: str | None = "imagenet",
        num_channels: int = 100,
        eps: float = 0.01,
        normalization: Literal["imagenet", "none"] = "imagenet",
        score: Literal["smoothed", "raw"] = "smoothed",
        sigma: float = 4.0,
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
        self.weights = weights
        self.eps = eps
        self.score = score
        self.sigma = sigma
        self.register_buffer("mean", torch.empty(0))  # (h, w, D)
        self.register_buffer("factor", torch.empty(0, dtype=torch.uint8))  # (P, T, 3)
        self.register_buffer("whitening", torch.empty(0), persistent=False)  # (P, S), unpacked factor
        self._moments: StreamedMoments | None = None
        self._has_news = False

    @property
    def is_fitted(self) -> bool:
        """Whether the Gaussians are there."""
        return self.factor.numel() > 0

    def load_pretrained(self) -> None:
        """Load the backbone's weights."""
        self.backbone.load_weights(self.weights)

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

    def _score(self, portions: Sequence[Tensor], size: Sequence[int], *, positions: int) -> tuple[Tensor, Tensor]:
        """Scores and maps of images of ``size`` (H, W), embedded in portions; so many positions at once."""
        height, width = size
        rows, columns = self.mean.shape[:2]
        if portions[0].shape[1:3] != (rows, columns):
            raise ShapeError(
                f"PaDiM was fitted on a grid of {rows}x{columns} positions; images of {height}x{width} pixels give "
                f"{portions[0].shape[1]}x{portions[0].shape[2]}. Resize images to the size of the training images."
            )
        by_position = (portion.flatten(1, 2).transpose(0, 1) for portion in portions)  # (P, B, D)
        chunks = _by_positions(positions, self.mean.flatten(0, 1), self.whitening, *by_position)
        with torch.autocast(self.mean.device.type, enabled=False):
            distance = torch.cat([mahalanobis(torch.cat(part, 1), mean, white) for mean, white, *part in chunks])
            distance = distance.T.reshape(-1, 1, rows, columns)
            sigma = smoothing_sigma(height, width, sigma=self.sigma)
            down = smoothing_matrix(rows, height, sigma=sigma, device=distance.device)
            across = smoothing_matrix(columns, width, sigma=sigma, device=distance.device)
            smooth = down @ distance @ across.T  # (B, 1, H, W)
        return (smooth if self.score == "smoothed" else distance).amax((1, 2, 3)), smooth

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
                    positions=POSITION_CHUNK,
                )
                for some in torch.split(image, DISTANCE_CHUNK)
            ),
            strict=True,
        )
        return {"anomaly_score": torch.cat(scores), "anomaly_map": torch.cat(maps)}

    def on_train_epoch_start(self) -> None:
        """Forget the features of an earlier pass."""
        self._moments = None

    @torch.no_grad()
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the features of training images; images repeated for another process's sake do not count.

        Raises:
            NotFiniteError: a feature is NaN or infinite.
            ShapeError: the images have another size than those before.
        """
        image = batch["image"]
        if "padding" in batch:
            image = image[~batch["padding"]]
        chunk = BACKBONE_CHUNK if image.device.type == "cpu" else max(1, len(image))
        portions = [self.embed(portion) for portion in torch.split(image, chunk)]  # each (B, h, w, D)
        _, height, width, channels = portions[0].shape
        if self._moments is None:
            self._moments = StreamedMoments((height, width), channels, device=image.device)
        if self._moments.grid != (height, width):
            raise ShapeError(
                f"training images must all have one size; batch {batch_idx} has shape {tuple(image.shape)}, a grid of "
                f"{(height, width)} instead of {self._moments.grid}. Resize them in the data module."
            )
        with torch.autocast(image.device.type, enabled=False):
            self._moments.add([portion.flatten(1, 2) for portion in portions])
        if not bool(self._moments.total.isfinite().all()):
            raise NotFiniteError(
                f"the features of training images must be finite; those of batch {batch_idx} hold NaN or infinity. "
                "Look for broken images or weights, or train in precision 32."
            )
        self._has_news = True

    def fit_statistics(self) -> None:
        """Turn the moments collected by all processes into means and factors.

        Raises:
            ConfigError: fewer than two training images, or singular covariances.
        """
        if self._moments is None or not self._has_news:
            return
        self._has_news = False
        self.mean, self.factor = self._solve(self._moments)
        if self.trainer.is_last_batch:
            self._moments = None  # before as much memory again is taken
        self.unpack()

    def _solve(self, moments: StreamedMoments) -> tuple[Tensor, Tensor]:
        # Reducing overwrites its argument, but an epoch that is validated half-way goes on collecting: hence the clones.
        count = self.sum_over_ranks(moments.count.clone())
        if count < 2:
            raise ConfigError(
                f"PaDiM needs at least 2 training images to estimate covariances; got {int(count)}. Add training images."
            )
        total = self.sum_over_ranks(moments.total.clone())
        lower = triangle(total.shape[1], device=total.device)
        factor = torch.empty(len(total), len(lower), 3, dtype=torch.uint8, device=total.device)
        for out, part, second in _by_positions(POSITION_CHUNK, factor, total, moments.second):
            matrices = covariance(count, part, self.sum_over_ranks(second.clone()))
            whitening = whitening_factor(matrices, eps=self.eps).float()
            out.copy_(to_24_bit(whitening.flatten(1).index_select(1, lower)))
        return (total / count).float().view(*moments.grid, -1), factor

    def unpack(self) -> None:
        """Expand the packed factor for use; done after a fit and after loading."""
        order = strip_order(self.mean.shape[-1], device=self.factor.device)
        self.whitening = torch.empty(len(self.factor), len(order), device=self.factor.device)
        for out, part in _by_positions(POSITION_CHUNK, self.whitening, self.factor):
            out.copy_(F.pad(from_24_bit(part), (0, 1)).index_select(1, order))

    def configure_optimizers(self) -> None:
        """Nothing is optimised."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.is_fitted:
            self.unpack()


def _by_positions(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)

"""Deep InfoMax: an encoder with local features, the networks that tell its pairs apart, and the bounds of mutual information.

Source: Hjelm et al., "Learning deep representations by mutual information estimation and maximization", ICLR 2019, with the sizes of
    FSAD-Net (Tian et al., MICCAI 2020) and of its released code.
Axes: B batch, C channels, H and W pixels, h and w cells of the local features, Z width of the code, P pairs.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.dcgan import to_signed
from anomaly_suite.nn.size import require_image

Estimator = Literal["jsd", "dv"]
"""Bound of the mutual information: Jensen-Shannon or Donsker-Varadhan."""

Negatives = Literal["rolled", "all"]
"""Pairs that do not belong together: the batch of local features rolled by one, or all B (B - 1) of them."""

KERNEL = 4  # of the encoder's convolutions
LEVELS = 4
PRIOR_WIDTHS = (1000, 200)


class InfomaxEncoder(nn.Module):
    """Four convolutions and a linear layer; the maps of the second convolution are the local features.

    Args:
        image_size: (H, W).
        width: Channels of the first convolution, doubled by each further one; also Z.
        padded: Convolutions of stride 2 with a border of one pixel; otherwise of stride 1 without, as in the released code.

    Raises:
        ConfigError: images too small.
    """

    def __init__(self, *, image_size: tuple[int, int], width: int = 64, padded: bool = True) -> None:
        super().__init__()
        self.image_size, self.padded = image_size, padded
        self.local_channels, self.out_features = 2 * width, width
        last = self._cells(LEVELS)
        if min(last) < 1:
            least = 2**LEVELS if padded else 1 + LEVELS * (KERNEL - 1)
            raise ConfigError(
                f"image_size must be at least {least} for the encoder infomax{'' if padded else '_released'}; got {image_size}. "
                "Let the data give larger images."
            )
        step = (2, 1) if padded else (1, 0)
        self.local = nn.Sequential(
            nn.Conv2d(3, width, KERNEL, *step), nn.ReLU(), *_level(width, 2 * width, step)
        )  # (B, 2 width, h, w)
        self.rest = nn.Sequential(
            *_level(2 * width, 4 * width, step), *_level(4 * width, 8 * width, step), nn.Flatten()
        )
        self.head = nn.Linear(8 * width * last[0] * last[1], width)

    @property
    def local_size(self) -> tuple[int, int]:
        """Cells (h, w) of the local features."""
        return self._cells(2)

    def _cells(self, levels: int) -> tuple[int, int]:
        height, width = (side // 2**levels if self.padded else side - levels * (KERNEL - 1) for side in self.image_size)
        return height, width

    def features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 1 or 3, H, W) in [0, 1] to local features (B, 2 width, h, w) and codes (B, Z).

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        image = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
        require_image(image, channels=3, size=self.image_size)
        local = self.local(to_signed(image))
        return local, self.head(self.rest(local))

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 1 or 3, H, W) in [0, 1] to codes (B, Z).

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        return self.features(image)[1]


def _level(before: int, after: int, step: tuple[int, int]) -> list[nn.Module]:
    return [nn.Conv2d(before, after, KERNEL, *step), nn.BatchNorm2d(after), nn.ReLU()]


class GlobalDiscriminator(nn.Module):
    """Whether local features, as a whole, and a code are of one image.

    Args:
        encoder: Whose features and codes they are.
        width: Channels of the first convolution.

    Raises:
        ConfigError: maps of local features that two convolutions do not fit into.
    """

    def __init__(self, encoder: InfomaxEncoder, *, width: int = 64) -> None:
        super().__init__()
        height, broad = (cells - 4 for cells in encoder.local_size)
        if min(height, broad) < 1:
            raise ConfigError(
                f"deep infomax needs local features of at least 5 x 5 cells; image_size={encoder.image_size} gives {encoder.local_size}. "
                f"Let the data give images of {20 if encoder.padded else 13} pixels or more."
            )
        narrow = max(1, width // 2)
        self.reduce = nn.Sequential(
            nn.Conv2d(encoder.local_channels, width, 3), nn.ReLU(), nn.Conv2d(width, narrow, 3), nn.Flatten()
        )
        self.judge = mlp(narrow * height * broad + encoder.out_features, (8 * width, 8 * width))

    def forward(self, local: Tensor, code: Tensor) -> Tensor:
        """Local features (P, C, h, w) and codes (P, Z) to logits (P, 1)."""
        logit: Tensor = self.judge(torch.cat([self.reduce(local), code], 1))
        return logit


class LocalDiscriminator(nn.Module):
    """Whether the features of one cell and a code are of one image.

    Args:
        encoder: Whose features and codes they are.
        hidden: Channels between.
    """

    def __init__(self, encoder: InfomaxEncoder, *, hidden: int = 512) -> None:
        inputs = encoder.local_channels + encoder.out_features
        super().__init__()
        self.judge = nn.Sequential(
            *(nn.Conv2d(inputs, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, 1, 1))
        )

    def forward(self, local: Tensor, code: Tensor) -> Tensor:
        """Local features (P, C, h, w) and codes (P, Z) to logits (P, h * w)."""
        tiled = code[:, :, None, None].expand(-1, -1, *local.shape[2:])
        logit: Tensor = self.judge(torch.cat([local, tiled], 1)).flatten(1)
        return logit


def mlp(inputs: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with rectifiers between them, to one logit: (B, inputs) to (B, 1)."""
    layers: list[nn.Module] = []
    for before, after in zip((inputs, *hidden), hidden, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((inputs, *hidden)[-1], 1))


def mismatched(count: int, negatives: Negatives, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Numbers of local features and of codes that do not belong together.

    Args:
        count: B.
        negatives: See :data:`Negatives`.
        device: Where the numbers live.

    Returns:
        Two tensors (P,) int64; P is B, or B (B - 1).

    Raises:
        ShapeError: fewer than two images, which have no such pair.
    """
    if count < 2:
        raise ShapeError(
            f"deep infomax compares images of a batch, at least 2; got {count}. Use a larger train_batch_size."
        )
    code = torch.arange(count, device=device)
    if negatives == "rolled":
        return (code + 1) % count, code
    away = torch.arange(1, count, device=device)
    return ((code + away.unsqueeze(1)) % count).flatten(), code.repeat(count - 1)


def mutual_information(positive: Tensor, negative: Tensor, estimator: Estimator) -> Tensor:
    """Lower bound of the mutual information, in float32; that of ``jsd`` up to a constant and a scale.

    Args:
        positive: Logits of pairs that belong together, shape (B, K) of K positions.
        negative: Logits of pairs that do not, shape (P, K).
        estimator: ``jsd``: E[-sp(-T)] - E[sp(T)] with sp(t) = log(1 + exp t); ``dv``: E[T] - log E[exp T].

    Returns:
        The mean over positions, shape ().
    """
    positive, negative = positive.float(), negative.float()
    if estimator == "jsd":
        return -F.softplus(-positive).mean() - F.softplus(negative).mean()
    return (positive.mean(0) - negative.logsumexp(0) + math.log(len(negative))).mean()


def prior_losses(of_code: Tensor, of_prior: Tensor | None = None) -> Tensor:
    """Losses of adversarial matching, in float32.

    Args:
        of_code: Logits of the prior discriminator for codes, of any shape.
        of_prior: Its logits for draws of the prior; None gives the loss of the encoder.

    Returns:
        A scalar: of the encoder -E[log s(d(z))], which makes codes look like draws; of the discriminator
        -E[log s(d(v))] - E[log(1 - s(d(z)))].
    """
    if of_prior is None:
        return F.softplus(-of_code.float()).mean()
    return F.softplus(-of_prior.float()).mean() + F.softplus(of_code.float()).mean()

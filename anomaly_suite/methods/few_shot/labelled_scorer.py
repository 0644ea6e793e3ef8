"""What methods that learn from labelled anomalies share: an encoder, a score network, and the labels of a training batch.

Axes: B batch, C channels, H and W pixels, D width of the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from anomaly_suite.contract import AnomalyModule, Batch
from anomaly_suite.errors import ConfigError, LabelError
from anomaly_suite.nn.dcgan import to_signed
from anomaly_suite.nn.encoders import ImageEncoder
from anomaly_suite.nn.score_network import ScoreNetwork
from anomaly_suite.nn.size import ImageSize, height_width, require_image

PIXELS = "pixels"
ADVICE = "Give the data module num_anomalous, or images labelled 1 in training."


class Pixels(nn.Module):
    """No encoder: the image itself, as one vector.

    Args:
        image_size: Height and width.
    """

    def __init__(self, image_size: ImageSize) -> None:
        super().__init__()
        self.image_size = height_width(image_size)
        self.out_features = 3 * self.image_size[0] * self.image_size[1]

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) in [0, 1] to (B, 3 * H * W) in [-1, 1]; a grey channel is repeated.

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        image = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
        require_image(image, channels=3, size=self.image_size)
        return to_signed(image).flatten(1)


class LabelledScorer(AnomalyModule):
    """An encoder and a network that gives its features a score; a method writes ``training_step`` and ``configure_optimizers``.

    Args:
        encoder: ``infomax``, ``infomax_released``, ``residual``, the name of a timm network, or ``pixels`` for the image itself.
        encoder_weights: What it starts from: ``imagenet``, a file, the run of a pre-training, or null for random weights.
        image_size: Height and width of the images.
        width: Channels of the first convolution of ``infomax`` and ``residual``.
        hidden: Widths of the score network's layers before the last.

    Raises:
        ConfigError: an unknown network, weights for ``pixels``, or a size that does not fit.
    """

    image_channels = (1, 3)
    reads_labels = True

    def __init__(
        self, *, encoder: str, encoder_weights: str | None, image_size: ImageSize, width: int, hidden: Sequence[int]
    ) -> None:
        super().__init__()
        if encoder == PIXELS and encoder_weights is not None:
            raise ConfigError(
                f"encoder=pixels is the image itself and has no weights; got encoder_weights={encoder_weights!r}. Set them to null."
            )
        self.encoder_weights = encoder_weights
        self.encoder: ImageEncoder | Pixels = (
            Pixels(image_size) if encoder == PIXELS else ImageEncoder(encoder, image_size=image_size, width=width)
        )
        self.scorer = ScoreNetwork(self.encoder.out_features, hidden=hidden)
        self._anomalies: Tensor | None = None  # of the present epoch; None if it was not begun here

    def load_pretrained(self) -> None:
        """Load what the encoder starts from."""
        if isinstance(self.encoder, ImageEncoder):
            self.encoder.load_weights(self.encoder_weights)

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            The network's score (B,), unbounded, and no map. A strongly negative one is as normal as one near 0.

        Raises:
            ShapeError: images of another size than the encoder takes.
        """
        return self.scorer(self.encoder(image)).float(), None

    # Labels ------------------------------------------------------------------------------------------------------------

    def labels(self, batch: Batch) -> Tensor:
        """Labels (B,) of a training batch, and their count.

        Raises:
            LabelError: there are none.
        """
        if "label" not in batch:
            raise LabelError(f"{type(self).__name__} learns from labels; the training batch has none. {ADVICE}")
        if self._anomalies is not None:
            self._anomalies += batch["label"].sum()
        return batch["label"]

    def on_train_epoch_start(self) -> None:
        """Begin to count the anomalies of an epoch."""
        super().on_train_epoch_start()
        self._anomalies = torch.zeros((), dtype=torch.float32, device=self.device) if self.needs_anomalies() else None

    def on_train_epoch_end(self) -> None:
        """Refuse to go on without anomalies: every score would become the same.

        Raises:
            ConfigError: a whole epoch had no labelled anomaly.
        """
        if self._anomalies is not None and not bool(self.sum_over_ranks(self._anomalies)):
            raise ConfigError(
                f"{type(self).__name__} needs labelled anomalies in training; got none in epoch {self.current_epoch}. {ADVICE}"
            )
        self._anomalies = None
        super().on_train_epoch_end()

    def needs_anomalies(self) -> bool:
        """Whether this epoch learns from labelled anomalies."""
        return True

    def freeze_encoder(self) -> None:
        """Keep the encoder as it is from now on."""
        if isinstance(self.encoder, ImageEncoder):
            self.encoder.freeze()

    def features(self, image: Tensor, *, frozen: bool) -> Tensor:
        """Features (B, D) of training images; of a frozen encoder without a graph."""
        with torch.set_grad_enabled(not frozen and torch.is_grad_enabled()):
            return cast(Tensor, self.encoder(image))

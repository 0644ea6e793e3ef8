"""Deep SVDD: pull normal images to one point; the distance to it is the score.

Papers: Ruff et al., "Deep One-Class Classification", ICML 2018; for DSVDD+REC, which also reconstructs the image from its
    code, the comparisons of Chen et al., IGD, AAAI 2022 (tables 6.6 and 6.7 of Yu Tian's thesis).
Reference: lukasruff/Deep-SVDD-PyTorch at 1901612 (MIT); architecture and settings as described of it, no code read.
    DSVDD+REC was not released.
Differs: centre, radius and input range are buffers, so a checkpoint is complete; the input range is computed from the training
    normals instead of being listed for each class; an exactly zero component of the centre moves to +0.1, where the release
    leaves it. Decoders reach image sizes other than 28 and 32 by the same pattern. The last linear layer never has a bias; with
    one, as in IGD's version of the method, the network could map every image to the centre. Weights begin as torch draws them,
    as in the released networks but for the autoencoder of CIFAR10 (``initialization: xavier``). MS-SSIM of DSVDD+REC
    has scales and window of our IGD.
Axes: B batch, C channels, H and W pixels, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from anomaly_suite.contract import AnomalyModule, Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.losses import (
    ReconstructionError,
    away_from_zero,
    polynomial_decay,
    squared_distance,
    squared_error,
    with_idle_weights,
)
from anomaly_suite.nn.encoders import STANDARDIZED_RANGE, ImageEncoder, standardize
from anomaly_suite.nn.lenet import LeNetDecoder, LeNetEncoder, build_lenets, global_contrast_normalization
from anomaly_suite.nn.residual import ResidualDecoder
from anomaly_suite.nn.size import ImageSize, height_width

LR_DECAY = 0.1  # of the learning rate at a milestone
AE_EPOCHS = 150  # of the paper's MNIST
GREY_LATENT_DIM, LATENT_DIM = 32, 128


def soft_boundary_loss(distance: Tensor, radius: Tensor, *, nu: float) -> Tensor:
    """Squared radius plus the mean excess over it, divided by ``nu``: equation 3 of the paper, without weight decay.

    Squared distances (B,) and R (), a distance, not a squared one, to (); a share ``nu`` of training images may lie outside.
    """
    return radius**2 + (distance - radius**2).clamp_min(0).mean() / nu


def boundary_radius(distance: Tensor, *, nu: float) -> Tensor:
    """Radius that leaves a share ``nu`` of squared distances (B,) outside: a quantile of their roots, interpolated."""
    return torch.quantile(distance.sqrt(), 1 - nu)


class DeepSVDD(AnomalyModule):
    """A network that maps normal images close to a fixed centre; the squared distance is the score.

    Epochs before ``ae_epochs`` pre-train the encoder as an autoencoder; until they are over, the module is unfitted, and the
    score in validation is the squared error. The centre is then the mean code of the training images, and all later epochs shrink the distance to it. Give
    the trainer ``max_epochs`` of both phases together (300 for the paper's MNIST, 500 for its CIFAR10).

    With a ``reconstruction_weight`` it is DSVDD+REC: a second decoder, IGD's, reconstructs what the encoder sees from the
    code, and its error (MS-SSIM and L1) joins the loss of the second phase.

    ``train/distance`` is the mean squared distance. One that falls to 0 within an epoch means that all images are mapped to
    the centre, and the score is worth nothing.

    Args:
        backbone: ``lenet``, the paper's networks without biases, on contrast-normalised images; ``residual``, IGD's network
            for 32-pixel images; or any timm network. The last two are followed by a linear layer without bias.
        in_channels: C; 1 or 3 for other backbones than ``lenet``.
        image_size: Height and width; a timm network without ``reconstruction_weight`` takes any.
        widths: Channels of the LeNet; null is 8 and 4 for grey images, 32, 64 and 128 for colour.
        width: Channels at full resolution of ``residual`` and of the decoder of DSVDD+REC.
        latent_dim: D; null is 32 for the grey LeNet, else 128.
        weights: Of other backbones than ``lenet``: ``imagenet`` (timm), a file, the checkpoint of a pre-training, null for random.
        encoder_weights: Checkpoint or run folder of a pre-training, in place of ``weights``; or null.
        objective: ``one-class`` shrinks all distances, ``soft-boundary`` those outside a radius.
        nu: Share of training images that may lie outside the radius.
        warmup_epochs: Epochs of the second phase in which the radius stays 0.
        reconstruction_weight: Weight of the reconstruction error in the second phase; 0 is Deep SVDD, 1 DSVDD+REC.
        rho: Weight of L1 in that error; the rest is MS-SSIM's.
        ssim_scales: Of MS-SSIM, 1 to 5; null takes 5 with a window of 11, up to 4 with others.
        ssim_window: Of MS-SSIM, odd; null is 11 from 176 pixels on, else 3.
        score: ``distance``; or ``sum`` with the weighted reconstruction error, the quantity that DSVDD+REC minimises. IGD's
            tables do not say which of the two they rank by.
        lr: Learning rate of Adam.
        lr_decay: ``milestones``, or ``polynomial`` for IGD's: at every step of the run, both phases, the rate is multiplied
            with (1 - share of the run that is over) to the power 0.9.
        lr_milestones: Epochs of the second phase after which the rate falls to a tenth.
        weight_decay: Of Adam.
        betas: Of Adam; IGD's are 0 and 0.9.
        ae_epochs: Epochs of pre-training; null is 150 for ``lenet`` and 0 for others, which have no decoder for it.
        ae_lr: Learning rate of the pre-training.
        ae_lr_milestones: Its milestones; the paper's CIFAR10 has 250.
        ae_weight_decay: Its weight decay; the paper's CIFAR10 has 5e-7.
        initialization: Of the convolutions of ``lenet`` and its decoder: torch's, or ``xavier`` as in the released autoencoder of CIFAR10.

    Raises:
        ConfigError: pre-training of another backbone than ``lenet``, an unknown backbone, or sizes that do not fit.
    """

    encoder: LeNetEncoder | ImageEncoder
    decoder: LeNetDecoder | None  # of the pre-training
    rebuilder: ResidualDecoder | None  # decoder of DSVDD+REC; checkpoints know its tensors by this name
    input_range: Tensor  # smallest and largest pixel of normalised training images
    center: Tensor
    radius: Tensor

    def __init__(
        self,
        *,
        backbone: str = "lenet",
        in_channels: int = 1,
        image_size: ImageSize = 28,
        widths: Sequence[int] | None = None,
        width: int = 64,
        latent_dim: int | None = None,
        weights: str | None = "imagenet",
        encoder_weights: str | None = None,
        objective: Literal["one-class", "soft-boundary"] = "one-class",
        nu: float = 0.1,
        warmup_epochs: int = 10,
        reconstruction_weight: float = 0.0,
        rho: float = 0.15,
        ssim_scales: int | None = None,
        ssim_window: int | None = None,
        score: Literal["distance", "sum"] = "distance",
        lr: float = 1e-4,
        lr_decay: Literal["milestones", "polynomial"] = "milestones",
        lr_milestones: Sequence[int] = (50,),
        weight_decay: float = 5e-7,
        betas: tuple[float, float] = (0.9, 0.999),
        ae_epochs: int | None = None,
        ae_lr: float = 1e-4,
        ae_lr_milestones: Sequence[int] = (50,),
        ae_weight_decay: float = 5e-4,
        initialization: Literal["torch", "xavier"] = "torch",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.image_channels = (in_channels,) if backbone == "lenet" else (1, 3)
        self.ae_epochs = (AE_EPOCHS if backbone == "lenet" else 0) if ae_epochs is None else ae_epochs
        self.weights = weights if encoder_weights is None else encoder_weights
        self.objective, self.score = objective, score
        self.nu, self.warmup_epochs, self.reconstruction_weight = nu, warmup_epochs, reconstruction_weight
        self.lr_decay, self.betas = lr_decay, betas
        self.schedule = (lr, lr_milestones, weight_decay)
        self.ae_schedule = (ae_lr, ae_lr_milestones, ae_weight_decay)
        self._check_options(backbone, in_channels, encoder_weights)
        latent_dim = latent_dim or (GREY_LATENT_DIM if backbone == "lenet" and in_channels == 1 else LATENT_DIM)
        size = height_width(image_size)
        if backbone == "lenet":
            self.encoder, self.decoder = build_lenets(
                channels=in_channels, image_size=size, widths=widths, latent_dim=latent_dim,
                with_decoder=bool(self.ae_epochs), initialization=initialization,
            )  # fmt: skip
        else:
            self.encoder, self.decoder = ImageEncoder(backbone, image_size=size, width=width), None
        self.head = nn.Linear(self.encoder.out_features, latent_dim, bias=False)
        comparison = {"rho": rho, "scales": ssim_scales, "window_size": ssim_window}
        self._build_rebuilder(in_channels if backbone == "lenet" else 3, size, width, comparison)
        for name, count in {"input_range": 2, "center": latent_dim}.items():  # NaN is not measured yet
            self.register_buffer(name, torch.full((count,), torch.nan))
        self.register_buffer("radius", torch.zeros(()))
        self._has_center = False  # as a constant, which an exported forward can branch on

    def statistics_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of what the fit fills."""
        return {"center": (self.head.out_features,), "input_range": (2,)}

    def _check_options(self, backbone: str, in_channels: int, encoder_weights: str | None) -> None:
        if backbone == "lenet" and encoder_weights is not None:
            raise ConfigError("encoder_weights need the backbone of a pre-training; got lenet. Set the same backbone.")
        if backbone != "lenet" and in_channels not in (1, 3):
            raise ConfigError(
                f"in_channels must be 1 or 3 for the backbone {backbone}; got {in_channels}. Give grey or RGB images, or use lenet."
            )
        if not 0 < self.nu <= 1:
            raise ConfigError(f"nu must be above 0 and at most 1; got {self.nu}. The paper uses 0.1 and 0.01.")
        if self.ae_epochs and backbone != "lenet":
            raise ConfigError(
                f"only lenet can be pre-trained as an autoencoder; got backbone={backbone} with ae_epochs={self.ae_epochs}. Set ae_epochs to 0."
            )
        if backbone == "residual" and self.weights == "imagenet":
            raise ConfigError(
                "the residual backbone has no ImageNet weights; got weights='imagenet'. Set weights to null, or to the checkpoint of a pre-training."
            )
        if self.reconstruction_weight < 0 or (self.score == "sum" and self.reconstruction_weight == 0):
            raise ConfigError(
                "reconstruction_weight must be 0 or above, and above 0 for score=sum; "
                f"got {self.reconstruction_weight} with score={self.score}. DSVDD+REC uses 1."
            )

    def _build_rebuilder(self, channels: int, size: tuple[int, int], width: int, comparison: dict[str, Any]) -> None:
        self.rebuilder = None
        if self.reconstruction_weight:
            self.rebuilder = ResidualDecoder(
                in_features=self.head.out_features, out_channels=channels, image_size=size, width=width
            )
            value_range = 1.0 if isinstance(self.encoder, LeNetEncoder) else STANDARDIZED_RANGE
            self.reconstruction_error = ReconstructionError(image_size=min(size), value_range=value_range, **comparison)

    @property
    def is_fitted(self) -> bool:
        """Whether there is a centre."""
        return _measured(self.center)

    @property
    def unfinished(self) -> str | None:
        """The phase of the autoencoder."""
        if self.is_fitted or not self.ae_epochs:
            return None
        return (
            f"it has not left its first phase, which trains an autoencoder for ae_epochs={self.ae_epochs} epochs; the centre is "
            "set after it. Run fit first, for more epochs than that, or lower ae_epochs."
        )

    def load_pretrained(self) -> None:
        """Load the weights of the backbone."""
        if isinstance(self.encoder, ImageEncoder):
            self.encoder.load_weights(self.weights)

    def normalize(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) as the encoder takes them: for ``lenet``, contrast-normalised in the range of the training images."""
        if isinstance(self.encoder, ImageEncoder):
            return image  # it standardises
        low, high = self.input_range.unbind()
        return (global_contrast_normalization(image) - low) / (high - low)

    def encode(self, x: Tensor) -> Tensor:
        """Codes (B, D) of normalised images (B, C, H, W)."""
        code: Tensor = self.head(self.encoder(x))
        return code

    def error_of_reconstruction(self, x: Tensor, code: Tensor) -> Tensor:
        """Error (B,) of the images that the decoder of DSVDD+REC makes of codes (B, D), given the normalised images.

        They are compared as the encoder sees them: contrast-normalised, or standardised as in IGD.

        Raises:
            ConfigError: a module without ``reconstruction_weight``, which has no such decoder.
        """
        if self.rebuilder is None:
            raise ConfigError(
                "a reconstruction error needs a decoder; got reconstruction_weight=0. Set it to 1 for DSVDD+REC."
            )
        seen = standardize(x) if isinstance(self.encoder, ImageEncoder) else x
        error: Tensor = self.reconstruction_error(seen, self.rebuilder(code))
        return error

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        """Score images (B, C, H, W) in [0, 1] by their distance to the centre.

        Returns:
            ``anomaly_score`` (B,), the squared distance (less the squared radius, if there is one; plus the weighted
            reconstruction error, if ``score`` is ``sum``), and no map. Before the centre is set: the summed squared error
            of the autoencoder.
        """
        x = self.normalize(image)
        code = self.encode(x)
        if self.decoder is not None and not self._has_center:
            return squared_error(x, self.decoder(code)), None
        score = squared_distance(code, self.center) - self.radius**2
        if self.score == "sum":
            score = score + self.reconstruction_weight * self.error_of_reconstruction(x, code)
        return score, None

    def on_train_start(self) -> None:
        """Measure the range of the normalised training images, unless a checkpoint knows it.

        Raises:
            ConfigError: training images of one colour.
        """
        self.warn_of_first_phase("pre-trains its autoencoder", "ae_epochs", self.ae_epochs)
        if isinstance(self.encoder, ImageEncoder) or _measured(self.input_range):
            return
        extremes = torch.full((2,), -math.inf, dtype=torch.float32, device=self.device)  # of negated and plain pixels
        for image in self.training_images():
            x = global_contrast_normalization(image).float()
            self.watch("a normalised image", x)
            extremes = torch.maximum(extremes, torch.stack([-x.amin(), x.amax()]))
        self.stop_if_not_finite()
        low, high = self.trainer.strategy.reduce(extremes, reduce_op="max").unbind()
        if not -low < high:
            raise ConfigError("DeepSVDD needs training images that are not all of one colour. Look at the data set.")
        self.input_range.copy_(torch.stack([-low, high]))

    def on_train_epoch_start(self) -> None:
        """Set the centre when the second phase begins, and clear the optimiser's state.

        Both phases share it: Lightning builds optimisers before the first epoch, and restores them from a checkpoint by number.
        """
        super().on_train_epoch_start()
        if self.current_epoch >= self.ae_epochs and not self._has_center:
            self.center.copy_(away_from_zero(self._mean_code()))
            self._has_center = True
            (optimizer,) = self.trainer.optimizers
            optimizer.state.clear()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set learning rate and weight decay of the phase, by epoch and step alone: a resumed run needs no scheduler state."""
        pretraining = self.current_epoch < self.ae_epochs
        rate, milestones, decay = self.ae_schedule if pretraining else self.schedule
        if self.lr_decay == "polynomial":
            rate *= polynomial_decay(self.training_progress(batch_idx))
        else:
            epoch = self.current_epoch - (0 if pretraining else self.ae_epochs)
            rate *= LR_DECAY ** sum(epoch >= milestone for milestone in milestones)
        (optimizer,) = self.trainer.optimizers
        idle = self._idle()
        for part, group in zip(self._parts(), optimizer.param_groups, strict=True):
            group.update(lr=0.0 if part is idle else rate, weight_decay=decay)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Reconstruction error in the first phase; distance to the centre, and the weighted error, in the second."""
        x = self.normalize(batch["image"])
        code = self.encode(x)
        if self.decoder is not None and not self._has_center:
            loss = squared_error(x, self.decoder(code)).mean()
        else:
            distance = squared_distance(code, self.center)
            self.log("train/distance", distance.mean())
            if self.objective == "soft-boundary":
                loss = soft_boundary_loss(distance, self.radius, nu=self.nu)
                self._update_radius(distance.detach())
            else:
                loss = distance.mean()
            if self.rebuilder is not None:
                error = self.error_of_reconstruction(x, code).mean()
                self.log("train/reconstruction", error)
                loss = loss + self.reconstruction_weight * error
        idle = self._idle()
        if idle is not None and self.trainer.world_size > 1:  # DDP waits for a gradient of every parameter
            loss = with_idle_weights(loss, idle.parameters())
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Optimizer:
        """Adam; :meth:`on_train_batch_start` sets its rates."""
        return Adam([{"params": list(part.parameters())} for part in self._parts()], betas=self.betas)

    def _parts(self) -> list[nn.Module]:
        """The optimiser's groups: encoder with its linear layer, then the decoders there are."""
        decoders = [part for part in (self.decoder, self.rebuilder) if part is not None]
        return [nn.ModuleList([self.encoder, self.head]), *decoders]

    def _idle(self) -> nn.Module | None:
        """The decoder that rests in this phase."""
        return self.rebuilder if self.current_epoch < self.ae_epochs else self.decoder

    def _update_radius(self, distance: Tensor) -> None:
        if self.current_epoch - self.ae_epochs >= self.warmup_epochs:
            everywhere = cast(Tensor, self.all_gather(distance))
            self.radius.copy_(boundary_radius(everywhere.flatten(), nu=self.nu))

    def measure_statistics(self) -> None:
        """Measure the radius of averaged weights, over all training images; centre and input range are fixed."""
        if self.objective != "soft-boundary" or self.current_epoch - self.ae_epochs < self.warmup_epochs:
            return
        distances = []
        for batch in self.training_batches():
            distance = squared_distance(self.encode(self.normalize(batch["image"])), self.center)
            # Gathering needs equally many from every process, so what the sampler repeats is left out afterwards.
            distances.append(distance.masked_fill(batch["padding"], torch.nan) if "padding" in batch else distance)
        everywhere = cast(Tensor, self.all_gather(torch.cat(distances))).flatten()
        self.radius.copy_(boundary_radius(everywhere[~everywhere.isnan()], nu=self.nu))

    @torch.no_grad()
    def _mean_code(self) -> Tensor:
        total = torch.zeros(self.head.out_features, dtype=torch.float64, device=self.device)
        count = torch.zeros((), dtype=torch.float32, device=self.device)
        self.eval()
        for image in self.training_images():
            code = self.encode(self.normalize(image))
            self.watch("a code", code)
            total += code.sum(0, dtype=torch.float64)
            count += len(image)
        self.train()
        mean: Tensor = self.sum_over_ranks(total) / self.sum_over_ranks(count)
        return mean.float()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("input_range", "center"):
            if (saved := state_dict.get(prefix + name)) is not None and not saved.numel():  # as once saved
                state_dict[prefix + name] = torch.full_like(self.get_buffer(name), torch.nan)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._has_center = _measured(self.center)


def _measured(statistic: Tensor) -> bool:
    return bool(statistic.isfinite().all())

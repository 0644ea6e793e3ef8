"""PANDA: pretrained features are drawn to their centre, a little; the distance to the nearest training features is the score.

Paper: Reiss et al., "PANDA: Adapting Pretrained Features for Anomaly Detection and Segmentation", CVPR 2021, arXiv:2010.05903.
Formulas: centre ``c``, the mean feature of the training images before training; loss ``mean |phi(x) - c|^2 / D``, and with EWC
    ``+ 10^4 sum F (theta - theta0)^2 / 2`` for the diagonal F of ImageNet's Fisher information; score, the sum of the squared
    distances to the 2 nearest training features.
Reference: none was read; the settings described of the release.
Differs: ResNet18 by default, as the methods it is compared with have; ``encoder: resnet152`` is the paper's. The bank has a bounded
    size: larger training sets are sampled. The early end is a number of epochs for all images; that of the paper which is chosen
    image by image was not released, and is not here, nor are maps (SPADE).
Axes: B batch, C channels, H and W pixels, D features, N features of the bank, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from anomaly_suite.augment.draws import image_keys
from anomaly_suite.contract import AnomalyModule, Batch
from anomaly_suite.errors import ConfigError, WeightsError
from anomaly_suite.nn.backbones import FeatureExtractor
from anomaly_suite.nn.encoders import ImageEncoder
from anomaly_suite.nn.feature_bank import FeatureSample, empty_bank, fill_bank, nearest
from anomaly_suite.nn.weights import first_mismatch, match_by_name, read_tensors

FROZEN_STRIDE = 8  # of the last stage whose weights rest: stages 1 and 2 of a ResNet
CHUNK = 32  # images of which features are computed at once


class PANDA(AnomalyModule):
    """A pretrained network whose last two stages are adapted, and a bank of its features.

    Without ``fisher`` an early end keeps the features from collapsing (15 epochs in the release), with it 50 epochs: give the trainer ``max_epochs``.
    With ``lr: 0`` and one epoch it is DN2, neighbours of the pretrained features. ``train/compactness`` that falls towards 0 is a
    collapse. Batch normalisations stay in evaluation mode.

    Args:
        encoder: Name of a timm network with feature maps of stride 8 and deeper.
        encoder_weights: ``imagenet``, a file, the run of a pre-training, or null for random weights.
        fisher: File of the diagonal of the Fisher information by the names of the network's parameters, which turns on EWC; null is
            the variant with an early end.
        ewc_weight: Of EWC's penalty.
        clip: Largest norm of all gradients together; null does not clip, and the features collapse.
        neighbours: K.
        bank_size: Most features in the bank; beyond it, a sample that the images alone decide.
        centroids: Replace the bank by so many centres of k-means, 100 in the release; null keeps it.
        lr: Learning rate of SGD.
        momentum: Of SGD.
        weight_decay: Of SGD.
        seed: Of k-means.

    Shapes: images (B, C, H, W) in [0, 1], C 1 or 3; score (B,); no map.

    Raises:
        ConfigError: a network without such stages, or a number out of its range.
    """

    image_channels = (1, 3)
    center: Tensor
    bank: Tensor

    def __init__(
        self,
        *,
        encoder: str = "resnet18",
        encoder_weights: str | None = "imagenet",
        fisher: str | None = None,
        ewc_weight: float = 1e4,
        clip: float | None = 1e-3,
        neighbours: int = 2,
        bank_size: int = 10_000,
        centroids: int | None = None,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if encoder == "residual":
            raise ConfigError(
                "PANDA adapts the last stages of a timm network; got encoder='residual'. Name one such as resnet18."
            )
        self.encoder = ImageEncoder(encoder, image_size=32)
        self.encoder.eval()  # from the first step on, not only after train()
        _rest(cast(FeatureExtractor, self.encoder.net))
        self.clip, self.neighbours, self.bank_size = clip, neighbours, bank_size
        self.ewc_weight, self.fisher = ewc_weight, fisher
        self.register_buffer("center", torch.full((self.encoder.out_features,), torch.nan, dtype=torch.float32))
        self.register_buffer("bank", empty_bank(centroids or bank_size, self.encoder.out_features))
        for name, weight in self._adapted().items() if fisher is not None else ():
            key = name.replace(".", "_")
            self.register_buffer(f"fisher_{key}", torch.zeros_like(weight, memory_format=torch.contiguous_format))
            self.register_buffer(f"anchor_{key}", torch.zeros_like(weight, memory_format=torch.contiguous_format))

    @property
    def is_fitted(self) -> bool:
        """Whether there is a bank."""
        return bool(self.bank[0].isfinite().all())

    def statistics_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of what the fit fills."""
        return {"bank": (self.bank.shape[0], self.encoder.out_features), "center": (self.encoder.out_features,)}

    def train(self, mode: bool = True) -> PANDA:
        """Switch mode; the encoder stays in evaluation mode, for statistics of one class hasten the collapse."""
        super().train(mode)
        self.encoder.eval()
        return self

    def load_pretrained(self) -> None:
        """Load what is adapted."""
        self.encoder.load_weights(self.hparams["encoder_weights"])

    # Training --------------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Measure the centre before the first step, and note what EWC holds to, unless a checkpoint knows them."""
        super().on_train_start()
        if not bool(self.center.isnan().any()):
            return
        total = torch.zeros(self.encoder.out_features, dtype=torch.float64, device=self.device)
        count = torch.zeros((), dtype=torch.float64, device=self.device)
        with torch.no_grad():
            for image in self.training_images():
                for some in torch.split(image, CHUNK):
                    feature = self.embed(some)
                    self.watch("a feature", feature)
                    total += feature.sum(0, dtype=torch.float64)
                count += len(image)
            self.center.copy_(self.sum_over_ranks(total) / self.sum_over_ranks(count))
            if self.fisher is not None:
                self._read_fisher(self.fisher)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared distance to the centre, and EWC's penalty."""
        compactness = ((self.embed(batch["image"]) - self.center) ** 2).mean()
        self.log("train/compactness", compactness)
        loss = compactness
        if self.fisher is not None:
            penalty = self.penalty()
            self.log("train/ewc", penalty)
            loss = loss + penalty
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def penalty(self) -> Tensor:
        """EWC's penalty (), for a module with ``fisher``."""
        parts = []
        for name, weight in self._adapted().items():
            key = name.replace(".", "_")
            change = weight.float() - self.get_buffer(f"anchor_{key}")
            parts.append((self.get_buffer(f"fisher_{key}") * change**2).sum())
        return self.ewc_weight * torch.stack(parts).sum() / 2

    def configure_gradient_clipping(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        """Clip the norm of all gradients, then as the trainer says."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_(list(self._adapted().values()), self.clip)
        super().configure_gradient_clipping(optimizer, *args, **kwargs)

    def configure_optimizers(self) -> Optimizer:
        """SGD over the stages that are adapted."""
        rate, momentum, decay = (self.hparams[name] for name in ("lr", "momentum", "weight_decay"))
        return SGD(list(self._adapted().values()), lr=rate, momentum=momentum, weight_decay=decay)

    def _adapted(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in self.encoder.net.named_parameters() if weight.requires_grad}

    def _read_fisher(self, file: str) -> None:
        """Raises WeightsError for a file that does not fit."""
        adapted = self._adapted()
        net = cast(FeatureExtractor, self.encoder.net).net
        own = {name.removeprefix("net."): name for name, _ in self.encoder.net.named_parameters()}
        found = match_by_name(read_tensors(file), dict(net.named_parameters()))
        wanted = {key: adapted[name] for key, name in own.items() if name in adapted}
        if (fault := first_mismatch(found, wanted)) is not None:
            raise WeightsError(
                f"fisher must hold the Fisher information of every parameter that is adapted; got {file!r}, but {fault}. "
                "Give the file of this network, or null for the variant with an early end."
            )
        for key, weight in wanted.items():
            place = own[key].replace(".", "_")
            self.get_buffer(f"fisher_{place}").copy_(found[key])
            self.get_buffer(f"anchor_{place}").copy_(weight.detach())

    # The score -------------------------------------------------------------------------------------------------------

    def embed(self, image: Tensor) -> Tensor:
        """Features (B, D) of images (B, C, H, W), in float32, not normalised."""
        return cast(Tensor, self.encoder(image)).float()

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            Sum of the squared distances to the nearest features of the bank (B,), and no map.
        """
        feature = self.embed(image)
        with torch.autocast(feature.device.type, enabled=False):
            return nearest(feature, self.bank, neighbours=self.neighbours).sum(1), None

    @torch.no_grad()
    def fit_statistics(self) -> None:
        """Fill the bank with the features of the training images as they are now."""
        sample = FeatureSample(self.bank_size)
        for image in self.training_images():
            for some in torch.split(image, CHUNK):
                feature = self.embed(some)
                self.watch("a feature", feature)
                sample.add(image_keys(some), feature)
        gather = cast(Callable[[Tensor], Tensor], self.all_gather)
        bank = sample.merge(self.encoder.out_features, all_gather=gather, device=self.device)
        count = self.hparams["centroids"]
        if count is not None and count < len(bank):
            means = KMeans(count, n_init=1, random_state=self.hparams["seed"]).fit(bank.cpu().numpy())
            bank = torch.from_numpy(means.cluster_centers_).to(bank)
        fill_bank(self.bank, bank)


def _rest(extractor: FeatureExtractor) -> None:
    """Freeze a network up to the end of its stage of stride 8; names of weights stand in the order of the stages."""
    early = [each["module"] for each in extractor.net.feature_info.info if each["reduction"] <= FROZEN_STRIDE]
    starts = tuple(f"{name}." for module in early for name in (module, module.replace(".", "_")))
    names = [name for name, _ in extractor.net.named_parameters()]
    count = max((place + 1 for place, name in enumerate(names) if name.startswith(starts)), default=0)
    if not 0 < count < len(names):
        raise ConfigError(
            f"encoder must have weights in stages up to a stride of {FROZEN_STRIDE}, which rest, and in deeper ones, which are adapted; "
            f"timm's {extractor.name} has {count} of {len(names)} in the first. Use a ResNet."
        )
    for place, weight in enumerate(extractor.net.parameters()):
        weight.requires_grad_(place >= count)

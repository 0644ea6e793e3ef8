"""What contrastive pre-trainings share: numbered strong augmentations, two weak views of each, heads, candidates of all processes.

Views of a step are two blocks in one and the same order, first views and second ones, and so are their labels.

Axes: B images (or patches), V versions of an image, A = 2 * B * V views, C channels, H and W pixels, D width of the encoder, K of a projection.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.augment.draws import Draws, GeneratorDraws
from anomaly_suite.augment.strong import Strong, require_versions, strong_versions
from anomaly_suite.augment.weak import WeakAugmentation, mirrored
from anomaly_suite.contract import Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.pretraining.contrast import Candidates
from anomaly_suite.methods.pretraining.encoder_pretraining import Density, EncoderPretraining
from anomaly_suite.methods.pretraining.positions import PositionHead, position_pairs
from anomaly_suite.nn.patches import random_patches
from anomaly_suite.nn.size import ImageSize
from anomaly_suite.tracing import untraced

PROJECTION = 128  # K
BLUR_ABOVE = 64  # px; views of smaller images are not blurred

Versions = Literal["one", "all"]
"""Whether a step has one strong version of each image, all numbers equally often, or every version of every image."""


class Views(NamedTuple):
    """Views of a step."""

    image: Tensor
    """Shape (A, C, H, W)."""
    label: Tensor
    """Version of each, int64 (A,)."""
    source: Tensor
    """Number of its image, int64 (A,)."""


class ContrastivePretraining(EncoderPretraining):
    """A pre-training with views. A subclass writes ``terms``, the losses by name, and names its heads.

    Args:
        strong: Strong augmentation whose versions are told apart; null for none.
        num_strong: Versions of it, the image as it is included.
        versions: See :data:`Versions`.
        crop_scale: Smallest and largest share of the area that a weak view has.
        colour: Hue, saturation and grey among the weak augmentations; off for images without colours.
        blur: Among the weak augmentations; null blurs images above 64 pixels.
        projection: Head that the contrast is taken of, D to K; None has none.
        weights: Factor of each loss by name. A loss of weight 0 is left out, and its head with it.
        position_pairs: Pairs of patches of a step.
        encoder: See :class:`EncoderPretraining`, as for all that follow.
        encoder_weights: What training starts from.
        image_size: Of the images.
        width: Of ``residual``.
        patch_size: Of patches.
        patches_per_image: Of each step.
        lr: Of SGD.
        momentum: Of SGD.
        weight_decay: Of SGD.
        density: That scores.
        bank_size: Most features of a bank.

    Raises:
        ConfigError: a number of versions that the augmentation does not have, no loss at all, or a network or size that does not fit.
    """

    def __init__(
        self,
        *,
        strong: Strong | None,
        num_strong: int,
        versions: Versions,
        crop_scale: tuple[float, float],
        colour: bool,
        blur: bool | None,
        projection: Literal["two layers", "eight layers"] | None,
        weights: dict[str, float],
        position_pairs: int,
        encoder: str,
        encoder_weights: str | None,
        image_size: ImageSize,
        width: int,
        patch_size: int | None,
        patches_per_image: int,
        lr: float,
        momentum: float,
        weight_decay: float,
        density: Density = "gaussian",
        bank_size: int = 10_000,
    ) -> None:
        super().__init__(
            encoder=encoder, encoder_weights=encoder_weights, image_size=image_size, width=width, patch_size=patch_size,
            patches_per_image=patches_per_image, lr=lr, momentum=momentum, weight_decay=weight_decay,
            density=density, bank_size=bank_size,
        )  # fmt: skip
        if strong is not None:
            require_versions(strong, num_strong)
        low, high = crop_scale
        if low > high:
            raise ConfigError(
                f"crop_scale must be a smaller and a larger share; got {crop_scale}. The papers use (0.2, 1.0)."
            )
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        if patch_size is None:  # a patch has neighbours, an image has none
            self.weights.pop("position", None)
        if not self.weights:
            raise ConfigError(
                f"{type(self).__name__} needs a loss; got a weight of 0 for {', '.join(weights)}. Raise one of them above 0."
            )
        self.strong: Strong | None = strong
        self.num_strong = num_strong if strong else 1
        self.versions: Versions = versions
        self.crop_scale = (low, high)
        self.colour = colour
        self.blur = blur
        self.position_pairs = position_pairs
        features = self.encoder.out_features
        if projection:
            self.projection = _projection(features, layers=8 if projection == "eight layers" else 1)
        if "augmentation" in self.weights:
            self.augmentation_head = nn.Linear(features, self.num_strong)
        if "position" in self.weights:
            self.position_head = PositionHead(features)

    # A step ----------------------------------------------------------------------------------------------------------

    def terms(self, feature: Tensor, views: Views) -> dict[str, Tensor]:
        """Losses by the names of ``weights``, but for that of positions.

        Args:
            feature: Of the encoder, (A, D).
            views: What it was given.

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define terms(feature, views).")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Weighted sum of the losses over two views of every image or patch."""
        draws = GeneratorDraws(self.step_generator(batch_idx))
        views = self.make_views(self.inputs(batch["image"], batch_idx), draws)
        feature: Tensor = self.encoder(views.image)  # all views at once: batch normalisation must not tell them apart
        terms = self.terms(feature, views)
        if "position" in self.weights and self.grid is not None:
            terms["position"] = self.position_loss(batch["image"], draws)
        self.log_dict({f"train/{name}": term for name, term in terms.items()})
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        self.log("train/loss", loss)
        return loss

    def augmentation_loss(self, feature: Tensor, views: Views) -> Tensor:
        """Cross-entropy of the version of each view, told from features (A, D)."""
        logits = self.augmentation_head(feature).float()
        self.log("train/augmentation_accuracy", (logits.argmax(1) == views.label).float().mean())
        return F.cross_entropy(logits, views.label)

    def position_loss(self, image: Tensor, draws: Draws) -> Tensor:
        """Cross-entropy of the direction between two patches of images (B, C, H, W)."""
        pairs = position_pairs(image, draws, size=cast(int, self.hparams["patch_size"]), count=self.position_pairs)
        first, second = self.encoder(torch.cat([pairs.first, pairs.second])).chunk(2)
        return F.cross_entropy(self.position_head(first - second).float(), pairs.label)

    # Views -----------------------------------------------------------------------------------------------------------

    def make_views(self, image: Tensor, draws: Draws, *, views: int = 2) -> Views:
        """Strong versions of images, and weak views of each.

        Args:
            image: Shape (B, C, H, W), in [0, 1].
            draws: Source of all draws.
            views: Of each version.

        Returns:
            Views, block by block.
        """
        source = torch.arange(len(image), device=image.device)
        label = self._labels(len(image), draws)
        if self.versions == "all":
            source = source.repeat_interleave(self.num_strong)
        label, many = label.repeat(views), source.repeat(views)
        if self.strong == "rotation":  # a mirror after a rotation would swap 90 and 270 degrees
            start = mirrored(image.repeat(views, 1, 1, 1), draws)
            block = torch.arange(views, device=image.device).repeat_interleave(len(source)) * len(image)
            changed = self.strengthen(start[many + block], label, draws, pool=image, own=many)
        else:
            changed = self.strengthen(image[source], label[: len(source)], draws, pool=image, own=source)
            changed = changed.repeat(views, 1, 1, 1)
        return Views(self.weaken(changed, draws), label, many)

    def pseudo_class_images(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
        """Every strong version of every image (B, C, H, W), or of a patch of it, without weak views; None without strong versions."""
        if self.strong is None:
            return None
        if self.grid is not None:
            image = random_patches(image, size=self.grid.size, count=1, generator=generator)
        own = torch.arange(len(image), device=image.device).repeat_interleave(self.num_strong)
        label = torch.arange(self.num_strong, device=image.device).repeat(len(image))
        return self.strengthen(image[own], label, GeneratorDraws(generator), pool=image, own=own), label

    def strengthen(self, image: Tensor, label: Tensor, draws: Draws, *, pool: Tensor, own: Tensor) -> Tensor:
        """Each image (B, C, H, W) in the version of its label (B,); see :func:`~anomaly_suite.augment.strong.strong_versions`."""
        if self.strong is None:
            return image
        return strong_versions(image, label, draws, kind=self.strong, pool=pool, own=own)

    def weaken(self, image: Tensor, draws: Draws) -> Tensor:
        """A weak view of every image (A, C, H, W)."""
        blur = min(image.shape[2:]) > BLUR_ABOVE if self.blur is None else self.blur
        weak = WeakAugmentation(
            crop_scale=self.crop_scale, flip=self.strong != "rotation", colour=self.colour, blur=blur
        )
        return weak(image, draws)

    def _labels(self, count: int, draws: Draws) -> Tensor:
        """Versions of the items of so many images: all of each, or one, every number equally often up to one."""
        order = draws(count, 1).squeeze(1).argsort()
        if self.versions == "all":
            return torch.arange(self.num_strong, device=order.device).repeat(count)
        shift = (draws(1, 1).squeeze() * self.num_strong).long()
        return (order + shift) % self.num_strong

    # Processes -------------------------------------------------------------------------------------------------------

    @untraced
    def candidates(self, feature: Tensor, views: Views) -> Candidates:
        """Projections (A, K) of this process, and behind and before them those of the others, through which gradients flow too."""
        if self._trainer is None or self.trainer.world_size == 1:
            return Candidates(feature, views.label, views.source)
        own, rank = len(feature), self.trainer.global_rank
        source = views.source + rank * own  # images of two processes are different ones
        everywhere, label, source = (
            cast(Tensor, self.all_gather(each, sync_grads=each is feature)).flatten(0, 1)
            for each in (feature, views.label, source)
        )
        return Candidates(everywhere, label, source, first=rank * own, own=own)


def _projection(features: int, *, layers: int) -> nn.Sequential:
    """Linear layers with ReLU, with batch normalisation where there are several; then one to K."""
    if layers == 1:
        return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, PROJECTION))
    hidden = [
        nn.Sequential(nn.Linear(features, features, bias=False), nn.BatchNorm1d(features), nn.ReLU())
        for _ in range(layers)
    ]
    return nn.Sequential(*hidden, nn.Linear(features, PROJECTION))

"""Whole images, overlapping patches of them, or both: the networks of each scope, trained and scored side by side.

The scope ``global`` has networks for whole images, ``local`` others for patches; ``both`` has the two. A method says what the
networks of one scope are (its part), and a :class:`Scopes` keeps the parts, draws their patches and scores by them.

Axes: B batch, C channels, H and W pixels, S scopes (1 or 2, the global one first), S' side of a patch, N images or patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, TypeVar, cast

import torch
from torch import Generator, Tensor, nn

from anomaly_suite.nn.autoencoder import DescriptorAutoencoder
from anomaly_suite.nn.encoders import ImageEncoder
from anomaly_suite.nn.patches import PATCHES_AT_ONCE, PatchGrid
from anomaly_suite.nn.size import ImageSize

Scope = Literal["global", "local", "both"]
"""What a method looks at: whole images, patches of them, or both."""

Part = TypeVar("Part", bound=nn.Module)


@dataclass(frozen=True)
class ScopeOptions:
    """What the options of a method say about one scope.

    Args:
        name: ``global`` or ``local``.
        image_size: Height and width of its images or patches.
        encoder: ``residual`` or the name of a timm network.
        encoder_weights: What the encoder starts from; see :meth:`anomaly_suite.nn.encoders.ImageEncoder.load_weights`.
    """

    name: Literal["global", "local"]
    image_size: ImageSize
    encoder: str
    encoder_weights: str | None

    def autoencoder(self, *, latent_dim: int, width: int, freeze_encoder: bool | None) -> DescriptorAutoencoder:
        """An autoencoder for the images or patches of this scope.

        Args:
            latent_dim: Width of the code.
            width: Channels at full resolution of the residual networks.
            freeze_encoder: Train only what follows the encoder; None does so for an encoder that starts from weights.
        """
        return DescriptorAutoencoder(
            encoder=self.encoder,
            image_size=self.image_size,
            latent_dim=latent_dim,
            width=width,
            freeze_encoder=self.encoder_weights is not None if freeze_encoder is None else freeze_encoder,
        )


ATTRIBUTES = {"global": "global_", "local": "local"}
"""What the part of a scope is called as a module: exporters write these names into code, where ``global`` is a keyword."""


class Scopes(nn.Module, Generic[Part]):
    """The parts of a method by scope: ``scopes["global"]``, ``scopes["local"]`` or both.

    Args:
        build: Makes the part of one scope; called for the global one first.
        scope: Which scopes there are.
        whole: Options of the global scope.
        patch: Options of the local scope.
        patches: Where the patches lie.
        per_step: Patches a training step; None takes all of the batch.
    """

    def __init__(
        self,
        build: Callable[[ScopeOptions], Part],
        *,
        scope: Scope,
        whole: ScopeOptions,
        patch: ScopeOptions,
        patches: PatchGrid,
        per_step: int | None,
    ) -> None:
        super().__init__()
        self.patches = patches
        self.per_step = per_step
        self.options: dict[str, ScopeOptions] = {
            each.name: each for each in (whole, patch) if scope in (each.name, "both")
        }
        for name, options in self.options.items():
            self.add_module(ATTRIBUTES[name], build(options))

    def __getitem__(self, name: str) -> Part:
        """The part of one scope."""
        return cast(Part, self.get_submodule(ATTRIBUTES[name]))

    def __iter__(self) -> Iterator[str]:
        """Names of the scopes, ``global`` first."""
        return iter(self.options)

    def __len__(self) -> int:
        return len(self.options)

    def parts(self) -> list[Part]:
        """The part of every scope, the global one first."""
        return [part for _, part in self.named_parts()]

    def named_parts(self) -> list[tuple[str, Part]]:
        """The name and part of every scope, the global one first."""
        return [(name, self[name]) for name in self]

    def load_encoder_weights(self) -> None:
        """Load what the encoders of every scope start from.

        Raises:
            WeightsError: no such file, an unreadable one, or one that does not fit.
        """
        for name, part in self.named_parts():
            for module in part.modules():
                if isinstance(module, ImageEncoder):
                    option = "encoder_weights" if name == "global" else "local_encoder_weights"
                    module.load_weights(self.options[name].encoder_weights, option=option)

    def training_inputs(self, image: Tensor, *, generator: Generator) -> Iterator[tuple[str, Part, Tensor]]:
        """What each scope is trained on in one step.

        Args:
            image: Shape (B, C, H, W).
            generator: Source of the choice of patches, which are drawn when the loop reaches the local scope: what it draws for
                the global one comes before.

        Yields:
            The prefix of the scope's logged names (``train/``, or ``train/global_`` and ``train/local_``), its part, and the
            images (B, C, H, W) or the patches of all images (N, C, S', S').

        Raises:
            ShapeError: an image smaller than a patch.
        """
        for name, part in self.named_parts():
            prefix = f"train/{name}_" if len(self) > 1 else "train/"
            whole = name == "global"
            yield prefix, part, image if whole else self.patches.sample(image, self.per_step, generator=generator)

    def pieces(self, name: str, image: Tensor) -> tuple[Tensor, ...]:
        """What a scope sees of images (B, C, H, W): they themselves, or all of their patches, a bounded number at once.

        Raises:
            ShapeError: an image smaller than a patch.
        """
        return (image,) if name == "global" else torch.split(self.patches.cut(image), PATCHES_AT_ONCE)

    def score(self, image: Tensor, function: Callable[[Part, Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Score images in every scope.

        Args:
            image: Shape (B, C, H, W).
            function: Of a part and N images or patches; returns scores (N,) and maps (N, 1, height, width).

        Returns:
            Scores (S, B), in the local scope those of the worst patch, and maps (S, B, 1, H, W), there the mean where patches
            overlap.

        Raises:
            ShapeError: an image smaller than a patch.
        """
        scores, maps = [], []
        for name, part in self.named_parts():
            score_part = partial(function, part)
            score, anomaly_map = score_part(image) if name == "global" else self.patches.score(image, score_part)
            scores.append(score)
            maps.append(anomaly_map)
        return torch.stack(scores), torch.stack(maps)

    def rebuild(self, image: Tensor, function: Callable[[Part, Tensor], Tensor]) -> Tensor:
        """What the first scope makes of images: of whole ones, or else of all of their patches, put together again.

        Args:
            image: Shape (B, C, H, W).
            function: Of a part and N images or patches; returns as many of one size, (N, C', height, width).

        Returns:
            Shape (B, C', H, W), the mean where patches overlap.

        Raises:
            ShapeError: an image smaller than a patch.
        """
        name, part = self.named_parts()[0]
        made = torch.cat([function(part, piece) for piece in self.pieces(name, image)])
        return made if name == "global" else self.patches.join(made, height=image.shape[2], width=image.shape[3])


def mix_scores(scores: Tensor, *, share: float) -> Tensor:
    """One score an image from those of its scopes.

    Args:
        scores: Shape (S, B).
        share: Weight of the global score where there are two; the local one has the rest.

    Returns:
        Shape (B,).
    """
    return scores[0] if len(scores) == 1 else share * scores[0] + (1 - share) * scores[1]

"""What a method can take, looked at before anything is computed with it.

Axes: B batch, C channels, H and W pixels, T snippets, D feature width.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from anomaly_suite.contract.batch import Batch
from anomaly_suite.errors import ShapeError
from anomaly_suite.tracing import untraced


class InputSupport(LightningModule):
    """Part of :class:`~anomaly_suite.contract.AnomalyModule`: images of another kind than a method takes are refused in one place.

    Batches of every step and of passes over the training set, and what ``model(image)`` is given.
    """

    image_channels: tuple[int, ...] | None = None
    """Channels of the images that the method takes: ``(in_channels,)``, or ``(1, 3)``; None leaves images to the method."""

    @untraced
    def check_input(self, batch: Batch) -> None:
        """Check a batch, already passed through :func:`~anomaly_suite.contract.as_batch`.

        Raises:
            ShapeError: no images where the method takes images, none at all, or images of other channels or another type than the
                weights.
        """
        if self.image_channels is None:
            return
        if "image" not in batch:
            raise ShapeError(
                f"{type(self).__name__} takes images; the batch has {', '.join(map(str, batch))}. Use a data module of images, or give "
                "'image' (B, C, H, W)."
            )
        self.check_image(batch["image"])

    def check_call(self, *inputs: Any, **named: Any) -> None:
        """Check what ``model(...)`` is given: images, unless a family takes something else.

        Raises:
            ShapeError: see :meth:`check_image`.
        """
        self.check_image(inputs[0] if inputs else named.get("image"))

    def check_image(self, image: Any) -> None:
        """Check images.

        Args:
            image: What should be of shape (B, C, H, W).

        Raises:
            ShapeError: something else.
        """
        if self.image_channels is None:
            return
        name, wanted = type(self).__name__, " or ".join(map(str, self.image_channels))
        if not isinstance(image, Tensor) or image.ndim != 4 or not image.is_floating_point():
            raise ShapeError(
                f"{name} takes images as a floating-point tensor (B, C, H, W) in [0, 1]; got {shape_of(image)}. Convert and stack them."
            )
        if not image.numel():
            raise ShapeError(
                f"{name} needs at least one image with pixels; got {shape_of(image)}. Leave empty batches out."
            )
        if image.shape[1] not in self.image_channels:
            option = f"set in_channels: {image.shape[1]} in the model, or " if "in_channels" in self.hparams else ""
            data = " or ".join(
                f"{'grey' if c == 1 else 'RGB'} (channels: {c})" for c in self.image_channels if c in (1, 3)
            )
            plural = f"{wanted} channel{'s' * (wanted != '1')}"
            advice = f"{option}let the data give {plural}" + (f": {data} in the data module" if data else "")
            raise ShapeError(
                f"{name} was built for images of {plural}; got (B, C, H, W) = {tuple(image.shape)}. {advice[0].upper()}{advice[1:]}."
            )
        self.check_type("images", image)

    def check_type(self, what: str, value: Tensor) -> None:
        """Check the type of an input against that of the weights; mixed precision casts what it can.

        Args:
            what: The input in a message, such as ``images``.
            value: Floating-point, of any shape.

        Raises:
            ShapeError: types that cannot be multiplied.
        """
        weight = next((each.dtype for each in self.parameters() if each.is_floating_point()), value.dtype)
        casts = torch.is_autocast_enabled(value.device.type) and torch.float64 not in (value.dtype, weight)
        if value.dtype != weight and not casts:
            raise ShapeError(
                f"{type(self).__name__} needs {what} of the type of its weights, {_name(weight)}; got {_name(value.dtype)}. Convert them in "
                f"the loader (.to({weight})), or set the precision of the trainer."
            )


def shape_of(value: Any) -> str:
    """Shape and type of what should be a tensor, for a message."""
    return (
        f"{tuple(value.shape)} {_name(value.dtype)}"
        if isinstance(value, Tensor)
        else f"{type(value).__name__} {str(value)[:40]!r}"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""What all video networks share: clips are checked and normalised, weights are loaded by name, nothing is trained.

Axes: N clips, T frames of a clip, H and W pixels, D feature width.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from anomaly_suite.errors import ShapeError, WeightsError
from anomaly_suite.nn.weights import PREFIXES, read_tensors


class VideoBackbone(nn.Module):
    """Clips to vectors, always in evaluation mode: statistics of a batch would make a clip's feature depend on its neighbours.

    Attributes:
        feature_dim: D.
        resize: Height and width to which whole frames are scaled first; their aspect ratio is not kept.
        crop: Height and width cut out of the scaled frame, the network's input.
        normalization: What :meth:`forward` does to the pixels, in words.
        classifier: What the names of tensors begin with that a file of weights may hold and that are not needed.
    """

    feature_dim: int
    resize: tuple[int, int]
    crop: tuple[int, int]
    normalization: str
    classifier: ClassVar[tuple[str, ...]] = ()

    def train(self, mode: bool = True) -> VideoBackbone:
        """Stay in evaluation mode; ``mode`` has no effect."""
        return super().train(False)

    def freeze(self) -> None:
        """Evaluation mode, no gradients."""
        self.requires_grad_(False)
        self.eval()

    def forward(self, clip: Tensor) -> Tensor:
        """Features of clips.

        Args:
            clip: RGB, shape (N, 3, T, H, W); uint8 from 0 to 255, or floating point from 0 to 1.

        Returns:
            Shape (N, D), float32.

        Raises:
            ShapeError: another shape.
        """
        if clip.ndim != 5 or clip.shape[1] != 3:
            raise ShapeError(
                f"clips must have the shape (N, 3, T, H, W); got {tuple(clip.shape)}. Stack the frames along the third axis."
            )
        unit = clip.float() / 255 if clip.dtype == torch.uint8 else clip
        return self.features(self.normalize(unit)).float()

    def normalize(self, clip: Tensor) -> Tensor:
        """RGB in [0, 1] to what the weights were trained on.

        Args:
            clip: Shape (N, 3, T, H, W).

        Raises:
            NotImplementedError: the network does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define normalize(clip).")

    def features(self, clip: Tensor) -> Tensor:
        """Features of normalised clips.

        Args:
            clip: What :meth:`normalize` returns, of shape (N, 3, T, H, W) for most networks.

        Returns:
            Shape (N, D).

        Raises:
            NotImplementedError: the network does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define features(clip).")

    def load_weights(self, weights: str) -> None:
        """Replace the random weights.

        Args:
            weights: A file of named tensors (``torch.save`` or safetensors), with or without the classifier, bare or under
                ``state_dict`` or ``model``; prefixes of a training program are ignored.

        Raises:
            WeightsError: no such file, an unreadable one, or one that does not fit: the first difference is named.
        """
        name = type(self).__name__
        if not Path(weights).is_file():
            raise WeightsError(f"{name} takes its weights from a file; there is none at {weights!r}. Check the path.")
        state = self.state_dict()
        tensors = {_known(key, state): value for key, value in read_tensors(weights).items()}
        tensors = {key: value for key, value in tensors.items() if not key.startswith(self.classifier)}
        if fault := _first_fault(tensors, state):
            raise WeightsError(
                f"the weights in {weights} must fit {name}, but {fault}. Give a file of this network, or choose the network it is for."
            )
        self.load_state_dict(state | tensors)


def _first_fault(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str | None:
    """The first difference between the tensors of a file and those of a network, in words."""
    left = sorted(tensors.keys() - state.keys())
    for key, value in state.items():
        if key not in tensors:
            if key.endswith("num_batches_tracked"):  # absent from old files and never used in evaluation
                continue
            near = difflib.get_close_matches(key, left, n=1, cutoff=0.0)
            beside = f"; the nearest name is {near[0]} {tuple(tensors[near[0]].shape)}" if near else ""
            return f"no tensor in it is named {key} {tuple(value.shape)}{beside}"
        if tensors[key].shape != value.shape:
            return f"{key} is {tuple(tensors[key].shape)} in it and {tuple(value.shape)} in the network"
    return f"it also holds {left[0]} {tuple(tensors[left[0]].shape)}" if left else None


def _known(key: str, state: Mapping[str, Tensor]) -> str:
    """A tensor's name without the prefixes of a training program."""
    plain = key
    while plain not in state:
        prefix = next((prefix for prefix in PREFIXES if plain.startswith(prefix)), None)
        if prefix is None:
            break
        plain = plain.removeprefix(prefix)
    return plain

"""Batch and Prediction: what flows between data modules, methods and callbacks.

Axes: B batch, C channels, H and W pixels, T snippets, D feature width, F frames of all videos, one video after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

from torch import Tensor

from anomaly_suite.contract import images, scenes, videos
from anomaly_suite.errors import ShapeError
from anomaly_suite.tracing import untraced

MODALITIES = (images, scenes, videos)
"""Each has ``complete(batch)``: check and complete the keys of the modality in place; False where they are absent."""


class Batch(TypedDict, total=False):
    """Input of every step; only the keys that a data set has are present.

    Images: ``image`` (B, C, H, W) float, in [0, 1] from the data modules of this package; ``label`` (B,) long, 1 is
    anomalous; ``mask`` (B, 1, H, W) bool, True is anomalous; ``image_path`` and ``category``, one string per image;
    ``padding`` (B,) bool marks samples repeated by the sampler, which gives every process equally many.
    Weak video: ``snippet_features`` (B, C, T, D) float of C crops, ``length`` (B,) snippets of each video, the others being
    padding, ``label`` (B,) of whole videos (``bag_label`` is another name for it), ``image_path`` their names. With frame
    truth: ``frame_label`` (F,) bool, the videos one after another, and ``frame_count`` (B,) frames of each.
    Driving scenes: ``target`` (B, H, W) long, class of each pixel, ``OUTLIER`` for a pasted outlier and ``VOID`` for no class;
    ``ood_mask`` (B, H, W) uint8, 0 normal, 1 anomalous, ``VOID`` not scored.
    """

    image: Tensor
    label: Tensor
    mask: Tensor
    image_path: list[str]
    category: list[str]
    padding: Tensor
    snippet_features: Tensor
    length: Tensor
    bag_label: Tensor
    frame_label: Tensor
    frame_count: Tensor
    target: Tensor
    ood_mask: Tensor


class Prediction(TypedDict, total=False):
    """Output of every validation, test and predict step.

    ``anomaly_score`` (B,) and ``anomaly_map`` (B, 1, H, W) are raw and never overwritten: higher is more anomalous, on
    any scale. Video: ``snippet_score`` (B, T), ``frame_score`` (F,). Driving scenes: ``pred_target`` (B, H, W) long, the
    most probable known class, and ``confidence`` (B, H, W), its probability among the known classes. A fitted
    :class:`Calibration` adds ``pred_label`` (B,) bool, ``pred_mask`` (B, 1, H, W) bool and ``normalized_score`` (B,) in
    [0, 1] with 0.5 at the threshold.
    """

    anomaly_score: Tensor
    anomaly_map: Tensor
    snippet_score: Tensor
    frame_score: Tensor
    pred_target: Tensor
    confidence: Tensor
    pred_label: Tensor
    pred_mask: Tensor
    normalized_score: Tensor


FIELDS = tuple(Batch.__annotations__)


class CheckedBatch(dict[str, Any]):
    """A batch that has been through :func:`as_batch`; checking labels again would make a GPU wait."""


@untraced
def as_batch(batch: Any) -> Batch:
    """Turn what a loader yields into a checked :class:`Batch`.

    Args:
        batch: A mapping with the keys of :class:`Batch` (others are kept), an object with such attributes, a tuple or
            list ``(image,)``, ``(image, label)`` or ``(image, label, mask)``, or an image tensor alone.

    Returns:
        A new mapping; ``label`` is long (B,), ``mask`` bool (B, 1, H, W); a missing label is taken from the mask. With
        ``snippet_features`` (B, T, D) or (B, C, T, D), these get a crop axis, and ``length`` is filled in.

    Raises:
        ShapeError: no image, an image that is not a float (B, C, H, W) tensor, labels other than 0 and 1, or a mask of
            another height or width; for weak video, tensors that do not fit together.
    """
    if isinstance(batch, CheckedBatch):
        return cast(Batch, batch)
    out = CheckedBatch({name: value for name, value in _named(batch).items() if value is not None})
    found = [modality.complete(out) for modality in MODALITIES]
    if not any(found):
        keys = ", ".join(map(str, out)) or type(batch).__name__
        raise ShapeError(
            f"a batch needs the key 'image' (or be an (image, label[, mask]) tuple); got {keys}. "
            "Rename the key in the loader's collate function."
        )
    return cast(Batch, out)


def _named(batch: Any) -> dict[str, Any]:
    """The parts of what a loader yields, under the keys of a batch."""
    if isinstance(batch, Tensor):
        return {"image": batch}
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, Sequence) and 1 <= len(batch) <= 3 and not hasattr(batch, "_fields"):
        return dict(zip(("image", "label", "mask"), batch, strict=False))
    return {name: getattr(batch, name, None) for name in FIELDS}

"""Batch and Prediction: what flows between data modules, methods and callbacks.

Axes: B batch, C channels, H and W pixels, T snippets, D feature width, F frames of all videos, one video after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

import torch
from torch import Tensor

from anomaly_suite.contract import images, scenes, videos
from anomaly_suite.contract.keys import OF_BATCHES, OF_PREDICTIONS, KeyMap, checked_map, parts_of, under_our_names
from anomaly_suite.errors import ShapeError
from anomaly_suite.tracing import untraced

MODALITIES = (images, scenes, videos)
"""Each has ``complete(batch)``: check and complete the keys of the modality in place; False where they are absent."""


class Batch(TypedDict, total=False):
    """Input of every step; only the keys that a data set has are present.

    Images: ``image`` (B, C, H, W) float, in [0, 1] from the data modules of this package; ``label`` (B,) long, 1 is
    anomalous; ``mask`` (B, 1, H, W) bool, True is anomalous; ``image_path`` and ``category``, one string per image;
    ``group`` (B,) long is the number of an image's group for localisation, 0 for none; ``seen_type`` (B,) bool is True where a method may have
    been trained on anomalies of the same kind of defect, and there only if there are others;
    ``padding`` (B,) bool marks samples repeated by the sampler, which gives every process equally many.
    Weak video: ``snippet_features`` (B, C, T, D) float of C crops, ``length`` (B,) snippets of each video, the others being
    padding, ``label`` (B,) of whole videos (``bag_label`` is another name for it), ``image_path`` their names. With frame
    truth: ``frame_label`` (F,) bool, the videos one after another, and ``frame_count`` (B,) frames of each.
    Driving scenes: ``target`` (B, H, W) long, class of each pixel, ``OUTLIER`` for a pasted outlier and ``VOID`` for no class;
    ``ood_mask`` (B, H, W) uint8, 0 normal, 1 anomalous, ``VOID`` not scored; callbacks add ``scored`` (B,) bool, which scenes have a
    scored pixel.
    """

    image: Tensor
    label: Tensor
    mask: Tensor
    image_path: list[str]
    category: list[str]
    group: Tensor
    seen_type: Tensor
    padding: Tensor
    snippet_features: Tensor
    length: Tensor
    bag_label: Tensor
    frame_label: Tensor
    frame_count: Tensor
    target: Tensor
    ood_mask: Tensor
    scored: Tensor


class Prediction(TypedDict, total=False):
    """Output of every validation, test and predict step.

    ``anomaly_score`` (B,) and ``anomaly_map`` (B, 1, H, W) are raw and never overwritten: higher is more anomalous, on
    any scale. The score of a driving scene with ``ood_mask`` is the highest of its scored pixels. Video: ``snippet_score`` (B, T), ``frame_score`` (F,). Driving scenes: ``pred_target`` (B, H, W) long, the
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
SCORES = ("anomaly_score", "anomaly_map", "snippet_score", "frame_score", "pred_target")
"""Keys of a prediction; what a step returns without any of them is none."""
NAMES = (*FIELDS, *Prediction.__annotations__)
OTHERS = tuple(name for names in (*OF_BATCHES.values(), *OF_PREDICTIONS.values()) for name in names)


class CheckedBatch(dict[str, Any]):
    """A batch that has been through :func:`as_batch`; checking labels again would make a GPU wait."""


@untraced
def as_batch(batch: Any, *, key_map: KeyMap | None = None, needs_image: bool = True) -> Batch:
    """Turn what a loader yields into a checked :class:`Batch`.

    Common names of other packages are read, too, where a value has the form of the key (``contract/keys.py``): ``gt_label``, ``labels``,
    ``is_anomaly``, ``targets``, ``y`` and so on are a label, ``gt_mask``, ``masks`` and so on a mask.

    Args:
        batch: A mapping with the keys of :class:`Batch` (others are kept), an object with such attributes, a tuple or
            list ``(image,)``, ``(image, label)`` or ``(image, label, mask)``, the third perhaps names of files or numbers, or
            ``(image, mapping)``, or an image tensor alone.
        key_map: Our names of keys, and what they are called in this batch, in a tuple their places: ``{"label": "3"}``; see
            :func:`check_key_map`.
        needs_image: Whether the input is needed. If not, as for callbacks beside somebody else's module, uint8 images are brought
            to [0, 1], what is no image is left out, and the truth alone is a batch. If so, the image has its own name, and labels of
            another name that are classes are left out: methods that learn without labels take such batches.

    Returns:
        A new mapping; ``label`` is long (B,), ``mask`` bool (B, 1, H, W); a missing label is taken from the mask. With
        ``snippet_features`` (B, T, D) or (B, C, T, D), these get a crop axis, and ``length`` is filled in.

    Raises:
        ConfigError: a ``key_map`` that cannot be.
        ShapeError: no image, an image that is not a float (B, C, H, W) tensor, labels other than 0 and 1, or a mask of
            another height or width; for weak video, tensors that do not fit together.
    """
    if isinstance(batch, CheckedBatch) and not key_map:
        return cast(Batch, batch)
    key_map = checked_map(key_map, NAMES)
    out = CheckedBatch(under_our_names(_named(batch, key_map), OF_BATCHES, key_map, for_method=needs_image))
    if not needs_image:
        _keep_if_shown(out)
    found = [modality.complete(out) for modality in MODALITIES]
    if not any(found) and needs_image:
        keys = ", ".join(map(str, out)) or type(batch).__name__
        raise ShapeError(
            f"a batch needs the key 'image' (or be an (image, label[, mask]) tuple); got {keys}. "
            "Rename the key in the loader's collate function."
        )
    if not any(found):
        out.update({name: torch.as_tensor(out[name]) for name in ("label", "mask") if name in out})
        images.complete_truth(out)
    return cast(Batch, out)


def _keep_if_shown(batch: dict[str, Any]) -> None:
    """Bring uint8 images (B, C, H, W) to [0, 1] and leave out what is no image, in place, for those who read the truth alone."""
    image = batch.get("image")
    if isinstance(image, Tensor) and image.ndim == 4 and image.dtype == torch.uint8:
        batch["image"] = image / 255
    elif not isinstance(image, Tensor) or image.ndim != 4 or not image.is_floating_point():
        batch.pop("image", None)


@untraced
def as_prediction(outputs: Any, key_map: KeyMap | None = None) -> Prediction:
    """What a step returned, under our names.

    Args:
        outputs: A mapping or an object with attributes; ``pred_score``, ``anomaly_maps`` and so on are read as ours.
        key_map: As of :func:`as_batch`.

    Returns:
        A new mapping with ``anomaly_score`` (B,) and ``anomaly_map`` (B, 1, H, W) where they are there, keys of other names as
        they are; empty where nothing that was returned has a name.

    Raises:
        ConfigError: a ``key_map`` that cannot be.
        ShapeError: scores or maps that are no numbers.
    """
    key_map = checked_map(key_map, NAMES)
    found = parts_of(outputs, (*NAMES, *OTHERS, *key_map.values()))
    out = under_our_names(found, OF_PREDICTIONS, key_map)
    for name in ("anomaly_score", "normalized_score", "pred_label", "anomaly_map", "pred_mask"):
        if name in out:
            out[name] = _with_its_axes(name, out[name])
    return cast(Prediction, out)


def _with_its_axes(name: str, value: Any) -> Tensor:
    """Scores and decisions as (B,), maps and masks as (B, 1, H, W), where others leave an axis of length one out or in."""
    try:
        tensor: Tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(
            f"{name} must hold one number each; got {type(value).__name__} ({error}). Return a tensor from the step."
        ) from error
    if name in ("anomaly_map", "pred_mask"):
        return tensor.unsqueeze(1) if tensor.ndim == 3 else tensor
    return tensor.reshape(-1) if tensor.ndim == 0 or tensor.numel() == len(tensor) else tensor


def check_key_map(key_map: KeyMap | None) -> KeyMap | None:
    """Return the ``key_map`` of a user.

    Args:
        key_map: Our names of keys of batches and predictions, and what they are called elsewhere: ``{"label": "defect"}``. None
            reads the common names.

    Raises:
        ConfigError: no mapping of names, or one without a name of ours.
    """
    checked_map(key_map, NAMES)
    return key_map


def names_in(raw: Any) -> list[str]:
    """What is found in a batch or in what a step returned, for messages: names of keys, or the type of a thing without names."""
    if isinstance(raw, Mapping):
        return [str(name) for name in raw]
    if isinstance(raw, tuple | list) and not hasattr(raw, "_fields"):
        return [f"a {type(raw).__name__} of {len(raw)}"]
    found = [str(name) for name in parts_of(raw, (*NAMES, *OTHERS))]
    return found or ["nothing" if raw is None else f"a {type(raw).__name__}"]


def _named(batch: Any, key_map: KeyMap) -> dict[str, Any]:
    """The parts of what a loader yields, under their own names; those of a tuple under those of a batch."""
    if isinstance(batch, Tensor):
        return {"image": batch}
    if isinstance(batch, Sequence) and not isinstance(batch, str | bytes) and not hasattr(batch, "_fields"):
        by_place = {str(place): value for place, value in enumerate(batch) if str(place) in key_map.values()}
        if len(batch) == 2 and isinstance(batch[1], Mapping):
            return {"image": batch[0], **parts_of(batch[1], ()), **by_place}
        found = zip(("image", "label", _third(batch)), batch, strict=False) if 1 <= len(batch) <= 3 else ()
        return {name: value for name, value in found if value is not None} | by_place
    return parts_of(batch, (*FIELDS, *OTHERS, *key_map.values()))


def _third(batch: Sequence[Any]) -> str:
    """Name of the third part of a tuple: masks, names of files, or one number for each sample, such as its place in the data set."""
    value = batch[2] if len(batch) == 3 else None
    if isinstance(value, list | tuple) and value and all(isinstance(each, str) for each in value):
        return "image_path"
    return "mask" if getattr(value, "ndim", 3) >= 3 else "numbers"

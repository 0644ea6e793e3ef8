"""What others call the keys of batches and predictions: their parts under our names.

Axes: B batch, H and W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from anomaly_suite.errors import ConfigError, did_you_mean

KeyMap = Mapping[str, str]
"""Our names of keys, and what a loader or a step calls them."""

OF_BATCHES: dict[str, tuple[str, ...]] = {
    "image": ("images", "img", "imgs", "pixel_values", "x"),
    "label": (
        *("gt_label", "gt_labels", "labels", "is_anomaly", "is_anomalous", "anomaly_label", "anomalous"),
        *("target", "targets", "y", "gt", "ground_truth"),
    ),
    "mask": ("gt_mask", "gt_masks", "masks", "anomaly_mask", "anomaly_masks", "gt", "ground_truth"),
    "image_path": ("image_paths", "path", "paths"),
}
"""Other names that are read without being asked, the first that is there and has the form of the key."""

OF_PREDICTIONS: dict[str, tuple[str, ...]] = {
    "anomaly_score": ("anomaly_scores", "pred_score", "pred_scores"),
    "anomaly_map": ("anomaly_maps",),
    "pred_label": ("pred_labels",),
    "pred_mask": ("pred_masks",),
}


def parts_of(raw: Any, names: Iterable[str]) -> dict[str, Any]:
    """What a loader yields or a step returns, by name; what is None is left out.

    Args:
        raw: A mapping, a dataclass, a named tuple, or another object, of which ``names`` are asked.
        names: Attributes that may be of interest.
    """
    if isinstance(raw, Mapping):
        found: Mapping[Any, Any] = raw
    elif dataclasses.is_dataclass(raw) and not isinstance(raw, type):
        found = {field.name: getattr(raw, field.name, None) for field in dataclasses.fields(raw)}
    elif hasattr(raw, "_asdict"):
        found = raw._asdict()
    elif raw is None or isinstance(raw, Tensor | str | bytes | int | float | Sequence):
        found = {}
    else:
        found = {name: getattr(raw, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def under_our_names(
    parts: Mapping[str, Any], others: Mapping[str, tuple[str, ...]], key_map: KeyMap, *, for_method: bool = False
) -> dict[str, Any]:
    """Rename keys: those of ``key_map`` as it says, others that are missing by their common names.

    Args:
        parts: Values by name.
        others: Common names of our keys.
        key_map: See :func:`checked_map`; a key named there is read under that name alone.
        for_method: A method is given what it asks for by name: no image of another name, and no truth of another name that does not
            fit the image or whose labels are others than 0 and 1, such as classes; it may learn without.

    Returns:
        A new mapping; keys of other names stay.
    """
    out = {name: value for name, value in parts.items() if name not in key_map and name not in key_map.values()}
    out |= {ours: parts[theirs] for ours, theirs in key_map.items() if theirs in parts}
    for ours, names in others.items():
        if ours in out or ours in key_map or (ours == "image" and (for_method or "snippet_features" in out)):
            continue
        image = out.get("image") if for_method else None
        fitting = (name for name in names if name in out and _has_form(ours, out[name], image, only_binary=for_method))
        if (name := next(fitting, None)) is not None:
            out[ours] = out.pop(name)
    return out


def _has_form(ours: str, value: Any, image: Any, *, only_binary: bool) -> bool:
    """Whether a value has the form of a key, so that other things of the same name are left alone."""
    if ours == "image_path":
        return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
    if isinstance(value, list | tuple) and not all(isinstance(each, bool | int | float) for each in value):
        return False
    try:
        value = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):  # strings, or whatever it is
        return False
    if isinstance(image, Tensor) and image.ndim == 4 and value.ndim:
        size = value.shape[-2:] if ours == "mask" else image.shape[2:]
        if len(value) != len(image) or size != image.shape[2:] or value.shape[1:-2] not in ((), (1,)):
            return False
    if ours in ("image", "mask", "anomaly_map", "pred_mask"):
        return value.ndim == 4 if ours == "image" else value.ndim in (3, 4)
    column = value.ndim == 1 or (value.ndim == 2 and value.shape[1] == 1)
    return column and (ours != "label" or not only_binary or bool(((value == 0) | (value == 1)).all()))


def checked_map(key_map: KeyMap | None, known: Sequence[str]) -> dict[str, str]:
    """A user's ``key_map``, our names first; given the other way round, it is turned.

    Args:
        key_map: For example ``{"label": "defect"}``; None is empty.
        known: Our names.

    Raises:
        ConfigError: no mapping of names, or one without a name of ours.
    """
    if key_map is None:
        return {}
    advice = 'Write for example {"label": "defect"} where your batches say defect.'
    if not isinstance(key_map, Mapping):
        raise ConfigError(f"key_map must map our names to yours; got {type(key_map).__name__}. {advice}")
    out: dict[str, str] = {}
    for first, second in key_map.items():
        ours, theirs = (first, second) if first in known or second not in known else (second, first)
        if ours not in known:
            raise ConfigError(
                f"key_map must map our names to yours; got {first!r}: {second!r}, and neither is one of {', '.join(known)}."
                f"{did_you_mean(str(first), known)} {advice}"
            )
        if not isinstance(theirs, str):
            raise ConfigError(f"key_map must map our names to yours; got {theirs!r} for {ours!r}. {advice}")
        out[ours] = theirs
    return out

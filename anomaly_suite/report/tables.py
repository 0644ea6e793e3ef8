"""Figures of a run by what they are of: all samples, a category, a loader; and what each means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

DEFINITIONS = {
    "mIoU": "Mean over classes of intersection over union: TP / (TP + FP + FN) of the pixels of a class.",
    "ECE": "Expected calibration error: mean over answers of the gap between confidence and share of correct answers in their bin.",
    "MCE": "Maximum calibration error: the largest gap between confidence and share of correct answers of a bin.",
    "SIoU": "Mean adjusted intersection over union of the anomalous objects.",
    "PPV": "Mean share of a predicted component that lies on anomalous objects.",
    "MeanF1": "F1 of components, averaged over the limits 0.25, 0.30, ..., 0.75.",
    "EER": "Equal error rate, where the false-positive and false-negative rates meet.",
    "AUROC": "Area under the ROC curve; ties count one half.",
}
"""Of metrics that ``metrics.json`` does not define."""

_MARKUP = re.compile(r":\w+:`~?([^`]*)`|``")
_LOADER = re.compile(r"/dataloader_idx_(\d+)$")


class Metric(NamedTuple):
    """Name and value of a figure, and what it is of."""

    name: str
    category: str
    """Empty for all together, ``mean`` for the mean over categories."""
    loader: str
    """Number of the loader; empty for all together."""
    value: float | None
    reason: str
    """Why it has no value."""


def metrics_of(section: Mapping[str, Any]) -> list[Metric]:
    """The figures of a section of ``metrics.json``, in its order, those without a value last.

    Args:
        section: With ``metrics`` and maybe ``undefined``.

    Example:
        >>> metrics_of({"metrics": {"bottle/image_AUROC/dataloader_idx_1": 0.9, "pooled/image_AUROC": 0.8}})
        [Metric(name='image_AUROC', category='bottle', loader='1', value=0.9, reason=''), Metric(name='image_AUROC', category='', loader='', value=0.8, reason='')]
    """
    found = [(key, value, "") for key, value in section.get("metrics", {}).items()]
    found += [(key, None, str(reason)) for key, reason in section.get("undefined", {}).items()]
    metrics = []
    for key, value, reason in found:
        loader = _LOADER.search(key)
        name = _LOADER.sub("", key).removeprefix("pooled/")
        category, _, name = name.rpartition("/")
        metrics.append(Metric(name, category, loader[1] if loader else "", value, reason))
    return metrics


def definition(name: str, known: Mapping[str, str]) -> str:
    """What a metric is, as far as it is known.

    Args:
        name: As logged, such as ``image_AUROC``.
        known: ``definitions`` of ``metrics.json``.
    """
    level, _, short = name.partition("_")
    if level == "IoU":
        return ""  # the mean over classes says it
    everything = {**DEFINITIONS, **known}
    words = next((everything[key] for key in (name, short, short.partition("_")[0]) if key in everything), "")
    return _MARKUP.sub(lambda found: found[1] or "", words)

"""Thresholds from the scores of a validation, which false-positive rate to expect of them, and one sentence about both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch

from anomaly_suite.metrics.state import Curve

CurveRule = Literal["max_f1", "youden", "quantile", "gumbel"]
"""Rules that read scores."""


def choose_threshold(curve: Curve, rule: CurveRule, quantile: float) -> float:
    """Threshold at and above which a score is called anomalous.

    Args:
        curve: Counts of anomalous and normal samples at every distinct score, from the highest down.
        rule: ``max_f1`` and ``youden`` (TPR - FPR) take the highest best threshold; ``quantile`` the lowest one that
            flags at most ``1 - quantile`` of the normal samples; ``gumbel`` the quantile of a Gumbel distribution with the mean
            and the standard deviation of the normal samples.
        quantile: Share of normal samples to leave unflagged; read only by the last two.

    Returns:
        A score that occurs, or for ``quantile`` the next number above the highest, when no score flags few enough; for ``gumbel``
        any number, or that next one where all normal samples have one score.
    """
    true, false, total, normal = curve.true, curve.false, curve.true[-1], curve.false[-1]
    if rule == "max_f1":
        return float(curve.threshold[(2 * true / (true + false + total)).argmax()])
    if rule == "youden":
        return float(curve.threshold[(true / total - false / normal).argmax()])
    if rule == "gumbel" and (threshold := _gumbel(curve, quantile)) is not None:
        return threshold
    allowed = int((false <= (1 - quantile) * normal + 1e-9).sum())  # the sum 1 - quantile is not exact
    if allowed and rule == "quantile":
        return float(curve.threshold[allowed - 1])
    highest = curve.threshold[0].float()  # scores are float32, their gathered copies are not
    return float(torch.nextafter(highest, highest.new_tensor(float("inf"))))


def _gumbel(curve: Curve, quantile: float) -> float | None:
    """Quantile of the Gumbel distribution by the method of moments; None without any spread.

    The score of an image is the largest of many local ones, or grows with it, and largest values follow this distribution. Its two
    moments use every normal sample, where a high quantile of a few is their maximum.
    """
    count = curve.false.diff(prepend=curve.false.new_zeros(1))
    score = curve.threshold.double()
    mean = (count * score).sum() / count.sum()
    square = (count * (score - mean).square()).sum()
    if not square > 0:
        return None
    scale = math.sqrt(6 * float(square) / max(float(count.sum()) - 1, 1)) / math.pi
    return float(mean) - scale * (0.5772156649015329 + math.log(-math.log(quantile)))  # Euler's constant


def expected_fpr(curve: Curve, rule: CurveRule | Literal["fixed"], threshold: float, quantile: float) -> float | None:
    """Share of further normal samples that the threshold will call anomalous; None without normal samples.

    ``gumbel`` promises ``1 - quantile``. For the others it is the chance of a new sample to be among the flagged ones, if it comes from
    where the n normal samples came from: k / (n + 1) where k of them are flagged, and 1 / (n + 1) where none is, for it may be the highest.
    """
    normal = float(curve.false[-1]) if len(curve.false) else 0.0
    if rule == "gumbel":
        return 1 - quantile
    if not normal:
        return None
    above = int((curve.threshold >= threshold).sum())
    return max(float(curve.false[above - 1]) if above else 0.0, 1.0) / (normal + 1)


def sentence(level: str, entry: Mapping[str, Any]) -> str:
    """What a threshold was fitted on and what to expect of it, for people.

    Args:
        level: Of what.
        entry: Its part of ``Calibration.record``.

    Example:
        >>> sentence("image", {"threshold": 4.25, "rule": "gumbel", "normal": 32, "anomalous": 0, "split": "holdout", "expected_fpr": 0.05})
        'image threshold 4.25 by gumbel from 32 normal and 0 anomalous images (validation: holdout); expect 5 % of normal images to be called anomalous'
    """
    unit = entry.get("unit", f"{level}s")
    words = f"{level} threshold {entry['threshold']:.6g} by {entry.get('rule', 'an unknown rule')}"
    loaders = f", {entry['loaders']} loaders together" if "loaders" in entry else ""
    if "normal" in entry:
        words += f" from {entry['normal']} normal and {entry.get('anomalous', 0)} anomalous {unit}"
    if "split" in entry:
        words += f" (validation: {entry['split']}{loaders})"
    if "expected_fpr" in entry:
        words += f"; expect {100 * entry['expected_fpr']:.3g} % of normal {unit} to be called anomalous"
    return words

"""Metrics that never transform a score: functions, and torchmetrics classes that merge across processes.

Image level: ``AUROC``, ``AP``, ``F1Max``, ``EER`` of scores; ``Accuracy``, ``Sensitivity``, ``Specificity`` of decisions.
Pixel level: the same of maps with ``exact=False`` (bounded memory, certified error), ``FPR95``, ``AUPRO``, ``IoUMax``,
``DiceMax``; ``IoU`` and ``Dice`` of decisions. One state can serve all pixel metrics::

    members = {"AUPRO": AUPRO(exact=False), "AUROC": AUROC(exact=False), "AP": AP(exact=False)}
    metrics = MetricCollection(members, compute_groups=[list(members)])  # AUPRO first
    metrics.update(anomaly_map, mask)
"""

from anomaly_suite.metrics.aupro import AUPRO, aupro
from anomaly_suite.metrics.decision import Accuracy, Dice, IoU, Sensitivity, Specificity, confusion
from anomaly_suite.metrics.ranking import (
    AP,
    AUROC,
    EER,
    FPR95,
    DiceMax,
    F1Max,
    IoUMax,
    auroc,
    average_precision,
    equal_error_rate,
    f1_max,
    fpr_at_tpr,
)

__all__ = [
    "AP",
    "AUPRO",
    "AUROC",
    "EER",
    "FPR95",
    "Accuracy",
    "Dice",
    "DiceMax",
    "F1Max",
    "IoU",
    "IoUMax",
    "Sensitivity",
    "Specificity",
    "aupro",
    "auroc",
    "average_precision",
    "confusion",
    "equal_error_rate",
    "f1_max",
    "fpr_at_tpr",
]

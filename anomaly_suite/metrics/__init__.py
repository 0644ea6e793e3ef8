"""Metrics that never transform a score: functions, and torchmetrics classes that merge across processes.

Image level: ``AUROC``, ``AP``, ``F1Max``, ``EER`` of scores; ``Accuracy``, ``Sensitivity``, ``Specificity`` of decisions.
Pixel level: the same of maps with ``exact=False`` (bounded memory, certified error), ``FPR95``, ``AUPRO``, ``IoUMax``,
``DiceMax``; ``IoU`` and ``Dice`` of decisions; ``MeanIoU`` of classes. Frame level: ``PRAUC`` and ``FAR`` too. Driving
scenes: the pixel metrics of :func:`scored_pixels` and their ``ImageMean``; ``SIoU``, ``PPV`` and ``MeanF1`` of objects. Probabilities: ``ECE`` and
``MCE``. One state can serve all pixel metrics::

    members = {"AUPRO": AUPRO(exact=False), "AUROC": AUROC(exact=False), "AP": AP(exact=False)}
    metrics = MetricCollection(members, compute_groups=[list(members)])  # AUPRO first
    metrics.update(anomaly_map, mask)
"""

from anomaly_suite.metrics.aupro import AUPRO, aupro
from anomaly_suite.metrics.calibration_error import ECE, MCE, expected_calibration_error, maximum_calibration_error
from anomaly_suite.metrics.components import PPV, MeanF1, SIoU, component_values
from anomaly_suite.metrics.decision import FAR, Accuracy, Dice, IoU, Sensitivity, Specificity, confusion
from anomaly_suite.metrics.frames import detection_scores, localised_scores, patch_frame_scores
from anomaly_suite.metrics.image_mean import ImageMean
from anomaly_suite.metrics.ranking import (
    AP,
    AUROC,
    EER,
    FPR95,
    PRAUC,
    DiceMax,
    F1Max,
    IoUMax,
    auroc,
    average_precision,
    equal_error_rate,
    f1_max,
    fpr_at_tpr,
    precision_recall_area,
)
from anomaly_suite.metrics.scored import scored_pixels
from anomaly_suite.metrics.segmentation import MeanIoU, confusion_matrix, intersection_over_union

__all__ = [
    "AP",
    "AUPRO",
    "AUROC",
    "ECE",
    "EER",
    "FAR",
    "FPR95",
    "MCE",
    "PPV",
    "PRAUC",
    "Accuracy",
    "Dice",
    "DiceMax",
    "F1Max",
    "ImageMean",
    "IoU",
    "IoUMax",
    "MeanF1",
    "MeanIoU",
    "SIoU",
    "Sensitivity",
    "Specificity",
    "aupro",
    "auroc",
    "average_precision",
    "component_values",
    "confusion",
    "confusion_matrix",
    "detection_scores",
    "equal_error_rate",
    "expected_calibration_error",
    "f1_max",
    "fpr_at_tpr",
    "intersection_over_union",
    "localised_scores",
    "maximum_calibration_error",
    "patch_frame_scores",
    "precision_recall_area",
    "scored_pixels",
]

from __future__ import annotations

import pytest

from anomaly_suite.report.tables import Metric, definition, metrics_of


def test_names_say_what_a_figure_is_of() -> None:
    found = metrics_of(
        {
            "metrics": {"mIoU": 0.5, "a/b/image_AP": 0.6, "mean/image_AP": 0.7, "IoU_road/dataloader_idx_12": 0.8},
            "undefined": {"pooled/image_AP": "AP needs both labels."},
        }
    )
    assert found == [
        Metric("mIoU", "", "", 0.5, ""),
        Metric("image_AP", "a/b", "", 0.6, ""),
        Metric("image_AP", "mean", "", 0.7, ""),
        Metric("IoU_road", "", "12", 0.8, ""),
        Metric("image_AP", "", "", None, "AP needs both labels."),
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("image_AUROC", "Known here."),
        ("frame_AUROC_inside", "Of those inside."),
        ("frame_EER_localised", "Equal error rate, where the false-positive and false-negative rates meet."),
        ("IoU_road", ""),
        ("SIoU", "Mean adjusted intersection over union of the anomalous objects."),
        ("image_FPR95", "At least tpr, see it."),
        ("image_Brier", ""),
    ],
)
def test_definitions(name: str, words: str) -> None:
    known = {"AUROC": "Known here.", "AUROC_inside": "Of those inside.", "FPR95": "At least ``tpr``, see :func:`~it`."}
    assert definition(name, known) == words

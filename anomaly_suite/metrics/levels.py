"""Which metric exists at which level, by the names that are logged.

A metric of the ``RANKING`` needs scores, one of the ``THRESHOLDED`` decisions. ``Accuracy`` and the like of frames are left out,
since no threshold of frames is calibrated; ``AUPRO`` needs regions, so masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from anomaly_suite.errors import ConfigError, did_you_mean

LevelOption = Literal["image", "pixel", "ood", "video", "frame"]
"""Options of ``AnomalyMetrics``, one per level; ``ood`` are the pixels of driving scenes."""

CURVE = ("AUROC", "AP", "F1Max", "FPR95", "EER", "PRAUC")
"""Values of the ranking of scores, at every level."""

RANKING = ("AUROC", "AP", "F1Max", "FPR95", "EER", "IoUMax", "DiceMax", "AUPRO", "PRAUC")
THRESHOLDED = ("Accuracy", "Sensitivity", "Specificity", "IoU", "Dice")

INSIDE = "inside"
"""Of the frames of anomalous videos alone."""

ORACLE = "oracle"
"""Of the label of the whole video, used as the score of all its frames."""

PER_IMAGE = "per_image"
"""Mean over driving scenes of the metric of each scene alone."""

OF_IMAGE = ("AUROC", "AP", "FPR95")

KNOWN: dict[LevelOption, tuple[str, ...]] = {
    "image": (*RANKING, *THRESHOLDED),
    "pixel": (*RANKING, *THRESHOLDED),
    "ood": (*CURVE, "IoUMax", "DiceMax", *(f"{name}_{PER_IMAGE}" for name in OF_IMAGE)),
    "video": (*RANKING, *THRESHOLDED),
    "frame": (*CURVE, "FAR", *(f"{name}_{scope}" for scope in (INSIDE, ORACLE) for name in CURVE)),
}


def check_names(level: LevelOption, names: Sequence[str]) -> None:
    """Check the metrics that are wanted of a level.

    Raises:
        ConfigError: one that the level does not have.
    """
    for name in names:
        if name not in KNOWN[level]:
            raise ConfigError(
                f"{level} has no metric {name!r}; known are {', '.join(KNOWN[level])}.{did_you_mean(name, KNOWN[level])}"
            )

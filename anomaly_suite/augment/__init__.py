"""Augmentations: structure-breaking copies, strong ones whose number can be told, weak ones that keep what is normal.

A file of it is one kind. All draws of a batch are vectorised, and come from a generator, or from the images themselves.
"""

from anomaly_suite.augment.structural import (
    CUT_SHARE,
    MIX_SHARE,
    Operation,
    Share,
    cut_paste,
    mix_up,
    pseudo_anomaly,
    puzzle,
    rotate90,
    rotate270,
)

__all__ = [
    "CUT_SHARE",
    "MIX_SHARE",
    "Operation",
    "Share",
    "cut_paste",
    "mix_up",
    "pseudo_anomaly",
    "puzzle",
    "rotate90",
    "rotate270",
]

"""Driving scenes: a segmentation network knows the classes of its training scenes; asked at test time is which pixels belong to none.

A method may train on the classes alone, fine-tune with pasted outlier objects, or only read the outputs of a trained network.
The family's data are under ``anomaly_suite.data.scenes``: methods are named after what they detect, data after what it is.
"""

from anomaly_suite.methods.pixel_ood.deep_gamblers import DeepGamblers
from anomaly_suite.methods.pixel_ood.deeplab_v3_plus import DeepLabV3Plus
from anomaly_suite.methods.pixel_ood.entropy_maximisation import EntropyMaximisation
from anomaly_suite.methods.pixel_ood.pebal import PEBAL
from anomaly_suite.methods.pixel_ood.post_hoc_score import PostHocScore

__all__ = ["PEBAL", "DeepGamblers", "DeepLabV3Plus", "EntropyMaximisation", "PostHocScore"]

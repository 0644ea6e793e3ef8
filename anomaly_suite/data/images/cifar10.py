"""CIFAR-10: ten kinds of objects, 32 x 32, colour; one is normal, the others are anomalous."""

from __future__ import annotations

from anomaly_suite.data.images.torchvision_sets import TorchvisionOneVsRest


class CIFAR10(TorchvisionOneVsRest):
    """CIFAR-10: ten kinds of objects, 32 x 32, colour; one is normal, the others are anomalous.

    5,000 training and 1,000 test images per class. Every file's checksum is verified. Options are those of
    :class:`~anomaly_suite.data.images.torchvision_sets.TorchvisionOneVsRest`.
    """

    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    picture_shape = (3, 32, 32)
    folder = "cifar10"
    marker = "cifar-10-batches-py/data_batch_1"

"""MNIST: ten handwritten digits, 28 x 28, grey; one is normal, the others are anomalous."""

from __future__ import annotations

from anomaly_suite.data.images.torchvision_sets import TorchvisionOneVsRest


class MNIST(TorchvisionOneVsRest):
    """MNIST: ten handwritten digits, 28 x 28, grey; one is normal, the others are anomalous.

    60,000 training and 10,000 test images. Options are those of
    :class:`~anomaly_suite.data.images.torchvision_sets.TorchvisionOneVsRest`.
    """

    classes = tuple("0123456789")
    picture_shape = (1, 28, 28)
    folder = "mnist"
    marker = "MNIST/raw/train-images-idx3-ubyte"

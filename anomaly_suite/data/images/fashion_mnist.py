"""Fashion-MNIST: ten kinds of clothes, 28 x 28, grey; one is normal, the others are anomalous."""

from __future__ import annotations

from anomaly_suite.data.images.torchvision_sets import TorchvisionOneVsRest


class FashionMNIST(TorchvisionOneVsRest):
    """Fashion-MNIST: ten kinds of clothes, 28 x 28, grey; one is normal, the others are anomalous.

    6,000 training and 1,000 test images per class. Options are those of
    :class:`~anomaly_suite.data.images.torchvision_sets.TorchvisionOneVsRest`.
    """

    classes = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
    picture_shape = (1, 28, 28)
    folder = "fashion_mnist"
    marker = "FashionMNIST/raw/train-images-idx3-ubyte"

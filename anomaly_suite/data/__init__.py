"""Data modules: each yields checked batches of one benchmark, with splits decided by its seed."""

from anomaly_suite.data.images.cifar10 import CIFAR10
from anomaly_suite.data.images.digits import Digits
from anomaly_suite.data.images.fashion_mnist import FashionMNIST
from anomaly_suite.data.images.folder import Folder
from anomaly_suite.data.images.mnist import MNIST
from anomaly_suite.data.images.mvtec_ad import MVTecAD
from anomaly_suite.data.synthetic import SyntheticTextures, SyntheticVideos

__all__ = ["CIFAR10", "MNIST", "Digits", "FashionMNIST", "Folder", "MVTecAD", "SyntheticTextures", "SyntheticVideos"]

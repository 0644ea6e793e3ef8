"""Normal images at training time; at test time, whether an image is normal."""

from anomaly_suite.methods.one_class.adacl import ADACL
from anomaly_suite.methods.one_class.deep_svdd import DeepSVDD
from anomaly_suite.methods.one_class.padim import PaDiM

__all__ = ["ADACL", "DeepSVDD", "PaDiM"]

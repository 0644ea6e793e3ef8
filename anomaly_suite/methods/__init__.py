"""Detectors."""

from anomaly_suite.methods.one_class import ADACL, DeepSVDD, PaDiM
from anomaly_suite.methods.reconstruction import DAE, VAE

__all__ = ["ADACL", "DAE", "VAE", "DeepSVDD", "PaDiM"]

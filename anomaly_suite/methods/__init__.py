"""Detectors."""

from anomaly_suite.methods.one_class import ADACL, IGD, DeepSVDD, PaDiM, StudentTeacher
from anomaly_suite.methods.pretraining import KnowledgeDistillation
from anomaly_suite.methods.reconstruction import DAE, VAE, FAnoGAN, MSSSIMAutoencoder
from anomaly_suite.methods.weak_video import DeepMIL

__all__ = [
    "ADACL",
    "DAE",
    "IGD",
    "VAE",
    "DeepMIL",
    "DeepSVDD",
    "FAnoGAN",
    "KnowledgeDistillation",
    "MSSSIMAutoencoder",
    "PaDiM",
    "StudentTeacher",
]

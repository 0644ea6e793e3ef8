"""Detectors."""

from anomaly_suite.methods.one_class import ADACL, IGD, CutPaste, DeepSVDD, PaDiM, StudentTeacher
from anomaly_suite.methods.pixel_ood import PEBAL, DeepGamblers, DeepLabV3Plus, EntropyMaximisation, PostHocScore
from anomaly_suite.methods.pretraining import KnowledgeDistillation
from anomaly_suite.methods.reconstruction import DAE, VAE, FAnoGAN, MSSSIMAutoencoder
from anomaly_suite.methods.weak_video import CTMIL, RTFM, DeepMIL

__all__ = [
    "ADACL",
    "CTMIL",
    "DAE",
    "IGD",
    "PEBAL",
    "RTFM",
    "VAE",
    "CutPaste",
    "DeepGamblers",
    "DeepLabV3Plus",
    "DeepMIL",
    "DeepSVDD",
    "EntropyMaximisation",
    "FAnoGAN",
    "KnowledgeDistillation",
    "MSSSIMAutoencoder",
    "PaDiM",
    "PostHocScore",
    "StudentTeacher",
]

"""Detectors."""

from anomaly_suite.methods.one_class import ADACL, IGD, CutPaste, DeepSVDD, PaDiM, StudentTeacher
from anomaly_suite.methods.pixel_ood import PEBAL, DeepGamblers, DeepLabV3Plus, EntropyMaximisation, PostHocScore
from anomaly_suite.methods.pretraining import CCD, CSI, DROC, PMSACL, KnowledgeDistillation, RotNet, SimCLR, SupCon
from anomaly_suite.methods.reconstruction import ALPS, DAE, VAE, FAnoGAN, MSSSIMAutoencoder
from anomaly_suite.methods.weak_video import CTMIL, RTFM, DeepMIL

__all__ = [
    "ADACL",
    "ALPS",
    "CCD",
    "CSI",
    "CTMIL",
    "DAE",
    "DROC",
    "IGD",
    "PEBAL",
    "PMSACL",
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
    "RotNet",
    "SimCLR",
    "StudentTeacher",
    "SupCon",
]

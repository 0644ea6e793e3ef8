"""Detectors."""

from anomaly_suite.methods.few_shot import FSADNet, LearningToReweight, SupervisedHead
from anomaly_suite.methods.one_class import ADACL, IGD, PANDA, CutPaste, DeepSVDD, FeatureDensity, PaDiM, StudentTeacher
from anomaly_suite.methods.pixel_ood import PEBAL, DeepGamblers, DeepLabV3Plus, EntropyMaximisation, PostHocScore
from anomaly_suite.methods.pretraining import CCD, CSI, DROC, PMSACL, KnowledgeDistillation, RotNet, SimCLR, SupCon
from anomaly_suite.methods.reconstruction import (
    ADGAN,
    ALPS,
    DAE,
    OCGAN,
    VAE,
    FAnoGAN,
    MemAE,
    MemMCMAE,
    MSSSIMAutoencoder,
)
from anomaly_suite.methods.weak_video import CLAWS, CTMIL, MIST, RTFM, URDMU, ARNet, DeepMIL, GCNAnomaly

__all__ = [
    "ADACL",
    "ADGAN",
    "ALPS",
    "CCD",
    "CLAWS",
    "CSI",
    "CTMIL",
    "DAE",
    "DROC",
    "IGD",
    "MIST",
    "OCGAN",
    "PANDA",
    "PEBAL",
    "PMSACL",
    "RTFM",
    "URDMU",
    "VAE",
    "ARNet",
    "CutPaste",
    "DeepGamblers",
    "DeepLabV3Plus",
    "DeepMIL",
    "DeepSVDD",
    "EntropyMaximisation",
    "FAnoGAN",
    "FSADNet",
    "FeatureDensity",
    "GCNAnomaly",
    "KnowledgeDistillation",
    "LearningToReweight",
    "MSSSIMAutoencoder",
    "MemAE",
    "MemMCMAE",
    "PaDiM",
    "PostHocScore",
    "RotNet",
    "SimCLR",
    "StudentTeacher",
    "SupCon",
    "SupervisedHead",
]

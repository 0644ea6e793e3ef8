"""Images without labels at training time, for an encoder that other methods take; at test time, whether an image is like them."""

from anomaly_suite.methods.pretraining.ccd import CCD
from anomaly_suite.methods.pretraining.csi import CSI
from anomaly_suite.methods.pretraining.droc import DROC
from anomaly_suite.methods.pretraining.knowledge_distillation import KnowledgeDistillation
from anomaly_suite.methods.pretraining.pmsacl import PMSACL
from anomaly_suite.methods.pretraining.rot_net import RotNet
from anomaly_suite.methods.pretraining.sim_clr import SimCLR
from anomaly_suite.methods.pretraining.sup_con import SupCon

__all__ = ["CCD", "CSI", "DROC", "PMSACL", "KnowledgeDistillation", "RotNet", "SimCLR", "SupCon"]

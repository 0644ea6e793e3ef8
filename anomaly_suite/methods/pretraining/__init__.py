"""Images without labels at training time, for an encoder that other methods take; at test time, whether an image is like them."""

from anomaly_suite.methods.pretraining.ccd import CCD
from anomaly_suite.methods.pretraining.knowledge_distillation import KnowledgeDistillation

__all__ = ["CCD", "KnowledgeDistillation"]

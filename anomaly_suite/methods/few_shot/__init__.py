"""Normal images and a few labelled anomalies at training time; at test time, whether an image is anomalous."""

from anomaly_suite.methods.few_shot.fsad_net import FSADNet
from anomaly_suite.methods.few_shot.learning_to_reweight import LearningToReweight
from anomaly_suite.methods.few_shot.supervised_head import SupervisedHead

__all__ = ["FSADNet", "LearningToReweight", "SupervisedHead"]

"""DeepLabv3+ for driving scenes: two kinds of trunk, ASPP, the whole network, and its tensors in files."""

from anomaly_suite.nn.deeplab.aspp import ASPP
from anomaly_suite.nn.deeplab.dilated import DilatedFeatures
from anomaly_suite.nn.deeplab.network import DeepLabNetwork, TrunkMode
from anomaly_suite.nn.deeplab.wide_resnet38 import PreActivationBlock, WideResNet38

__all__ = ["ASPP", "DeepLabNetwork", "DilatedFeatures", "PreActivationBlock", "TrunkMode", "WideResNet38"]

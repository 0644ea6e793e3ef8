"""Normal images at training time; at test time, whether an image is normal."""

from anomaly_suite.methods.one_class.adacl import ADACL
from anomaly_suite.methods.one_class.cut_paste import CutPaste
from anomaly_suite.methods.one_class.deep_svdd import DeepSVDD
from anomaly_suite.methods.one_class.feature_density import FeatureDensity
from anomaly_suite.methods.one_class.igd import IGD
from anomaly_suite.methods.one_class.padim import PaDiM
from anomaly_suite.methods.one_class.panda import PANDA
from anomaly_suite.methods.one_class.student_teacher import StudentTeacher

__all__ = ["ADACL", "IGD", "PANDA", "CutPaste", "DeepSVDD", "FeatureDensity", "PaDiM", "StudentTeacher"]

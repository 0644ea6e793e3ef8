"""What happens with predictions: thresholds, metrics, pictures, plots and tables; for any Lightning trainer."""

from anomaly_suite.callbacks.anomaly_metrics import AnomalyMetrics
from anomaly_suite.callbacks.calibrate import Calibrate
from anomaly_suite.callbacks.component_metrics import ComponentMetrics
from anomaly_suite.callbacks.heatmaps import HeatmapExport
from anomaly_suite.callbacks.plots import ScorePlots
from anomaly_suite.callbacks.score_curves import ScoreCurves
from anomaly_suite.callbacks.segmentation_metrics import SegmentationMetrics
from anomaly_suite.callbacks.table import ScoreTable

__all__ = [
    "AnomalyMetrics",
    "Calibrate",
    "ComponentMetrics",
    "HeatmapExport",
    "ScoreCurves",
    "ScorePlots",
    "ScoreTable",
    "SegmentationMetrics",
]

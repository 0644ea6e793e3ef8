"""What happens with predictions: thresholds, metrics, pictures, plots and tables; for any Lightning trainer."""

from anomaly_suite.callbacks.base import StageCallback, Step
from anomaly_suite.callbacks.benchmark_maps import BenchmarkMaps
from anomaly_suite.callbacks.calibrate import Calibrate
from anomaly_suite.callbacks.embedding_plot import EmbeddingPlot
from anomaly_suite.callbacks.heatmaps import HeatmapExport
from anomaly_suite.callbacks.metrics import (
    AnomalyMetrics,
    ComponentMetrics,
    FrameMetrics,
    LocalisationMetrics,
    SegmentationMetrics,
)
from anomaly_suite.callbacks.plots import ScorePlots
from anomaly_suite.callbacks.reconstruction_panel import ReconstructionPanel
from anomaly_suite.callbacks.run_folder import RunFolder
from anomaly_suite.callbacks.score_curves import ScoreCurves
from anomaly_suite.callbacks.split_table import SplitTable
from anomaly_suite.callbacks.summary import PredictionSummary
from anomaly_suite.callbacks.table import ScoreTable
from anomaly_suite.callbacks.tiles import TiledPrediction

__all__ = [
    "AnomalyMetrics",
    "BenchmarkMaps",
    "Calibrate",
    "ComponentMetrics",
    "EmbeddingPlot",
    "FrameMetrics",
    "HeatmapExport",
    "LocalisationMetrics",
    "PredictionSummary",
    "ReconstructionPanel",
    "RunFolder",
    "ScoreCurves",
    "ScorePlots",
    "ScoreTable",
    "SegmentationMetrics",
    "SplitTable",
    "StageCallback",
    "Step",
    "TiledPrediction",
]

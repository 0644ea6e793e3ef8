"""Moved to ``anomaly_suite.features``."""

from anomaly_suite.features.decode import WHOLE, read_clips
from anomaly_suite.features.extract import Extraction, extract
from anomaly_suite.features.find import find_videos
from anomaly_suite.features.networks import CROPS, Network, Precision, build_network, crop_clips
from anomaly_suite.features.record import RECORD, TABLE, Counts
from anomaly_suite.io.videos import Pixels, open_video

__all__ = [
    "CROPS",
    "RECORD",
    "TABLE",
    "WHOLE",
    "Counts",
    "Extraction",
    "Network",
    "Pixels",
    "Precision",
    "build_network",
    "crop_clips",
    "extract",
    "find_videos",
    "open_video",
    "read_clips",
]

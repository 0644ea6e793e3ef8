"""Moved to the modules beside this one."""

from anomaly_suite.data.videos.datasets import BalancedBags, WholeVideos
from anomaly_suite.data.videos.feature_files import Layout, Video, open_array, open_features, read_video, snippets_of
from anomaly_suite.data.videos.frame_truth import LengthRule, fit_length, snippet_slack
from anomaly_suite.data.videos.module import VideoFeatures, check_videos
from anomaly_suite.data.videos.scale import Scale

__all__ = [
    "BalancedBags",
    "Layout",
    "LengthRule",
    "Scale",
    "Video",
    "VideoFeatures",
    "WholeVideos",
    "check_videos",
    "fit_length",
    "open_array",
    "open_features",
    "read_video",
    "snippet_slack",
    "snippets_of",
]

"""Moved to ``anomaly_suite.contract``."""

from anomaly_suite.contract.videos import (
    SEGMENTS,
    SNIPPET_FRAMES,
    frame_scores,
    pool_segments,
    snippet_count,
)

__all__ = ["SEGMENTS", "SNIPPET_FRAMES", "frame_scores", "pool_segments", "snippet_count"]

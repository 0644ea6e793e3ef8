"""Moved to ``anomaly_suite.contract``."""

from anomaly_suite.contract.videos import (  # noqa: F401
    SEGMENTS,
    SNIPPET_FRAMES,
    frame_scores,
    pool_segments,
    snippet_count,
)

"""Parts of a video data set as the tests read them."""

from __future__ import annotations

from anomaly_suite.contract import Batch
from anomaly_suite.data.videos.features import VideoFeatures, WholeVideos


def parts(data: VideoFeatures) -> tuple[WholeVideos, WholeVideos]:
    """Training and test videos."""
    data.setup()
    assert data.splits is not None
    assert isinstance(data.splits.train, WholeVideos)
    assert isinstance(data.splits.test, WholeVideos)
    return data.splits.train, data.splits.test


def everything(part: WholeVideos) -> Batch:
    """All videos of a part in one batch."""
    return part.batch(list(range(len(part))))

"""Metrics of whole videos and of their frames."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from anomaly_suite.callbacks.metrics.image import ImageLevel
from anomaly_suite.callbacks.metrics.level import Level, Update
from anomaly_suite.contract import Batch, Prediction
from anomaly_suite.metrics.checks import check_shapes
from anomaly_suite.metrics.levels import INSIDE, ORACLE

FALSE_ALARM = 0.5  # a frame above it counts in FAR, as in the DeepMIL paper


class VideoLevel(ImageLevel):
    """One score and one label per video, logged as ``video_AUROC`` and so on."""

    option = "video"
    logged = "video"
    unit = "videos"

    def expected(self, read: Collection[str], *, testing: bool) -> bool:
        """Whether there were videos; those whose frames are labelled need no label of the whole."""
        return "snippet_features" in read and ("label" in read or "frame_label" not in read)

    def takes(self, prediction: Prediction, batch: Batch) -> bool:
        """Whether the batch holds labelled videos."""
        return "anomaly_score" in prediction and "label" in batch and "snippet_features" in batch


class FrameLevel(Level):
    """Frames of all videos together, every frame counting the same, logged as ``frame_AUROC`` and so on."""

    option = "frame"
    logged = "frame"
    score = "frame_score"
    truth = "frame_label"
    notes = {
        INSIDE: "Of the frames of anomalous videos alone.",
        ORACLE: "Of the label of the whole video, used as the score of all its frames.",
        "FAR": f"Of the frames of normal videos; those with a score above {FALSE_ALARM} are called anomalous.",
    }

    def expected(self, read: Collection[str], *, testing: bool) -> bool:
        """Whether half of it is there; the truth of frames is known of tests, not of what a method learns from or is tuned on."""
        return super().expected(read, testing=testing) and (testing or self.truth in read)

    def updates(self, prediction: Prediction, batch: Batch) -> Iterator[Update]:
        """Scores of frames; with the labels of videos also inside anomalous ones, the oracle's, and false alarms."""
        if "frame_score" not in prediction or "frame_label" not in batch:
            return
        score, truth = prediction["frame_score"].detach(), batch["frame_label"]
        check_shapes(score, truth)
        yield from self.scores(score, truth)
        if "label" in batch and "frame_count" in batch:
            anomalous = batch["label"].bool().repeat_interleave(batch["frame_count"])  # F, the label of a frame's video
            yield from self.scores(score[anomalous], truth[anomalous], scope=INSIDE)
            yield from self.scores(anomalous.byte(), truth, scope=ORACLE)
            yield from self.decisions(score > FALSE_ALARM, anomalous)

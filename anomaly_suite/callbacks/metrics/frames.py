"""Metrics of the frames of clips whose patches, or which as a whole, are scored: ``test/frame_AUROC`` and so on.

Axes: N images of a batch, F frames.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from anomaly_suite.callbacks.base import of_data
from anomaly_suite.callbacks.metrics.result_file import FILENAME, begin_result, log_values, write_section
from anomaly_suite.callbacks.processes import gather_by_loader, shared_by_all
from anomaly_suite.callbacks.reading import Reader, loader_of
from anomaly_suite.callbacks.writing import WritesFiles
from anomaly_suite.contract import VARIANTS, FrameTruth, KeyMap
from anomaly_suite.errors import MetricUndefinedError
from anomaly_suite.metrics.frames import DETECTED_SHARE, detection_scores, localised_scores, patch_frame_scores
from anomaly_suite.metrics.ranking import auroc, equal_error_rate
from anomaly_suite.options import ChecksOptions

log = logging.getLogger(__name__)

RANKED = {"AUROC": auroc, "EER": equal_error_rate}


class FrameMetrics(ChecksOptions, WritesFiles):
    """AUROC and EER of frames, by their highest score and by the pixel-level criterion, and of the patches themselves.

    A data module whose images are frames or parts of frames says what is known of all frames (``frames``), and its batches say the ``frame``
    of each image; without them nothing is done. A frame is scored by the highest of its patches, one without any by the smallest score of
    its clip. Logged are ``frame_AUROC`` and ``frame_EER``; with masks ``frame_AUROC_localised`` and ``frame_EER_localised``, for which an
    anomalous frame counts as found where a share of its anomalous pixels is; and ``patch_AUROC`` and ``patch_EER`` where patches are
    labelled. A method with several scores has each of these also of every one of them (``frame_AUROC_clean``).

    Args:
        detected_share: Of the anomalous pixels of a frame that must be found, in (0, 1].
        filename: Name of the result file in the run folder; the values are its section ``frames``.
        key_map: Our names of keys, and what other loaders and modules call them.

    Raises:
        ConfigError: a share out of range, or a ``key_map`` that cannot be.
    """

    def __init__(
        self, *, detected_share: float = DETECTED_SHARE, filename: str = FILENAME, key_map: KeyMap | None = None
    ) -> None:
        self.detected_share = detected_share
        self.filename = filename
        self._reader = Reader(key_map)
        self._reset()

    def _reset(self) -> None:
        self._reader.begin()
        self._names: list[str] = []
        self._rows: dict[int, list[tuple[float, ...]]] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last test."""
        begin_result(trainer, self.filename)
        self._reset()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Keep a few numbers of each image: its frame, label and anomalous pixels, and its scores."""
        if (read := self._reader.read(outputs, batch, loader_of(args))) is None:
            return
        prediction, known = read
        if "frame" not in known or "anomaly_score" not in prediction:
            return
        score = prediction["anomaly_score"].detach().double().cpu()
        columns = {"frame": known["frame"].double().cpu(), "": score}
        for name in VARIANTS:
            if f"{name}_score" in prediction:
                columns[name] = prediction[f"{name}_score"].detach().double().cpu()  # type: ignore[literal-required]
        for name in ("label", "area"):
            columns[f"its {name}"] = known[name].double().cpu() if name in known else torch.full_like(score, -1)  # type: ignore[literal-required]
        if "anomaly_map" in prediction and "mask" in known:
            anomaly_map = prediction["anomaly_map"].detach().float().cpu()
            columns["its map"] = detection_scores(anomaly_map, known["mask"].cpu(), share=self.detected_share).double()
        self._names = list(columns)
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        self._rows.setdefault(max(0, loader_of(args)), []).extend(rows)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log and write the result file."""
        names = next(filter(None, shared_by_all(trainer, [tuple(self._names)])), ())
        by_loader = gather_by_loader(trainer, "test", self._rows)  # every process takes part
        self._rows = {}
        truth: FrameTruth | None = of_data(trainer, "frames", None)
        if not by_loader:
            return
        if truth is None or len(by_loader) > 1:
            log.warning(
                "FrameMetrics needs the data module's truth of frames and one loader; got %s and %d loaders. Test with datamodule=UCSDPed(...).",
                "none" if truth is None else "it",
                len(by_loader),
            )
            return
        table = torch.tensor(next(iter(by_loader.values())), dtype=torch.float64)
        values, undefined = self._values(dict(zip(names, table.unbind(1), strict=True)), truth)
        for name, reason in undefined.items():
            log.warning("test has no %s: %s", name, reason)
        log_values(pl_module, {f"test/{name}": value for name, value in values.items()})
        content = {
            "metrics": values,
            "undefined": undefined,
            "data": {"frames": len(truth.clip), "anomalous": int(truth.label.sum()), "scored_images": len(table)},
            "without_images": len(truth.clip) - len(set(table[:, 0].tolist())),
            "detected_share": self.detected_share,
        }
        write_section(trainer, pl_module, self.filename, "frames", content)

    def _values(self, columns: dict[str, Tensor], truth: FrameTruth) -> tuple[dict[str, float], dict[str, str]]:
        """Metrics by name, and reasons of those that have no value."""
        values: dict[str, float] = {}
        undefined: dict[str, str] = {}
        frame = columns["frame"].long()
        whole = len(frame) == len(truth.clip) == len(set(frame.tolist())) and bool((columns["its area"] < 0).all())

        def rank(name: str, scope: str, score: Tensor, label: Tensor) -> None:
            for metric, function in RANKED.items():
                logged = f"{name}_{metric}" + f"_{scope}" * bool(scope)
                try:
                    values[logged] = float(function(score, label))
                except MetricUndefinedError as error:
                    undefined[logged] = str(error)

        for scope in ("", *VARIANTS):
            if scope not in columns:
                continue
            score = columns[scope]
            rank("frame", scope, patch_frame_scores(score, frame, truth.clip), truth.label)
            if not whole and bool((columns["its label"] >= 0).all()):
                rank("patch", scope, score, columns["its label"].long())
            if truth.area is not None and bool((columns["its area"] >= 0).all()):
                found = localised_scores(
                    score, frame, columns["its area"], truth.clip, truth.area, share=self.detected_share
                )
                rank("frame", "_".join(filter(None, ("localised", scope))), found, truth.label)
        if whole and "its map" in columns:
            rank("frame", "localised", patch_frame_scores(columns["its map"], frame, truth.clip), truth.label)
        return values, undefined

"""Localisation in groups of anomalous images, logged as ``test/localisation_IoU`` and so on; such a test adds a section to ``metrics.json``.

Axes: N images, H and W pixels.
"""

from __future__ import annotations

import logging
import statistics
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from anomaly_suite.callbacks.metrics.result_file import FILENAME, begin_result, log_values, write_section
from anomaly_suite.callbacks.processes import shared_by_all
from anomaly_suite.callbacks.reading import Reader, loader_of
from anomaly_suite.callbacks.writing import WritesFiles
from anomaly_suite.contract import KeyMap
from anomaly_suite.errors import MetricUndefinedError
from anomaly_suite.metrics.aupro import AUPRO
from anomaly_suite.options import ChecksOptions

log = logging.getLogger(__name__)

OVERLAPS = ("IoU", "Dice")


class LocalisationMetrics(ChecksOptions, WritesFiles):
    """Mean and spread over groups of anomalous images: IoU and Dice of the decided pixels, averaged over the images of a group, and AUPRO.

    The groups are those of the data module (``localisation_groups``), whose batches say the ``group`` of every image, from 1; without them
    nothing is done. The spread (``localisation_IoU_std``) is the standard deviation of a sample. IoU and Dice need a calibrated threshold of
    pixels. Images whose mask marks nothing do not count.

    Args:
        filename: Name of the result file in the run folder; the values, also those of each group, are its section ``localisation``.
        key_map: Our names of keys, and what other loaders and modules call them.

    Raises:
        ConfigError: a ``key_map`` that cannot be.
    """

    def __init__(self, *, filename: str = FILENAME, key_map: KeyMap | None = None) -> None:
        self.filename = filename
        self._reader = Reader(key_map)
        self._reset()

    def _reset(self) -> None:
        self._reader.begin()
        self._sums: dict[int, Tensor] = {}  # by group: images, those with decisions, sums of IoU and Dice
        self._regions: dict[int, AUPRO] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last test."""
        begin_result(trainer, self.filename)
        self._reset()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Update the groups of the batch."""
        if (read := self._reader.read(outputs, batch, loader_of(args))) is None:
            return
        prediction, known = read
        if "group" not in known or "mask" not in known or "anomaly_map" not in prediction:
            return
        anomaly_map = prediction["anomaly_map"].detach()
        mask = known["mask"].to(anomaly_map.device)
        group = known["group"].to(mask.device) * mask.flatten(1).any(1)
        decided = prediction.get("pred_mask")
        overlaps = None if decided is None else overlap(decided, mask)
        for number in sorted(set(group.tolist())):
            if number == 0:
                continue
            rows = group == number
            if number not in self._regions:
                self._regions[number] = AUPRO(exact=False).to(mask.device)
                self._sums[number] = torch.zeros(4, dtype=torch.float64, device=mask.device)
            self._regions[number].update(anomaly_map[rows], mask[rows])
            self._sums[number][0] += rows.sum()
            if overlaps is not None:
                self._sums[number][1] += rows.sum()
                self._sums[number][2:] += overlaps[rows].sum(0)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log and write the result file."""
        numbers = shared_by_all(trainer, list(self._sums))  # every process takes part
        if not numbers:
            return
        groups: dict[str, list[float]] = {}
        undefined: dict[str, str] = {}
        images: list[int] = []
        for number in numbers:
            mine = self._sums.get(number, torch.zeros(4, dtype=torch.float64)).to(pl_module.device)
            count, known, *sums = trainer.strategy.reduce(mine, reduce_op="sum").tolist()
            images.append(int(count))
            for name, total in zip(OVERLAPS, sums, strict=True):
                if known == count:
                    groups.setdefault(name, []).append(total / count)
                else:
                    undefined[name] = f"{name} needs pred_mask of the step: calibrate a threshold of pixels."
            regions = self._regions.get(number) or AUPRO(exact=False).to(pl_module.device)
            try:
                groups.setdefault("AUPRO", []).append(float(regions.compute()))
            except MetricUndefinedError as error:
                undefined["AUPRO"] = str(error)
        for name, reason in undefined.items():
            log.warning("test has no localisation_%s: %s", name, reason)
        values: dict[str, float] = {}
        for name, each in groups.items():
            if name not in undefined:
                values[name] = statistics.fmean(each)
                if len(each) > 1:
                    values[f"{name}_std"] = statistics.stdev(each)
        log_values(pl_module, {f"test/localisation_{name}": value for name, value in values.items()})
        content = {"metrics": values, "undefined": undefined, "groups": groups, "images": images}
        write_section(trainer, pl_module, self.filename, "localisation", content)


def overlap(decided: Tensor, mask: Tensor) -> Tensor:
    """IoU and Dice of each image.

    Args:
        decided: Bool, shape (N, 1, H, W).
        mask: Bool, the same shape; each marks something.

    Returns:
        float64, shape (N, 2).

    Example:
        >>> mask = torch.tensor([[[[True, True, False, False]]]])
        >>> overlap(torch.tensor([[[[False, True, True, False]]]]), mask)
        tensor([[0.3333, 0.5000]], dtype=torch.float64)
    """
    decided = decided.to(mask.device).bool()
    both = (decided & mask).flatten(1).sum(1).double()
    sizes = decided.flatten(1).sum(1) + mask.flatten(1).sum(1)
    return torch.stack([both / (sizes - both), 2 * both / sizes], 1)

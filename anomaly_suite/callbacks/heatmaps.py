"""HeatmapExport: what the method saw and marked, as one picture per image, and the raw map for other programs."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from anomaly_suite.callbacks.base import Stage, StageCallback, Step, calibration_of, of_data, output_folder
from anomaly_suite.callbacks.drawing import (
    TINY,
    Picture,
    color_table,
    displayed,
    enlarged,
    outlined,
    pixels,
    side_by_side,
)
from anomaly_suite.callbacks.reading import read_step
from anomaly_suite.codes import VOID
from anomaly_suite.contract import Batch, KeyMap, Prediction, check_key_map
from anomaly_suite.errors import ConfigError, NotFiniteError, ShapeError
from anomaly_suite.io.atomic import save_array, save_bytes, save_json
from anomaly_suite.io.naming import MirroredNames

UNSCORED_GREY = 96  # of truth masks
MIN_TILE_WIDTH = 128  # smaller images are enlarged by a whole factor, so that titles fit


class HeatmapExport(StageCallback):
    """Write a panel for each image of ``test`` and ``predict``, and show a few of them in the logger.

    A panel is image, truth mask (if the batch has one; of driving scenes, what is not scored is grey), map, overlay of both, and
    the contour of ``pred_mask`` (if calibrated). Images outside [0, 1], as other people's loaders standardise them, are stretched between their own smallest
    and largest value for display.

    Colours of the map: with a calibration for pixels they run from the smallest to the largest score seen when it was
    fitted, with the threshold in the middle of the colour scale; without, from the smallest to the largest score of the maps
    that this process has exported in this stage so far, the present batch included.

    Files: ``<folder>/<stage>/<name>.png`` and raw maps in ``<folder>/<stage>_raw``; names mirror the input tree and never
    coincide, see :class:`~anomaly_suite.io.naming.MirroredNames`. Every process writes its own images. Methods without
    maps write nothing.

    Args:
        folder: Where to write; ``heatmaps`` in the run's log folder if None.
        max_images: Images written per stage, the first ones over all processes; None writes all.
        panel: Whether to write panels.
        raw: Also write the map itself: ``npy`` as float32 of shape (H, W); ``png16`` as a 16-bit grey image beside a
            ``.json`` of the same name with the scores ``low`` and ``high`` of the values 0 and 65535, linear between.
        opacity: Weight of the map in the overlay, in [0, 1].
        colormap: A colour map of OpenCV or matplotlib, for example ``turbo`` or ``viridis``.
        log_images: Panels shown per test or validation pass in loggers that take images, such as TensorBoard's.
        key_map: Our names of keys, and what other loaders and modules call them.

    Raises:
        ConfigError: an unknown colour map, an opacity outside [0, 1] or a negative count.
        ShapeError: a map of another size than its image.
        NotFiniteError: ``png16`` and a map with NaN or infinity.
    """

    def __init__(
        self,
        *,
        folder: str | None = None,
        max_images: int | None = 100,
        panel: bool = True,
        raw: Literal["none", "png16", "npy"] = "none",
        opacity: float = 0.5,
        colormap: str = "turbo",
        log_images: int = 4,
        key_map: KeyMap | None = None,
    ) -> None:
        super().__init__()
        self.key_map = check_key_map(key_map)
        for name, count in (("max_images", max_images), ("log_images", log_images)):
            if count is not None and count < 0:
                raise ConfigError(f"{name} must be at least 0; got {count}. Use 0 to switch it off.")
        if not 0 <= opacity <= 1:
            raise ConfigError(f"opacity must lie in [0, 1]; got {opacity}. 0 shows the image alone, 1 the map alone.")
        self.folder = folder
        self.max_images = max_images
        self.panel = panel
        self.raw = raw
        self.opacity = opacity
        self.log_images = log_images
        self._colors = color_table(colormap)
        self._told = False
        self._restart()

    def _restart(self) -> None:
        self._written = self._logged = 0
        self._low, self._high = math.inf, -math.inf

    def begin(self, trainer: Trainer, stage: Stage) -> None:
        """Start the numbering, the names and the range anew."""
        self._restart()
        folder = output_folder(trainer, self.folder, "heatmaps")
        self._panel_folder, self._raw_folder = folder / stage, folder / f"{stage}_raw"
        root = of_data(trainer, "root", None)
        root = root if isinstance(root, (str, Path)) else None
        self._names = MirroredNames(root, rank=trainer.global_rank, world=trainer.world_size)

    def collect(self, step: Step) -> None:
        """Write and log the panels of one batch."""
        trainer, prediction, batch = step.trainer, step.prediction, step.batch
        if not self._has_maps(prediction, batch):
            return
        limit = sys.maxsize if self.max_images is None else self.max_images
        share = len(range(trainer.global_rank, limit, trainer.world_size))
        wanted = share - self._written if self.panel or self.raw != "none" else 0
        write = min(wanted, len(batch["image"]))
        self._written += write
        names = [self._names.next(path) for path in _paths(batch)[:write]]
        log = self._to_log(trainer, batch) if step.stage == "test" else 0
        panels = self._panels(step.pl_module, prediction, batch, max(write if self.panel else 0, log))
        self._log(trainer, panels[:log], "test")
        if self.panel:
            for name, panel in zip(names, panels, strict=False):
                _write_png(self._panel_folder / name, panel)
        if self.raw != "none":
            for name, anomaly_map in zip(names, pixels(prediction["anomaly_map"][:write]), strict=True):
                _write_raw(self._raw_folder / name, anomaly_map[..., 0], self.raw)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew: maps change as the method learns."""
        self._restart()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log the first panels."""
        if not trainer.sanity_checking and (read := read_step(outputs, batch, self.key_map)) is not None:
            prediction, batch = read
            if self._has_maps(prediction, batch):
                self._log(trainer, self._panels(pl_module, prediction, batch, self._to_log(trainer, batch)), "val")

    def _has_maps(self, prediction: Prediction, batch: Batch) -> bool:
        found = "anomaly_map" in prediction and "image" in batch
        if not found and not self._told and "image" in batch:
            rank_zero_info("HeatmapExport writes nothing: the method gives no anomaly_map for its images.")
            self._told = True
        return found

    def _to_log(self, trainer: Trainer, batch: Batch) -> int:
        if not trainer.is_global_zero or self._logged >= self.log_images or not _image_writers(trainer):
            return 0
        return min(self.log_images - self._logged, len(batch["image"]))

    def _log(self, trainer: Trainer, panels: list[Picture], stage: str) -> None:
        for panel in panels:
            for add_image in _image_writers(trainer):
                picture = cv2.cvtColor(panel, cv2.COLOR_BGR2RGB)
                add_image(f"{stage}/heatmap_{self._logged}", picture, trainer.global_step, dataformats="HWC")
            self._logged += 1

    def _panels(self, pl_module: LightningModule, prediction: Prediction, batch: Batch, count: int) -> list[Picture]:
        """Panels of the first ``count`` images of a batch."""
        if not count:
            return []
        image, anomaly_map = batch["image"], prediction["anomaly_map"]
        expected = (len(image), 1, *image.shape[2:])
        if anomaly_map.shape != expected:
            raise ShapeError(
                f"anomaly_map must have shape {expected} for image {tuple(image.shape)}; got {tuple(anomaly_map.shape)}. "
                "Resize the map to the image in the method's forward."
            )
        levels = pixels(self._levels(pl_module, anomaly_map[:count]))
        truth = _truth(batch, count)
        marked = pixels(prediction["pred_mask"][:count]) if "pred_mask" in prediction else [None] * count
        panels = []
        for index, (picture, level) in enumerate(zip(pixels(image[:count]), levels, strict=True)):
            tiles = self._tiles(displayed(picture), level, truth[index], marked[index])
            panels.append(side_by_side(tiles, _caption(prediction, batch, index)))
        return panels

    def _levels(self, pl_module: LightningModule, anomaly_map: Tensor) -> Tensor:
        """Places on the colour scale, 0 to 255."""
        calibration = calibration_of(pl_module, "pixel")
        if calibration is not None:
            level = calibration.normalize(anomaly_map.float(), "pixel")
        else:
            finite = anomaly_map[anomaly_map.isfinite()].float()
            if len(finite):
                self._low = min(self._low, float(finite.min()))
                self._high = max(self._high, float(finite.max()))
            level = (anomaly_map.float() - self._low) / max(self._high - self._low, TINY)
        return (level.nan_to_num(nan=1.0).clamp(0, 1) * 255).round().byte()

    def _tiles(
        self, image: Picture, level: npt.NDArray[Any], truth: npt.NDArray[Any] | None, marked: npt.NDArray[Any] | None
    ) -> dict[str, Picture]:
        factor = -(-MIN_TILE_WIDTH // image.shape[1])
        image = enlarged(image, factor)
        colors = cv2.applyColorMap(enlarged(level, factor), self._colors)
        tiles = {"image": image}
        if truth is not None:
            tiles["truth mask"] = cv2.cvtColor(enlarged(truth, factor), cv2.COLOR_GRAY2BGR)
        tiles["anomaly map"] = colors
        tiles["overlay"] = cv2.addWeighted(image, 1 - self.opacity, colors, self.opacity, 0)
        if marked is not None:
            tiles["predicted mask"] = outlined(image, enlarged(marked.astype(np.uint8), factor))
        return tiles


def _image_writers(trainer: Trainer) -> list[Any]:
    experiments: list[Any] = [getattr(logger, "experiment", None) for logger in trainer.loggers]
    return [experiment.add_image for experiment in experiments if callable(getattr(experiment, "add_image", None))]


def _paths(batch: Batch) -> list[str | None]:
    return [path and str(path) for path in batch.get("image_path", [None] * len(batch["image"]))]


def _truth(batch: Batch, count: int) -> Sequence[Picture | None]:
    """White where anomalous, grey where not scored; None without truth."""
    if "mask" in batch:
        return list(pixels(255 * batch["mask"][:count].byte()))
    if "ood_mask" in batch:
        truth = batch["ood_mask"][:count].unsqueeze(1).byte()
        return list(pixels(torch.where(truth == VOID, UNSCORED_GREY, 255 * truth)))
    return [None] * count


def _caption(prediction: Prediction, batch: Batch, index: int) -> str:
    words = []
    if "anomaly_score" in prediction:
        words.append(f"score: {prediction['anomaly_score'][index].item():.5g}")
    if "scored" in batch and not batch["scored"][index]:
        words.append("truth: not scored")
    elif "label" in batch:
        words.append("truth: " + ("anomalous" if batch["label"][index] else "normal"))
    if "pred_label" in prediction:
        words.append("predicted: " + ("anomalous" if prediction["pred_label"][index] else "normal"))
    return "   |   ".join(words)


def _write_png(path: Path, picture: npt.NDArray[Any]) -> None:
    save_bytes(path, cv2.imencode(".png", picture)[1].tobytes())


def _write_raw(path: Path, anomaly_map: npt.NDArray[np.float32], kind: Literal["png16", "npy"]) -> None:
    if kind == "npy":
        save_array(path.with_suffix(".npy"), anomaly_map)
        return
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    if not np.isfinite([low, high]).all():
        raise NotFiniteError(f"a 16-bit image cannot hold the NaN or infinity in the map of {path.name}. Use raw: npy.")
    scale = 65535 / (high - low) if high > low else 0.0
    save_json(path.with_suffix(".json"), {"low": low, "high": high}, indent=None)
    _write_png(path, ((anomaly_map.astype(np.float64) - low) * scale).round().astype(np.uint16))

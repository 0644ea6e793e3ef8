"""HeatmapExport: what the method saw and marked, as one picture per image, and the raw map for other programs."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from anomaly_suite.callbacks.base import Stage, StageCallback, Step, calibration_of, labels_of, of_data, output_folder
from anomaly_suite.callbacks.color_scale import ColorScale, range_of, said_by_first
from anomaly_suite.callbacks.drawing import (
    ColorBar,
    Picture,
    color_table,
    displayed,
    enlarged,
    outlined,
    pixels,
    png_of,
    side_by_side,
    tile_factor,
    tile_places,
)
from anomaly_suite.callbacks.reading import read_step
from anomaly_suite.callbacks.shares import EvenShare
from anomaly_suite.callbacks.values import per_sample
from anomaly_suite.callbacks.writing import (
    WritesFiles,
    files_of,
    going_on,
    image_writers,
    number_of_loaders,
    remove_former,
)
from anomaly_suite.codes import VOID
from anomaly_suite.contract import Batch, KeyMap, Prediction, check_key_map
from anomaly_suite.errors import ConfigError, NotFiniteError, ShapeError
from anomaly_suite.io.atomic import fill, replacing_together, save_array, save_bytes, try_folder
from anomaly_suite.io.naming import MirroredNames
from anomaly_suite.io.png import with_text
from anomaly_suite.io.written import WrittenFiles

UNSCORED_GREY = 96  # of truth masks
RAW_FILES = {"npy": (".npy",), "png16": (".png", ".json")}


class HeatmapExport(WritesFiles, StageCallback):
    """Write a panel for each image of ``test`` and ``predict``, and show a few of them in the logger.

    A panel is image, truth mask (if the batch has one; of driving scenes, what is not scored is grey), map, overlay of both, and
    the contour of ``pred_mask`` (if calibrated). Images outside [0, 1], as other people's loaders standardise them, are stretched between their own smallest
    and largest value for display.

    Colours of the map mean the same in all panels of a stage, over all processes and loaders, and the bar at the right end says
    what: with a calibration for pixels they follow :meth:`~anomaly_suite.contract.Calibration.normalize`, the threshold in the
    middle. Without one, panels are written before the range of all maps can be known, and no memory or disk would hold all of them.
    The scale is then that of the first batch (of process zero), without pixels that are not scored: linear up to the middle of
    its range, and such that every score has room above it.

    Files: ``<folder>/<stage>/<name>.png`` and raw maps in ``<folder>/<stage>_raw``; names mirror the input tree and never
    coincide, see :class:`~anomaly_suite.io.naming.MirroredNames`. Where there are several loaders, each has a folder
    ``dataloader_idx_0`` and so on there. Every process writes its own images. Methods without maps write nothing. At the end of a
    stage, panels and maps of an earlier one of the same run are gone, see :class:`~anomaly_suite.io.written.WrittenFiles`. A panel says as
    a text chunk ``panel``, in JSON, the ``index`` of its image in the data set, its ``loader`` and ``path``, and where its ``tiles`` are: left,
    top, width and height.

    Args:
        folder: Where to write; ``heatmaps`` in the run's log folder if None.
        max_images: Images written per stage and loader, over all processes; None writes all. Every label, category and type of defect has an
            even share, the first ones of each; of images without a label, every decision.
        panel: Whether to write panels.
        raw: Also write the map itself: ``npy`` as float32 of shape (H, W); ``png16`` as a 16-bit grey image with the scores
            ``low`` and ``high`` of the values 0 and 65535, linear between, as a text chunk ``scale`` inside and as a ``.json`` of
            the same name beside it.
        opacity: Weight of the map in the overlay, in [0, 1].
        colormap: A colour map of OpenCV or matplotlib. ``viridis`` grows brighter with the score and is read with any colour vision;
            ``turbo`` has more contrast.
        log_images: Panels shown per test or validation pass in loggers that take images, such as TensorBoard's.
        key_map: Our names of keys, and what other loaders and modules call them.

    Raises:
        ConfigError: an unknown colour map, an opacity outside [0, 1] or a negative count.
        ShapeError: a map of another size than its image.
        NotFiniteError: ``png16`` and a map with NaN or infinity.
        FileWriteError: at the start of a stage, the folder cannot be written to; at its end, files could not be written.
    """

    _scales = itertools.count()  # stages of this process, for a name that all processes have

    def __init__(
        self,
        *,
        folder: str | None = None,
        max_images: int | None = 100,
        panel: bool = True,
        raw: Literal["none", "png16", "npy"] = "none",
        opacity: float = 0.5,
        colormap: str = "viridis",
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
        self._files: WrittenFiles | None = None
        self._restart()

    def _restart(self) -> None:
        self._shares: dict[int, EvenShare] = {}  # by loader
        self._kept: dict[tuple[int, int], Path] = {}  # names of written images, by loader and number
        self._seen: Counter[int] = Counter()  # images, by loader
        self._defects: dict[str, str] = {}  # types, by path
        self._logged = 0
        self._scale: ColorScale | None = None
        self._scale_name: str | None = None  # where all processes share the scale

    def begin(self, trainer: Trainer, stage: Stage) -> None:
        """Start the numbering, the names and the scale anew, and try the folder.

        Raises:
            FileWriteError: the folder cannot be written to.
        """
        self._restart()
        self._scale_name = f"the colour scale of stage {next(self._scales)}"
        folder = output_folder(trainer, self.folder, "heatmaps")
        loaders = number_of_loaders(trainer, stage)
        parts = [f"dataloader_idx_{index}" if loaders > 1 else "" for index in range(loaders)]
        self._panel_folders = [folder / stage / part for part in parts]
        self._raw_folders = [folder / f"{stage}_raw" / part for part in parts]
        root = of_data(trainer, "root", None)
        root = root if isinstance(root, (str, Path)) else None
        self._names = [MirroredNames(root, rank=trainer.global_rank, world=trainer.world_size) for _ in parts]
        self._defects = _defects(trainer)
        self._files = None
        if self.max_images != 0 and (self.panel or self.raw != "none"):
            self._files = files_of(trainer, folder, f"{type(self).__name__}_{stage}")
            for wanted, name in ((self.panel, stage), (self.raw != "none", f"{stage}_raw")):
                if wanted:
                    try_folder(folder / name)

    def collect(self, step: Step) -> None:
        """Write and log the panels of one batch."""
        trainer, prediction, batch, loader = step.trainer, step.prediction, step.batch, step.dataloader_idx
        if not self._has_maps(prediction, batch):
            return
        log = range(self._to_log(trainer, batch) if step.stage == "test" else 0)
        write = self._chosen(trainer, prediction, batch, loader)
        rows = sorted({*log, *(write if self.panel else ())})
        panels = dict(zip(rows, self._panels(trainer, step.pl_module, prediction, batch, rows), strict=True))
        self._log(trainer, [panels[row][0] for row in log], "test")
        if self._files is None:
            return
        for row, (number, path) in enumerate(zip(itertools.count(self._seen[loader]), _paths(batch), strict=False)):
            if row not in write:
                self._names[loader].skip()
                continue
            name = self._names[loader].next(path)
            self._kept[loader, number] = name
            if self.panel:
                panel, places = panels[row]
                index = trainer.global_rank + number * trainer.world_size
                what = {"index": index, "loader": loader, "path": path, "tiles": places}
                with going_on(trainer):
                    self._files.add(self._panel_folders[loader] / name)
                    save_bytes(self._panel_folders[loader] / name, with_text(png_of(panel), "panel", json.dumps(what)))
            if self.raw != "none":
                with going_on(trainer):
                    self._files.add(*self._raw_files(loader, name))
                    anomaly_map = pixels(prediction["anomaly_map"][row : row + 1])[0]
                    _write_raw(self._raw_folders[loader] / name, anomaly_map[..., 0], self.raw)
        self._seen[loader] += len(batch["image"])

    def _chosen(self, trainer: Trainer, prediction: Prediction, batch: Batch, loader: int) -> set[int]:
        """Rows of a batch that are written; files of earlier images that make room for them are removed."""
        if self._files is None:
            return set()
        if self.max_images is None:
            return set(range(len(batch["image"])))
        if loader not in self._shares:
            mine = range(trainer.global_rank, self.max_images, trainer.world_size)
            self._shares[loader] = EvenShare(len(mine))
        chosen = set()
        for row, kind in enumerate(self._kinds(prediction, batch)):
            is_kept, dropped = self._shares[loader].offer(kind)
            if is_kept:
                chosen.add(row)
            if dropped is not None and dropped >= self._seen[loader]:
                chosen.remove(dropped - self._seen[loader])
            elif dropped is not None:
                name = self._kept.pop((loader, dropped))
                panel = [self._panel_folders[loader] / name] if self.panel else []
                self._files.drop(*panel, *self._raw_files(loader, name))
        return chosen

    def _kinds(self, prediction: Prediction, batch: Batch) -> list[Hashable]:
        """What is known of the images of a batch: label, or else decision, category and type of defect."""
        count = len(batch["image"])
        labels: Sequence[Any] = labels_of(batch) or per_sample(prediction, "pred_label", batch) or [None] * count
        categories = batch.get("category", [""] * count)
        defects = [self._defects.get(path or "", "") for path in _paths(batch)]
        return list(zip(labels, categories, defects, strict=True))

    def _raw_files(self, loader: int, name: Path) -> list[Path]:
        return [(self._raw_folders[loader] / name).with_suffix(suffix) for suffix in RAW_FILES.get(self.raw, ())]

    def finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Remove the files of an earlier stage that were not replaced."""
        if self._files is not None:
            remove_former(trainer, self._files)

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
        step = None if trainer.sanity_checking else read_step(outputs, batch, self.key_map)
        if step is not None and self._has_maps(*step):
            rows = range(self._to_log(trainer, step[1]))
            panels = self._panels(trainer, pl_module, *step, rows)
            self._log(trainer, [panel for panel, _ in panels], "val")

    def _has_maps(self, prediction: Prediction, batch: Batch) -> bool:
        found = "anomaly_map" in prediction and "image" in batch
        if not found and not self._told and "image" in batch:
            rank_zero_info("HeatmapExport writes nothing: the method gives no anomaly_map for its images.")
            self._told = True
        return found

    def _to_log(self, trainer: Trainer, batch: Batch) -> int:
        if not trainer.is_global_zero or self._logged >= self.log_images or not image_writers(trainer):
            return 0
        return min(self.log_images - self._logged, len(batch["image"]))

    def _log(self, trainer: Trainer, panels: list[Picture], stage: str) -> None:
        for panel in panels:
            for add_image in image_writers(trainer):
                picture = cv2.cvtColor(panel, cv2.COLOR_BGR2RGB)
                add_image(f"{stage}/heatmap_{self._logged}", picture, trainer.global_step, dataformats="HWC")
            self._logged += 1

    def _panels(
        self, trainer: Trainer, pl_module: LightningModule, prediction: Prediction, batch: Batch, rows: Sequence[int]
    ) -> list[tuple[Picture, dict[str, tuple[int, int, int, int]]]]:
        """Panels of some images of a batch, and where their tiles are."""
        if not rows:
            return []
        rows = list(rows)
        image, anomaly_map = batch["image"], prediction["anomaly_map"]
        expected = (len(image), 1, *image.shape[2:])
        if anomaly_map.shape != expected:
            raise ShapeError(
                f"anomaly_map must have shape {expected} for image {tuple(image.shape)}; got {tuple(anomaly_map.shape)}. "
                "Resize the map to the image in the method's forward."
            )
        scale = self._scale_of(trainer, pl_module, prediction, batch)
        levels = pixels((scale(anomaly_map[rows]) * 255).round().byte())
        bar = self._bar(scale)
        truth = _truth(batch, rows)
        marked = pixels(prediction["pred_mask"][rows]) if "pred_mask" in prediction else [None] * len(rows)
        panels = []
        for row, picture, level, true, mark in zip(rows, pixels(image[rows]), levels, truth, marked, strict=True):
            tiles = self._tiles(displayed(picture), level, true, mark)
            panels.append((side_by_side(tiles, _caption(prediction, batch, row), bar), tile_places(tiles)))
        return panels

    def _scale_of(
        self, trainer: Trainer, pl_module: LightningModule, prediction: Prediction, batch: Batch
    ) -> ColorScale:
        """The scale of this stage, chosen at its first panel."""
        if self._scale is None:
            calibration = calibration_of(pl_module, "pixel")
            if calibration is not None:
                self._scale = ColorScale(calibration, calibrated=True)
            else:
                span = range_of(_scored(prediction, batch))
                if self._scale_name is not None:
                    span = said_by_first(trainer, self._scale_name, span)
                self._scale = ColorScale.spanning(*span)
        return self._scale

    def _bar(self, scale: ColorScale) -> ColorBar:
        ticks = scale.ticks()
        noted = next((tick.place for tick in ticks if tick.is_threshold), None)
        return ColorBar("score", self._colors, [tick[:2] for tick in ticks], noted, " threshold")

    def _tiles(
        self, image: Picture, level: npt.NDArray[Any], truth: npt.NDArray[Any] | None, marked: npt.NDArray[Any] | None
    ) -> dict[str, Picture]:
        factor = tile_factor(image.shape[1])
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


def _paths(batch: Batch) -> list[str | None]:
    return [path and str(path) for path in batch.get("image_path", [None] * len(batch["image"]))]


def _defects(trainer: Trainer) -> dict[str, str]:
    """Types of defects of the test images, by path, where the data set lists them."""
    listed = getattr(getattr(of_data(trainer, "splits", None), "test", None), "listed", None)
    return {} if listed is None else {each.path: each.defect_type for each in listed() if each.defect_type}


def _truth(batch: Batch, rows: list[int]) -> Sequence[Picture | None]:
    """White where anomalous, grey where not scored; None without truth."""
    if "mask" in batch:
        return list(pixels(255 * batch["mask"][rows].byte()))
    if "ood_mask" in batch:
        truth = batch["ood_mask"][rows].unsqueeze(1).byte()
        return list(pixels(torch.where(truth == VOID, UNSCORED_GREY, 255 * truth)))
    return [None] * len(rows)


def _caption(prediction: Prediction, batch: Batch, index: int) -> str:
    words = []
    if (score := per_sample(prediction, "anomaly_score", batch)) is not None:
        words.append(f"score: {score[index]:.5g}")
    low, high = range_of(_scored(prediction, batch, slice(index, index + 1)))
    words.append(f"map: {low:.4g} to {high:.4g}")
    if "scored" in batch and not batch["scored"][index]:
        words.append("truth: not scored")
    elif "label" in batch:
        words.append("truth: " + ("anomalous" if batch["label"][index] else "normal"))
    if (decided := per_sample(prediction, "pred_label", batch)) is not None:
        words.append("predicted: " + ("anomalous" if decided[index] else "normal"))
    return "   |   ".join(words)


def _scored(prediction: Prediction, batch: Batch, chosen: slice = slice(None)) -> Tensor:
    """The scores of maps that count: in driving scenes, not those of void pixels."""
    anomaly_map = prediction["anomaly_map"].detach()[chosen]
    if "ood_mask" in batch and (truth := batch["ood_mask"][chosen].unsqueeze(1)).shape == anomaly_map.shape:
        return anomaly_map[truth != VOID]
    return anomaly_map


def _write_raw(path: Path, anomaly_map: npt.NDArray[np.float32], kind: Literal["png16", "npy"]) -> None:
    if kind == "npy":
        save_array(path.with_suffix(".npy"), anomaly_map)
        return
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    if not np.isfinite([low, high]).all():
        raise NotFiniteError(f"a 16-bit image cannot hold the NaN or infinity in the map of {path.name}. Use raw: npy.")
    step = 65535 / (high - low) if high > low else 0.0
    picture = ((anomaly_map.astype(np.float64) - low) * step).round().astype(np.uint16)
    scale = json.dumps({"low": low, "high": high})
    with replacing_together(path, path.with_suffix(".json")) as (image, text):
        fill(image, with_text(png_of(picture), "scale", scale))
        fill(text, f"{scale}\n".encode())

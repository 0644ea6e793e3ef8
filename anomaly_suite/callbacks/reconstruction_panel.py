"""ReconstructionPanel: what a method makes of images, normal and anomalous ones side by side."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from anomaly_suite.callbacks.base import Stage, StageCallback, Step, labels_of, output_folder
from anomaly_suite.callbacks.drawing import (
    GAP,
    ColorBar,
    Picture,
    color_table,
    displayed,
    enlarged,
    pixels,
    side_by_side,
    tile_factor,
)
from anomaly_suite.callbacks.processes import of_all
from anomaly_suite.callbacks.reading import read_step
from anomaly_suite.callbacks.values import per_sample
from anomaly_suite.callbacks.writing import (
    WritesFiles,
    files_of,
    going_on,
    image_writers,
    number_of_loaders,
    remove_former,
    write_png,
)
from anomaly_suite.contract import Batch, KeyMap, Prediction, Reconstruction, check_key_map
from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.io.atomic import try_folder

HIDDEN_GREY = 128  # of pixels that the network did not see


class Sample(NamedTuple):
    """One image to be drawn, arrays (H, W, C); ``place`` in the stage, ``kind`` its folder."""

    place: int
    anomalous: bool
    kind: str
    caption: str
    image: npt.NDArray[Any]
    hidden: npt.NDArray[Any] | None
    rebuilt: npt.NDArray[Any]
    error: npt.NDArray[Any]


class ReconstructionPanel(WritesFiles, StageCallback):
    """Draw some images of a stage beside what the method makes of them: the normal ones on the left, the anomalous ones on the right.

    For methods that say what they reconstruct in :meth:`~anomaly_suite.contract.AnomalyModule.reconstruct`: all of the reconstruction family,
    and IGD. A module of somebody else needs a method of that name, which takes images (B, C, H, W) and returns a
    :class:`~anomaly_suite.contract.Reconstruction` or a tensor of their shape. It is asked for the few images that are drawn.

    A row is the image, what the network saw of it (if it hides parts), the reconstruction, and the absolute difference of both, averaged over
    channels. All differences of a picture have one scale, from 0 to the largest. It is not the method's map: that may compare
    in another way, see :class:`~anomaly_suite.callbacks.HeatmapExport`.

    Images are not chosen by how they look: they are the first ones of the stage, and of every folder that holds anomalous or normal ones
    as many as there is room for, so that all kinds of defects are seen. Without labels, all are on the left.

    Files: ``<folder>/<stage>.png``, with several loaders ``<stage>_dataloader_idx_0.png`` and so on. Loggers that take images,
    such as TensorBoard's, get the picture of the test and of every validation. Not among the default callbacks.

    Args:
        images: Normal and anomalous images of each loader, at most so many of either.
        folder: Where to write; ``reconstructions`` in the run's log folder if None.
        colormap: Of the difference; a colour map of OpenCV or matplotlib.
        key_map: Our names of keys, and what other loaders and modules call them.

    Raises:
        ConfigError: an unknown colour map, or no images.
        ShapeError: a reconstruction that is no image of the same height and width.
        FileWriteError: at the start of a stage, the folder cannot be written to; at its end, the file could not be written.
    """

    def __init__(
        self,
        *,
        images: int = 8,
        folder: str | None = None,
        colormap: str = "viridis",
        key_map: KeyMap | None = None,
    ) -> None:
        super().__init__()
        self.key_map = check_key_map(key_map)
        if images < 1:
            raise ConfigError(f"images must be at least 1; got {images}. Leave the callback out to draw none.")
        self.images = images
        self.folder = folder
        self._colors = color_table(colormap)
        self._told = False
        self._restart()

    def _restart(self) -> None:
        self._seen: Counter[int] = Counter()  # images of this process, by loader
        self._chosen: dict[int, list[Sample]] = {}  # by loader

    def begin(self, trainer: Trainer, stage: Stage) -> None:
        """Forget the stage before, and try the folder.

        Raises:
            FileWriteError: the folder cannot be written to.
        """
        self._restart()
        self._target = output_folder(trainer, self.folder, "reconstructions")
        self._files = files_of(trainer, self._target, f"{type(self).__name__}_{stage}")
        try_folder(self._target)

    def collect(self, step: Step) -> None:
        """Reconstruct what is to be drawn of one batch."""
        self._take(*step[:4], step.dataloader_idx)

    def finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Gather the images of all processes, draw them, and remove the file of an earlier stage that is not replaced."""
        loaders = number_of_loaders(trainer, stage)
        for index in range(loaders):
            found = of_all(self._chosen.get(index, []))
            if not found or not trainer.is_global_zero:
                continue
            picture = self._draw(found)
            name = f"{stage}_dataloader_idx_{index}.png" if loaders > 1 else f"{stage}.png"
            with going_on(trainer):
                self._files.add(self._target / name)
                write_png(self._target / name, picture)
            if stage == "test":
                _log(trainer, picture, f"test/reconstructions{f'_{index}' * (loaders > 1)}")
        remove_former(trainer, self._files)
        self._restart()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew: reconstructions change as the method learns."""
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
        """Reconstruct what a logger is to show, in process zero."""
        if trainer.sanity_checking or not trainer.is_global_zero or not image_writers(trainer):
            return
        if (read := read_step(outputs, batch, self.key_map)) is not None:
            self._take(trainer, pl_module, *read, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the picture."""
        for index, samples in self._chosen.items():
            _log(trainer, self._draw(samples), f"val/reconstructions{f'_{index}' * (len(self._chosen) > 1)}")
        self._restart()

    def _take(
        self, trainer: Trainer, pl_module: LightningModule, prediction: Prediction, batch: Batch, loader: int
    ) -> None:
        """Add to the chosen images those of a batch that have a place among them."""
        if "image" not in batch:
            return
        count, chosen = len(batch["image"]), self._chosen.setdefault(loader, [])
        labels = labels_of(batch) or [None] * count
        paths = batch.get("image_path") or [""] * count
        wanted: list[tuple[int, bool, str]] = []
        for index in range(count):
            anomalous, kind = bool(labels[index]), Path(str(paths[index] or "")).parent.name
            if _has_place(
                [*((each.anomalous, each.kind) for each in chosen), *(each[1:] for each in wanted)],
                anomalous,
                kind,
                self.images,
            ):
                wanted.append((index, anomalous, kind))
        first = self._seen[loader]
        self._seen[loader] += count
        made = self._reconstruct(trainer, pl_module, batch["image"], [index for index, *_ in wanted])
        if made is None:
            return
        scores = per_sample(prediction, "anomaly_score", batch)
        for row, (index, anomalous, kind) in enumerate(wanted):
            place = (first + index) * trainer.world_size + trainer.global_rank
            words = [] if scores is None else [f"score: {scores[index]:.4g}"]
            words += [] if labels[index] is None else [f"truth: {'anomalous' if anomalous else 'normal'}"]
            caption = "   |   ".join(words + [kind] * bool(kind))
            chosen.append(Sample(place, anomalous, kind, caption, *(part and part[row] for part in made)))
        self._chosen[loader] = choose(chosen, self.images)

    def _reconstruct(
        self, trainer: Trainer, pl_module: LightningModule, images: Tensor, rows: list[int]
    ) -> tuple[Any, Any, Any, Any] | None:
        """Some images, what was hidden, reconstructions and differences, each a list of arrays or None; None of a method without."""
        ask = getattr(pl_module, "reconstruct", None)
        if not rows:
            return None
        image = images[rows]
        with torch.inference_mode(), trainer.precision_plugin.val_step_context():
            made = ask(image) if callable(ask) else None
        if made is None:
            if not self._told:
                name = type(pl_module).__name__
                rank_zero_info(
                    f"ReconstructionPanel draws nothing: {name} has no method reconstruct that gives images."
                )
            self._told = True
            return None
        rebuilt, hidden = made if isinstance(made, tuple) else Reconstruction(made)
        if rebuilt.ndim != 4 or len(rebuilt) != len(image) or rebuilt.shape[2:] != image.shape[2:]:
            raise ShapeError(
                f"reconstructions must be images (B, C, H, W) like those given, {tuple(image.shape)}; got {tuple(rebuilt.shape)}. "
                "Resize them in the module's reconstruct."
            )
        if rebuilt.shape[1] != image.shape[1] and 1 not in (rebuilt.shape[1], image.shape[1]):
            raise ShapeError(
                f"reconstructions must have the channels of the images, {image.shape[1]}, or one of both a single channel; got {rebuilt.shape[1]}. "
                "Return images in the module's reconstruct."
            )
        error = (image.float() - rebuilt.float()).abs().mean(1, keepdim=True).nan_to_num()
        seen = None if hidden is None else list(pixels(hidden.expand(-1, 1, *image.shape[2:])))
        return list(pixels(image)), seen, list(pixels(rebuilt.clamp(0, 1))), list(pixels(error))

    def _draw(self, samples: list[Sample]) -> Picture:
        """The picture of one loader."""
        samples = choose(samples, self.images)
        highest = max(float(each.error.max()) for each in samples) or 1.0
        bar = ColorBar("scale", self._colors, [(part / 2, f"{part / 2 * highest:.3g}") for part in range(3)])
        columns = [
            [self._row(each, highest, bar) for each in samples if each.anomalous == side] for side in (False, True)
        ]
        return _padded([_padded(rows, axis=0) for rows in columns if rows], axis=1)

    def _row(self, sample: Sample, highest: float, bar: ColorBar) -> Picture:
        image = displayed(sample.image)
        factor = tile_factor(image.shape[1])
        tiles = {"image": image}
        if sample.hidden is not None:
            tiles["seen"] = np.where(sample.hidden.astype(bool), np.uint8(HIDDEN_GREY), image)
        tiles["reconstruction"] = displayed(sample.rebuilt)
        tiles = {title: enlarged(tile, factor) for title, tile in tiles.items()}
        level = enlarged((sample.error[..., 0] * (255 / highest)).round().astype(np.uint8), factor)
        tiles["difference"] = np.asarray(cv2.applyColorMap(level, self._colors), np.uint8)
        return side_by_side(tiles, sample.caption, bar)


def _has_place(taken: list[tuple[bool, str]], anomalous: bool, kind: str, most: int) -> bool:
    """Whether one more image of a kind would stay among the chosen ones."""
    kinds = Counter(other for side, other in taken if side == anomalous)
    return kinds.total() < most or (kind not in kinds and max(kinds.values()) > 1)


def choose(samples: list[Sample], most: int) -> list[Sample]:
    """The images to be drawn: the first ones, but of as many kinds as there are.

    Args:
        samples: In any order.
        most: Of the normal ones, and of the anomalous ones.

    Returns:
        Normal ones, then anomalous ones, each in the order of the stage.
    """
    chosen: list[Sample] = []
    for sample in sorted(samples, key=lambda each: each.place):
        side = [each for each in chosen if each.anomalous == sample.anomalous]
        if not _has_place([(each.anomalous, each.kind) for each in side], sample.anomalous, sample.kind, most):
            continue
        if len(side) == most:  # the last one of the kind that has most makes room
            ((crowded, _),) = Counter(each.kind for each in side).most_common(1)
            last = max((each for each in side if each.kind == crowded), key=lambda each: each.place)
            chosen = [each for each in chosen if each is not last]
        chosen.append(sample)
    return sorted(chosen, key=lambda each: (each.anomalous, each.place))


def _padded(pictures: list[Picture], *, axis: int) -> Picture:
    """Pictures below (0) or beside (1) each other, with white where one is smaller."""
    size = max(picture.shape[1 - axis] for picture in pictures)
    parts = []
    for picture in pictures:
        wide = [(0, 0)] * 3
        wide[1 - axis] = (0, size - picture.shape[1 - axis])
        wide[axis] = (0, 2 * GAP)
        parts.append(np.pad(picture, wide, constant_values=255))
    return np.concatenate(parts, axis)


def _log(trainer: Trainer, picture: Picture, name: str) -> None:
    for add_image in image_writers(trainer):
        add_image(name, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), trainer.global_step, dataformats="HWC")

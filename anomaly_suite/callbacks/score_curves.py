"""ScoreCurves: when a video is anomalous, as a picture of each, as numbers, and in the video itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from anomaly_suite.callbacks.base import Stage, StageCallback, Step, calibration_of, labels_of, output_folder
from anomaly_suite.callbacks.loggers import log_pictures
from anomaly_suite.callbacks.overlay import Originals, score_range, shared_range, write_overlay
from anomaly_suite.callbacks.plots import BLUE, RED, new_axes
from anomaly_suite.callbacks.videos import Frames, frames_of, video_names
from anomaly_suite.callbacks.writing import WritesFiles, files_of, gather_loaders, going_on, remove_former
from anomaly_suite.contract import KeyMap, check_key_map
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError
from anomaly_suite.io.atomic import printable, save_array, save_columns, try_folder

log = logging.getLogger(__name__)

NAMED = 10  # videos that a warning names
COLUMNS = 600  # of a curve in numbers


class ScoredVideo(NamedTuple):
    """Name and label of a video, None where unknown, and its frames."""

    name: str | None
    label: int | None
    frames: Frames

    @property
    def is_anomalous(self) -> bool:
        """By its label, or else by its frames."""
        return bool(self.frames.events()) if self.label is None else self.label == 1


class Axis(NamedTuple):
    """Lowest and highest score of the axis that all videos of a stage share, and where the threshold is, None without."""

    span: tuple[float, float]
    threshold: float | None


class ScoreCurves(WritesFiles, StageCallback):
    """Draw the frame scores of videos over time after ``test`` and after ``predict``; batches of images are left alone.

    A picture has the curve, true events shaded, a line at the calibrated threshold, and the AUROC inside the video in its
    title. The threshold is that of whole videos: where the score of a video is the highest of its frames, as in the methods
    of this package, the line is reached just in the videos that are called anomalous. All pictures and overlays of a stage have
    one axis of scores, that of all its videos.

    Files: ``<folder>/<stage>/<name>.png``, scores in ``<folder>/<stage>_scores`` and overlays in ``<folder>/<stage>_overlay``.
    Where there are several loaders, each has a folder ``dataloader_idx_0`` and so on there. The processes share the work. At the
    end, what an earlier stage of the same run wrote there is gone, see :class:`~anomaly_suite.io.written.WrittenFiles`. A picture says
    what it shows as a text chunk ``curve``, in JSON: :func:`numbers_of`.

    Args:
        folder: Where to write; ``curves`` in the run's log folder if None.
        limit: Videos drawn, and overlaid, a stage and loader; None for all.
        first: Which come first: ``anomalous`` ones, or those of the ``dataset`` as they stand there.
        fps: Frames per second of the videos, for a second axis in seconds and for the overlays; None for no such axis and
            the speed of the originals.
        save_scores: Also write the frame scores of all videos, beyond ``limit`` too: ``npy`` as float32 (frames,); ``csv`` with
            frame, counted from 0, score, and label where it is known.
        log_curves: Pictures shown per stage and loader in loggers that take pictures, such as TensorBoard's.
        videos: Folder with the original videos or folders of their frames, at any depth, named as the videos are. For each
            there is an ``.mp4`` with the curve below the frames and a red border where the score reaches the threshold. One
            that is missing or cannot be read is a warning.
        key_map: Our names of keys, and what other loaders and modules call them.

    Raises:
        ConfigError: a negative ``limit`` or ``log_curves``, or an ``fps`` that is not positive.
        DatasetNotFoundError: at the start of the stage, no folder ``videos``.
        ShapeError: scores and truth count different frames.
        FileWriteError: at the start of a stage, the folder cannot be written to; at its end, files could not be written.
    """

    def __init__(
        self,
        *,
        folder: str | None = None,
        limit: int | None = 50,
        first: Literal["anomalous", "dataset"] = "anomalous",
        fps: float | None = None,
        save_scores: Literal["none", "csv", "npy"] = "none",
        videos: str | None = None,
        log_curves: int = 4,
        key_map: KeyMap | None = None,
    ) -> None:
        super().__init__()
        self.key_map = check_key_map(key_map)
        if log_curves < 0:
            raise ConfigError(f"log_curves must be at least 0; got {log_curves}. Use 0 to show none.")
        if limit is not None and limit < 0:
            raise ConfigError(f"limit must be at least 0; got {limit}. Use 0 to draw none, null to draw all.")
        if fps is not None and fps <= 0:
            raise ConfigError(f"fps must be positive; got {fps}. Give frames per second, such as 30.")
        self.folder = folder
        self.limit = limit
        self.first = first
        self.fps = fps
        self.save_scores = save_scores
        self.log_curves = log_curves
        self.videos = None if videos is None else Path(videos)
        self.originals: Mapping[str, Path] | None = None
        """Original videos by the names of batches, in place of a folder ``videos``."""
        self._rows: dict[int, list[ScoredVideo]] = {}

    def begin(self, trainer: Trainer, stage: Stage) -> None:
        """Forget all scores, and try the folder.

        Raises:
            DatasetNotFoundError: there is no folder ``videos``.
            FileWriteError: the output folder cannot be written to.
        """
        if self.videos is not None and not self.videos.is_dir():
            raise DatasetNotFoundError(
                f"videos expects a folder of original videos; got '{self.videos}'. Correct its name."
            )
        self._rows = {}
        self._target = output_folder(trainer, self.folder, "curves")
        self._files = files_of(trainer, self._target, f"{type(self).__name__}_{stage}")
        also = [f"{stage}_scores"] * (self.save_scores != "none") + [f"{stage}_overlay"] * self._overlaid()
        for name in (stage, *also):
            try_folder(self._target / name)

    def collect(self, step: Step) -> None:
        """Keep the frame scores of the videos of one batch, 5 bytes per frame."""
        batch = step.batch
        if "snippet_features" not in batch:
            return
        frames = frames_of(step.prediction, batch)
        unknown: list[Any] = [None] * len(frames)
        names = [name if name is None else str(name) for name in batch.get("image_path", unknown)]
        rows = map(ScoredVideo, names, labels_of(batch) or unknown, frames)
        self._rows.setdefault(step.dataloader_idx, []).extend(rows)

    def finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Gather the scores of all processes; each process writes its share."""
        loaders = gather_loaders(trainer, stage, self._rows)
        self._rows = {}
        calibration = calibration_of(pl_module, "image")
        threshold = None if calibration is None else calibration.threshold("image")
        axis = Axis(shared_range((row.frames.score for rows in loaders for row in rows), threshold), threshold)
        for index, rows in enumerate(loaders):
            part = f"dataloader_idx_{index}" if len(loaders) > 1 else ""
            self._write_all(trainer, stage, part, rows, axis)
        remove_former(trainer, self._files)

    def _write_all(self, trainer: Trainer, stage: Stage, part: str, rows: list[ScoredVideo], axis: Axis) -> None:
        """Write this process's share of the files of one loader, below folders ``part``."""
        names = video_names([row.name for row in rows])
        rank, world = trainer.global_rank, trainer.world_size
        if self.save_scores != "none":
            write, suffix = (_write_csv, "csv") if self.save_scores == "csv" else (_write_npy, "npy")
            for row, name in list(zip(rows, names, strict=True))[rank::world]:
                path = _path(self._target / f"{stage}_scores" / part, name, suffix)
                with going_on(trainer):
                    self._files.add(path)
                    write(path, row.frames)
        order = [index for index, row in enumerate(rows) if len(row.frames.score)]
        if self.first == "anomalous":
            order.sort(key=lambda index: not rows[index].is_anomalous)
        chosen = order[: self.limit][rank::world]
        for index in chosen:
            path = _path(self._target / stage / part, names[index], "png")
            numbers = {"index": index, "loader": int(part.rpartition("_")[2] or 0)}
            numbers |= numbers_of(rows[index], fps=self.fps, **axis._asdict())
            with going_on(trainer):
                self._files.add(path)
                with new_axes(path, size=(9, 3), texts={"curve": json.dumps(numbers)}) as axes:
                    draw_curve(axes, rows[index], title=printable(str(names[index])), fps=self.fps, **axis._asdict())
        if trainer.is_global_zero:
            shown = chosen[: self.log_curves]
            log_pictures(
                trainer, (_path(self._target / stage / part, names[index], "png") for index in shown), f"{stage}/curve"
            )
        if self._overlaid():
            targets = {index: _path(self._target / f"{stage}_overlay" / part, names[index], "mp4") for index in chosen}
            self._write_overlays(trainer, rows, targets, axis)

    def _overlaid(self) -> bool:
        return self.videos is not None or self.originals is not None

    def _write_overlays(self, trainer: Trainer, rows: list[ScoredVideo], targets: dict[int, Path], axis: Axis) -> None:
        originals = Originals(self.videos or Path(), [row.name for row in rows if row.name], known=self.originals)
        failed = []
        for index, target in targets.items():
            try:
                original = originals.find(rows[index].name or target.stem)
                with going_on(trainer):
                    self._files.add(target)
                    write_overlay(original, target, rows[index].frames, fps=self.fps, **axis._asdict())
            except DatasetError as error:
                failed.append(str(error))
        if failed:
            more = f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
            log.warning(
                "%d of %d overlays are missing: %s%s.", len(failed), len(targets), "; ".join(failed[:NAMED]), more
            )


def numbers_of(
    video: ScoredVideo, *, threshold: float | None, fps: float | None, span: tuple[float, float]
) -> dict[str, Any]:
    """What a picture shows, as plain values.

    Args:
        video: With at least one frame.
        threshold: Its line.
        fps: Frames per second.
        span: Lowest and highest score of the axis.

    Returns:
        ``name`` and ``label``, None where unknown; ``frames``, their number; ``score``, at most 600 values, each the highest of as many
        frames; ``events``, start and end of each, the end not included; ``auroc`` inside; ``threshold``, ``fps`` and ``span``.
    """
    frames = video.frames
    columns = min(COLUMNS, len(frames.score))
    highest = np.maximum.reduceat(frames.score, np.arange(columns) * len(frames.score) // columns)
    return {
        "name": video.name,
        "label": video.label,
        "frames": len(frames.score),
        "score": [float(f"{value:.6g}") if np.isfinite(value) else None for value in highest.tolist()],
        "events": frames.events(),
        "auroc": frames.auroc(),
        "threshold": threshold,
        "fps": fps,
        "span": span,
    }


def draw_curve(
    axes: Any,
    video: ScoredVideo,
    *,
    title: str,
    threshold: float | None,
    fps: float | None,
    span: tuple[float, float] | None = None,
) -> None:
    """Draw one video.

    Args:
        axes: Axes of matplotlib.
        video: Its frame ``i`` is drawn from ``i`` to ``i + 1``.
        title: Stands before the AUROC inside the video.
        threshold: For a line; None for none.
        fps: For a second axis in seconds; None for none.
        span: Lowest and highest score of the axis; None takes those of the video.
    """
    frames = video.frames
    for number, (start, end) in enumerate(frames.events()):
        axes.axvspan(start, end, color=RED, alpha=0.25, linewidth=0, label=None if number else "true event")
    axes.plot(
        np.arange(len(frames.score) + 1),
        np.append(frames.score, frames.score[-1:]),
        drawstyle="steps-post",
        color=BLUE,
    )
    if threshold is not None:
        axes.axhline(threshold, color="black", linestyle="--", linewidth=1.2, label=f"threshold {threshold:.4g}")
    low, high = span or score_range(frames.score, threshold)
    margin = 0.04 * (high - low)
    axes.set(xlim=(0, len(frames.score)), ylim=(low - margin, high + margin), xlabel="frame", ylabel="score")
    axes.set_title(title + _summary(video), fontsize=9, parse_math=False)
    if frames.events() or threshold is not None:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    if fps is not None:
        seconds: tuple[Callable[[Any], Any], Callable[[Any], Any]] = (
            lambda frame: frame / fps,
            lambda time: time * fps,
        )
        axes.secondary_xaxis("top", functions=seconds).set_xlabel("seconds", fontsize=8)


def _summary(video: ScoredVideo) -> str:
    area = video.frames.auroc()
    if area is not None:
        return f", AUROC inside {area:.4f}"
    return "" if video.label is None else f", {('normal', 'anomalous')[video.label]} video"


def _path(folder: Path, name: Path, suffix: str) -> Path:
    """Dots may be part of a name, so a suffix is added, never replaced."""
    return folder / name.with_name(f"{name.name}.{suffix}")


def _write_npy(path: Path, frames: Frames) -> None:
    save_array(path, frames.score)


def _write_csv(path: Path, frames: Frames) -> None:
    columns = {"frame": list(range(len(frames.score))), "score": frames.score.tolist()}
    if frames.label is not None:
        columns["label"] = frames.label.astype(int).tolist()
    save_columns(path, columns)

"""ScorePlots: how well the scores part normal from anomalous, as pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningModule, Trainer

from anomaly_suite.callbacks.base import Stage, StageCallback, Step, calibration_of, labels_of, output_folder
from anomaly_suite.callbacks.loggers import log_pictures
from anomaly_suite.callbacks.values import per_sample
from anomaly_suite.callbacks.videos import Frames, frames_of
from anomaly_suite.callbacks.writing import WritesFiles, all_written, gather_loaders, going_on
from anomaly_suite.contract import KeyMap, check_key_map
from anomaly_suite.io.atomic import replacing, try_folder
from anomaly_suite.io.written import remove_older
from anomaly_suite.metrics import auroc, average_precision

UNKNOWN = -1  # label of an image without truth
BLUE, RED = "#3b76af", "#c8553d"  # told apart with any colour vision
GROUPS = {0: ("normal", BLUE), 1: ("anomalous", RED), UNKNOWN: ("unlabelled", "#777777")}
PLOTS = ("histogram", "roc", "pr")
BALANCED = 3  # times as many samples of one label as of another, up to which a histogram shows counts

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]


class ScorePlots(WritesFiles, StageCallback):
    """Draw the histogram of scores and the ROC and precision-recall curves after ``test`` and after ``predict``.

    The histogram has one colour per label and a line at the calibrated threshold. It shows counts; where one label has more than
    3 times as many samples as another, densities, each label having area 1, so that the rare one is seen. The curves are drawn where both labels are
    there, and all scores finite; their titles have the exact area (AUROC) and step-wise sum (AP) of the scores shown. A
    precision-recall curve is a staircase; a ROC curve is one too, save for a slope where equal scores have both labels.

    Files: ``<stage>_histogram.png``, ``<stage>_roc.png``, ``<stage>_pr.png``. For videos the same for single frames, as
    ``<stage>_frame_*.png``. Where there are several loaders, these show all of them together, and
    ``<stage>_dataloader_idx_0_*.png`` and so on each. Process zero draws for all. Pictures of an earlier stage are gone at the end.

    Args:
        folder: Where to write; ``plots`` in the run's log folder if None.
        key_map: Our names of keys, and what other loaders and modules call them.

    Raises:
        ShapeError: ``frame_score`` and ``frame_label`` count different frames.
        FileWriteError: at the start of a stage, the folder cannot be written to; at its end, files could not be written.
    """

    def __init__(self, *, folder: str | None = None, key_map: KeyMap | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.key_map = check_key_map(key_map)
        self._images: dict[int, list[tuple[float, int]]] = {}
        self._videos: dict[int, list[Frames]] = {}

    def begin(self, trainer: Trainer, stage: Stage) -> None:
        """Forget all scores, and try the folder.

        Raises:
            FileWriteError: the folder cannot be written to.
        """
        self._images, self._videos = {}, {}
        self._drawn: list[str] = []  # what names of pictures begin with
        self._target = output_folder(trainer, self.folder, "plots")
        self._began = try_folder(self._target)

    def collect(self, step: Step) -> None:
        """Keep scores and labels as plain numbers."""
        scores = per_sample(step.prediction, "anomaly_score", step.batch)
        if scores is not None:
            labels = labels_of(step.batch) or [UNKNOWN] * len(scores)
            rows = ((score, UNKNOWN if label is None else label) for score, label in zip(scores, labels, strict=True))
            self._images.setdefault(step.dataloader_idx, []).extend(rows)
        self._videos.setdefault(step.dataloader_idx, []).extend(frames_of(step.prediction, step.batch))

    def finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Gather the scores of all processes and draw them."""
        images = gather_loaders(trainer, stage, self._images)
        videos = gather_loaders(trainer, stage, self._videos)
        self._images, self._videos = {}, {}
        if trainer.is_global_zero:
            calibration = calibration_of(pl_module, "image")
            threshold = None if calibration is None else calibration.threshold("image")
            self._draw_part(trainer, stage, list(chain(*images)), list(chain(*videos)), threshold)
            for index, part in enumerate(zip(images, videos, strict=True)):
                if len(images) > 1:
                    self._draw_part(trainer, f"{stage}_dataloader_idx_{index}", *part, threshold)
        if all_written(trainer) and trainer.is_global_zero:
            remove_older(self._target, rf"{stage}(_dataloader_idx_\d+)?(_frame)?_(histogram|roc|pr)\.png", self._began)
        if trainer.is_global_zero:
            log_pictures(
                trainer, [self._target / f"{prefix}_{plot}.png" for prefix in self._drawn for plot in PLOTS], stage
            )

    def _draw_part(
        self,
        trainer: Trainer,
        prefix: str,
        images: list[tuple[float, int]],
        videos: list[Frames],
        threshold: float | None,
    ) -> None:
        """Draw one loader, or all."""
        self._drawn += [prefix, f"{prefix}_frame"]
        if images:
            score, label = (np.array(column) for column in zip(*images, strict=True))
            with going_on(trainer):
                _draw(self._target, prefix, score, label, unit="samples", threshold=threshold)
        if videos:
            score = np.concatenate([video.score for video in videos], dtype=np.float64)
            label = np.concatenate([_labels(video) for video in videos])
            with going_on(trainer):
                _draw(self._target, f"{prefix}_frame", score, label, unit="frames", threshold=None)


def _labels(video: Frames) -> Labels:
    return np.full(len(video.score), UNKNOWN, np.int8) if video.label is None else video.label.astype(np.int8)


def _draw(folder: Path, prefix: str, score: Scores, label: Labels, *, unit: str, threshold: float | None) -> None:
    files = [folder / f"{prefix}_{what}.png" for what in PLOTS]
    with new_axes(files[0]) as axes:
        _histogram(axes, score, label, unit, threshold)
    known = label != UNKNOWN
    score, label = score[known], label[known]
    if len(np.unique(label)) == 2 and np.isfinite(score).all():
        with new_axes(files[1]) as axes:
            _roc(axes, score, label)
        with new_axes(files[2]) as axes:
            _precision_recall(axes, score, label)


@contextmanager
def new_axes(path: Path, *, size: tuple[float, float] = (5, 4), texts: dict[str, str] | None = None) -> Iterator[Any]:
    """Axes of a new figure, written to ``path`` at the end; pyplot and its global state stay out of it.

    Args:
        path: Final name.
        size: Width and height in inches, of 150 pixels each.
        texts: Text chunks of the file, by keyword.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    yield axes
    with replacing(path) as temporary:
        figure.savefig(temporary, metadata=texts)


def _histogram(axes: Any, score: Scores, label: Labels, unit: str, threshold: float | None) -> None:
    from matplotlib.colors import to_rgba

    finite = np.isfinite(score)
    left_out = len(score) - finite.sum()
    score, label = score[finite], label[finite]
    edges = np.histogram_bin_edges(score, bins=int(np.clip(2 * np.sqrt(len(score)), 10, 60)))
    groups = {value: score[label == value] for value in GROUPS if (label == value).any()}
    counts = [len(chosen) for chosen in groups.values()]
    density = bool(counts) and max(counts) > BALANCED * min(counts)
    for value, chosen in groups.items():
        name, color = GROUPS[value]
        style = {"facecolor": to_rgba(color, 0.45), "edgecolor": color, "linewidth": 1.4}
        axes.hist(chosen, edges, density=density, histtype="stepfilled", label=f"{name} ({len(chosen)})", **style)
    if threshold is not None:
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1.2, label=f"threshold {threshold:.4g}")
    axes.set(
        xlabel="anomaly score",
        ylabel=f"density of {unit}, area 1 for each label" if density else unit,
        title="Scores" + (f", {left_out} not finite left out" if left_out else ""),
    )
    axes.legend(frameon=False)


def _roc(axes: Any, score: Scores, label: Labels) -> None:
    from sklearn.metrics import roc_curve

    false_positive, true_positive, _ = roc_curve(label, score)
    area = auroc(torch.from_numpy(score), torch.from_numpy(label)).item()
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linestyle=":", label="chance")
    axes.plot(false_positive, true_positive, color=BLUE, linewidth=1.8)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title=f"ROC, AUROC = {area:.4f}")
    _unit_square(axes)
    axes.legend(frameon=False, loc="lower right")


def _precision_recall(axes: Any, score: Scores, label: Labels) -> None:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(label, score, drop_intermediate=True)
    area = average_precision(torch.from_numpy(score), torch.from_numpy(label)).item()
    axes.axhline(label.mean(), color="#bbbbbb", linestyle=":", label="chance")
    axes.plot(recall, precision, drawstyle="steps-post", color=BLUE, linewidth=1.8)
    axes.set(xlabel="recall", ylabel="precision", title=f"Precision-recall, AP = {area:.4f}")
    _unit_square(axes)
    axes.legend(frameon=False, loc="lower left")


def _unit_square(axes: Any) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")

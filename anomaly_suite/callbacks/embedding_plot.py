"""EmbeddingPlot: what an encoder tells apart, as a picture in two dimensions."""

from __future__ import annotations

import random
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from anomaly_suite.callbacks.base import Stage, StageCallback, Step, labels_of, output_folder
from anomaly_suite.callbacks.plots import GROUPS, UNKNOWN, new_axes
from anomaly_suite.callbacks.processes import shared_by_all
from anomaly_suite.callbacks.writing import WritesFiles, all_written, going_on
from anomaly_suite.contract import KeyMap, check_key_map
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.atomic import try_folder
from anomaly_suite.io.seeds import derive_seed
from anomaly_suite.io.written import remove_older

LEAST = 5  # samples below which two dimensions say nothing
PERPLEXITY = 30.0  # of t-SNE, where there are three times as many samples
NAMES = ("encoder", "backbone")
MARKERS = "osD^vP*X"  # of pseudo-classes, in turn

Vectors = npt.NDArray[np.float32]


class EmbeddingPlot(WritesFiles, StageCallback):
    """Draw t-SNE, or UMAP where it is installed, of the features that a method's encoder gives of the images of ``test`` or ``predict``.

    The encoder is the module's ``encoder`` or ``backbone``, or the first part of that name inside of it; what it gives while images are
    scored is kept, its maps averaged over their cells. It must give one vector for each image: of encoders of patches nothing is drawn,
    which is said, as is a method without encoder. Colours are labels; markers are pseudo-classes where batches have the key ``pseudo_class``.

    A seeded sample of at most ``samples`` images is kept whatever the size of the data set, from all processes and loaders. Axes have no
    unit: only neighbourhoods mean something. Files: ``<stage>_tsne.png`` or ``<stage>_umap.png``. Not among the default callbacks.

    Args:
        method: ``tsne``, or ``umap``, for which the package umap-learn must be installed.
        samples: Most images drawn.
        seed: Of the sample and of the picture.
        folder: Where to write; ``plots`` in the run's log folder if None.
        key_map: Our names of keys, and what other loaders and modules call them.

    Raises:
        ConfigError: too few samples, a seed below 0, or ``umap`` that is not installed.
        FileWriteError: at the start of a stage, the folder cannot be written to; at its end, the file could not be written.
    """

    def __init__(
        self,
        *,
        method: Literal["tsne", "umap"] = "tsne",
        samples: int = 1000,
        seed: int = 0,
        folder: str | None = None,
        key_map: KeyMap | None = None,
    ) -> None:
        super().__init__()
        self.key_map = check_key_map(key_map)
        if samples < LEAST:
            raise ConfigError(f"samples must be at least {LEAST}; got {samples}. Draw some hundreds.")
        if not 0 <= seed < 2**32:
            raise ConfigError(f"seed must be between 0 and {2**32 - 1}; got {seed}. Give another seed.")
        if method == "umap" and find_spec("umap") is None:
            raise ConfigError(
                "method umap needs the package umap-learn; it is not installed. Install it, or choose tsne."
            )
        self.method = method
        self.samples = samples
        self.seed = seed
        self.folder = folder
        self._kept: list[tuple[float, int, int, tuple[float, ...]]] = []
        self._given: list[Tensor] = []
        self._hook: Any = None

    def begin(self, trainer: Trainer, stage: Stage) -> None:
        """Forget all features, and try the folder.

        Raises:
            FileWriteError: the folder cannot be written to.
        """
        self._kept, self._given = [], []
        self._draws = random.Random(derive_seed(self.seed, trainer.global_rank))
        self._target = output_folder(trainer, self.folder, "plots")
        self._began = try_folder(self._target)
        self._unhook()
        encoder = _encoder_of(trainer.lightning_module)
        self._reason = "the method has no part named encoder or backbone" if encoder is None else ""
        if encoder is not None:
            self._hook = encoder.register_forward_hook(self._note)

    def _note(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Keep what the encoder gives until the step is over."""
        value = output[-1] if isinstance(output, list | tuple) else output
        self._given.append(value.detach().flatten(2).mean(2) if value.dim() > 2 else value.detach())

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def collect(self, step: Step) -> None:
        """Keep the features of some images, each with its place in a random order."""
        given, self._given = self._given, []
        count = len(step.batch["image"]) if "image" in step.batch else -1
        if given and len(given[0]) == count:
            feature = given[0]
        elif given and sum(map(len, given)) == count:
            feature = torch.cat(given)
        else:
            self._reason = self._reason or "its encoder does not give one vector for each image"
            return
        labels = labels_of(step.batch) or [None] * count
        pseudo: Any = step.batch.get("pseudo_class")
        classes = [-1] * count if pseudo is None else [int(value) for value in pseudo]
        places = [self._draws.random() for _ in range(count)]
        worst = self._kept[-1][0] if len(self._kept) == self.samples else 1.0
        for index in (index for index in range(count) if places[index] < worst):
            label = UNKNOWN if labels[index] is None else int(labels[index])  # type: ignore[arg-type]
            self._kept.append((places[index], label, classes[index], tuple(feature[index].float().tolist())))
        self._kept = sorted(self._kept)[: self.samples]

    def finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Gather the samples of all processes and draw them, or say why there is nothing to draw."""
        self._unhook()
        kept = sorted(shared_by_all(trainer, self._kept))[: self.samples]  # by their places: as many of every process
        rows = [row for row in kept if np.isfinite(row[3]).all()]
        self._kept = []
        if trainer.is_global_zero and len(rows) >= LEAST:
            with going_on(trainer):
                self._draw(self._target / f"{stage}_{self.method}.png", rows)
        elif len(rows) < LEAST:
            reason = self._reason or f"it needs features of {LEAST} images; got {len(rows)}"
            rank_zero_info(f"EmbeddingPlot has nothing to draw of {stage}: {reason}.")
        if all_written(trainer) and trainer.is_global_zero:
            remove_older(self._target, rf"{stage}_(tsne|umap)\.png", self._began)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the encoder of a stage that was cut."""
        self._unhook()

    def _draw(self, path: Path, rows: list[tuple[float, int, int, tuple[float, ...]]]) -> None:
        _, labels, classes, features = zip(*rows, strict=True)
        place = embed(np.array(features, np.float32), method=self.method, seed=self.seed)
        label, pseudo = np.array(labels), np.array(classes)
        with new_axes(path, size=(6, 5)) as axes:
            for value, (name, color) in GROUPS.items():
                for number in np.unique(pseudo[label == value]):
                    chosen = (label == value) & (pseudo == number)
                    said = name if number < 0 else f"{name}, pseudo-class {number}"
                    marker = MARKERS[max(0, int(number)) % len(MARKERS)]
                    style = {"color": color, "marker": marker, "alpha": 0.65, "linewidths": 0, "s": 22}
                    axes.scatter(*place[chosen].T, label=f"{said} ({chosen.sum()})", **style)
            title = {"tsne": "t-SNE", "umap": "UMAP"}[self.method]
            axes.set(xticks=[], yticks=[], title=f"{title} of encoder features, {len(rows)} images")
            axes.spines[:].set_visible(False)
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.01), ncols=2)


def embed(feature: Vectors, *, method: Literal["tsne", "umap"], seed: int) -> Vectors:
    """Places in two dimensions.

    Args:
        feature: Shape (N, D), N at least 5.
        method: Of the reduction.
        seed: Of its start.

    Returns:
        Shape (N, 2).
    """
    if method == "umap":
        umap: Any = import_module("umap")  # not among the dependencies
        return np.asarray(umap.UMAP(n_neighbors=min(15, len(feature) - 1), random_state=seed).fit_transform(feature))
    from sklearn.manifold import TSNE

    if not np.ptp(feature, 0).any():  # all alike: t-SNE's start would divide by their deviation
        return np.zeros((len(feature), 2), np.float32)
    start: Any = "pca" if feature.shape[1] > 1 else "random"
    tsne = TSNE(perplexity=min(PERPLEXITY, (len(feature) - 1) / 3), init=start, random_state=seed)
    return np.asarray(tsne.fit_transform(feature))


def _encoder_of(module: nn.Module) -> nn.Module | None:
    """A module's encoder: its own, or the first one inside."""
    for name in NAMES:
        if isinstance(own := getattr(module, name, None), nn.Module):
            return own
    return next((part for name, part in module.named_modules() if name.rpartition(".")[2] in NAMES), None)

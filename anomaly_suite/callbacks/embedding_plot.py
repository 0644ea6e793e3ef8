"""EmbeddingPlot: what an encoder tells apart, as a picture in two dimensions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from anomaly_suite.callbacks.base import StageCallback, Step, labels_of, output_folder
from anomaly_suite.callbacks.loggers import log_pictures
from anomaly_suite.callbacks.plots import GROUPS, UNKNOWN, new_axes
from anomaly_suite.callbacks.processes import shared_by_all
from anomaly_suite.callbacks.reading import read_step
from anomaly_suite.callbacks.writing import WritesFiles, all_written, going_on
from anomaly_suite.contract import AnomalyModule, KeyMap, check_key_map
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.atomic import try_folder
from anomaly_suite.io.seeds import derive_seed
from anomaly_suite.io.written import remove_older

LEAST = 5  # samples below which two dimensions say nothing
PERPLEXITY = 30.0  # of t-SNE, where there are three times as many samples
NAMES = ("encoder", "backbone")
MARKERS = "osD^vP*X"  # of pseudo-classes, in turn
PALETTE = (
    "#4c9f70",
    "#d9a441",
    "#8c6bb1",
    "#4f4f4f",
    "#e07fa8",
    "#59b6c9",
    "#9c755f",
    "#a3b34c",
)  # of those without a label

Vectors = npt.NDArray[np.float32]
Row = tuple[float, int, int, tuple[float, ...]]
"""Place in the random order, label, pseudo-class (-1 for none), feature."""


Moment = Literal["fit", "test", "predict"]


class EmbeddingPlot(WritesFiles, StageCallback):
    """Draw t-SNE, or UMAP where it is installed, of the features that a method's encoder gives of images, at the end of fit, test or predict.

    The encoder is the module's ``encoder`` or ``backbone``, or the first part of that name inside of it; what it gives while images are
    scored is kept, its maps averaged over their cells. It must give one vector for each image: of encoders of patches the images are not
    drawn, which is said, as is a method without encoder. Colours are labels; markers are pseudo-classes where batches have the key
    ``pseudo_class``, as those of ``validation: medmix`` have. The picture of a fit shows the images of its last validation, and where
    the method tells apart classes that it makes of training images, as pre-trainings do, these, each class in a colour of its own.

    A seeded sample of at most ``samples`` images is kept whatever the size of the data set, from all processes and loaders. Axes have no
    unit: only neighbourhoods mean something. Files: ``<stage>_tsne.png`` or ``<stage>_umap.png``. Not among the default callbacks.

    Args:
        method: ``tsne``, or ``umap``, for which the package umap-learn must be installed.
        stages: At whose end to draw: ``fit``, ``test``, ``predict``.
        samples: Most images drawn, and as many training images in the classes of the method.
        seed: Of the sample and of the picture.
        folder: Where to write; ``plots`` in the run's log folder if None.
        key_map: Our names of keys, and what other loaders and modules call them.

    Raises:
        ConfigError: too few samples, a seed below 0, no stage, or ``umap`` that is not installed.
        FileWriteError: at the start of a stage, the folder cannot be written to; at its end, the file could not be written.
    """

    def __init__(
        self,
        *,
        method: Literal["tsne", "umap"] = "tsne",
        stages: Sequence[Moment] = ("fit", "test", "predict"),
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
        if not stages:
            raise ConfigError(
                "stages must name fit, test or predict; got none. Leave the callback out to draw nothing."
            )
        if method == "umap" and find_spec("umap") is None:
            raise ConfigError(
                "method umap needs the package umap-learn; it is not installed. Install it, or choose tsne."
            )
        self.method = method
        self.stages = tuple(stages)
        self.samples = samples
        self.seed = seed
        self.folder = folder
        self._kept: list[Row] = []
        self._given: list[Tensor] = []
        self._hook: Any = None

    # Images that are scored ------------------------------------------------------------------------------------------

    def begin(self, trainer: Trainer, stage: Moment) -> None:
        """Forget all features, and try the folder.

        Raises:
            FileWriteError: the folder cannot be written to.
        """
        if stage not in self.stages:
            return
        self._target = output_folder(trainer, self.folder, "plots")
        self._began = try_folder(self._target)
        self._listen(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin; a run that validates nothing has no images to keep."""
        self.begin(trainer, "fit")
        self._unhook()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier validation of the fit."""
        if self._fits(trainer):
            self._listen(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Collect."""
        if self._fits(trainer) and (read := read_step(outputs, batch, self.key_map)) is not None:
            self.collect(Step(trainer, pl_module, *read, "test", 0))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the encoder."""
        self._unhook()

    def _fits(self, trainer: Trainer) -> bool:
        return "fit" in self.stages and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking

    def _listen(self, trainer: Trainer) -> None:
        self._unhook()
        self._kept, self._given = [], []
        self._draws = random.Random(derive_seed(self.seed, trainer.global_rank))
        encoder = _encoder_of(trainer.lightning_module)
        self._reason = "the method has no part named encoder or backbone" if encoder is None else ""
        if encoder is not None:
            self._hook = encoder.register_forward_hook(self._note)

    def _note(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Keep what the encoder gives until the step is over."""
        self._given.append(_vectors(output))

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def collect(self, step: Step) -> None:
        """Keep the features of some images, each with its place in a random order."""
        given, self._given = self._given, []
        if self._hook is None:
            return
        count = len(step.batch["image"]) if "image" in step.batch else -1
        if given and len(given[0]) == count:
            feature = given[0]
        elif given and sum(map(len, given)) == count:
            feature = torch.cat(given)
        else:
            self._reason = self._reason or "its encoder does not give one vector for each image"
            return
        labels = labels_of(step.batch) or [None] * count
        pseudo = step.batch.get("pseudo_class")
        classes = [-1] * count if pseudo is None else [int(value) for value in pseudo]
        self._kept = self._sampled(self._kept, feature, labels, classes)

    def _sampled(
        self, kept: list[Row], feature: Tensor, labels: Sequence[int | None], classes: Sequence[int]
    ) -> list[Row]:
        """Rows with those of features (B, D), the first ``samples`` in a random order."""
        places = [self._draws.random() for _ in classes]
        worst = kept[-1][0] if len(kept) == self.samples else 1.0
        more = list(kept)
        for index in (index for index, place in enumerate(places) if place < worst):
            label = labels[index]
            values = tuple(feature[index].float().tolist())
            more.append((places[index], UNKNOWN if label is None else int(label), classes[index], values))
        return sorted(more)[: self.samples]

    def finish(self, trainer: Trainer, pl_module: LightningModule, stage: Moment) -> None:
        """Gather the samples of all processes and draw them, or say why there is nothing to draw."""
        if stage in self.stages:
            self._unhook()
            self._finish(trainer, stage, self._shared(trainer, self._kept))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the encoder of a stage that was cut."""
        self._unhook()

    # Classes that the method makes -----------------------------------------------------------------------------------

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the images of the last validation and those of the method's classes."""
        if "fit" not in self.stages:
            return
        self._unhook()
        rows = self._shared(trainer, self._kept)
        made = self._shared(trainer, self._made(trainer, pl_module))
        if not rows + made and not self._reason:
            self._reason = "no image was validated, and the method has no classes of training images"
        self._finish(trainer, "fit", rows + made)

    @torch.no_grad()
    def _made(self, trainer: Trainer, pl_module: LightningModule) -> list[Row]:
        """Rows of training images in the classes of the method; of a loader that shuffles, the first are a sample."""
        encoder, made = _encoder_of(pl_module), list[Row]()
        if encoder is None or not isinstance(pl_module, AnomalyModule):
            return made
        if type(pl_module).pseudo_class_images is AnomalyModule.pseudo_class_images:
            return made
        generator = torch.Generator(pl_module.device).manual_seed(derive_seed(self.seed, trainer.global_rank, 1))
        training = pl_module.training
        pl_module.eval()
        for batch in pl_module.training_batches():
            found = pl_module.pseudo_class_images(batch["image"], generator) if "image" in batch else None
            if found is None:
                break
            images, number = found
            made = self._sampled(made, _vectors(encoder(images)), [None] * len(number), number.tolist())
            if len(made) == self.samples:  # in every process at once, since batches are as large
                break
        pl_module.train(training)
        return made

    # The picture -----------------------------------------------------------------------------------------------------

    def _shared(self, trainer: Trainer, mine: list[Row]) -> list[Row]:
        """Of all processes, by their places: as many of every process."""
        return sorted(shared_by_all(trainer, mine))[: self.samples]

    def _finish(self, trainer: Trainer, stage: Moment, rows: list[Row]) -> None:
        rows = [row for row in rows if np.isfinite(row[3]).all()]
        self._kept = []
        if trainer.is_global_zero and len(rows) >= LEAST:
            with going_on(trainer):
                self._draw(self._target / f"{stage}_{self.method}.png", rows)
                log_pictures(trainer, [self._target / f"{stage}_{self.method}.png"], stage)
        elif len(rows) < LEAST:
            reason = self._reason or f"it needs features of {LEAST} images; got {len(rows)}"
            rank_zero_info(f"EmbeddingPlot has nothing to draw of {stage}: {reason}.")
        if all_written(trainer) and trainer.is_global_zero:
            remove_older(self._target, rf"{stage}_(tsne|umap)\.png", self._began)

    def _draw(self, path: Path, rows: list[Row]) -> None:
        _, labels, classes, features = zip(*rows, strict=True)
        place = embed(np.array(features, np.float32), method=self.method, seed=self.seed)
        label, pseudo = np.array(labels), np.array(classes)
        with new_axes(path, size=(6, 5)) as axes:
            for value, number in sorted(set(zip(labels, classes, strict=True)), key=lambda pair: (pair[0] < 0, pair)):
                chosen = (label == value) & (pseudo == number)
                name, style = _style(value, number)
                axes.scatter(
                    *place[chosen].T, label=f"{name} ({chosen.sum()})", alpha=0.65, linewidths=0, s=22, **style
                )
            title = {"tsne": "t-SNE", "umap": "UMAP"}[self.method]
            axes.set(xticks=[], yticks=[], title=f"{title} of encoder features, {len(rows)} images")
            axes.spines[:].set_visible(False)
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.01), ncols=2)


def _style(label: int, pseudo: int) -> tuple[str, dict[str, str]]:
    """Name of a group in the legend, its colour and its marker."""
    name, color = GROUPS[label]
    if pseudo < 0:
        return name, {"color": color, "marker": MARKERS[0]}
    marker = MARKERS[pseudo % len(MARKERS)]
    if label == UNKNOWN:
        return f"pseudo-class {pseudo}", {"color": PALETTE[pseudo % len(PALETTE)], "marker": marker}
    return f"{name}, pseudo-class {pseudo}", {"color": color, "marker": marker}


def _vectors(output: Any) -> Tensor:
    """What an encoder gave, one vector (D,) a sample: of several maps the last, averaged over its cells."""
    value: Tensor = output[-1] if isinstance(output, list | tuple) else output
    return value.detach().flatten(2).mean(2) if value.dim() > 2 else value.detach()


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

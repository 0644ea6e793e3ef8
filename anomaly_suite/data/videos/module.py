"""VideoFeatures: the data module of whole videos as snippet features; a data set lists its videos."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch.utils.data import DataLoader

from anomaly_suite.contract import SEGMENTS, AnomalyDataModule, Preparation, Splits, Validation
from anomaly_suite.contract.loader import TrainingLoader
from anomaly_suite.data.batched_dataset import BatchedDataset
from anomaly_suite.data.videos.datasets import BalancedBags, WholeVideos
from anomaly_suite.data.videos.feature_files import Layout, Video
from anomaly_suite.data.videos.frame_truth import LengthRule
from anomaly_suite.data.videos.scale import Scale
from anomaly_suite.errors import ConfigError, DatasetError
from anomaly_suite.io.folders import require_files
from anomaly_suite.io.seeds import derive_seed

log = logging.getLogger(__name__)

RECORD = "features.json"  # of extract-features
LEVELS = 4  # folders above a file of features in which it may be


class VideoFeatures(AnomalyDataModule):
    """Data module on snippet features: a data set writes :meth:`read`, which lists training and test videos.

    A training batch holds ``train_batch_size`` normal and as many anomalous videos. ``validation: holdout`` keeps ``val_size``
    of the training videos of each class; they have no frame truth, so validation metrics are those of whole videos.

    Args:
        segments: Parts to which a video is averaged in training.
        layout: Order of the axes in three-dimensional files: ``snippets_first`` (T, C, D), ``crops_first`` (C, T, D).
        length_rule: Where truth and features have different lengths: ``cut`` both to the shorter, or ``extend`` the truth by
            its last value to the 16 frames of every snippet.
        standardize: Give every feature value mean 0 and variance 1 over the snippets of normal training videos, clipped
            to 5.
        batches_per_epoch: Training batches of an epoch; as many as the larger class fills if None.
        cache: Folder where pooled training videos are kept, so that later epochs and runs read them; None reads the whole
            files every time.
        train_batch_size: Normal videos, and as many anomalous ones, per training step and process.
        eval_batch_size: Whole videos per validation, test or predict step and process, padded to the longest of them.
        num_workers: Loader processes; 0 loads in the main process.
        seed: Decides the validation split and the order of training videos.
        validation: ``holdout`` keeps ``val_size`` of the training videos of each class; ``test`` takes the test videos, which
            every result file then says; ``none``. There are no augmented copies of videos.
        val_size: A fraction of the training videos of each class, or a count if an integer.

    Raises:
        ConfigError: an option that cannot work.
    """

    def __init__(
        self,
        *,
        segments: int = SEGMENTS,
        layout: Layout = "snippets_first",
        length_rule: LengthRule = "cut",
        standardize: bool = False,
        batches_per_epoch: int | None = None,
        cache: str | None = None,
        train_batch_size: int = 32,
        eval_batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        validation: Validation = "holdout",
        val_size: int | float = 0.1,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            validation=validation,
            val_size=val_size,
        )
        if segments < 1:
            raise ConfigError(f"segments must be at least 1; got {segments}.")
        if batches_per_epoch is not None and batches_per_epoch < 1:
            raise ConfigError(f"batches_per_epoch must be at least 1; got {batches_per_epoch}.")
        if self.validation in ("augmented", "medmix"):
            raise ConfigError(
                f"validation: {self.validation} makes copies of images; videos have none. Use holdout, test or none."
            )
        self.segments = segments
        self.layout: Layout = layout
        self.length_rule: LengthRule = length_rule
        self.standardize = standardize
        self.batches_per_epoch = batches_per_epoch
        self.cache = None if cache is None else Path(cache).expanduser()
        self.scale: Scale | None = None
        self.extraction: dict[str, Any] | None = None
        """How the features of the training videos were made, as ``features.json`` beside them says; None where none is there."""

    def read(self) -> tuple[list[Video], list[Video]]:
        """List training and test videos.

        Raises:
            NotImplementedError: the data set does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define read().")

    def build(self) -> Splits:
        """Check the lists and split them.

        Raises:
            DatasetNotFoundError: a file is missing.
            DatasetError: a video is listed twice, or a class or the test part has no videos.
            ConfigError: nothing would be left for training.
        """
        train, test = self.read()
        check_videos(train, test)
        require_files([file for video in train + test for file in video.files + video.beside], source="the data set")
        kept: list[Video] = []
        held: list[Video] = []
        for kind, what in enumerate(("normal", "anomalous")):
            members = [video for video in train if video.label == kind]
            if not members:
                raise DatasetError(f"{type(self).__name__} has no {what} training video. Training needs both kinds.")
            stay, go = self.hold_out(len(members))
            kept += [members[row] for row in stay]
            held += [members[row] for row in go]
        self.scale = Scale.of(kept, self.layout) if self.standardize else None
        self.extraction = extraction_of(kept)
        whole = partial(WholeVideos, layout=self.layout, rule=self.length_rule, scale=self.scale)
        truth = all(video.frame_label is not None for video in test if video.label)
        return Splits(whole(kept), whole(held) if held else None, whole(test, frames=truth))

    def preparation(self) -> Preparation:
        """Refuse pictures.

        Raises:
            ConfigError: always, with the command for videos.
        """
        raise ConfigError(
            f"{type(self).__name__} gives snippet features of videos, and its methods take no pictures. Score videos by anomaly-suite predict "
            "--run RUN clip.mp4."
        )

    def state_dict(self) -> dict[str, Any]:
        """What new videos need: the scale of the features, and how they were made."""
        state = super().state_dict()
        if self.scale is not None:
            state["scale"] = self.scale._asdict()
        return {**state, **({} if self.extraction is None else {"extraction": self.extraction})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the scale, and how features were made, from a checkpoint; data that are read later say it anew."""
        super().load_state_dict(state_dict)
        if "scale" in state_dict:
            self.scale = Scale(**state_dict["scale"])
        self.extraction = state_dict.get("extraction", self.extraction)

    def scale_of_training(self) -> Scale | None:
        """What new videos are standardised by, from the checkpoint or else the data set; None without ``standardize``.

        Raises:
            DatasetNotFoundError: the data set is needed, and not there.
        """
        if self.standardize and self.scale is None:
            self.splits = self.build()
        return self.scale

    def train_dataloader(self) -> DataLoader[Any]:
        """Balanced batches, reshuffled every epoch from the seed and the epoch's number."""
        world = 1 if self.trainer is None else self.trainer.world_size
        bags = self.training_bags(block=self.train_batch_size * world)
        # The bags come shuffled, and a whole number of batches of all processes: each takes every world-th pair.
        return self._loader(bags, self.train_batch_size, kind=TrainingLoader)

    def training_bags(self, *, block: int) -> BatchedDataset:
        """Training bags for batches of ``block`` pairs over all processes."""
        return BalancedBags(
            cast(WholeVideos, self.require_splits().train),  # see build
            segments=self.segments,
            block=block,
            batches=self.batches_per_epoch,
            seed=derive_seed(self.seed, 1),
            cache=self.cache,
        )


def extraction_of(videos: Sequence[Video]) -> dict[str, Any] | None:
    """What ``features.json`` beside or above the first features says of how they were made; None where it is not known.

    Args:
        videos: Of one data set. Features of two networks side by side are of no one extraction.
    """
    if not videos or not videos[0].files or videos[0].beside:
        return None
    file = videos[0].files[0].absolute()
    for folder in itertools.islice(file.parents, LEVELS):
        with suppress(OSError, ValueError):
            content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            return content if isinstance(content, dict) else None
    return None


def check_videos(train: Sequence[Video], test: Sequence[Video]) -> None:
    """Refuse videos listed twice, in one part or in both, and parts without videos.

    Raises:
        DatasetError: naming the video.
    """
    if not test:
        raise DatasetError("the data set has no test video. Check root and the list of test videos.")
    seen: dict[str, str] = {}
    for part, videos in (("training", train), ("test", test)):
        for video in videos:
            if video.name in seen:
                raise DatasetError(
                    f"video {video.name!r} is in the {seen[video.name]} part and again in the {part} part. "
                    "List every video once."
                )
            seen[video.name] = part


def log_counts(
    dataset: str, train: Sequence[Video], test: Sequence[Video], published: tuple[int, int, int, int]
) -> None:
    """Log normal and anomalous videos in training and test, and the published numbers where they are others."""
    counts = tuple(sum(video.label == label for video in part) for part in (train, test) for label in (0, 1))
    log.info("%s: %d normal and %d anomalous training, %d normal and %d anomalous test videos", dataset, *counts)
    if counts != published:
        log.info("%s has published %d, %d, %d and %d", dataset, *published)

"""Videos as files of snippet features: reading, batches of whole videos, balanced bags for training.

Files are NumPy arrays, opened memory-mapped; nothing is kept beyond a batch.

Axes: B videos, C crops, T snippets, L segments, D feature width, F frames of all videos, one video after another.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_suite.contract import AnomalyDataModule, Batch, ShardSampler, Splits, as_batch
from anomaly_suite.data.files import require_files
from anomaly_suite.data.sets import BatchedDataset, derive_seed
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError
from anomaly_suite.snippets import SEGMENTS, SNIPPET_FRAMES, pool_segments, snippet_count

Layout = Literal["snippets_first", "crops_first"]
LengthRule = Literal["cut", "extend"]

STANDARD_LIMIT = 5.0  # standardised features beyond it say nothing more; rtfm.md's Ped2 experiment


class Video(NamedTuple):
    """One video.

    ``source`` is a file of all crops, several files of one crop each, or the features (C, T, D) themselves.
    ``frame_label`` is bool (frames,) where the truth is known; a normal video needs none. ``beside`` are files of other
    features of the same crops (optical flow beside RGB), which are appended along D.
    """

    name: str
    label: int
    source: Path | tuple[Path, ...] | Tensor
    frame_label: npt.NDArray[np.bool_] | None = None
    beside: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of ``source``; none where that is a tensor."""
        if isinstance(self.source, Tensor):
            return ()
        return self.source if isinstance(self.source, tuple) else (self.source,)


def open_array(file: Path) -> npt.NDArray[Any]:
    """Open a ``.npy`` file without reading it.

    Returns:
        Memory-mapped, of any shape and type but Python objects.

    Raises:
        DatasetNotFoundError: there is no such file.
        DatasetError: it is no plain array.
    """
    try:
        # numpy.load would open archives of arrays as well.
        array: npt.NDArray[Any] = np.lib.format.open_memmap(file, mode="r")
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"there is no file '{file}'. Check root and the list of videos.") from error
    except Exception as error:  # damaged headers raise errors of many kinds
        raise DatasetError(
            f"'{file}' is no plain NumPy array ({error}). Object arrays hold pickles, which are never loaded: save it again with "
            "numpy.save(file, numpy.asarray(array, dtype='float32'))."
        ) from error
    return array


def open_features(file: Path, layout: Layout = "snippets_first") -> npt.NDArray[Any]:
    """Open a file of snippet features without reading it.

    Args:
        file: A ``.npy`` array of shape (T, C, D), (C, T, D) with ``layout: crops_first``, or (T, D) for one crop.
        layout: Order of the first two of three axes.

    Returns:
        Memory-mapped, shape (C, T, D).

    Raises:
        DatasetNotFoundError: there is no such file.
        DatasetError: no plain array of numbers of such a shape.
    """
    array = open_array(file)
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "fiu":
        raise DatasetError(
            f"'{file}' must be numbers of shape (T, D), (T, C, D) or (C, T, D); got {array.shape} {array.dtype}. "
            "Extract the features of this video again."
        )
    if array.ndim == 2:
        return array[None]
    return array if layout == "crops_first" else np.swapaxes(array, 0, 1)


def read_video(video: Video, layout: Layout = "snippets_first") -> Tensor:
    """Features of a whole video, float32 (C, T, D).

    Raises:
        DatasetNotFoundError: a file is missing.
        DatasetError: crops of different lengths, or values that are no finite numbers.
    """
    if isinstance(video.source, Tensor):
        return video.source
    features = [_read_crops(video.name, files, layout) for files in (video.files, video.beside) if files]
    if len(features) == 1:
        return features[0]
    lengths = [part.shape[1] for part in features]
    if features[0].shape[0] != features[1].shape[0] or abs(lengths[0] - lengths[1]) > 1:
        raise DatasetError(
            f"'{video.files[0]}' holds features of shape {tuple(features[0].shape)} and '{video.beside[0]}' beside it of "
            f"{tuple(features[1].shape)} (C, T, D). Extract both from the same crops and frames."
        )
    return torch.cat([part[:, : min(lengths)] for part in features], dim=2)  # flow has one frame less than RGB


def _read_crops(name: str, files: tuple[Path, ...], layout: Layout) -> Tensor:
    parts = [open_features(file, layout) for file in files]
    if len({part.shape[1:] for part in parts}) > 1:
        shapes = ", ".join(f"{file.name} {part.shape}" for file, part in zip(files, parts, strict=True))
        raise DatasetError(f"the crops of video {name!r} differ in length or width: {shapes}. Extract them again.")
    features = torch.from_numpy(np.concatenate([np.array(part, dtype=np.float32) for part in parts]))
    finite = features.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        file = files[int(finite.int().argmin()) * len(files) // len(features)]
        raise DatasetError(
            f"'{file}' holds NaN or infinity. Extract the features of video {name!r} again, or leave the video out."
        )
    return features


def snippets_of(video: Video, layout: Layout = "snippets_first") -> int:
    """T of a video, from the headers of its files."""
    if isinstance(video.source, Tensor):
        return video.source.shape[1]
    return min(int(open_features(files[0], layout).shape[1]) for files in (video.files, video.beside) if files)


def snippet_slack(snippets: int) -> int:
    """By how many snippets the truth of a video may be longer or shorter than its features.

    Programs that decode a video disagree on its last frames, and some drop frames in between: one snippet in fifty, or one.
    """
    return max(1, snippets // 50)


def fit_length(video: Video, snippets: int, rule: LengthRule) -> npt.NDArray[np.bool_]:
    """Frame truth of as many frames as are scored.

    Args:
        video: Its ``frame_label`` has one entry a frame; None is a normal video, normal throughout.
        snippets: Snippets of its features; each has 16 frames.
        rule: ``cut`` both to the shorter; ``extend`` the truth by its last value to the frames of all snippets, as the
            ground-truth files of RTFM do. Longer truth is cut in both.

    Raises:
        DatasetError: the lengths differ by more than one snippet in fifty (or one), so that they cannot belong together.

    Example:
        >>> truth = np.array([False] * 15 + [True])
        >>> fit_length(Video("v", 1, torch.zeros(1, 2, 1), truth), 2, "extend")[14:18]
        array([False,  True,  True,  True])
    """
    truth, frames = video.frame_label, SNIPPET_FRAMES * snippets
    if truth is None:
        return np.zeros(frames, np.bool_)
    expected = snippet_count(len(truth))
    if abs(expected - snippets) > snippet_slack(expected):
        raise DatasetError(
            f"video {video.name!r} has frame truth of {len(truth)} frames, which are {expected} snippets, but features of {snippets}. "
            "Take truth and features from one source."
        )
    if rule == "cut" or len(truth) >= frames:
        return truth[:frames]
    return np.pad(truth, (0, frames - len(truth)), mode="edge")


class Scale(NamedTuple):
    """Mean and standard deviation of every feature value over normal training snippets, shapes (D,)."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, videos: Sequence[Video], layout: Layout) -> Scale:
        """One pass over the normal ones of ``videos``, in float64."""
        total: Any = 0
        square: Any = 0
        count = 0
        first: tuple[str, Tensor] | None = None
        for video in videos:
            if not video.label:
                whole = read_video(video, layout)
                first = first or (video.name, whole[:, :1].clone())  # kept for its shape
                _same_shape([first, (video.name, whole)])
                features = whole.double().flatten(0, 1)
                total, square, count = total + features.sum(0), square + features.square().sum(0), count + len(features)
        mean = total / count
        deviation = (square / count - mean.square()).clamp_min(0).sqrt()
        return cls(mean.float(), deviation.clamp_min(1e-6).float())

    def __call__(self, features: Tensor) -> Tensor:
        """Standardised features, clipped to 5 standard deviations."""
        return ((features - self.mean) / self.deviation).clamp_(-STANDARD_LIMIT, STANDARD_LIMIT)


class WholeVideos(BatchedDataset):
    """Videos with all their snippets, padded to the longest of a batch.

    Args:
        videos: The videos.
        layout: See :func:`open_features`.
        rule: See :func:`fit_length`.
        scale: Applied to all features.
        frames: Give frame truth; a normal video without it is normal throughout.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        *,
        layout: Layout = "snippets_first",
        rule: LengthRule = "cut",
        scale: Scale | None = None,
        frames: bool = False,
    ) -> None:
        self.videos = videos
        self.layout = layout
        self.rule: LengthRule = rule
        self.scale = scale
        self.frames = frames

    def __len__(self) -> int:
        return len(self.videos)

    def features(self, index: int) -> Tensor:
        """Features of one video, (C, T, D)."""
        features = read_video(self.videos[index], self.layout)
        return features if self.scale is None else self.scale(features)

    def batch(self, indices: list[int]) -> Batch:
        """``snippet_features``, ``length``, ``label``, ``image_path``; ``frame_label`` and ``frame_count`` if known."""
        videos = [self.videos[index] for index in indices]
        parts = [self.features(index) for index in indices]
        _same_shape([(video.name, part) for video, part in zip(videos, parts, strict=True)])
        length = [part.shape[1] for part in parts]
        features = parts[0].new_zeros(len(parts), parts[0].shape[0], max(length), parts[0].shape[2])
        for row, part in zip(features, parts, strict=True):
            row[:, : part.shape[1]] = part
        batch: Batch = {
            "snippet_features": features,
            "length": torch.tensor(length),
            "label": torch.tensor([video.label for video in videos]),
            "image_path": [video.name for video in videos],
        }
        if self.frames:
            truths = [fit_length(video, count, self.rule) for video, count in zip(videos, length, strict=True)]
            batch["frame_label"] = torch.from_numpy(np.concatenate(truths))
            batch["frame_count"] = torch.tensor([len(truth) for truth in truths])
        return batch


class BalancedBags(BatchedDataset):
    """Pairs of a normal and an anomalous training video, pooled to segments; a batch holds all normal ones first.

    Each class is shuffled anew from the seed and the epoch, goes round as often as needed, and is restarted where it can
    fill no whole batch, so no video is twice in a batch unless its class is smaller than the batch.

    Args:
        videos: Training videos of both classes.
        segments: L.
        block: Pairs of a batch, of all processes together.
        batches: Batches of an epoch; as many as the larger class fills if None.
        seed: Decides the order.
        cache: Folder for pooled videos, so that each is pooled once; None pools every time.
    """

    def __init__(
        self,
        videos: WholeVideos,
        *,
        segments: int,
        block: int,
        batches: int | None,
        seed: int,
        cache: Path | None = None,
    ) -> None:
        self.videos = videos
        self.segments = segments
        self.block = block
        labels = np.array([video.label for video in videos.videos])
        self.rows = (np.flatnonzero(labels == 0), np.flatnonzero(labels == 1))
        largest = max(map(len, self.rows))
        self.batches = max(1, largest // block) if batches is None else batches
        self.seed = seed
        self.cache = cache
        self.epoch = 0  # the sampler sets it

    def __len__(self) -> int:
        return self.batches * self.block

    def batch(self, indices: list[int]) -> Batch:
        """``snippet_features`` (2B, C, L, D), ``label`` and ``image_path``."""
        rows = [int(row) for kind in (0, 1) for row in self._order(kind)[indices]]
        parts = [self._pooled(row) for row in rows]
        videos = [self.videos.videos[row] for row in rows]
        _same_shape([(video.name, part) for video, part in zip(videos, parts, strict=True)])
        return {
            "snippet_features": torch.stack(parts),
            "label": torch.tensor([video.label for video in videos]),
            "image_path": [video.name for video in videos],
        }

    def _order(self, kind: int) -> npt.NDArray[np.int64]:
        """Row of every pair of this epoch."""
        rows = self.rows[kind]
        rounds = max(1, len(rows) // self.block)  # whole batches before a restart
        orders = []
        for turn in range(-(-self.batches // rounds)):
            order = np.random.default_rng((self.seed, self.epoch, kind, turn)).permutation(rows)
            orders.append(np.resize(order, rounds * self.block))
        return np.concatenate(orders)[: len(self)]

    def _pooled(self, row: int) -> Tensor:
        video = self.videos.videos[row]
        if self.cache is None or isinstance(video.source, Tensor):
            return self._pool(row)
        # A file that was extracted again has another time, a standardised one other numbers.
        states = [(str(file.resolve()), file.stat().st_mtime_ns) for file in video.files + video.beside]
        words = f"{states} {self.segments} {self.videos.layout} {_fingerprint(self.videos.scale)}"
        pooled = self.cache / f"{hashlib.sha256(words.encode()).hexdigest()[:24]}.npy"
        if not pooled.is_file():
            self.cache.mkdir(parents=True, exist_ok=True)
            temporary = pooled.with_name(f".{uuid.uuid4().hex}.npy")  # several processes may pool the same video
            np.save(temporary, self._pool(row).numpy())
            os.replace(temporary, pooled)
        return torch.from_numpy(np.load(pooled, allow_pickle=False))

    def _pool(self, row: int) -> Tensor:
        return pool_segments(self.videos.features(row).unsqueeze(0), self.segments)[0]


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
        eval_batch_size: Whole videos a validation, test or predict step and process, padded to the longest of them.
        base: Options of :class:`~anomaly_suite.contract.AnomalyDataModule`.

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
        eval_batch_size: int = 1,
        **base: Any,
    ) -> None:
        super().__init__(eval_batch_size=eval_batch_size, **base)
        if segments < 1:
            raise ConfigError(f"segments must be at least 1; got {segments}.")
        if batches_per_epoch is not None and batches_per_epoch < 1:
            raise ConfigError(f"batches_per_epoch must be at least 1; got {batches_per_epoch}.")
        if self.validation == "augmented":
            raise ConfigError(
                "validation: augmented makes copies of images; videos have none. Use holdout, test or none."
            )
        self.segments = segments
        self.layout: Layout = layout
        self.length_rule: LengthRule = length_rule
        self.standardize = standardize
        self.batches_per_epoch = batches_per_epoch
        self.cache = None if cache is None else Path(cache).expanduser()

    def read(self) -> tuple[list[Video], list[Video]]:
        """Training and test videos."""
        raise NotImplementedError(f"{type(self).__name__} must define read().")

    def build(self) -> Splits:
        """Check the lists and split them."""
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
        scale = Scale.of(kept, self.layout) if self.standardize else None

        def whole(videos: list[Video], *, frames: bool) -> WholeVideos:
            return WholeVideos(videos, layout=self.layout, rule=self.length_rule, scale=scale, frames=frames)

        truth = all(video.frame_label is not None for video in test if video.label)
        return Splits(whole(kept, frames=False), whole(held, frames=False) if held else None, whole(test, frames=truth))

    def train_dataloader(self) -> DataLoader[Any]:
        """Balanced batches, reshuffled every epoch from the seed and the epoch's number."""
        self.setup()
        assert self.splits is not None
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)
        bags = self.training_bags(block=self.train_batch_size * world)
        # The bags come shuffled, and a whole number of batches of all processes: each takes every world-th pair.
        return DataLoader(
            bags,
            batch_size=self.train_batch_size,
            sampler=ShardSampler(bags, world=world, rank=rank, shuffle=False, seed=self.seed),
            num_workers=self.num_workers,
            collate_fn=as_batch,
            pin_memory=torch.cuda.is_available(),
        )

    def training_bags(self, *, block: int) -> BatchedDataset:
        """Training bags for batches of ``block`` pairs over all processes."""
        assert self.splits is not None
        assert isinstance(self.splits.train, WholeVideos)
        return BalancedBags(
            self.splits.train,
            segments=self.segments,
            block=block,
            batches=self.batches_per_epoch,
            seed=derive_seed(self.seed, 1),
            cache=self.cache,
        )


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


def _same_shape(parts: Sequence[tuple[str, Tensor]]) -> None:
    first, one = parts[0]
    for name, part in parts:
        if (part.shape[0], part.shape[2]) != (one.shape[0], one.shape[2]):
            raise DatasetError(
                f"video {first!r} has {one.shape[0]} crops of width {one.shape[2]}, {name!r} {part.shape[0]} of "
                f"{part.shape[2]}. Extract all videos with the same network and crops."
            )


def _fingerprint(scale: Scale | None) -> str:
    return "" if scale is None else hashlib.sha256(torch.stack(scale).numpy().tobytes()).hexdigest()

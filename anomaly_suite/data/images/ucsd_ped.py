"""UCSD pedestrian walkways as images: patches of frames, as methods of small images take them, or whole frames.

Mahadevan et al., "Anomaly Detection in Crowded Scenes", CVPR 2010; protocol of patches: Khazaie, MSc thesis, ch. 3 and 4, whose open
points are options here. Layout: see ``ucsd_clips``.
Axes: T frames, N patches, B batch, C channels, H and W pixels, P side of a patch, h and w patches of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from anomaly_suite.contract import AnomalyDataModule, Batch, FrameTruth, Splits, Validation
from anomaly_suite.data.batched_dataset import BatchedDataset
from anomaly_suite.data.images.image_set import ImageSet
from anomaly_suite.data.images.pseudo_anomalies import WithPseudoAnomalies
from anomaly_suite.data.videos.ucsd_clips import OBTAIN, Clip, Part, read_clips, read_frames, read_masks
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.folders import data_root, find_root
from anomaly_suite.io.images import image_size

Frames = npt.NDArray[np.uint8]

FOLDERS = {"ped1": "UCSDped1", "ped2": "UCSDped2"}
PUBLISHED = {"ped1": (34, 36), "ped2": (16, 12)}  # clips for training and testing
AT_ONCE = 32  # frames compared with the median in one go, which bounds the memory


class Patches(NamedTuple):
    """Patches of clips: pixels (N, C, P, P) uint8, the frame of each over all clips (N,), its anomalous pixels (N,), those of all frames (F,)."""

    pixels: Tensor
    frame: Tensor
    area: Tensor
    frame_area: Tensor
    names: list[str]


def with_motion(frames: Frames) -> Frames:
    """Frames with what has changed: grey, and the absolute differences to the frame before and to the one after.

    Args:
        frames: Of one clip, shape (T, H, W), at least 2.

    Returns:
        Shape (T, 3, H, W); at the ends of the clip both differences are those to the one neighbour.
    """
    step = np.abs(np.diff(frames.astype(np.int16), axis=0)).astype(np.uint8)
    return np.stack([frames, np.concatenate([step[:1], step]), np.concatenate([step, step[-1:]])], 1)


def cut(frames: npt.NDArray[np.generic], side: int) -> npt.NDArray[np.generic]:
    """Frames (T, ..., H, W) as patches without overlap (T, h, w, ..., P, P); rows and columns that are left over are dropped.

    Example:
        >>> cut(np.zeros((4, 3, 158, 238)), 30).shape
        (4, 5, 7, 3, 30, 30)
    """
    rows, columns = (size // side for size in frames.shape[-2:])
    inner = frames.shape[1:-2]
    parts = frames[..., : rows * side, : columns * side].reshape(len(frames), *inner, rows, side, columns, side)
    return np.moveaxis(np.moveaxis(parts, -4, 1), -2, 2)


def shows_something(frames: Frames, side: int, *, difference: float, share: float) -> npt.NDArray[np.bool_]:
    """Which patches show more than the background, the median of the clip at each pixel.

    Args:
        frames: Of one clip, shape (T, H, W).
        side: P.
        difference: Grey levels by which a pixel must differ.
        share: Of the pixels of a patch that must.

    Returns:
        Shape (T, h, w).
    """
    by_pixel = np.ascontiguousarray(frames.reshape(len(frames), -1).T)  # rows that can be sorted
    median = np.median(by_pixel, axis=1).astype(np.float32).reshape(frames.shape[1:])
    found = [
        cut(np.abs(frames[start : start + AT_ONCE] - median) > difference, side).mean((3, 4)) >= share
        for start in range(0, len(frames), AT_ONCE)
    ]
    return np.concatenate(found)


class PatchSet(ImageSet):
    """Patches that say their ``frame`` and, where masks are known, how many of their pixels are anomalous (``area``).

    Args:
        patches: The patches.
        anomalous_share: Of the pixels above which a patch is anomalous; None where that is not known, and there are no labels.
    """

    def __init__(self, patches: Patches, *, anomalous_share: float | None) -> None:
        side = patches.pixels.shape[-1]
        label = (patches.area > (anomalous_share or 0) * side**2).long()
        super().__init__(image=patches.pixels, label=label, names=patches.names)
        self.frame, self.area, self.is_labelled = patches.frame, patches.area, anomalous_share is not None

    def batch(self, indices: list[int]) -> Batch:
        """As of images in memory, with ``frame`` and ``area``."""
        batch = super().batch(indices)
        batch["frame"] = self.frame[indices]
        if self.is_labelled:
            batch["area"] = self.area[indices]
        else:
            del batch["label"]
        return batch


class FrameSet(BatchedDataset):
    """Whole frames, read when they are asked for.

    Args:
        clips: The clips.
        size: Height and width after resizing; None keeps them.
        motion: Give the two differences as further channels.
        truth: Also give ``frame``, and masks if all clips have them; otherwise all frames are normal.
        every: Take each clip's every n-th frame, from its first.
    """

    def __init__(
        self, clips: Sequence[Clip], *, size: tuple[int, int] | None, motion: bool, truth: bool, every: int = 1
    ) -> None:
        self.clips, self.size, self.motion, self.truth = clips, size, motion, truth
        self.places = [(i, t) for i, clip in enumerate(clips) for t in range(0, len(clip.frames), every)]
        self.has_masks = truth and all(clip.masks for clip in clips)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def labels(self) -> list[int]:
        """Of all frames."""
        return [int(self.truth and self.clips[i].truth[t]) for i, t in self.places]

    def batch(self, indices: list[int]) -> Batch:
        """Image float32 in [0, 1], label, image_path, and for tests frame and mask."""
        places = [self.places[index] for index in indices]
        image = torch.from_numpy(np.stack([self._image(*place) for place in places]))
        batch: Batch = {
            "image": image.float().div_(255),
            "label": torch.tensor([int(self.truth and self.clips[i].truth[t]) for i, t in places]),
            "image_path": [str(self.clips[i].frames[t]) for i, t in places],
        }
        if self.truth:
            batch["frame"] = torch.tensor(indices)
        if self.has_masks:
            masks = [read_masks(_only(self.clips[i], t), size=self.size)[0] for i, t in places]
            batch["mask"] = torch.from_numpy(np.stack(masks)).unsqueeze(1)
        return batch

    def _image(self, i: int, t: int) -> Frames:
        files = self.clips[i].frames
        if not self.motion:
            return read_frames([files[t]], size=self.size)
        start = max(0, t - 1)
        image: Frames = with_motion(read_frames(files[start : t + 2], size=self.size))[t - start]
        return image


def _only(clip: Clip, t: int) -> Clip:
    return Clip(clip.name, clip.frames[t : t + 1], clip.masks[t : t + 1], clip.truth[t : t + 1])


class UCSDPed(AnomalyDataModule):
    """UCSD Ped1 or Ped2 for methods of images: trained on normal clips, tested on all frames of the others.

    Patches are cut without overlap, and those that show more than the background are kept, in training as in tests; they are held in
    memory as bytes and found clip by clip. ``FrameMetrics`` turns their scores into scores of frames. Whole frames are read when they are
    needed; any method of images takes them.

    Args:
        root: Folder that holds ``UCSDped1`` or ``UCSDped2``; by default ``$ANOMALY_SUITE_DATA/ucsd/UCSD_Anomaly_Dataset.v1p2``,
            or the same in ``data`` where the variable is not set.
        subset: Which of the two walkways.
        mode: ``patches``, or whole ``frames``.
        image_size: Height and width to which frames are resized first; null keeps them. (240, 360) gives Ped1 the 96 patches of Ped2.
        patch_size: Side of the patches.
        motion: Give three channels: grey, and the absolute differences to the frame before and after. The thesis has grey alone.
        foreground_difference: Grey levels by which a pixel differs from the median of its clip where something is shown.
        foreground_share: Of the pixels of a patch that must.
        anomalous_share: Of the pixels of a patch above which it is anomalous. Ped1 has masks of ten clips, so its patches have no labels.
        train_every: Take every n-th frame of the training clips; neighbours are nearly the same.
        train_batch_size: Images per training step and process.
        eval_batch_size: Images per validation, test or predict step and process.
        num_workers: Loader processes; 0 loads in the main process.
        seed: Decides every split and the order of training images.
        validation: ``holdout`` keeps ``val_size`` training images; ``augmented`` also gives a pseudo-anomaly of each, for square ones;
            ``medmix`` one with lesions; ``test`` validates on the test set; ``none``.
        val_size: Training images held out for validation: a fraction, or a count if an integer.

    Raises:
        ConfigError: an option out of range, patches larger than frames, or nothing left for training.
        DatasetNotFoundError: root, clips, frames or the annotation are missing.
        DatasetError: see :func:`~anomaly_suite.data.videos.ucsd_clips.read_clips`.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        subset: Literal["ped1", "ped2"] = "ped2",
        mode: Literal["patches", "frames"] = "patches",
        image_size: tuple[int, int] | None = None,
        patch_size: int = 30,
        motion: bool = False,
        foreground_difference: float = 20.0,
        foreground_share: float = 0.1,
        anomalous_share: float = 0.1,
        train_every: int = 1,
        train_batch_size: int = 128,
        eval_batch_size: int = 500,
        num_workers: int = 0,
        seed: int = 0,
        validation: Validation = "holdout",
        val_size: int | float = 150,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            validation=validation,
            val_size=val_size,
        )
        self.root = data_root(root, "ucsd/UCSD_Anomaly_Dataset.v1p2")
        self.subset, self.mode = subset, mode
        self.image_size = None if image_size is None else (int(image_size[0]), int(image_size[1]))
        self.patch_size, self.motion, self.train_every = patch_size, motion, train_every
        self.foreground_difference, self.foreground_share = foreground_difference, foreground_share
        self.anomalous_share = anomalous_share

    def build(self) -> Splits:
        """Read the clips, and cut the patches.

        Raises:
            ConfigError: patches larger than frames, no patch that shows anything, or nothing left for training.
            DatasetNotFoundError: see the class.
            DatasetError: see the class.
        """
        find_root(
            self.root,
            dataset="UCSDPed",
            is_root=lambda folder: (folder / FOLDERS[self.subset]).is_dir(),
            layout=f"the folder {FOLDERS[self.subset]}",
            obtain=OBTAIN,
        )
        folder = self.root / FOLDERS[self.subset]
        parts: tuple[Part, Part] = ("Train", "Test")
        train, test = (read_clips(folder, part) for part in parts)
        if (len(train), len(test)) != PUBLISHED[self.subset]:
            rank_zero_warn(
                f"'{folder}' holds {len(train)} and {len(test)} clips, {FOLDERS[self.subset]} has published {PUBLISHED[self.subset]}: figures "
                "of it do not stand beside published ones. Complete the clips."
            )
        masked = all(each.masks for each in test)
        if self.mode == "frames":
            area = np.concatenate([self._masks(each).sum((1, 2)) for each in test]) if masked else None
            self.frames = _truth(test, area)
            return self._whole(train, test)
        learned, tested = self._patches(train, every=self.train_every), self._patches(test, masks=masked)
        self.frames = _truth(test, tested.frame_area if masked else None)
        for part, found in (("training", learned), ("test", tested)):
            if not len(found.pixels):
                raise ConfigError(
                    f"no patch of the {part} clips differs by more than foreground_difference={self.foreground_difference} on "
                    f"{self.foreground_share:.0%} of its pixels. Lower foreground_difference or foreground_share."
                )
        kept, held = self.hold_out(len(learned.pixels))

        def normals(rows: list[int]) -> ImageSet:
            """Training patches."""
            return ImageSet(
                image=learned.pixels[rows],
                label=torch.zeros(len(rows), dtype=torch.long),
                names=[learned.names[row] for row in rows],
                seed=self.seed,
            )

        val = normals(held) if held else None
        if val is not None and self.validation in ("augmented", "medmix"):
            val = val.with_pseudo_anomalies(self.seed, self.validation)
        share = self.anomalous_share if masked else None
        return Splits(normals(kept), val, PatchSet(tested, anomalous_share=share))

    def _whole(self, train: list[Clip], test: list[Clip]) -> Splits:
        learned = FrameSet(train, size=self.image_size, motion=self.motion, truth=False, every=self.train_every)
        kept, held = self.hold_out(len(learned))
        places = learned.places
        learned.places = [places[row] for row in kept]
        val: BatchedDataset | None = None
        if held:
            val = FrameSet(train, size=self.image_size, motion=self.motion, truth=False)
            val.places = [places[row] for row in held]
            if self.validation in ("augmented", "medmix"):
                val = WithPseudoAnomalies(val, seed=self.seed, kind=self.validation)
        return Splits(learned, val, FrameSet(test, size=self.image_size, motion=self.motion, truth=True))

    def _masks(self, clip: Clip) -> npt.NDArray[np.bool_]:
        """Masks (T, H, W) of a clip, checked against the annotation where the two are known to agree."""
        return read_masks(clip, size=self.image_size, must_agree=self.subset == "ped2")

    def _patches(self, clips: list[Clip], *, every: int = 1, masks: bool = False) -> Patches:
        """Patches that show something, clip by clip."""
        height, width = self.image_size or image_size(clips[0].frames[0])
        side = self.patch_size
        if side > min(height, width):
            raise ConfigError(
                f"patch_size must be at most {min(height, width)}, the smaller side of the frames; got {side}. Lower it."
            )
        parts: list[list[npt.NDArray[np.generic]]] = [[], [], [], []]
        names: list[str] = []
        for clip in clips:
            frames = read_frames(clip.frames, size=self.image_size)
            shown = shows_something(frames, side, difference=self.foreground_difference, share=self.foreground_share)
            shown[np.arange(len(frames)) % every > 0] = False
            channels = with_motion(frames) if self.motion else frames[:, None]
            marked = self._masks(clip) if masks else np.zeros((len(frames), height, width), np.bool_)
            t, row, column = shown.nonzero()
            before = sum(map(len, parts[3]))
            found = (cut(channels, side)[shown], t + before, cut(marked, side).sum((3, 4))[shown], marked.sum((1, 2)))
            for some, one in zip(parts, found, strict=True):
                some.append(one)
            places = zip(t.tolist(), row.tolist(), column.tolist(), strict=True)
            names += [f"{clip.frames[a]}#{b}-{c}" for a, b, c in places]
        pixels, frame, area, total = (torch.from_numpy(np.concatenate(part)) for part in parts)
        return Patches(pixels, frame, area, total, names)


def _truth(clips: list[Clip], area: npt.NDArray[np.int64] | Tensor | None) -> FrameTruth:
    clip = torch.arange(len(clips)).repeat_interleave(torch.tensor([len(each.frames) for each in clips]))
    label = torch.from_numpy(np.concatenate([each.truth for each in clips])).long()
    return FrameTruth(clip=clip, label=label, area=None if area is None else torch.as_tensor(area))

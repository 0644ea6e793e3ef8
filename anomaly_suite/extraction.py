"""Snippet features of videos: every 16 frames, in several crops, through one network; one ``.npy`` (T, C, D) a video.

Frames are read ahead of the network and features written as they come, so memory does not grow with a video's length.
Files appear whole or not at all, and a run that was stopped goes on where it was.

Axes: N clips, C crops, T snippets of a video (a clip of 16 frames each), H and W pixels, D feature width.
"""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import timm
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from anomaly_suite import __version__
from anomaly_suite.callbacks.files import replacing
from anomaly_suite.callbacks.videos import VIDEO_SUFFIXES
from anomaly_suite.data.files import IMAGE_SUFFIXES, is_junk, read_image
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError, NotFiniteError
from anomaly_suite.nn.video_backbones import C3D, FrameAverage, I3DResNet50, InceptionI3D, MotionEnergy, VideoBackbone
from anomaly_suite.snippets import SNIPPET_FRAMES

Network = Literal["i3d_resnet50", "inception_i3d", "c3d", "frame_average", "motion_energy"]
Precision = Literal["32", "16-mixed", "bf16-mixed"]
Pixels = npt.NDArray[np.uint8]

CROPS = ("top left", "top right", "bottom left", "bottom right", "centre")
WHOLE = 0.9  # share of the frames a file announces below which it is damaged; some containers announce an estimate
RECORD, TABLE = "features.json", "videos.csv"


class Counts(NamedTuple):
    """Frames of a video, and the snippets they make."""

    frames: int
    snippets: int


class Extraction(NamedTuple):
    """What a run did: the videos that it wrote, by name, and the names of those that were there before."""

    written: dict[str, Counts]
    skipped: list[str]


def extract(
    input: str,
    output: str,
    *,
    network: Network = "i3d_resnet50",
    weights: str | None = None,
    backbone: str = "resnet50",
    crops: Literal[1, 5, 10] | None = None,
    include: str | list[str] = "*",
    exclude: str | list[str] | None = None,
    flat: bool = False,
    batch_size: int = 16,
    device: str = "auto",
    precision: Precision = "32",
    shard: str = "1/1",
    overwrite: bool = False,
) -> Extraction:
    """Extract snippet features of all videos in a folder.

    Writes ``NAME.npy``, float32 (snippets, crops, features), for every video, ``videos.csv`` with the frames and snippets of
    each, and ``features.json`` with all that decides the numbers. A run with other settings into the same folder is refused,
    videos that are there are skipped, and a video that cannot be read does not end the run.

    Args:
        input: A folder of videos at any depth, or one video. A video is a file (mp4, avi, mkv, mov and the like) or a folder
            of frames (jpg, png, bmp, tif and the like) in numeric order; images beside video files are no frames.
        output: Folder for the features, in which the folders of the input are repeated.
        network: i3d_resnet50 (2048 values), inception_i3d (1024) and c3d (4096) take their weights from a file; frame_average
            is an image network, averaged over the frames; motion_energy (256) is made by hand and has no weights.
        weights: A local file of the network's tensors; for frame_average also imagenet; random for random ones from a fixed
            seed, to try things out.
        backbone: timm network of frame_average.
        crops: 10 (corners and centre, then the same of the mirrored frame), 5 (not mirrored) or 1 (centre). By default 10,
            but 1 for motion_energy, which takes whole frames.
        include: Shell pattern, or list of them, for the videos to take: for their path below input without suffix, for its
            last part, or for the file name. * also matches slashes.
        exclude: The same for those to leave out.
        flat: Put all files straight into output.
        batch_size: Crops of clips that go through the network at once.
        device: auto, cpu, cuda, cuda:1 and so on.
        precision: 32, or the type of mixed precision.
        shard: 2/4 for the second of four runs side by side into one folder. Its table is videos-2-of-4.csv; a last run
            without shard skips all videos and writes the table of all.
        overwrite: Extract videos again that are there.

    Returns:
        The names and counts.

    Raises:
        ConfigError: options that do not fit each other, or the features that are in the output folder.
        WeightsError: weights that do not fit the network.
        DatasetNotFoundError: no videos.
        DatasetError: some videos cannot be read. All others are written.
    """
    number, shards = _read_shard(shard)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1; got {batch_size}.")
    videos = find_videos(Path(input), include=_listed(include), exclude=_listed(exclude), flat=flat)
    place = _choose_device(device)
    net = build_network(network, weights=weights, backbone=backbone)
    count = _choose_crops(crops, network, net)
    folder = Path(output)
    settings = {
        "network": network,
        "backbone": backbone if network == "frame_average" else None,
        "weights_sha256": _fingerprint(net),
        "feature_dim": net.feature_dim,
        "frames_per_snippet": SNIPPET_FRAMES,
        "last_snippet": "last frame repeated",
        "resize": list(net.resize),
        "interpolation": "OpenCV: area where both sides shrink, else bilinear",
        "crop": list(net.crop),
        "crops": list(_crop_names(count)),
        "normalization": net.normalization,
        "precision": precision,
        "flat": flat,
    }
    _claim(folder, settings, weights)
    net.to(place)
    dtype = {"32": None, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}[precision]

    def run(clips: Pixels) -> Tensor:
        """(N, 3, 16, H, W) to (N, C, D)."""
        inputs = crop_clips(torch.from_numpy(clips).to(place), net.crop, count).flatten(0, 1)
        with torch.inference_mode(), torch.autocast(place.type, dtype) if dtype else nullcontext():
            features = torch.cat([net(part) for part in torch.split(inputs, batch_size)])
        return features.view(-1, count, net.feature_dim).cpu()

    mine = dict(itertools.islice(videos.items(), number - 1, None, shards))
    table = folder / (TABLE if shards == 1 else f"videos-{number}-of-{shards}.csv")
    known = _read_tables(folder)
    skipped = [name for name in mine if name in known and not overwrite]
    written: dict[str, Counts] = {}
    failed: dict[str, str] = {}

    def save_table() -> None:
        _write_table(table, known if shards == 1 else {name: known[name] for name in mine if name in known})

    with _progress() as progress:
        task = progress.add_task("", total=len(mine), completed=len(skipped))
        for name, path in mine.items():
            if name in skipped:
                continue
            start = len(skipped) + len(written) + len(failed)
            progress.update(task, description=name, completed=start)
            try:
                announced, frames = open_video(path)
                blocks = read_clips(frames, size=net.resize, block=max(1, batch_size // count))
                done = Counts(0, 0)
                with _growing(folder / f"{name}.npy", (count, net.feature_dim)) as append:
                    for clips, used in _ahead(blocks):
                        append(run(clips))
                        done = Counts(done.frames + used, done.snippets + len(clips))
                        progress.update(task, completed=start + min(1, done.frames / max(1, announced)))
                    _require_whole(path, done.frames, announced)
            except (DatasetError, NotFiniteError) as error:
                failed[name] = str(error)
                progress.console.print(f"failed: {name}: {error}", markup=False, highlight=False, soft_wrap=True)
            else:
                written[name] = known[name] = done
                save_table()
        progress.update(task, completed=len(mine))
    save_table()
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in itertools.islice(failed.items(), 5))
        raise DatasetError(
            f"{len(failed)} of {len(mine)} videos failed, all others are written: {reasons}{' ...' if len(failed) > 5 else ''} "
            "Then run the same command again; exclude leaves videos out."
        )
    return Extraction(written, skipped)


# Finding and reading videos ------------------------------------------------------------------------------------------


def find_videos(
    root: Path, *, include: Sequence[str] = ("*",), exclude: Sequence[str] = (), flat: bool = False
) -> dict[str, Path]:
    """Video files and folders of frames in a folder and below.

    Args:
        root: The folder, or one video.
        include: Shell patterns, one of which must match: a video's path below ``root`` without suffix, its last part, or
            the name of its file.
        exclude: The same, none of which may match.
        flat: Name a video by the last part alone.

    Returns:
        File or folder by name, in numeric order of the names.

    Raises:
        DatasetNotFoundError: there is none.
        ConfigError: two videos would have the same name.
    """
    found: list[tuple[str, Path]] = []
    if root.is_file():
        found.append((root.stem, root))
    for where, inner, files in os.walk(root, followlinks=True):
        inner[:] = [name for name in inner if not is_junk(name)]
        here = Path(where)
        visible = [here / name for name in files if not is_junk(name)]
        films = [file for file in visible if file.suffix.lower() in VIDEO_SUFFIXES]
        found += [(file.relative_to(root).with_suffix("").as_posix(), file) for file in films]
        if not films and any(file.suffix.lower() in IMAGE_SUFFIXES for file in visible):
            found.append((here.relative_to(root).as_posix() if here != root else root.resolve().name, here))
    videos: dict[str, Path] = {}
    for path_name, path in sorted(found, key=lambda item: _numeric(item[0])):
        last = path_name.rpartition("/")[2]
        included, excluded = (
            any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns for text in (path_name, last, path.name))
            for patterns in (include, exclude)
        )
        if excluded or not included:
            continue
        name = last if flat else path_name
        if name in videos:
            raise ConfigError(
                f"'{videos[name]}' and '{path}' would both be written to {name}.npy. "
                f"{'Set flat to false' if flat else 'Rename one'}, or leave one out with exclude."
            )
        videos[name] = path
    if not videos:
        state = "does not exist" if not root.exists() else "holds none"
        if found:
            state = f"holds {len(found)}, all of which include={list(include)} and exclude={list(exclude)} leave out"
        raise DatasetNotFoundError(
            f"expected video files ({', '.join(sorted(VIDEO_SUFFIXES))}) or folders of frames in '{root}', which {state}. "
            "Correct the path or the patterns."
        )
    return videos


def _numeric(name: str) -> list[tuple[str, int]]:
    """Sorting key by which 9 comes before 10."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def open_video(path: Path) -> tuple[int, Iterator[Pixels]]:
    """How many frames a video announces, and its frames one by one.

    Args:
        path: A video file or a folder of images.

    Returns:
        The number, 0 or less if unknown, and RGB images of shape (H, W, 3).

    Raises:
        DatasetError: it cannot be read; also raised by the iterator.
    """
    if not path.is_dir():
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise DatasetError(
                f"'{path}' ({path.stat().st_size} bytes) cannot be opened as a video. Fetch the file again."
            )
        return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), _decode(capture)
    files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not is_junk(file.name)]
    files.sort(key=lambda file: _numeric(file.name))
    for file, following in itertools.pairwise(files):
        if file.stem == following.stem:
            raise DatasetError(
                f"'{path}' holds '{file.name}' and '{following.name}', so frames cannot be told from other images. "
                "Keep one image a frame."
            )
    return len(files), map(_read_frame, files)


def _decode(capture: cv2.VideoCapture) -> Iterator[Pixels]:
    try:
        while True:
            there, frame = capture.read()
            if not there:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def _read_frame(file: Path) -> Pixels:
    try:
        return read_image(file)
    except OSError as error:  # ImageReadError among them
        raise DatasetError(str(error)) from error


def _require_whole(path: Path, frames: int, announced: int) -> None:
    if frames == 0:
        raise DatasetError(f"'{path}' has no frame that can be decoded. Fetch the file again.")
    if frames < WHOLE * announced:
        raise DatasetError(
            f"'{path}' announces {announced} frames, and decoding ended after {frames}: it is truncated or damaged. "
            "Fetch the file again, or encode it anew if all its frames are there."
        )


def read_clips(frames: Iterable[Pixels], *, size: tuple[int, int], block: int) -> Iterator[tuple[Pixels, int]]:
    """Cut a video into clips of 16 frames; the last frame fills up the last clip.

    Args:
        frames: RGB images (H, W, 3).
        size: Height and width to which they are scaled.
        block: Clips at a time.

    Yields:
        N clips, shape (N, 3, 16, H, W), N equal to ``block`` but for the last, and how many frames are in them.
    """
    scaled = (_scale(frame, size) for frame in frames)
    while images := list(itertools.islice(scaled, block * SNIPPET_FRAMES)):
        used = len(images)
        images += images[-1:] * (-used % SNIPPET_FRAMES)
        clips = np.stack(images).reshape(-1, SNIPPET_FRAMES, *images[0].shape)  # N 16 H W 3
        yield clips.transpose(0, 4, 1, 2, 3), used


def _scale(frame: Pixels, size: tuple[int, int]) -> Pixels:
    height, width = size
    shrinks = frame.shape[0] >= height and frame.shape[1] >= width
    scaled: Pixels = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return scaled


def _ahead(items: Iterator[tuple[Pixels, int]]) -> Iterator[tuple[Pixels, int]]:
    """The same items, the next of which is made in another thread meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def crop_clips(clips: Tensor, size: tuple[int, int], count: int) -> Tensor:
    """Cut crops out of clips.

    Args:
        clips: Shape (N, 3, T, H, W).
        size: Height and width of the crops, not above H and W.
        count: 1 for the centre; 5 for top left, top right, bottom left, bottom right and centre; 10 for these and the same
            five of the mirrored clips.

    Returns:
        Shape (N, C, 3, T, h, w).
    """
    height, width = size
    bottom, right = clips.shape[3] - height, clips.shape[4] - width
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    chosen = corners[-1:] if count == 1 else corners
    views = (clips, clips.flip(4)) if count == 2 * len(CROPS) else (clips,)
    parts = [view[..., top : top + height, left : left + width] for view in views for top, left in chosen]
    return torch.stack(parts, 1)


def _crop_names(count: int) -> Sequence[str]:
    return {1: CROPS[-1:], 5: CROPS, 10: (*CROPS, *(f"{name}, mirrored" for name in CROPS))}[count]


# Options -------------------------------------------------------------------------------------------------------------


def build_network(network: Network, *, weights: str | None, backbone: str) -> VideoBackbone:
    """A network with its weights; see :func:`extract`.

    Raises:
        ConfigError: weights are missing, or not wanted.
        WeightsError: they do not fit.
    """
    if network == "motion_energy":
        if weights is not None:
            raise ConfigError(f"motion_energy has no weights; got {weights!r}. Leave weights out, or choose a network.")
        return MotionEnergy()
    if weights is None:
        also = ", or imagenet" if network == "frame_average" else ""
        raise ConfigError(
            f"{network} needs weights: a local file{also}; got none. motion_energy is the network without weights."
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net: VideoBackbone
        if network == "frame_average":
            net = FrameAverage(backbone)
        else:
            net = {"i3d_resnet50": I3DResNet50, "inception_i3d": InceptionI3D, "c3d": C3D}[network]()
    if weights != "random":
        net.load_weights(weights)
    return net


def _choose_crops(crops: int | None, network: str, net: VideoBackbone) -> int:
    whole = net.crop == net.resize
    if whole and crops not in (None, 1):
        raise ConfigError(f"{network} takes whole frames, which have one crop; got crops={crops}. Leave crops out.")
    return crops or (1 if whole else 2 * len(CROPS))


def _choose_device(device: str) -> torch.device:
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {device!r} cannot be used here ({str(error).splitlines()[0]}). Use auto, cpu, or a GPU that is there."
        ) from error


def _read_shard(shard: str) -> tuple[int, int]:
    parts = re.fullmatch(r"(\d+)/(\d+)", shard)
    number, shards = map(int, parts.groups()) if parts else (0, 0)
    if not 1 <= number <= shards:
        raise ConfigError(f"shard must be a number and a count such as 1/4, 2/4, 3/4 or 4/4; got {shard!r}.")
    return number, shards


def _listed(patterns: str | list[str] | None) -> list[str]:
    return [patterns] if isinstance(patterns, str) else patterns or []


# Files ---------------------------------------------------------------------------------------------------------------


def _fingerprint(net: VideoBackbone) -> str | None:
    """Checksum of a network's tensors; None if it has none."""
    digest = hashlib.sha256()
    state = net.state_dict()
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest() if state else None


def _claim(folder: Path, settings: Mapping[str, Any], weights: str | None) -> None:
    """Record the settings in a folder, or check that they are those recorded.

    Raises:
        ConfigError: its features were made otherwise, or by something else.
    """
    record = folder / RECORD
    if record.is_file():
        try:
            before = json.loads(record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"'{record}' is damaged ({error}). Choose another output folder.") from error
        for key, value in settings.items():
            if before.get(key) != value:
                raise ConfigError(
                    f"the features in '{folder}' have {key}={before.get(key)!r}, this run has {value!r}; see '{record}'. "
                    "Choose another output folder, or the same settings."
                )
        return
    if next(folder.rglob("*.npy"), None) is not None:
        raise ConfigError(f"'{folder}' holds arrays of unknown origin and no {RECORD}. Choose another output folder.")
    versions = {"anomaly_suite": __version__, "torch": torch.__version__, "timm": timm.__version__}
    versions |= {"opencv": cv2.__version__, "numpy": np.__version__}
    with replacing(record) as file:
        source = None if weights is None else Path(weights).name
        file.write_text(json.dumps({**settings, "weights": source, "versions": versions}, indent=2), encoding="utf-8")


@contextmanager
def _growing(path: Path, shape: tuple[int, int]) -> Iterator[Callable[[Tensor], None]]:
    """Write an array (T, C, D) block by block, T being known at the end; the file appears then.

    NumPy's header leaves room for the first axis to grow, so that it can be written again in place.
    """
    rows = 0
    with replacing(path) as temporary, temporary.open("wb") as file:

        def header() -> None:
            file.seek(0)
            content = {"descr": "<f4", "fortran_order": False, "shape": (rows, *shape)}
            np.lib.format.write_array_header_1_0(file, content)

        def append(block: Tensor) -> None:
            nonlocal rows
            if not bool(block.isfinite().all()):
                raise NotFiniteError(
                    f"the network gave NaN or infinity from snippet {rows} on. Try precision 32, or check the weights."
                )
            file.write(block.numpy().astype("<f4").tobytes())
            rows += len(block)

        header()
        yield append
        header()


def _read_tables(folder: Path) -> dict[str, Counts]:
    """Counts of the videos whose features are there; the newest table counts."""
    known: dict[str, Counts] = {}
    tables = [*folder.glob(TABLE), *folder.glob("videos-*-of-*.csv")]
    for table in sorted(tables, key=lambda file: file.stat().st_mtime):
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if (folder / f"{row['name']}.npy").is_file():
                    known[row["name"]] = Counts(int(row["frames"]), int(row["snippets"]))
    return known


def _write_table(table: Path, known: Mapping[str, Counts]) -> None:
    with replacing(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("name", *Counts._fields))
        writer.writerows((name, *known[name]) for name in sorted(known, key=_numeric))


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("videos"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        speed_estimate_period=300,  # seconds; a long video moves the bar slowly
    )

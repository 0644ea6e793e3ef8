"""Extraction of a folder of videos: a run that was stopped goes on where it was, and several may share the work.

Axes: C crops, T snippets of a video (a clip of 16 frames each), D feature width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from anomaly_suite.contract import SNIPPET_FRAMES
from anomaly_suite.errors import ConfigError, DatasetError, NotFiniteError
from anomaly_suite.features.decode import ahead, read_clips, require_whole
from anomaly_suite.features.find import find_videos, read_shard
from anomaly_suite.features.networks import (
    Encoder,
    Network,
    Precision,
    build_network,
    choose_crops,
    choose_device,
    crop_names,
    fingerprint,
)
from anomaly_suite.features.record import Counts, claim, growing_array, read_tables, table_file, write_table
from anomaly_suite.io.bit_depth import DEPTHS, depth_of
from anomaly_suite.io.videos import deep_frames, open_video
from anomaly_suite.nn.video import VideoBackbone


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
    bit_depth: Literal["auto"] | int = "auto",
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
        bit_depth: How many bits the values of frames of more than 8 bits use, 8 to 16; auto takes as many
            as the brightest pixel of all such frames needs.

    Returns:
        The names and counts.

    Raises:
        ConfigError: options that do not fit each other, or the features that are in the output folder.
        WeightsError: weights that do not fit the network.
        DatasetNotFoundError: no videos.
        DatasetError: some videos cannot be read. All others are written.
    """
    number, shards = read_shard(shard)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1; got {batch_size}.")
    if bit_depth != "auto" and bit_depth not in DEPTHS:
        raise ConfigError(f"bit_depth must be auto or a whole number from 8 to 16; got {bit_depth!r}. Leave it auto.")
    videos = find_videos(Path(input), include=_listed(include), exclude=_listed(exclude), flat=flat)
    choose_device(device)  # before the network, which takes a while
    net = build_network(network, weights=weights, backbone=backbone)
    done, failed = extract_videos(
        videos,
        Path(output),
        net,
        network=network,
        weights=weights,
        backbone=backbone,
        crops=crops,
        flat=flat,
        batch_size=batch_size,
        device=device,
        precision=precision,
        shard=(number, shards),
        overwrite=overwrite,
        bit_depth=bit_depth,
    )
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in itertools.islice(failed.items(), 5))
        raise DatasetError(
            f"{len(failed)} of {len(videos)} videos failed, all others are written: {reasons}{' ...' if len(failed) > 5 else ''} "
            "Then run the same command again; exclude leaves videos out."
        )
    return done


def extract_videos(
    videos: Mapping[str, Path],
    folder: Path,
    net: VideoBackbone,
    *,
    network: Network,
    weights: str | None = None,
    backbone: str = "resnet50",
    crops: int | None = None,
    flat: bool = False,
    batch_size: int = 16,
    device: str = "auto",
    precision: Precision = "32",
    shard: tuple[int, int] = (1, 1),
    overwrite: bool = False,
    bit_depth: Literal["auto"] | int = "auto",
    stop: bool = False,
) -> tuple[Extraction, dict[str, str]]:
    """Extract snippet features of videos; see :func:`extract` for what is written and for the other arguments.

    Args:
        videos: Files or folders of frames, by name.
        folder: For the features.
        net: The network.
        network: What it is.
        weights: Where its weights are from.
        backbone: See :func:`extract`.
        crops: See :func:`extract`.
        flat: See :func:`extract`.
        batch_size: See :func:`extract`.
        device: See :func:`extract`.
        precision: See :func:`extract`.
        shard: Number and count.
        overwrite: See :func:`extract`.
        bit_depth: See :func:`extract`.
        stop: Whether a video that cannot be read ends it.

    Returns:
        What was done, and for each video that could not be read, why.

    Raises:
        ConfigError: options that do not fit each other, or the features that are in the folder.
        DatasetError: a video cannot be read, with ``stop``.
    """
    number, shards = shard
    place = choose_device(device)
    count = choose_crops(crops, network, net)
    settings = {
        "network": network,
        "backbone": backbone if network == "frame_average" else None,
        "weights_sha256": fingerprint(net),
        "feature_dim": net.feature_dim,
        "frames_per_snippet": SNIPPET_FRAMES,
        "last_snippet": "last frame repeated",
        "resize": list(net.resize),
        "interpolation": "OpenCV: area where both sides shrink, else bilinear",
        "crop": list(net.crop),
        "crops": list(crop_names(count)),
        "normalization": net.normalization,
        "precision": precision,
        "flat": flat,
    }
    deep = [frame for video in videos.values() for frame in deep_frames(video)]
    depth = 16 if bit_depth == "auto" else bit_depth
    if deep:
        settings["bit_depth"] = depth = depth_of(deep, tell=print).bits if bit_depth == "auto" else depth
    claim(folder, settings, weights)
    encoder = Encoder(net, crops=count, batch_size=batch_size, device=place, precision=precision)
    mine = dict(itertools.islice(videos.items(), number - 1, None, shards))
    table = table_file(folder, number, shards)
    only = None if shards == 1 else mine
    return _extract_all(mine, folder, encoder, table=table, only=only, overwrite=overwrite, bit_depth=depth, stop=stop)


def _extract_all(
    videos: Mapping[str, Path],
    folder: Path,
    encoder: Encoder,
    *,
    table: Path,
    only: Mapping[str, Any] | None,
    overwrite: bool,
    bit_depth: int,
    stop: bool,
) -> tuple[Extraction, dict[str, str]]:
    """Extract the videos that are not there; the table has those of ``only``, or all in the folder."""
    known = read_tables(folder)
    skipped = [name for name in videos if name in known and not overwrite]
    written: dict[str, Counts] = {}
    failed: dict[str, str] = {}

    def save_table() -> None:
        """Write the table anew, so that a run that is stopped leaves one."""
        write_table(table, known if only is None else {name: known[name] for name in only if name in known})

    with _progress() as progress:
        task = progress.add_task("", total=len(videos), completed=len(skipped))
        todo = [name for name in videos if name not in skipped]
        for start, name in enumerate(todo, len(skipped)):
            progress.update(task, description=name, completed=start)
            try:
                done = _extract_video(
                    videos[name],
                    folder / f"{name}.npy",
                    encoder,
                    bit_depth=bit_depth,
                    advance=partial(_advance, progress, task, start),
                )
            except (DatasetError, NotFiniteError) as error:
                if stop:
                    raise
                failed[name] = str(error)
                progress.console.print(f"failed: {name}: {error}", markup=False, highlight=False, soft_wrap=True)
            else:
                written[name] = known[name] = done
                save_table()
        progress.update(task, completed=len(videos))
    save_table()
    return Extraction(written, skipped), failed


def _extract_video(
    path: Path, target: Path, encoder: Encoder, *, bit_depth: int, advance: Callable[[float], None]
) -> Counts:
    """Write the features of one video; ``advance`` hears which share of it is done."""
    net = encoder.net
    announced, frames = open_video(path, bit_depth=bit_depth)
    clips = read_clips(frames, size=net.resize, block=max(1, encoder.batch_size // encoder.crops))
    done = Counts(0, 0)
    with growing_array(target, (encoder.crops, net.feature_dim)) as append:
        for block, used in ahead(clips):
            append(encoder(block))
            done = Counts(done.frames + used, done.snippets + len(block))
            advance(min(1, done.frames / max(1, announced)))
        require_whole(path, done.frames, announced)
    return done


def _listed(patterns: str | list[str] | None) -> list[str]:
    return [patterns] if isinstance(patterns, str) else patterns or []


def _advance(progress: Progress, task: TaskID, start: int, share: float) -> None:
    progress.update(task, completed=start + share)


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

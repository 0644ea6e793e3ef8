"""New videos of a run on snippet features: their features by the settings of the run's own, then a data set of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from anomaly_suite.callbacks.videos import video_names
from anomaly_suite.cli.parser_errors import SuiteParser
from anomaly_suite.contract.checkpoint_file import read_checkpoint
from anomaly_suite.data.videos.module import VideoFeatures, extraction_of
from anomaly_suite.data.videos.new_videos import NewVideo, NewVideos
from anomaly_suite.errors import AnomalySuiteError, ConfigError, DatasetError
from anomaly_suite.features.extract import extract_videos
from anomaly_suite.features.find import new_videos
from anomaly_suite.features.networks import Network, Precision, build_network, fingerprint
from anomaly_suite.features.record import forget, read_tables
from anomaly_suite.io.pictures import OnError
from anomaly_suite.methods.weak_video.bags import BagModule

GROUP = "--features."


class Extractor(NamedTuple):
    """Settings of an extraction, by the names of ``extract-features``; None where the run's own hold."""

    network: Network | None = None
    weights: str | None = None
    backbone: str | None = None
    crops: int | None = None
    precision: Precision | None = None
    batch_size: int = 16
    device: str = "auto"


class NewVideoFiles(NamedTuple):
    """What is scored, and the original of each video that is no file of features, by its name."""

    samples: NewVideos
    originals: dict[str, Path]
    root: Path


def make_extractor(
    network: Network | None = None,
    weights: str | None = None,
    backbone: str | None = None,
    crops: int | None = None,
    precision: Precision | None = None,
    batch_size: int = 16,
    device: str = "auto",
) -> Extractor:
    """Settings for the features of new videos.

    Args:
        network: As in ``extract-features``.
        weights: As in ``extract-features``.
        backbone: As in ``extract-features``.
        crops: As in ``extract-features``.
        precision: As in ``extract-features``.
        batch_size: As in ``extract-features``.
        device: As in ``extract-features``.
    """
    return Extractor(network, weights, backbone, crops, precision, batch_size, device)


def taken_extractor(words: list[str]) -> tuple[Extractor, list[str]]:
    """The options ``--features.NAME VALUE`` of a command line, and the words without them.

    Args:
        words: After the verb.

    Raises:
        ConfigError: an option that an extraction does not have, or a value that it cannot take.
    """
    mine: list[str] = []
    rest: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if not word.startswith(GROUP):
            rest.append(word)
            continue
        mine.append(f"--{word.removeprefix(GROUP)}")
        if "=" not in word:
            mine += [value for value in [next(remaining, None)] if value is not None]
    parser = SuiteParser(prog="anomaly-suite predict")
    parser.add_function_arguments(make_extractor, as_group=False)
    SuiteParser.known |= {f"features.{action.dest}" for action in parser._actions}
    return make_extractor(**vars(parser.parse_args(mine))), rest


def find_samples(
    inputs: Sequence[str],
    model: BagModule,
    data: Any,
    *,
    checkpoint: str | None,
    place: Path,
    extractor: Extractor,
    on_error: OnError,
) -> NewVideoFiles:
    """Extract the features of new videos, and make a data set of them.

    Args:
        inputs: See :func:`~anomaly_suite.features.find.new_videos`.
        model: The method of the run.
        data: Its data module.
        checkpoint: Of the run; it knows how features were made and scaled.
        place: Folder for the results; features are written to ``features`` in it.
        extractor: Settings other than the run's.
        on_error: What happens at a video that cannot be read.

    Raises:
        DatasetNotFoundError: there is no such video.
        ConfigError: how the run's features were made is not known.
        DatasetError: a video cannot be read.
    """
    if not isinstance(data, VideoFeatures):
        raise ConfigError(
            f"predict on new videos needs a data module of snippet features; the run has {type(data).__name__}. Extract features, and "
            "let the data module give them."
        )
    paths = new_videos(inputs)
    if checkpoint is not None:
        data.load_state_dict(dict(read_checkpoint(Path(checkpoint)).get("anomaly_suite", {}).get("data", {})))
    names = {
        str(path): name.as_posix() for path, name in zip(paths, video_names([str(each) for each in paths]), strict=True)
    }
    videos = {names[str(path)]: path for path in paths if path.suffix.lower() != ".npy"}
    done, failed = _extracted(videos, model, data, place / "features", extractor, on_error) if videos else ({}, {})
    samples = []
    for path in paths:
        name = names[str(path)]
        if path.suffix.lower() == ".npy":
            samples.append(NewVideo(str(path), path))
        elif name in done:
            samples.append(NewVideo(str(path), place / "features" / f"{name}.npy", done[name]))
    if not samples:
        raise DatasetError(
            f"none of {len(videos)} videos can be read: {'; '.join(list(failed.values())[:3])} Fetch them again."
        )
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    dataset = NewVideos(samples, layout=data.layout, scale=data.scale_of_training(), unreadable=list(failed.values()))
    return NewVideoFiles(dataset, {str(path): path for path in videos.values()}, root)


def _extracted(
    videos: dict[str, Path], model: BagModule, data: VideoFeatures, folder: Path, given: Extractor, on_error: OnError
) -> tuple[dict[str, int], dict[str, str]]:
    """Frames of every video whose features were written, by name, and what is wrong with the others."""
    known = data.extraction or _recorded(data)
    network = given.network or known.get("network")
    if network is None:
        raise ConfigError(
            f"how the features of this run were made is not known: no features.json lies beside them. Name the network: {GROUP}network "
            f"i3d_resnet50 {GROUP}weights FILE (of width {model.feature_dim}; extract-features --help lists them), or give files of "
            "features (.npy) in place of videos."
        )
    is_own = given.network is None
    weights = given.weights or (_weights(known, network) if is_own else None)
    backbone = given.backbone or known.get("backbone") or "resnet50"
    net = build_network(cast(Network, network), weights=weights, backbone=backbone)
    if net.feature_dim != model.feature_dim:
        raise ConfigError(
            f"the run's method takes features of width {model.feature_dim}; {network} gives {net.feature_dim}. Name the network that its features "
            f"were made with: {GROUP}network NAME."
        )
    if is_own and fingerprint(net) != known.get("weights_sha256"):
        raise ConfigError(
            f"the weights of {network} must be those of the run's features ({known.get('weights')}); {weights} holds other numbers. Give "
            f"the right file: {GROUP}weights FILE."
        )
    if os.environ.get("LOCAL_RANK", "0") == "0":  # further processes of this machine find what the first one wrote
        forget(folder)
    done, failed = extract_videos(
        videos,
        folder,
        net,
        network=cast(Network, network),
        weights=weights,
        backbone=backbone,
        crops=given.crops or ((len(known.get("crops", ())) or None) if is_own else None),
        batch_size=given.batch_size,
        device=given.device,
        precision=given.precision or known.get("precision", "32"),
        bit_depth=known.get("bit_depth", "auto"),
        stop=on_error == "raise",
    )
    counts = read_tables(folder)
    return {name: counts[name].frames for name in [*done.written, *done.skipped]}, failed


def _recorded(data: VideoFeatures) -> dict[str, Any]:
    """What lies beside the features of the data set, for a run whose checkpoint does not say it; empty where it is not there."""
    try:
        return extraction_of(data.read()[0]) or {}
    except AnomalySuiteError:
        return {}


def _weights(known: dict[str, Any], network: str) -> str | None:
    """The weights of the run's extraction.

    Raises:
        ConfigError: their file is not where it was.
    """
    name, file = known.get("weights"), known.get("weights_file")
    if file is not None and Path(file).is_file():
        return str(file)
    if name is None or name in ("imagenet", "random"):
        return name
    raise ConfigError(
        f"the run's features are of {network} with the weights '{name}', whose file is not {file or 'recorded'}. Say where it is: "
        f"{GROUP}weights FILE."
    )

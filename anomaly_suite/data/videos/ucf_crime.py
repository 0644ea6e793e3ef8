"""UCF-Crime: untrimmed videos of surveillance cameras, with 13 kinds of crimes and accidents.

Sultani, Chen and Shah, "Real-world Anomaly Detection in Surveillance Videos", CVPR 2018. Layout:
``<root>/UCF_Train_ten_crop_i3d/<video>_i3d.npy`` and ``UCF_Test_ten_crop_i3d`` with the same (or one file per crop:
``<video>_0.npy`` to ``_9.npy``), the lists ``Anomaly_Train.txt`` and ``Anomaly_Test.txt``, and
``Temporal_Anomaly_Annotation.txt``, a folder of one ``.mat`` file a test video, or the released ground truth of RTFM, ``gt-ucf.npy``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from anomaly_suite.contract import SEGMENTS, SNIPPET_FRAMES, Validation
from anomaly_suite.data.videos.feature_files import Layout, Video, find_features, require_features, snippets_of
from anomaly_suite.data.videos.frame_truth import LengthRule, anomalous_first, mark_events, split_series
from anomaly_suite.data.videos.lists import choose_names, find_folders, read_lines, split_name
from anomaly_suite.data.videos.module import VideoFeatures, log_counts
from anomaly_suite.errors import DatasetError, DatasetNotFoundError, did_you_mean
from anomaly_suite.io.folders import data_root, is_junk
from anomaly_suite.io.regular import require_regular

OBTAIN = (
    "Lists and annotation come with the data set from its authors' page, the features with the released code of RTFM; "
    "extract-features makes features from the videos."
)

# kind: training and test videos
KINDS = {
    "Abuse": (48, 2),
    "Arrest": (45, 5),
    "Arson": (41, 9),
    "Assault": (47, 3),
    "Burglary": (87, 13),
    "Explosion": (29, 21),
    "Fighting": (45, 5),
    "RoadAccidents": (127, 23),
    "Robbery": (145, 5),
    "Shooting": (27, 23),
    "Shoplifting": (29, 21),
    "Stealing": (95, 5),
    "Vandalism": (45, 5),
}
# normal and anomalous training videos, normal and anomalous test videos
PUBLISHED = (800, sum(train for train, _ in KINDS.values()), 150, sum(test for _, test in KINDS.values()))


class Annotation(NamedTuple):
    """First and last frame of every event as annotated, and the frames of the video if they are."""

    events: list[tuple[int, int]]
    frames: int | None = None


class UCFCrime(VideoFeatures):
    """UCF-Crime surveillance videos: 1,610 for training and 290 for testing.

    Videos whose name begins with ``Normal`` are normal, those that begin with one of 13 kinds are anomalous.

    Without frame counts in the annotation, a video has 16 frames per snippet. The released ground truth of RTFM counts that way
    always, and takes the annotated frame numbers, which begin at 1, as if they began at 0: ``convention: rtfm``.

    Args:
        root: Folder of all that follows; by default ``$ANOMALY_SUITE_DATA/ucf_crime``, or ``data/ucf_crime`` where the
            variable is not set.
        train_features: Folder of the features of training videos, relative to root.
        test_features: Folder of the features of test videos; may be the same.
        train_list: File of training videos, one name or path per line, relative to root; None takes all in
            ``train_features``.
        test_list: The same for test videos.
        annotation: Events of test videos, relative to root: a text file, with the frame count in a seventh column or
            without, or a folder of ``.mat`` files; or frame truth, one ``.npy`` file for all test videos, 16 frames for every
            snippet, as RTFM's ``gt-ucf.npy``: first the anomalous videos, then the others, each sorted by name.
        convention: ``original`` frame numbers, or those of the released ground truth of RTFM. Not read with such a file.
        segments: Parts to which a video is averaged in training.
        layout: Axes of three-dimensional files: ``snippets_first`` (T, C, D) or ``crops_first`` (C, T, D).
        length_rule: What happens to truth and features of different lengths: ``cut`` both or ``extend`` the truth.
        standardize: Give features mean 0 and variance 1 over the snippets of normal training videos.
        batches_per_epoch: Training batches of an epoch; as many as the larger class fills if None.
        cache: Folder where pooled training videos are kept; None reads the whole files every time.
        train_batch_size: Normal videos, and as many anomalous ones, per training step and process.
        eval_batch_size: Whole videos per validation, test or predict step and process.
        num_workers: Loader processes; 0 loads in the main process.
        seed: Decides the validation split and the order of training videos.
        validation: ``holdout`` keeps ``val_size`` of the training videos of each class; ``test`` takes the test videos; ``none``.
        val_size: A fraction of the training videos of each class, or a count if an integer.

    Raises:
        DatasetNotFoundError: root, a list, features or the annotation of a video is missing.
        DatasetError: a video of another kind, or an annotation that cannot be read or does not fit.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        train_features: str = "UCF_Train_ten_crop_i3d",
        test_features: str = "UCF_Test_ten_crop_i3d",
        train_list: str | None = "Anomaly_Train.txt",
        test_list: str | None = "Anomaly_Test.txt",
        annotation: str = "Temporal_Anomaly_Annotation.txt",
        convention: Literal["original", "rtfm"] = "original",
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
            segments=segments, layout=layout, length_rule=length_rule, standardize=standardize,
            batches_per_epoch=batches_per_epoch, cache=cache, train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed, validation=validation,
            val_size=val_size,
        )  # fmt: skip
        self.root = data_root(root, "ucf_crime")
        self.train_features = train_features
        self.test_features = test_features
        self.train_list = train_list
        self.test_list = test_list
        self.annotation = annotation
        self.convention = convention

    def read(self) -> tuple[list[Video], list[Video]]:
        """Listed videos, with the events of those for testing.

        Raises:
            DatasetNotFoundError: see the class.
            DatasetError: see the class.
        """
        find_folders(self.root, (self.train_features, self.test_features), dataset="UCFCrime", obtain=OBTAIN)
        train = self._videos(self.train_list, self.train_features)
        test = self._with_truth(self._videos(self.test_list, self.test_features))
        log_counts("UCF-Crime", train, test, PUBLISHED)
        return train, test

    def _videos(self, listed: str | None, features: str) -> list[Video]:
        folder = self.root / features
        found = find_features(folder, dataset="UCFCrime", obtain=OBTAIN)
        names, source = choose_names(
            self.root, listed, list(found), source=f"'{folder}'", dataset="UCFCrime", obtain=OBTAIN
        )
        require_features(names, found, folder=folder, source=source)
        return [Video(name, _label(name, source), found[name]) for name in names]

    def _with_truth(self, videos: list[Video]) -> list[Video]:
        where = self.root / self.annotation
        if where.suffix != ".npy":
            annotations = read_annotations(where)
            return [self._with_events(video, annotations) for video in videos]
        truth = split_series(
            where, anomalous_first(videos), self.layout, instead="set annotation to the list of events"
        )
        return [video._replace(frame_label=truth[video.name]) for video in videos]

    def _with_events(self, video: Video, annotations: dict[str, Annotation]) -> Video:
        where = self.root / self.annotation
        if video.name not in annotations:
            raise DatasetNotFoundError(f"'{where}' says nothing of test video {video.name!r}. {OBTAIN}")
        events, frames = annotations[video.name]
        if bool(events) != bool(video.label):
            raise DatasetError(
                f"'{where}' has {len(events)} events of test video {video.name!r}, whose name says that it is "
                f"{('normal', 'anomalous')[video.label]}. Restore the published annotation."
            )
        if frames is None or self.convention == "rtfm":
            frames = SNIPPET_FRAMES * snippets_of(video, self.layout)
        first = 1 if self.convention == "original" else 0
        zero_based = [(start - first, end + 1 - first) for start, end in events]
        return video._replace(frame_label=mark_events(zero_based, frames, video=video.name))


def read_annotations(where: Path) -> dict[str, Annotation]:
    """Events of every test video, by its name.

    Args:
        where: A text file of lines ``<name>.mp4 <kind> <start> <end> <start> <end> [<frames>]``, where -1 is no event, or a
            folder of ``.mat`` files, one a video.

    Raises:
        DatasetNotFoundError: there is no such file or folder.
        DatasetError: a line or file of another form, or a video twice.
    """
    if where.is_dir():
        files = [path for path in sorted(where.glob("*.mat")) if not is_junk(path.name)]
        if not files:
            raise DatasetNotFoundError(f"UCFCrime expects .mat files in '{where}', which holds none. {OBTAIN}")
        entries = [_read_mat(file) for file in files]
    else:
        entries = [_parse(line, where) for line in read_lines(where, dataset="UCFCrime", obtain=OBTAIN)]
    annotations: dict[str, Annotation] = {}
    for name, annotation in entries:
        if name in annotations:
            raise DatasetError(f"'{where}' has video {name!r} twice. Restore the published annotation.")
        annotations[name] = annotation
    return annotations


def _parse(line: str, file: Path) -> tuple[str, Annotation]:
    found = re.fullmatch(r"(\S+)\s+[A-Za-z]\w*((?:\s+-?\d+){4,5})", line)
    if found is None:
        raise DatasetError(
            f"'{file}' has the line {line!r}; expected a name, a kind, two pairs of frame numbers, and perhaps the frame count. "
            "Restore the published annotation."
        )
    numbers = [int(word) for word in found[2].split()]
    return split_name(found[1])[0], Annotation(_events(numbers[:4]), numbers[4] if len(numbers) == 5 else None)


def _read_mat(file: Path) -> tuple[str, Annotation]:
    require_regular(file, DatasetError)
    from scipy.io import loadmat

    try:
        content = loadmat(file, simplify_cells=True)["Annotation_file"]
        name, numbers = str(content["VideoName"]), np.asarray(content["Anno"]).reshape(-1, 2)
    except Exception as error:  # damaged files raise errors of many kinds
        raise DatasetError(
            f"'{file}' is no MATLAB file with Annotation_file.VideoName and .Anno ({error}). Fetch the file again."
        ) from error
    return split_name(name)[0], Annotation(_events([int(number) for number in numbers.flat]))


def _events(numbers: list[int]) -> list[tuple[int, int]]:
    """Pairs of frame numbers; a negative one is none."""
    return [(start, end) for start, end in zip(numbers[::2], numbers[1::2], strict=True) if start >= 0]


def _label(name: str, source: str) -> int:
    kind = re.split(r"[\d_]", name)[0]
    if kind not in (*KINDS, "Normal"):
        raise DatasetError(
            f"video {name!r} in {source} begins with none of Normal, {', '.join(KINDS)}.{did_you_mean(kind, KINDS)} "
            "Restore the published names."
        )
    return int(kind != "Normal")

"""ShanghaiTech campus, split for weak supervision: 13 scenes, people who run, fight, ride or drive where others walk.

Liu et al., "Future Frame Prediction for Anomaly Detection", CVPR 2018; split of Zhong et al., "Graph Convolutional Label
Noise Cleaner", CVPR 2019. Layout: ``<root>/SH_Train_ten_crop_i3d/<video>_i3d.npy``, ``SH_Test_ten_crop_i3d`` with the same,
and ``testing/test_frame_mask/<video>.npy`` of the original distribution, or the released ground truth of RTFM, ``gt-sh.npy``.
"""

from __future__ import annotations

import re
from pathlib import Path

from anomaly_suite.contract import SEGMENTS, Validation
from anomaly_suite.data.videos.feature_files import Layout, Video, find_features, require_features
from anomaly_suite.data.videos.frame_truth import LengthRule, anomalous_first, read_truth, split_series
from anomaly_suite.data.videos.lists import choose_names, find_folders
from anomaly_suite.data.videos.module import VideoFeatures, log_counts
from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import data_root

OBTAIN = (
    "The features come with the released code of RTFM, the masks with the data set, on request from its authors; "
    "extract-features makes features from the videos."
)
OBTAIN_MASKS = (
    "All 107 masks are in RTFM's repository, github.com/tianyu0207/RTFM, folder list/test_frame_mask: set masks to a copy of it, or to "
    "list/gt-sh.npy from there, which is the truth of its own features."
)
PUBLISHED = (175, 63, 155, 44)  # normal and anomalous training videos, normal and anomalous test videos

# scene: numbers of anomalous training, anomalous test, normal training and normal test videos
SPLIT = {
    "01": (
        "14 16 26 29-30 54 63 73 76 129-134 138 140 163",
        "15 25 27-28 51-53 55-56 64 135-136 139 141 162 177",
        "2-3 5 7 9-11 13-17 19-20 22-25 29 31 33 35-37 41-42 44 46 48-49 51 54 60 62-63 66-70 73 83",
        "1 4 6 8 12 18 21 26-28 30 32 34 38-40 43 45 47 50 52-53 55-59 61 64-65 71-72 74-82",
    ),
    "02": ("128 164", "161", "2 4-6 10-11 13-14", "1 3 7-9 12 15"),
    "03": ("35-36 39 41 60-61", "31-33 59", "1 3-4 6", "2 5"),
    "04": ("1 3 10 13 50", "4 11-12 46", "1 3-4 6 9-10 12-13 15 19-20", "2 5 7-8 11 14 16-18"),
    "05": (
        "18 20-22 24",
        "17 19 23",
        "1-3 6-8 11-12 14-15 17 19-20 22 24 27 29 31-32 35-37 40 42 46-47 50-53 55 59 63 66",
        "4-5 9-10 13 16 18 21 23 25-26 28 30 33-34 38-39 41 43-45 48-49 54 56-58 60-62 64-65",
    ),
    "06": ("145 147 150 155", "144 153", "1-2 4-5 7-8 10 12-14 16 19 23-25 27", "3 6 9 11 15 17-18 20-22 26 28-30"),
    "07": ("5 7 9 47 49", "6 8 48", "1 3-4 6-7", "2 5 8"),
    "08": (
        "44 78-79 156 159 178-179",
        "58 77 80 157-158",
        "3 5 9 12-15 17-20 22 26-27 31 33 35-36 38-42 44 49",
        "1-2 4 6-8 10-11 16 21 23-25 28-30 32 34 37 43 45-48",
    ),
    "09": ("57", "", "1 4 6 8-10", "2-3 5 7"),
    "10": ("37 74-75", "38 42", "1-3 6-7 10", "4-5 8-9 11"),
    "11": ("176", "", "1-2 7-10", "3-6"),
    "12": ("143 148-149 152 154 175", "142 151 173-174", "2-3 5-6 9-10 13-14", "1 4 7-8 11-12 15"),
    "13": ("", "", "2-4 7", "1 5-6"),
}


class ShanghaiTech(VideoFeatures):
    """ShanghaiTech campus videos, split for weak supervision into 238 for training and 199 for testing.

    A name of a scene and four digits (``01_0014``) is an anomalous video, of three digits (``01_002``) a normal one. Figures
    on the features of RTFM use ``length_rule: extend``. Normal test videos have 16 frames per snippet.

    Args:
        root: Folder of all that follows; by default ``$ANOMALY_SUITE_DATA/shanghaitech``, or ``data/shanghaitech`` where
            the variable is not set.
        train_features: Folder of the features of training videos, relative to root.
        test_features: Folder of the features of test videos; may be the same.
        train_list: File of training videos, one name or path per line, relative to root; None is the published split.
        test_list: The same for test videos.
        masks: Frame truth of test videos, relative to root: a folder with a mask ``<name>.npy`` for each anomalous video, or one file
            for all of them, 16 frames for every snippet, as RTFM's ``gt-sh.npy``: first the anomalous videos, then the others, each
            sorted by name. ``length_rule`` changes nothing there.
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
        DatasetNotFoundError: root, a list, features or a mask is missing.
        DatasetError: a name of another form, or masks and names that do not fit together.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        train_features: str = "SH_Train_ten_crop_i3d",
        test_features: str = "SH_Test_ten_crop_i3d",
        train_list: str | None = None,
        test_list: str | None = None,
        masks: str = "testing/test_frame_mask",
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
        self.root = data_root(root, "shanghaitech")
        self.train_features = train_features
        self.test_features = test_features
        self.train_list = train_list
        self.test_list = test_list
        self.masks = masks

    def read(self) -> tuple[list[Video], list[Video]]:
        """Listed videos, with the masks of those for testing.

        Raises:
            DatasetNotFoundError: see the class.
            DatasetError: see the class.
        """
        find_folders(self.root, (self.train_features, self.test_features), dataset="ShanghaiTech", obtain=OBTAIN)
        train_names, test_names = published_split()
        train = self._videos(self.train_list, train_names, self.train_features)
        test = self._with_truth(self._videos(self.test_list, test_names, self.test_features))
        log_counts("ShanghaiTech", train, test, PUBLISHED)
        return train, test

    def _videos(self, listed: str | None, names: list[str], features: str) -> list[Video]:
        names, source = choose_names(
            self.root,
            listed,
            names,
            source="the published split",
            dataset="ShanghaiTech",
            obtain="Correct the name of the list.",
        )
        found = find_features(self.root / features, dataset="ShanghaiTech", obtain=OBTAIN)
        labels = [_label(name, source) for name in names]
        require_features(names, found, folder=self.root / features, source=source)
        return [Video(name, label, found[name]) for name, label in zip(names, labels, strict=True)]

    def _with_truth(self, videos: list[Video]) -> list[Video]:
        where = self.root / self.masks
        if not where.is_file():
            return [self._with_mask(video) for video in videos]
        instead = "set masks to the folder of the masks of each video"
        truth = split_series(where, anomalous_first(videos), self.layout, instead=instead)
        return [video._replace(frame_label=truth[video.name]) for video in videos]

    def _with_mask(self, video: Video) -> Video:
        mask: Path = self.root / self.masks / f"{video.name}.npy"
        if video.label and not mask.is_file():
            raise DatasetNotFoundError(
                f"test video {video.name!r} has four digits, so it is anomalous, but there is no mask '{mask}'. {OBTAIN_MASKS}"
            )
        if not video.label and mask.is_file():
            raise DatasetError(
                f"test video {video.name!r} has three digits, so it is normal, but there is a mask '{mask}'. "
                "Correct the name, or take the mask away."
            )
        return video._replace(frame_label=read_truth(mask)) if video.label else video


def published_split() -> tuple[list[str], list[str]]:
    """Names of the published training and test videos, sorted."""
    train: list[str] = []
    test: list[str] = []
    for scene, (anomalous_train, anomalous_test, normal_train, normal_test) in SPLIT.items():
        train += _expand(scene, anomalous_train, digits=4) + _expand(scene, normal_train, digits=3)
        test += _expand(scene, anomalous_test, digits=4) + _expand(scene, normal_test, digits=3)
    return sorted(train), sorted(test)


def _expand(scene: str, numbers: str, *, digits: int) -> list[str]:
    ends = [part.split("-") for part in numbers.split()]
    return [f"{scene}_{number:0{digits}d}" for end in ends for number in range(int(end[0]), int(end[-1]) + 1)]


def _label(name: str, source: str) -> int:
    found = re.fullmatch(r"\d\d_(\d{3,4})", name)
    if found is None:
        raise DatasetError(
            f"video {name!r} in {source} is not named by scene and number, as 01_0014 (anomalous) or 01_002 (normal). "
            "Restore the published names."
        )
    return int(len(found[1]) == 4)

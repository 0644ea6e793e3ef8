"""The data module of videos: splits, loaders, options and lists that cannot work, logged counts."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from video_parts import Listed, listed, splits, videos

from anomaly_suite import data as data_modules
from anomaly_suite.data.videos.datasets import WholeVideos
from anomaly_suite.data.videos.feature_files import Video
from anomaly_suite.data.videos.module import VideoFeatures, check_videos, log_counts
from anomaly_suite.errors import ConfigError, DatasetError


class TestModule:
    def test_holdout_keeps_both_kinds_and_has_no_frames(self) -> None:
        train, val, test = splits(listed(10, 20, validation="holdout", val_size=0.2))
        assert isinstance(train, WholeVideos)
        assert isinstance(val, WholeVideos)
        assert isinstance(test, WholeVideos)
        assert [sum(video.label == label for video in val.videos) for label in (0, 1)] == [2, 4]
        assert len({video.name for video in [*train.videos, *val.videos]}) == 30
        assert "frame_label" not in val.batch([0])
        assert "frame_label" in test.batch([0])

    def test_frames_only_where_all_truth_is_known(self) -> None:
        test = [*videos("test", 2, 2), Video("bare", 1, torch.rand(2, 8, 4))]
        part = splits(Listed(videos("train", 3, 3), test, validation="none")).test
        assert isinstance(part, WholeVideos)
        assert set(part.batch([0, 3])) == {"snippet_features", "length", "label", "image_path"}

    def test_evaluation_takes_one_video_at_a_time(self) -> None:
        data = listed(validation="test", length_rule="extend")
        for loader in (data.test_dataloader(), data.val_dataloader(), data.predict_dataloader()):
            batches = list(loader)
            assert [batch["image_path"] for batch in batches] == [
                ["test/0/000"], ["test/0/001"], ["test/1/000"], ["test/1/001"]
            ]  # fmt: skip
            assert [int(batch["frame_label"].sum()) for batch in batches] == [0, 0, 20, 20]
        assert [len(batch["label"]) for batch in listed(eval_batch_size=3).test_dataloader()] == [3, 1]

    def test_processes_share_the_test_videos(self) -> None:
        seen = []
        for rank in range(2):
            data = listed()
            data.trainer = SimpleNamespace(world_size=2, global_rank=rank)  # type: ignore[assignment] # all that is read
            seen += [batch["image_path"][0] for batch in data.test_dataloader()]
        assert sorted(seen) == ["test/0/000", "test/0/001", "test/1/000", "test/1/001"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"segments": 0}, "segments must be at least 1; got 0"),
            ({"batches_per_epoch": 0}, "batches_per_epoch must be at least 1; got 0"),
            ({"validation": "medmix"}, "validation: medmix makes copies"),
            ({"validation": "augmented"}, "videos have none. Use holdout, test or none"),
            ({"eval_batch_size": 0}, "eval_batch_size must be at least 1"),
        ],
    )
    def test_options_that_cannot_work(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            VideoFeatures(**options)

    def test_lists_that_cannot_work(self) -> None:
        train, test = videos("train", 2, 2), videos("test", 1, 1)
        with pytest.raises(DatasetError, match="'train/0/001' is in the training part and again in the test part"):
            check_videos(train, [*test, train[1]])
        with pytest.raises(DatasetError, match="'test/0/000' is in the test part and again in the test part"):
            check_videos(train, [*test, test[0]])
        with pytest.raises(DatasetError, match="has no test video"):
            check_videos(train, [])
        check_videos(train, test)
        for label, kind in enumerate(("normal", "anomalous")):
            with pytest.raises(DatasetError, match=f"Listed has no {kind} training video"):
                splits(Listed([video for video in train if video.label != label], test))

    def test_a_data_set_must_read(self) -> None:
        with pytest.raises(NotImplementedError, match=r"VideoFeatures must define read\(\)"):
            VideoFeatures().setup()


def test_counts_are_logged_and_compared(caplog: pytest.LogCaptureFixture) -> None:
    train = [Video(f"{row}", int(row > 1), torch.zeros(1, 1, 1)) for row in range(5)]
    test = [Video("t", 1, torch.zeros(1, 1, 1))]
    with caplog.at_level(logging.INFO):
        log_counts("Some set", train, test, (2, 3, 0, 1))
    assert caplog.messages == ["Some set: 2 normal and 3 anomalous training, 0 normal and 1 anomalous test videos"]
    with caplog.at_level(logging.INFO):
        log_counts("Some set", train, test, (2, 3, 1, 1))
    assert caplog.messages[-1] == "Some set has published 2, 3, 1 and 1"


NAMES = ("ShanghaiTech", "UCFCrime", "XDViolence", "UCSDPedWeak", "PolypVideo")
GIVEN: dict[str, Any] = {
    "segments": 7,
    "layout": "crops_first",
    "length_rule": "extend",
    "standardize": True,
    "batches_per_epoch": 4,
    "cache": "cache",
    "train_batch_size": 3,
    "eval_batch_size": 5,
    "num_workers": 2,
    "seed": 9,
    "validation": "test",
    "val_size": 11,
}


@pytest.mark.parametrize("name", NAMES)
def test_options_of_the_family_have_its_defaults_and_arrive(name: str) -> None:
    kind = getattr(data_modules, name)
    shared = inspect.signature(VideoFeatures).parameters
    assert set(GIVEN) == set(shared)
    parameters = inspect.signature(kind).parameters
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters.values())
    assert {key: parameters[key].default for key in shared} == {key: each.default for key, each in shared.items()}
    module = kind(**GIVEN)
    assert {key: getattr(module, key) for key in GIVEN} == {**GIVEN, "cache": Path("cache")}


def test_what_new_videos_need_goes_into_checkpoints(tmp_path: Path) -> None:
    """The scale, and how features were made; features from elsewhere say nothing."""
    for kind in ("good", "bad"):
        for number in range(3):
            np.save(tmp_path / f"{kind}{number}.npy", np.random.default_rng(number).random((4, 1, 3), np.float32))

    class Mine(VideoFeatures):
        def read(self) -> tuple[list[Video], list[Video]]:
            videos = [Video(file.stem, int(file.stem[0] == "b"), file) for file in sorted(tmp_path.glob("*.npy"))]
            return videos[::2], videos[1::2]

    first = Mine(standardize=True, validation="none")
    first.setup()
    assert first.state_dict().keys() == {"scale"}
    (tmp_path / "features.json").write_text('{"network": "c3d", "crops": ["centre"]}')
    second = Mine(standardize=True, validation="none")
    second.setup()
    state = second.state_dict()
    assert state["extraction"] == {"network": "c3d", "crops": ["centre"]}
    third = Mine(standardize=True)
    third.load_state_dict(state)
    assert third.extraction == state["extraction"]
    found, wanted = third.scale_of_training(), second.scale
    assert found is not None
    assert wanted is not None
    assert torch.equal(found.mean, wanted.mean)
    assert third.splits is None  # nothing was read
    with pytest.raises(ConfigError, match=r"predict --run RUN clip\.mp4"):
        third.preparation()

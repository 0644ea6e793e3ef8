"""XDViolence on a tiny look-alike: five crops in five files, flow beside RGB, annotations, and what can be wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_parts import everything, parts

from anomaly_suite.data import XDViolence
from anomaly_suite.data.videos.datasets import WholeVideos
from anomaly_suite.errors import DatasetError, DatasetNotFoundError

Save = Callable[..., Path]

TRAIN = {
    "A.Beautiful.Mind.2001__#00-01-45_00-02-50_label_A": 3,
    "Bad.Boys.II.2003__#00-06-42_00-10-00_label_B2-G-0": 2,
    "v=0N6xgBtxVc4__#1_label_A": 4,
    "v=bhZs3ALdL7Y__#1_label_G-0-0": 1,
}
TEST = {
    "Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6": 3,
    "v=U6MC8JJJZSY__#1_label_B4-0-0": 2,
    "v=38GQ9L2meyE__#1_label_A": 2,
}
ANNOTATION = """\
v=U6MC8JJJZSY__#1_label_B4-0-0.mp4 0 40
Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6 3 5 18 18 30 41
v=S-7rRLrxnVQ__#1_label_B4-0-0 0 1517 1970 3038
"""


@pytest.fixture
def root(save: Save, tmp_path: Path) -> Path:
    """Flow is one snippet shorter where a video has more than two."""
    for part, videos in (("", TRAIN), ("Test", TEST)):
        for name, count in videos.items():
            for crop in range(5):
                for folder, length in ((f"RGB{part}", count), (f"Flow{part}", count - (count > 2))):
                    path = f"i3d-features/{folder}/{name}__{crop}.npy"
                    values = np.random.default_rng(list(path.encode())).random((length, 4), dtype=np.float32)
                    save(path, values=values)
    (tmp_path / "annotations.txt").write_text(ANNOTATION)
    return tmp_path


def build(root: Path, **options: Any) -> tuple[WholeVideos, WholeVideos]:
    return parts(XDViolence(root=str(root), **{"validation": "none", **options}))


def load(root: Path, folder: str, name: str) -> Any:
    return np.stack([np.load(root / f"i3d-features/{folder}/{name}__{crop}.npy") for crop in range(5)])


@pytest.mark.parametrize(("features", "folders"), [("rgb", ["RGB"]), ("flow", ["Flow"]), ("both", ["RGB", "Flow"])])
def test_five_crops_of_every_kind(root: Path, features: str, folders: list[str]) -> None:
    for part, suffix in zip(build(root, features=features), ("", "Test"), strict=True):
        batch = everything(part)
        assert batch["snippet_features"].shape[1::2] == (5, 4 * len(folders))
        for row, name in enumerate(batch["image_path"]):
            arrays = [load(root, folder + suffix, name) for folder in folders]
            length = min(array.shape[1] for array in arrays)
            wanted = np.concatenate([array[:, :length] for array in arrays], 2)
            assert int(batch["length"][row]) == length
            assert np.array_equal(batch["snippet_features"][row, :, :length], wanted)


def test_labels_come_from_names(root: Path) -> None:
    train, test = build(root)
    assert everything(train)["image_path"] == sorted(TRAIN, key=lambda name: ("_label_A" not in name, name))
    assert everything(train)["label"].tolist() == [0, 0, 1, 1]
    assert dict(zip(everything(test)["image_path"], everything(test)["label"].tolist(), strict=True)) == {
        name: int("_label_A" not in name) for name in TEST
    }


@pytest.mark.parametrize("rule", ["cut", "extend"])
@pytest.mark.parametrize(("features", "frames"), [("rgb", 48), ("both", 32)])
def test_events_begin_at_their_first_frame_and_end_before_their_last(
    root: Path, rule: str, features: str, frames: int
) -> None:
    batch = everything(build(root, features=features, length_rule=rule)[1])
    counts = batch["frame_count"].tolist()
    truth = dict(zip(batch["image_path"], batch["frame_label"].split(counts), strict=True))
    first, second, normal = (truth[name] for name in TEST)
    assert first.nonzero().flatten().tolist() == [3, 4, *range(30, min(41, frames))]
    assert len(first) == frames
    assert second.all()
    assert len(second) == 32
    assert not normal.any()


def test_released_lists_have_a_line_for_each_crop(root: Path) -> None:
    kept = [name for name in TRAIN if name.startswith(("Bad", "v=0"))]
    lines = [f"/media/peng/x/xd-violence/i3d-features/RGB/{name}__{crop}.npy\n" for name in kept for crop in range(5)]
    (root / "rgb.list").write_text("".join(lines))
    for features in ("rgb", "both"):
        train, _ = build(root, train_list="rgb.list", features=features)
        assert sorted(everything(train)["image_path"]) == sorted(kept)


def test_counts_are_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        build(root)
    assert "XD-Violence: 2 normal and 2 anomalous training, 1 normal and 2 anomalous test videos" in caplog.text
    assert "has published 2049, 1905, 300 and 500" in caplog.text
    assert "1 annotated videos are not in the test part" in caplog.text


def test_missing_root_features_and_annotations(root: Path) -> None:
    with pytest.raises(
        DatasetNotFoundError, match=r"XDViolence expects .*root='nowhere', which does not exist.*authors of XD"
    ):
        build(Path("nowhere"))
    with pytest.raises(DatasetNotFoundError, match=f"root should be '{root}'"):
        build(root / "i3d-features")
    with pytest.raises(
        DatasetNotFoundError, match=r"XDViolence expects '.*none.txt', which does not exist. The authors"
    ):
        build(root, annotation="none.txt")
    with pytest.raises(DatasetNotFoundError, match=r"snippet features in '.*FlowTests', which does not exist"):
        build(root, features="both", test_flow="i3d-features/FlowTests")
    for crop in range(5):
        (root / f"i3d-features/Flow/v=0N6xgBtxVc4__#1_label_A__{crop}.npy").unlink()
    assert len(build(root)[0]) == 4
    with pytest.raises(
        DatasetNotFoundError, match=r"1 of 4 videos in '.*RGB' have no features in '.*Flow': v=0N6xgBtxVc4"
    ):
        build(root, features="both")
    (root / "i3d-features/RGB/v=0N6xgBtxVc4__#1_label_A__4.npy").unlink()
    with pytest.raises(DatasetError, match=r"has crops 0, 1, 2, 3 of video 'v=0N6xgBtxVc4__#1_label_A'"):
        build(root)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("v=U6MC8JJJZSY__#1_label_B4-0-0.mp4 0 40\n", "", DatasetNotFoundError, "no event of the violent test video 'v=U6MC8"),
        ("0 1517 1970 3038", "0 1517 1970", DatasetError, "has the line 'v=S-7rRLrxnVQ__#1_label_B4-0-0 0 1517 1970'; expected"),
        ("0 1517 1970 3038", "", DatasetError, "pairs of frame numbers"),
        ("0 1517 1970 3038", "0 15.5", DatasetError, "pairs of frame numbers"),
        ("v=S-7rRLrxnVQ__#1_label_B4-0-0", "v=38GQ9L2meyE__#1_label_A", DatasetError, "name of a violent video"),
        ("v=S-7rRLrxnVQ__#1_label_B4-0-0", "v=U6MC8JJJZSY__#1_label_B4-0-0", DatasetError, "violent video, once"),
        ("v=S-7rRLrxnVQ__#1_label_B4-0-0", "v=S-7rRLrxnVQ", DatasetError, "'v=S-7rRLrxnVQ' in .* has no label in its name"),
        ("3 5 18 18", "5 3 18 18", DatasetError, "lasts from frame 5 to before 3"),
        ("18 18 30 41", "18 18 300 410", DatasetError, "lasts from frame 300 to before 410"),
    ],
)  # fmt: skip
def test_annotations_that_cannot_be_right(root: Path, old: str, new: str, error: type[Exception], message: str) -> None:
    assert old in ANNOTATION
    (root / "annotations.txt").write_text(ANNOTATION.replace(old, new, 1))
    with pytest.raises(error, match=message):
        build(root)


def test_a_name_without_label(root: Path, save: Save) -> None:
    for crop in range(5):
        save(f"i3d-features/RGB/v=abc__#1__{crop}.npy", values=np.ones((2, 4)))
    with pytest.raises(DatasetError, match=r"video 'v=abc__#1' in '.*RGB' has no label in its name"):
        build(root)

"""The two tracks of SegmentMeIfYouCan on tiny look-alikes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomaly_suite.contract import Batch
from anomaly_suite.data import RoadAnomaly21, RoadObstacle21
from anomaly_suite.errors import AnomalySuiteError, ConfigError

Write = Callable[..., Path]
Break = Callable[[Path, Write], None]
SIZE = (6, 8)
LABEL = np.resize([0, 1, 255], SIZE).astype(np.uint8)
OBSTACLES = {
    "validation_1": True, "validation_19": True, "validation_21_b": True, "validation_29": True, "validation_2": True, "curvy-street_1": False,
    "darkasphalt2_7": False, "snowstorm1_3": False, "snowstorm2_1": False, "driveway_5": False,
}  # fmt: skip


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.stem.encode()))
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)


def label(root: Path, write: Write, name: str, pixels: Any = LABEL) -> None:
    where = f"{root.name}/labels_masks/{name}_labels_semantic"
    write(f"{where}.png", pixels)
    write(f"{where}_color.png", size=SIZE)


@pytest.fixture
def anomalies(tmp_path: Path, write: Write) -> Path:
    root = tmp_path / "dataset_AnomalyTrack"
    for name in ("validation0000", "validation0001", "bear0000", "tractor0003"):
        picture(root / "images" / f"{name}.jpg")
    for name in ("validation0000", "validation0001"):
        label(root, write, name)
    return root


@pytest.fixture
def obstacles(tmp_path: Path, write: Write) -> Path:
    root = tmp_path / "dataset_ObstacleTrack"
    for name, labelled in OBSTACLES.items():
        picture(root / "images" / f"{name}.webp")
        if labelled:
            label(root, write, name)
    return root


def names(batches: Any) -> list[str]:
    return [Path(batch["image_path"][0]).stem for batch in batches]


def predicted(data: Any) -> list[Batch]:
    data.setup("predict")
    return list(data.predict_dataloader())


def test_anomalies_have_ten_labels_and_hidden_scenes(anomalies: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = RoadAnomaly21(root=str(anomalies))
    found = list(data.test_dataloader())
    assert names(found) == ["validation0000", "validation0001"]
    assert (found[0]["ood_mask"][0].numpy() == LABEL).all()
    assert set(found[0]) == {"image", "image_path", "ood_mask", "label"}
    assert "2 validation and 2 hidden images" in caplog.text
    every = predicted(data)
    assert names(every) == ["bear0000", "tractor0003", "validation0000", "validation0001"]
    assert all(set(batch) == {"image", "image_path"} for batch in every)
    assert names(predicted(RoadAnomaly21(root=str(anomalies), predicted="test"))) == ["bear0000", "tractor0003"]
    assert data.submission == "AnomalyTrack-all"


def test_obstacles_leave_scenes_out_and_tell_weather_by_name(obstacles: Path) -> None:
    data = RoadObstacle21(root=str(obstacles))
    assert sorted(names(data.test_dataloader())) == ["validation_1", "validation_2"]
    parts: dict[str, list[str]] = {
        "test": ["curvy-street_1", "darkasphalt2_7"],
        "snowstorm": ["snowstorm1_3", "snowstorm2_1"],
        "night": ["driveway_5"],
        "all": sorted(OBSTACLES),
    }
    for part, expected in parts.items():
        assert sorted(names(predicted(RoadObstacle21(root=str(obstacles), predicted=part)))) == expected  # type: ignore[arg-type]
    assert data.submission == "ObstacleTrack-all"


@pytest.mark.parametrize("kind", [RoadAnomaly21, RoadObstacle21])
def test_options_and_training(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is for testing: it has no training part"):
        kind(root=str(tmp_path)).setup("fit")
    with pytest.raises(ConfigError, match=r"predicted must be 'all'.*; got 'hidden'"):
        kind(predicted="hidden")


def _first(root: Path) -> Path:
    return sorted((root / "images").glob("validation*"))[0]


def _of_first(root: Path) -> str:
    return _first(root).stem


def _without_label(root: Path, write: Write) -> None:
    (root / "labels_masks" / f"{_of_first(root)}_labels_semantic.png").unlink()


def _coloured(root: Path, write: Write) -> None:
    label(root, write, _of_first(root), np.zeros((*SIZE, 3), np.uint8))


def _foreign(root: Path, write: Write) -> None:
    label(root, write, _of_first(root), np.full(SIZE, 2, np.uint8))


def _another_size(root: Path, write: Write) -> None:
    label(root, write, _of_first(root), np.zeros((4, 4), np.uint8))


def _twice(root: Path, write: Write) -> None:
    picture(_first(root).with_suffix(".png"))


def _no_validation(root: Path, write: Write) -> None:
    for path in (root / "images").glob("validation*"):
        path.unlink()


def _too_deep(root: Path, write: Write) -> None:
    (root / "inner").mkdir()
    for part in ("images", "labels_masks"):
        (root / part).rename(root / "inner" / part)


def _empty_file(root: Path, write: Write) -> None:
    _first(root).write_bytes(b"")


@pytest.mark.parametrize("kind", [RoadAnomaly21, RoadObstacle21])
@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (_without_label, r"' has no label; looked for '.*labels_masks/validation.*_labels_semantic\.png' \(1 images"),
        (_coloured, r"must hold one number per pixel; its mode is RGB\. Give the label file, not its coloured version"),
        (_foreign, r"holds 2, which is no label of this data set"),
        (_another_size, r"is \(4, 4\), but its image '.*' is \(6, 8\)"),
        (_twice, r"are images of one name"),
        (_no_validation, r"tests on the scenes validation\.\.\.; '.*images' has none"),
        (_too_deep, r"root should be '.*inner', which holds images and labels_masks"),
        (_empty_file, r"validation.*is empty"),
    ],
)  # fmt: skip
def test_broken_copies(kind: Any, break_it: Break, message: str, request: pytest.FixtureRequest, write: Write) -> None:
    root = request.getfixturevalue("anomalies" if kind is RoadAnomaly21 else "obstacles")
    break_it(root, write)
    with pytest.raises(AnomalySuiteError, match=message):
        list(kind(root=str(root)).test_dataloader())


def test_scenes_of_another_track(obstacles: Path, anomalies: Path) -> None:
    picture(obstacles / "images" / "bear0000.webp")
    with pytest.raises(
        AnomalySuiteError, match=r"must be of the scenes curvy-street, .*, validation; got '.*bear0000\.webp' \(1 such"
    ):
        list(RoadObstacle21(root=str(obstacles)).test_dataloader())
    for name in ("bear0000", "tractor0003"):
        (anomalies / "images" / f"{name}.jpg").unlink()
    with pytest.raises(AnomalySuiteError, match=r"RoadAnomaly21 has no scene of the part that predict should score"):
        predicted(RoadAnomaly21(root=str(anomalies), predicted="test"))

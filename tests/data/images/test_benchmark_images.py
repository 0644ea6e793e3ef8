"""What all benchmarks of image files share: counts, drawn parts, threshold images, groups, patients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from anomaly_suite.callbacks import AnomalyMetrics, Calibrate
from anomaly_suite.data.images.benchmark_images import BenchmarkImages, require_known, shared_patients
from anomaly_suite.data.images.image_files import Found, Item
from anomaly_suite.errors import ConfigError, DatasetError
from anomaly_suite.methods import PaDiM

Write = Callable[..., Path]


class Plain(BenchmarkImages):
    """Ten training normals, six test normals, eight masked anomalies."""

    val: tuple[Item, ...] = ()

    def find(self) -> Found:
        root = Path(str(self.root))
        normals = [Item(root / f"n{index}.png") for index in range(16)]
        anomalies = [Item(root / f"a{index}.png", 1, root / f"m{index}.png") for index in range(8)]
        self.require_counts({"all": 24}, {"all": 24})
        return Found(normals[:10], list(self.val), normals[10:] + anomalies)


@pytest.fixture
def plain(tmp_path: Path, write: Write) -> Callable[..., Plain]:
    for index in range(16):
        write(f"n{index}.png", size=(32, 32))
    for index in range(8):
        write(f"a{index}.png", size=(32, 32))
        write(f"m{index}.png", np.eye(32, dtype=np.uint8) * 255)

    def make(**options: Any) -> Plain:
        data = Plain(**{"image_size": 32, "threshold_images": 2, **options})
        data.root = tmp_path
        return data

    return make


def stems(part: Any) -> set[str]:
    return {item.path.stem for item in part.items}


def test_threshold_images_leave_the_test_part(plain: Callable[..., Plain]) -> None:
    data = plain(threshold_set="apart")
    train, val, test = data.require_splits()
    assert len(train) == 10  # type: ignore[arg-type] # no training normal is held out beside them
    assert [item.label for item in val.items] == [0, 0, 1, 1]  # type: ignore[union-attr]
    assert not stems(val) & stems(test)
    assert len(stems(val) | stems(test)) == 14
    assert stems(plain(threshold_set="apart", seed=1).require_splits().val) != stems(val)
    assert "mask" in val.__getitems__([0, 2])  # type: ignore[union-attr]


def test_leaky_scores_them_too_and_says_so(plain: Callable[..., Plain]) -> None:
    data = plain(threshold_set="leaky")
    with pytest.warns(UserWarning, match="is leaky: the threshold is set on 2 normal and 2 anomalous test images"):
        train, val, test = data.require_splits()
    assert [len(part) for part in (train, val, test)] == [10, 4, 14]  # type: ignore[arg-type]
    assert stems(val) == stems(plain(threshold_set="apart").require_splits().val)
    assert stems(val) < stems(test)


@pytest.mark.parametrize("validation", ["none", "test", "augmented"])
def test_no_image_is_taken_where_none_is_needed(plain: Callable[..., Plain], validation: str) -> None:
    data = plain(threshold_set="apart", validation=validation)
    assert len(data.require_splits().test) == 14  # type: ignore[arg-type]
    assert data.dataset_version is None


@pytest.mark.parametrize(("validation", "masked"), [("augmented", False), ("medmix", True)])
def test_pseudo_anomalies_are_validated_and_nothing_else(
    plain: Callable[..., Plain], tmp_path: Path, write: Write, validation: str, masked: bool
) -> None:
    data = plain(threshold_set="apart", validation=validation, val_size=3)
    data.val = (
        Item(write("v0.png", size=(32, 32))),
        Item(write("v1.png", size=(32, 32)), 1),
    )  # whose anomaly is left out
    val = data.require_splits().val
    batch = val.__getitems__(list(range(len(val))))  # type: ignore[union-attr,arg-type]
    assert batch["label"].tolist() == [0, 1]
    assert [Path(path).name for path in batch["image_path"]] == ["v0.png", "v0#pseudo.png"]
    assert batch["mask"].flatten(1).any(1).tolist() == [False, True] if masked else "mask" not in batch
    data = plain(validation=validation, val_size=3)
    assert [len(part) for part in data.require_splits()] == [7, 6, 14]  # type: ignore[arg-type]


def test_a_validation_part_of_its_own_needs_none(plain: Callable[..., Plain], tmp_path: Path, write: Write) -> None:
    data = plain(threshold_set="apart")
    data.val = (Item(write("v0.png")), Item(write("v1.png"), 1))
    train, val, test = data.require_splits()
    assert [len(part) for part in (train, val, test)] == [10, 2, 14]  # type: ignore[arg-type]


def test_too_few_images_for_the_threshold(plain: Callable[..., Plain]) -> None:
    plain(threshold_set="apart", threshold_images=5).setup()
    with pytest.raises(
        ConfigError, match=r"threshold_images=6 takes .* which has 6 and 8\. Give a smaller threshold_images"
    ):
        plain(threshold_set="apart", threshold_images=6).setup()
    with pytest.raises(
        ConfigError, match=r"threshold_set must be 'apart', 'leaky' or 'none'; got 'leeky'\. Did you mean 'leaky'"
    ):
        plain(threshold_set="leeky")


def test_groups_are_disjoint_and_of_one_size(plain: Callable[..., Plain]) -> None:
    data = plain(localisation_groups=2, localisation_size=3)
    test = data.require_splits().test
    batch = test.__getitems__(list(range(14)))  # type: ignore[attr-defined]
    assert torch.bincount(batch["group"]).tolist() == [8, 3, 3]
    assert not batch["group"][batch["label"] == 0].any()
    assert "group" not in plain().require_splits().test.__getitems__([0])  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"need 9 anomalous test images with masks; there are 8"):
        plain(localisation_groups=3, localisation_size=3).setup()


def test_drawn_parts(plain: Callable[..., Plain]) -> None:
    data = plain(seed=3)
    items = [Item(Path(f"{index:03d}")) for index in range(21)]
    parts = data.drawn_parts(items, (16, 4), total=21)
    assert [len(part) for part in parts] == [16, 4]
    assert [sorted(part) for part in parts] == parts
    assert not set(parts[0]) & set(parts[1])
    assert [len(part) for part in data.drawn_parts(items[:10], (16, 4), total=21)] == [7, 1]
    with pytest.raises(DatasetError, match=r"into a training and a test part; found 3\."):
        data.drawn_parts(items[:3], (16, 4), total=21)


def test_names_that_are_not_known() -> None:
    require_known(["a", "b"], ["a", "b", "c"], what="a label")
    with pytest.raises(
        DatasetError, match=r"a label must be one of good, bad; got 'godo'\. Did you mean 'good'\? Restore"
    ):
        require_known(["godo"], ["good", "bad"], what="a label")


def test_patients_in_two_parts() -> None:
    parts = {
        "training": [Item(Path("7_1.png")), Item(Path("8_1.png"))],
        "test": [Item(Path("7_2.png")), Item(Path("7_3.png")), Item(Path("x.png"))],
    }
    told = shared_patients(parts, lambda path: path.stem.partition("_")[0] if "_" in path.stem else None)
    assert told == ["patient '7' has '7_1.png' in the training part and '7_2.png' in the test part"]


def test_the_result_file_names_the_protocol(
    plain: Callable[..., Plain], tmp_path: Path, trainer_in: Callable[..., Trainer]
) -> None:
    data = plain(threshold_set="leaky")
    model = PaDiM(weights=None, num_channels=8)
    trainer = trainer_in(callbacks=[Calibrate(), AnomalyMetrics(image=["AUROC"], pixel=[])])
    with pytest.warns(UserWarning, match="leaky"):
        trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    result = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert result["dataset_version"].startswith("leaky: the threshold is set on 2 normal and 2 anomalous test images")
    assert result["data"] == {"normal": 6, "anomalous": 8}
    assert result["calibration"]["image"]["split"] == "holdout, test images leaky"

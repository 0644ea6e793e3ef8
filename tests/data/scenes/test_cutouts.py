"""Which pool of outliers a source means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_suite.data.scenes.cutouts import Cutouts, open_cutouts
from anomaly_suite.data.scenes.folder_cutouts import FolderCutouts
from anomaly_suite.data.scenes.shape_cutouts import ShapeCutouts
from anomaly_suite.errors import ConfigError, DatasetNotFoundError

Write = Callable[..., Path]


def pool(source: Path | str, **options: Any) -> Cutouts:
    return open_cutouts(str(source), **{"exclude": "released", "min_size": 30, "height": 64, "seed": 0, **options})


def names(found: Cutouts) -> list[int]:
    return [int(path.stem) for path in found.files]  # type: ignore[attr-defined] # pools of files


def test_annotation_file_and_several_of_them(coco: Path) -> None:
    file = coco / "annotations" / "instances_train2017.json"
    assert names(pool(file)) == names(pool(coco))
    (coco / "annotations" / "instances_val2017.json").write_text(file.read_text())
    assert names(pool(coco)) == [10, 11, 15, 16, 17]  # of the training part
    file.rename(file.with_name("instances_other.json"))
    with pytest.raises(
        ConfigError, match=r"holds several annotation files \(instances_other.json, instances_val2017.json\)"
    ):
        pool(coco)


def test_prepared_masks(tmp_path: Path, write: Write) -> None:
    mask = np.zeros((12, 10), np.uint8)
    mask[2:5, 1:9] = mask[8:10, 2:4] = 254
    for key in (1, 2, 3):
        write(f"pool/train2017/{key:012d}.jpg")
    write(f"pool/annotations/ood_seg_train2017/{2:012d}.png", mask)
    write(f"pool/annotations/ood_seg_train2017/{3:012d}.png", np.zeros_like(mask))
    for source in (tmp_path / "pool", tmp_path / "pool" / "annotations" / "ood_seg_train2017"):
        found = pool(source)
        assert names(found) == [2, 3]  # an image without a mask was not prepared
        assert ((found.read(0).instance > 0) == (mask > 0)).all()
        assert set(np.unique(found.read(0).instance)) == {0, 1, 2}  # two regions, two objects
        assert not found.read(1).instance.any()
    with pytest.raises(ConfigError, match="name no classes, so outlier_exclude: disjoint cannot be kept"):
        pool(tmp_path / "pool", exclude="disjoint")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="'shapes', a COCO annotation file or a folder"):
        pool(tmp_path / "missing")
    with pytest.raises(DatasetNotFoundError, match="holds no image"):
        pool(tmp_path)


def test_shapes_and_folders(tmp_path: Path, write: Write) -> None:
    shapes = pool("shapes", seed=3, height=50)
    assert isinstance(shapes, ShapeCutouts)
    assert (shapes.seed, shapes.height) == (3, 50)
    for part in ("images", "masks"):
        write(f"pool/{part}/a.png")
    paired = pool(tmp_path / "pool")
    assert isinstance(paired, FolderCutouts)
    assert paired.masks == [tmp_path / "pool" / "masks" / "a.png"]
    bare = pool(tmp_path / "pool" / "images")
    assert isinstance(bare, FolderCutouts)
    assert not bare.masks


def test_a_share_of_classes_needs_classes(coco: Path, tmp_path: Path, write: Write) -> None:
    assert len(names(pool(coco, class_share=0.5))) > 0
    write("pool/images/a.png")
    write("pool/masks/a.png")
    for source in ("shapes", tmp_path / "pool"):
        with pytest.raises(ConfigError, match=r"outlier_class_share=0.5 needs outliers that have classes"):
            pool(source, class_share=0.5)

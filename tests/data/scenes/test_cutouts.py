from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomaly_suite.data.files import read_image
from anomaly_suite.data.scenes import cutouts
from anomaly_suite.data.scenes.cutouts import CocoCutouts, Cutouts, decode_runs, open_cutouts
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError

Write = Callable[..., Path]


def pool(source: Path | str, **options: Any) -> Cutouts:
    return open_cutouts(str(source), **{"exclude": "released", "min_size": 30, "height": 64, "seed": 0, **options})


def names(found: Cutouts) -> list[int]:
    return [int(path.stem) for path in found.files]  # type: ignore[attr-defined] # pools of files


def slow_runs(counts: list[int], size: tuple[int, int]) -> np.ndarray:
    mask, place = np.zeros(size, bool), 0
    for number, count in enumerate(counts):
        for _ in range(count):
            mask[place % size[0], place // size[0]] = number % 2 == 1
            place += 1
    return mask


def test_the_two_exclusion_lists(coco: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert names(pool(coco)) == [10, 11, 15, 16, 17]  # not 12 with a car, 13 of 20 px, 14 without annotation
    assert (
        "classes left out (released): person, bicycle, car, motorcycle, bus, truck, traffic light, stop sign"
        in caplog.text
    )
    assert names(pool(coco, exclude="disjoint")) == [15, 16, 17]  # nor 11 with a train, 10 with a dog
    assert names(pool(coco, exclude=["cup"])) == [10, 11, 12, 17]
    assert names(pool(coco, exclude=[], min_size=1)) == [10, 11, 12, 13, 15, 16, 17]


def test_640_by_427_fails_the_480_rule(coco: Path) -> None:
    file = coco / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    for record, size in zip(content["images"], [(427, 640), (480, 640), (640, 480)], strict=False):
        record["height"], record["width"] = size
    file.write_text(json.dumps(content))
    assert names(pool(coco, exclude=["person"], min_size=480)) == [11, 12]


def test_polygons_are_drawn_within_a_pixel(coco: Path) -> None:
    found = pool(coco)
    image, instance = found.read(0)
    assert (image == read_image(coco / "train2017" / f"{10:012d}.png")).all()
    inside = np.zeros((40, 60), bool)
    inside[5:15, 10:30] = True
    assert (instance > 0)[inside].all()
    inside[4:16, 9:31] = True
    assert not instance[~inside].any()
    kite = found.read(4).instance
    assert kite[4, 4] == kite[4, 22] > 0  # two parts of one annotation
    cups = found.read(3).instance
    assert 0 != cups[4, 4] != cups[22, 45] != 0  # two annotations


def test_run_lengths_match_a_slow_loop(coco: Path) -> None:
    crowd = pool(coco).read(2).instance > 0
    expected = np.zeros((40, 60), bool)
    expected[5:15, 8:9] = expected[20:25, 30:40] = True
    assert (crowd == expected).all()
    rng = np.random.default_rng(0)
    for size in ((7, 5), (4, 9)):
        cuts = np.sort(rng.integers(0, size[0] * size[1] + 1, 6))
        counts = np.diff(np.concatenate([[0], cuts, [size[0] * size[1]]]))
        assert (decode_runs(counts, size) == slow_runs(counts.tolist(), size)).all()
    with pytest.raises(DatasetError, match="add up to 2 x 3 pixels; got 5"):
        decode_runs(np.array([2, 3]), (2, 3))


def test_what_is_kept_of_annotations_is_a_few_arrays(coco: Path) -> None:
    found = pool(coco)
    assert isinstance(found, CocoCutouts)
    kept = [value for value in vars(found).values() if not isinstance(value, np.ndarray)]
    assert kept == [found.files]


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


def test_wrong_annotations(coco: Path) -> None:
    file = coco / "annotations" / "instances_train2017.json"
    with pytest.raises(ConfigError, match=r"has no class 'dogs'\. Did you mean 'dog'\?"):
        pool(coco, exclude=["dogs"])
    with pytest.raises(DatasetError, match=r"no image of .* at least 1000 px .* person, bicycle"):
        pool(coco, min_size=1000)
    content = json.loads(file.read_text())
    content["annotations"][4]["segmentation"]["counts"] = "eW1"  # the compressed form of other tools
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="not a COCO file of instances with polygons or plain run lengths"):
        pool(coco)
    file.write_text("[1]")
    with pytest.raises(DatasetError, match="not a COCO file"):
        pool(coco)
    with pytest.raises(DatasetNotFoundError, match=r"no annotation file '.*x\.json'"):
        pool(coco / "x.json")


def test_missing_and_changed_images(coco: Path, write: Write) -> None:
    write(f"coco/train2017/{10:012d}.png", size=(41, 60))
    with pytest.raises(DatasetError, match=r"is 41 x 60, but its annotation says 40 x 60"):
        pool(coco).read(0)
    (coco / "train2017" / f"{16:012d}.png").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"1 files listed in '.*instances_train2017.json' do not exist"):
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


def test_folders_of_images_and_masks(tmp_path: Path, write: Write) -> None:
    mask = np.zeros((12, 10), np.uint8)
    mask[3:6, 3:6] = 1
    write("pool/images/cup.jpg")
    write("pool/masks/cup_mask.png", mask)
    assert ((pool(tmp_path / "pool").read(0).instance > 0) == (mask > 0)).all()
    write("pool/masks/cup_mask.png", mask[:6])
    with pytest.raises(DatasetError, match=r"cup_mask.png' is \(6, 10\), but '.*cup.jpg' is \(12, 10\)"):
        pool(tmp_path / "pool").read(0)


def test_rgba_images_with_and_without_palette(tmp_path: Path, write: Write) -> None:
    folder = tmp_path / "pool"
    folder.mkdir()
    rgba = np.random.default_rng(0).integers(0, 256, (9, 8, 4), dtype=np.uint8)
    rgba[..., 3] = 0
    rgba[2:5, 3:7, 3] = 128
    rgba[6, 6, 3] = 127
    Image.fromarray(rgba).save(folder / "a.png")
    indices = Image.fromarray((rgba[..., 3] > 127).astype(np.uint8)).convert("P")
    indices.putpalette([255, 0, 0, 0, 0, 255])
    indices.save(folder / "b.png", transparency=0)
    found = pool(folder)
    for index in range(2):
        assert ((found.read(index).instance > 0) == (rgba[..., 3] >= 128)).all()
    assert (found.read(0).image == rgba[..., :3]).all()
    assert found.read(1).image[3, 4].tolist() == [0, 0, 255]
    write("pool/c.png")
    with pytest.raises(DatasetError, match=r"c\.png' has no transparency"):
        pool(folder).read(2)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="'shapes', a COCO annotation file or a folder"):
        pool(tmp_path / "missing")
    with pytest.raises(DatasetNotFoundError, match="holds no image"):
        pool(tmp_path)


def test_shapes_repeat_and_fill_ellipses_or_diamonds() -> None:
    first, second, other = pool("shapes"), pool("shapes"), pool("shapes", seed=1)
    assert (first.read(5).image == second.read(5).image).all()
    assert first.read(5).image.shape != other.read(5).image.shape or (first.read(5).image != other.read(5).image).any()
    sides = []
    for index in range(60):
        image, instance = first.read(index)
        sides.append(len(instance))
        filled = (instance > 0).mean()
        assert 0.2 < filled < 0.85  # a diamond of aspect 0.5 fills a quarter of its box, a disc 0.785
        assert np.unique(instance).tolist() == [0, 1]
        assert image.std() > 5
    assert min(sides) >= round(0.12 * 64)
    assert max(sides) <= round(0.4 * 64)
    assert len(set(sides)) > 8


def test_disjoint_list_holds_what_the_test_sets_contain() -> None:
    assert set(cutouts.RELEASED) < set(cutouts.DISJOINT)
    assert {"train", "dog", "zebra", "sports ball", "couch"} <= set(cutouts.DISJOINT) - set(cutouts.RELEASED)
    assert len(cutouts.RELEASED) == 8

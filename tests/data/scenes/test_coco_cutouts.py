"""Objects of COCO annotations: which images are used, and how polygons and run lengths are drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomaly_suite.data.scenes.coco_cutouts import DISJOINT, RELEASED, CocoCutouts, decode_runs
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError
from anomaly_suite.io.images import read_image

Write = Callable[..., Path]


def pool(root: Path, **options: Any) -> CocoCutouts:
    file = root / "annotations" / "instances_train2017.json"
    return CocoCutouts(file, **{"exclude": "released", "min_size": 30, **options})


def names(found: CocoCutouts) -> list[int]:
    return [int(path.stem) for path in found.files]


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
    kept = [value for value in vars(found).values() if not isinstance(value, np.ndarray)]
    assert kept == [found.files]


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
        CocoCutouts(coco / "x.json", exclude="released", min_size=30)


def test_missing_and_changed_images(coco: Path, write: Write) -> None:
    write(f"coco/train2017/{10:012d}.png", size=(41, 60))
    with pytest.raises(DatasetError, match=r"is 41 x 60, but its annotation says 40 x 60"):
        pool(coco).read(0)
    (coco / "train2017" / f"{16:012d}.png").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"1 files listed in '.*instances_train2017.json' do not exist"):
        pool(coco)


def test_disjoint_list_holds_what_the_test_sets_contain() -> None:
    assert set(RELEASED) < set(DISJOINT)
    assert {"train", "dog", "zebra", "sports ball", "couch"} <= set(DISJOINT) - set(RELEASED)
    assert len(RELEASED) == 8


def classes_used(root: Path, found: CocoCutouts) -> set[str]:
    """Classes of the objects in a pool, by the numbers of their images and shapes."""
    content = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    name = {record["id"]: record["name"] for record in content["categories"]}
    used = set()
    for index, path in enumerate(found.files):
        mine = [item for item in content["annotations"] if item["image_id"] == int(path.stem)]
        drawn = set(found.instance[found.image == index].tolist())
        used |= {name[item["category_id"]] for item in mine} if len(drawn) == len(mine) else set()
    return used


def test_a_share_of_the_classes_is_drawn_by_the_seed(coco: Path, caplog: pytest.LogCaptureFixture) -> None:
    everything = pool(coco, class_share=1.0)
    content = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    free = [record["name"] for record in content["categories"] if record["name"] not in RELEASED]
    caplog.set_level("INFO")
    drawn = {}
    for seed in range(12):
        caplog.clear()
        try:
            found = pool(coco, class_share=0.4, seed=seed)
        except DatasetError:  # none of the drawn classes is in an image
            continue
        (line,) = [r.message for r in caplog.records if r.message.startswith("outliers of ")]
        assert line.startswith(f"outliers of {round(0.4 * len(free))} of {len(free)} classes: ")
        chosen = set(line.partition(": ")[2].split(", "))
        assert chosen <= set(free)
        assert set(names(found)) <= set(names(everything))
        assert classes_used(coco, found) <= chosen
        assert names(pool(coco, class_share=0.4, seed=seed)) == names(found)
        drawn[seed] = frozenset(chosen)
    assert len(set(drawn.values())) > 1


def test_an_image_annotated_as_it_is_stored(coco: Path) -> None:
    path, tags = coco / "train2017" / f"{10:012d}.png", Image.Exif()
    stored = read_image(path)
    tags[274] = 6
    Image.fromarray(stored).save(path, exif=tags.tobytes())
    cutouts = CocoCutouts(coco / "annotations/instances_train2017.json", exclude=["person"], min_size=0)
    assert (cutouts.read(0)[0] == stored).all()

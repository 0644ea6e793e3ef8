"""Folder on tiny trees and index files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_suite.contract import Batch, Splits
from anomaly_suite.data import Folder
from anomaly_suite.data.images.image_files import Item
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError

Write = Callable[..., Path]


def build(**options: Any) -> Splits:
    data = Folder(image_size=None, **options)
    data.setup()
    assert data.splits is not None
    return data.splits


def items(part: Any) -> list[Item]:
    found: list[Item] = part.items
    return found


def names(part: Any) -> list[str]:
    return [item.path.name for item in items(part)]


def everything(part: Any) -> Batch:
    batch: Batch = part.__getitems__(list(range(len(part))))
    return batch


@pytest.fixture
def root(tmp_path: Path, write: Write) -> Path:
    """Ten normal images, two defect folders, a mask for every defect."""
    for index in range(10):
        write(f"normal/{index}.png")
    for kind in ("crack", "dent"):
        for index in range(2):
            write(f"{kind}/{index}.png")
            write(f"masks/{kind}/{index}_mask.png", np.full((12, 10), 255, np.uint8))
    return tmp_path


def test_several_defect_folders_with_masks(root: Path) -> None:
    train, val, test = build(root=str(root), abnormal_dir=["crack", "dent"], mask_dir="masks")
    assert val is not None
    assert [len(part) for part in (train, val, test)] == [7, 1, 6]
    assert [item.defect for item in items(test)] == ["", "", "crack", "crack", "dent", "dent"]
    batch = everything(test)
    assert batch["label"].tolist() == [0, 0, 1, 1, 1, 1]
    assert batch["mask"].flatten(1).all(1).tolist() == [False, False, True, True, True, True]
    assert not batch["mask"][:2].any()


def test_defects_in_subfolders_of_one(root: Path) -> None:
    for kind in ("crack", "dent"):
        (root / "bad").mkdir(exist_ok=True)
        (root / kind).rename(root / "bad" / kind)
    test = build(root=str(root), abnormal_dir="bad", mask_dir="masks").test
    assert [item.defect for item in items(test)] == ["", "", "crack", "crack", "dent", "dent"]
    assert everything(test)["mask"][2:].all()


def test_flat_masks_without_the_word_mask(root: Path, write: Write) -> None:
    for index in range(2):
        write(f"flat/{index}.png", np.full((12, 10), 255, np.uint8))
    assert everything(build(root=str(root), abnormal_dir="dent", mask_dir="flat").test)["mask"][2:].all()
    with pytest.raises(DatasetError, match=r"flat/0\.png' fits both '.*crack/0\.png' and '.*dent/0\.png'"):
        build(root=str(root), abnormal_dir=["crack", "dent"], mask_dir="flat")


def test_masks_of_some_images_only(root: Path) -> None:
    (root / "masks/crack/0_mask.png").unlink()
    options: dict[str, Any] = {"root": str(root), "abnormal_dir": ["crack", "dent"]}
    with pytest.warns(UserWarning, match=r"1 of 4 anomalous test images have no mask, first '.*crack/0\.png'"):
        test = build(**options, mask_dir="masks").test
    assert "mask" not in everything(test)
    assert "mask" not in everything(build(**options).test)


def test_a_place_for_normal_test_images(root: Path, write: Write) -> None:
    write("fresh/a.png")
    train, _, test = build(root=str(root), abnormal_dir="dent", normal_test_dir="fresh", validation="none")
    assert len(train) == 10
    assert names(test) == ["a.png", "0.png", "1.png"]


def test_seeded_split(root: Path) -> None:
    def parts(seed: int) -> list[list[str]]:
        train, val, test = build(root=str(root), abnormal_dir="dent", test_fraction=0.3, val_size=2, seed=seed)
        return [names(train), names(val), names(test)[:-2]]

    got = parts(0)
    assert [len(part) for part in got] == [5, 2, 3]
    assert sorted(name for part in got for name in part) == [f"{index}.png" for index in range(10)]
    assert got == parts(0)
    assert got != parts(1)


def test_prints_what_it_found(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        build(root=str(root), abnormal_dir=["crack", "dent"], mask_dir="masks")
    table = [line.split() for line in caplog.text.splitlines()]
    assert ["split", "kind", "images", "masks"] in table
    assert ["train", "normal", "8", "0"] in table
    assert ["test", "dent", "2", "2"] in table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "nowhere"}, "root='nowhere', which does not exist"),
        ({"abnormal_dir": "dents"}, r"dents', which does not exist\. Beside it: crack, dent, masks, normal\."),
        ({"abnormal_dir": "dent", "mask_dir": "mask"}, r"mask', which does not exist"),
        ({"abnormal_dir": "dent", "normal_test_dir": "good"}, r"good', which does not exist"),
    ],
)
def test_missing_folders(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetNotFoundError, match=message):
        build(**{"root": str(root), **options})


def test_wrong_options(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"Folder needs root .* or index"):
        Folder()
    with pytest.raises(ConfigError, match=r"test_fraction must be in \(0, 1\); got 1"):
        Folder(root=str(root), test_fraction=1)
    for index in range(1, 10):
        (root / f"normal/{index}.png").unlink()
    with pytest.raises(DatasetError, match=r"1 normal images cannot be split .* set normal_test_dir"):
        build(root=str(root), abnormal_dir="dent")


def test_orphan_mask_and_leak(root: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"masks/crack/0_mask\.png' has no image; expected one named 'crack/0' \(2 such"
    ):
        build(root=str(root), abnormal_dir="dent", mask_dir="masks")
    shutil.copy(root / "normal/3.png", root / "dent/1.png")
    with pytest.raises(DatasetError, match=r"'.*dent/1\.png' has the same content as the \w+ image '.*normal/3\.png'"):
        build(root=str(root), abnormal_dir="dent", test_fraction=0.1, val_size=0.1, seed=1)


# Index files ------------------------------------------------------------------------------------------------------

ROWS: list[dict[str, Any]] = [
    *({"path": f"normal/{index}.png", "label": "normal", "split": "train"} for index in range(6)),
    {"path": "normal/6.png", "label": "good", "split": "test"},
    {"path": "normal/7.png", "label": 0, "split": "val"},
    {"path": "crack/0.png", "label": 1, "split": "test", "mask": "masks/crack/0_mask.png", "defect_type": "crack"},
    {"path": "crack/1.png", "label": "Anomaly", "mask": "masks/crack/1_mask.png", "defect_type": "crack"},
    {"path": "dent/0.png", "label": "abnormal", "split": "train", "mask": "masks/dent/0_mask.png"},
    {"path": "dent/1.png", "label": "1", "split": "val", "mask": "masks/dent/1_mask.png"},
]


def write_index(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".csv":
        columns = ["path", "label", "mask", "split", "defect_type"]
        lines = [",".join(columns), *(",".join(str(row.get(name, "")) for name in columns) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "lists/list.csv"])
def test_index(root: Path, name: str) -> None:
    (root / "lists").mkdir()
    index = write_index(root / name, ROWS)
    train, val, test = build(index=index, root=str(root) if "/" in name else None)
    assert names(train) == [f"{index}.png" for index in range(6)]
    assert [(item.path.parent.name, item.label) for item in items(val)] == [("normal", 0), ("dent", 1), ("dent", 1)]
    assert [(item.path.parent.name, item.label) for item in items(test)] == [("crack", 1), ("crack", 1), ("normal", 0)]
    assert [item.defect for item in items(test)] == ["crack", "crack", ""]
    assert everything(test)["mask"].flatten(1).all(1).tolist() == [True, True, False]
    assert everything(val)["mask"].flatten(1).all(1).tolist() == [False, True, True]


def test_index_gives_the_same_lists_in_any_order(root: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "split"} for row in ROWS]
    got = [[names(part) for part in build(index=write_index(root / "list.csv", order))] for order in (rows, rows[::-1])]
    assert got[0] == got[1]
    assert [len(part) for part in got[0]] == [5, 1, 6]  # 8 normals: 2 for testing, 1 of 6 held out


def test_anomalies_outside_the_test_set_serve_holdout_only(root: Path) -> None:
    index = write_index(root / "list.csv", ROWS)
    assert everything(build(index=index, validation="augmented").val)["label"].tolist() == [0, 1]
    assert build(index=index, validation="none").val is None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"label": "normall"},
            DatasetError,
            r"label in row 2 of '.*list\.csv' must be one of normal, .*got 'normall'. Did you mean 'normal'",
        ),
        ({"label": "2"}, DatasetError, "got '2'"),
        ({"label": ""}, DatasetError, "row 2 of .* has no 'label'; its columns are path, label"),
        (
            {"split": "tset"},
            DatasetError,
            "split in row 2 .* must be one of train, val, test; got 'tset'. Did you mean 'test'",
        ),
        ({"path": "normal/99.png"}, DatasetNotFoundError, r"1 files listed in '.*list\.csv' do not exist: .*99\.png"),
        ({"path": "a" * 5000}, DatasetNotFoundError, r"1 files listed in '.*list\.csv' do not exist"),
        ({"mask": "masks/99.png"}, DatasetNotFoundError, r"1 files listed in .*masks/99\.png"),
        (
            {"path": "normal/6.png"},
            DatasetError,
            r"rows 2 and 8 of '.*list\.csv' list the same image, '.*normal/6\.png'",
        ),
    ],
)
def test_wrong_rows(root: Path, change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(index=write_index(root / "list.csv", [{**ROWS[0], **change}, *ROWS[1:]]))


def test_wrong_index_files(root: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"index file at '.*none\.csv', which does not exist"):
        build(index=str(root / "none.csv"))
    (root / "list.csv").write_text("path,label\n")
    with pytest.raises(DatasetError, match=r"list\.csv' lists no image"):
        build(index=str(root / "list.csv"))
    (root / "list.csv").write_text("file,label\na.png,0\n")
    with pytest.raises(DatasetError, match=r"row 2 of .* has no 'path'; its columns are file, label"):
        build(index=str(root / "list.csv"))
    (root / "list.jsonl").write_text('{"path": "a.png", "label": 0}\n{"path": \n')
    with pytest.raises(DatasetError, match=r"line 2 of '.*list\.jsonl' is not a JSON object"):
        build(index=str(root / "list.jsonl"))
    with pytest.raises(DatasetError, match=r"lists 6 training and 0 test images"):
        build(index=write_index(root / "list.csv", ROWS[:6]))


def test_rows_listed_twice_name_their_lines(root: Path) -> None:
    for path in ("normal/2.png", "./normal/../normal/2.png", "normal\\2.png"):
        rows = [*ROWS[:6], {"path": path, "label": 0, "split": "train"}, *ROWS[6:]]
        with pytest.raises(DatasetError, match=r"rows 4 and 8 of '.*list\.csv' list the same image, '.*2\.png'"):
            build(index=write_index(root / "list.csv", rows))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_index_of_a_spreadsheet_with_names_in_another_form(root: Path, encoding: str) -> None:
    (root / "normal").rename(root / "gu\u0308t")  # as some systems store it
    lines = [f"{row['path']};{row['label']}".replace("normal/", "g\u00fct\\") for row in ROWS]
    (root / "list.csv").write_bytes("\r\n".join(["Path;Label", *lines]).encode(encoding))
    train, val, test = build(index=str(root / "list.csv"))
    assert [len(part) for part in (train, val, test)] == [5, 1, 6]
    assert everything(train)["label"].tolist() == [0] * 5
    (root / "list.csv").write_bytes("\n".join(["path,label", "g\u00fct/0.png,0"]).encode("latin-1"))
    with pytest.raises(DatasetError, match=r"line 2 of '.*list\.csv' is not UTF-8 \(byte 0xfc\)"):
        build(index=str(root / "list.csv"))


def test_folders_and_masks_with_names_in_another_form(root: Path) -> None:
    for name in ("normal", "crack", "masks/crack"):
        (root / name).rename((root / name).with_name(f"{Path(name).name}u\u0308"))
    options: dict[str, Any] = {"normal_dir": "normal\u00fc", "abnormal_dir": "crack\u00fc", "mask_dir": "masks"}
    (root / "masks/dent").rename(root / "elsewhere")
    assert everything(build(root=str(root), **options).test)["mask"][2:].all()


def test_two_masks_of_one_image_and_a_label_against_its_mask(root: Path, write: Write) -> None:
    write("masks/dent/0_mask.tif", np.full((12, 10), 255, np.uint8))
    options: dict[str, Any] = {"root": str(root), "abnormal_dir": ["crack", "dent"], "mask_dir": "masks"}
    with pytest.raises(DatasetError, match=r"'.*dent/0_mask\.png' and '.*dent/0_mask\.tif' are masks of one name"):
        build(**options)
    (root / "masks/dent/0_mask.tif").rename(root / "masks/dent/0.tif")
    with pytest.raises(
        DatasetError, match=r"'.*dent/0_mask\.png' and '.*dent/0\.tif' are both masks of '.*dent/0\.png'"
    ):
        build(**options)
    rows = [*ROWS[:6], {**ROWS[6], "mask": "masks/dent/1_mask.png"}, *ROWS[7:]]
    with pytest.raises(
        DatasetError, match=r"dent/1_mask\.png' marks 120 pixels as anomalous, but its image is labelled normal"
    ):
        build(index=write_index(root / "list.csv", rows))


def test_folders_that_lie_in_one_another(root: Path) -> None:
    (root / "normal/more").mkdir()
    (root / "normal/9.png").rename(root / "normal/more/9.png")
    with pytest.raises(
        DatasetError, match=r"more/9\.png' is in the \w+ part, and in the \w+ part before\. List every image once"
    ):
        build(root=str(root), normal_dir=["normal", "normal/more"], abnormal_dir="dent", test_fraction=0.1, seed=2)

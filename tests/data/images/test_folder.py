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
    (root / "list.csv").write_bytes("\r\n".join(["path;label", *lines]).encode("cp1252"))
    with pytest.warns(
        UserWarning, match=r"line 2 of '.*list\.csv' is not UTF-8 \(byte 0xfc\): the file is read as Windows-1252"
    ):
        assert [len(part or ()) for part in build(index=str(root / "list.csv"))] == [5, 1, 6]


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


@pytest.mark.parametrize(
    ("header", "words", "separator"),
    [
        ("PATH; Label ;Mask;Split;Defect Type", ("True", "False", "nan", ""), ";"),
        ("\ufeffpath|label|mask|split|defect-type|", ("1.0", "0.0", "", "|"), "|"),
        (",image_path,label_index,mask_path,split", ("1", "0", "None", ""), ","),
        ("Path\tLABEL\tmask\tsplit\tdefect_type", ("NOK", "OK", "N/A", ""), "\t"),
    ],
)
def test_index_as_people_have_them(root: Path, header: str, words: tuple[str, ...], separator: str) -> None:
    anomalous, normal, none, end = words
    rows = [[f" normal/{index}.png ", normal, none, "Train" if index else "TEST", none] for index in range(7)]
    rows += [["dent/1.png", anomalous, none, "valid", none]]
    rows += [["crack/0.png", anomalous, "masks/crack/0_mask.png ", "Testing", none]]
    if header.startswith(","):  # numbers of rows, as pandas writes them
        rows = [[str(number), *row[:-1]] for number, row in enumerate(rows)]
    (root / "list.csv").write_text("\n".join([header, *(separator.join(row) + end for row in rows)]))
    train, val, test = build(index=str(root / "list.csv"))
    assert [len(train), len(val)] == [5, 2]
    assert [(item.path.parent.name, item.label, item.defect) for item in items(test)] == [
        ("crack", 1, "anomaly"),
        ("normal", 0, ""),
    ]
    assert [item.mask and item.mask.name for item in (*items(val), *items(test))] == [None, None, "0_mask.png", None]


def test_index_of_anomalib_names_the_kind_of_defect(root: Path) -> None:
    rows = ["image_path,label,label_index,mask_path,split", "crack/0.png,crack,1,masks/crack/0_mask.png,Split.TEST"]
    rows += [f"{root}/normal/{index}.png,good,0,,{'test' if index == 5 else 'train'}" for index in range(6)]
    (root / "list.csv").write_text("\n".join(rows))
    train, _, test = build(index=str(root / "list.csv"))
    assert [len(train), [item.defect for item in items(test)]] == [4, ["crack", ""]]
    (root / "list.csv").write_text("\n".join(rows).replace(",crack,1,", ",crack,2,"))
    with pytest.raises(DatasetError, match=r"label in row 2 of '.*list\.csv' must be one of normal, .*; got '2'"):
        build(index=str(root / "list.csv"))


# Polygons ---------------------------------------------------------------------------------------------------------

SQUARE = [[2, 3], [6, 3], [6, 8], [2, 8]]  # x and y: rows 3 to 7, columns 2 to 5


def labelme(file: Path, *polygons: Any, size: tuple[int, int] = (12, 10)) -> None:
    shapes = [{"label": "crack", "points": points, "shape_type": "polygon"} for points in polygons]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"shapes": shapes, "imageHeight": size[0], "imageWidth": size[1], "imageData": None}))


def coco(file: Path, names: dict[str, list[Any]], size: tuple[int, int] = (12, 10)) -> None:
    images = [
        {"id": number, "file_name": name, "height": size[0], "width": size[1]} for number, name in enumerate(names)
    ]
    square = [[2, 3, 6, 3, 6, 8, 2, 8]]
    annotations = [
        {"id": 10 * number + place, "image_id": number, "category_id": 1, "segmentation": each or square}
        for number, parts in enumerate(names.values())
        for place, each in enumerate(parts)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "crack"}]})
    )


def check_square(test: Any) -> None:
    mask = everything(test)["mask"]
    assert mask.flatten(1).sum(1).tolist() == [0, 0, *[20] * (len(test) - 2)]
    assert mask[2:, 0, 3:8, 2:6].all()


@pytest.mark.parametrize("where", ["crack", "polygons", "polygons/crack"])
def test_labelme_files_beside_the_images_or_in_a_folder(root: Path, where: str) -> None:
    for index in range(2):
        labelme(root / where / f"{index}.json", SQUARE)
    labelme(root / where / "empty.json")  # of a picture without a defect
    (root / where / "notes.json").write_text("[]")
    mask_dir = "polygons" if where.startswith("polygons") else where
    check_square(build(root=str(root), abnormal_dir="crack", mask_dir=mask_dir).test)


@pytest.mark.parametrize("name", ["coco.json", "marked/_annotations.coco.json"])
@pytest.mark.parametrize("folder", ["", "C:\\data\\", "images/"])
def test_a_coco_file(root: Path, name: str, folder: str) -> None:
    marked: dict[str, list[Any]] = {
        f"{folder}{kind}/{index}.png": [None] for kind in ("crack", "dent") for index in range(2)
    }
    coco(root / name, {**marked, f"{folder}normal/0.png": []})
    options: dict[str, Any] = {"root": str(root), "abnormal_dir": ["crack", "dent"]}
    data = Folder(image_size=6, mask_dir=name if name == "coco.json" else "marked", **options)
    check_square(build(mask_dir=name if name == "coco.json" else "marked", **options).test)
    data.setup()
    assert data.splits is not None
    assert everything(data.splits.test)["mask"][2:].flatten(1).any(1).all()  # resized with their images
    assert {listed.mask for split, listed in data.listed_samples() if listed.label} == {name}


def test_polygons_listed_in_an_index(root: Path) -> None:
    labelme(root / "crack/0.json", SQUARE)
    labelme(root / "crack/1.json", SQUARE)
    coco(root / "coco.json", {"dent/0.png": [None], "dent/1.png": [None]})
    files = {
        "crack/0.png": "crack/0.json",
        "crack/1.png": "crack/1.json",
        "dent/0.png": "coco.json",
        "dent/1.png": "coco.json",
    }
    rows = [{**row, "mask": files.get(row["path"], "")} for row in ROWS]
    _, val, test = build(index=write_index(root / "list.csv", rows))
    assert everything(test)["mask"].flatten(1).sum(1).tolist() == [20, 20, 0]
    assert everything(val)["mask"].flatten(1).sum(1).tolist() == [0, 20, 20]
    labelme(root / "normal/6.json", SQUARE)
    with pytest.raises(
        DatasetError, match=r"6\.json' marks 1 objects, but the image '.*normal/6\.png' is labelled normal"
    ):
        build(
            index=write_index(
                root / "list.csv", [{**row, "mask": "normal/6.json"} if "/6" in row["path"] else row for row in rows]
            )
        )
    coco(root / "coco.json", {"dent/9.png": [None]})
    with pytest.raises(DatasetError, match=r"coco\.json' lists no image named '0\.png'\. Correct its file_name"):
        build(index=write_index(root / "list.csv", rows))


def test_polygons_that_do_not_belong_to_the_images(root: Path) -> None:
    options: dict[str, Any] = {"root": str(root), "abnormal_dir": ["crack", "dent"]}
    file = root / "coco.json"
    marked: dict[str, list[Any]] = {"crack/0.png": [None], "dent/0.png": [None]}
    with pytest.raises(
        DatasetNotFoundError, match=r"annotations at '.*coco\.json', which does not exist\. Correct mask_dir"
    ):
        build(mask_dir="coco.json", **options)
    for change, message in (
        ({"0.png": [None]}, r"'0\.png' in '.*coco\.json' fits both '.*crack/0\.png' and '.*dent/0\.png'"),
        (
            {**marked, "a/crack/0.png": [None]},
            r"lists '.*crack/0\.png' twice, as 'crack/0\.png' and as 'a/crack/0\.png'",
        ),
        (
            {**marked, "normal/3.png": [None]},
            r"marks 1 objects in '.*normal/3\.png' \(1 such images\), which is labelled normal",
        ),
        ({"crack/0.png": []}, r"marks nothing in any of 4 anomalous images"),
        ({"crack/18.png": [None]}, r"marks nothing in any of 4 anomalous images"),
    ):
        coco(file, change)
        with pytest.raises(DatasetError, match=message):
            build(mask_dir="coco.json", **options)
    coco(file, {"crack/0.png": [None], "dent/0.png": [None], "x/0.png": [None]})
    assert [
        item.drawing is not None
        for item in items(build(root=str(root), abnormal_dir="crack", mask_dir="coco.json").test)
    ][2:] == [True, False]
    coco(file, {**marked, "elsewhere.png": [None]})
    with pytest.warns(
        UserWarning, match=r"1 annotated images of '.*coco\.json' are not among the 4 .* first 'elsewhere\.png'"
    ):
        assert [item.drawing is not None for item in items(build(mask_dir="coco.json", **options).test)][2:] == [
            True,
            False,
        ] * 2
    coco(file, marked, size=(10, 12))
    with pytest.raises(
        DatasetError, match=r"coco\.json' was drawn on 10 x 12 pixels, but its image '.*0\.png' is 12 x 10 \(H x W\)"
    ):
        build(mask_dir="coco.json", **options)
    file.write_text('{"boxes": []}')
    with pytest.raises(DatasetError, match=r"coco\.json' is neither a LabelMe file .* nor a COCO file"):
        build(mask_dir="coco.json", **options)
    file.write_text("{")
    with pytest.raises(DatasetError, match=r"coco\.json' is no JSON"):
        build(mask_dir="coco.json", **options)
    labelme(root / "masks/crack/0.json", SQUARE)
    with pytest.raises(
        DatasetError, match=r"masks' holds annotations \('0\.json'\) and images that are none of the data set"
    ):
        build(mask_dir="masks", **options)
    labelme(root / "marked/crack/7.json", SQUARE)
    with pytest.raises(DatasetError, match=r"crack/7\.json' has no image; expected one named 'crack/7'"):
        build(mask_dir="marked", **options)

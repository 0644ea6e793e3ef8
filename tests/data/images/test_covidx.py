"""COVIDx on a tiny look-alike, and every way in which a copy or a list can be wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anomaly_suite.data import COVIDx
from anomaly_suite.data.images import covidx
from anomaly_suite.errors import AnomalySuiteError, ConfigError, DatasetError

Write = Callable[..., Path]
TRAIN = [f"n{i} n{i}.png negative {source}" for i, source in enumerate(["rsna"] * 4 + ["cohen", "actmed"])] + [
    "p0 p0.png positive sirm"
]
TEST = [f"t{i} t{i}.png negative rsna" for i in range(3)] + [f"q{i} q{i}.png positive ricord" for i in range(3)]
OF_8A = {
    "train": ["a0 n0.png normal rsna", "a1 n1.png pneumonia rsna"],
    "test": [row.replace("negative", "normal") for row in TEST],
}


def save(root: Path, part: str, lines: list[str], version: str = "8B") -> None:
    (root / "labels").mkdir(exist_ok=True)
    (root / f"labels/{part}_COVIDx{version}.txt").write_text(
        "\n".join(lines).replace("positive", "COVID-19" if version == "8A" else "positive")
    )


@pytest.fixture
def chests(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six negatives of three sources for training, 3 + 3 test images; positive training images are not there."""
    counts = {"train": {"negative": 6, "positive": 1}, "test": {"negative": 3, "positive": 3}}
    monkeypatch.setattr(covidx, "PUBLISHED", {part: {"8B": labels} for part, labels in counts.items()})
    for part, lines in {"train": TRAIN[:6], "test": TEST}.items():
        for line in lines:
            write(f"{part}/{line.split()[1]}")
    save(tmp_path, "train", TRAIN)
    save(tmp_path, "test", TEST)
    for part, lines in OF_8A.items():
        save(tmp_path, part, lines, "8A")
    return tmp_path


def make(root: Path, **options: Any) -> COVIDx:
    data = COVIDx(root=str(root), **{"validation": "none", "image_size": 8, **options})
    data.setup()
    return data


def test_parts_and_what_is_said_of_them(chests: Path) -> None:
    data = make(chests, validation="holdout", threshold_images=1)
    train, val, test = data.require_splits()
    assert [len(part) for part in (train, val, test)] == [6, 2, 4]  # type: ignore[arg-type]
    assert test.__getitems__(list(range(4)))["label"].tolist() == [0, 0, 1, 1]  # type: ignore[attr-defined]
    assert data.dataset_version == (
        "lists 8B, negatives all; train normal from actmed 1, cohen 1, rsna 4; test normal from rsna 3; test anomalous from ricord 3; "
        "threshold images apart (1 normal and 1 anomalous are taken out of the test set)"
    )


def test_lists_that_tell_pneumonia_from_normal(chests: Path) -> None:
    assert [item.path.stem for item in make(chests, version="8A").require_splits().train.items] == ["n0", "n1"]  # type: ignore[attr-defined]
    normal = make(chests, version="8A", negatives="normal_only").require_splits()
    assert [item.path.stem for item in normal.train.items] == ["n0"]  # type: ignore[attr-defined]
    with pytest.raises(
        ConfigError, match=r"needs a list that names other pneumonias, version 2, 3, 4, 5, 7A, 8A, 9A; got 8B"
    ):
        COVIDx(negatives="normal_only")
    with pytest.raises(ConfigError, match=r"version must be '2', .*; got '1'"):
        COVIDx(version="1")  # type: ignore[arg-type] # what is tested


def test_lists_by_path(chests: Path) -> None:
    for part in ("train", "test"):
        (chests / f"labels/{part}_COVIDx8B.txt").rename(chests / f"{part}.txt")
    data = make(chests, train_list=str(chests / "train.txt"), test_list=str(chests / "test.txt"))
    assert len(data.require_splits().train) == 6  # type: ignore[arg-type]


def test_a_subset_says_which_sources_are_missing(chests: Path) -> None:
    (chests / "train/n4.png").unlink()
    (chests / "test/q0.png").unlink()
    with pytest.warns(UserWarning, match=r"1 of 6 listed train images do not exist in '.*train', by source: cohen 1\."):
        data = make(chests, subset=True)
    assert "subset (1 of 6 listed train images do not exist)" in str(data.dataset_version)
    assert [len(part) for part in (data.require_splits().train, data.require_splits().test)] == [5, 5]  # type: ignore[arg-type]


def test_the_known_patient_in_both_lists_is_left_out_of_training(chests: Path) -> None:
    save(chests, "train", [line.replace("n5 ", "ANON191 ") for line in TRAIN])
    save(chests, "test", [line.replace("t0 ", "ANON191 ") for line in TEST])
    with pytest.warns(UserWarning, match="1 training images of ANON191, a patient of the test list, left out"):
        data = make(chests)
    assert len(data.require_splits().train) == 5  # type: ignore[arg-type]


def test_published_numbers() -> None:
    rows = {version: sum(labels.values()) for version, labels in covidx.PUBLISHED["train"].items()}
    assert rows == {"5": 13958, "6": 14311, "7B": 15464, "8A": 7966, "8B": 15952, "9B": 30482}
    assert covidx.PUBLISHED["test"]["8B"] == covidx.PUBLISHED["test"]["9B"] == {"negative": 200, "positive": 200}


def wrong_level(root: Path) -> Path:
    return root / "train"


def packed(root: Path) -> Path:
    shutil.rmtree(root / "test")
    (root / "covidx-cxr2.zip").touch()
    return root


def without_list(root: Path) -> Path:
    (root / "labels/test_COVIDx8B.txt").unlink()
    return root


def without_image(root: Path) -> Path:
    (root / "train/n4.png").unlink()
    return root


def unknown_label(root: Path) -> Path:
    save(root, "train", [*TRAIN[:-1], "p0 p0.png maybe sirm"])
    return root


def too_few(root: Path) -> Path:
    save(root, "train", TRAIN[1:])
    return root


def same_patient(root: Path) -> Path:
    save(root, "test", [line.replace("t0 ", "n5 ") for line in TEST])
    return root


def same_file(root: Path) -> Path:
    save(root, "test", [line.replace("t0 t0.png", "x n5.png") for line in TEST])
    return root


def same_content(root: Path) -> Path:
    shutil.copy(root / "train/n1.png", root / "test/t1.png")
    return root


def two_of_a_name(root: Path) -> Path:
    (root / "train/again").mkdir()
    shutil.copy(root / "train/n1.png", root / "train/again")
    return root


def truncated(root: Path) -> Path:
    path = root / "train/n1.png"
    path.write_bytes(path.read_bytes()[:80])
    return root


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (wrong_level, r"COVIDx: root should be '.*', which holds train and test; got"),
        (packed, r"holds the archive 'covidx-cxr2.zip'\. Unpack it in"),
        (without_list, r"expects the list '.*labels/test_COVIDx8B.txt', which does not exist\..*give it as test_list"),
        (
            without_image,
            r"1 of 6 listed train images do not exist in '.*', by source: cohen 1; first 'n4.png'\. Complete",
        ),
        (unknown_label, r"line 7 of '.*' has the label 'maybe'; known are normal, pneumonia, negative"),
        (too_few, r"found train negative 5 of 6\. Complete the data set, or set subset: true"),
        (same_patient, r"patient 'n5' has 'n5.png' in the training list and 't0.png' in the test list"),
        (same_file, r"patient 'n5' has 'n5.png' in the training list and 'n5.png' in the test list"),
        (same_content, r"the test image '.*t1.png' has the same content as the training image '.*n1.png'"),
        (two_of_a_name, r"n1.png' and '.*n1.png' are train images of one name, and only one can be used"),
        (truncated, r"n1.png' \(80 bytes\) is truncated"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_copy_is_one_sentence(chests: Path, spoil: Callable[[Path], Path], sentence: str) -> None:
    root = spoil(chests)
    with pytest.raises(AnomalySuiteError, match=sentence) as caught:
        make(root)
    assert "\n" not in str(caught.value)


def test_real_radiographs(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "chest_xray"
    if not root.is_dir():
        pytest.skip("no chest radiographs")
    labels = {"normal": "normal", "pneumonia": "pneumonia", "covid19": "COVID-19"}
    lists = {f"{part}_list": tmp_path / f"{part}.txt" for part in ("train", "test")}
    for part in ("train", "test"):  # patients are not known
        rows = [f"{path.stem} {path.name} {labels[path.parent.name]}" for path in sorted((root / part).glob("*/*.*"))]
        lists[f"{part}_list"].write_text("\n".join(rows), encoding="utf-8")
    given = {name: str(path) for name, path in lists.items()}
    with pytest.raises(
        DatasetError,
        match=r"00002658_001.jpg' has the same content as the training image '.*00002658_002.jpg' \(1 such",
    ):
        make(root, version="8A", **given)
    rows = [row for row in lists["test_list"].read_text(encoding="utf-8").splitlines() if "00002658_001" not in row]
    lists["test_list"].write_text("\n".join(rows), encoding="utf-8")
    data = make(root, version="8A", **given)
    assert data.dataset_version == (
        "lists 8A, negatives all; train normal from unnamed 350; test normal from unnamed 649; test anomalous from unnamed 124"
    )
    normal = make(root, version="8A", negatives="normal_only", **given).require_splits().test
    assert sorted(item.label for item in normal.items) == [0] * 149 + [1] * 124  # type: ignore[attr-defined]


def test_the_other_images_of_a_patient_leave_the_test_part(chests: Path) -> None:
    save(
        chests,
        "test",
        [*TEST[:3], "q0 q0.png positive ricord", "q0 q1.png positive ricord", "q2 q2.png positive ricord"],
    )
    for seed in range(4):
        data = make(chests, num_anomalous=1, anomalous_seed=seed)
        train, _, test = data.require_splits()
        (moved,) = [item.path.stem for item in train.items if item.label]  # type: ignore[attr-defined]
        left = {item.path.stem for item in test.items if item.label}  # type: ignore[attr-defined]
        assert left == ({"q0", "q1"} if moved == "q2" else {"q2"})

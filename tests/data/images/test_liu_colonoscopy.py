"""LiuColonoscopy on tiny look-alikes of both layouts and variants, and every way in which a set can be wrong."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anomaly_suite.data import LiuColonoscopy
from anomaly_suite.data.images import liu_colonoscopy
from anomaly_suite.errors import AnomalySuiteError, ConfigError, DatasetError

Write = Callable[..., Path]
PARTS = {
    "train/normal": 12,
    "train/abnormal": 6,
    "val/normal": 2,
    "val/abnormal": 2,
    "test/normal": 4,
    "test/abnormal": 5,
}
COUNTS = {"train": 12, "val normal": 2, "val abnormal": 2, "test normal": 4, "test abnormal": 5}


@pytest.fixture
def frames(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The documented layout with patients: 1 and 2 in training, 3 in validation, 4 in the test part."""
    monkeypatch.setattr(liu_colonoscopy, "PUBLISHED", dict.fromkeys(("one_class", "few_shot"), COUNTS))
    monkeypatch.setattr(liu_colonoscopy, "SIDE", 12)
    rows = ["file,patient"]
    for place, count in PARTS.items():
        for index in range(count):
            write(f"{place}/{index}.png", size=(12, 12))
            rows.append(
                f"{place}/{index}.png,{ {'train': 1 + index % 2, 'val': 3, 'test': 4}[place.partition('/')[0]] }".replace(
                    " ", ""
                )
            )
    (tmp_path / "patients.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


@pytest.fixture
def released(frames: Path) -> Path:
    """The training part as the released few-shot code has it."""
    for folder, (name, word) in {"normal": ("train_set", "normal"), "abnormal": ("abnormal_6", "polyp")}.items():
        (frames / "train" / name).mkdir()
        for path in (frames / "train" / folder).iterdir():
            path.rename(frames / "train" / name / f"{word}_{path.name}")
        (frames / "train" / folder).rmdir()
    (frames / "patients.csv").unlink()
    return frames


def make(root: Path, **options: Any) -> LiuColonoscopy:
    data = LiuColonoscopy(root=str(root), **{"strict_counts": True, "threshold_images": 1, "image_size": 12, **options})
    data.setup()
    return data


def labels(part: Any) -> list[int]:
    return [item.label for item in part.items]


def shots(root: Path, count: int, seed: int = 0) -> set[str]:
    with pytest.warns(UserWarning, match=f"trains on {count} polyps, labelled 1: use a method that reads the labels"):
        data = make(root, variant="few_shot", shots=count, seed=seed)
    return {item.path.name for item in data.require_splits().train.items if item.label}  # type: ignore[attr-defined]


def test_one_class(frames: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = make(frames)
    train, val, test = data.require_splits()
    assert labels(train) == [0] * 12
    assert labels(val) == [0, 0, 1, 1]
    assert labels(test) == [0] * 4 + [1] * 5
    assert data.dataset_version == "one_class, 0 polyps in training"


def test_threshold_images_where_validation_has_normals_alone(frames: Path) -> None:
    shutil.rmtree(frames / "val/abnormal")
    train, val, test = make(frames, strict_counts=False).require_splits()
    assert [len(part) for part in (train, val, test)] == [12, 4, 7]  # type: ignore[arg-type]


def test_few_shot_draws_are_nested_and_seeded(frames: Path) -> None:
    drawn = [shots(frames, count) for count in (2, 4, 6)]
    assert [len(names) for names in drawn] == [2, 4, 6]
    assert drawn[0] < drawn[1] < drawn[2]
    assert len({frozenset(shots(frames, 3, seed)) for seed in range(4)}) > 1
    with pytest.raises(
        ConfigError, match=r"shots=7 polyps are drawn from the pool in '.*train', which has 6\. Give fewer"
    ):
        make(frames, variant="few_shot", shots=7)


def test_few_shot_keeps_its_polyps_where_normals_are_held_out(frames: Path) -> None:
    shutil.rmtree(frames / "val")
    with pytest.warns(UserWarning, match="trains on 3 polyps"):
        data = make(frames, variant="few_shot", shots=3, threshold_set="none", val_size=4, strict_counts=False)
    train, val, _ = data.require_splits()
    assert labels(train) == [0] * 8 + [1] * 3
    assert labels(val) == [0] * 4
    batch = train.__getitems__([7, 8])  # type: ignore[attr-defined]
    assert batch["label"].tolist() == [0, 1]


def test_the_layout_of_the_released_code(released: Path) -> None:
    assert shots(released, 6) == {f"polyp_{index}.png" for index in range(6)}
    train = make(released, variant="few_shot", shots=0).require_splits().train
    assert [item.path.name for item in train.items] == [f"normal_{index}.png" for index in range(12)]  # type: ignore[attr-defined] # by number


def test_of_several_draws_in_folders_the_one_of_its_size_is_read(released: Path, write: Write) -> None:
    for index in range(2):
        write(f"train/abnormal_2/ulcer_{index}.png", size=(12, 12))
    assert shots(released, 2) == {"ulcer_0.png", "ulcer_1.png"}


def test_patients_of_a_list_from_windows_and_of_other_frames(frames: Path) -> None:
    paths = [path.relative_to(frames).as_posix() for path in sorted(frames.rglob("*.png"))]
    written = "file,patient\n" + "\n".join(f"{path},{path.split('/')[0]}" for path in paths)
    (frames / "patients.csv").write_text(written.replace("/", "\\"), encoding="utf-8")
    make(frames)
    (frames / "patients.csv").write_text(written.replace("/", "\\").replace(",test", ",train"), encoding="utf-8")
    with pytest.raises(
        DatasetError, match=r"patient 'train' has '.*' in the training and validation part and '.*' in the test part"
    ):
        make(frames)
    (frames / "patients.csv").write_text("file,patient\nnowhere.png,3\n", encoding="utf-8")
    with pytest.raises(
        DatasetError, match=r"must name frames as they lie below '.*'; none of its 1 rows does.*Correct its column file"
    ):
        make(frames)
    (frames / "patients.csv").write_text("\n".join(written.splitlines()[:3]), encoding="utf-8")
    with pytest.warns(
        UserWarning, match=r"whether a patient is in two parts: \d+ of \d+ frames are not in '.*patients.csv', first"
    ):
        make(frames)


def test_what_cannot_be_checked_is_said(frames: Path) -> None:
    (frames / "patients.csv").unlink()
    with pytest.warns(
        UserWarning, match=r"cannot tell whether a patient is in two parts: there is no '.*patients.csv'"
    ):
        make(frames)


def test_other_counts_and_sizes_are_said(frames: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (frames / "train/normal/0.png").unlink()
    with pytest.warns(UserWarning, match="is not the published set: train 11 of 12"):
        make(frames, strict_counts=False)
    monkeypatch.setattr(liu_colonoscopy, "SIDE", 64)
    with pytest.warns(UserWarning, match=r"has frames of 64 x 64; '.*test/normal/0.png' is 12 x 12"):
        make(frames, strict_counts=False)


def wrong_level(root: Path) -> Path:
    return root / "train" / "normal"


def packed(root: Path) -> Path:
    shutil.rmtree(root / "test")
    (root / "colonoscopy.tar.gz").touch()
    return root


def without_polyps(root: Path) -> Path:
    shutil.rmtree(root / "test/abnormal")
    return root


def too_few(root: Path) -> Path:
    (root / "train/normal/0.png").unlink()
    return root


def same_patient(root: Path) -> Path:
    file = root / "patients.csv"
    file.write_text(
        file.read_text(encoding="utf-8").replace("test/abnormal/3.png,4", "test/abnormal/3.png,2"), encoding="utf-8"
    )
    return root


def leaking(root: Path) -> Path:
    shutil.copy(root / "train/normal/3.png", root / "test/normal/3.png")
    return root


def truncated(root: Path) -> Path:
    path = root / "test/abnormal/1.png"
    path.write_bytes(path.read_bytes()[:50])
    return root


def misnamed(root: Path) -> Path:
    (root / "train/normal").rename(root / "train/train_set")
    for path in list((root / "train/train_set").iterdir()):
        path.rename(path.with_name(f"{'polyp' if path.stem == '3' else 'normal'}_{path.name}"))
    return root


def normal_among_polyps(root: Path) -> Path:
    misnamed(root)
    (root / "train/train_set/polyp_3.png").rename(root / "train/abnormal/normal_3.png")
    return root


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (wrong_level, r"LiuColonoscopy: root should be '.*', which holds train and test; got"),
        (packed, r"holds the archive 'colonoscopy.tar.gz'\. Unpack it in"),
        (without_polyps, r"expects images .* in '.*test/abnormal', which does not exist\. Beside it: normal"),
        (
            too_few,
            r"expects the published number of images in '.*'; found train 11 of 12\. Complete the data set, or set strict_counts: false",
        ),
        (
            same_patient,
            r"patient '2' has '.*1.png' in the training and validation part and '.*test/abnormal/3.png' in the test part \(1",
        ),
        (leaking, r"the test image '.*3.png' has the same content as the training image '.*3.png'"),
        (truncated, r"1.png' \(50 bytes\) is truncated"),
        (misnamed, r"a file in '.*train_set' must be named normal_<number>; got 'polyp_3.png' \(1 such files\)"),
        (normal_among_polyps, r"normal_3.png' is named as a normal frame, but lies among polyps"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_set_is_one_sentence(frames: Path, spoil: Callable[[Path], Path], sentence: str) -> None:
    root = spoil(frames)
    with pytest.raises(AnomalySuiteError, match=sentence) as caught:
        make(root)
    assert "\n" not in str(caught.value)


def test_labelled_polyps_of_the_test_part_take_their_patient_along(frames: Path) -> None:
    rows = (frames / "patients.csv").read_text(encoding="utf-8")
    for number, patient in enumerate((5, 5, 6, 6, 7)):
        rows = rows.replace(f"test/abnormal/{number}.png,4", f"test/abnormal/{number}.png,{patient}")
    (frames / "patients.csv").write_text(rows.replace("test/normal/0.png,4", "test/normal/0.png,5"), encoding="utf-8")
    patients = {"0.png": "5", "1.png": "5", "2.png": "6", "3.png": "6", "4.png": "7"}
    seen = set()
    for seed in range(6):
        data = make(frames, num_anomalous=1, anomalous_seed=seed)
        train, _, test = data.require_splits()
        (moved,) = [item.path.name for item in train.items if item.label]  # type: ignore[attr-defined]
        left = [item.path for item in test.items]  # type: ignore[attr-defined]
        mates = {name for name, patient in patients.items() if patient == patients[moved]}
        assert {path.name for path in left if path.parent.name == "abnormal"} == patients.keys() - mates
        normal = {path.name for path in left if path.parent.name == "normal"}
        assert normal == {"1.png", "2.png", "3.png"} | ({"0.png"} if patients[moved] != "5" else set())
        seen.add(patients[moved])
    assert len(seen) > 1

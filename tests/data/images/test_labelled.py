"""Which anomalies move into training: draws and lists, with every way in which they cannot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from anomaly_suite.data.images.labelled import Pool, apart, count_kinds, drawn, listed, require_giving
from anomaly_suite.errors import AnomalySuiteError, ConfigError

KINDS = ["", "", *["crack"] * 6, *["spot"] * 3, "hole"]


def pool(blocked: Mapping[int, str] | None = None, kinds: list[str] | None = None) -> Pool:
    kinds = KINDS if kinds is None else kinds
    names = [f"test/{kind or 'good'}/{place}.png" for place, kind in enumerate(kinds)]
    return Pool("Tiles", [int(bool(kind)) for kind in kinds], names, kinds, blocked or {}, {"train/0.png": "training"})


def kinds_of(places: list[int]) -> list[str]:
    return [KINDS[place] for place in places]


def test_kinds_take_turns_and_fewer_are_among_more() -> None:
    nine = drawn(pool(), 9, seed=0, kinds=None)
    assert sorted(kinds_of(nine[:3])) == ["crack", "hole", "spot"]
    assert sorted(kinds_of(nine[3:7])) == ["crack", "crack", "spot", "spot"]
    assert [drawn(pool(), count, seed=0, kinds=None) for count in range(1, 10)] == [
        nine[:count] for count in range(1, 10)
    ]
    assert {kinds_of(drawn(pool(), 1, seed=seed, kinds=None))[0] for seed in range(20)} == {"crack", "spot", "hole"}
    assert len({tuple(drawn(pool(), 3, seed=seed, kinds=None)) for seed in range(20)}) > 10


def test_every_anomaly_of_a_kind_is_as_likely() -> None:
    counts = [0] * len(KINDS)
    for seed in range(600):
        for place in drawn(pool(), 2, seed=seed, kinds=["crack"]):
            counts[place] += 1
    assert counts[:2] + counts[8:] == [0] * 6
    assert all(160 < count < 240 for count in counts[2:8])  # 200 expected, deviation 11.5


def test_what_is_held_back_never_moves() -> None:
    blocked = dict.fromkeys((2, 3, 4, 11), "validation has it, too")
    assert not set(drawn(pool(blocked), 6, seed=0, kinds=None)) & set(blocked)


@pytest.mark.parametrize(
    ("count", "kinds", "labels", "message"),
    [
        (
            10,
            None,
            KINDS,
            "num_anomalous=10 must leave an anomalous test image; Tiles has 10 of them, and 10 may move. Give fewer",
        ),
        (4, ["spot"], KINDS, "has 10 of them, and 3 of spot may move. Give fewer"),
        (1, None, ["", ""], "num_anomalous=1 moves anomalous test images into training; Tiles has none for testing"),
        (1, ["sopt"], KINDS, "kinds of anomalous test images: crack, hole, spot; got 'sopt'. Did you mean 'spot'"),
        (1, ["", "spot"], KINDS, "crack, hole, spot; got ''"),
        (1, [3], KINDS, "got '3'"),
    ],
)
def test_draws_that_cannot_be(count: int, kinds: Any, labels: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        drawn(pool(kinds=labels), count, seed=0, kinds=kinds)


def test_the_sentence_says_why_anomalies_are_held_back() -> None:
    with pytest.raises(ConfigError, match=r"and 1 of spot may move, 2 more are held back \(validation has it, too\)"):
        drawn(pool(dict.fromkeys((8, 9), "validation has it, too")), 2, seed=0, kinds=["spot"])


def test_a_set_without_kinds_says_so() -> None:
    nameless = pool()._replace(kinds=[""] * len(KINDS))
    assert len(drawn(nameless, 5, seed=0, kinds=None)) == 5
    with pytest.raises(ConfigError, match="must be none, since Tiles knows no kinds; got 'spot'"):
        drawn(nameless, 1, seed=0, kinds=["spot"])


def write(folder: Path, text: str) -> Path:
    file = folder / "list.txt"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_list_names_images_by_path_or_relative_to_root_or_to_itself(tmp_path: Path) -> None:
    files = [tmp_path / "set" / f"test/{place}.png" for place in range(4)]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    given = Pool("Tiles", [0, 1, 1, 1], list(map(str, files)), [""] * 4, {}, {})
    for text in ("test/2.png\n\n  test/1.png \n", f"{files[2]}\ntest\\1.png", "set/test/2.png\nset/test/1.png\n"):
        assert listed(given, write(tmp_path, text), root=tmp_path / "set") == [2, 1]
    assert listed(pool(), write(tmp_path, "test/hole/11.png"), root=None) == [11]  # names that are no files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must list anomalous test images, one a line; it is empty"),
        (
            "test/hole/11.pgn",
            r"line 1 of '.*' must name .*is no image of the data set. Did you mean '11.png'\? Correct the list",
        ),
        ("test/hole/11.png\ntest/good/0.png", "line 2 of .*; 'test/good/0.png' is normal"),
        ("train/0.png", "; 'train/0.png' is a training image. Correct the list"),
        ("test/hole/11.png\n\ntest/hole/11.png", "lines 1 and 3 of .* name the same image"),
        ("test/crack/2.png", "'test/crack/2.png' may not: validation has it, too. Take it out"),
        ("\n".join(f"test/{KINDS[place]}/{place}.png" for place in range(3, 12)), None),
    ],
)
def test_lists_that_cannot_be(text: str, message: str | None, tmp_path: Path) -> None:
    file = write(tmp_path, text)
    if message is None:
        assert listed(pool({2: "validation has it, too"}), file, root=None) == list(range(3, 12))
        return
    with pytest.raises(AnomalySuiteError, match=message):
        listed(pool({2: "validation has it, too"}), file, root=None)


def test_a_list_of_all_anomalies_or_of_no_file(tmp_path: Path) -> None:
    everything = "\n".join(f"test/{KINDS[place]}/{place}.png" for place in range(2, 12))
    with pytest.raises(ConfigError, match="must leave an anomalous test image; it lists all 10 of Tiles"):
        listed(pool(), write(tmp_path, everything), root=None)
    with pytest.raises(AnomalySuiteError, match=r"anomalous_list must be a text file; '.*nowhere' does not exist"):
        listed(pool(), tmp_path / "nowhere", root=None)


def test_others_of_a_patient_leave_the_test_set() -> None:
    names = ["1a", "1b", "2a", "?c", "2b", "3a", "?d"]

    def subject_of(name: str) -> str | None:
        return None if name[0] == "?" else name[0]

    assert apart(names, [0, 3], subject_of) == [1]
    assert apart(names, [0, 4], subject_of) == [1, 2]
    assert apart(names, [3], subject_of) == []


def test_kinds_are_counted() -> None:
    assert count_kinds(["spot", "", "spot", "crack"]) == {"anomaly": 1, "crack": 1, "spot": 2}


def test_a_data_set_that_cannot_give_samples_away_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"list of Mine has no labels, names, kinds, take, plus. Build them as ImageSet"
    ):
        require_giving([], "Mine")

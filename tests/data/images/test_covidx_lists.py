"""Rows of COVIDx lists as they are found in all versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomaly_suite.data.images.covidx_lists import Row, count_sources, read_list
from anomaly_suite.errors import DatasetError


def save(folder: Path, *lines: str) -> Path:
    file = folder / "train_COVIDx8B.txt"
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def test_rows_of_all_versions(tmp_path: Path) -> None:
    file = save(
        tmp_path,
        "COVID 1 COVID(1).png positive sirm",  # a blank in the patient
        "3 a.jpg pneumonia",  # no source
        "",
        "s1 b.png negative rnsa",  # misspelt
        "ANON7 c.png COVID-19 actmed",
    )
    assert read_list(file) == [
        Row("COVID 1", "COVID(1).png", "positive", "sirm"),
        Row("3", "a.jpg", "pneumonia", "unnamed"),
        Row("s1", "b.png", "negative", "rsna"),
        Row("ANON7", "c.png", "COVID-19", "actmed"),
    ]
    assert count_sources(read_list(file)) == "actmed 1, rsna 1, sirm 1, unnamed 1"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["1 a.png"], r"line 1 of '.*' must have a patient, a file, a label .*; got '1 a.png'"),
        (["1 a.png negative rsna", "2 b.png covid rsna"], r"line 2 of '.*' has the label 'covid'; known are normal"),
        (["1 a.png negative elsewhere"], r"has the label 'elsewhere'; known are .*, and the sources cohen"),
        (["1 a.png negative", "1 a.png positive"], r"lists 'a.png' as negative and as positive"),
        (["1 a.png negative"] * 2, r"lists 1 files more than once, first 'a.png'\. Use another version"),
    ],
)
def test_lists_that_are_not_right(tmp_path: Path, lines: list[str], sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        read_list(save(tmp_path, *lines))


def test_one_repeated_row_of_many_is_said(tmp_path: Path) -> None:
    lines = [f"{index} {index}.png negative rsna" for index in range(200)]
    with pytest.warns(UserWarning, match=r"lists 1 files more than once, first '7.png': each is used once"):
        assert len(read_list(save(tmp_path, *lines, lines[7]))) == 200

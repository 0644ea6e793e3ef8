from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_runs import KINDS, make_run, make_video_run, read, scores

from anomaly_suite.callbacks.drawing import png_of
from anomaly_suite.errors import DatasetError
from anomaly_suite.io.atomic import save_csv


def test_rows_panels_and_kinds_are_read(tmp_path: Path) -> None:
    found = read(make_run(tmp_path, panels=5))
    score, label, kinds = scores()
    assert [(row.score, row.label, row.kind, row.number) for row in found.rows] == list(
        zip(score, label, kinds, range(12), strict=True)
    )
    assert [row.category for row in found.rows[:2]] == ["bottle", "<i>"]
    assert sorted(found.panels) == [0, 1, 2, 3, 4]
    assert set(found.panels[0].tiles) == {"image", "truth mask", "anomaly map", "overlay", "predicted mask"}
    assert found.missing == []


def test_panels_of_several_loaders_find_their_rows(tmp_path: Path) -> None:
    make_run(tmp_path, panels=2)
    header = ("index", "path", "label", "anomaly_score", "normalized_score", "decision", "dataloader_idx")
    paths = [f"/data/test/good/{row:02}.png" for row in range(2)]
    rows = [(row, paths[row % 2], "", float(row), "", "", row // 2) for row in range(4)]
    save_csv(tmp_path / "test_scores.csv", header, rows)
    found = read(tmp_path)
    assert [(row.loader, row.number, row.label, row.kind) for row in found.rows] == [
        (0, 0, None, None),
        (0, 1, None, None),
        (1, 0, None, None),
        (1, 1, None, None),
    ]
    assert sorted(found.panels) == [0, 1]


def test_a_panel_of_another_image_is_left_alone(tmp_path: Path) -> None:
    make_run(tmp_path, panels=2)
    table = tmp_path / "test_scores.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("good/01.png", "good/xx.png"), encoding="utf-8")
    assert sorted(read(tmp_path).panels) == [0]


def test_files_elsewhere_are_found_by_the_configuration(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", config=f"heatmaps:\n  folder: {tmp_path / 'maps'}\ntable:\n  path: {tmp_path / 'a.csv'}\n"
    )
    (run / "heatmaps").rename(tmp_path / "maps")
    (run / "test_scores.csv").rename(tmp_path / "test_a.csv")
    found = read(run)
    assert (len(found.rows), len(found.panels)) == (12, 12)


def test_parquet_is_the_same(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = read(make_run(tmp_path)).rows
    columns = {
        "path": [row.path for row in rows],
        "category": [row.category for row in rows],
        "label": [row.label for row in rows],
    }
    columns |= {"anomaly_score": [row.score for row in rows], "decision": [row.decision for row in rows]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "test_scores.parquet")
    (tmp_path / "test_scores.csv").unlink()
    assert read(tmp_path).rows == rows


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    make_run(tmp_path, panels=0)
    (tmp_path / "heatmaps" / "test").mkdir(parents=True)
    (tmp_path / "heatmaps" / "test" / "old.png").write_bytes(png_of(np.zeros((2, 2, 3), np.uint8)))
    found = read(tmp_path)
    assert found.panels == {}
    assert found.missing[0].startswith("Its panels were written by an earlier version")
    (tmp_path / "test_scores.csv").unlink()
    assert read(tmp_path).missing == [
        "There is no table of scores, so no plots, decisions and pictures are shown. "
        f"Run: anomaly-suite test --run {tmp_path}"
    ]


@pytest.mark.parametrize("table", ["path,label\na,0\n", "anomaly_score,label\nhigh,0\n", "anomaly_score,label\n1,2\n"])
def test_a_table_of_another_kind_is_one_sentence(tmp_path: Path, table: str) -> None:
    make_run(tmp_path)
    (tmp_path / "test_scores.csv").write_text(table, encoding="utf-8")
    with pytest.raises(
        DatasetError, match=r"test_scores.csv' must be the table of scores .* Run: anomaly-suite test --run"
    ):
        read(tmp_path)


def test_one_kind_or_one_folder_for_each_image_is_no_kind(tmp_path: Path) -> None:
    make_run(tmp_path)
    table = tmp_path / "test_scores.csv"
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace(KINDS[2].replace('"', '""'), "hole"), encoding="utf-8")
    assert {row.kind for row in read(tmp_path).rows} == {None}
    rows = [(f"/data/{number}/a.png", number % 2, float(number)) for number in range(12)]
    save_csv(table, ("path", "label", "anomaly_score"), rows)
    assert {row.kind for row in read(tmp_path).rows} == {None}


def test_curves_find_their_rows(tmp_path: Path) -> None:
    make_video_run(tmp_path)
    (tmp_path / "curves" / "test" / "0.png").write_bytes(b"no picture")
    found = read(tmp_path)
    assert {place: said["name"] for place, said in found.curves.items()} == {1: "v<1>", 2: "v<2>", 3: "v<3>"}


def test_scores_that_are_no_numbers_are_kept(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "test_scores.csv").write_text("anomaly_score,label\nnan,0\ninf,1\n", encoding="utf-8")
    assert [str(row.score) for row in read(tmp_path).rows] == ["nan", "inf"]

"""Markdown, LaTeX, CSV and Parquet of a small grid."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_parts import finish, grid_of

from anomaly_suite.benchmark.folder import GridFolder
from anomaly_suite.benchmark.grid import Grid
from anomaly_suite.benchmark.outcome import write_outcome
from anomaly_suite.benchmark.tables import latex_table, markdown_table, save_table, with_spreads

FIGURE = {"metric": "image_AUROC", "value": 0.95, "source": "A 2020, mean of two digits"}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    grid = grid_of(
        tmp_path_factory.mktemp("grid"),
        methods=[{"name": "A_1 & B", "config": "first.yaml"}, "second.yaml"],
        classes={"data.normal_class": [0, 1]},
        vary={"model.widths": [[2, 4]]},
    )
    finish(
        grid.cells[:2],
        grid.folder,
        [0.9, 0.8],
        published={"image_AUROC": FIGURE},
        differs=[{"option": "model.lr", "published": 1, "here": 2}],
    )
    finish(grid.cells[2:3], grid.folder, [0.7])
    GridFolder(grid.folder).fail(grid.cells[3], "ConfigError: no | yes.")
    write_outcome(grid, grid.folder)
    return grid


def test_markdown_has_the_papers_figure_and_what_differed(grid: Grid) -> None:
    lines = (grid.folder / "results.md").read_text(encoding="utf-8").splitlines()
    assert lines[2] == "3 of 4 cells finished, 1 failed; seeds 0."
    assert "|  | image_AUROC | published | difference |" in lines
    assert "| A_1 & B, widths [2, 4] | 0.8500 | 0.9500 | -0.1000 |" in lines
    assert "| second, widths [2, 4] | 0.7000* |  |  |" in lines
    assert (
        "* A_1 & B, widths [2, 4]: model.lr 2 instead of 1. Published: A 2020, mean of two digits (image_AUROC)"
        in lines
    )
    assert "| second, widths [2, 4] | 0.7000 | - | 0.7000 |" in lines
    assert f"* `{grid.cells[3].name}`: ConfigError: no | yes." in lines


def test_latex_is_escaped_and_balanced(grid: Grid) -> None:
    text = (grid.folder / "results.tex").read_text(encoding="utf-8")
    assert r"A\_1 \& B, widths [2, 4] & 0.8500 & 0.9500 & -0.1000 \\" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    row = {"mean": 0.5, "spread_seeds": 0.01, "spread_subsets": 0.02, "cells": 1, "planned": 1}
    said = with_spreads(row, "$\\pm$")
    assert said == "0.5000 $\\pm$ 0.0200 (subsets) $\\pm$ 0.0100 (seeds)"
    assert said in latex_table([["a"], [said]])
    assert markdown_table([["a|b"]]).splitlines()[0] == "| a\\|b |"


def test_csv_has_a_line_a_cell(grid: Grid) -> None:
    with (grid.folder / "cells.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["status"], row["image_AUROC"], row["fit_s"]) for row in rows] == [
        ("finished", "0.9", "2.0"),
        ("finished", "0.8", "2.0"),
        ("finished", "0.7", "2.0"),
        ("failed", "", ""),
    ]
    assert (rows[0]["data.normal_class"], rows[0]["model.widths"]) == ("0", "[2, 4]")


def test_parquet_is_the_same(grid: Grid) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table: dict[str, Any] = parquet.read_table(grid.folder / "summary.parquet").to_pydict()
    summary = json.loads((grid.folder / "summary.json").read_text(encoding="utf-8"))
    assert table["mean"] == [row["mean"] for row in summary["rows"]] == pytest.approx([0.85, 0.7])
    assert table["published"] == [0.95, None]
    assert table["differs"] == ["model.lr 2 instead of 1", ""]


def test_columns_of_several_kinds_become_text(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"class": [0, "cat", None], "number": [1, 2.5, None], "none": [None, None, None]}
    save_table(tmp_path / "a", columns)
    assert parquet.read_table(tmp_path / "a.parquet").to_pydict() == {**columns, "class": ["0", "cat", None]}


def test_a_plot_for_each_metric(grid: Grid) -> None:
    assert sorted(file.name for file in (grid.folder / "plots").iterdir()) == ["bars_image_AUROC.png"]
    assert (grid.folder / "plots" / "bars_image_AUROC.png").read_bytes()[:4] == b"\x89PNG"

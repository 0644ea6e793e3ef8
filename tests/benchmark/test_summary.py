"""Means, spreads, published figures and differences, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_parts import finish, grid_of

from anomaly_suite.benchmark.cells import Cell
from anomaly_suite.benchmark.folder import GridFolder
from anomaly_suite.benchmark.grid import Grid
from anomaly_suite.benchmark.summary import differences, spreads, summarise

FIGURE = {"metric": "image_AUROC", "value": 0.9, "source": "A 2020, table 1, mean of two digits"}


def summary_of(grid: Grid) -> dict:  # type: ignore[type-arg]
    folder = GridFolder(grid.folder)
    records = {cell.name: record for cell in grid.cells if (record := folder.record(cell))}
    return summarise(grid.name, grid.cells, records, metrics=grid.metrics, seeds=grid.seeds)


def test_mean_over_classes_then_seeds(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, methods=["first.yaml"], classes={"data.normal_class": [0, 1]}, seeds=[0, 1])
    finish(grid.cells, grid.folder, [0.9, 0.8, 1.0, 0.9], published={"image_AUROC": FIGURE})  # means 0.95 and 0.85
    (row,) = summary_of(grid)["rows"]
    assert (row["mean"], row["spread_seeds"]) == pytest.approx((0.9, 0.1 / 2**0.5))
    assert (row["published"], row["spread_subsets"], row["cells"], row["planned"]) == (0.9, None, 4, 4)
    assert row["difference"] == pytest.approx(0.0)
    assert [(each["classes"], each["cells"]) for each in row["by_class"]] == [
        ({"data.normal_class": 0}, 2),
        ({"data.normal_class": 1}, 2),
    ]
    assert row["by_class"][0]["mean"] == pytest.approx(0.85)
    assert row["by_class"][0]["spread_seeds"] == pytest.approx(0.1 / 2**0.5)
    assert row["differs"] == []


def test_spreads_over_subsets_and_over_seeds_are_told_apart() -> None:
    values = [("0", 0, 0.8), ("0", 1, 0.84), ("1", 0, 0.9), ("1", 1, 0.9)]  # means 0.82, 0.9; variances 0.0008, 0
    assert spreads(values) == pytest.approx((0.86, 0.02, 0.08 / 2**0.5))
    assert spreads(values[:1]) == (0.8, None, None)
    assert spreads([]) == (None, None, None)


def test_rows_without_cells_and_failures_are_counted(tmp_path: Path) -> None:
    grid = grid_of(
        tmp_path,
        methods=["first.yaml", "second.yaml"],
        data=[{"name": "A"}, {"name": "B", "options": {"data": "B"}}],
        metrics=["image_AUROC"],
    )
    finish(grid.cells[:1], grid.folder, [0.5])
    GridFolder(grid.folder).fail(grid.cells[1], "ConfigError: no.")
    summary = summary_of(grid)
    assert summary["cells"] == {"planned": 4, "finished": 1, "failed": 1, "missing": 2}
    assert summary["failed"] == [{"name": grid.cells[1].name, "error": "ConfigError: no."}]
    assert [(row["label"], row["mean"], row["cells"]) for row in summary["rows"]] == [
        ("first, A", 0.5, 1),
        ("first, B", None, 0),
        ("second, A", None, 0),
        ("second, B", None, 0),
    ]


def test_a_figure_stands_beside_a_row_only_if_all_its_cells_have_it(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, methods=["first.yaml"], seeds=[0, 1])
    finish(grid.cells[:1], grid.folder, [0.5], published={"image_AUROC": FIGURE})
    finish(grid.cells[1:], grid.folder, [0.5], published={"image_AUROC": {**FIGURE, "value": 0.8}})
    (row,) = summary_of(grid)["rows"]
    assert (row["published"], row["difference"], row["source"]) == (None, None, None)


@pytest.mark.parametrize(
    ("classes", "source", "said"),
    [
        (0, "mean of ten digits", ["one class, the figure is a mean over 10"]),
        (0, "a table", []),
        (0, "mean of six seeds", []),
        (2, "mean of two digits", []),
        (2, "mean of 15 categories, row A", ["mean over 2 values of normal_class, the figure over 15"]),
        (2, "a table", ["mean over 2 values of normal_class"]),
    ],
)
def test_over_how_many_classes_a_figure_is(classes: int, source: str, said: list[str]) -> None:
    axes = [{"data.normal_class": number} for number in range(classes)] or [{}]
    cells = [Cell({"method": "a"}, each, {}, 0, ("a.yaml",), {}, "") for each in axes]
    assert differences(cells, [], source) == said


def test_what_differed_is_said_once(tmp_path: Path) -> None:
    cells = [Cell({"method": "a"}, {}, {}, seed, ("a.yaml",), {}, "") for seed in (0, 1)]
    records = [{"differs": [{"option": "model.lr", "published": 0.1, "here": here}]} for here in (0.2, 0.3)]
    assert differences(cells, records, "a table") == ["model.lr 0.2 or 0.3 instead of 0.1"]

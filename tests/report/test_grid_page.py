from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_parts import command, matches, one_sentence, succeed
from made_runs import shape

from anomaly_suite.callbacks.drawing import png_of
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError
from anomaly_suite.report import grid_page, is_grid


def row(label: str, mean: float | None, **changes: Any) -> dict[str, Any]:
    by_class = [
        {"classes": {"data.normal_class": each}, "mean": mean, "spread_seeds": None, "cells": 1} for each in (3, 5)
    ]
    said = {"row": {"method": label}, "label": label, "metric": "image_AUROC", "mean": mean, "spread_seeds": 0.01}
    said |= {"spread_subsets": None, "cells": 4, "planned": 4, "by_class": by_class if mean is not None else []}
    return {**said, "published": None, "difference": None, "source": None, "differs": [], **changes}


ROWS = [
    row(
        "A <b>&",
        0.8,
        published=0.9,
        difference=-0.1,
        source="Table <3>",
        differs=["trainer.max_epochs 2 instead of 300"],
    ),
    row("B", 0.6, spread_seeds=None, spread_subsets=0.02, cells=3),
    row("C", None, cells=0),
    row("B", 0.3, metric="pixel_FPR95"),
]


def make_grid(folder: Path, **changes: Any) -> Path:
    """A grid of three methods, of which one failed."""
    summary = {"format": 1, "name": "tiny", "metrics": ["image_AUROC"], "seeds": [0, 1], "rows": ROWS}
    summary |= {"cells": {"planned": 12, "finished": 7, "failed": 4, "missing": 1}}
    summary |= {"failed": [{"name": "c_0", "error": "weights must be <null>."}], **changes}
    (folder / "plots").mkdir(parents=True)
    (folder / "grid.json").write_text('{"format": 1, "rows": "</pre>"}', encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (folder / "results.md").write_text("# tiny\n", encoding="utf-8")
    (folder / "cells.csv").write_text(
        "name,seed,status,image_AUROC\na_0,0,finished,0.81\nc_0,0,failed,\n", encoding="utf-8"
    )
    (folder / "plots" / "ranks_image_AUROC.png").write_bytes(png_of(np.zeros((2, 2, 3), np.uint8)))
    return folder


def test_tables_have_spread_published_figures_and_differences(tmp_path: Path) -> None:
    assert is_grid(make_grid(tmp_path / "grid"))
    content = grid_page(tmp_path / "grid")
    said = " ".join(shape(content).words)
    for part in (
        "7 of 12 cells finished · seeds 0, 1",
        "4 failed and 1 missing: means are over the cells that are there.",
        "A <b>& 0.8000 ± 0.0100 0.9000 -0.1000 4 of 4",
        "B 0.6000 ± 0.0200 over subsets 3 of 4",
        "C none 0 of 4",
        "image_AUROC by normal_class 3 5 A <b>& 0.8000 0.8000",
        "published image_AUROC: Table <3> trainer.max_epochs 2 instead of 300",
        "Lower is better.",
        "c_0 weights must be <null>.",
        "a_0 0 finished 0.8100",
    ):
        assert part in said, part
    assert content.count("data:image/png") == 1
    assert "drawHistogram" not in content  # it needs no script
    assert not is_grid(tmp_path)


def test_marks_stand_where_the_figures_are(tmp_path: Path) -> None:
    content = grid_page(make_grid(tmp_path / "grid"))
    # From 0.6 to 0.9 with room: the axis is 0.576 to 0.924.
    assert f'class="ours" style="left:{100 * (0.8 - 0.576) / 0.348:.2f}%"' in content
    assert f'class="theirs" style="left:{100 * (0.9 - 0.576) / 0.348:.2f}%"' in content
    assert f'class="whisker" style="left:{100 * (0.79 - 0.576) / 0.348:.2f}%;width:{2 / 0.348:.2f}%"' in content
    assert 'aria-label="0.8000, published 0.9000"' in content
    assert 'aria-label="no figure"' in content


def test_a_grid_without_a_figure_says_so(tmp_path: Path) -> None:
    content = grid_page(make_grid(tmp_path / "grid", rows=[]))
    assert "No cell is finished, so there is no figure yet." in content
    shape(content)


def test_the_verb_takes_a_grid(tmp_path: Path) -> None:
    grid = make_grid(tmp_path / "grid")
    assert succeed("report", str(grid)).out == "# tiny\n"
    said = succeed("report", str(grid), "--html").out
    assert said.startswith(f"report: {grid / 'report.html'} (0.0 MB)")
    assert "<h1>tiny</h1>" in (grid / "report.html").read_text(encoding="utf-8")
    words = ["report", str(grid), "--html", "--videos", "x", "--pictures", "3"]
    assert matches(
        "--pictures and --videos goes with a run.* Leave it out.", one_sentence(command(*words), ConfigError)
    )


@pytest.mark.parametrize("rows", ["none", [{"metric": "AP"}], [1]])
def test_tables_of_another_kind_are_one_sentence(tmp_path: Path, rows: Any) -> None:
    with pytest.raises(
        DatasetError, match=r"summary.json' must be what a benchmark writes; it cannot be read .*\. Run anomaly-suite"
    ):
        grid_page(make_grid(tmp_path / "grid", rows=rows))


def test_a_grid_that_was_cut_is_one_sentence(tmp_path: Path) -> None:
    grid = make_grid(tmp_path / "grid")
    (grid / "summary.json").unlink()
    with pytest.raises(
        DatasetNotFoundError, match=r"summary.json', which a benchmark writes when it ends; it is not there\. Run"
    ):
        grid_page(grid)
    (grid / "results.md").unlink()
    assert "no results.md in" in one_sentence(command("report", str(grid)), DatasetNotFoundError)

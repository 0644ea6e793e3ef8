"""Ranks, Friedman's test and the critical difference, against figures printed by Demšar (JMLR 2006)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from benchmark_parts import finish, grid_of

from anomaly_suite.benchmark.folder import GridFolder
from anomaly_suite.benchmark.plots import plot_ranks
from anomaly_suite.benchmark.ranks import Ranks, groups, is_lower_better, rank_methods, ranks_of

DEMSAR = """
.763 .768 .771 .798
.599 .591 .590 .569
.954 .971 .968 .967
.628 .661 .654 .657
.882 .888 .886 .898
.936 .931 .916 .931
.661 .668 .609 .685
.583 .583 .563 .625
.775 .838 .866 .875
1.000 1.000 1.000 1.000
.940 .962 .965 .962
.619 .666 .614 .669
.972 .981 .976 .975
.957 .978 .946 .970
"""  # table 2: AUC of four variants of a decision tree on fourteen data sets; .976 is printed as .975, with rank 2


def test_the_example_of_the_paper() -> None:
    table = np.array([[float(value) for value in line.split()] for line in DEMSAR.split("\n") if line])
    ranks = ranks_of(-table, ["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"])
    assert ranks.blocks == 14
    assert {name: round(rank, 3) for name, rank in ranks.mean.items()} == {
        "C4.5+m+cf": 1.964,
        "C4.5+m": 2.0,
        "C4.5+cf": 2.893,
        "C4.5": 3.143,
    }  # printed as 1.964, 2.000, 2.893, 3.143
    assert ranks.critical == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=2e-3)  # q of table 5
    assert ranks.p_value == pytest.approx(0.0167, abs=1e-3)  # chi square 9.28, divided by 1 - 78 / 840 for the ties


def test_methods_that_do_not_differ() -> None:
    ranks = Ranks({"a": 1.0, "b": 1.5, "c": 2.4, "d": 4.0}, 5, 0.1, 1.0)
    assert groups(ranks) == [(0, 1), (1, 2)]
    assert groups(ranks._replace(critical=0.1)) == []
    assert groups(ranks._replace(critical=9)) == [(0, 3)]


def test_blocks_are_those_that_all_methods_have(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, methods=["first.yaml", "second.yaml"], classes={"data.c": [0, 1, 2]}, seeds=[0, 1])
    values = [0.1, 0.3, 0.5, 0.5, 0.9, 0.9, 0.1, 0.1, 0.1, 0.3]  # means 0.2, 0.5, 0.9 and 0.1, 0.2; two are missing
    finish(grid.cells[:10], grid.folder, values)
    folder = GridFolder(grid.folder)
    records = {cell.name: record for cell in grid.cells if (record := folder.record(cell))}
    ranks = rank_methods("image_AUROC", grid.cells, records)
    assert ranks is not None
    assert (ranks.mean, ranks.blocks) == ({"first": 1.0, "second": 2.0}, 2)
    assert math.isnan(ranks.p_value)
    assert rank_methods("image_AP", grid.cells, records) is None
    assert rank_methods("image_AUROC", grid.cells[:6], records) is None
    assert is_lower_better("pixel_FPR95")
    assert not is_lower_better("image_AUROC")


def test_the_diagram_is_drawn(tmp_path: Path) -> None:
    plot_ranks(tmp_path / "ranks.png", "image_AUROC", Ranks({"a": 1.2, "b": 1.9, "c": 2.9}, 10, 0.001, 1.05))
    assert (tmp_path / "ranks.png").read_bytes()[:4] == b"\x89PNG"

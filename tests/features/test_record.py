"""Settings, tables and arrays in an output folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly_suite.errors import ConfigError, NotFiniteError
from anomaly_suite.features.record import Counts, claim, growing_array, read_tables, table_file, write_table


def test_a_growing_array_appears_whole(tmp_path: Path) -> None:
    blocks = [torch.rand(count, 2, 3) for count in (1, 4, 2)]
    with growing_array(tmp_path / "deep" / "v.npy", (2, 3)) as append:
        for block in blocks:
            append(block)
        assert not (tmp_path / "deep" / "v.npy").exists()
    assert np.array_equal(np.load(tmp_path / "deep" / "v.npy"), torch.cat(blocks).numpy())

    def write(*parts: torch.Tensor) -> None:
        with growing_array(tmp_path / "w.npy", (2, 3)) as append:
            for part in parts:
                append(part)

    with pytest.raises(NotFiniteError, match="NaN or infinity from snippet 1 on"):
        write(blocks[0], blocks[0] / 0)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_tables_hold_what_is_there_and_the_newest_counts(tmp_path: Path) -> None:
    for name in ("v9", "v10"):
        (tmp_path / f"{name}.npy").touch()
    old, new = table_file(tmp_path, 1, 1), table_file(tmp_path, 2, 3)
    assert (old.name, new.name) == ("videos.csv", "videos-2-of-3.csv")
    write_table(old, {"v10": Counts(20, 2), "v9": Counts(5, 1), "gone": Counts(1, 1)})
    assert old.read_text().splitlines() == ["name,frames,snippets", "gone,1,1", "v9,5,1", "v10,20,2"]
    write_table(new, {"v9": Counts(6, 1)})
    os.utime(old, ns=(1, 1))
    assert read_tables(tmp_path) == {"v9": Counts(6, 1), "v10": Counts(20, 2)}


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    claim(tmp_path, {"crops": 1}, "folder/w.pth")
    claim(tmp_path, {"crops": 1}, None)
    with pytest.raises(ConfigError, match="have crops=1, this run has 5"):
        claim(tmp_path, {"crops": 5}, None)
    (tmp_path / "features.json").write_text("{")
    with pytest.raises(ConfigError, match=r"features\.json' is damaged .* Choose another output folder"):
        claim(tmp_path, {"crops": 1}, None)

"""Which cells the file of a grid makes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import benchmark_parts
import pytest
from benchmark_parts import grid_of

from anomaly_suite.benchmark.grid import expanded
from anomaly_suite.errors import ConfigError

CHAIN = {"name": "chain", "stages": ["encoder.yaml", {"config": "second.yaml", "options": {"model.width": 2}}]}


def test_every_combination_is_a_cell(tmp_path: Path) -> None:
    grid = grid_of(
        tmp_path,
        methods=[
            "first.yaml",
            {"name": "Second", "config": "second.yaml", "options": {"data.root": "/{normal_class}/{seed}"}},
        ],
        data=[
            {"name": "MNIST"},
            {"name": "CIFAR", "options": {"data": "CIFAR10"}, "classes": {"data.normal_class": ["cat"]}},
        ],
        classes={"data.normal_class": [0, 1]},
        vary={"data.contamination": [0.0, 0.1]},
        seeds=[3, 4],
    )
    assert len(grid.cells) == 2 * (2 + 1) * 2 * 2
    last = grid.cells[-1]
    assert last.row == {"method": "Second", "data": "CIFAR", "data.contamination": 0.1}
    assert (last.classes, last.seed, last.configs) == ({"data.normal_class": "cat"}, 4, ("second.yaml",))
    assert last.options == {
        "data": "CIFAR10",
        "data.root": "/cat/4",
        "data.contamination": 0.1,
        "data.normal_class": "cat",
    }
    assert last.name == f"second_CIFAR_contamination_0.1_normal_class_cat_seed_4-{last.digest}"
    assert len({cell.name for cell in grid.cells}) == len({cell.digest for cell in grid.cells}) == 24


def test_a_name_changes_with_what_is_run_and_not_with_what_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(**method: Any) -> str:
        return grid_of(tmp_path, methods=[{"config": "first.yaml", **method}]).cells[0].name

    before = name()
    assert name(name="other") == before
    assert name(options={"model.lr": 1}) != before
    moved = {"model": {"class_path": "PaDiM"}, "trainer": {"default_root_dir": "runs/elsewhere"}}
    monkeypatch.setitem(benchmark_parts.CONFIGS, "first.yaml", moved)
    assert name() == before  # where a run goes is no part of it
    monkeypatch.setitem(
        benchmark_parts.CONFIGS, "first.yaml", {"model": {"class_path": "PaDiM", "init_args": {"lr": 1}}}
    )
    assert name() != before


def test_stages_come_first_and_are_shared(tmp_path: Path) -> None:
    grid = grid_of(
        tmp_path,
        methods=[CHAIN, {"name": "other", "stages": ["encoder.yaml", "first.yaml"]}, "encoder.yaml"],
        vary={"model.lr": [0.1]},
        subsets={"data.anomalous_seed": [0, 1]},
        classes={"data.normal_class": [5]},
    )
    encoder, *rest = grid.cells
    assert (encoder.options, encoder.hands_over, encoder.tested) == ({"data.normal_class": 5}, True, False)
    assert [(cell.row["method"], cell.before) for cell in rest[:4]] == [
        *[("chain", (encoder.name,))] * 2,
        *[("other", (encoder.name,))] * 2,
    ]
    assert rest[0].options == {"model.width": 2, "model.lr": 0.1, "data.normal_class": 5, "data.anomalous_seed": 0}
    assert len(grid.cells) == 1 + 4 + 2  # the last method has options of its own, so it is not that stage


def test_a_stage_may_be_a_row_of_its_own(tmp_path: Path) -> None:
    for methods in ([CHAIN, "encoder.yaml"], ["encoder.yaml", CHAIN]):
        cells = grid_of(tmp_path, methods=methods).cells
        encoder = next(cell for cell in cells if cell.row["method"] == "encoder")
        assert (len(cells), encoder.tested, encoder.hands_over) == (2, True, True)


def test_what_is_excluded(tmp_path: Path) -> None:
    cells = grid_of(
        tmp_path,
        methods=["first.yaml", "second.yaml"],
        seeds=[0, 1, 2],
        exclude=[{"method": "first", "seed": [1, 2]}],
    ).cells
    assert [(cell.row["method"], cell.seed) for cell in cells] == [
        ("first", 0),
        ("second", 0),
        ("second", 1),
        ("second", 2),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"methods": []}, "methods must be a list with an entry"),
        ({"method": ["first.yaml"]}, "got 'method'. Did you mean 'methods'"),
        ({"methods": [{"confg": "first.yaml"}]}, "methods may have name, config"),
        ({"methods": [{"name": "a"}]}, "either config or stages"),
        ({"methods": [{"config": 3}]}, "config must be the name of a configuration"),
        ({"methods": ["first.yaml", "first.yaml"]}, "got 'first' twice"),
        (
            {"methods": ["first.yaml", {"name": "again", "config": "first.yaml"}]},
            "'first' and 'again' have the same settings",
        ),
        ({"methods": ["first.yaml"], "seeds": [0, -1]}, "seeds are whole numbers"),
        ({"methods": ["first.yaml"], "seeds": 3}, "seeds must be a list"),
        ({"methods": ["first.yaml"], "options": {"seed_everything": 3}}, "Seeds stand in seeds"),
        ({"methods": ["first.yaml"], "options": ["a"]}, "must be a mapping"),
        ({"methods": ["first.yaml"], "vary": {"model.lr": 0.1}}, "vary.model.lr must be a list"),
        ({"methods": ["first.yaml"], "vary": {"model.lr": [1, 1]}}, "Take one of two equal ones out"),
        ({"methods": ["first.yaml"], "vary": {"a": [1]}, "classes": {"a": [1]}}, "got a in vary and classes"),
        ({"methods": ["first.yaml"], "exclude": [{"method": "first"}]}, "exclude leaves none"),
        ({"methods": ["first.yaml"], "run": {"executor": "rey"}}, "Did you mean 'ray'"),
        ({"methods": ["first.yaml"], "run": {"worker": 2}}, "Did you mean 'workers'"),
        ({"methods": ["first.yaml"], "run": {"workers": 0}}, "whole number from 1 on; got 0"),
        ({"methods": ["first.yaml"], "run": {"gpus": 1.5}}, "a share of one GPU, or a whole number"),
        ({"methods": ["first.yaml"], "run": ["ray"]}, "run must be a mapping"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(tmp_path: Path, content: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        grid_of(tmp_path, **content)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    from anomaly_suite.benchmark.grid import read_grid

    with pytest.raises(ConfigError, match="there is no"):
        read_grid(tmp_path / "none.yaml", benchmark_parts.read_config)
    (tmp_path / "bad.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(ConfigError, match="is no YAML"):
        read_grid(tmp_path / "bad.yaml", benchmark_parts.read_config)


def test_variables_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/data")
    assert expanded(["$PLACE/a", "${PLACE}b", 3]) == ["/data/a", "/datab", 3]
    monkeypatch.delenv("PLACE")
    with pytest.raises(ConfigError, match="has no such variable"):
        expanded("$PLACE")

"""The file of a grid: which methods, data, classes, options and seeds, and the cells that they make."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from anomaly_suite.benchmark.cells import Cell
from anomaly_suite.benchmark.settings import RunSettings
from anomaly_suite.errors import ConfigError, did_you_mean

Reader = Callable[[str], tuple[tuple[str, ...], dict[str, Any]]]
"""From the name of a configuration to the files of its stack and their content."""

AXES = ("vary", "classes", "subsets")
_KNOWN = {
    "the grid": (
        *("name", "folder", "methods", "data", *AXES, "seeds", "options", "last_stage", "exclude", "metrics", "run"),
    ),
    "methods": ("name", "config", "options", "stages", "takes", "published"),
    "stages": ("config", "options", "takes"),
    "data": ("name", "config", "options", "classes"),
}
LAST_STAGE = (
    "data.num_anomalous",
    "data.anomalous_seed",
    "data.anomalous_types",
    "data.anomalous_list",
    "data.balanced",
)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True)
class Grid:
    """What a grid's file asks for.

    Args:
        name: Of the grid.
        folder: Where it leaves its cells and tables.
        cells: In their order; a cell that others wait for comes before them.
        metrics: Columns of the tables; empty for those that the cells have.
        seeds: Of every row.
        run: How the cells are run.
    """

    name: str
    folder: Path
    cells: tuple[Cell, ...]
    metrics: tuple[str, ...]
    seeds: tuple[int, ...]
    run: RunSettings

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``grid.json``."""
        return {
            "format": 1,
            "name": self.name,
            "metrics": list(self.metrics),
            "seeds": list(self.seeds),
            "cells": [cell.to_dict() for cell in self.cells],
        }


@dataclass
class _Stage:
    configs: list[str]
    options: dict[str, Any]
    takes: str = ""


@dataclass
class _Method:
    name: str
    stages: list[_Stage]
    published: str = ""


@dataclass
class _Data:
    name: str = ""
    configs: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    classes: dict[str, list[Any]] = field(default_factory=dict)


def read_grid(file: Path, read_config: Reader) -> Grid:
    """Read the file of a grid.

    Args:
        file: YAML.
        read_config: Reads the configurations that it names.

    Raises:
        ConfigError: it is no YAML, an unknown key, a wrong kind of value, or nothing to run.
    """
    content = _mapping(_yaml(file), f"'{file}'")
    _require_known(content, "the grid", file)
    methods = [_method(entry, file) for entry in _list(content.get("methods"), "methods", file)]
    _require_once([method.name for method in methods], "methods", file)
    data = [_data(entry, file) for entry in _list(content.get("data", [{}]), "data", file)]
    _require_once([entry.name for entry in data], "data", file)
    axes = {name: _axis(content.get(name), name, file) for name in AXES}
    for axis, other in (("vary", "classes"), ("vary", "subsets"), ("classes", "subsets")):
        if both := axes[axis].keys() & axes[other].keys():
            raise ConfigError(
                f"'{file}': an option is in one of {', '.join(AXES)}; got {min(both)} in {axis} and {other}."
            )
    seeds = tuple(_list(content.get("seeds", [0]), "seeds", file))
    if not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds):
        raise ConfigError(f"'{file}': seeds are whole numbers from 0 on; got {list(seeds)}.")
    common = _options(content.get("options"), "options", file)
    last = (*LAST_STAGE, *_list(content.get("last_stage", ["-"]), "last_stage", file))
    reader = _Reading(read_config)
    cells: dict[str, Cell] = {}
    excluded = [_mapping(entry, f"exclude of '{file}'") for entry in content.get("exclude") or []]
    for method, each in product(methods, data):
        for cell in _cells_of(method, each, axes, seeds, common, last, reader, excluded):
            known = cells.get(cell.name)
            if known is not None and known.tested and cell.tested:
                raise ConfigError(
                    f"'{file}': rows must differ; {known.row['method']!r} and {cell.row['method']!r} have the same settings. Take one out."
                )
            if known is not None:  # a stage of one row may be a row of its own
                cell = replace(cell if cell.tested else known, hands_over=cell.hands_over or known.hands_over)
            cells[cell.name] = cell
    if not cells:
        raise ConfigError(f"'{file}' must have cells to run; exclude leaves none. Take an entry out of exclude.")
    name = str(content.get("name") or file.stem)
    return Grid(
        name=name,
        folder=Path(content.get("folder") or f"runs/{file.stem}"),
        cells=tuple(cells.values()),
        metrics=tuple(map(str, _list(content["metrics"], "metrics", file))) if content.get("metrics") else (),
        seeds=seeds,
        run=RunSettings.read(content.get("run") or {}, file),
    )


class _Reading:
    """Configurations, each read once: the files of their stack, and a fingerprint of what they say."""

    def __init__(self, read: Reader) -> None:
        self._read = read
        self._known: dict[str, tuple[tuple[str, ...], str]] = {}

    def __call__(self, names: Sequence[str]) -> tuple[tuple[str, ...], str]:
        files: list[str] = []
        digests = []
        for name in names:
            if name not in self._known:
                stack, content = self._read(name)
                (content.get("trainer") or {}).pop("default_root_dir", None)
                said = json.dumps(content, sort_keys=True, default=str)
                self._known[name] = (stack, hashlib.sha256(said.encode()).hexdigest())
            files += self._known[name][0]
            digests.append(self._known[name][1])
        return tuple(files), " ".join(digests)


def _cells_of(
    method: _Method,
    data: _Data,
    axes: Mapping[str, Mapping[str, list[Any]]],
    seeds: Sequence[int],
    common: Mapping[str, Any],
    last: Sequence[str],
    reader: _Reading,
    excluded: Sequence[Mapping[str, Any]],
) -> Iterator[Cell]:
    """Cells of one method on one data set, those that hand over first."""
    classes = {**axes["classes"], **data.classes}
    names = {"method": method.name, **({"data": data.name} if data.name else {})}
    for varied, of_classes, drawn, seed in product(
        _combinations(axes["vary"]), _combinations(classes), _combinations(axes["subsets"]), seeds
    ):
        labels = {**names, **varied, **of_classes, **drawn, "seed": seed}
        if any(_matches(labels, entry) for entry in excluded):
            continue
        chosen = {**varied, **of_classes, **drawn}
        early = {key: value for key, value in chosen.items() if key not in last and not key.startswith("model.")}
        before: list[Cell] = []
        for number, stage in enumerate(method.stages, 1):
            is_last = number == len(method.stages)
            files, content = reader([*stage.configs, *data.configs])
            axis = chosen if is_last else early
            options = {**common, **data.options, **stage.options, **axis}
            places = {"seed": seed, **{key.rpartition(".")[2]: value for key, value in chosen.items()}}
            cell = Cell(
                row={**names, **varied} if is_last else {**names, "method": _stage_name(stage)},
                classes=of_classes,
                subsets=drawn if is_last else {},
                seed=seed,
                configs=files,
                options={key: _filled(value, places) for key, value in options.items()},
                content=content,
                before=tuple(other.name for other in before) if is_last else (),
                takes=tuple(each.takes for each in method.stages[:-1]) if is_last else (),
                tested=is_last,
                hands_over=not is_last,
                published=method.published,
            )
            before.append(cell)
            yield cell


def _stage_name(stage: _Stage) -> str:
    return Path(stage.configs[-1]).stem


def _combinations(axis: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(axis, values, strict=True)) for values in product(*axis.values())]


def _matches(labels: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether each item is that of a cell; a list names several values."""
    return all(
        key in labels and labels[key] in (value if isinstance(value, list) else [value])
        for key, value in wanted.items()
    )


def _filled(value: Any, places: Mapping[str, Any]) -> Any:
    """A value with ``{seed}`` and the like filled in; ``{before}`` stays."""
    if isinstance(value, list):
        return [_filled(item, places) for item in value]
    if not isinstance(value, str):
        return value
    for key, found in places.items():
        value = value.replace(f"{{{key}}}", str(found))
    return value


def expanded(value: Any) -> Any:
    """A value with ``$NAME`` and ``${NAME}`` replaced by variables of the environment.

    Args:
        value: Of an option; only texts, and lists of them, are looked at.

    Raises:
        ConfigError: there is no such variable.
    """
    if isinstance(value, list):
        return [expanded(item) for item in value]
    if not isinstance(value, str):
        return value
    for match in _VARIABLE.finditer(value):
        if (match[1] or match[2]) not in os.environ:
            raise ConfigError(
                f"the grid has {match[0]} in {value!r}; the environment has no such variable. Set it, or write the value."
            )
    return _VARIABLE.sub(lambda match: os.environ[match[1] or match[2]], value)


def _yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"the file of a grid must exist; there is no '{file}'. Check the path.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"'{file}' is no YAML: {' '.join(str(error).split())}. Look at its indentation and colons."
        ) from error


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{what} must be a mapping; got {value!r}. Write lines such as 'name: value'.")
    return value


def _list(value: Any, what: str, file: Path) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"'{file}': {what} must be a list with an entry; got {value!r}. Write [..., ...].")
    return value


def _require_known(content: Mapping[str, Any], where: str, file: Path) -> None:
    for key in content:
        if key not in _KNOWN[where]:
            raise ConfigError(
                f"'{file}': {where} may have {', '.join(_KNOWN[where])}; got {key!r}.{did_you_mean(str(key), _KNOWN[where])}"
            )


def _require_once(names: Sequence[str], what: str, file: Path) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"'{file}': {what} need a name each; got {twice[0]!r} twice. Give one of them another name.")


def _method(entry: Any, file: Path) -> _Method:
    if isinstance(entry, str):
        return _Method(Path(entry).stem, [_Stage([entry], {})])
    entry = _mapping(entry, f"an entry of methods in '{file}'")
    _require_known(entry, "methods", file)
    if ("stages" in entry) == ("config" in entry):
        raise ConfigError(f"'{file}': a method has either config or stages; got {', '.join(entry)}.")
    published = str(entry.get("published") or "")
    if "stages" not in entry:
        stage = _stage(entry, file)
        return _Method(str(entry.get("name") or _stage_name(stage)), [stage], published)
    parts = _list(entry["stages"], "stages", file)
    for part in parts:
        if isinstance(part, dict):
            _require_known(part, "stages", file)
    stages = [_stage({"config": part} if isinstance(part, str) else part, file) for part in parts]
    stages[-1].options |= _options(entry.get("options"), "options", file)
    return _Method(str(entry.get("name") or " + ".join(map(_stage_name, stages))), stages, published)


def _stage(entry: Any, file: Path) -> _Stage:
    entry = _mapping(entry, f"a stage in '{file}'")
    configs = entry.get("config")
    configs = [configs] if isinstance(configs, str) else configs
    if not (isinstance(configs, list) and configs and all(isinstance(item, str) for item in configs)):
        raise ConfigError(f"'{file}': config must be the name of a configuration, or a list of names; got {configs!r}.")
    return _Stage(configs, _options(entry.get("options"), "options", file), str(entry.get("takes") or ""))


def _data(entry: Any, file: Path) -> _Data:
    entry = _mapping(entry, f"an entry of data in '{file}'")
    _require_known(entry, "data", file)
    configs = entry.get("config") or []
    configs = [configs] if isinstance(configs, str) else configs
    options = _options(entry.get("options"), "options", file)
    name = str(entry.get("name") or options.get("data") or (Path(configs[-1]).stem if configs else ""))
    return _Data(name, configs, options, _axis(entry.get("classes"), "classes", file))


def _options(value: Any, what: str, file: Path) -> dict[str, Any]:
    options = _mapping(value or {}, f"{what} of '{file}'")
    for name in options:
        if name.partition(".")[0].lstrip("-") in ("seed_everything", "config", "run", "ckpt_path") or name.startswith(
            "-"
        ):
            raise ConfigError(
                f"'{file}': {what} are named as data.root or trainer.max_epochs; got {name!r}. Seeds stand in seeds."
            )
    return options


def _axis(value: Any, what: str, file: Path) -> dict[str, list[Any]]:
    axis = _options(value, what, file)
    for name, values in axis.items():
        _list(values, f"{what}.{name}", file)
        if len({json.dumps(item, default=str) for item in values}) < len(values):
            raise ConfigError(
                f"'{file}': values of {what}.{name} differ; got {values}. Take one of two equal ones out."
            )
    return axis

"""The numbers in a user's own label files and ood masks: what they mean, in YAML or as a mapping.

.. code-block:: yaml

    classes: {road: 0, car: [1, 7], sky: 2}            # in the order of the numbers in ``target``
    anomalous: {animal: 11}                             # optional: unknown objects, in test labels
    void: [12]                                          # optional: without a class, not scored
    ood_mask: {normal: 0, anomalous: 1, void: 255}      # optional: numbers in files of ood masks
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from anomaly_suite.contract import VOID
from anomaly_suite.data.scenes.labels import LabelTable, label_table
from anomaly_suite.errors import ConfigError, did_you_mean
from anomaly_suite.io.rows import read_text

KEYS = ("classes", "anomalous", "void", "ood_mask")
MASK_KEYS = ("normal", "anomalous", "void")
MASK_NUMBERS = {"normal": [0], "anomalous": [1], "void": [VOID]}


class IdTable(NamedTuple):
    """What numbers mean: names of ``classes`` in order, those that are ``anomalous``, and tables of 256 entries.

    ``target`` maps label files to classes, unknown objects and void to 255; ``unknown`` label files to ``ood_mask``, and ``masks`` files
    of ood masks.
    """

    classes: list[str]
    anomalous: dict[str, list[int]]
    target: LabelTable
    unknown: LabelTable
    masks: LabelTable


def read_id_table(ids: str | Path | Mapping[str, Any]) -> IdTable:
    """Read the table from a YAML file, or from what such a file holds.

    Args:
        ids: The file, or the mapping.

    Raises:
        ConfigError: no such file, no YAML, an unknown key, fewer than two classes, or a number that cannot be or has two meanings.
    """
    source = "ids" if isinstance(ids, Mapping) else f"'{ids}'"
    content = ids if isinstance(ids, Mapping) else _load(Path(ids).expanduser())
    if not isinstance(content, Mapping) or "classes" not in content:
        raise ConfigError(
            f"{source} must say what label numbers mean, with classes as names and numbers; got {_said(content)}. "
            "Write for example classes: {road: 0, sky: 1}."
        )
    _refuse_unknown(content, KEYS, source)
    classes, anomalous = (_named(content.get(key), f"{source}: {key}") for key in ("classes", "anomalous"))
    void = _numbers(content.get("void", []), f"{source}: void")
    if len(classes) < 2:
        raise ConfigError(
            f"{source}: classes must name at least two classes; got {_said(content['classes'])}. Add more."
        )
    if twice := sorted(classes.keys() & anomalous.keys()):
        raise ConfigError(f"{source}: {twice[0]!r} is in classes and in anomalous. Name it in one of them.")
    _require_one_meaning({**classes, **anomalous, "void": void}, source)
    known = {number: index for index, numbers in enumerate(classes.values()) for number in numbers}
    unknown = [number for numbers in anomalous.values() for number in numbers]
    return IdTable(
        list(classes),
        anomalous,
        label_table(known, void=[*unknown, *void]),
        label_table({**dict.fromkeys(known, 0), **dict.fromkeys(unknown, 1)}, void=void),
        _mask_table(content.get("ood_mask"), f"{source}: ood_mask"),
    )


class _Once(yaml.SafeLoader):  # type: ignore[misc] # PyYAML has no types
    """Refuses a name that stands twice in one mapping, of which YAML would keep the last."""


def _mapping(loader: _Once, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise yaml.YAMLError(f"{twice!r} stands twice in one mapping")
    return dict(zip(keys, (loader.construct_object(value, deep=True) for _, value in node.value), strict=True))


_Once.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(
            f"ids must be a YAML file or a mapping that says what label numbers mean; there is no file '{path}'. Correct the path."
        )
    try:
        return yaml.load(read_text(path), _Once)
    except yaml.YAMLError as error:
        raise ConfigError(f"'{path}' must be YAML: {' '.join(str(error).split())}. Correct the file.") from error


def _refuse_unknown(content: Mapping[str, Any], known: tuple[str, ...], source: str) -> None:
    for key in content:
        if key not in known:
            raise ConfigError(f"{source} has keys {', '.join(known)}; got {key!r}.{did_you_mean(str(key), known)}")


def _named(value: Any, source: str) -> dict[str, list[int]]:
    """Names and their numbers; a list of names counts from 0."""
    if value is None:
        return {}
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        value = {name: index for index, name in enumerate(value)} if len(set(value)) == len(value) else None
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigError(
            f"{source} must map names to numbers; got {_said(value)}. Write for example {{road: 0, car: [1, 7]}}."
        )
    found = {name: _numbers(numbers, f"{source}: {name}") for name, numbers in value.items()}
    if empty := next((name for name, numbers in found.items() if not numbers), None):
        raise ConfigError(
            f"{source}: {empty} must have at least one number; got none. Give its number, or take it out."
        )
    return found


def _numbers(value: Any, source: str) -> list[int]:
    numbers = list(value) if isinstance(value, list | tuple) else [value]
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= VOID:
            raise ConfigError(
                f"{source} must be whole numbers from 0 to {VOID}, as files of labels hold them; got {number!r}. Give the number of the pixels."
            )
    return numbers


def _require_one_meaning(meanings: Mapping[str, list[int]], source: str) -> None:
    owner: dict[int, str] = {}
    for name, numbers in meanings.items():
        for number in numbers:
            if owner.setdefault(number, name) != name:
                raise ConfigError(f"{source}: {number} is {owner[number]} and {name}. Give every number one meaning.")


def _mask_table(value: Any, source: str) -> LabelTable:
    if value is None:
        value = MASK_NUMBERS
    if not isinstance(value, Mapping) or not {"normal", "anomalous"} <= value.keys():
        raise ConfigError(
            f"{source} must say which numbers are normal and which anomalous; got {_said(value)}. "
            "Write for example {normal: 0, anomalous: 1, void: 255}."
        )
    _refuse_unknown(value, MASK_KEYS, source)
    found = {key: _numbers(numbers, f"{source}: {key}") for key, numbers in value.items()}
    _require_one_meaning(found, source)
    meaning = {"normal": 0, "anomalous": 1}
    known = {number: meaning[key] for key in meaning for number in found[key]}
    return label_table(known, void=found.get("void", []))


def _said(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

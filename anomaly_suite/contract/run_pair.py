"""Whether the configuration of a run and a checkpoint belong together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from anomaly_suite.errors import CheckpointError
from anomaly_suite.io.runs import CONFIG, identity_of
from anomaly_suite.tensor_files import numpy_numbers

IDENTITY = "anomaly_suite_run"  # key of a checkpoint
ADVICE = "Give the run that wrote it with --run, or pair the two on purpose: --config FILE --ckpt_path FILE."


def require_pair(folder: Path, checkpoint: Path) -> None:
    """Refuse a checkpoint that another run than that of a folder has written.

    Where one of the two does not say its run, as those of older programs, the method and its options must be the same.

    Args:
        folder: Of the run.
        checkpoint: The file. One that cannot be read is left to who reads it.

    Raises:
        CheckpointError: they do not belong together.
    """
    facts = facts_of(checkpoint)
    config, wrote = identity_of(folder / CONFIG), facts.get(IDENTITY)
    if config is not None and wrote is not None:
        if config != wrote:
            raise CheckpointError(
                f"'{folder / CONFIG}' and its checkpoint must be of one run; '{checkpoint}' was written by another ({wrote}, not {config}). {ADVICE}"
            )
        return
    options = facts.get("hyper_parameters")
    if not isinstance(options, Mapping) or not (differing := _differing(folder / CONFIG, options)):
        return
    raise CheckpointError(
        f"'{folder / CONFIG}' and its checkpoint must be of one run; '{checkpoint}' was written with {differing}. {ADVICE}"
    )


def facts_of(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint holds beside weights, without reading these; nothing where that is not possible."""
    try:
        with numpy_numbers():
            content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever a damaged file leads to; who needs the weights says what it is
        return {}
    return content if isinstance(content, dict) else {}


def _differing(config: Path, options: Mapping[str, Any]) -> str:
    """The first option of the method that a checkpoint was made with otherwise; ``""`` for none."""
    try:
        model = yaml.safe_load(config.read_text(encoding="utf-8")).get("model") or {}
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return ""
    if not isinstance(model, dict):
        return ""
    here, there = (str(name or "").rpartition(".")[2] for name in (model.get("class_path"), options.get("_class_path")))
    if here and there and here != there:
        return f"the method {there}, not {here}"
    for name, value in (model.get("init_args") or {}).items():
        if name in options and not name.endswith("weights") and _as_yaml(options[name]) != _as_yaml(value):
            return f"{name}={options[name]!r}, not {value!r}"
    return ""


def _as_yaml(value: Any) -> Any:
    """A value as it comes back from YAML: without tuples, paths and the types of numbers."""
    if isinstance(value, Mapping):
        return {str(key): _as_yaml(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_yaml(item) for item in value]
    return value if isinstance(value, bool | int | float | None) else str(value)

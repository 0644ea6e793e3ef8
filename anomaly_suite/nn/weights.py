"""Files of tensors: reading them, matching their names with a network's, and naming the first tensor that does not fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import Module

from anomaly_suite.errors import CheckpointError, DatasetNotFoundError, WeightsError
from anomaly_suite.io.runs import checkpoint_file, find_run
from anomaly_suite.tensor_files import read_tensor_file

PREFIXES = ("module.", "backbone.", "model.", "encoder.", "net.")
"""What training programs put before the names of a network's tensors."""

WRAPPERS = ("state_dict", "model")
"""Keys under which training programs put a network's tensors."""

INSTEAD = (
    "Give the network's state_dict(), saved by torch.save or as safetensors, a checkpoint, or the folder of a run."
)


class Mismatch(NamedTuple):
    """A tensor of a network that a file does not have, or has in another shape."""

    name: str
    expected: tuple[int, ...]
    found: tuple[int, ...] | None
    """Shape in the file; None where no tensor has the name."""

    def __str__(self) -> str:
        if self.found is None:
            return f"no tensor in it is named {self.name} {self.expected}"
        return f"{self.name} is {self.found} in it and {self.expected} in the network"


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a file, without running code from it.

    Args:
        path: Written by ``torch.save`` (a mapping of tensors, or one under ``state_dict`` or ``model``) or as safetensors; or the
            folder of a run, of which the newest checkpoint is read.

    Raises:
        WeightsError: no such file or run, an unreadable one, or no tensors in it.
    """
    return read_with_options(path)[0]


def read_with_options(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As :func:`read_tensors`, and the options of the model that a checkpoint is of; none in other files.

    Args:
        path: As there.

    Raises:
        WeightsError: as there.
    """
    file = _file_of(path)
    content = read_tensor_file(file, WeightsError, instead=INSTEAD)
    options = content.get("hyper_parameters") if isinstance(content, Mapping) else None
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = {key: value for key, value in named if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(
            f"{file} must hold a mapping of names to tensors; it holds none, but a {type(content).__name__}. {INSTEAD}"
        )
    return tensors, dict(options) if isinstance(options, Mapping) else {}


def _file_of(path: str | Path) -> Path:
    """The file itself, or the newest checkpoint of a run."""
    file = Path(path)
    if file.is_dir():
        try:
            return checkpoint_file(path)
        except DatasetNotFoundError as error:
            raise WeightsError(f"weights: {error}") from error
        except CheckpointError as error:
            raise WeightsError(
                f"weights: no checkpoint in {find_run(path)}. Was its fit stopped early? Give another run, or a file of weights."
            ) from error
    if not file.exists():
        raise WeightsError(
            f"weights must be null, 'imagenet', an existing file or the folder of a run; got {str(path)!r}. Check the path."
        )
    return file


def without_prefixes(name: str, known: Collection[str] = (), *, separator: str = ".") -> str:
    """A tensor's name without what training programs put before it.

    Args:
        name: With dots between its parts.
        known: Names to arrive at: prefixes are taken off until the rest is one of them, or none is left.
        separator: What to write for dots, before the name is compared with ``known``.

    Example:
        >>> without_prefixes("model.encoder.conv1.weight"), without_prefixes("model.encoder.conv1.weight", {"encoder.conv1.weight"})
        ('conv1.weight', 'encoder.conv1.weight')
        >>> without_prefixes("module.stages.0.weight", separator="_")
        'stages_0_weight'
    """
    while (written := name.replace(".", separator)) not in known:
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            break
        name = name.removeprefix(prefix)
    return written


def load_part(net: Module, path: str | Path, *, prefix: str, option: str) -> None:
    """Give a part of a network the tensors that a checkpoint has for it.

    Args:
        net: The part.
        path: The checkpoint, or the folder of its run.
        prefix: What stands before the names of the part's tensors in the checkpoint, with a dot at its end.
        option: Which asked for it, for messages.

    Raises:
        WeightsError: no such file, an unreadable one, or one whose part does not fit.
    """
    tensors = {key.removeprefix(prefix): value for key, value in read_tensors(path).items() if key.startswith(prefix)}
    wrong = first_mismatch(tensors, net.state_dict())
    if wrong is not None:
        raise WeightsError(
            f"{option} must be a checkpoint, or its run, of a model built like this one; got {str(path)!r}. In its {prefix.rstrip('.')} "
            f"{wrong}. Use the same options in both."
        )
    net.load_state_dict(tensors, strict=False)


def match_by_name(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file that a network has too, by the network's names.

    Prefixes of training programs do not count, and neither does the separator: timm writes ``stages.0`` or ``stages_0``.

    Args:
        tensors: Of the file, of any shapes.
        state: Of the network, of any shapes.
    """
    own = {without_prefixes(key, separator="_"): key for key in state}
    named = {without_prefixes(key, own, separator="_"): value for key, value in tensors.items()}
    return {key: named[plain] for plain, key in own.items() if plain in named}


def first_mismatch(found: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mismatch | None:
    """The first tensor of a network that is missing or of another shape; None if all fit.

    Batch counters of batch normalisations may be missing: old files lack them, and nothing reads them in evaluation.

    Args:
        found: Tensors of a file by the network's names, of any shapes.
        state: Of the network, of any shapes.
    """
    for key, value in state.items():
        if key in found:
            if found[key].shape != value.shape:
                return Mismatch(key, tuple(value.shape), tuple(found[key].shape))
        elif not key.endswith("num_batches_tracked"):
            return Mismatch(key, tuple(value.shape), None)
    return None

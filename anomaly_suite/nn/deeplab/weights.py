"""Tensors of a DeepLabv3+ by name, from files of other programs too.

A tensor has the name of the released checkpoints; those of other files of the same network are translated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from anomaly_suite.errors import WeightsError
from anomaly_suite.nn.weights import read_tensors

RENAMED = {
    "trunk.net.": "",
    "trunk.": "",
    "layer0.7.": "bn1.",
    "layer0.": "conv1.",
    "final1.": "final.",
    "final2.0.": "final.6.",
}
"""Beginnings of names in other files of the same network, and ours."""

AUXILIARY = ("aux.", "dsn.")
"""Beginnings of the auxiliary classifier's names, here and in other files."""


def named_tensors(weights: str, anchors: Sequence[str]) -> dict[str, Tensor]:
    """Tensors of a file by our names.

    Args:
        weights: A file of tensors, or the folder of a run.
        anchors: Names of which the file has one; what stands before it there stands before all names of the network.

    Raises:
        WeightsError: no such file, an unreadable one, or not exactly one network in it.
    """
    tensors = read_tensors(weights)
    prefixes = {key.removesuffix(anchor) for anchor in anchors for key in tensors if f".{key}".endswith(f".{anchor}")}
    if len(prefixes) != 1:
        raise WeightsError(
            f"{weights} must hold one network with a tensor named {' or '.join(anchors)}; it holds {len(prefixes)}. Give the "
            "checkpoint of such a network."
        )
    (prefix,) = prefixes
    return {own_name(key.removeprefix(prefix)): value for key, value in tensors.items() if key.startswith(prefix)}


def own_name(name: str) -> str:
    """Our name of a tensor.

    Example:
        >>> own_name("final2.0.weight"), own_name("trunk.mod1.conv1.weight")
        ('final.6.weight', 'mod1.conv1.weight')
    """
    for theirs, ours in RENAMED.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def require_fit(found: Mapping[str, Tensor], own: Mapping[str, str], module: nn.Module, weights: str) -> None:
    """Check that a file has every tensor of a network, in its shape.

    Args:
        found: Tensors of the file by our names.
        own: Names in the network's ``state_dict``, by our names.
        module: The network.
        weights: The file, for the message.

    Raises:
        WeightsError: the first tensor that is missing or of another shape.
    """
    state = module.state_dict()
    for name, key in own.items():
        if name not in found and name.endswith("num_batches_tracked"):  # absent from old files and never used
            continue
        if name not in found or found[name].shape != state[key].shape:
            there = tuple(found[name].shape) if name in found else "missing"
            raise WeightsError(
                f"the network in {weights} must be built like the one it is loaded into, but {name} is {there} there and "
                f"{tuple(state[key].shape)} here. Use the same backbone and options in both configurations."
            )

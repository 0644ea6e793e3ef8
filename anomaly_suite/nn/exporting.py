"""What goes another way while a network is written down as a graph, by ``torch.export`` or by a trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

_TRACING: Callable[[], bool] = cast(Any, torch.jit).is_tracing
_CAPTURING = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # the former is not in torch 2.6


def is_exporting() -> bool:
    """Whether this call is being written down as a graph. ``torch.compile`` is not meant: it keeps to the Python code."""
    return _TRACING() or _CAPTURING()


def plain(size: int) -> int:
    """A size that is the same for every input, as a number: in a trace sizes are tensors, and ONNX wants to know those of kernels.

    Args:
        size: Of an axis other than the batch.
    """
    return int(size) if _TRACING() else size


def portions(x: Tensor, at_once: int, dim: int = 0) -> tuple[Tensor, ...]:
    """A batch in portions, to be worked on one after another, which bounds the memory.

    Args:
        x: Of any shape.
        at_once: Length of a portion, at least 1.
        dim: Axis along which it is cut.

    Returns:
        Views of ``x``, all of them ``at_once`` long but for the last; ``x`` itself in a graph, which has one number of portions for
        batches of any size.
    """
    return (x,) if is_exporting() else torch.split(x, at_once, dim)

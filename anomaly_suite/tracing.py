"""What ``torch.compile`` is to leave alone: bookkeeping, checks that need values, numbers of things that depend on values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def untraced(function: Function) -> Function:
    """A function that runs as it is inside a compiled one, with all that it calls."""
    return cast(Function, torch.compiler.disable(function))  # type: ignore[no-untyped-call]


def untraced_itself(function: Function) -> Function:
    """A function that runs as it is inside a compiled one, while what it calls is compiled."""
    return cast(Function, torch.compiler.disable(function, recursive=False))  # type: ignore[no-untyped-call]

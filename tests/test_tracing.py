"""What torch.compile leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from anomaly_suite.tracing import untraced, untraced_itself


def inner(x: Tensor) -> Tensor:
    return x + 1


@pytest.mark.parametrize(("keep", "graphs"), [(untraced, 0), (untraced_itself, 1)])
def test_a_function_is_left_alone_with_or_without_what_it_calls(keep: Callable[..., Any], graphs: int) -> None:
    seen: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        seen.append(graph)
        return graph.forward

    @keep
    def outer(x: Tensor) -> Tensor:
        """Reads a value, which no graph holds."""
        return inner(x) * float(x.sum())

    torch._dynamo.reset()  # type: ignore[no-untyped-call]

    def caller(x: Tensor) -> Any:
        return outer(x)

    assert torch.compile(caller, backend=backend)(torch.ones(2)).tolist() == [4, 4]
    assert len(seen) >= graphs
    assert bool(seen) == bool(graphs)

from __future__ import annotations

import torch
from torch import Tensor, nn

from anomaly_suite.nn.exporting import is_exporting, portions


class Halves(nn.Module):
    """Sums of portions of two samples, and how many portions there were."""

    def forward(self, x: Tensor) -> Tensor:
        parts = portions(x, 2)
        return torch.stack([part.sum() for part in parts]).sum() + 100 * len(parts)


def test_a_batch_comes_in_portions() -> None:
    x = torch.arange(5.0)
    assert [part.tolist() for part in portions(x, 2)] == [[0.0, 1.0], [2.0, 3.0], [4.0]]
    assert not is_exporting()
    assert float(Halves()(x)) == 310


def test_a_graph_takes_a_batch_of_any_size_whole() -> None:
    batch = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(Halves(), (torch.arange(4.0),), dynamic_shapes=batch).module()
    traced = torch.jit.trace(Halves(), torch.arange(4.0), check_trace=False)
    for graph in (exported, traced):
        assert [float(graph(torch.arange(float(count)))) for count in (2, 5, 8)] == [101, 110, 128]


def test_a_compiled_method_keeps_its_portions() -> None:
    compiled = torch.compile(Halves(), backend="eager")
    told_apart = hasattr(torch.compiler, "is_exporting")  # not by torch 2.6, which takes such a batch whole, too
    assert float(compiled(torch.arange(5.0))) == (310 if told_apart else 110)

"""What true half and double precision need: statistics that keep their type, and an epsilon that half precision can hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self


class KeepsStatistics(nn.Module):
    """A module whose own floating-point buffers are statistics: they keep their type when the weights change theirs.

    Otherwise a test in half precision would round them, and give other scores than those that thresholds were fitted to.
    Formulas that join them with a network's output take that output in float32.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            after = self.get_buffer(name)
            if buffer.is_floating_point() and after.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(after.device)
        return self


def raise_epsilon(optimizer: Optimizer) -> None:
    """Give an optimiser of float16 weights an epsilon that float16 does not round to 0, in place.

    Averages of squared gradients are kept in the type of the weights. In float16 those of small gradients vanish; divided by
    their root and an epsilon of 1e-8, which vanishes too, they would make weights infinite. The epsilon becomes the largest
    root that is lost so.
    """
    for group in optimizer.param_groups:
        if "eps" in group and any(weight.dtype == torch.float16 for weight in group["params"]):
            group["eps"] = max(group["eps"], _lost_root(group))


def _lost_root(group: dict[str, Any]) -> float:
    info = torch.finfo(torch.float16)
    decay = group["betas"][1] if "betas" in group else group.get("alpha", 0.0)
    return math.sqrt(info.smallest_normal * info.eps / (1 - decay))

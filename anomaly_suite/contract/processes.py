"""What the processes of a run must agree on beside the weights, which Lightning's strategy sees to."""

from __future__ import annotations

from typing import cast

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


@torch.no_grad()
def share_running_statistics(module: nn.Module, strategy: Strategy) -> None:
    """Give every process the mean over all processes of the running statistics of normalisation layers that are being trained.

    Each process moves them by its own images. DDP hands out those of rank zero before the next step, under manual optimisation
    not even these, so that every process would measure, validate and save another network.

    Args:
        module: In the middle of a training step, after its forward passes.
        strategy: Of the trainer; all processes must ask.
    """
    layers = [part for part in module.modules() if isinstance(part, _NormBase) and part.training]
    moved = [value for part in layers for value in (part.running_mean, part.running_var) if isinstance(value, Tensor)]
    if not moved:
        return
    flat = cast(Tensor, strategy.reduce(torch.cat([value.flatten() for value in moved]), reduce_op="mean"))
    for value, mean in zip(moved, torch.split(flat, [value.numel() for value in moved]), strict=True):
        # Not seen by autograd: a backward pass in training mode does not read them.
        value.data.copy_(mean.view_as(value))

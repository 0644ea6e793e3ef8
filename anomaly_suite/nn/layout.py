"""Weights of convolutions laid out with channels last, which is faster on CPUs.

A ``state_dict`` has all tensors row by row, as files of tensors want them (``AnomalyModule.state_dict``), so networks lay their
weights out again when they go on. Their method for it is called ``lay_out``: a fit calls it before its strategy wraps the network.
"""

from __future__ import annotations

import torch
from torch import nn

from anomaly_suite.nn.exporting import is_exporting


@torch.inference_mode(False)  # weights made in inference mode could not be trained
def channels_last(net: nn.Module) -> None:
    """Lay out the weights of a network with channels last; where they are, or in a graph, nothing happens.

    Args:
        net: Its parameters stay the same objects.
    """
    if torch.compiler.is_compiling() or is_exporting():
        return
    kernels = (weight for weight in net.parameters() if weight.ndim == 4 and 1 not in weight.shape[1:3])
    if next(kernels, torch.empty(0, dtype=torch.float32)).is_contiguous():
        net.to(memory_format=torch.channels_last)

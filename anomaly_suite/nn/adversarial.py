"""What networks play against each other with: critics with a gradient penalty, and discriminators with logits.

Source: Gulrajani et al., WGAN-GP, arXiv:1704.00028; Goodfellow et al., arXiv:1406.2661, with the generator's loss that does not saturate.
Axes: B batch, C channels, H and W pixels, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

PENALTY_WEIGHT = 10.0  # lambda of WGAN-GP
EPSILON = 1e-12  # under the root of the gradient norm, whose derivative at 0 is infinite


def gradient_norm(critic: nn.Module, point: Tensor) -> Tensor:
    """Norm of the critic's gradient in each image, in float32 under any precision.

    Args:
        critic: Images (B, C, H, W) to (B, 1), each image alone.
        point: Shape (B, C, H, W).

    Returns:
        Shape (B,), over channels and pixels; differentiable in the critic's weights.
    """
    with torch.autocast(point.device.type, enabled=False):
        point = point.detach().float().requires_grad_()
        tensors = {name: each.float() for name, each in (*critic.named_parameters(), *critic.named_buffers())}
        value: Tensor = functional_call(critic, tensors, (point,))
        (gradient,) = torch.autograd.grad(value.sum(), point, create_graph=True)
        return (gradient.square().sum((1, 2, 3)) + EPSILON).sqrt()


def between(real: Tensor, fake: Tensor, *, generator: torch.Generator) -> Tensor:
    """Where the penalty is taken: a point on the line between each pair of images (B, C, H, W), at a uniform place of its own."""
    share = torch.rand(len(real), 1, 1, 1, generator=generator, dtype=torch.float32, device=real.device)
    return real.float().lerp(fake.float(), share)


def critic_loss(real: Tensor, fake: Tensor, norm: Tensor, *, penalty_weight: float = PENALTY_WEIGHT) -> Tensor:
    """Loss of the critic in WGAN-GP: the negative Wasserstein distance, and the gradient penalty.

    Args:
        real: What the critic gives normal images, shape (B, 1).
        fake: What it gives generated ones, shape (B, 1).
        norm: Of its gradient between them, shape (B,).
        penalty_weight: Lambda.

    Returns:
        A scalar.
    """
    return penalty_weight * (norm - 1).square().mean() - (real.mean() - fake.mean())


def logistic_loss(logit: Tensor, *, real: bool) -> Tensor:
    """Mean cross-entropy of a discriminator's logits, of any shape, with the answer ``real`` or fake; in float32.

    A generator that wants its images called real minimises it with ``real=True``, which does not saturate where it loses.
    """
    return F.softplus(-logit.float() if real else logit.float()).mean()


@contextmanager
def untracked(*nets: nn.Module) -> Iterator[None]:
    """Let the batch norms of networks go by the batch, as in training, but leave their running statistics as they are."""
    norms = [
        part for net in nets for part in net.modules() if isinstance(part, _BatchNorm) and part.track_running_stats
    ]
    for part in norms:
        part.track_running_stats = False
    try:
        yield
    finally:
        for part in norms:
            part.track_running_stats = True


class CodeDiscriminator(nn.Sequential):
    """Vectors (B, D) to logits (B, 1): linear layers with leaky rectifiers between.

    Args:
        in_features: D.
        hidden: Widths between.
    """

    def __init__(self, in_features: int, hidden: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise((in_features, *hidden)):
            layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Linear([in_features, *hidden][-1], 1))

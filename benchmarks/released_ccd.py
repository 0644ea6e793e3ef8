"""The losses of CCD's release, rebuilt from a description of it, to compare values and times with.

Views are interleaved (item 0 view 0, item 0 view 1, item 1 view 0, ...); the first view of each item is an anchor, its second one the
positive, all views of other items are negatives. The weights of the classifier are divided by the norm of each of their columns
without gradients. Its labels are repeated as a block, as if the views came block by block: most belong to another item.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROJECTION, TEMPERATURE = 128, 0.2


class Heads(nn.Module):
    """Projection of the contrast, and classifier of the strong augmentation."""

    def __init__(self, features: int, versions: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, PROJECTION))
        self.classifier = nn.Linear(features, versions)


def released_loss(feature: Tensor, label: Tensor, heads: Heads, *, right_labels: bool) -> Tensor:
    """Contrast and cross-entropy, anchor by anchor.

    Args:
        feature: Interleaved, (2B, D).
        label: Strong augmentation of each item, (B,).
        heads: See :class:`Heads`.
        right_labels: Repeat every label beside itself, as the views are, in place of the block.

    Returns:
        Scalar.
    """
    projection = F.normalize(heads.projection(feature), dim=1)
    losses = []
    for item in range(len(label)):
        anchor, positive = projection[2 * item], projection[2 * item + 1]
        others = torch.cat([projection[: 2 * item], projection[2 * item + 2 :]])
        chosen = torch.exp((anchor * positive).sum() / TEMPERATURE)
        negative = torch.exp((anchor * others).sum(1) / TEMPERATURE).sum()
        losses.append(-torch.log(chosen / (chosen + negative)))
    with torch.no_grad():
        heads.classifier.weight.div_(heads.classifier.weight.norm(dim=0, keepdim=True))
    labels = label.repeat_interleave(2) if right_labels else label.repeat(2)
    return torch.stack(losses).mean() + F.cross_entropy(heads.classifier(feature), labels)

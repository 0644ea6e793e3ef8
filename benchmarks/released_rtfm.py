"""The training step of RTFM's release, rebuilt from its description (architecture, losses, Adam), to compare times with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MARGIN, SELECT_DROPOUT, K = 100.0, 0.7, 3


class Aggregate(nn.Module):
    """Dilated convolutions beside attention of T x T weights; crops are sequences, (S, T, D) to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        quarter, inner = width // 4, width // 8
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv1d(width, quarter, 3, padding=step, dilation=step), nn.ReLU(), nn.BatchNorm1d(quarter))
            for step in (1, 2, 4)
        )
        self.reduce = nn.Sequential(nn.Conv1d(width, quarter, 1, bias=False), nn.ReLU())
        self.value, self.query, self.key = (nn.Conv1d(quarter, inner, 1) for _ in range(3))
        self.expand = nn.Sequential(nn.Conv1d(inner, quarter, 1), nn.BatchNorm1d(quarter))
        nn.init.zeros_(self.expand[1].weight)
        self.fuse = nn.Sequential(nn.Conv1d(width, width, 3, padding=1, bias=False), nn.ReLU(), nn.BatchNorm1d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Aggregate."""
        x = x.permute(0, 2, 1)
        parts = [branch(x) for branch in self.branches]
        reduced = self.reduce(x)
        value = self.value(reduced).permute(0, 2, 1)
        weight = self.query(reduced).permute(0, 2, 1) @ self.key(reduced)
        attended = (weight / weight.shape[-1]) @ value
        parts.append(self.expand(attended.permute(0, 2, 1).contiguous()) + reduced)
        return (self.fuse(torch.cat(parts, 1)) + x).permute(0, 2, 1)


class Released(nn.Module):
    """Aggregation, dropout, classifier, and selection by magnitude; the first half of the videos is normal."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.aggregate = Aggregate(width)
        self.fc1, self.fc2, self.fc3 = nn.Linear(width, 512), nn.Linear(512, 128), nn.Linear(128, 1)
        self.dropout = nn.Dropout(0.7)
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, videos: Tensor) -> tuple[Tensor, ...]:
        """Score and selected features of normal videos, those of anomalous ones, and all scores of these."""
        count, crops, snippets, width = videos.shape
        features = self.dropout(self.aggregate(videos.view(-1, snippets, width)))
        hidden = self.dropout(self.fc1(features).relu())
        hidden = self.dropout(self.fc2(hidden).relu())
        score = self.fc3(hidden).sigmoid().view(count, crops, -1).mean(1).unsqueeze(2)
        magnitude = features.norm(p=2, dim=2).view(count, crops, -1).mean(1)
        half, out = count // 2, []
        for part in (slice(half), slice(half, None)):
            mask = nn.functional.dropout(torch.ones_like(magnitude[part]), SELECT_DROPOUT)
            index = torch.topk(magnitude[part] * mask, K, dim=1)[1]
            where = index.unsqueeze(2).expand(-1, -1, width)
            of_crops = features.view(count, crops, snippets, width)[part].permute(1, 0, 2, 3)
            chosen = torch.cat([torch.gather(crop, 1, where) for crop in of_crops])
            out += [torch.gather(score[part], 1, index.unsqueeze(2)).mean(1), chosen]
        return (*out, score[half:])


def step_of(videos: Tensor, *, lr: float = 1e-3, weight_decay: float = 5e-3) -> Callable[[], Any]:
    """A call that makes one step on videos (2B, C, 32, D), the first half normal."""
    model = Released(videos.shape[3]).to(videos.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
    label = torch.tensor([0.0, 1.0], device=videos.device).repeat_interleave(len(videos) // 2)
    loss_of = nn.BCELoss()

    def step() -> None:
        score_normal, normal, score_anomalous, anomalous, scores = model(videos)
        flat = scores.flatten()
        score = torch.cat([score_normal, score_anomalous]).squeeze()
        away = (MARGIN - anomalous.mean(1).norm(p=2, dim=1)).abs()
        loss = loss_of(score, label) + 1e-4 * ((away + normal.mean(1).norm(p=2, dim=1)) ** 2).mean()
        loss = loss + 8e-4 * (flat[1:] - flat[:-1]).square().sum() + 8e-3 * scores.norm(dim=0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step

"""Seeded score maps with planted regions, and slow references to compare with."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


def planted_maps(count: int, size: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Float32 maps of noise and boolean masks; the second half has one to three raised ellipses per map."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0.0, 1.0, (count, size, size)).astype(np.float32)
    masks = np.zeros((count, size, size), dtype=bool)
    rows, cols = np.mgrid[:size, :size]
    for index in range(count // 2, count):
        for _ in range(int(rng.integers(1, 4))):
            cy = rng.integers(size // 6, size - size // 6)
            cx = rng.integers(size // 6, size - size // 6)
            ry, rx = rng.integers(max(3, size // 32), max(4, size // 9), 2)
            region = ((rows - cy) / ry) ** 2 + ((cols - cx) / rx) ** 2 <= 1
            scores[index][region] += float(rng.uniform(0.5, 3.0))
            masks[index] |= region
    return scores, masks


def slow_counts(score: np.ndarray, target: np.ndarray) -> list[tuple[float, int, int]]:
    """(threshold, true positives, false positives) for one distinct score after the other, from the highest."""
    return [
        (t, int(((score >= t) & target).sum()), int(((score >= t) & ~target).sum())) for t in sorted(set(score))[::-1]
    ]


def slow_regions(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """8-connected regions of one mask by flood fill."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    regions = []
    while left:
        stack = [left.pop()]
        region = []
        while stack:
            y, x = stack.pop()
            region.append((y, x))
            for near in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    stack.append(near)
        regions.append(region)
    return regions


def slow_aupro(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """Per-region overlap, threshold by threshold, then trapezoids up to the limit."""
    regions = [(i, region) for i, mask in enumerate(masks) for region in slow_regions(mask)]
    points = [(0.0, 0.0)]
    for t in sorted(set(maps.flatten().tolist()), reverse=True):
        found = maps >= t
        overlap = [sum(bool(found[i][p]) for p in region) / len(region) for i, region in regions]
        points.append((float((found & ~masks).sum() / (~masks).sum()), sum(overlap) / len(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
        elif x0 < limit:
            end = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            area += (limit - x0) * (y0 + end) / 2
    return area / limit


def tensors(*arrays: np.ndarray) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)

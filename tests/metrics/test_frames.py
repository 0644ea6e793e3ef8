"""Scores of frames against slow loops over thresholds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anomaly_suite.errors import ConfigError, MetricUndefinedError, ShapeError
from anomaly_suite.metrics import auroc, detection_scores, equal_error_rate, localised_scores, patch_frame_scores


def test_a_frame_is_as_anomalous_as_its_worst_patch() -> None:
    score, frame = torch.tensor([0.3, 0.9, 0.5, 0.4]), torch.tensor([0, 0, 2, 4])
    clip = torch.tensor([0, 0, 0, 1, 1, 2])
    # frame 1 has the smallest of clip 0, frame 3 that of clip 1, and clip 2 has no patch at all
    assert patch_frame_scores(score, frame, clip).tolist() == pytest.approx([0.9, 0.3, 0.5, 0.4, 0.4, 0.3])


def by_loop(score: Tensor, frame: Tensor, area: Tensor, clip: Tensor, total: Tensor, share: float) -> list[float]:
    found = []
    for f in range(len(clip)):
        mine = [row for row in range(len(score)) if frame[row] == f]
        if total[f] == 0:
            reached = [float(score[row]) for row in mine]
        else:
            reached = [
                float(t)
                for t in score[mine]
                if sum(int(area[row]) for row in mine if score[row] >= t) >= share * total[f] - 1e-9
            ]
        of_clip = [float(score[row]) for row in range(len(score)) if clip[frame[row]] == clip[f]]
        found.append(max(reached, default=min(of_clip)))
    return found


@pytest.mark.parametrize("share", [0.4, 0.05, 1.0])
def test_the_pixel_level_criterion_of_patches(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    score = torch.randint(0, 12, (60,), generator=generator).double()  # with ties
    frame = torch.randint(0, 14, (60,), generator=generator)
    clip = torch.arange(15) // 5
    area = torch.randint(0, 5, (60,), generator=generator)
    outside = torch.randint(0, 4, (15,), generator=generator)
    total = torch.zeros(15, dtype=torch.long).scatter_add(0, frame, area) + outside
    total[::3] = 0
    area[total[frame] == 0] = 0
    expected = by_loop(score, frame, area, clip, total, share)
    assert localised_scores(score, frame, area, clip, total, share=share).tolist() == expected
    order = torch.randperm(60, generator=generator)
    again = localised_scores(score[order], frame[order], area[order], clip, total, share=share)
    assert again.tolist() == expected


def test_maps_and_patches_of_one_pixel_agree() -> None:
    generator = torch.Generator().manual_seed(1)
    anomaly_map = torch.rand(6, 1, 5, 7, generator=generator)
    mask = torch.rand(6, 1, 5, 7, generator=generator) > 0.7
    mask[1:3] = False
    frame, clip = torch.arange(6).repeat_interleave(35), torch.zeros(6, dtype=torch.long)
    for share in (0.4, 1 / 3, 1.0):
        expected = localised_scores(
            anomaly_map.flatten(), frame, mask.flatten().long(), clip, mask.flatten(1).sum(1), share=share
        )
        assert torch.equal(detection_scores(anomaly_map, mask, share=share), expected)
    assert torch.equal(detection_scores(anomaly_map, mask)[1:3], anomaly_map[1:3].amax((1, 2, 3)))


def test_a_detector_that_looks_elsewhere_is_found_out() -> None:
    mask = torch.zeros(40, 1, 8, 8, dtype=torch.bool)
    mask[20:, :, :4] = True
    right, elsewhere = mask.float(), mask.flip(2).float()
    label = mask.flatten(1).any(1).long()
    for anomaly_map, expected in ((right, 1.0), (elsewhere, 0.5)):
        found = detection_scores(anomaly_map, mask)
        assert auroc(anomaly_map.amax((1, 2, 3)), label) == 1  # by frame alone they are the same
        assert auroc(found, label) == expected
        assert equal_error_rate(found, label) == 1 - expected


def test_what_cannot_be() -> None:
    one, clip = torch.ones(1), torch.zeros(2, dtype=torch.long)
    with pytest.raises(MetricUndefinedError, match="need at least one patch; got none"):
        patch_frame_scores(torch.ones(0), torch.zeros(0, dtype=torch.long), clip)
    with pytest.raises(ShapeError, match=r"one number a patch, clip one a frame; got \(1,\), \(2,\) and \(2,\)"):
        patch_frame_scores(one, clip, clip)
    with pytest.raises(ShapeError, match=r"areas must be one for each patch and one for each frame"):
        localised_scores(one, clip[:1], one, clip, one)
    with pytest.raises(ShapeError, match=r"anomaly_map and mask must have one shape"):
        detection_scores(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 3))
    for share in (0.0, 1.1):
        with pytest.raises(ConfigError, match="share"):
            detection_scores(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), share=share)

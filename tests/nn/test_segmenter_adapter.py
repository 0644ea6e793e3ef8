from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.segmenter_adapter import OwnSegmenter, SegmenterAdapter


class Pooled(nn.Module):
    """Its last layer sees a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.last(image.mean((2, 3)))
        return out[..., None, None].expand(-1, -1, 4, 4)


def test_one_pass_gives_logits_in_the_size_of_the_image_and_features_in_their_own() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 2, stride=2), nn.Conv2d(6, 4, 1))
    passes: list[int] = []
    network.register_forward_hook(lambda *_: passes.append(1))
    wrapped = SegmenterAdapter(network, num_classes=4, feature_layer="1")
    image = torch.rand(2, 3, 8, 12)
    logits, feature = wrapped.with_feature(image)
    assert passes == [1]
    assert torch.equal(logits, wrapped(image))
    assert logits.shape == (2, 4, 8, 12)
    assert feature.shape == (2, 6, 4, 6)
    assert not network[1]._forward_pre_hooks  # none is left behind
    grey = wrapped(image[:, :1])
    assert torch.equal(grey, wrapped(image[:, :1].expand(-1, 3, -1, -1)))


def test_features_that_are_no_map_or_not_named() -> None:
    with pytest.raises(ShapeError, match=r"must see a map \(B, D, h, w\); it saw \(1, 3\)"):
        SegmenterAdapter(Pooled(), num_classes=2, feature_layer="last").with_feature(torch.rand(1, 3, 4, 4))
    with pytest.raises(ConfigError, match="Set feature_layer"):
        SegmenterAdapter(Pooled(), num_classes=2).with_feature(torch.rand(1, 3, 4, 4))


def test_the_former_name_is_an_alias() -> None:
    assert OwnSegmenter is SegmenterAdapter

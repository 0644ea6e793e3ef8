"""Crops, and networks with their weights."""

from __future__ import annotations

import pytest
import torch

from anomaly_suite.errors import ConfigError
from anomaly_suite.features.networks import build_network, choose_crops, crop_clips, crop_names, fingerprint


class TestCrops:
    def test_positions(self) -> None:
        row = torch.arange(256).view(1, 1, 1, 256, 1).expand(1, 3, 1, 256, 340)
        column = torch.arange(340).view(1, 1, 1, 1, 340).expand(1, 3, 1, 256, 340)
        rows, columns = (crop_clips(each, (224, 224), 10)[0, :, 0, 0] for each in (row, column))
        corners = list(zip(rows[:, 0, 0].tolist(), columns[:, 0, 0].tolist(), strict=True))
        assert corners[:5] == [(0, 0), (0, 116), (32, 0), (32, 116), (16, 58)]
        assert (int(rows[4, -1, 0]), int(columns[4, 0, -1])) == (239, 281)
        assert corners[5:] == [(0, 339), (0, 223), (32, 339), (32, 223), (16, 281)]

    def test_fewer_crops_are_the_first_five_and_the_centre(self) -> None:
        clips = torch.rand(2, 3, 4, 12, 14)
        ten = crop_clips(clips, (8, 9), 10)
        assert ten.shape == (2, 10, 3, 4, 8, 9)
        assert torch.equal(crop_clips(clips, (8, 9), 5), ten[:, :5])
        assert torch.equal(crop_clips(clips, (8, 9), 1), ten[:, 4:5])

    def test_names(self) -> None:
        assert list(crop_names(1)) == ["centre"]
        assert [len(crop_names(count)) for count in (5, 10)] == [5, 10]
        assert crop_names(10)[4:6] == ("centre", "top left, mirrored")


class TestNetworks:
    def test_random_weights_are_the_same_every_time(self) -> None:
        torch.manual_seed(5)
        first = build_network("frame_average", weights="random", backbone="resnet18").state_dict()
        drawn = torch.rand(1)
        torch.manual_seed(6)
        second = build_network("frame_average", weights="random", backbone="resnet18").state_dict()
        assert all(torch.equal(value, second[name]) for name, value in first.items())
        torch.manual_seed(5)
        assert torch.equal(torch.rand(1), drawn)

    def test_a_fingerprint_depends_on_every_tensor(self) -> None:
        net = build_network("frame_average", weights="random", backbone="resnet18")
        first = fingerprint(net)
        assert first == fingerprint(net)
        with torch.no_grad():
            next(net.parameters()).add_(1)
        assert fingerprint(net) != first
        assert fingerprint(build_network("motion_energy", weights=None, backbone="")) is None

    def test_crops_of_whole_frames(self) -> None:
        net = build_network("motion_energy", weights=None, backbone="")
        assert choose_crops(None, "motion_energy", net) == choose_crops(1, "motion_energy", net) == 1
        with pytest.raises(ConfigError, match="motion_energy takes whole frames, which have one crop; got crops=5"):
            choose_crops(5, "motion_energy", net)

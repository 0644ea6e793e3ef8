"""Thresholds, decisions and normalised scores."""

from __future__ import annotations

import pytest
import torch

from anomaly_suite.contract import Calibration
from anomaly_suite.errors import NotFittedError


class TestCalibration:
    def test_unfitted_adds_nothing(self) -> None:
        prediction = {"anomaly_score": torch.tensor([1.0])}
        assert Calibration()(prediction) == prediction

    def test_adds_decisions_and_keeps_raw_scores(self) -> None:
        calibration = Calibration()
        calibration.set("image", threshold=10.0, low=8.0, high=20.0, rule="fixed")
        calibration.set("pixel", threshold=1.0, low=0.0, high=2.0, rule="fixed")
        score = torch.tensor([-5.0, 8.0, 9.0, 10.0, 15.0, 99.0])
        out = calibration({"anomaly_score": score, "anomaly_map": torch.tensor([[[[0.5, 1.0]]]])})
        assert torch.equal(out["anomaly_score"], score)
        assert out["pred_label"].tolist() == [False, False, False, True, True, True]
        assert out["normalized_score"].tolist() == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0]
        assert out["pred_mask"].flatten().tolist() == [False, True]

    def test_a_range_of_width_zero_stays_finite(self) -> None:
        calibration = Calibration()
        calibration.set("image", threshold=3.0, low=3.0, high=3.0)
        assert calibration.normalize(torch.tensor([2.0, 3.0, 4.0])).tolist() == [0.0, 0.5, 1.0]

    def test_state_dict_restores_thresholds_and_record(self) -> None:
        first, second = Calibration(), Calibration()
        first.set("image", threshold=1.5, low=0, high=2, rule="max_f1")
        second.load_state_dict(first.state_dict())
        assert second.threshold("image") == 1.5
        assert second.record == {"image": {"threshold": 1.5, "low": 0, "high": 2, "rule": "max_f1"}}
        with pytest.raises(NotFittedError, match="no pixel threshold"):
            second.threshold("pixel")

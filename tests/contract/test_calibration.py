"""Thresholds, decisions and normalised scores."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from anomaly_suite.contract import Calibration
from anomaly_suite.contract.calibration import RECORD_BYTES
from anomaly_suite.errors import CheckpointError, ConfigError, NotFittedError


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

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64])
    def test_its_state_is_one_tensor_of_one_size_in_any_precision(self, dtype: torch.dtype) -> None:
        first, second = Calibration(), Calibration()
        assert first.get_extra_state().shape == (RECORD_BYTES,)
        with torch.inference_mode():
            first.set(
                "pixel", threshold=0.1 + 0.2, low=-1e-30, high=float("inf"), rule="quantile", split="Prüfung", normal=3
            )
            state = first.get_extra_state()
        assert state.shape == (RECORD_BYTES,)
        assert state.dtype == torch.uint8
        assert not state.is_inference()
        second.set_extra_state(state.to(dtype))
        assert second.record == first.record
        assert isinstance(second.record["pixel"]["normal"], int)

    def test_a_mapping_of_a_former_checkpoint_is_a_record(self) -> None:
        calibration = Calibration()
        calibration.load_state_dict({"_extra_state": {"image": {"threshold": 1.5, "low": 0.0, "high": 2.0}}})
        assert calibration.threshold("image") == 1.5

    @pytest.mark.parametrize("how", [{"split": "x" * RECORD_BYTES}, {"rule": torch.tensor(1.0)}])
    def test_what_a_checkpoint_cannot_hold_is_refused_at_once(self, how: dict[str, Any]) -> None:
        calibration = Calibration()
        with pytest.raises(ConfigError, match=r"how .* must .*; got .*[.)] (Shorten|Convert) it"):
            calibration.set("image", threshold=1.0, low=0.0, high=2.0, **how)
        assert calibration.record == {}

    @pytest.mark.parametrize("text", ["", "{", json.dumps([1])])
    def test_bytes_that_are_no_record_are_refused(self, text: str) -> None:
        state = torch.tensor([ord(letter) for letter in text], dtype=torch.uint8)
        with pytest.raises(CheckpointError, match=r"must hold the record of thresholds as JSON; got .* calibrate anew"):
            Calibration().set_extra_state(state)

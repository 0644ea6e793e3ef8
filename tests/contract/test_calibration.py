"""Thresholds, decisions and normalised scores."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import numpy as np
import pytest
import torch

from anomaly_suite.contract import Calibration, Level
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
        above = [
            1 - 0.5 / (1 + math.log2(1 + width)) for width in (5 / 2, 89 / 2)
        ]  # widths of 10 - 8 above the threshold
        assert out["normalized_score"].tolist() == pytest.approx([0.0, 0.0, 0.25, 0.5, *above])
        assert out["pred_mask"].flatten().tolist() == [False, True]

    @pytest.mark.parametrize(
        ("threshold", "low", "high", "further"),
        [
            (4.0, 1.0, 4.0, [4.1, 15.8, 1580.0, 3e38]),  # a quantile of normals: nothing was seen above it
            (float(np.nextafter(np.float32(4), np.float32(5))), 1.0, 4.0, [4.1, 15.8, 1580.0, 3e38]),
            (4.0, 4.0, 4.0, [4.1, 15.8, 1580.0, 3e38]),  # normals of one score
            (4.0, 1.0, 9.0, [4.1, 15.8, 1580.0, 3e38]),
            (4.0, 6.0, 9.0, [4.1, 15.8, 1580.0, 3e38]),  # fixed, below all that was seen
            (4.0, 4.0 - 1e-6, 4.0, [4.1, 15.8, 1580.0, 3e38]),
            (4.0, -math.inf, math.inf, [4.1, 15.8, 1580.0, 3e38]),
            (0.0, 0.0, 0.0, [1e-3, 1.0, 1e9, 3e38]),
            (1e-38, 0.0, 1.0, [1e-3, 1.0, 1e9, 3e38]),
            (-3e38, -3.4e38, 3e38, [-2e38, 0.0, 1e38, 3e38]),
        ],
    )
    def test_order_is_kept_above_the_threshold(
        self, threshold: float, low: float, high: float, further: list[float]
    ) -> None:
        calibration = Calibration()
        for level in get_args(Level):
            calibration.set(level, threshold=threshold, low=low, high=high)
            normalized = calibration.normalize(torch.tensor([threshold, *further]), level)
            assert normalized[0] == 0.5
            assert bool((normalized.diff() > 0).all())
            assert normalized[-1] < 1

    def test_a_false_alarm_and_a_defect_do_not_look_alike(self) -> None:
        calibration = Calibration()
        calibration.set("image", threshold=4.0, low=2.0, high=4.0)
        normalized = calibration.normalize(torch.tensor([2.0, 3.0, 4.0, 4.1, 6.0, 15.8, 1580.0, math.inf, -math.inf]))
        by_hand = [
            0.0,
            0.25,
            0.5,
            0.532880,
            0.75,
            0.867955,
            0.952936,
            1.0,
            0.0,
        ]  # 1 - 0.5 / (1 + log2(1 + u)), u = (s - 4) / 2
        assert normalized.tolist() == pytest.approx(by_hand, abs=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8])
    def test_scores_of_any_type(self, dtype: torch.dtype) -> None:
        calibration = Calibration()
        calibration.set("image", threshold=100.0, low=96.0, high=100.0)
        score = torch.tensor([90, 96, 98, 100, 102, 104, 250], dtype=dtype)
        normalized = calibration.normalize(score)
        assert normalized.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert normalized[:4].tolist() == [0.0, 0.0, 0.25, 0.5]
        assert bool((normalized[3:].diff() > 0).all())
        assert torch.equal(normalized >= 0.5, score >= 100)

    def test_half_is_reached_by_anomalous_scores_alone(self) -> None:
        calibration = Calibration()
        calibration.set("image", threshold=0.1, low=-1e6, high=1e6)
        near = np.nextafter(np.float32(0.1), np.float32([-1.0, 1.0]))
        score = torch.tensor([near[0], np.float32(0.1), near[1], math.nan])
        assert (calibration.normalize(score) >= 0.5).tolist() == (score >= 0.1).tolist() == [False, True, True, False]
        assert calibration.normalize(score).isnan().tolist() == [False, False, False, True]

    @pytest.mark.parametrize(
        ("threshold", "expected"), [(math.inf, [0.0, 0.0, 0.25, 0.5]), (-math.inf, [0.5, 0.5, 0.6845, 0.75])]
    )
    def test_an_infinite_threshold_calls_all_or_nothing_anomalous(
        self, threshold: float, expected: list[float]
    ) -> None:
        calibration = Calibration()
        calibration.set("image", threshold=threshold, low=1.0, high=3.0)
        normalized = calibration.normalize(torch.tensor([0.0, 1.0, 2.0, 3.0]))
        assert normalized.tolist() == pytest.approx(expected, abs=1e-4)
        assert bool((normalized >= 0.5).all()) == (threshold < 0)

    def test_a_threshold_of_an_older_record_keeps_its_decisions(self) -> None:
        calibration = Calibration()
        calibration.set_extra_state({"image": {"threshold": 3.0, "low": 3.0, "high": 3.0}})
        normalized = calibration.normalize(torch.tensor([2.0, 3.0, 4.0, 5.0]))
        assert normalized[1] == 0.5
        assert bool((normalized.diff() > 0).all())

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

    def test_a_threshold_that_is_no_number_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="the pixel threshold must be a number; got nan"):
            Calibration().set("pixel", threshold=math.nan, low=0.0, high=1.0)

    @pytest.mark.parametrize("text", ["", "{", json.dumps([1])])
    def test_bytes_that_are_no_record_are_refused(self, text: str) -> None:
        state = torch.tensor([ord(letter) for letter in text], dtype=torch.uint8)
        with pytest.raises(CheckpointError, match=r"must hold the record of thresholds as JSON; got .* calibrate anew"):
            Calibration().set_extra_state(state)

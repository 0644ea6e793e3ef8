"""Localisation in groups, against loops over images and in two processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_suite.callbacks import LocalisationMetrics
from anomaly_suite.contract import AnomalyModule, Batch, Prediction
from anomaly_suite.metrics import aupro

GROUP = [0, 1, 2, 1, 0, 2, 3, 3, 1]


class Brightness(AnomalyModule):
    """The image is its own map; what is above one half is decided."""

    def __init__(self, *, decide: bool = True) -> None:
        super().__init__()
        self.decide = decide

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return image.mean((1, 2, 3)), image.mean(1, keepdim=True)

    def predict(self, batch: Batch) -> Prediction:
        prediction = super().predict(batch)
        if self.decide:
            prediction["pred_mask"] = prediction["anomaly_map"] > 0.5
        return prediction

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> None:
        return None


def samples(grouped: bool = True) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for group in GROUP:
        mask = torch.zeros(1, 8, 8, dtype=torch.bool)
        mask[:, 2:5, 1:6] = group > 0
        image = 0.7 * torch.rand(1, 8, 8, generator=generator) + 0.3 * mask
        found.append({"image": image, "mask": mask, "label": int(group > 0), **({"group": group} if grouped else {})})
    return found


def expected(empty: int | None = None) -> dict[str, list[float]]:
    """By loops over groups and images."""
    values: dict[str, list[float]] = {"IoU": [], "Dice": [], "AUPRO": []}
    for number in (1, 2, 3):
        chosen = [each for index, each in enumerate(samples()) if each["group"] == number and index != empty]
        iou, dice = [], []
        for each in chosen:
            decided, mask = (each["image"] > 0.5).numpy(), each["mask"].numpy()
            both = int((decided & mask).sum())
            iou.append(both / int((decided | mask).sum()))
            dice.append(2 * both / int(decided.sum() + mask.sum()))
        values["IoU"].append(float(np.mean(iou)))
        values["Dice"].append(float(np.mean(dice)))
        maps, masks = (torch.stack([each[key] for each in chosen]) for key in ("image", "mask"))
        values["AUPRO"].append(float(aupro(maps, masks)))
    return values


def run(trainer: Trainer, folder: Path, data: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    trainer.test(Brightness(**options), DataLoader(data, batch_size=2), verbose=False)  # type: ignore[arg-type] # a list is a data set
    file = folder / "metrics.json"
    return json.loads(file.read_text(encoding="utf-8"))["localisation"] if file.is_file() else {}


def test_means_and_spreads_over_groups(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    trainer = trainer_in(callbacks=[LocalisationMetrics()])
    found = run(trainer, tmp_path, samples())
    assert found["images"] == [3, 2, 2]
    for name, each in expected().items():
        assert found["groups"][name] == pytest.approx(
            each, abs=1e-4 if name == "AUPRO" else 1e-9
        )  # a sketch of the map
        assert found["metrics"][name] == pytest.approx(np.mean(found["groups"][name]))
        assert found["metrics"][f"{name}_std"] == pytest.approx(np.std(found["groups"][name], ddof=1))
        assert float(trainer.callback_metrics[f"test/localisation_{name}"]) == pytest.approx(found["metrics"][name])


def test_images_whose_mask_is_empty_do_not_count(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    data = samples()
    data[3]["mask"] = torch.zeros_like(data[3]["mask"])
    found = run(trainer_in(callbacks=[LocalisationMetrics()]), tmp_path, data)
    assert found["images"] == [2, 2, 2]
    assert found["groups"]["IoU"] == pytest.approx(expected(empty=3)["IoU"])


def test_without_a_threshold_or_groups(
    tmp_path: Path, trainer_in: Callable[..., Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    found = run(trainer_in(callbacks=[LocalisationMetrics()]), tmp_path, samples(), decide=False)
    assert found["metrics"].keys() == {"AUPRO", "AUPRO_std"}
    assert found["undefined"]["IoU"] == "IoU needs pred_mask of the step: calibrate a threshold of pixels."
    assert "test has no localisation_Dice: Dice needs pred_mask" in caplog.text
    (tmp_path / "metrics.json").unlink()
    assert run(trainer_in(callbacks=[LocalisationMetrics()]), tmp_path, samples(grouped=False)) == {}


def test_two_processes(tmp_path: Path, trainer_in: Callable[..., Trainer], two_processes: dict[str, Any]) -> None:
    one = run(trainer_in(callbacks=[LocalisationMetrics()]), tmp_path, samples()[:8])
    (tmp_path / "metrics.json").unlink()
    two = run(trainer_in(callbacks=[LocalisationMetrics()], **two_processes), tmp_path, samples()[:8])
    assert two["images"] == one["images"]
    for name, values in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(values, abs=1e-9)  # sums in another order

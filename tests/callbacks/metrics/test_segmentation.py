from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_suite.callbacks import SegmentationMetrics
from anomaly_suite.contract import AnomalyModule, Batch, Prediction
from anomaly_suite.errors import ConfigError
from anomaly_suite.metrics import MeanIoU, confusion_matrix

NAMES = ("road", "traffic light", "sky")


class Rounding(AnomalyModule):
    """Its first channel says the class."""

    def __init__(self, *, num_classes: int | None = 3, classify: bool = True, confident: bool = False) -> None:
        super().__init__()
        if num_classes is not None:
            self.num_classes = num_classes
        self.classify = classify
        self.confident = confident

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return image.mean((1, 2, 3)), image.mean(1, keepdim=True)

    def predict(self, batch: Batch) -> Prediction:
        prediction = super().predict(batch)
        if self.classify:
            prediction["pred_target"] = batch["image"][:, 0].round().long()
        if self.confident:
            prediction["confidence"] = torch.full_like(batch["image"][:, 0], 0.7)
        return prediction

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> None:
        return None


class Streets(LightningDataModule):
    """Random classes; a tenth of the predictions is wrong."""

    classes = NAMES

    def __init__(self, *, with_target: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.target = torch.randint(2, (5, 6, 8), generator=generator)  # no sky
        said = torch.where(torch.rand(self.target.shape, generator=generator) < 0.1, 1 - self.target, self.target)
        self.target[torch.rand(self.target.shape, generator=generator) < 0.2] = 255
        self.items: list[dict[str, Tensor]] = [{"image": one.float().expand(3, 6, 8)} for one in said]
        if with_target:
            for item, truth in zip(self.items, self.target, strict=True):
                item["target"] = truth
        self.said = said

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.items, batch_size=2)  # type: ignore[arg-type] # a list of dictionaries

    train_dataloader = val_dataloader = test_dataloader

    def expected(self) -> dict[str, float]:
        matrix = confusion_matrix(self.said, self.target, 3).double()
        road, light = (matrix[i, i] / (matrix[i].sum() + matrix[:, i].sum() - matrix[i, i]) for i in (0, 1))
        return {"mIoU": float(road + light) / 2, "IoU_road": float(road), "IoU_traffic_light": float(light)}


def test_test_logs_and_writes_what_the_metric_says(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    data = Streets()
    trainer = trainer_in(callbacks=[SegmentationMetrics()])
    trainer.test(Rounding(), datamodule=data, verbose=False)
    logged = {name.removeprefix("test/"): float(value) for name, value in trainer.callback_metrics.items()}
    assert logged == pytest.approx(data.expected(), abs=1e-6)
    assert 0.6 < logged["mIoU"] < 0.9
    written = json.loads((tmp_path / "metrics.json").read_text())["segmentation"]
    assert written["metrics"] == pytest.approx(data.expected(), abs=1e-12)
    assert written["confusion_matrix"] == confusion_matrix(data.said, data.target, 3).tolist()


def test_every_epoch_begins_anew_and_the_sanity_check_does_not_count(
    tmp_path: Path, trainer_in: Callable[..., Trainer]
) -> None:
    data, seen = Streets(), []

    class Spy(SegmentationMetrics):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            super().on_validation_epoch_end(trainer, pl_module)
            seen.append((trainer.sanity_checking, float(trainer.callback_metrics.get("val/mIoU", -1))))

    trainer_in(callbacks=[Spy()], max_epochs=2, num_sanity_val_steps=1).fit(Rounding(), datamodule=data)
    value = pytest.approx(data.expected()["mIoU"], abs=1e-6)
    assert seen == [(True, -1), (False, value), (False, value)]
    assert not list(tmp_path.glob("*.json"))


def test_classes_without_names_have_numbers(trainer_in: Callable[..., Trainer]) -> None:
    data = Streets()
    trainer = trainer_in(
        callbacks=[SegmentationMetrics(num_classes=4)]
    )  # before the module's own, and other than NAMES
    trainer.test(Rounding(), datamodule=data, verbose=False)
    assert {"test/mIoU", "test/IoU_0", "test/IoU_1"} == trainer.callback_metrics.keys()
    trainer.test(Rounding(), dataloaders=data.test_dataloader(), verbose=False)
    assert {"test/mIoU", "test/IoU_0", "test/IoU_1"} == trainer.callback_metrics.keys()


def test_it_is_silent_without_classes(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    trainer = trainer_in(callbacks=[SegmentationMetrics()])
    trainer.test(Rounding(classify=False), datamodule=Streets(with_target=False), verbose=False)
    assert not trainer.callback_metrics
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(
    ("model", "data", "missing"),
    [
        ({}, {"with_target": False}, "target"),
        ({"classify": False}, {}, "pred_target"),
        ({"num_classes": None}, {"with_target": False}, "target"),
    ],
)
def test_half_of_the_keys_is_told(
    model: dict[str, Any],
    data: dict[str, Any],
    missing: str,
    tmp_path: Path,
    trainer_in: Callable[..., Trainer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = trainer_in(callbacks=[SegmentationMetrics()])
    trainer.test(Rounding(**model), datamodule=Streets(**data), verbose=False)
    assert not trainer.callback_metrics
    written = json.loads((tmp_path / "metrics.json").read_text())["segmentation"]
    assert written["metrics"] == {}
    assert f"; {missing} was in none. Found" in written["undefined"]["mIoU"]
    assert caplog.text.count("was in none") == 1


def test_each_loader_has_its_values(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    data = Streets()
    loaders = [DataLoader(data.items[part], batch_size=2) for part in (slice(0, 2), slice(2, 5))]  # type: ignore[arg-type]
    trainer = trainer_in(callbacks=[SegmentationMetrics()])
    returned = trainer.test(Rounding(), loaders, verbose=False)
    written = json.loads((tmp_path / "metrics.json").read_text())["segmentation"]
    whole = data.said, data.target
    for loader, part in ((None, slice(0, 5)), (0, slice(0, 2)), (1, slice(2, 5))):
        data.said, data.target = (each[part] for each in whole)
        name = "pooled/mIoU" if loader is None else f"mIoU/dataloader_idx_{loader}"
        assert written["metrics"][name] == pytest.approx(data.expected()["mIoU"], abs=1e-12)
        assert returned[loader or 0][f"test/{name}"] == pytest.approx(data.expected()["mIoU"], abs=1e-6)
        matrix = "confusion_matrix" + ("" if loader is None else f"/dataloader_idx_{loader}")
        assert written[matrix] == confusion_matrix(data.said, data.target, 3).tolist()


def test_confidence_is_held_against_the_share_of_right_pixels(
    tmp_path: Path, trainer_in: Callable[..., Trainer]
) -> None:
    data = Streets()
    trainer_in(callbacks=[SegmentationMetrics()]).test(Rounding(confident=True), datamodule=data, verbose=False)
    known = data.target < 254
    gap = abs(0.7 - float((data.said == data.target)[known].double().mean()))
    assert gap > 0.1
    written = json.loads((tmp_path / "metrics.json").read_text())["segmentation"]["metrics"]
    assert [written["ECE"], written["MCE"]] == pytest.approx([gap, gap], abs=1e-6)  # of the one bin that is not empty


def test_nothing_but_void_is_left_out(trainer_in: Callable[..., Trainer]) -> None:
    data = Streets()
    for item in data.items:
        item["target"] = torch.full((6, 8), 255)
    trainer = trainer_in(callbacks=[SegmentationMetrics()])
    trainer.test(Rounding(), datamodule=data, verbose=False)
    assert not trainer.callback_metrics


def test_an_unknown_number_of_classes_is_asked_for(trainer_in: Callable[..., Trainer]) -> None:
    with pytest.raises(ConfigError, match=r"Set segmentation\.num_classes"):
        trainer_in(callbacks=[SegmentationMetrics()]).test(Rounding(num_classes=None), datamodule=Streets())


@pytest.mark.slow
def test_processes_count_together(
    tmp_path: Path, trainer_in: Callable[..., Trainer], two_processes: dict[str, Any]
) -> None:
    data = Streets()
    trainer = trainer_in(**two_processes, callbacks=[SegmentationMetrics()])
    trainer.test(Rounding(), datamodule=data, verbose=False)
    written = json.loads((tmp_path / "metrics.json").read_text())["segmentation"]
    metric = MeanIoU(num_classes=3)
    # Lightning's sampler repeats the first scene, so that both processes have three.
    rows = [*range(5), 0]
    metric.update(data.said[rows], data.target[rows])
    assert written["confusion_matrix"] == metric.counts().tolist()
    assert written["metrics"]["mIoU"] == pytest.approx(metric.compute().item(), abs=1e-12)


class Tuned(Rounding):
    """Turns its classes round in its first step."""

    fine_tunes = True

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.turned = False

    def predict(self, batch: Batch) -> Prediction:
        assert not self.training  # nothing is dropped, and no statistic of a batch is used
        prediction = super().predict(batch)
        if self.turned:
            prediction["pred_target"] = 1 - prediction["pred_target"].clamp(max=1)
        return prediction

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        assert self.training
        self.turned = True


def test_what_is_tuned_is_also_measured_before(trainer_in: Callable[..., Trainer]) -> None:
    data = Streets()
    trainer = trainer_in(callbacks=[SegmentationMetrics()], num_sanity_val_steps=0)
    trainer.fit(Tuned(), datamodule=data)
    logged = {name.removeprefix("val/"): float(value) for name, value in trainer.callback_metrics.items()}
    assert logged["mIoU_before"] == pytest.approx(data.expected()["mIoU"], abs=1e-6)
    assert logged["mIoU"] < 0.3 < logged["mIoU_before"]

    plain = trainer_in(callbacks=[SegmentationMetrics()], num_sanity_val_steps=0)
    plain.fit(Rounding(), datamodule=data)
    assert "val/mIoU_before" not in plain.callback_metrics

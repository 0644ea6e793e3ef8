from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from anomaly_suite.callbacks import ComponentMetrics
from anomaly_suite.contract import AnomalyModule, Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.metrics import PPV, F1Max, MeanF1, SIoU, scored_pixels

SMALL = {"min_object": 2, "min_predicted": 2}


class Brightness(AnomalyModule):
    """Scores pixels by their brightness, in maps smaller than the labels by ``reduction``."""

    def __init__(self, *, reduction: int = 1) -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        anomaly_map = torch.nn.functional.avg_pool2d(image.mean(1, keepdim=True), self.reduction)
        return anomaly_map.amax((1, 2, 3)), anomaly_map

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> None:
        return None


class Objects(LightningDataModule):
    """Five scenes with bright rectangles on noise, a border that is not scored, and false alarms."""

    def __init__(self, *, objects: bool = True, labelled: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.image = 0.4 * torch.rand(5, 1, 24, 32, generator=generator)
        self.ood_mask = torch.zeros(5, 24, 32, dtype=torch.uint8)
        if objects:
            self.ood_mask[:, 4:10, 5:12] = 1
            self.ood_mask[1::2, 14:20, 20:28] = 1
        self.image[self.ood_mask[:, None] == 1] += 0.35
        self.image[2:4, :, 15:18, 3:7] += 0.5  # false alarms
        self.image = (256 * self.image).round() / 256  # the mean of three equal channels is then exact
        self.ood_mask[:, :3] = 255
        self.items: list[dict[str, Tensor]] = [{"image": one.expand(3, 24, 32)} for one in self.image]
        if labelled:
            for item, truth in zip(self.items, self.ood_mask, strict=True):
                item["ood_mask"] = truth

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.items, batch_size=2)  # type: ignore[arg-type] # a list of dictionaries

    def best(self) -> float:
        keeper = F1Max(exact=True)
        keeper.update(*scored_pixels(self.image, self.ood_mask))
        return float(keeper.threshold())

    def expected(self, threshold: float, anomaly_map: Tensor | None = None) -> dict[str, float]:
        decided = (self.image if anomaly_map is None else anomaly_map) >= threshold
        values = {}
        for kind in (SIoU, PPV, MeanF1):
            metric = kind(**SMALL)  # type: ignore[arg-type] # sizes
            metric.update(decided, self.ood_mask)
            values[kind.__name__] = float(metric.compute())
        return values


def test_the_best_threshold_takes_a_second_pass(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    data = Objects()
    trainer = trainer_in(callbacks=[ComponentMetrics(threshold="best", **SMALL)])  # type: ignore[arg-type] # sizes
    trainer.test(Brightness(), datamodule=data, verbose=False)
    written = json.loads((tmp_path / "metrics.json").read_text())["components"]
    assert written["threshold"] == pytest.approx(data.best(), abs=1e-3)
    expected = data.expected(written["threshold"])
    assert written["metrics"] == pytest.approx(expected, abs=1e-12)
    assert all(0.2 < value < 1 for value in expected.values())
    assert written["chosen"] == "best"
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged == pytest.approx({f"test/component_{name}": value for name, value in expected.items()}, abs=1e-6)


def test_the_second_pass_takes_as_much_as_the_first(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    data = Objects()
    trainer = trainer_in(callbacks=[ComponentMetrics(threshold="best", **SMALL)], limit_test_batches=1)  # type: ignore[arg-type] # sizes
    trainer.test(Brightness(), dataloaders=[data.test_dataloader()] * 2, verbose=False)
    written = json.loads((tmp_path / "metrics.json").read_text())["components"]
    data.image, data.ood_mask = (whole[[0, 1, 0, 1]] for whole in (data.image, data.ood_mask))
    assert written["threshold"] == pytest.approx(data.best(), abs=1e-3)
    pooled = {f"pooled/{name}": value for name, value in data.expected(written["threshold"]).items()}
    assert {name: written["metrics"][name] for name in pooled} == pytest.approx(pooled, abs=1e-12)


def test_a_loader_without_a_length_is_passed_twice(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    data = Objects()

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(data.items)

    trainer = trainer_in(callbacks=[ComponentMetrics(threshold="best", **SMALL)])  # type: ignore[arg-type] # sizes
    trainer.test(Brightness(), dataloaders=DataLoader(Stream(), batch_size=2), verbose=False)
    written = json.loads((tmp_path / "metrics.json").read_text())["components"]
    assert written["metrics"] == pytest.approx(data.expected(written["threshold"]), abs=1e-12)


def test_a_number_needs_none_and_tests_begin_anew(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    data, passes = Objects(), []
    model = Brightness()
    model.register_forward_hook(lambda *_: passes.append(1))
    trainer = trainer_in(callbacks=[ComponentMetrics(threshold=0.5, **SMALL)])  # type: ignore[arg-type] # sizes
    for _ in range(2):
        trainer.test(model, datamodule=data, verbose=False)
        written = json.loads((tmp_path / "metrics.json").read_text())["components"]
        assert written["metrics"] == pytest.approx(data.expected(0.5), abs=1e-12)
    assert len(passes) == 2 * 3


def test_small_maps_are_brought_to_the_labels(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    data = Objects()
    small = torch.nn.functional.avg_pool2d(data.image, 2)
    large = torch.nn.functional.interpolate(small, (24, 32), mode="bilinear")
    trainer = trainer_in(callbacks=[ComponentMetrics(threshold=0.5, **SMALL)])  # type: ignore[arg-type] # sizes
    trainer.test(Brightness(reduction=2), datamodule=data, verbose=False)
    written = json.loads((tmp_path / "metrics.json").read_text())["components"]
    assert written["metrics"] == pytest.approx(data.expected(0.5, large), abs=1e-12)


def test_what_has_no_value_is_listed(
    tmp_path: Path, trainer_in: Callable[..., Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_in(callbacks=[ComponentMetrics(threshold=5.0, **SMALL)])  # type: ignore[arg-type] # sizes
    trainer.test(Brightness(), datamodule=Objects(), verbose=False)
    written = json.loads((tmp_path / "metrics.json").read_text())["components"]
    assert written["metrics"] == {"SIoU": 0.0, "MeanF1": 0.0}
    assert written["undefined"].keys() == {"PPV"}
    assert "0 predicted components" in caplog.text
    assert "test/component_PPV" not in trainer.callback_metrics


def test_scenes_without_objects_have_no_best_threshold(
    tmp_path: Path, trainer_in: Callable[..., Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_in(callbacks=[ComponentMetrics(threshold="best")])
    trainer.test(Brightness(), datamodule=Objects(objects=False), verbose=False)
    assert "no best threshold" in caplog.text
    written = json.loads((tmp_path / "metrics.json").read_text())["components"]
    assert written["metrics"] == {}
    assert written["undefined"].keys() == {"SIoU", "PPV", "MeanF1"}


def test_it_is_silent_without_a_threshold(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    trainer = trainer_in(callbacks=[ComponentMetrics(threshold=None)])
    trainer.test(Brightness(), datamodule=Objects(), verbose=False)
    assert not trainer.callback_metrics
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("threshold", [0.5, "best"])
def test_missing_labels_are_told(
    threshold: Any, tmp_path: Path, trainer_in: Callable[..., Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_in(callbacks=[ComponentMetrics(threshold=threshold)])
    trainer.test(Brightness(), datamodule=Objects(labelled=False), verbose=False)
    assert not trainer.callback_metrics
    written = json.loads((tmp_path / "metrics.json").read_text())["components"]
    assert written["metrics"] == {}
    assert written["undefined"].keys() == {"SIoU", "PPV", "MeanF1"}
    assert written["undefined"]["PPV"].startswith(
        "PPV needs anomaly_map of the step and ood_mask of the batch; ood_mask was in none. Found anomaly_score, anomaly_map in"
    )
    assert caplog.text.count("ood_mask was in none") == 1


def test_the_best_threshold_beside_another_module_is_told(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    class Other(LightningModule):
        def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
            return {"anomaly_maps": batch["image"].mean(1)}

    for threshold in ("best", 0.5):
        trainer = trainer_in(callbacks=[ComponentMetrics(threshold=threshold, **SMALL)])  # type: ignore[arg-type]
        trainer.test(Other(), datamodule=Objects(), verbose=False)
        written = json.loads((tmp_path / "metrics.json").read_text())["components"]
        if threshold == "best":
            assert "Other is no AnomalyModule" in written["undefined"]["SIoU"]
        else:
            assert written["metrics"] == pytest.approx(Objects().expected(0.5), abs=1e-12)


def test_each_loader_has_its_threshold_and_its_values(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    data = Objects()
    parts = [slice(0, 2), slice(2, 5)]
    loaders = [DataLoader(data.items[part], batch_size=2) for part in parts]  # type: ignore[arg-type] # lists of dictionaries
    trainer = trainer_in(callbacks=[ComponentMetrics(threshold="best", **SMALL)])  # type: ignore[arg-type] # sizes
    trainer.test(Brightness(), loaders, verbose=False)
    written = json.loads((tmp_path / "metrics.json").read_text())["components"]
    whole = data.image, data.ood_mask
    for loader, part in enumerate(parts):
        data.image, data.ood_mask = (each[part] for each in whole)
        threshold = written[f"threshold/dataloader_idx_{loader}"]
        assert threshold == pytest.approx(data.best(), abs=1e-3)
        for name, value in data.expected(threshold).items():
            assert written["metrics"][f"{name}/dataloader_idx_{loader}"] == pytest.approx(value, abs=1e-12)
            logged = trainer.callback_metrics[f"test/component_{name}/dataloader_idx_{loader}"]
            assert float(logged) == pytest.approx(value, abs=1e-6)
    assert written["threshold/dataloader_idx_0"] != written["threshold/dataloader_idx_1"]


def test_other_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="threshold must be a number, 'best' or null; got 'worst'"):
        ComponentMetrics(threshold="worst")  # type: ignore[arg-type] # the point


@pytest.mark.slow
def test_processes_count_together(
    tmp_path: Path, trainer_in: Callable[..., Trainer], two_processes: dict[str, Any]
) -> None:
    data = Objects()
    data.items.append(data.items[0])  # each process has three
    data.image, data.ood_mask = (torch.cat([whole, whole[:1]]) for whole in (data.image, data.ood_mask))
    trainer = trainer_in(**two_processes, callbacks=[ComponentMetrics(threshold="best", **SMALL)])  # type: ignore[arg-type] # sizes
    trainer.test(Brightness(), datamodule=data, verbose=False)
    written = json.loads((tmp_path / "metrics.json").read_text())["components"]
    assert written["threshold"] == pytest.approx(data.best(), abs=1e-3)
    assert written["metrics"] == pytest.approx(data.expected(written["threshold"]), abs=1e-12)

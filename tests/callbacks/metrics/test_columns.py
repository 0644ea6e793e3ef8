"""Several loaders: each has its values under Lightning's own names, and all together have theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from anomaly_suite.callbacks import AnomalyMetrics, ScoreTable
from anomaly_suite.contract import AnomalyModule, ShardSampler

FIRST = [(0.1, 0), (0.2, 0), (0.8, 1), (0.9, 1)]
SECOND = [(0.1, 0), (0.3, 0), (0.15, 1), (0.85, 1), (0.2, 0), (0.25, 0), (0.35, 1), (0.95, 1)]


class Level(AnomalyModule):
    """The score is the brightness; its parameter is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        return image.amax((1, 2, 3)), None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight.square()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.log("val/own", float(dataloader_idx))
        return super().validation_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def loader(rows: list[tuple[float, int]], **shard: int) -> DataLoader[Any]:
    items: Any = [(torch.full((1, 2, 2), score), label) for score, label in rows]
    sampler = ShardSampler(items, shuffle=False, seed=0, **shard) if shard else None
    return DataLoader(items, batch_size=3, sampler=sampler)


class Shards(LightningDataModule):
    """The second loader has one image, and the second of two processes none of it."""

    parts = (FIRST, SECOND[-1:], SECOND)

    def __init__(self) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def test_dataloader(self) -> list[DataLoader[Any]]:
        assert self.trainer is not None
        shard = {"world": self.trainer.world_size, "rank": self.trainer.global_rank}
        return [loader(part, **shard) for part in self.parts]


def auroc(rows: list[tuple[float, int]]) -> float:
    return float(roc_auc_score([label for _, label in rows], [score for score, _ in rows]))


EXPECTED = {
    "image_AUROC/dataloader_idx_0": auroc(FIRST),
    "image_AUROC/dataloader_idx_1": auroc(SECOND),
    "pooled/image_AUROC": auroc(FIRST + SECOND),
}


def test_each_loader_has_its_column_and_the_pool_its_name(
    tmp_path: Path, trainer_in: Callable[..., Trainer], capsys: pytest.CaptureFixture[str]
) -> None:
    assert EXPECTED["image_AUROC/dataloader_idx_0"] == 1
    assert len(set(EXPECTED.values())) == 3
    logger = CSVLogger(tmp_path, name="log", version=0)
    trainer = trainer_in(callbacks=[AnomalyMetrics(image=["AUROC"])], logger=logger)
    returned = trainer.test(Level(), [loader(FIRST), loader(SECOND)])
    named = {f"test/{name}": pytest.approx(value, abs=1e-6) for name, value in EXPECTED.items()}
    assert returned == [
        {name: value for name, value in named.items() if not name.endswith(f"_{other}")} for other in (1, 0)
    ]
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged == {**named, "test/image_AUROC": named["test/pooled/image_AUROC"]}  # the last one for monitors alone
    printed = capsys.readouterr().out
    (own,) = (line for line in printed.splitlines() if "test/image_AUROC" in line)
    assert [float(cell) for cell in own.split("│")[2:4]] == pytest.approx([auroc(FIRST), auroc(SECOND)], abs=1e-6)
    header = (tmp_path / "log" / "version_0" / "metrics.csv").read_text(encoding="utf-8").splitlines()[0]
    assert set(header.split(",")) == {*named, "epoch", "step"}
    written = json.loads((tmp_path / "log" / "version_0" / "metrics.json").read_text(encoding="utf-8"))
    assert written["metrics"] == pytest.approx(EXPECTED, abs=1e-12)
    assert written["data"] == {
        "normal": 6,
        "anomalous": 6,
        "dataloader_idx_0": {"normal": 2, "anomalous": 2},
        "dataloader_idx_1": {"normal": 4, "anomalous": 4},
    }


def test_one_loader_in_a_list_has_plain_names(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    trainer = trainer_in(callbacks=[AnomalyMetrics(image=["AUROC"]), ScoreTable()])
    (returned,) = trainer.test(Level(), [loader(SECOND)], verbose=False)
    assert returned == {"test/image_AUROC": pytest.approx(auroc(SECOND), abs=1e-6)}
    assert set(json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["metrics"]) == {"image_AUROC"}
    assert "dataloader_idx" not in (tmp_path / "test_scores.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["image_AUROC/dataloader_idx_0", "pooled/image_AUROC", "image_AUROC"])
def test_each_can_be_monitored(name: str, tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    stopper = EarlyStopping(monitor=f"val/{name}", mode="max", patience=1)
    saver = ModelCheckpoint(dirpath=tmp_path, monitor=f"val/{name}", mode="max")
    trainer = trainer_in(
        callbacks=[AnomalyMetrics(image=["AUROC"]), stopper, saver], max_epochs=4, enable_checkpointing=True
    )
    trainer.fit(Level(), loader(FIRST), [loader(FIRST), loader(SECOND)])
    expected = EXPECTED.get(name, EXPECTED["pooled/image_AUROC"])
    assert float(saver.best_model_score) == pytest.approx(expected, abs=1e-6)  # type: ignore[arg-type] # there is one
    assert trainer.current_epoch == 2  # the second epoch is no better: every epoch begins anew
    own = [float(trainer.callback_metrics[f"val/own/dataloader_idx_{index}"]) for index in (0, 1)]
    assert own == [0, 1]  # what a module logs itself is untouched


def test_what_one_loader_lacks_is_listed_for_it(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    unlabelled = DataLoader([(torch.full((1, 2, 2), 0.5),)] * 2, batch_size=2)  # type: ignore[arg-type] # a list of tuples
    normal = loader(FIRST[:2])
    trainer = trainer_in(callbacks=[AnomalyMetrics(image=["AUROC"]), ScoreTable()])
    trainer.test(Level(), [loader(FIRST), unlabelled, normal], verbose=False)
    written = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert written["metrics"] == {"image_AUROC/dataloader_idx_0": 1, "pooled/image_AUROC": 1}
    assert written["undefined"].keys() == {"image_AUROC/dataloader_idx_1", "image_AUROC/dataloader_idx_2"}
    assert "label was in none" in written["undefined"]["image_AUROC/dataloader_idx_1"]
    assert "got 2 normal and 0 anomalous" in written["undefined"]["image_AUROC/dataloader_idx_2"]
    rows = [row.split(",") for row in (tmp_path / "test_scores.csv").read_text(encoding="utf-8").splitlines()]
    assert rows[0][-1] == "dataloader_idx"
    assert [row[-1] for row in rows[1:]] == ["0"] * 4 + ["1"] * 2 + ["2"] * 2


def test_a_loader_without_batches_moves_no_column(trainer_in: Callable[..., Trainer]) -> None:
    class Nothing(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    for empty in (0, 1, 2):
        loaders = [loader(FIRST), loader(SECOND)]
        loaders.insert(empty, DataLoader(Nothing(), batch_size=2))
        returned = trainer_in(callbacks=[AnomalyMetrics(image=["AUROC"])]).test(Level(), loaders, verbose=False)
        named = {name: value for column in returned for name, value in column.items() if "pooled" not in name}
        first, second = (index for index in range(3) if index != empty)
        assert named == {
            f"test/image_AUROC/dataloader_idx_{first}": 1,
            f"test/image_AUROC/dataloader_idx_{second}": pytest.approx(auroc(SECOND), abs=1e-6),
        }


@pytest.mark.slow
def test_two_processes_give_each_loader_what_one_does(
    tmp_path: Path, trainer_in: Callable[..., Trainer], two_processes: dict[str, Any]
) -> None:
    callbacks = [AnomalyMetrics(image=["AUROC"]), ScoreTable()]
    trainer = trainer_in(callbacks=callbacks, use_distributed_sampler=False, **two_processes)
    trainer.test(Level(), datamodule=Shards(), verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged["test/image_AUROC/dataloader_idx_0"] == 1
    assert logged["test/image_AUROC/dataloader_idx_2"] == pytest.approx(auroc(SECOND), abs=1e-6)
    assert logged["test/pooled/image_AUROC"] == pytest.approx(auroc([*FIRST, SECOND[-1], *SECOND]), abs=1e-6)
    written = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert written["undefined"].keys() == {"image_AUROC/dataloader_idx_1"}
    assert written["data"]["dataloader_idx_1"] == {"normal": 0, "anomalous": 1}
    rows = (tmp_path / "test_scores.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [row.rpartition(",")[2] for row in rows] == ["0"] * 4 + ["1"] + ["2"] * 8

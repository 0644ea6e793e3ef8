"""What pictures, tables and files become in each logger."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from anomaly_suite.callbacks.loggers import log_file, log_pictures, log_table, picture_writer

COLUMNS: dict[str, Sequence[Any]] = {"index": [0, 1], "path": ["a|b.png", None], "anomaly_score": [0.5, 1.5]}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with a picture that is red, a table and a result."""
    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 2] = 255
    cv2.imwrite(str(tmp_path / "test_roc.png"), red)
    (tmp_path / "test_scores.csv").write_text("index,path,anomaly_score\n0,a|b.png,0.5\n1,,1.5\n")
    (tmp_path / "metrics.json").write_text('{"metrics": {}}\n')
    return tmp_path


def log_all(trainer: Trainer, folder: Path) -> None:
    log_pictures(trainer, [folder / "test_roc.png", folder / "missing.png"], "test")
    log_table(trainer, COLUMNS, folder / "test_scores.csv")
    log_file(trainer, folder / "metrics.json", (folder / "metrics.json").read_text())


def test_a_logger_like_tensorboard_gets_pictures_and_texts(
    written: Path, trainer_in: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    got: dict[str, Any] = {}
    experiment = SimpleNamespace(
        add_image=lambda name, picture, step, dataformats: got.update({name: (picture, dataformats)}),
        add_text=lambda name, text, step: got.update({name: text}),
    )
    logger = CSVLogger(written, name="", version="")
    monkeypatch.setattr(CSVLogger, "experiment", experiment)
    log_all(trainer_in(logger=logger), written)
    assert list(got) == ["test/roc", "test_scores", "metrics"]
    picture, layout = got["test/roc"]
    assert (picture.shape, layout) == ((4, 5, 3), "HWC")
    assert picture[0, 0].tolist() == [255, 0, 0]  # red first
    assert got["test_scores"].splitlines() == [
        "| index | path | anomaly_score |",
        "| --- | --- | --- |",
        "| 0 | a\\|b.png | 0.5 |",
        "| 1 |  | 1.5 |",
    ]
    assert '{"metrics": {}}' in got["metrics"]


def test_a_logger_that_takes_numbers_alone_gets_nothing(written: Path, trainer_in: Callable[..., Trainer]) -> None:
    logger = CSVLogger(written, name="", version="")
    assert picture_writer(logger) is None
    log_all(trainer_in(logger=logger), written)


def test_weights_and_biases_gets_images_tables_and_files(
    written: Path, trainer_in: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    got: dict[str, Any] = {}
    saved: list[tuple[str, str]] = []
    logger = WandbLogger.__new__(WandbLogger)  # without the package
    monkeypatch.setattr(
        WandbLogger, "experiment", SimpleNamespace(save=lambda file, base_path, policy: saved.append((file, base_path)))
    )
    monkeypatch.setattr(WandbLogger, "log_image", lambda self, key, images, step: got.update({key: images[0].shape}))
    monkeypatch.setattr(WandbLogger, "log_table", lambda self, key, columns, data: got.update({key: (columns, data)}))
    log_all(trainer_in(logger=logger), written)
    assert got["test/roc"] == (4, 5, 3)
    assert got["test_scores"] == (["index", "path", "anomaly_score"], [[0, "a|b.png", 0.5], [1, None, 1.5]])
    assert saved == [(str(written / "metrics.json"), str(written))]


def test_mlflow_gets_artifacts(
    written: Path, trainer_in: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[tuple[str, str | None]] = []
    logger = MLFlowLogger.__new__(MLFlowLogger)

    def log_artifact(run: str, file: str, folder: str | None = None) -> None:
        assert run == "b102"
        assert Path(file).is_file()
        got.append((Path(file).name, folder))

    monkeypatch.setattr(MLFlowLogger, "experiment", SimpleNamespace(log_artifact=log_artifact))
    monkeypatch.setattr(MLFlowLogger, "run_id", "b102")
    log_all(trainer_in(logger=logger), written)
    assert got == [("roc_step_0.png", "test"), ("test_scores.csv", None), ("metrics.json", None)]


def real(kind: str, folder: Path) -> Logger:
    """A logger of a package that is installed."""
    if kind == "tensorboard":
        return TensorBoardLogger(folder, name="", version="tb")
    if kind == "mlflow":
        return MLFlowLogger(save_dir=str(folder / "mlruns"), tracking_uri=f"file:{folder / 'mlruns'}")
    return WandbLogger(save_dir=folder, offline=True)


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["tensorboard", "mlflow", "wandb"])
def test_the_packages_take_what_they_are_given(
    kind: str, written: Path, trainer_in: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(kind)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = real(kind, written / "store")
    log_all(trainer_in(logger=logger), written)
    if kind == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        logger.finalize("success")
        found = EventAccumulator(str(written / "store" / "tb"))
        found.Reload()
        assert found.Tags()["images"] == ["test/roc"]
        return
    if kind == "wandb":
        logger.experiment.finish()
        (table,) = (written / "store").rglob("*.table.json")
        assert json.loads(table.read_text())["columns"] == list(COLUMNS)
    names = {file.name for file in (written / "store").rglob("*") if file.is_file()}
    assert {"metrics.json"} <= names
    assert any(name.startswith("roc_") and name.endswith(".png") for name in names)

"""BenchmarkMaps: files as the servers read them, and what cannot be sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_suite.callbacks import BenchmarkMaps
from anomaly_suite.errors import ConfigError, DatasetError, NotFiniteError

MAPS = torch.randn(3, 1, 4, 6, generator=torch.Generator().manual_seed(0))


class Scenes(LightningDataModule):
    def __init__(self, names: list[str], *, submission: str | None = None) -> None:
        super().__init__()
        self.names, self.submission = names, submission

    def predict_dataloader(self) -> DataLoader[Any]:
        items = [{"image": one, "image_path": name} for one, name in zip(MAPS, self.names, strict=False)]
        return DataLoader(items, batch_size=2)  # type: ignore[arg-type] # a list is a data set


class Segmenter(LightningModule):
    factor = 1.0

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        image = batch["image"]
        return {
            "anomaly_map": self.factor * image,
            "anomaly_score": image.amax((1, 2, 3)),
            "pred_target": image[:, 0] > 0,
        }


def predict(trainer_in: Any, data: Scenes, *, factor: float = 1.0, **options: Any) -> None:
    net = Segmenter()
    net.factor = factor
    trainer_in(callbacks=[BenchmarkMaps(**options)]).predict(net, datamodule=data)


def test_fishyscapes(tmp_path: Path, trainer_in: Any) -> None:
    names = ["a/0000_04_Maurener_Weg_8_000000_000030_rgb.png", "a/0001.png", "a/0012_x.png"]
    predict(trainer_in, Scenes(names), layout="fishyscapes", folder=str(tmp_path / "out"))
    for number, expected in zip(("0000", "0001", "0012"), MAPS[:, 0].numpy(), strict=True):
        found = np.load(tmp_path / "out" / f"{number}_anomaly.npy", allow_pickle=False)
        assert (found.dtype, found.shape) == (np.float32, (4, 6))
        assert (found == expected).all()
        target = np.load(tmp_path / "out" / f"{number}_segmentation.npy", allow_pickle=False)
        assert target.dtype == np.uint8
        assert (target == (expected > 0)).all()
    predict(trainer_in, Scenes(names[:1]), layout="fishyscapes", folder=str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").glob("*.npy")) == [
        "0000_anomaly.npy",
        "0000_segmentation.npy",
    ]


def test_segment_me_if_you_can(tmp_path: Path, trainer_in: Any) -> None:
    h5py = pytest.importorskip("h5py")
    data = Scenes(["images/validation0000.jpg", "images/bear0000.jpg"], submission="AnomalyTrack-all")
    predict(trainer_in, data, folder=str(tmp_path / "out"), method="ours")
    where = tmp_path / "out" / "anomaly_p" / "ours" / "AnomalyTrack-all"
    assert sorted(path.name for path in where.glob("*.hdf5")) == ["bear0000.hdf5", "validation0000.hdf5"]
    with h5py.File(where / "bear0000.hdf5", "r") as file:
        assert (file["value"].dtype, file["value"].shape) == (np.float16, (4, 6))
        assert (file["value"][:] == MAPS[1, 0].numpy().astype(np.float16)).all()
    with pytest.raises(
        NotFiniteError, match=r"must fit into half precision, up to 65504; got .* for 'images/validation0000\.jpg'"
    ):
        predict(trainer_in, data, factor=1e6, folder=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="needs the name of the set that the maps are of; the data module says none"):
        predict(trainer_in, Scenes(["a.png"]), folder=str(tmp_path / "out"))


def test_what_cannot_be_named(tmp_path: Path, trainer_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"layout": "fishyscapes", "folder": str(tmp_path / "out")}
    with pytest.raises(
        DatasetError, match=r"begin with a number of four digits, which names their maps; got 'bear\.png'"
    ):
        predict(trainer_in, Scenes(["bear.png"]), **options)
    with pytest.raises(DatasetError, match=r"'a/0001_x\.png' and 'b/0001_y\.png' would both be written as 0001"):
        predict(trainer_in, Scenes(["a/0001_x.png", "b/0001_y.png"]), **options)
    monkeypatch.setattr("anomaly_suite.callbacks.benchmark_maps.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package h5py; it is not installed"):
        BenchmarkMaps()

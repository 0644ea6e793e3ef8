"""A user's plain LightningModule and LightningDataModule on the command line: what the verbs do with them, and what they cannot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_parts import QUIET, command, one_sentence, succeed, table

from anomaly_suite.errors import ConfigError
from anomaly_suite.options import UnknownOptionError

PLAIN = """
import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class PlainNet(pl.LightningModule):
    def __init__(self, lr=0.1, width: int = 4):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(3, 1)

    def scores(self, image):
        return self.layer(image.mean((2, 3))).squeeze(1)

    def training_step(self, batch, batch_idx):
        batch = (batch["image"], batch["label"]) if isinstance(batch, dict) else batch
        return torch.nn.functional.binary_cross_entropy_with_logits(self.scores(batch[0]), batch[1].float())

    def validation_step(self, batch, batch_idx):
        return {"anomaly_score": self.scores(batch["image"] if isinstance(batch, dict) else batch[0])}

    test_step = predict_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


class PlainData(pl.LightningDataModule):
    def __init__(self, count: int = 8, supervised: bool = True):
        super().__init__()
        self.count, self.supervised = count, supervised

    def loader(self):
        image = torch.rand(self.count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        label = torch.arange(self.count) % 2
        return DataLoader(TensorDataset(image + label[:, None, None, None], label), batch_size=4)

    def train_dataloader(self):
        return self.loader() if self.supervised else DataLoader(TensorDataset(torch.rand(4, 3, 8, 8)), batch_size=2)

    val_dataloader = test_dataloader = predict_dataloader = loader
"""


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file, and a run of both classes in ``runs``."""
    root = tmp_path_factory.mktemp("plain")
    (root / "plain_parts.py").write_text(PLAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delitem(sys.modules, "plain_parts", raising=False)
        options = [
            "--model.lr",
            "0.5",
            "--data.count",
            "12",
            "--trainer.max_epochs",
            "2",
            "--trainer.default_root_dir",
            "runs",
            "--trainer.logger",
            "false",
            *QUIET,
        ]
        succeed("fit", "--model", "plain_parts.PlainNet", "--data", "plain_parts.PlainData", *options)
    return root


@pytest.fixture
def there(plain_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(plain_run)
    return plain_run


def test_fit_test_and_predict(there: Path) -> None:
    succeed("test", "--run", "runs", *QUIET)
    result = json.loads((there / "runs/metrics.json").read_text())
    assert result["method"] == "PlainNet"
    assert result["data"] == {"normal": 6, "anomalous": 6}
    assert 0 <= result["metrics"]["image_AUROC"] <= 1
    (scores,) = there.glob("runs/*.csv")
    assert len(table(scores)) == 12
    succeed("predict", "--run", "runs", *QUIET)


def test_one_of_them_with_one_of_ours(there: Path) -> None:
    quick = ["--trainer.fast_dev_run", "1", "--trainer.logger", "false", *QUIET]
    ours = ["--model", "DAE", "--model.image_size", "8", "--model.widths", "[4, 8]", "--model.latent_dim", "4"]
    succeed("fit", *ours, "--data", "plain_parts.PlainData", "--data.supervised", "false", *quick)
    succeed("fit", "--model", "plain_parts.PlainNet", "--data", "SyntheticTextures", "--data.image_size", "16", *quick)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["test", "--model", "plain_parts.PlainNet", "--data", "plain_parts.PlainData"], "test needs a trained model; got neither a run nor"),
        (["predict", "--run", "runs", "a.png"], "predict on new pictures needs a data module of anomaly_suite.*got PlainData"),
        (["calibrate", "--run", "runs"], "calibrate writes thresholds into the checkpoint of an AnomalyModule; PlainNet has none there"),
        (["export", "--run", "runs"], "the run's model 'plain_parts.PlainNet' is none"),
        (["fit", "--model", "plain_parts.PlainNet", "--model.ls", "3", "--data", "plain_parts.PlainData"], "ls"),
        (["fit", "--model", "plain_parts.PlainData", "--data", "Digits"], "not correspond to a subclass of LightningModule"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence(there: Path, words: list[str], message: str) -> None:
    (there / "a.png").write_bytes(b"")
    kind = UnknownOptionError if "--model.ls" in words else ConfigError
    said: Any = one_sentence(command(*words, *(QUIET if words[0] != "export" else [])), kind)
    position = 0
    for piece in message.split(".*"):
        assert piece in said[position:], said
        position = said.index(piece)


def test_untrained_is_as_the_constructor_leaves_it(there: Path) -> None:
    words = ["--model", "plain_parts.PlainNet", "--data", "plain_parts.PlainData", "--untrained", "true"]
    done = succeed("test", *words, "--trainer.logger", "false", "--trainer.default_root_dir", "untrained", *QUIET)
    assert "untrained network" in done.err

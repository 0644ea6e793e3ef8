"""Contract tests for authors: what passes, and a report of what does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from anomaly_suite.contract import AnomalyDataModule, AnomalyModule, Splits
from anomaly_suite.data import Digits, SyntheticTextures
from anomaly_suite.errors import ConfigError
from anomaly_suite.testing import ContractError, check_data_module, check_method


class Mean(AnomalyModule):
    """Distance to a mean that is learnt."""

    reads_labels = False

    def __init__(self, *, lr: float = 0.5) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.mean = torch.nn.Parameter(torch.zeros(3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (batch["image"].mean((0, 2, 3)) - self.mean).square().sum()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        found = (image - self.mean[:, None, None]).abs().mean(1, keepdim=True)
        return found.amax((1, 2, 3)), found

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


class Wrong(Mean):
    """With one fault of every kind that a report must name."""

    reads_labels = None

    def __init__(self, lr=0.5, **others: Any) -> None:  # type: ignore[no-untyped-def]
        super().__init__()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        score, found = super().forward(image - image.mean())
        return score, None if found is None else found[..., :1]


class OfTheBatch(Mean):
    """Scores depend on the batch."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        return super().forward(image - image.mean())


def small() -> SyntheticTextures:
    return SyntheticTextures(train_size=8, test_size=8, val_anomalies=2, image_size=16, train_batch_size=4)


def test_a_method_that_does_what_all_do() -> None:
    passed = check_method(Mean, {"lr": 0.1}, data=small(), min_auroc=0.2)
    assert len(passed) == 12
    with pytest.raises(
        ContractError,
        match=r"^Mean fails 1 of 1 checks:\n  anomalies rank higher: AUROC is 0\.\d+, below 1\.5\. Fit longer",
    ):
        check_method(Mean, data=small(), min_auroc=1.5, skip=[name for name in passed if "rank" not in name])


def test_the_report_names_every_fault() -> None:
    with pytest.raises(ContractError) as caught:
        check_method(Wrong, data=small(), skip=["bf16 works", "one seed gives one fit", "other people's loaders work"])
    head, *lines = str(caught.value).splitlines()
    assert head == "Wrong fails 4 of 4 checks:"
    said = dict(line.strip().split(": ", 1) for line in lines)
    assert said["options are named, typed and kept"].startswith("__init__ takes *others. Spell every option out")
    assert said["an unfitted method predicts or says so"].startswith(
        "anomaly_map must have shape (8, 1, 16, 16); got (8, 1, 16, 1)"
    )
    assert said["labels in training are read or refused"].startswith("reads_labels says neither True nor False")


def test_a_score_that_depends_on_the_batch() -> None:
    with pytest.raises(
        ContractError,
        match=r"^OfTheBatch fails 1 of \d checks:\n  batch size does not matter: anomaly_\w+ of sample 0 is another alone",
    ):
        check_method(OfTheBatch, data=small(), skip=["bf16 works", "other people's loaders work"])


def test_skip_knows_its_checks() -> None:
    with pytest.raises(ConfigError, match=r"skip knows the checks .*got 'bf16 work'. Did you mean 'bf16 works'"):
        check_method(Mean, skip=["bf16 work"])


def test_data_modules_of_ours() -> None:
    textures = {"train_size": 8, "test_size": 8, "val_anomalies": 2, "image_size": 16, "train_batch_size": 4}
    assert len(check_data_module(SyntheticTextures, textures)) == 12
    assert len(check_data_module(Digits, {"normal_class": 3, "image_size": 8}, batches=2)) == 12


class Noise(Dataset[Any]):
    def __init__(self, count: int, scale: float = 1.0) -> None:
        self.count, self.scale = count, scale
        self.labels = [1] * count
        self.local = lambda: None  # cannot be pickled

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return torch.rand(3, 4, 4) * self.scale, 0


class WrongData(AnomalyDataModule):
    def __init__(self, *, count=6) -> None:  # type: ignore[no-untyped-def]
        super().__init__(train_batch_size=2)
        self.count = count

    def build(self) -> Splits:
        return Splits(Noise(self.count), None, Noise(self.count, 255.0))


def test_the_report_names_every_fault_of_a_data_module() -> None:
    with pytest.raises(ContractError) as caught:
        check_data_module(WrongData)
    head, *lines = str(caught.value).splitlines()
    assert head == "WrongData fails 8 of 12 checks:"
    said = dict(line.strip().split(": ", 1) for line in lines)
    assert said["options are named and typed"] == "options without a type: count. Annotate them for the command line."
    assert "image of test must lie in [0, 1]; got" in said["batches have their form"]
    assert "hold one label only" in said["the test holds both labels"]
    assert "train is another when it is built again" in said["a seed gives one split"]
    assert "cannot be pickled" in said["data sets travel to loader processes"]

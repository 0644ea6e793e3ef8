"""What a prediction says when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import make_trainer

from anomaly_suite.callbacks import PredictionSummary
from anomaly_suite.contract import AnomalyDataModule, AnomalyModule
from anomaly_suite.errors import ConfigError


class Brightest(AnomalyModule):
    """Scores an image by its brightest pixel."""

    def __init__(self, threshold: float | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        if threshold is not None:
            self.calibration.set("image", threshold=threshold, low=0.0, high=1.0)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, None]:
        return image.flatten(1).amax(1), None


class Half(torch.utils.data.Dataset[Any]):
    """Twelve images of rising brightness, of which every third cannot be read."""

    def __len__(self) -> int:
        return 12

    def __getitems__(self, indices: list[int]) -> Any:
        good = [index for index in indices if index % 3]
        bad = [f"{index}.png is cut" for index in indices if not index % 3]
        batch: dict[str, Any] = {"unreadable": bad} if bad else {}
        if good:
            batch |= {
                "image": torch.tensor(good).float().view(-1, 1, 1, 1) / 12,
                "image_path": [f"{i}.png" for i in good],
            }
        return batch


def predict(folder: Path, threshold: float | None, *, batch_size: int = 1, highest: int = 3, **options: Any) -> None:
    data = AnomalyDataModule(eval_batch_size=batch_size)
    data.predict_on(Half(), folder)
    callback = PredictionSummary(highest=highest)
    trainer = make_trainer(default_root_dir=folder, callbacks=[callback], **options)
    trainer.predict(Brightest(threshold), datamodule=data, return_predictions=False)


@pytest.mark.parametrize("batch_size", [1, 4, 12])
def test_counts_the_highest_and_what_could_not_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], batch_size: int
) -> None:
    predict(tmp_path, 0.6, batch_size=batch_size)
    first, title, *rows, last = capsys.readouterr().out.strip().splitlines()[-6:]
    assert first.startswith("8 scored in ")
    assert first.endswith("3 anomalous (score at least 0.6), 5 normal; 4 could not be read")
    assert title == "highest scores:"
    assert [row.split() for row in rows] == [
        ["0.916667", "anomalous", "11.png"],
        ["0.833333", "anomalous", "10.png"],
        ["0.666667", "anomalous", "8.png"],
    ]
    assert last == f"results: {tmp_path}"
    assert (tmp_path / "unreadable.txt").read_text().splitlines() == sorted(f"{i}.png is cut" for i in (0, 3, 6, 9))


def test_two_processes_say_it_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], two_processes: dict[str, Any]
) -> None:
    predict(tmp_path, 0.6, batch_size=2, **two_processes)
    said = capfd.readouterr().out
    assert said.count("8 scored in") == 1
    assert "3 anomalous (score at least 0.6), 5 normal; 4 could not be read" in said
    assert said.index("11.png") < said.index("10.png") < said.index(" 8.png")
    assert len((tmp_path / "unreadable.txt").read_text().splitlines()) == 4


def test_without_a_threshold_nothing_is_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(tmp_path, None, batch_size=4, highest=1)
    first, _, row, _ = capsys.readouterr().out.strip().splitlines()[-4:]
    assert "; without a threshold none is called anomalous" in first
    assert row.split() == ["0.916667", "11.png"]


def test_an_older_list_goes_away(tmp_path: Path) -> None:
    (tmp_path / "unreadable.txt").write_text("old")
    data = torch.utils.data.DataLoader([{"image": torch.rand(1, 4, 4)}], batch_size=1)
    make_trainer(default_root_dir=tmp_path, callbacks=[PredictionSummary()]).predict(Brightest(0.5), data)
    assert not (tmp_path / "unreadable.txt").exists()


def test_scores_that_are_no_numbers_are_not_among_the_highest() -> None:
    callback = PredictionSummary(highest=2)
    with pytest.raises(ConfigError, match="highest must be at least 0; got -1"):
        PredictionSummary(highest=-1)
    callback._top, callback._samples, callback._decided, callback._anomalous = [], 0, 0, 0
    step = type(
        "Step",
        (),
        {"prediction": {"anomaly_score": torch.tensor([np.nan, 1.0])}, "batch": {"image": torch.zeros(2, 1, 2, 2)}},
    )
    callback.collect(step)  # type: ignore[arg-type]
    assert callback._top == [(1.0, "sample 1")]

"""FrameMetrics on a look-alike of UCSD Ped2: patches and whole frames, one process and two, and what it cannot do."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import ucsd_parts
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomaly_suite.callbacks import AnomalyMetrics, FrameMetrics
from anomaly_suite.contract import AnomalyModule, Batch, Prediction
from anomaly_suite.data import UCSDPed
from anomaly_suite.metrics import auroc, equal_error_rate

pytestmark = pytest.mark.filterwarnings("ignore:.*has published:UserWarning")


class Brightest(AnomalyModule):
    """Scores an image by its brightest pixel, and gives all three scores of a method that has several; a map where it is asked."""

    def __init__(self, *, mapped: bool = False) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.mapped = mapped

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Score images."""
        return image.amax((1, 2, 3)), image[:, :1] if self.mapped else None

    def predict(self, batch: Batch) -> Prediction:
        """Score a batch."""
        prediction = super().predict(batch)
        prediction["clean_score"] = -prediction["anomaly_score"]
        return prediction


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ucsd")
    ucsd_parts.make(folder)
    return folder


def make(root: Path, **options: Any) -> UCSDPed:
    return UCSDPed(root=str(root), **{"patch_size": 6, "validation": "none", "eval_batch_size": 7, **options})


def run(trainer: Trainer, data: Any, *, mapped: bool = False) -> dict[str, Any]:
    trainer.test(Brightest(mapped=mapped), datamodule=data, verbose=False)
    file = Path(trainer.default_root_dir) / "metrics.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content.get("frames", {})


def test_patches_become_frames(root: Path, trainer_in: Callable[..., Trainer]) -> None:
    data = make(root)
    trainer = trainer_in(callbacks=[FrameMetrics(), AnomalyMetrics(image=("AUROC", "EER"))])
    found = run(trainer, data)
    truth = data.frames
    assert truth is not None
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert values["test/frame_AUROC"] == values["test/frame_AUROC_localised"] == 1  # the anomaly is the brightest
    assert values["test/frame_EER"] == 0
    assert values["test/patch_AUROC"] == values["test/image_AUROC"] == 1
    assert values["test/patch_EER_clean"] == pytest.approx(values["test/image_EER_clean"], abs=1e-9)
    test = data.require_splits().test
    score = test.batch(list(range(len(test))))["image"].amax((1, 2, 3)).double()  # type: ignore[attr-defined]
    for scope, sign in (("", 1), ("_clean", -1)):
        slow = []
        for frame in range(23):
            mine = sign * score[test.frame == frame]  # type: ignore[attr-defined]
            of_clip = sign * score[truth.clip[test.frame] == truth.clip[frame]]  # type: ignore[attr-defined]
            slow.append(float(mine.max()) if len(mine) else float(of_clip.min()))
        expected = torch.tensor(slow)
        for name, function in (("AUROC", auroc), ("EER", equal_error_rate)):
            value = float(function(expected, truth.label))
            assert values[f"test/frame_{name}{scope}"] == pytest.approx(value, abs=1e-6)
    assert found["data"] == {"frames": 23, "anomalous": 7, "scored_images": len(score)}
    assert found["without_images"] == 23 - len(test.frame.unique())  # type: ignore[attr-defined]
    for name, value in found["metrics"].items():
        assert value == pytest.approx(values[f"test/{name}"], abs=1e-6)  # logged as float32


@pytest.mark.parametrize("mapped", [True, False])
def test_whole_frames(root: Path, trainer_in: Callable[..., Trainer], mapped: bool) -> None:
    trainer = trainer_in(callbacks=[FrameMetrics(), AnomalyMetrics(image=("AUROC",), pixel=("AUROC",))])
    found = run(trainer, make(root, mode="frames"), mapped=mapped)["metrics"]
    assert found["frame_AUROC"] == float(trainer.callback_metrics["test/image_AUROC"]) == 1
    assert "patch_AUROC" not in found
    assert found.get("frame_AUROC_localised") == (1 if mapped else None)


def test_two_processes_find_what_one_does(
    root: Path, trainer_in: Callable[..., Trainer], two_processes: dict[str, Any]
) -> None:
    one = run(trainer_in(callbacks=[FrameMetrics()]), make(root))
    two = run(trainer_in(callbacks=[FrameMetrics()], **two_processes), make(root))
    assert one == two


def test_nothing_is_done_without_frames_and_said_without_their_truth(
    root: Path, trainer_in: Callable[..., Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    data = make(root)
    loader = data.test_dataloader()
    trainer = trainer_in(callbacks=[FrameMetrics()])
    with caplog.at_level(logging.WARNING):
        trainer.test(Brightest(), dataloaders=loader, verbose=False)
    assert "needs the data module's truth of frames and one loader; got none and 1 loaders" in caplog.text
    caplog.clear()
    plain = DataLoader([{"image": torch.rand(2, 1, 6, 6), "label": torch.tensor([0, 1])}], batch_size=None)  # type: ignore[arg-type]
    trainer.test(Brightest(), dataloaders=plain, verbose=False)
    assert "FrameMetrics" not in caplog.text
    assert not any("frame" in name for name in trainer.callback_metrics)

"""Callbacks beside modules of all kinds: what has nothing to score is left alone, what has is read under any common name."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomaly_suite import callbacks
from anomaly_suite.callbacks import AnomalyMetrics, HeatmapExport, ScorePlots, ScoreTable, StageCallback, Step
from anomaly_suite.callbacks.reading import Found, Reader, read_step
from anomaly_suite.errors import ConfigError, ShapeError

CALLBACKS = [
    kind
    for kind in (getattr(callbacks, name) for name in callbacks.__all__)
    if isinstance(kind, type) and issubclass(kind, Callback) and kind is not StageCallback
]


class Other(LightningModule):
    """Somebody's module: a step that returns what it is told to."""

    def __init__(self, returned: Callable[[Any], Any]) -> None:
        super().__init__()
        self.returned = returned
        self.weight = nn.Parameter(torch.ones(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight.square()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self.returned(batch)

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@dataclass
class Text:
    input_ids: Tensor
    attention_mask: Tensor


@dataclass
class ImageBatch:
    """As anomalib's: attributes, a mask without a channel axis."""

    image: Tensor
    gt_label: Tensor | None = None
    gt_mask: Tensor | None = None
    image_path: list[str] | None = None
    anomaly_map: Tensor | None = None
    pred_score: Tensor | None = None


IMAGE = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([7, 3, 0, 9])
TOKENS = torch.randint(0, 100, (4, 5), generator=torch.Generator().manual_seed(0))
BATCHES = {
    "classes": (IMAGE, CLASSES),
    "list": [IMAGE, CLASSES],
    "uint8": {"image": (255 * IMAGE).byte(), "label": CLASSES},
    "text": {"input_ids": TOKENS, "labels": TOKENS, "texts": ["a", "b", "c", "d"]},
    "object": Text(TOKENS, TOKENS),
    "strings": ["a", "b"],
    "tensor": TOKENS,
    "four": (IMAGE, CLASSES, CLASSES, CLASSES),
}
RETURNED: dict[str, Callable[[Any], Any]] = {
    "loss": lambda batch: {"loss": torch.ones(())},
    "logits": lambda batch: {"loss": torch.ones(()), "preds": CLASSES, "pred_label": CLASSES},
    "tensor": lambda batch: torch.ones(()),
    "none": lambda batch: None,
}


@pytest.mark.parametrize("batch", BATCHES)
def test_no_callback_minds_what_it_does_not_know(
    batch: str, tmp_path: Path, trainer_in: Callable[..., Trainer]
) -> None:
    loader = DataLoader([BATCHES[batch]], batch_size=None)  # type: ignore[arg-type] # a list of batches
    beside = [kind() for kind in CALLBACKS if kind is not callbacks.ComponentMetrics]
    trainer = trainer_in(callbacks=[*beside, callbacks.ComponentMetrics(threshold="best")])
    for returned in RETURNED.values():
        module = Other(returned)
        trainer.validate(module, loader, verbose=False)
        trainer.test(module, loader, verbose=False)
        trainer.predict(module, loader)
        assert not trainer.callback_metrics
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"metrics.json"}
    written = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert written["metrics"] == {}
    assert {"image_AUROC", "image_AP", "image_Accuracy"} <= written["undefined"].keys()
    assert written["undefined"]["image_AUROC"].startswith(
        "AUROC needs anomaly_score of the step and label of the batch;"
    )


@pytest.mark.parametrize("returned", ["loss", "none"])
def test_a_fit_of_another_module_ends(returned: str, trainer_in: Callable[..., Trainer]) -> None:
    loader = DataLoader([BATCHES["text"]], batch_size=None)  # type: ignore[arg-type] # a list of batches
    trainer_in(callbacks=[kind() for kind in CALLBACKS]).fit(Other(RETURNED[returned]), loader, loader)


def test_what_is_missing_is_said_once(trainer_in: Callable[..., Trainer], caplog: pytest.LogCaptureFixture) -> None:
    loader = DataLoader([{"image": IMAGE, "defect": torch.tensor([0, 1, 0, 1])}] * 2, batch_size=None)  # type: ignore[arg-type]
    module = Other(lambda batch: {"anomaly_score": batch["image"].mean((1, 2, 3))})
    trainer_in(callbacks=[AnomalyMetrics()], max_epochs=3).fit(module, loader, loader)
    (said,) = (record.message for record in caplog.records if record.name.startswith("anomaly_suite.callbacks.metrics"))
    assert said == (
        "val has no image_AUROC, image_AP, image_F1Max, image_Accuracy, image_Sensitivity, image_Specificity: each needs anomaly_score of the "
        "step and label of the batch; label was in none. Found anomaly_score in what the step returned and image, defect in the "
        "batch. Rename the key, or give key_map={'label': its name}."
    )
    module = Other(lambda batch: {"anomaly_score": batch["image"].mean((1, 2, 3))})
    trainer = trainer_in(callbacks=[AnomalyMetrics(key_map={"label": "defect"})])
    trainer.validate(module, loader, verbose=False)
    assert "val/image_AUROC" in trainer.callback_metrics


LABEL = torch.tensor([0, 1, 0, 1])
MASK = torch.zeros(4, 8, 8, dtype=torch.bool)
MASK[LABEL == 1, 2:4, 2:4] = True
MAP = IMAGE.mean(1) * 0.5 + 2 * MASK  # every anomalous pixel above every normal one
SCORE = MAP.amax((1, 2))
TRUTHS: dict[str, Any] = {
    "ours": {"image": IMAGE, "label": LABEL, "mask": MASK},
    "anomalib": ImageBatch(IMAGE, LABEL, MASK, list("abcd")),
    "gt": {"image": IMAGE, "gt_label": LABEL, "gt_mask": MASK[:, None]},
    "targets": {"images": IMAGE, "targets": LABEL, "masks": MASK.float()},
    "is_anomaly": {"image": IMAGE, "is_anomaly": LABEL.bool(), "gt_mask": MASK},
    "y": {"x": IMAGE, "y": LABEL.float()[:, None], "anomaly_mask": MASK},
    "labels": {"pixel_values": IMAGE, "labels": LABEL.tolist(), "ground_truth": MASK},
    "target": {"image": IMAGE, "target": LABEL, "masks": MASK},
    "tuple": (IMAGE, LABEL, MASK),
    "nested": (IMAGE, {"labels": LABEL, "masks": MASK.byte()}),
    "uint8": {"image": (255 * IMAGE).byte(), "labels": LABEL, "masks": MASK},
    "no image": {"input_ids": TOKENS, "labels": LABEL, "masks": MASK},
}
SCORED: dict[str, Callable[[Any], Any]] = {
    "ours": lambda batch: {"anomaly_score": SCORE, "anomaly_map": MAP[:, None]},
    "former anomalib": lambda batch: {"pred_scores": SCORE[:, None], "anomaly_maps": MAP, "pred_labels": SCORE > 1},
    "anomalib": lambda batch: ImageBatch(IMAGE, anomaly_map=MAP, pred_score=SCORE),
}


@pytest.mark.parametrize(
    ("truth", "scored"), [*((name, "ours") for name in TRUTHS), *(("gt", name) for name in SCORED)]
)
def test_common_names_are_read(truth: str, scored: str, trainer_in: Callable[..., Trainer]) -> None:
    loader = DataLoader([TRUTHS[truth]], batch_size=None)  # type: ignore[arg-type] # a list of batches
    trainer = trainer_in(callbacks=[AnomalyMetrics(pixel=["AUROC"], image=["AUROC", "AP", "Accuracy"])])
    trainer.test(Other(SCORED[scored]), loader, verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    decided = {"test/image_Accuracy": 1.0} if scored == "former anomalib" else {}
    assert logged == {"test/image_AUROC": 1.0, "test/image_AP": 1.0, "test/pixel_AUROC": 1.0, **decided}


def test_every_callback_takes_a_key_map_and_uses_it(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    key_map = {"label": "broken", "mask": "where", "anomaly_score": "distance", "heat": "anomaly_map", "image": "photo"}
    batch = {"photo": IMAGE, "broken": LABEL, "label": CLASSES, "where": MASK}
    module = Other(lambda batch: {"distance": SCORE, "heat": MAP})
    kinds = [kind for kind in CALLBACKS if "key_map" in inspect.signature(kind).parameters]
    assert set(CALLBACKS) - set(kinds) <= {
        callbacks.Calibrate,
        callbacks.RunFolder,
        callbacks.SplitTable,
        callbacks.TiledPrediction,
    }
    beside = [kind(key_map=key_map) for kind in kinds]
    trainer = trainer_in(callbacks=beside)
    trainer.test(module, DataLoader([batch], batch_size=None), verbose=False)  # type: ignore[arg-type] # a list of batches
    assert float(trainer.callback_metrics["test/image_AUROC"]) == 1
    assert float(trainer.callback_metrics["test/pixel_AUPRO"]) == pytest.approx(1, abs=1e-3)
    assert len(list((tmp_path / "heatmaps" / "test").iterdir())) == 4
    assert (tmp_path / "plots" / "test_roc.png").is_file()
    rows = (tmp_path / "test_scores.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[2] for row in rows[1:]] == ["0", "1", "0", "1"]


@pytest.mark.parametrize("kind", [AnomalyMetrics, HeatmapExport, ScorePlots, ScoreTable])
@pytest.mark.parametrize(
    ("key_map", "message"),
    [
        ({"lable": "y"}, r"got 'lable': 'y', and neither is one of .*Did you mean 'label'\? Write for example"),
        (["label"], r"key_map must be a mapping or null; got \['label'\]"),
        ({"label": 3}, "got 3 for 'label'"),
    ],
)
def test_a_key_map_that_cannot_be(kind: Any, key_map: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(key_map=key_map)


def test_scored_batches_that_are_wrong_are_still_told() -> None:
    with pytest.raises(ShapeError, match="label must be 0"):
        read_step({"anomaly_score": SCORE}, (IMAGE, CLASSES))
    with pytest.raises(
        ShapeError, match="label must be 0"
    ):  # 0 and 1 of ten classes would be taken for normal and anomalous
        read_step({"anomaly_score": SCORE}, {"image": IMAGE, "labels": CLASSES})
    with pytest.raises(ShapeError, match="anomaly_score must hold one number each; got list"):
        read_step({"anomaly_score": ["a", "b"]}, (IMAGE, LABEL))


def test_what_has_nothing_to_show_says_so_once(
    trainer_in: Callable[..., Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    loader = DataLoader([BATCHES["text"]] * 2, batch_size=None)  # type: ignore[arg-type] # a list of batches
    trainer = trainer_in(callbacks=[ScoreTable()])
    with caplog.at_level("INFO"):
        for _ in range(2):
            trainer.test(Other(RETURNED["loss"]), loader, verbose=False)
    assert caplog.text.count("ScoreTable has nothing to show of test: it needs one of anomaly_score, anomaly_map") == 1
    assert "found loss. Rename" in caplog.text


@pytest.mark.parametrize("score", [SCORE[:3], torch.rand(4, 2)])
def test_scores_that_do_not_fit_their_labels(score: Tensor, trainer_in: Callable[..., Trainer]) -> None:
    loader = DataLoader([(IMAGE, LABEL)], batch_size=None)  # type: ignore[arg-type] # a list of batches
    with pytest.raises(ShapeError, match="scores and target must share their shape"):
        trainer_in(callbacks=[AnomalyMetrics()]).test(
            Other(lambda batch: {"anomaly_score": score}), loader, verbose=False
        )


def test_a_stage_callback_may_read_keys_of_its_own(trainer_in: Callable[..., Trainer]) -> None:
    class Distances(StageCallback):
        reads = ("distance",)

        def begin(self, trainer: Trainer, stage: str) -> None:
            self.seen: list[Any] = []

        def collect(self, step: Step) -> None:
            self.seen.append(step.prediction["distance"])  # type: ignore[typeddict-item] # its own

    own = Distances()
    trainer = trainer_in(callbacks=[own])
    trainer.test(Other(lambda batch: {"distance": 2}), DataLoader([(IMAGE, LABEL)], batch_size=None), verbose=False)  # type: ignore[arg-type]
    assert own.seen == [2]


def test_a_level_that_has_half_of_its_keys_is_told() -> None:
    reader = Reader()
    reader.read({"anomaly_score": SCORE, "anomaly_map": MAP}, {"image": IMAGE, "label": LABEL})
    found = Found(
        ["image", "label"], ["anomaly_score", "anomaly_map"], ["anomaly_score", "anomaly_map", "image", "label"]
    )
    levels = AnomalyMetrics().levels
    told = {name for name, level in levels.items() if level.lacks(found, testing=True)}
    assert told == {"pixel"}
    assert "; mask was in none" in str(levels["pixel"].lacks(found, testing=True))
    assert {name for name, _, _ in reader._seen} == {-1}
    reader.begin()
    assert reader.read(None, None) is None
    assert {(kind, name) for _, kind, name in reader._seen} == {("batch", "nothing"), ("outputs", "nothing")}

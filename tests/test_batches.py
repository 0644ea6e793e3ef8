"""as_batch, Calibration, ShardSampler, the base data module, and when pretrained weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anomaly_suite.contract import AnomalyDataModule, AnomalyModule, Batch, Calibration, ShardSampler, as_batch
from anomaly_suite.errors import ConfigError, NotFittedError, ShapeError

IMAGE = torch.rand(3, 1, 4, 5)


@dataclass
class OwnBatch:
    image: Tensor
    label: Tensor
    gt_mask: None = None


@pytest.mark.parametrize(
    "raw",
    [
        {"image": IMAGE, "label": torch.tensor([0, 1, 1], dtype=torch.int32), "mask": None, "more": 1},
        (IMAGE, torch.tensor([0.0, 1.0, 1.0])),
        [IMAGE, torch.tensor([[False], [True], [True]])],
        OwnBatch(IMAGE, torch.tensor([0, 1, 1])),
    ],
    ids=["mapping", "tuple", "list", "object"],
)
def test_loaders_of_all_kinds_become_a_batch(raw: Any) -> None:
    batch = as_batch(raw)
    assert batch["image"] is IMAGE
    assert batch["label"].tolist() == [0, 1, 1]
    assert batch["label"].dtype == torch.int64
    assert "mask" not in batch
    assert as_batch(batch) is batch


def test_an_image_alone_is_a_batch() -> None:
    assert list(as_batch(IMAGE)) == ["image"]


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(3, 1, 4, 5), (3, 4, 5)])
def test_masks_become_bool_and_give_the_label(kind: torch.dtype, shape: tuple[int, ...]) -> None:
    mask = torch.zeros(3, 1, 4, 5)
    mask[1, 0, 2, 3] = 1
    scale = 255 if kind == torch.uint8 else 1
    batch = as_batch({"image": IMAGE, "mask": (mask * scale).to(kind).reshape(shape)})
    assert torch.equal(batch["mask"], mask.bool())
    assert batch["label"].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"img": IMAGE}, "needs the key 'image'.*got img"),
        ({"image": IMAGE[0]}, r"must be a floating-point tensor of shape \(B, C, H, W\); got \(1, 4, 5\)"),
        ({"image": (IMAGE * 255).byte()}, "torch.uint8"),
        ((IMAGE, torch.tensor([0, 7, 1])), "got 7. Map class indices"),
        ((IMAGE, torch.tensor([0, -1, 1])), "got -1"),
        ((IMAGE, torch.tensor([0, 1])), "2 labels for 3 images"),
        ((IMAGE, torch.tensor([0, 1, 1]), torch.zeros(3, 1, 4, 4)), r"got \(3, 1, 4, 4\)"),
        ((IMAGE, torch.tensor([0, 1, 1]), torch.zeros(3, 2, 4, 5)), r"got \(3, 2, 4, 5\)"),
    ],
)
def test_wrong_batches_get_one_sentence(raw: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        as_batch(raw)


class TestCalibration:
    def test_unfitted_adds_nothing(self) -> None:
        prediction = {"anomaly_score": torch.tensor([1.0])}
        assert Calibration()(prediction) == prediction

    def test_adds_decisions_and_keeps_raw_scores(self) -> None:
        calibration = Calibration()
        calibration.set("image", threshold=10.0, low=8.0, high=20.0, rule="fixed")
        calibration.set("pixel", threshold=1.0, low=0.0, high=2.0, rule="fixed")
        score = torch.tensor([-5.0, 8.0, 9.0, 10.0, 15.0, 99.0])
        out = calibration({"anomaly_score": score, "anomaly_map": torch.tensor([[[[0.5, 1.0]]]])})
        assert torch.equal(out["anomaly_score"], score)
        assert out["pred_label"].tolist() == [False, False, False, True, True, True]
        assert out["normalized_score"].tolist() == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0]
        assert out["pred_mask"].flatten().tolist() == [False, True]

    def test_a_range_of_width_zero_stays_finite(self) -> None:
        calibration = Calibration()
        calibration.set("image", threshold=3.0, low=3.0, high=3.0)
        assert calibration.normalize(torch.tensor([2.0, 3.0, 4.0])).tolist() == [0.0, 0.5, 1.0]

    def test_state_dict_restores_thresholds_and_record(self) -> None:
        first, second = Calibration(), Calibration()
        first.set("image", threshold=1.5, low=0, high=2, rule="max_f1")
        second.load_state_dict(first.state_dict())
        assert second.threshold("image") == 1.5
        assert second.record == {"image": {"threshold": 1.5, "low": 0, "high": 2, "rule": "max_f1"}}
        with pytest.raises(NotFittedError, match="no pixel threshold"):
            second.threshold("pixel")


class Numbers(Dataset[Any]):
    epoch = 0

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


class TestShardSampler:
    @pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
    @pytest.mark.parametrize("world", [1, 2, 3])
    def test_evaluation_gives_every_image_once(self, count: int, world: int) -> None:
        shares = [list(ShardSampler(Numbers(count), world=world, rank=r, shuffle=False, seed=0)) for r in range(world)]
        assert sorted(item for share in shares for item in share) == list(range(count))
        assert [len(share) for share in shares] == [
            len(ShardSampler(Numbers(count), world=world, rank=r, shuffle=False, seed=0)) for r in range(world)
        ]

    @pytest.mark.parametrize("count", [1, 7, 8, 9])
    @pytest.mark.parametrize("world", [1, 2, 3])
    def test_training_shares_are_even_and_repeats_are_marked(self, count: int, world: int) -> None:
        shares = [list(ShardSampler(Numbers(count), world=world, rank=r, shuffle=True, seed=0)) for r in range(world)]
        assert len({len(share) for share in shares}) == 1
        everything = [item for share in shares for item in share]
        assert sorted(index for index in everything if index >= 0) == list(range(count))
        assert sum(index < 0 for index in everything) == -count % world

    def test_order_depends_on_seed_and_epoch_alone(self) -> None:
        data = Numbers(50)
        sampler = ShardSampler(data, world=1, rank=0, shuffle=True, seed=3)
        first = list(sampler)
        np.random.default_rng(0).random()
        torch.rand(3)
        assert list(sampler) == first
        sampler.set_epoch(4)
        assert list(sampler) != first
        assert data.epoch == 4
        again = ShardSampler(Numbers(50), world=1, rank=0, shuffle=True, seed=3)
        again.set_epoch(4)
        assert list(again) == list(sampler)


class TestDataModuleOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"train_batch_size": 0}, "train_batch_size must be at least 1"),
            ({"val_size": 0}, "val_size must be a fraction"),
            ({"val_size": 1.0}, "val_size must be a fraction"),
        ],
    )
    def test_impossible_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            AnomalyDataModule(**options)

    def test_hold_out_is_seeded_and_disjoint(self) -> None:
        train, val = AnomalyDataModule(val_size=0.25, seed=1).hold_out(20)
        assert len(val) == 5
        assert sorted(train + val) == list(range(20))
        assert AnomalyDataModule(val_size=5, seed=1).hold_out(20) == (train, val)
        assert AnomalyDataModule(val_size=5, seed=2).hold_out(20) != (train, val)
        assert AnomalyDataModule(validation="none").hold_out(3) == ([0, 1, 2], [])

    def test_hold_out_must_leave_something(self) -> None:
        with pytest.raises(ConfigError, match="leaves no training item out of 4"):
            AnomalyDataModule(val_size=4).hold_out(4)


class TestBags:
    """Weak-video batches: several videos as snippet features."""

    FEATURES = torch.rand(2, 3, 5, 4)  # B C T D

    def test_missing_parts_are_filled_in(self) -> None:
        batch = as_batch({"snippet_features": self.FEATURES[:, 0], "bag_label": [0, 1], "image": None, "more": 1})
        assert torch.equal(batch["snippet_features"], self.FEATURES[:, :1])
        assert batch["length"].tolist() == [5, 5]
        assert batch["label"].tolist() == [0, 1]
        assert batch["label"].dtype == torch.int64
        assert set(batch) == {"snippet_features", "length", "label", "more"}
        assert as_batch(batch) is batch

    def test_what_is_given_stays(self) -> None:
        raw: dict[str, Any] = {
            "snippet_features": self.FEATURES,
            "length": torch.tensor([[2], [5]]),
            "label": torch.tensor([1.0, 0.0]),
            "frame_label": torch.tensor([0, 1, 1] + [0] * 70, dtype=torch.uint8),
            "frame_count": [3, 70],
        }
        batch = as_batch(raw)
        assert batch["snippet_features"] is self.FEATURES
        assert batch["length"].tolist() == [2, 5]
        assert batch["label"].tolist() == [1, 0]
        assert batch["frame_label"].dtype == torch.bool
        assert batch["frame_label"].nonzero().flatten().tolist() == [1, 2]
        assert batch["frame_count"].tolist() == [3, 70]
        assert raw["length"].shape == (2, 1)

    def test_frames_are_16_a_snippet_where_nothing_says_otherwise(self) -> None:
        raw = {"snippet_features": self.FEATURES, "length": torch.tensor([2, 5]), "frame_label": torch.zeros(112)}
        assert as_batch(raw)["frame_count"].tolist() == [32, 80]

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ({"snippet_features": FEATURES[0, 0]}, r"must be .* \(B, C, T, D\); got \(5, 4\)"),
            ({"snippet_features": FEATURES.long()}, "torch.int64"),
            ({"snippet_features": FEATURES.numpy()}, "got ndarray. Pad and stack the videos"),
            ({"length": [5]}, r"1 to 5 snippets for each of 2 videos; got \[5\]"),
            ({"length": [0, 5]}, r"got \[0, 5\]"),
            ({"length": [5, 6]}, r"got \[5, 6\]"),
            ({"label": [0, 1, 1]}, "3 labels for 2 images"),
            ({"bag_label": [0, 2]}, "got 2. Map class indices"),
            ({"frame_label": torch.zeros(159)}, r"got 159 for frame_count \[80, 80\]"),
            ({"frame_label": torch.zeros(80), "frame_count": [80]}, r"got 80 for frame_count \[80\]"),
            ({"frame_label": torch.zeros(80), "frame_count": [20, 70]}, r"got 80 for frame_count \[20, 70\]"),
        ],
    )
    def test_parts_that_do_not_fit(self, parts: dict[str, Any], message: str) -> None:
        with pytest.raises(ShapeError, match=message):
            as_batch({"snippet_features": self.FEATURES, **parts})


# Pretrained weights ----------------------------------------------------------------------------------------------


class Pretrained(AnomalyModule):
    """Its one weight is 2 before training and 3 after."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.loaded = 0

    def load_pretrained(self) -> None:
        self.weight.data.fill_(2)
        self.loaded += 1

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        return self.weight * image.mean((1, 2, 3)), None

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.weight.data.fill_(3)

    def configure_optimizers(self) -> None:
        return None


def test_pretrained_weights_are_loaded_before_the_first_fit_alone(
    tmp_path: Path, trainer_in: Callable[..., Trainer]
) -> None:
    model, loader = Pretrained(), DataLoader([{"image": torch.rand(3, 4, 4)}])  # type: ignore[arg-type,var-annotated]
    seen: list[float] = []

    class Look(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            seen.append(float(pl_module.weight))

    for _ in range(2):
        trainer = trainer_in(callbacks=[Look()])
        trainer.fit(model, train_dataloaders=loader)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    restored = Pretrained.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    trainer_in(callbacks=[Look()]).fit(restored, train_dataloaders=loader)
    assert seen == [2, 3, 3]
    assert (model.loaded, restored.loaded) == (1, 0)

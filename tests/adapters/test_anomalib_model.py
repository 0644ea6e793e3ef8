"""Models of anomalib in a plain Trainer give the raw scores that they have under their own Engine; skipped without anomalib."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from anomaly_suite.adapters import AnomalibModel
from anomaly_suite.callbacks import AnomalyMetrics, Calibrate
from anomaly_suite.data import Folder, SyntheticTextures
from anomaly_suite.errors import ConfigError

MakeTrainer = Callable[..., Trainer]
OPTIONS: dict[str, dict[str, Any]] = {
    "Patchcore": {
        "init_args": {"backbone": "resnet18", "layers": ["layer2", "layer3"], "pre_trained": False, "num_neighbors": 3},
        "image_size": 64,
    },
    "Fastflow": {"init_args": {"backbone": "resnet18", "pre_trained": False, "flow_steps": 2}, "image_size": 64},
    "Dinomaly": {
        "init_args": {"encoder_name": "vit_small_patch14_reg4_dinov2", "bottleneck_dropout": 0.1},
        "image_size": 112,
        "center_crop": 98,
        "pretrained": False,
    },
    "EfficientAd": {"image_size": 256},  # its networks take nothing smaller
}


def test_without_anomalib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "anomalib.models", None)
    with pytest.raises(ConfigError, match=r"needs the package anomalib, version 2\.7 or newer.*pip install"):
        AnomalibModel(class_path="Patchcore")


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of what EfficientAD would fetch: a teacher with random weights, and one picture for ImageNet."""
    pytest.importorskip("anomalib")
    import anomalib.models.image.efficient_ad.lightning_model as efficient_ad

    seed_everything(1, verbose=False)
    folder = tmp_path / "weights" / "efficientad_pretrained_weights"
    folder.mkdir(parents=True)
    monkeypatch.setattr(efficient_ad, "get_pretrained_weights_dir", lambda: tmp_path / "weights")
    torch.save(efficient_ad.EfficientAdModel(384).teacher.state_dict(), folder / "pretrained_teacher_small.pth")
    (tmp_path / "imagenette" / "a").mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    assert cv2.imwrite(str(tmp_path / "imagenette" / "a" / "0.png"), picture)


def made(name: str, tmp_path: Path) -> AnomalibModel:
    options = OPTIONS[name]
    if name == "EfficientAd":
        options = {**options, "init_args": {"imagenet_dir": str(tmp_path / "imagenette")}}
    seed_everything(0, verbose=False)
    return AnomalibModel(class_path=name, **options)


class Fixed(LightningDataModule):
    """The same batches in the same order, ours or theirs."""

    name, category = "fixed", ""

    def __init__(self, batch_size: int, convert: Callable[[Any], Any] = dict, size: int = 64) -> None:
        super().__init__()
        counts = {"train_size": 4, "test_size": 6, "val_anomalies": 2, "val_size": 2}
        data = SyntheticTextures(**counts, image_size=size, difficulty=0.0)  # type: ignore[arg-type]
        data.setup()
        assert data.splits is not None
        self.train_batch_size = batch_size
        batches = [(part, range(len(part))) for part in data.splits]  # type: ignore[arg-type]
        train, *others = [[part[row] for row in rows] for part, rows in batches]  # type: ignore[index]
        joined = [self._joined(train[at : at + batch_size]) for at in range(0, len(train), batch_size)]
        self.batches = [
            [convert(batch) for batch in part] for part in (joined, *([self._joined(each)] for each in others))
        ]

    def _joined(self, parts: list[Any]) -> Any:
        return {key: torch.cat([part[key] for part in parts]) for key in ("image", "label", "mask") if key in parts[0]}

    def train_dataloader(self) -> Any:
        return DataLoader(self.batches[0], batch_size=None)

    def val_dataloader(self) -> Any:
        return DataLoader(self.batches[1], batch_size=None)

    def test_dataloader(self) -> Any:
        return DataLoader(self.batches[2], batch_size=None)

    predict_dataloader = test_dataloader


def of_theirs(batch: Any) -> Any:
    from anomalib.data import ImageBatch

    mask = batch["mask"].squeeze(1) if "mask" in batch else None
    return ImageBatch(image=batch["image"].clone(), gt_label=batch["label"], gt_mask=mask)


def seeded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Draws of a step or a coreset that do not depend on what was drawn before."""

    def same_draws(*args: Any, **options: Any) -> Any:
        seed_everything(7, verbose=False)
        return function(*args, **options)

    return same_draws


@pytest.mark.parametrize("name", OPTIONS)
def test_scores_are_those_of_their_engine(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer_in: MakeTrainer, stand_ins: None
) -> None:
    from anomalib.engine import Engine

    ours = made(name, tmp_path)
    for step in ("training_step", "fit"):
        if hasattr(type(ours.inner), step):
            monkeypatch.setattr(type(ours.inner), step, seeded(getattr(type(ours.inner), step)))
    theirs = made(name, tmp_path).inner
    theirs.load_state_dict(ours.inner.state_dict())
    epochs, batch_size = (1 if name == "Patchcore" else 2), (1 if name == "EfficientAd" else 2)
    size = 256 if name == "EfficientAd" else 64  # its statistics are those of images as loaders give them

    trainer = trainer_in(max_epochs=epochs, num_sanity_val_steps=0, callbacks=[Calibrate(), AnomalyMetrics()])
    trainer.fit(ours, datamodule=Fixed(batch_size, size=size))
    found: Any = trainer.predict(ours, datamodule=Fixed(batch_size, size=size))[0]  # type: ignore[index]

    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "devices": 1,
    }
    engine = Engine(max_epochs=epochs, default_root_dir=tmp_path / "engine", **quiet)
    engine.fit(theirs, datamodule=Fixed(batch_size, of_theirs, size))
    expected: Any = engine.predict(theirs, datamodule=Fixed(batch_size, of_theirs, size))[0]  # type: ignore[index]

    score = expected.pred_score.flatten()
    assert score.std() > 1e-3  # or anything would be near it
    torch.testing.assert_close(found["anomaly_score"], score, rtol=0, atol=1e-4)
    cut = found["anomaly_map"]
    assert cut.shape == (6, 1, size, size)
    if OPTIONS[name]["image_size"] == size:
        torch.testing.assert_close(cut.squeeze(1), expected.anomaly_map.reshape(6, size, size), rtol=0, atol=1e-4)
    assert {"pred_label", "normalized_score"} <= found.keys()  # our calibration
    trainer.test(ours, datamodule=Fixed(batch_size, size=size), verbose=False)
    assert 0 <= float(trainer.callback_metrics["test/image_AUROC"]) <= 1


@pytest.mark.parametrize("name", ["Patchcore", "Dinomaly"])
def test_a_checkpoint_restores_the_scores_without_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer_in: MakeTrainer, stand_ins: None
) -> None:
    model, data = made(name, tmp_path), Fixed(2)
    trainer = trainer_in(max_epochs=1)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    monkeypatch.setattr("socket.socket.connect", None)
    restored = AnomalibModel.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True).eval()
    image = data.batches[2][0]["image"]
    with torch.no_grad():
        assert torch.equal(model.eval()(image)[0], restored(image)[0])


@pytest.mark.parametrize("name", ["Fastflow", "Dinomaly"])
def test_a_resumed_fit_ends_with_the_same_weights(
    name: str, tmp_path: Path, trainer_in: MakeTrainer, stand_ins: None
) -> None:
    data, states = Fixed(2), []
    for resumed in (False, True):
        model = made(name, tmp_path)
        if resumed:
            seed_everything(5, verbose=False)
        saver = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        trainer = trainer_in(max_epochs=2, enable_checkpointing=True, callbacks=[saver])
        trainer.fit(model, datamodule=data, ckpt_path=tmp_path / "epoch=0.ckpt" if resumed else None, weights_only=True)
        states.append({key: value.clone() for key, value in model.inner.state_dict().items()})
    for key, value in states[0].items():  # the same operations, but on memory laid out anew
        torch.testing.assert_close(value, states[1][key], rtol=1e-5, atol=1e-6, msg=key)


def test_maps_of_cut_images_lie_where_they_were_cut(tmp_path: Path, stand_ins: None) -> None:
    model = made("Dinomaly", tmp_path).eval()
    with torch.no_grad():
        _, found = model(torch.rand(2, 3, 112, 112))
    assert found is not None
    assert found.shape == (2, 1, 112, 112)
    low = found.amin((1, 2, 3))
    assert (found[:, :, :7] == low[:, None, None, None]).all()
    assert (found[..., -7:] == low[:, None, None, None]).all()
    assert (found[:, :, 7:-7, 7:-7].std((1, 2, 3)) > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_path": "Patchcor"}, r"must name a model of anomalib.*got 'Patchcor'.*Did you mean 'Patchcore'"),
        ({"class_path": "torch.nn.Linear"}, "must name an image model of anomalib; 'torch.nn.Linear' is none"),
        ({"class_path": "Patchcore", "init_args": {"layer": 3}}, r"cannot be built with .*layer.*Its options are backbone, layers"),
        ({"class_path": "Patchcore", "init_args": {"evaluator": True}}, "init_args of Patchcore may not have evaluator"),
        ({"class_path": "EfficientAd", "center_crop": 3}, "EfficientAd cuts nothing out; got center_crop=3"),
        ({"class_path": "Dinomaly", "image_size": 56}, "Crop size 392 cannot be larger"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_sentence(options: dict[str, Any], message: str) -> None:
    pytest.importorskip("anomalib")
    with pytest.raises(ConfigError, match=message):
        AnomalibModel(**options)


def test_what_their_hooks_refuse_is_one_sentence(tmp_path: Path, trainer_in: MakeTrainer, stand_ins: None) -> None:
    with pytest.raises(
        ConfigError, match="EfficientAd refuses in on_train_start: train_batch_size for EfficientAd should be 1"
    ):
        trainer_in().fit(made("EfficientAd", tmp_path), datamodule=Fixed(2))


def test_an_unfitted_memory_bank_says_so(tmp_path: Path, trainer_in: MakeTrainer, stand_ins: None) -> None:
    with pytest.raises(RuntimeError, match="has no fitted statistics yet"):
        trainer_in().test(made("Patchcore", tmp_path), datamodule=Fixed(2), verbose=False)


@pytest.mark.parametrize(
    "file",
    sorted((Path(__file__).parents[2] / "sample_configs" / "anomalib").glob("*.yaml")),
    ids=lambda file: file.stem,
)
def test_sample_configurations_name_models_that_exist(file: Path) -> None:
    pytest.importorskip("anomalib")
    import yaml

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]["init_args"]
    AnomalibModel(**options)


def test_their_table_of_samples_is_an_index(tmp_path: Path) -> None:
    pytest.importorskip("anomalib")
    import anomalib.data
    import pandas

    rng = np.random.default_rng(0)
    for index in range(12):
        folder = ("good", "bad")[index % 2]
        for name in (folder, "mask") if index % 2 else (folder,):
            (tmp_path / name).mkdir(exist_ok=True)
            pixels = (
                np.full((8, 8), 255, np.uint8) if name == "mask" else rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            )
            assert cv2.imwrite(str(tmp_path / name / f"{index}.png"), pixels)
    theirs = anomalib.data.Folder(
        "parts", "good", tmp_path, "bad", mask_dir="mask", val_split_mode="none", test_split_ratio=0.4, seed=0
    )
    theirs.setup()
    train, test = theirs.train_data.samples.assign(split="train"), theirs.test_data.samples.assign(split="test")
    pandas.concat([train, test]).to_csv(tmp_path / "samples.csv")
    found = Folder(index=str(tmp_path / "samples.csv"), image_size=None, validation="none").require_splits()
    for samples, part in ((train, found.train), (test, found.test)):
        items = {(str(item.path), item.label) for item in part.items}  # type: ignore[attr-defined]
        assert items == set(zip(samples.image_path, samples.label_index, strict=True))
    assert all(item.mask for item in found.test.items if item.label)  # type: ignore[attr-defined]

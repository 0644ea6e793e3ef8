"""Image models of anomalib by ``AnomalibModel`` and under their own Engine: raw scores, their metrics and ours on the same run.

    python benchmarks/anomalib_models.py --models Patchcore Fastflow Dinomaly EfficientAd

Networks have random weights, since none are fetched, and data are drawn textures: the table compares metrics, not models. Each model is fitted once, by
``AnomalibModel`` in a plain Trainer; its weights then go into their module, which their Engine validates (for its threshold) and tests on the same
batches, with post-processor and evaluator as they come. Prints a Markdown table. Needs anomalib 2.7; EfficientAD's teacher and its ImageNet images
are stand-ins of random numbers in a temporary folder.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from torch.utils.data import DataLoader

from anomaly_suite.adapters import AnomalibModel
from anomaly_suite.adapters.anomalib_model import _without_weights
from anomaly_suite.callbacks import AnomalyMetrics, Calibrate
from anomaly_suite.data import SyntheticTextures

RESNET = {"backbone": "resnet18", "pre_trained": False}
MODELS: dict[str, dict[str, Any]] = {
    "Patchcore": {"init_args": {**RESNET, "num_neighbors": 3}, "image_size": 64},
    "Fastflow": {"init_args": {**RESNET, "flow_steps": 4}, "image_size": 64},
    "Dinomaly": {
        "init_args": {"encoder_name": "vit_small_patch14_reg4_dinov2"},
        **{"image_size": 112, "center_crop": 98, "pretrained": False},
    },
    "EfficientAd": {"init_args": {}, "image_size": 256},
}
EPOCHS = {"Patchcore": 1, "Fastflow": 10, "Dinomaly": 3, "EfficientAd": 2}
THEIRS = ("image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score")
OURS = ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_F1Max")


class Fixed(LightningDataModule):
    """Batches that both sides are given."""

    name, category = "textures", ""

    def __init__(self, data: SyntheticTextures, convert: Callable[[Any], Any]) -> None:
        super().__init__()
        data.setup()
        self.data, self.convert, self.train_batch_size = data, convert, data.train_batch_size

    def _loader(self, loader: Any) -> DataLoader[Any]:
        return DataLoader([self.convert(batch) for batch in loader], batch_size=None)

    def train_dataloader(self) -> DataLoader[Any]:
        """In one order."""
        return self._loader(self.data.train_dataloader())

    def val_dataloader(self) -> DataLoader[Any]:
        """Normal and anomalous images."""
        return self._loader(self.data.val_dataloader())

    def test_dataloader(self) -> DataLoader[Any]:
        """The same for both."""
        return self._loader(self.data.test_dataloader())

    predict_dataloader = test_dataloader


def of_theirs(batch: Any) -> Any:
    """A batch of ours as one of theirs; normal training images have no mask."""
    from anomalib.data import ImageBatch

    mask = batch["mask"].squeeze(1) if "mask" in batch else None
    return ImageBatch(image=batch["image"].clone(), gt_label=batch["label"], gt_mask=mask)


def stand_ins(folder: Path) -> str:
    """EfficientAD's teacher with random weights, and pictures in place of ImageNet; returns their folder."""
    from anomalib.models.image.efficient_ad import lightning_model as efficient_ad

    weights = folder / "efficientad_pretrained_weights"
    weights.mkdir()
    seed_everything(1, verbose=False)
    torch.save(efficient_ad.EfficientAdModel(384).teacher.state_dict(), weights / "pretrained_teacher_small.pth")
    efficient_ad.get_pretrained_weights_dir = lambda: folder
    (folder / "imagenette" / "noise").mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "imagenette" / "noise" / "0.png"), picture)
    return str(folder / "imagenette")


def compare(name: str, folder: Path, train_size: int, test_size: int) -> dict[str, float]:
    """Metrics of one model, ours and theirs, and the largest difference of raw scores."""
    from anomalib.engine import Engine

    options = dict(MODELS[name])
    if name == "EfficientAd":
        options["init_args"] = {"imagenet_dir": stand_ins(folder)}
    size, batch = (256, 1) if name == "EfficientAd" else (64, 8)
    data = SyntheticTextures(train_size=train_size, test_size=test_size, image_size=size, train_batch_size=batch)
    seed_everything(0, verbose=False)
    model = AnomalibModel(class_path=name, **options)
    quiet: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "default_root_dir": folder}
    end = {"max_epochs": EPOCHS[name], "num_sanity_val_steps": 0, "check_val_every_n_epoch": EPOCHS[name]}
    trainer = Trainer(callbacks=[Calibrate(), AnomalyMetrics()], enable_checkpointing=False, **end, **quiet)
    ours = Fixed(data, dict)
    trainer.fit(model, datamodule=ours)
    found = {key: float(value) for key, value in trainer.test(model, datamodule=ours, verbose=False)[0].items()}
    raw = torch.cat([part["anomaly_score"] for part in trainer.predict(model, datamodule=ours)])  # type: ignore[misc, index]

    cls = type(model.inner)
    given = {
        **options["init_args"],
        "pre_processor": cls.configure_pre_processor(**model._sizes()),
        "visualizer": False,
    }
    with _without_weights():
        theirs, bare = cls(**given), cls(**given, post_processor=False, evaluator=False)
    for each in (theirs, bare):
        each.load_state_dict(model.inner.state_dict(), strict=False)
    batches = Fixed(data, of_theirs)
    engine = Engine(**quiet)
    engine.validate(theirs, datamodule=batches, verbose=False)
    told = {key: float(value) for key, value in engine.test(theirs, datamodule=batches, verbose=False)[0].items()}
    parts: Any = Engine(**quiet).predict(bare, datamodule=batches)
    difference = (torch.cat([part.pred_score.flatten() for part in parts]) - raw).abs().max()
    return {
        "difference": float(difference),
        **{f"theirs {key}": told[key] for key in THEIRS},
        **{f"ours {key}": found[f"test/{key}"] for key in OURS},
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--train-size", type=int, default=32)
    parser.add_argument("--test-size", type=int, default=64)
    given = parser.parse_args()
    heads = [
        f"{side} {key}"
        for pair in zip(OURS, THEIRS, strict=True)
        for side, key in zip(("ours", "theirs"), pair, strict=True)
    ]
    print("| model | largest difference of raw scores | " + " | ".join(heads) + " |")
    print("|---" * (len(heads) + 2) + "|")
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            row = compare(name, Path(folder), given.train_size, given.test_size)
        cells = [f"{row['difference']:.1e}", *(f"{row[head]:.4f}" for head in heads)]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

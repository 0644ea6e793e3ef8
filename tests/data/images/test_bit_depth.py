"""One scale for the deep images of a data set: decided once over the training images, kept in checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from anomaly_suite.contract import Batch
from anomaly_suite.data import Folder, MVTecAD
from anomaly_suite.data.images import bit_depth
from anomaly_suite.data.images.bit_depth import BitDepth
from anomaly_suite.errors import ConfigError, ImageReadError
from anomaly_suite.methods import PaDiM

Make = Callable[..., Path]


def deep(folder: Path, name: str, top: int, *, seed: int = 0) -> Path:
    """A dim 16-bit picture whose brightest pixel is ``top``."""
    pixels = np.random.default_rng(seed).integers(400, 600, (16, 16)).astype(np.uint16)
    pixels[0, 0] = top
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def everything(part: Any) -> Batch:
    batch: Batch = part.__getitems__(list(range(len(part))))
    return batch


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Training pictures of 12 bits, one of which uses them; an anomalous and two normal test pictures."""
    for number in range(6):
        deep(tmp_path, f"normal/{number}.png", 4095 if number == 4 else 700, seed=number)
    deep(tmp_path, "fresh/6.png", 700, seed=6)
    deep(tmp_path, "fresh/7.png", 650, seed=7)
    deep(tmp_path, "abnormal/8.png", 3900, seed=8)
    return tmp_path


def folder(root: Path, **options: Any) -> Folder:
    return Folder(root=str(root), normal_test_dir="fresh", image_size=None, val_size=1, **options)


def means(data: Folder, workers: int = 0) -> dict[str, float]:
    """Mean of every picture, without its brightest pixel."""
    data.num_workers = workers
    batches = [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]
    images = {
        Path(path).stem: image
        for batch in batches
        for path, image in zip(batch["image_path"], batch["image"], strict=True)
    }
    return {name: float(image.flatten(1)[:, 1:].mul(255).mean()) for name, image in images.items()}


def test_all_pictures_have_the_scale_of_the_training_images(root: Path) -> None:
    data = folder(root)
    found = means(data)
    assert len(found) == 9
    assert all(30 < mean < 32 for mean in found.values())  # (400 to 600) / 16
    assert data.depth.decided == 12
    assert means(folder(root), workers=2) == found
    assert all(7 < mean < 8 for mean in means(folder(root, bit_depth=14)).values())


def test_training_alone_decides(root: Path, recwarn: pytest.WarningsRecorder) -> None:
    deep(root, "abnormal/9.png", 60_000)
    data = folder(root)
    assert everything(data.require_splits().test)["image"].amax((1, 2, 3))[-1] == 1
    assert data.depth.decided == 12
    assert [str(each.message) for each in recwarn if "bit_depth" in str(each.message)] == [
        f"'{root / 'abnormal/9.png'}' holds values up to 60000, and bit_depth 12 ends at 4095: brighter pixels are taken for white. "
        "Set bit_depth: 16 for the whole data set, or leave this picture out."
    ]


def test_what_was_decided_is_said_and_nothing_is_decoded_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(bit_depth, "rank_zero_info", said.append)
    data = folder(root)
    data.train_dataloader()
    assert said == [
        f"bit_depth: auto is 12: 6 training images have more than 8 bits, and '{root / 'normal/4.png'}' holds values up to 4095. "
        "999 of 1,000 pixels need 10: bit_depth: 10 gives more contrast and makes brighter ones white."
    ]
    monkeypatch.setattr(bit_depth, "depth_of", None)
    means(data)


def test_8_bit_sets_are_not_decoded_to_decide(mvtec: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bit_depth, "depth_of", None)
    data = MVTecAD(root=str(mvtec()), image_size=None)
    data.train_dataloader()
    assert data.depth.decided == 16
    assert data.state_dict() == {}  # images of 8 bits say nothing about those of more
    odd = deep(mvtec(), "bottle/test/good/deep.png", 4000)
    with pytest.warns(
        UserWarning, match=rf"'{odd}' has more than 8 bits, and no training image has.*taken for 16 bits"
    ):
        MVTecAD(root=str(odd.parents[3]), image_size=None).test_dataloader()


def test_broken_pictures_are_named_before_training(root: Path) -> None:
    cv2.imwrite(str(root / "normal/5.tiff"), np.zeros((16, 16), np.float32))
    with pytest.raises(ImageReadError, match=r"normal/5\.tiff' holds float32 pixels"):
        folder(root).train_dataloader()


def test_a_checkpoint_brings_its_depth(root: Path, tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    """Also to a data module of another class, on a machine where the training images are others."""
    model = PaDiM(backbone="resnet18", weights=None, layers=(1,), num_channels=4)
    data = folder(root)
    trainer = trainer_in()
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["Folder"] == {"bit_depth": 12}
    elsewhere = tmp_path / "elsewhere"
    for part in ("train/good", "test/cut", "test/good"):
        for number in range(3):
            deep(elsewhere, f"tile/{part}/{number}.png", 900, seed=number + 10 * len(part))
    for number in range(3):
        mask = elsewhere / f"tile/ground_truth/cut/{number}_mask.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(mask), np.eye(16, dtype=np.uint8) * 255)
    other = MVTecAD(root=str(elsewhere), category="tile", image_size=None)
    again = folder(root)
    for module in (other, again):
        trainer_in().test(model, datamodule=module, ckpt_path=tmp_path / "a.ckpt", verbose=False)
        assert module.depth.decided == 12
    assert float(everything(other.require_splits().test)["image"].mul(255).mean()) == pytest.approx(31, abs=1)
    fixed = folder(root, bit_depth=14)
    with pytest.warns(UserWarning, match=r"bit_depth is 14, but the checkpoint was trained with 12"):
        fixed.load_state_dict({"bit_depth": 12})
    assert fixed.depth.bits() == 14
    again.load_state_dict({})  # of a former version
    assert again.depth.bits() == 12


@pytest.mark.parametrize("given", [7, 17, 12.5, "12", "deep", True, None])
def test_impossible_depths(root: Path, given: Any) -> None:
    with pytest.raises(ConfigError, match="bit_depth must be"):
        BitDepth(given)
    with pytest.raises(ConfigError, match="bit_depth must be"):
        folder(root, bit_depth=given)
    with pytest.raises(ConfigError, match=r"exif must be 'apply' or 'ignore'; got 'aply'\. Did you mean 'apply'\?"):
        folder(root, exif="aply")

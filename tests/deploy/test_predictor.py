"""Scores of new pictures in Python: those that a trainer gives."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_runs
import torch
from tiny_runs import fitted
from video_files import frames, write_video

import anomaly_suite
from anomaly_suite import data, methods
from anomaly_suite.contract.checkpoint_file import save_checkpoint
from anomaly_suite.data.preparation import PicturePreparation
from anomaly_suite.data.transforms import Pipeline
from anomaly_suite.deploy.predictor import Predictor
from anomaly_suite.errors import CheckpointError, ConfigError, ImageReadError, NotFittedError, ShapeError

pytestmark = pytest.mark.xdist_group("PaDiM")
RNG = np.random.default_rng(0)


def predictor(batch_size: int = 4) -> Predictor:
    return Predictor(fitted("PaDiM").model, data_of("PaDiM").preparation(), device="cpu", batch_size=batch_size)


def data_of(name: str) -> data.SyntheticTextures:
    return tiny_runs.make_data(name)  # type: ignore[return-value]


def test_results_are_those_of_the_trainer() -> None:
    module = data_of("PaDiM")
    model = fitted("PaDiM").model
    batch = next(iter(module.test_dataloader()))
    with torch.no_grad():
        expected = model.eval().predict_step(batch, 0)
    found = predictor()(list(batch["image"]))
    assert [each.anomaly_score for each in found] == pytest.approx(expected["anomaly_score"].tolist(), rel=1e-5)
    assert [each.is_anomalous for each in found] == expected["pred_label"].tolist()
    assert [each.normalized_score for each in found] == pytest.approx(expected["normalized_score"].tolist(), rel=1e-4)
    maps = np.stack([each.anomaly_map for each in found])
    np.testing.assert_allclose(maps, expected["anomaly_map"][:, 0].numpy(), rtol=1e-4, atol=1e-5)
    assert np.stack([each.mask for each in found]).dtype == bool


def test_results_do_not_depend_on_batches_or_on_the_way_a_picture_comes(tmp_path: Path) -> None:
    pictures = [RNG.integers(0, 256, (20 + row, 30, 3), dtype=np.uint8) for row in range(5)]
    for row, pixels in enumerate(pictures):
        cv2.imwrite(str(tmp_path / f"{row}.png"), pixels[..., ::-1])
    found = [predictor(size)(pictures) for size in (1, 4)] + [predictor()(tmp_path), predictor()(iter(pictures))]
    for others in found[1:]:
        scores = [each.anomaly_score for each in others]
        assert scores == pytest.approx([each.anomaly_score for each in found[0]], rel=1e-5)
    assert [each.name for each in found[2]] == [str(tmp_path / f"{row}.png") for row in range(5)]


def test_pictures_that_keep_their_sizes(tmp_path: Path) -> None:
    kept = PicturePreparation(Pipeline(image_size=None, center_crop=None, steps=()))
    one = Predictor(fitted("DeepLabV3Plus").model, kept, device="cpu")
    sizes = [(32, 48), (32, 48), (48, 32)]
    found = one([RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes])
    assert [each.anomaly_map.shape for each in found] == sizes


def test_a_stream_keeps_nothing(tmp_path: Path) -> None:
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)

    stream = predictor(2).stream(endless())
    for _ in range(3):
        next(stream)
    assert len(taken) <= 5


def test_files_that_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnot")
    clip = write_video(tmp_path / "clip.avi", frames(2))
    with pytest.raises(ImageReadError, match=r"bad\.png"):
        predictor()(tmp_path)
    assert [each.name for each in predictor()(tmp_path, on_error="skip")] == [f"{clip}/000000", f"{clip}/000001"]
    assert "left out" in caplog.text
    with pytest.raises(ShapeError, match="a picture must be"):
        predictor()(3, on_error="skip")


def test_from_a_checkpoint(tmp_path: Path) -> None:
    file = tiny_runs.checkpoint_file("PaDiM")
    with pytest.raises(ConfigError, match=r"no config\.yaml lies above it\. Give data="):
        Predictor.from_checkpoint(file)
    found = Predictor.from_checkpoint(file, data=data_of("PaDiM"), device="cpu")
    picture = RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert found(picture)[0].anomaly_score == pytest.approx(predictor()(picture)[0].anomaly_score, rel=1e-5)
    (tmp_path / "odd.ckpt").write_text("nothing")
    with pytest.raises(CheckpointError, match=r"odd\.ckpt"):
        Predictor.from_checkpoint(tmp_path / "odd.ckpt", data=data_of("PaDiM"))


def test_what_cannot_predict() -> None:
    with pytest.raises(NotFittedError, match="has no fitted statistics yet"):
        Predictor(methods.PaDiM(), data_of("PaDiM").preparation())
    with pytest.raises(ConfigError, match="batch_size must be at least 1; got 0"):
        predictor(0)
    with pytest.raises(ConfigError, match="device must be one that is there; got 'cuda:99'"):
        Predictor(fitted("PaDiM").model, data_of("PaDiM").preparation(), device="cuda:99")


def test_the_package_has_it_and_loads_nothing_before() -> None:
    assert anomaly_suite.Predictor is Predictor
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        anomaly_suite.Predicter  # noqa: B018
    program = "import sys, anomaly_suite; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_model_in_training_is_evaluated() -> None:
    picture = RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    before = predictor()(picture)[0].anomaly_score
    fitted("PaDiM").model.train()
    found = predictor()
    assert not found.model.training
    assert found(picture)[0].anomaly_score == pytest.approx(before, rel=1e-5)


def test_the_bit_depth_of_the_run_is_that_of_new_pictures(tmp_path: Path) -> None:
    content = copy.deepcopy(fitted("PaDiM").checkpoint)
    content["anomaly_suite"]["data"] = {"bit_depth": 12}
    save_checkpoint(tmp_path / "deep.ckpt", content)
    pixels = RNG.integers(0, 4096, (20, 20, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), pixels[..., ::-1])
    module = data.Folder(root=tmp_path, image_size=data_of("PaDiM").image_size)
    found = Predictor.from_checkpoint(tmp_path / "deep.ckpt", data=module, device="cpu")
    scores = [each.anomaly_score for each in found([tmp_path / "deep.png", (pixels >> 4).astype(np.uint8)])]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)  # rounded where the other is cut

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_runs
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from anomaly_suite.callbacks import ReconstructionPanel, reconstruction_panel
from anomaly_suite.callbacks.drawing import GAP
from anomaly_suite.callbacks.reconstruction_panel import Sample, choose
from anomaly_suite.contract import AnomalyModule, Reconstruction
from anomaly_suite.errors import ConfigError, ShapeError

SIDE, TITLE = 128, round(48 * 0.45)


class Darker(AnomalyModule):
    """What is drawn is half as bright; rows of the upper half may be hidden."""

    def __init__(self, *, hides: bool = False, made: Any = None) -> None:
        super().__init__()
        self.hides, self.made, self.asked = hides, made, 0

    def forward(self, image):
        return image.flatten(1).amax(1), None

    def reconstruct(self, image):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.asked += len(image)
        if self.made is not None:
            return self.made(image)
        hidden = torch.zeros(len(image), 1, *image.shape[2:], dtype=torch.bool)
        hidden[:, :, : image.shape[2] // 2] = True
        return Reconstruction(image / 2, hidden if self.hides else None)

    def training_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return None


def samples(count: int = 12, *, size: int = 4, bright: float = 0.8):
    """Images of one shade; of every three one is normal, and each other one has a folder of its own."""
    return [
        {
            "image": torch.full((1, size, size), bright * (index + 1) / count),
            "label": int(index % 3 > 0),
            "image_path": f"test/{('good', 'hole', 'stain')[index % 3]}/{index}.png",
        }
        for index in range(count)
    ]


def run(trainer_in, model, tmp_path: Path, data=None, *, stage: str = "test", **options):
    callback = ReconstructionPanel(**options)
    trainer = trainer_in(callbacks=[callback])
    loader = DataLoader(samples() if data is None else data, batch_size=5)
    trainer.test(model, loader, verbose=False) if stage == "test" else trainer.predict(model, loader)
    return sorted(file.name for file in (tmp_path / "reconstructions").glob("*.png"))


def test_tiles_of_one_image(trainer_in, tmp_path: Path) -> None:
    assert run(trainer_in, Darker(hides=True), tmp_path, samples(1)) == ["test.png"]
    picture = cv2.imread(str(tmp_path / "reconstructions" / "test.png"))
    row, column = TITLE + SIDE // 4, GAP + SIDE // 4  # within the upper half of the first tile
    step = SIDE + GAP
    assert picture[row, column].tolist() == [204] * 3
    assert picture[row, column + step].tolist() == [128] * 3  # hidden
    assert picture[row + SIDE // 2, column + step].tolist() == [204] * 3
    assert picture[row, column + 2 * step].tolist() == [102] * 3
    highest = ReconstructionPanel()._colors[255, 0].tolist()
    assert picture[row, column + 3 * step].tolist() == highest  # the largest difference


def test_normal_images_are_left_anomalous_ones_right_on_one_scale(trainer_in, tmp_path: Path, monkeypatch) -> None:
    drawn: list[Any] = []
    row = ReconstructionPanel._row
    monkeypatch.setattr(
        ReconstructionPanel,
        "_row",
        lambda self, sample, highest, bar: drawn.append((sample, highest)) or row(self, sample, highest, bar),
    )
    model = Darker()
    assert run(trainer_in, model, tmp_path, images=3) == ["test.png"]
    assert [sample.place for sample, _ in drawn] == [0, 3, 6, 1, 2, 4]
    assert [highest for _, highest in drawn] == pytest.approx([0.8 * 7 / 12 / 2] * 6)
    assert drawn[0][0].caption == "score: 0.06667   |   truth: normal   |   good"
    assert drawn[5][0].caption == "score: 0.3333   |   truth: anomalous   |   hole"
    np.testing.assert_allclose(drawn[5][0].rebuilt, 0.8 * 5 / 12 / 2, rtol=1e-6)
    assert model.asked <= 8  # only what may be drawn is reconstructed
    left, right = np.split(cv2.imread(str(tmp_path / "reconstructions" / "test.png")), 2, axis=1)
    assert left.shape == right.shape


def sample(place: int, kind: str, *, anomalous: bool = True) -> Sample:
    image = np.zeros((2, 2, 1), np.float32)
    return Sample(place, anomalous, kind, "", image, None, image, image)


def test_as_many_kinds_as_there_are() -> None:
    kinds = [*"aaaa", *"bb", "c"]
    offered = [sample(place, kind) for place, kind in enumerate(kinds)]
    assert [each.place for each in choose(offered, 4)] == [0, 1, 4, 6]
    assert [each.place for each in choose(offered[::-1], 2)] == [0, 4]
    kept: list[Sample] = []
    for each in offered:  # one after another, as batches come
        kept = choose([*kept, each], 4)
    assert [each.place for each in kept] == [0, 1, 4, 6]


def test_without_labels_all_are_on_one_side(trainer_in, tmp_path: Path) -> None:
    images = [{"image": torch.rand(3, 4, 4)} for _ in range(3)]
    assert run(trainer_in, Darker(), tmp_path, images, stage="predict", images=2) == ["predict.png"]
    assert cv2.imread(str(tmp_path / "reconstructions" / "predict.png")).shape[0] == 2 * (2 * TITLE + SIDE + 2 * GAP)


def test_a_module_of_somebody_else(trainer_in, tmp_path: Path, caplog) -> None:
    class Plain(LightningModule):
        def test_step(self, batch, batch_idx):
            return {"anomaly_score": batch["image"].flatten(1).mean(1)}

    class Telling(Plain):
        def reconstruct(self, image):
            return image.mean(1, keepdim=True)

    with caplog.at_level(logging.INFO):
        assert run(trainer_in, Plain(), tmp_path) == []
    assert "ReconstructionPanel draws nothing: Plain has no method reconstruct that gives images." in caplog.text
    assert run(trainer_in, Telling(), tmp_path) == ["test.png"]


def test_files_of_several_loaders_replace_those_of_the_stage_before(trainer_in, tmp_path: Path) -> None:
    callback, model = ReconstructionPanel(images=1), Darker()
    folder = tmp_path / "reconstructions"
    trainer_in(callbacks=[callback]).test(model, DataLoader(samples(3), batch_size=3), verbose=False)
    loaders = [DataLoader(samples(3, size=size), batch_size=3) for size in (4, 200)]
    trainer_in(callbacks=[callback]).test(model, loaders, verbose=False)
    assert sorted(file.name for file in folder.glob("*.png")) == [
        f"test_dataloader_idx_{index}.png" for index in (0, 1)
    ]


def test_loggers_get_the_picture_of_every_validation_and_of_the_test(trainer_in, tmp_path: Path, monkeypatch) -> None:
    shown: list[str] = []
    logger = TensorBoardLogger(tmp_path)
    monkeypatch.setattr(
        logger.experiment, "add_image", lambda name, picture, step, **more: shown.append(f"{name} {picture.ndim}")
    )
    trainer = trainer_in(callbacks=[ReconstructionPanel()], logger=logger)
    loader = DataLoader(samples(), batch_size=5)
    trainer.validate(Darker(), loader, verbose=False)
    trainer.test(Darker(), loader, verbose=False)
    assert shown == ["val/reconstructions 3", "test/reconstructions 3"]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda image: image[..., 1:], r"must be images \(B, C, H, W\) like those given"),
        (lambda image: image.repeat(1, 2, 1, 1), ""),
    ],
)
def test_what_is_no_reconstruction_is_refused(made, said, trainer_in, tmp_path: Path) -> None:
    model, data = Darker(made=made), [{**each, "image": each["image"].repeat(3, 1, 1)} for each in samples()]
    with pytest.raises(ShapeError, match=said or "must have the channels of the images, 3, .*got 6"):
        run(trainer_in, model, tmp_path, data)


def test_options() -> None:
    with pytest.raises(ConfigError, match="images must be at least 1; got 0"):
        ReconstructionPanel(images=0)
    with pytest.raises(ConfigError, match="colormap must be"):
        ReconstructionPanel(colormap="virids")


def test_pictures_of_two_processes_are_of_the_first_images(
    trainer_in, tmp_path: Path, two_processes, monkeypatch
) -> None:
    """The images of both are gathered; the first process draws those that come first in the data set."""
    draw = ReconstructionPanel._draw

    def noted(self, samples):
        found = [each.place for each in choose(samples, self.images)]
        (tmp_path / "places.txt").write_text(repr(found))
        return draw(self, samples)

    monkeypatch.setattr(ReconstructionPanel, "_draw", noted)
    trainer = trainer_in(**two_processes, callbacks=[ReconstructionPanel(images=3)])
    trainer.test(Darker(), DataLoader(samples(), batch_size=2), verbose=False)
    assert (tmp_path / "places.txt").read_text() == "[0, 3, 6, 1, 2, 4]"
    assert (tmp_path / "reconstructions" / "test.png").is_file()


RECONSTRUCT = [
    name for name in tiny_runs.METHODS if "reconstruct" in vars(getattr(tiny_runs.anomaly_suite.methods, name))
]


def test_every_method_of_the_family_and_igd_reconstruct() -> None:
    family = set(tiny_runs.anomaly_suite.methods.reconstruction.__all__)
    assert (family | {"IGD"}) & set(tiny_runs.METHODS) <= set(RECONSTRUCT)
    assert reconstruction_panel.Reconstruction is Reconstruction


@pytest.mark.parametrize("name", RECONSTRUCT)
def test_reconstructions_are_images_like_those_given(name: str) -> None:
    model, image = tiny_runs.make_model(name).eval(), tiny_runs.all_test_inputs(name)["image"][:3]
    with torch.no_grad():
        made = model.reconstruct(image)
        again = model.reconstruct(image)
        alone = model.reconstruct(image[:1])
    assert made is not None
    assert made.image.shape in (image.shape, (len(image), 3, *image.shape[2:]))
    assert made.image.isfinite().all()
    assert torch.equal(made.image, again.image)
    torch.testing.assert_close(alone.image, made.image[:1])
    if made.hidden is not None:
        assert made.hidden.dtype == torch.bool
        assert made.hidden.shape == (len(image), 1, *image.shape[2:])

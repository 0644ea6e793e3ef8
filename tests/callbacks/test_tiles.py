"""Large images in tiles, through a trainer and through a predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_runs import fitted, make_trainer

from anomaly_suite import data
from anomaly_suite.callbacks import ScoreTable, TiledPrediction
from anomaly_suite.callbacks.tiles import Tiling, keep_size
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.data.preparation import PicturePreparation
from anomaly_suite.data.transforms import Pipeline
from anomaly_suite.deploy.predictor import Predictor
from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.sliding_window import sliding_windows, tiled_scores


class Brightest(AnomalyModule):
    """The map is the image, the score its brightest pixel; it takes squares of one size."""

    def __init__(self, side: int = 8, *, has_map: bool = True) -> None:
        super().__init__()
        self.side, self.has_map = side, has_map
        self.seen: list[torch.Size] = []

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.seen.append(image.shape)
        assert image.shape[2:] == (self.side, self.side)
        grey = image.mean(1, keepdim=True)
        return grey.flatten(1).amax(1), grey if self.has_map else None


def whole() -> PicturePreparation:
    return PicturePreparation(Pipeline(image_size=None, center_crop=None, steps=()))


def test_the_highest_tile_is_the_score_and_maps_are_blended() -> None:
    image = torch.rand(2, 3, 21, 30, generator=torch.Generator().manual_seed(0))
    model = Brightest()
    found = Tiling(8)(model.predict, {"image": image})
    grey = image.mean(1, keepdim=True)
    torch.testing.assert_close(found["anomaly_map"], grey)  # tiles that agree blend to what they agree on
    assert torch.equal(found["anomaly_score"], grey.flatten(1).amax(1))
    assert all(shape == (2, 3, 8, 8) for shape in model.seen)
    assert len(model.seen) == 4 * 5  # 0, 6, 12, 13 down and 0, 6, 12, 18, 22 to the right
    assert "anomaly_map" not in Tiling(8)(Brightest(has_map=False).predict, {"image": image})


def test_blending_is_that_of_sliding_windows() -> None:
    image = torch.rand(1, 1, 20, 27, generator=torch.Generator().manual_seed(0))

    def centred(part: torch.Tensor) -> torch.Tensor:
        return part - part.mean((2, 3), keepdim=True)

    options: dict[str, Any] = {"window": (8, 10), "stride": (5, 7), "blend": "tapered"}
    _, found = tiled_scores(lambda part: (part.flatten(1).amax(1), centred(part)), image, **options)
    torch.testing.assert_close(found, sliding_windows(centred, image, **options))


@pytest.mark.parametrize(
    ("size", "overlap", "stride"), [(8, 0.25, (6, 6)), ((8, 12), 0.5, (4, 6)), (8, 0, (8, 8)), (2, 0.9, (1, 1))]
)
def test_overlap_is_a_share_of_a_tile(size: Any, overlap: float, stride: tuple[int, int]) -> None:
    assert Tiling(size, overlap).stride == stride


@pytest.mark.parametrize(
    ("size", "overlap", "says"),
    [(0, 0.25, "got 0"), ((8,), 0.25, r"got \(8,\)"), (8, 1.0, r"in \[0, 1\); got 1\.0"), (8, -0.1, "got -0.1")],
)
def test_tiles_that_cannot_be(size: Any, overlap: float, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Tiling(size, overlap)


def test_small_images_and_other_methods_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"at least as large as a tile, 8 x 8; got 7 x 30 \(H x W\)"):
        Tiling(8)(Brightest().predict, {"image": torch.zeros(1, 3, 7, 30)})
    with pytest.raises(ConfigError, match="the batch holds snippet_features"):
        Tiling(8)(Brightest().predict, {"snippet_features": torch.zeros(1, 2, 3, 4)})
    with pytest.raises(ConfigError, match="segmentation networks have options window and stride"):
        Tiling(8)(lambda batch: {"pred_target": batch["image"]}, {"image": torch.zeros(1, 3, 9, 9)})
    with pytest.raises(ConfigError, match="those of Digits have one"):
        keep_size(data.Digits())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("normal", 3), ("abnormal", 2)):
        (tmp_path / part).mkdir()
        for number in range(count):
            cv2.imwrite(
                str(tmp_path / part / f"{number}.png"), rng.integers(0, 256, (20 + number, 24, 3), dtype=np.uint8)
            )
    return tmp_path


def test_test_in_tiles_is_a_predictor_in_tiles(folder: Path) -> None:
    options = {
        "root": folder,
        "normal_dir": "normal",
        "abnormal_dir": "abnormal",
        "image_size": 8,
        "validation": "none",
    }
    module = data.Folder(**options)
    keep_size(module)
    model = Brightest()
    trainer = make_trainer(callbacks=[TiledPrediction(size=8), ScoreTable()], default_root_dir=folder / "run")
    trainer.test(model, datamodule=module, verbose=False)
    rows = [line.split(",") for line in (folder / "run" / "test_scores.csv").read_text().splitlines()[1:]]
    found = Predictor(model, whole(), device="cpu", tile=8, batch_size=1)([row[1] for row in rows])
    assert [each.anomaly_score for each in found] == pytest.approx([float(row[3]) for row in rows])
    assert found[0].anomaly_map is not None
    assert found[0].anomaly_map.shape[1] == 24
    assert "predict" not in vars(model)  # a later stage is without tiles


@pytest.mark.xdist_group("PaDiM")
def test_tiles_of_a_method_find_what_lies_in_one(tmp_path: Path) -> None:
    model = fitted("PaDiM").model
    part = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        alone = model.eval().predict({"image": part})
        tiled = Tiling(64, 0)(model.predict, {"image": torch.cat([part, 0.5 + 0 * part], 3)})
    assert tiled["anomaly_score"] >= alone["anomaly_score"] * (1 - 1e-5)
    torch.testing.assert_close(tiled["anomaly_map"][..., :64], alone["anomaly_map"], rtol=1e-4, atol=1e-4)


class Quiet(AnomalyModule):
    """A constant map; it costs nothing."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return image.new_zeros(len(image)), image.new_zeros(len(image), 1, *image.shape[2:])


@pytest.mark.matrix
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("side", [2000, 8000])
def test_beside_picture_and_map_memory_does_not_grow(side: int) -> None:
    image = torch.full((1, 3, side, side), 0.5)  # 0.8 GB

    def held(key: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024

    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # restarts the peak
    before = held("VmRSS")
    with torch.inference_mode():
        found = Tiling(256)(Quiet().predict, {"image": image})
    beside = held("VmHWM") - before - found["anomaly_map"].numel() * 4
    assert beside < 64 * 2**20

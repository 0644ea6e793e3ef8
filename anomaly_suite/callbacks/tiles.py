"""TiledPrediction: large images in tiles of the size that a method was trained on."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from anomaly_suite.contract import AnomalyDataModule, AnomalyModule, Batch, Prediction
from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.sliding_window import tiled_scores
from anomaly_suite.options import ChecksOptions


class Tiling:
    """Size and overlap of tiles, and what a method says of an image cut into them.

    Args:
        size: Height and width in pixels, or one number for both.
        overlap: Share of a tile that the next one covers again, in [0, 1).

    Raises:
        ConfigError: a value that cannot work.
    """

    def __init__(self, size: int | tuple[int, int], overlap: float = 0.25) -> None:
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if len(sides) != 2 or min(sides) < 1:
            raise ConfigError(
                f"size of tiles must be a height and a width in pixels, or one number for both; got {size!r}."
            )
        if not 0 <= overlap < 1:
            raise ConfigError(f"overlap of tiles must be a share in [0, 1); got {overlap}. 0.25 hides the seams.")
        self.size = (int(sides[0]), int(sides[1]))
        self.stride = (max(1, round(sides[0] * (1 - overlap))), max(1, round(sides[1] * (1 - overlap))))

    def __call__(self, predict: Any, batch: Batch) -> Prediction:
        """Raw scores of a batch.

        Args:
            predict: ``predict`` of a method on images.
            batch: ``image`` (B, C, H, W).

        Returns:
            ``anomaly_score`` (B,) of the highest tile, and where the method has maps ``anomaly_map`` (B, 1, H, W), blended.

        Raises:
            ShapeError: images smaller than a tile.
            ConfigError: a method that gives more than scores and maps.
        """
        if "image" not in batch:
            raise ConfigError(f"tiles are for methods on images; the batch holds {', '.join(batch)}. Leave them out.")
        image = batch["image"]
        if image.shape[2] < self.size[0] or image.shape[3] < self.size[1]:
            raise ShapeError(
                f"images must be at least as large as a tile, {self.size[0]} x {self.size[1]}; got {image.shape[2]} x {image.shape[3]} (H x W). "
                "Give smaller tiles, or leave them out for small images."
            )

        def of_tile(part: Tensor) -> tuple[Tensor, Tensor | None]:
            """Scores (B,) and maps of tiles (B, C, h, w)."""
            found: Prediction = predict({"image": part})
            if "pred_target" in found or "anomaly_score" not in found:
                raise ConfigError(
                    "tiles are for methods on images; segmentation networks have options window and stride. Use these."
                )
            return found["anomaly_score"], found.get("anomaly_map")

        score, anomaly_map = tiled_scores(of_tile, image, window=self.size, stride=self.stride)
        prediction: Prediction = {"anomaly_score": score}
        if anomaly_map is not None:
            prediction["anomaly_map"] = anomaly_map
        return prediction


class TiledPrediction(ChecksOptions, Callback):
    """Let ``test`` and ``predict`` score images tile by tile: the score is that of the highest tile, maps are blended.

    Images keep their size (``image_size: null`` of the data module), and tiles are of the size that the method was trained on. Beside the
    image and its map only one tile is in memory. Validation, and so the threshold, is as without tiles: of whole images as the fit had
    them.

    Args:
        size: Height and width of a tile in pixels, or one number for both; None scores whole images.
        overlap: Share of a tile that the next one covers again, in [0, 1).

    Raises:
        ConfigError: a value that cannot work, or a module that is no method on images.
    """

    def __init__(self, *, size: int | tuple[int, int] | None = None, overlap: float = 0.25) -> None:
        super().__init__()
        self.tiling = None if size is None else Tiling(size, overlap)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put tiles before ``predict`` for the stage."""
        tiling = self.tiling
        if tiling is None or stage not in ("test", "predict"):
            return
        if not isinstance(pl_module, AnomalyModule):
            raise ConfigError(
                f"tiles are for methods of anomaly_suite on images; got {type(pl_module).__name__}. Leave them out."
            )
        predict = pl_module.predict
        pl_module.predict = lambda batch: tiling(predict, batch)  # type: ignore[method-assign] # taken away in teardown

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take them away."""
        vars(pl_module).pop("predict", None)


def keep_size(data: AnomalyDataModule) -> None:
    """Let a data module give images in their own size, one a batch.

    Args:
        data: Before its splits are built.

    Raises:
        ConfigError: its images have one size.
    """
    if not hasattr(data, "center_crop"):
        raise ConfigError(
            f"tiles need images in their own size; those of {type(data).__name__} have one. Use a data module of image files."
        )
    options: Any = data
    options.image_size = options.center_crop = None
    options.eval_batch_size = 1

"""Predictor: scores, decisions and maps of new pictures in Python, without a trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from anomaly_suite.callbacks.tiles import Tiling, keep_size
from anomaly_suite.contract import AnomalyDataModule, AnomalyModule, Preparation
from anomaly_suite.contract.checkpoint_file import read_checkpoint
from anomaly_suite.contract.run_pair import require_pair
from anomaly_suite.data.new_pictures import stacked
from anomaly_suite.deploy.streams import PicturePredictor, Predicted, results
from anomaly_suite.errors import CheckpointError, ConfigError
from anomaly_suite.io.pictures import Picture, Pixels
from anomaly_suite.io.runs import find_checkpoint, find_run


class Predictor(PicturePredictor):
    """A fitted method and what happens to a picture before it, ready to score.

    Example:
        >>> predictor = Predictor.from_run("runs/padim")  # doctest: +SKIP
        >>> predictor("new/part.png")[0].is_anomalous  # doctest: +SKIP
        True

    Args:
        model: A fitted method on images.
        preparation: What happens to pictures first, such as ``data_module.preparation()``.
        device: Where to compute; None takes a GPU if there is one.
        batch_size: Pictures scored at once.
        tile: Height and width of tiles in pixels, or one number for both, of the size that the method was trained on; pictures then keep their
            size. None scores whole pictures.
        overlap: Share of a tile that the next one covers again, in [0, 1).

    Raises:
        NotFittedError: the method cannot score yet.
        ConfigError: a batch size under 1, or a device that is not there.
    """

    def __init__(
        self,
        model: AnomalyModule,
        preparation: Preparation,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        tile: int | tuple[int, int] | None = None,
        overlap: float = 0.25,
    ) -> None:
        super().__init__(preparation.channels, batch_size)
        self.tiling = None if tile is None else Tiling(tile, overlap)
        model.require_fitted()
        self.device = _device(device)
        self.model = model.eval().to(self.device)
        self.preparation = preparation

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        tile: int | tuple[int, int] | None = None,
        overlap: float = 0.25,
    ) -> Predictor:
        """The predictor of a run of ``anomaly-suite fit``, with its own size and steps.

        Args:
            run: Folder of the run, or one that holds runs, of which the newest is taken.
            device: See the class.
            batch_size: See the class.
            tile: See the class.
            overlap: See the class.

        Raises:
            DatasetNotFoundError: there is no run.
            CheckpointError: it has no checkpoint, or none that fits or that is its own.
            ConfigError: it is not a run on images.
        """
        folder = find_run(run)
        checkpoint = find_checkpoint(folder)
        require_pair(folder, checkpoint)
        model, data = load_run(folder / "config.yaml", checkpoint)
        if tile is not None:
            keep_size(data)
        return cls(model, data.preparation(), device=device, batch_size=batch_size, tile=tile, overlap=overlap)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | Path,
        *,
        data: AnomalyDataModule | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        tile: int | tuple[int, int] | None = None,
        overlap: float = 0.25,
    ) -> Predictor:
        """The predictor of a checkpoint.

        Args:
            checkpoint: The file.
            data: Data module whose pictures were trained on, for their size and steps; nothing of its data set is read. None where the
                ``config.yaml`` of the run lies in a folder above.
            device: See the class.
            batch_size: See the class.
            tile: See the class.
            overlap: See the class.

        Raises:
            CheckpointError: the file is no checkpoint of a method of this package.
            ConfigError: ``data`` is needed.
        """
        path = Path(checkpoint)
        configs = [folder / "config.yaml" for folder in path.absolute().parents[:2]]
        config = next((file for file in configs if file.is_file()), None)
        if config is None and data is None:
            raise ConfigError(
                f"how pictures are prepared is not in the checkpoint '{path}', and no config.yaml lies above it. Give data=, a data module as "
                "the fit had it, or the run to Predictor.from_run."
            )
        model, data = load_run(config if data is None else None, path, data)
        if tile is not None:
            keep_size(data)
        return cls(model, data.preparation(), device=device, batch_size=batch_size, tile=tile, overlap=overlap)

    def read(self, picture: Picture) -> Pixels:
        """See :class:`~anomaly_suite.deploy.streams.PicturePredictor`."""
        return self.preparation.read(picture.path)

    def prepared(self, pixels: Pixels, source: str) -> Pixels:
        """Cut, resized and transformed as the run's test images."""
        return self.preparation(pixels, source=source)

    @torch.inference_mode()
    def score(self, names: Sequence[str], pixels: Sequence[Pixels]) -> Iterator[Predicted]:
        """See :class:`~anomaly_suite.deploy.streams.PicturePredictor`."""
        batch: Any = {"image": stacked(pixels, names).to(self.device)}
        if self.tiling is None:
            found: Any = self.model.predict_step(batch, 0)
        else:
            self.model.check_input(batch)
            found = self.model.calibration(self.tiling(self.model.predict, batch))
        return results(
            names, {key: value.cpu().numpy() for key, value in found.items() if isinstance(value, torch.Tensor)}
        )


def load_run(
    config: Path | None, path: Path, data: AnomalyDataModule | None = None
) -> tuple[AnomalyModule, AnomalyDataModule]:
    """The method of a checkpoint, and the data module that it was trained with, of which nothing is read.

    Args:
        config: ``config.yaml`` of the run; None where the method is of this package, and ``data`` is given.
        path: The checkpoint.
        data: In place of the data module of the configuration.

    Raises:
        CheckpointError: the file is no checkpoint that fits.
        ConfigError: the configuration is none of a run.
    """
    checkpoint = read_checkpoint(path)
    given = {} if config is None else _read_config(config)
    name = given["model"].get("class_path") if given else _method_of(checkpoint, path)
    model = _class_of(name).load_from_checkpoint(path, map_location="cpu", weights_only=True)
    data = data or _build(AnomalyDataModule, given.get("data"), "data", str(config))
    state = checkpoint.get(type(data).__qualname__) or checkpoint.get("anomaly_suite", {}).get("data", {})
    data.predict_on((), path.parent)  # type: ignore[arg-type] # nothing of the data set is read
    data.load_state_dict(dict(state))
    return model, data


def _device(device: str | torch.device | None) -> torch.device:
    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device must be one that is there; got {device!r} ({' '.join(str(error).split())[:120]}). Use cpu, or leave it out."
        ) from error
    return found


def _read_config(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"'{file}' is no YAML ({' '.join(str(error).split())}). Restore it from the run.") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict) or "data" not in content:
        raise ConfigError(
            f"'{file}' is not the configuration of a run: it has no model and data. Give the folder that fit wrote."
        )
    return content


def _method_of(checkpoint: Mapping[str, Any], path: Path) -> str:
    """Dotted name of the class that wrote a checkpoint."""
    import anomaly_suite.methods

    options = checkpoint.get("hyper_parameters", {})
    name = checkpoint.get("anomaly_suite", {}).get("class")
    if "_class_path" in options:
        return str(options["_class_path"])
    if name not in anomaly_suite.methods.__all__:
        raise CheckpointError(
            f"'{path}' was written by {name or 'a class outside anomaly_suite'}, which is no method of this package. Build it with "
            "load_from_checkpoint of its class, and give it to Predictor."
        )
    return f"anomaly_suite.methods.{name}"


def _class_of(path: str) -> type[AnomalyModule]:
    import importlib

    module, _, name = str(path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module or "anomaly_suite.methods"), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the run's method {path!r} cannot be imported ({error}). Install it, or start where its file lies."
        ) from error
    if not (isinstance(found, type) and issubclass(found, AnomalyModule)):
        raise ConfigError(
            f"pictures are scored and exported with an AnomalyModule; the run's model {path!r} is none. Give the run of a method, or derive the class "
            "from AnomalyModule."
        )
    return found


def _build(kind: type[AnomalyDataModule], given: Any, key: str, source: str) -> AnomalyDataModule:
    """The data module of a configuration, without reading its data set."""
    from jsonargparse import ArgumentParser

    import anomaly_suite.data  # noqa: F401 - short names

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, key)
    try:
        built: AnomalyDataModule = parser.instantiate_classes(parser.parse_object({key: given}))[key]
    except Exception as error:  # whatever options lead to
        raise ConfigError(f"the {key} of '{source}' cannot be built: {' '.join(str(error).split())}") from error
    return built

"""BenchmarkMaps: anomaly maps in the files that the servers of driving-scene benchmarks take. Axes: H and W pixels."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from lightning.pytorch import LightningModule, Trainer

from anomaly_suite.callbacks.base import Stage, StageCallback, Step, of_data, output_folder
from anomaly_suite.callbacks.writing import WritesFiles, files_of, going_on, remove_former
from anomaly_suite.contract import KeyMap, check_key_map
from anomaly_suite.errors import ConfigError, DatasetError, NotFiniteError
from anomaly_suite.io.atomic import save_array, save_bytes, try_folder
from anomaly_suite.io.written import WrittenFiles

Layout = Literal["segment_me_if_you_can", "fishyscapes"]
_NUMBER = re.compile(r"\d{4}(?=_|$)")
_ENDS = re.compile(r"_(leftImg8bit|rgb)$")


class BenchmarkMaps(WritesFiles, StageCallback):
    """Write the anomaly map of every scene of ``predict`` and ``test`` as a benchmark's server takes it.

    ``segment_me_if_you_can``: ``anomaly_p/<method>/<set>/<id>.hdf5`` with the map as ``value`` (H, W), half precision, compressed. The data
    modules ``RoadAnomaly21`` and ``RoadObstacle21`` say the name of their set. ``fishyscapes``: ``<nnnn>_anomaly.npy`` (H, W), float32, and
    ``<nnnn>_segmentation.npy`` (H, W), the classes of the network, by the number that its images begin with. Maps have the size of
    their images, scores are as they are: higher is more anomalous.

    Args:
        layout: Whose server.
        method: Folder of ``segment_me_if_you_can``; by default the name of the method's class.
        dataset: Folder of ``segment_me_if_you_can``; by default what the data module says.
        folder: Where to write; ``submission`` in the run's log folder if None.
        key_map: Our names of keys, and what other loaders and modules call them.

    Raises:
        ConfigError: h5py is not installed, which writes ``.hdf5``; or no name for the set.
        DatasetError: an image without a number, or two scenes of one id.
        NotFiniteError: a score beyond half precision.
        FileWriteError: the folder cannot be written to, or files could not be written.
    """

    reads = ("anomaly_map",)

    def __init__(
        self,
        *,
        layout: Layout = "segment_me_if_you_can",
        method: str | None = None,
        dataset: str | None = None,
        folder: str | None = None,
        key_map: KeyMap | None = None,
    ) -> None:
        super().__init__()
        self.key_map = check_key_map(key_map)
        if layout == "segment_me_if_you_can" and find_spec("h5py") is None:
            raise ConfigError(
                "layout segment_me_if_you_can needs the package h5py; it is not installed. Install it: pip install 'anomaly-suite[submission]'."
            )
        self.layout: Layout = layout
        self.method, self.dataset, self.folder = method, dataset, folder
        self._files: WrittenFiles | None = None

    def begin(self, trainer: Trainer, stage: Stage) -> None:
        """Forget the stage before, and try the folder.

        Raises:
            ConfigError: see the class.
            FileWriteError: the folder cannot be written to.
        """
        self._target = output_folder(trainer, self.folder, "submission")
        self._seen: dict[str, str] = {}
        where = self._target
        if self.layout == "segment_me_if_you_can":
            dataset = self.dataset or of_data(trainer, "submission", None)
            if dataset is None:
                raise ConfigError(
                    "BenchmarkMaps needs the name of the set that the maps are of; the data module says none. Give dataset, such as "
                    "AnomalyTrack-all, or use RoadAnomaly21 or RoadObstacle21."
                )
            where = where / "anomaly_p" / (self.method or type(trainer.lightning_module).__name__) / dataset
        self._where = where
        try_folder(where)
        self._files = files_of(trainer, self._target, f"{type(self).__name__}_{stage}")

    def collect(self, step: Step) -> None:
        """Write the maps of one batch.

        Raises:
            DatasetError: see the class.
            NotFiniteError: see the class.
        """
        files = self._files
        if files is None or "anomaly_map" not in step.prediction or "image_path" not in step.batch:
            return
        maps = step.prediction["anomaly_map"].detach().float().cpu().numpy()[:, 0]
        classes = step.prediction.get("pred_target")
        for row, (path, anomaly_map) in enumerate(zip(step.batch["image_path"], maps, strict=True)):
            target = None if classes is None else classes[row].cpu().numpy()
            name = self._id(str(path))
            for file, content in self._contents(name, anomaly_map, target, source=str(path)):
                with going_on(step.trainer):
                    files.add(file)
                    save_bytes(file, content) if isinstance(content, bytes) else save_array(file, content)

    def _id(self, path: str) -> str:
        """What the server calls a scene.

        Raises:
            DatasetError: it cannot be told, or another scene has it.
        """
        name = _ENDS.sub("", Path(path).stem)
        if self.layout == "fishyscapes":
            number = _NUMBER.match(name)
            if number is None:
                raise DatasetError(
                    f"images of Fishyscapes begin with a number of four digits, which names their maps; got '{path}'. Give the images of the "
                    "benchmark under their names."
                )
            name = number[0]
        if self._seen.setdefault(name, path) != path:
            raise DatasetError(
                f"'{self._seen[name]}' and '{path}' would both be written as {name}. Predict on one set of images alone."
            )
        return name

    def _contents(
        self, name: str, anomaly_map: npt.NDArray[np.float32], target: npt.NDArray[Any] | None, *, source: str
    ) -> Iterator[tuple[Path, bytes | npt.NDArray[Any]]]:
        """Files of one scene and what they hold."""
        if self.layout == "fishyscapes":
            yield self._where / f"{name}_anomaly.npy", anomaly_map
            if target is not None:
                yield self._where / f"{name}_segmentation.npy", target.astype(np.uint8)
            return
        with np.errstate(over="ignore"):
            half = anomaly_map.astype(np.float16)
        if not np.isfinite(half).all():
            raise NotFiniteError(
                f"scores of a submission to SegmentMeIfYouCan must fit into half precision, up to 65504; got {np.abs(anomaly_map).max():.6g} for "
                f"'{source}'. Use another score, such as energy or sml."
            )
        yield self._where / f"{name}.hdf5", _hdf5(half)

    def finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Remove the files of an earlier stage that were not replaced."""
        if self._files is not None:
            remove_former(trainer, self._files)


def _hdf5(value: npt.NDArray[np.float16]) -> bytes:
    """A file that holds an array as ``value``."""
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("value", data=value, compression=9)
    return content.getvalue()

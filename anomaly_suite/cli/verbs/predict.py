"""``predict``: new pictures and videos through a run, without labels and without its data set."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_suite.callbacks import PredictionSummary, ScoreCurves, ScoreTable
from anomaly_suite.cli.lightning import SuiteCLI, start, telling
from anomaly_suite.cli.verbs.predict_videos import Extractor, find_samples, taken_extractor
from anomaly_suite.cli.verbs.run import of_run, run, taken
from anomaly_suite.contract import AnomalyDataModule
from anomaly_suite.data.new_pictures import NewPictures
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.pictures import OnError, check_on_error, common_folder, find_pictures, require_there
from anomaly_suite.io.runs import find_run
from anomaly_suite.methods.weak_video.bags import BagModule

FLAGS = ("-h", "--help", "--print_config")  # words that no value follows


class Request(NamedTuple):
    """What is to be scored, where results go, and what happens where a picture or video cannot be read."""

    inputs: list[str]
    place: Path
    on_error: OnError
    extractor: Extractor


def predict(words: list[str]) -> None:
    """Score the pictures that are named, or the run's test set where none is.

    Args:
        words: The rest of the command line: options, and among them the names of pictures, folders, patterns, videos or lists.

    Raises:
        ConfigError: wrong options, in one sentence.
        DatasetNotFoundError: there is no picture of such a name.
    """
    options, inputs = split_inputs(words)
    output, options = taken(options, "--output", needs="a folder for the results")
    on_error, options = taken(options, "--on_error", needs="raise or skip")
    extractor, options = taken_extractor(options)
    if not inputs:
        if output is not None or on_error is not None or extractor != Extractor():
            raise ConfigError(
                "--output, --on_error and --features are for new pictures and videos; got none. Name pictures, folders or videos."
            )
        run("predict", options)
        return
    check_on_error(on_error or "raise")
    for word in inputs:
        require_there(word)
    given, rest = taken(options, "--run", needs="the folder of an earlier fit")
    folder = None if given is None else find_run(given)
    place = Path(output or Path(folder or "runs", "predictions", _name(inputs[0])))
    request = Request(inputs, place, "skip" if on_error == "skip" else "raise", extractor)
    results = ["--trainer.default_root_dir", str(place), "--table.path", "null"]
    results += ["--heatmaps.folder", "null", "--curves.folder", "null"]
    words = [*results, *rest] if folder is None else of_run(folder, rest, results, logs=False)
    with telling("predict"):
        start(partial(NewPicturesCLI, request=request), "predict", words)  # type: ignore[arg-type] # it makes one


def split_inputs(words: list[str]) -> tuple[list[str], list[str]]:
    """Part a command line into options with their values, and names of pictures.

    Args:
        words: After the verb.

    Example:
        >>> split_inputs(["--run", "runs/a", "new", "--trainer.devices=2", "b.png"])
        (['--run', 'runs/a', '--trainer.devices=2'], ['new', 'b.png'])
    """
    options: list[str] = []
    inputs: list[str] = []
    is_value = False
    for word in words:
        if word.startswith("-") and not is_value:
            options.append(word)
            is_value = "=" not in word and word not in FLAGS
        else:
            (options if is_value else inputs).append(word)
            is_value = False
    return options, inputs


def _name(word: str) -> str:
    """A name for the results of an input: its own, or the folder above a pattern."""
    parts = [part for part in Path(word).absolute().parts if not set(part) & set("*?[")]
    return Path(parts[-1]).stem or "pictures"


class NewPicturesCLI(SuiteCLI):
    """Lightning's ``predict`` on new pictures in place of the data set."""

    def __init__(self, *args: Any, request: Request, **options: Any) -> None:
        self.request = request
        super().__init__(*args, **options)

    def instantiate_classes(self) -> None:
        """Build model, data and trainer, and let the data module give the new pictures or videos."""
        super().instantiate_classes()
        if isinstance(self.model, BagModule):
            self._score_videos(self.model)
        else:
            self._score_pictures()
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ScoreTable):
                callback.name = "predictions"
        self.trainer.callbacks.append(PredictionSummary())  # type: ignore[attr-defined]

    def _score_videos(self, model: BagModule) -> None:
        """Extract features, and let curves and overlays show the originals."""
        request = self.request
        found = find_samples(
            request.inputs,
            model,
            self.datamodule,
            checkpoint=self._get(self.config, "ckpt_path"),
            place=request.place,
            extractor=request.extractor,
            on_error=request.on_error,
        )
        self.datamodule.predict_on(found.samples, found.root)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ScoreCurves):
                callback.originals = found.originals or None
                callback.save_scores = "csv" if callback.save_scores == "none" else callback.save_scores

    def _score_pictures(self) -> None:
        """Prepare pictures as those of the data set.

        Raises:
            ConfigError: the data module cannot do that.
        """
        request = self.request
        if request.extractor != Extractor():
            raise ConfigError(
                f"--features is for methods on snippet features of videos; the run's method is {type(self.model).__name__}. Leave it out."
            )
        pictures = find_pictures(request.inputs)
        if self.datamodule is None:
            raise ConfigError(
                "predict needs to know how pictures are prepared; got no data. Give --run RUN or --data NAME."
            )
        if not isinstance(self.datamodule, AnomalyDataModule):
            raise ConfigError(
                f"predict on new pictures needs a data module of anomaly_suite, which says how they are read and resized; got "
                f"{type(self.datamodule).__name__}. Leave the pictures out to score its predict_dataloader, or derive it from AnomalyDataModule."
            )
        samples = NewPictures(pictures, self.datamodule.preparation(), on_error=request.on_error)
        self.datamodule.predict_on(samples, common_folder(pictures))

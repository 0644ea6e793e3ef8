"""``predict``: new pictures and videos through a run, without labels and without its data set."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_suite.callbacks import PredictionSummary, ScoreTable
from anomaly_suite.cli.lightning import SuiteCLI, start, telling
from anomaly_suite.cli.verbs.run import of_run, run, taken
from anomaly_suite.data.new_pictures import NewPictures
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.pictures import OnError, Picture, check_on_error, common_folder, find_pictures
from anomaly_suite.io.runs import find_run

FLAGS = ("-h", "--help", "--print_config")  # words that no value follows


class Request(NamedTuple):
    """What is to be scored, and what happens where a picture cannot be read."""

    pictures: list[Picture]
    on_error: OnError


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
    if not inputs:
        if output is not None or on_error is not None:
            raise ConfigError(
                "--output and --on_error are for new pictures; got none. Name pictures, folders or videos."
            )
        run("predict", options)
        return
    check_on_error(on_error or "raise")
    request = Request(find_pictures(inputs), "skip" if on_error == "skip" else "raise")
    given, rest = taken(options, "--run", needs="the folder of an earlier fit")
    folder = None if given is None else find_run(given)
    place = Path(output or Path(folder or "runs", "predictions", _name(inputs[0])))
    results = ["--trainer.default_root_dir", str(place), "--table.path", "null", "--heatmaps.folder", "null"]
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
        """Build model, data and trainer, and let the data module give the new pictures.

        Raises:
            ConfigError: the data module cannot prepare pictures.
        """
        super().instantiate_classes()
        if self.datamodule is None:
            raise ConfigError(
                "predict needs to know how pictures are prepared; got no data. Give --run RUN or --data NAME."
            )
        request = self.request
        samples = NewPictures(request.pictures, self.datamodule.preparation(), on_error=request.on_error)
        self.datamodule.predict_on(samples, common_folder(request.pictures))
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ScoreTable):
                callback.name = "predictions"
        self.trainer.callbacks.append(PredictionSummary())  # type: ignore[attr-defined]

"""What a cell of a grid does: the command line's own ``fit`` and ``test``, and the record of both."""

from __future__ import annotations

import gc
import inspect
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import yaml

from anomaly_suite.benchmark.cells import BEFORE, Cell
from anomaly_suite.benchmark.folder import FITTED, LOG, GridFolder, Record
from anomaly_suite.benchmark.grid import expanded
from anomaly_suite.benchmark.settings import Keep
from anomaly_suite.cli.figures import compared, read_config
from anomaly_suite.cli.samples import find_config
from anomaly_suite.cli.verbs.report import sections_of
from anomaly_suite.cli.verbs.run import of_run
from anomaly_suite.errors import CheckpointError, ConfigError, DatasetNotFoundError
from anomaly_suite.io.atomic import printable, save_json
from anomaly_suite.io.runs import FAILED, find_checkpoint, find_run, state_of

TAKERS = ("local_encoder_weights", "encoder_weights", "segmenter_weights")
"""Options that take over the run of an earlier stage; the first for encoders of patches alone."""
CUT = "cut.ckpt"
"""In the folder of a cell: how far an attempt came that was killed."""
QUIET = ["--trainer.enable_progress_bar", "false"]
LEFT_OUT: dict[Keep, tuple[str, ...]] = {
    "results": ("heatmaps", "plots", "curves", "splits"),
    "checkpoints": ("heatmaps", "plots", "curves", "splits"),
    "all": (),
}


class RunCell:
    """Runs one cell, in this process.

    Args:
        keep: What stays of it.
    """

    def __init__(self, keep: Keep) -> None:
        self.keep = keep

    def __call__(self, cell: Cell, folder: GridFolder) -> Record:
        """Fit, unless an earlier attempt got that far, then test; a fit that was killed goes on behind its last checkpoint.

        Args:
            cell: Held by this process.
            folder: Of the grid.

        Returns:
            What the record holds beyond what is known of every cell.
        """
        with logged(folder.of(cell) / LOG):
            try:
                return self._run(cell, folder)
            finally:
                _let_go()

    def _run(self, cell: Cell, folder: GridFolder) -> Record:
        words = fit_words(cell, folder)
        marker = folder.of(cell) / FITTED
        fitted = json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else None
        if fitted is None:
            fitted = self._fitted(words, cell, folder)
            save_json(marker, fitted)
            (folder.of(cell) / CUT).unlink(missing_ok=True)
        run = find_run(folder.run_of(cell))
        names = dict(zip(map(find_config, cell.configs), cell.configs, strict=True))
        record = {**_facts(read_config(run)), **fitted, "command": _command([names.get(word, word) for word in words])}
        if cell.tested:
            tested, seconds = _test(run, self.keep)
            record |= tested
            record["seconds"] = {**fitted["seconds"], **seconds}
            axes = [*cell.classes, *cell.subsets]
            before = [find_run(folder.run_of(name)) for name in cell.before]
            record |= compared(run, before=before, name=cell.published, axes=axes)
        record["kept"] = cell.hands_over or self.keep != "results"
        if not record["kept"]:
            shutil.rmtree(run / "checkpoints", ignore_errors=True)
            marker.unlink(missing_ok=True)
        return record

    def _fitted(self, words: list[str], cell: Cell, folder: GridFolder) -> Record:
        """Fit behind the last checkpoint of a cut attempt, or from the beginning."""
        cut = folder.of(cell) / CUT
        _set_aside(folder.run_of(cell), cut)
        folder.clear_run(cell)
        if not cut.is_file():
            return _fit(words)
        try:
            fitted = {**_fit([*words, "--ckpt_path", str(cut.absolute())]), "continued": True}
            find_checkpoint(find_run(folder.run_of(cell)))  # a fit with nothing left to do saves none
        except CheckpointError as error:
            cut.unlink()
            print(f"{error} The fit begins anew, not behind the checkpoint of the attempt that was cut.")
            folder.clear_run(cell)
            return _fit(words)
        return fitted


def _set_aside(run: Path, cut: Path) -> None:
    """Move the checkpoint of an attempt that was killed out of its run; one that failed leaves none, for it may hold what went wrong."""
    with suppress(DatasetNotFoundError, CheckpointError):
        found = find_run(run)
        if state_of(found) == FAILED:
            cut.unlink(missing_ok=True)
        else:
            os.replace(find_checkpoint(found), cut)


def fit_words(cell: Cell, folder: GridFolder) -> list[str]:
    """The command line of a cell's fit, less the verb.

    Args:
        cell: Of a grid.
        folder: Of the grid.

    Raises:
        ConfigError: an option that takes over an earlier run is not found, or a variable of the environment.
    """
    words = [word for name in cell.configs for word in ("--config", find_config(name))]
    words += ["--trainer.logger", "false", "--trainer.devices", "1", *QUIET, "--seed_everything", str(cell.seed)]
    runs = [str(folder.run_of(name).absolute()) for name in cell.before]
    for name, value in cell.options.items():
        words += [f"--{name}", as_word(_with_runs(expanded(value), runs))]
    root = ["--trainer.default_root_dir", str(folder.run_of(cell).absolute())]
    config = planned(words + root)
    if "seed" in (value_at(config, "data", "init_args") or {}) and "data.seed" not in cell.options:
        words += ["--data.seed", str(cell.seed)]
    if runs and not any(BEFORE[:-1] in str(value) for value in cell.options.values()):
        for number, run in enumerate(runs):
            option = cell.takes[number] or taker(config, folder.run_of(cell.before[number]))
            words += [f"--model.{option}", run]
    return words + root


def planned(words: list[str]) -> dict[str, Any]:
    """The complete configuration that a command line of ``fit`` asks for.

    Raises:
        ConfigError: it cannot be, or asks for several devices.
    """
    from anomaly_suite.cli.planned import plan_lightning

    config: dict[str, Any] = yaml.safe_load(plan_lightning("fit", words).asked())
    trainer = config["trainer"]
    devices = trainer["devices"]
    one = devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)
    if not one or trainer["num_nodes"] != 1:
        raise ConfigError(
            f"a cell runs on one device; got trainer.devices={devices}, trainer.num_nodes={trainer['num_nodes']}. Fit it alone, or leave "
            "them out."
        )
    return config


def value_at(config: dict[str, Any], *keys: str) -> Any:
    """A value inside nested mappings; None where there is none."""
    value: Any = config
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def taker(config: dict[str, Any], run: Path) -> str:
    """The option of a method that takes over an earlier run.

    Args:
        config: Complete configuration of the method.
        run: The earlier run, or the folder that will hold it.

    Raises:
        ConfigError: there is none.
    """
    from anomaly_suite.cli.lightning import class_of

    path = value_at(config, "model", "class_path")
    options = inspect.signature(class_of(path).__init__).parameters
    earlier = read_config(find_run(run)) if run.is_dir() else {}
    patches = value_at(earlier, "model", "init_args", "patch_size") is not None
    for option in TAKERS if patches else TAKERS[1:]:
        if option in options:
            return option
    raise ConfigError(
        f"the last stage of a method must take the run before it; {path.rpartition('.')[2]} has none of {', '.join(TAKERS)}. "
        f"Say which option with takes, or write {BEFORE} as its value."
    )


def _with_runs(value: Any, runs: list[str]) -> Any:
    """An option with ``{before}``, ``{before2}`` and so on replaced by run folders."""
    if isinstance(value, list):
        return [_with_runs(item, runs) for item in value]
    if isinstance(value, str):
        for number, run in enumerate(runs, 1):
            value = value.replace(BEFORE if number == 1 else f"{BEFORE[:-1]}{number}}}", run)
    return value


def as_word(value: Any) -> str:
    """A value as a word of the command line.

    Example:
        >>> as_word(None), as_word([1, "a"]), as_word(True), as_word("x")
        ('null', '[1, "a"]', 'true', 'x')
    """
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _fit(words: list[str]) -> Record:
    """Fit.

    Returns:
        ``seconds``.

    Raises:
        CheckpointError: the fit ended early.
        SystemExit: the user has interrupted it.
    """
    from anomaly_suite.cli.lightning import run_lightning

    wall, processor = time.perf_counter(), time.process_time()
    done = run_lightning("fit", words)
    if not done.trainer.state.finished:
        raise CheckpointError("the fit ended early. Look at log.txt of the cell, and run it again with --retry-failed.")
    return {
        "seconds": {
            "fit": round(time.perf_counter() - wall, 3),
            "fit_cpu": round(time.process_time() - processor, 3),
        }
    }


def _test(run: Path, keep: Keep) -> tuple[Record, dict[str, float]]:
    """Test a run as ``test --run`` does, and read what it found."""
    from anomaly_suite.cli.lightning import run_lightning

    wall, processor = time.perf_counter(), time.process_time()
    already = read_config(run).get("disable") or []
    words = [*QUIET, "--disable", json.dumps(sorted({*already, *LEFT_OUT[keep]}))]
    done = run_lightning("test", of_run(run, words))
    seconds = {
        "test": round(time.perf_counter() - wall, 3),
        "test_cpu": round(time.process_time() - processor, 3),
    }
    logged = {name.removeprefix("test/"): float(value) for name, value in done.trainer.callback_metrics.items()}
    file = run / "metrics.json"
    result = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    values = {name: value for section in sections_of(result).values() for name, value in section["metrics"].items()}
    return {
        "metrics": {name: values.get(name, value) for name, value in logged.items()}
    }, seconds  # files have all digits


def _facts(config: dict[str, Any]) -> Record:
    names = {"method_class": "model", "data_class": "data"}
    return {key: str(value_at(config, part, "class_path")).rpartition(".")[2] for key, part in names.items()}


def _command(words: list[str]) -> str:
    return printable(shlex.join(["anomaly-suite", "fit", *words]))


def _let_go() -> None:
    """Free what the last cell held, before the next one is built."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def logged(file: Path) -> Iterator[None]:
    """Send all that is printed to a file, also by loaders of data and by libraries that know nothing of Python's ``sys.stdout``.

    Args:
        file: Which goes on.
    """
    with file.open("a", encoding="utf-8", buffering=1) as log:
        sys.stdout.flush()
        sys.stderr.flush()
        kept = [os.dup(number) for number in (1, 2)]
        try:
            for number in (1, 2):
                os.dup2(log.fileno(), number)
            with redirect_stdout(log), redirect_stderr(log):
                yield
        finally:
            for number, earlier in zip((1, 2), kept, strict=True):
                os.dup2(earlier, number)
                os.close(earlier)

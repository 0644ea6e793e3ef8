"""``fit ... --then FILE ...``: pre-trainings, and the detector that takes their encoders."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anomaly_suite.cli.catalog import options_of
from anomaly_suite.cli.lightning import SuiteCLI, class_of, run_lightning, telling
from anomaly_suite.cli.planned import PlannedCLI, plan_lightning
from anomaly_suite.cli.stages import THEN, Stage
from anomaly_suite.cli.trainer_options import require_checkpoint
from anomaly_suite.errors import AnomalySuiteError, CheckpointError, ConfigError
from anomaly_suite.io.atomic import save_text
from anomaly_suite.io.runs import find_checkpoint, find_run

WHOLE, PATCHES = "encoder_weights", "local_encoder_weights"
FINISHED = "finished.yaml"
"""Beside ``config.yaml`` of a pre-training that a chain has finished: the configuration it was asked for."""

MARK = 0.15625  # what stands for every weight before there are any; float16 and bfloat16 hold it exactly


def chain(stages: list[Stage], *, tested: bool = False) -> SuiteCLI:
    """Fit every stage but the last, a pre-training each, unless it is finished; then the last with their encoders.

    A pre-training of patches goes to ``local_encoder_weights`` where the detector has it, any other to ``encoder_weights``. All that can be
    known is checked before anything is trained: the models of all stages are built, and an encoder of each pre-training is given to the
    detector. A pre-training is not trained again where a run below its ``default_root_dir`` was finished by a chain with the same
    configuration and has a checkpoint.

    Args:
        stages: Two or more, the detector last.
        tested: Whether the detector must leave a checkpoint, too.

    Returns:
        The finished command line of the detector.

    Raises:
        ConfigError: a first method without encoder, a last one that takes none, or options that leave no run to hand over.
        WeightsError: an encoder that does not fit.
    """
    plans = [_plan(stage) for stage in stages]
    models = [_build(stage, plan) for stage, plan in zip(stages[:-1], plans[:-1], strict=True)]
    options = [_option(stages[-1], plans[-1], stage, model) for stage, model in zip(stages, models, strict=False)]
    if len(set(options)) < len(options):
        raise ConfigError(
            f"the detector takes one encoder of whole images and one of patches; got {len(options)} pre-trainings for {', '.join(options)}. "
            "Leave one out, or set its patch_size."
        )
    _require_folders(stages, plans, tested=tested)
    _try_hand_over(stages, plans[-1], dict(zip(options, models, strict=True)))
    texts = [plan.asked() for plan in plans]
    roots = [plan.root() for plan in plans]
    del plans, models
    words = list(stages[-1].words)
    for stage, option, text, root in zip(stages, options, texts, roots, strict=False):
        run = _finished(root, text)
        if run is not None:
            print(f"{stage} is finished in {run} and not trained again; its configuration is the same.")
        else:
            run = _train(stage, root, text)
        words += [f"--model.{option}", str(run)]
        print(f"{stages[-1]} takes {run} as {option}.")
    with _named(stages[-1]):
        return run_lightning("fit", words)


@contextmanager
def _named(stage: Stage) -> Iterator[None]:
    """Errors that say which stage they are of."""
    try:
        yield
    except AnomalySuiteError as error:
        raise type(error)(f"{stage}: {error}") from error


def _plan(stage: Stage) -> PlannedCLI:
    with _named(stage):
        return plan_lightning("fit", stage.words)


def _build(stage: Stage, plan: PlannedCLI, **options: Any) -> Any:
    with _named(stage), telling("fit"):
        return plan.build(**options)


def _option(last: Stage, plan: PlannedCLI, stage: Stage, model: Any) -> str:
    """The option of the detector that takes the encoder of a pre-training.

    Raises:
        ConfigError: there is none, or no encoder, or the user gives it, too.
    """
    encoder = getattr(model, "encoder", None)
    if not (isinstance(encoder, nn.Module) and hasattr(encoder, "load_weights")):
        raise ConfigError(
            f"every stage before the last must be a pre-training, with an encoder to hand over; {stage} is {type(model).__name__}, which has "
            "none. Choose one (anomaly-suite list methods), or fit it alone."
        )
    path = plan.class_path()
    taken = inspect.signature(class_of(path).__init__).parameters
    local = model.hparams.get("patch_size") is not None and PATCHES in taken
    option = PATCHES if local else WHOLE
    if option not in taken:
        raise ConfigError(
            f"the last stage must be a method with encoder_weights; {last} is {path.rpartition('.')[2]}, which has no such option. Choose "
            "another method, or fit it alone."
        )
    if any(given in (f"--model.{option}", f"--model.init_args.{option}") for given, _ in options_of(last.words)):
        raise ConfigError(
            f"{option} of {last} is the run of {stage}; got --model.{option}, too. Leave it out, or leave out {THEN}."
        )
    return option


def _require_folders(stages: list[Stage], plans: list[PlannedCLI], *, tested: bool) -> None:
    """Refuse what would leave no run, or one over the other.

    Raises:
        ConfigError: with the option.
    """
    for stage, plan in zip(stages, plans, strict=True):
        if tested or stage is not stages[-1]:
            require_checkpoint(plan.config["fit"].trainer, who=str(stage))
    plain = [plan.root() for plan in plans if plan.is_plain()]
    if len({root.resolve() for root in plain}) < len(plain):
        raise ConfigError(
            "stages without a logger need a folder each; got the same default_root_dir. Set trainer.default_root_dir of one of them."
        )


def _try_hand_over(stages: list[Stage], plan: PlannedCLI, models: dict[str, Any]) -> None:
    """Give the detector encoders built like those of the pre-trainings.

    Raises:
        WeightsError: one does not fit.
        ConfigError: the detector would not read one.
    """
    last = stages[-1]
    with tempfile.TemporaryDirectory() as folder:
        files = {option: str(Path(folder) / f"{option}.ckpt") for option in models}
        for option, model in models.items():
            named = {"encoder": str(model.hparams["encoder"])} if "encoder" in model.hparams else {}
            torch.save({"state_dict": _marked(model), "hyper_parameters": named}, files[option])
        try:
            detector = _build(last, plan, **files)
            with _named(last):
                detector.load_pretrained()
        except AnomalySuiteError as error:
            said = str(error)
            for stage, file in zip(stages, files.values(), strict=False):
                said = said.replace(repr(file), f"the run of {stage}").replace(file, f"the run of {stage}")
            raise type(error)(said) from error
    found = sum(_is_marked(value) for value in detector.state_dict().values() if isinstance(value, torch.Tensor))
    if not found:
        raise ConfigError(
            f"{last} must read the encoder of the stages before; with these options {type(detector).__name__} does not read "
            f"{' and '.join(models)}. Choose its scope and patch sizes to go with the pre-training."
        )


def _marked(model: Any) -> dict[str, torch.Tensor]:
    """Tensors of an encoder as in a checkpoint, their values known again."""
    state = {f"encoder.{key}": value for key, value in model.encoder.state_dict().items()}
    return {key: torch.full_like(value, MARK) if value.is_floating_point() else value for key, value in state.items()}


def _is_marked(value: torch.Tensor) -> bool:
    return value.is_floating_point() and value.numel() > 1 and bool((value == MARK).all())


def _finished(root: Path, text: str) -> Path | None:
    """The newest finished run with a configuration below a folder; None if there is none."""
    files = [file for file in (root / FINISHED, *root.rglob(f"*/{FINISHED}")) if file.is_file()]
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        if file.read_text(encoding="utf-8") == text and (file.parent / "config.yaml").is_file():
            try:
                find_checkpoint(file.parent)
            except CheckpointError:
                continue
            return file.parent
    return None


def _train(stage: Stage, root: Path, text: str) -> Path:
    """Fit one pre-training and note that it is finished.

    Raises:
        CheckpointError: it ended early.
    """
    print(f"{stage} is trained.")
    with _named(stage):
        done = run_lightning("fit", stage.words)
        run = done.run_folder() or find_run(root)
        find_checkpoint(run)
        if not done.trainer.state.finished:
            raise CheckpointError("the fit ended early. Run the command again.")
        if done.trainer.is_global_zero:
            save_text(run / FINISHED, text)
    return run

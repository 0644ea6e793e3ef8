"""Which published figures stand beside a run, and what differed from their setting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from anomaly_suite.cli.catalog import options_of
from anomaly_suite.cli.samples import Figure, find_config, origins, published, sample, sample_names, stack_of

TRAINER = {  # options of the trainer that are part of a setting, and what they are where nobody says
    "max_epochs": None,
    "max_steps": -1,
    "max_time": None,
    "limit_train_batches": None,
    "limit_val_batches": None,
    "limit_test_batches": None,
    "overfit_batches": 0.0,
    "accumulate_grad_batches": 1,
    "gradient_clip_val": None,
    "precision": "32-true",
}
NO_SETTING = {
    "seed",
    "num_workers",
    "eval_batch_size",
    "download",
}  # of data: where it is and how fast, not what is done


def reference_of(configs: Iterable[str], method: str, data: str) -> str | None:
    """The sample configuration with published figures that a run is compared with.

    The run's own configurations first, the last one foremost; then those of which they are the ``_cpu`` variant; then the headline
    configuration of the same method and data, the one with the shortest name.

    Args:
        configs: Of the run, as its ``config.yaml`` names them, those of earlier stages in front.
        method: Short class name.
        data: Short class name of the data module.
    """
    known = set(sample_names())
    names = [name for name in configs if name in known]
    full = [name.replace("_cpu.yaml", ".yaml") for name in names]
    headline = sorted((name for name in published() if name in known), key=lambda name: (len(name), name))
    own = [name for name in (*reversed(names), *reversed(full)) if name in known]
    for name in own:
        if figures_of(name, method, data):
            return name
    if any(name.startswith("pretraining/") for name in names):
        return None  # a detector on a pre-training is not the detector alone
    return next((name for name in headline if _is_headline(name, method, data)), None)


def _is_headline(name: str, method: str, data: str) -> bool:
    figures = [figure for figure in figures_of(name, method, data) if "options" not in figure]
    return bool(figures) and sample(name).method == method


def figures_of(name: str, method: str, data: str) -> list[Figure]:
    """Published figures of a sample configuration that are of one method and data set.

    Args:
        name: Of the configuration.
        method: Short class name.
        data: Short class name of the data module that was tested.
    """
    known = sample(name)
    return [
        figure
        for figure in published().get(name, ())
        if figure.get("of", known.method) == method and figure.get("data", known.data) == data
    ]


def chosen_figures(name: str, method: str, data: str, config: Mapping[str, Any]) -> dict[str, Figure]:
    """The figure of each metric: of those whose options the run has, the one with most; one with other options is no figure of it.

    Args:
        name: Of a sample configuration.
        method: Short class name.
        data: Short class name of the data module that was tested.
        config: The run's complete configuration.
    """
    found: dict[str, tuple[int, Figure]] = {}
    for figure in figures_of(name, method, data):
        options = figure_options(figure)
        if all(_same(value_of(config, option), value) for option, value in options.items()):
            metric = figure["metric"]
            if metric not in found or len(options) > found[metric][0]:
                found[metric] = (len(options), figure)
    return {metric: figure for metric, (_, figure) in found.items()}


def figure_options(figure: Figure) -> dict[str, Any]:
    """Options that a published figure holds for, by dotted name, with their values."""
    words = options_of(figure.get("options", "").split())
    return {option.lstrip("-"): yaml.safe_load(value) for option, value in words if option.startswith("--")}


def value_of(config: Mapping[str, Any], option: str) -> Any:
    """The value of an option such as ``model.lr`` in a configuration; None where it has none."""
    part, _, name = option.partition(".")
    section: Any = config.get(part) or {}
    if not isinstance(section, Mapping):
        return None
    inside = section.get("init_args", section)
    return inside.get(name.removeprefix("init_args.")) if isinstance(inside, Mapping) else None


def differences(
    config: Mapping[str, Any], reference: Mapping[str, Any], *, axes: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Options of a run that are other than in the configuration of a published figure.

    Args:
        config: Complete configuration of the run.
        reference: Complete configuration that the figure belongs to.
        axes: Options that differ by intention, such as the class that is normal.

    Returns:
        ``option``, ``published`` and ``here`` each.
    """
    left_out = {axis.removeprefix("data.").removeprefix("init_args.") for axis in axes}
    pairs: list[tuple[str, Any, Any]] = []
    for part in ("model", "data"):
        ours, theirs = config.get(part) or {}, reference.get(part) or {}
        pairs.append((part, _class_name(theirs), _class_name(ours)))
        mine, other = ours.get("init_args") or {}, theirs.get("init_args") or {}
        pairs += [
            (f"{part}.{name}", other[name], mine[name])
            for name in mine
            if name in other and not (part == "data" and (name in NO_SETTING or name in left_out))
        ]
    pairs = [each for each in pairs if not (_is_place(each[1]) and _is_place(each[2]))]
    ours, theirs = config.get("trainer") or {}, reference.get("trainer") or {}
    pairs += [
        (f"trainer.{name}", _in_effect(theirs.get(name), usual), _in_effect(ours.get(name), usual))
        for name, usual in TRAINER.items()
    ]
    ours, theirs = config.get("checkpoint") or {}, reference.get("checkpoint") or {}
    pairs.append(("checkpoint.monitor", theirs.get("monitor"), ours.get("monitor")))
    return [
        {"option": option, "published": theirs, "here": ours}
        for option, theirs, ours in pairs
        if not _same(theirs, ours)
    ]


def _class_name(part: Mapping[str, Any]) -> str:
    return str(part.get("class_path", "")).rpartition(".")[2]


def _in_effect(value: Any, usual: Any) -> Any:
    whole = isinstance(value, float) and value == 1.0  # a limit of all batches; 1 is one batch
    return usual if value is None or whole else value


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def _is_place(value: Any) -> bool:
    """Whether a value is where something lies on one machine, or nothing where a default place is meant."""
    return value is None or (isinstance(value, str) and ("/" in value or "\\" in value))


@lru_cache
def complete(name: str) -> dict[str, Any]:
    """A sample configuration with all options that it leaves to their defaults.

    Args:
        name: Of the configuration.
    """
    from anomaly_suite.cli.planned import plan_lightning

    words = [word for file in stack_of(Path(find_config(name))) or (name,) for word in ("--config", find_config(file))]
    return dict(yaml.safe_load(plan_lightning("fit", words).asked()))


def read_config(run: Path) -> dict[str, Any]:
    """The complete configuration of a run.

    Args:
        run: Its folder.
    """
    return dict(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))


def compared(run: Path, *, before: Iterable[Path] = (), name: str = "", axes: Iterable[str] = ()) -> dict[str, Any]:
    """What was published for a run's setting, and how its setting differed.

    Args:
        run: The run folder.
        before: Run folders of earlier stages.
        name: Sample configuration to compare with; empty for the one that fits.
        axes: Options that differ by intention.

    Returns:
        ``reference``, a sample configuration or None; ``published``, by metric the figure as in ``published.yaml``; ``differs``.
    """
    config = read_config(run)
    method, data = (_class_name(config.get(part) or {}) for part in ("model", "data"))
    names = [origin for folder in (*before, run) for origin in origins(folder / "config.yaml")]
    reference = name or reference_of(names, method, data)
    if reference is None:
        return {"reference": None, "published": {}, "differs": []}
    known = sample(reference)
    if name:  # whatever its method and data are called
        method, data = known.method, known.data
    figures = chosen_figures(reference, method, data, config)
    # A pre-training's figure is that of the detector on its encoder: what belongs to the detector's own file is not known.
    differs = differences(config, complete(reference), axes=axes) if known.method == method else []
    holds = {option for figure in figures.values() for option in figure_options(figure)}
    return {
        "reference": reference,
        "published": {metric: dict(figure) for metric, figure in figures.items()},
        "differs": [each for each in differs if each["option"] not in holds],
    }

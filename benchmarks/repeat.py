"""Configurations trained and tested with several seeds: one JSON line a run, then a Markdown table of means and deviations.

    python benchmarks/repeat.py sample_configs/weak_video/{deep_mil,rtfm,ctmil}_synthetic_videos_cpu.yaml --seeds 0 1 2 \
        --metrics frame_AUROC frame_AP --results runs/weak_video.jsonl
    python benchmarks/repeat.py sample_configs/weak_video/{deep_mil,rtfm}_ucsd_ped2_cpu.yaml --seeds 0 \
        --vary split 0 1 2 3 4 5 6 7 8 9 --data features=$PWD/features/ped2 --metrics frame_AUROC --results runs/ped2.jsonl

    python benchmarks/repeat.py sample_configs/few_shot/*_digits_cpu.yaml --seeds 0 1 --subsets 0 1 2 \
        --vary num_anomalous 10 20 40 --metrics image_AUROC --results runs/few_shot.jsonl

The seed decides weights, order and splits of a run. With ``--vary``, every seed is also run with every value of one option of
the data module, and with ``--subsets`` with other labelled anomalies in training (``anomalous_seed``). The table then has a row for each
value and tells two deviations apart: that of the means of the subsets over all seeds, and that over the seeds of one subset, as the root of
the mean of the variances. The first has a share of the second in it, the less the more seeds there are. The last epoch is tested on the test set, once; no run is chosen by its result, and the ``checkpoint``
section of a configuration is not read.

``--save FOLDER`` keeps each run's checkpoint as ``<configuration>-<seed>.ckpt``; ``{seed}`` in an option of the model then finds it::

    python benchmarks/repeat.py sample_configs/pixel_ood/deeplab_v3_plus_synthetic_streets_cpu.yaml --save runs/kept \
        --metrics pixel_AUROC pixel_AP pixel_FPR95 mIoU --results runs/streets.jsonl
    python benchmarks/repeat.py sample_configs/pixel_ood/{pebal,deep_gamblers}_synthetic_streets_cpu.yaml \
        --model segmenter_weights=runs/kept/deeplab_v3_plus_synthetic_streets_cpu-{seed}.ckpt \
        --metrics pixel_AUROC pixel_AP pixel_FPR95 mIoU --results runs/streets.jsonl
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

import grid
import yaml
from grid import Record, Run, Setting
from lightning.pytorch import Trainer

from anomaly_suite.callbacks import AnomalyMetrics, SegmentationMetrics
from anomaly_suite.contract import AnomalyDataModule, AnomalyModule
from anomaly_suite.errors import AnomalySuiteError, ConfigError

SUBSET = "anomalous_seed"


def train_and_test(run: Run, *, accelerator: str, save: Path | None) -> Record:
    """Train one model and test it.

    Returns:
        ``metrics`` of the test by name; wall (``_s``) and processor (``_cpu_s``) seconds of training and test.
    """
    model, data = grid.build(run)
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [AnomalyMetrics(), SegmentationMetrics()]
        options = {
            "callbacks": callbacks,
            "default_root_dir": folder,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
        }
        trainer = grid.quiet_trainer(run, accelerator=accelerator, **options)
        return _train_and_test(trainer, model, data, save and save / f"{run.setting.name}-{run.seed}.ckpt")


def _train_and_test(trainer: Trainer, model: AnomalyModule, data: AnomalyDataModule, save: Path | None) -> Record:
    times = [(time.perf_counter(), time.process_time())]
    trainer.fit(model, datamodule=data)  # which then knows the method, and whether it reads labels
    times.append((time.perf_counter(), time.process_time()))
    if save is not None:
        trainer.save_checkpoint(save)
    (values,) = trainer.test(model, datamodule=data, verbose=False)
    times.append((time.perf_counter(), time.process_time()))
    fit, test = ([after - before for before, after in zip(*times[i : i + 2], strict=True)] for i in (0, 1))
    return {
        "method": type(model).__name__,
        "data": type(data).__name__,
        "metrics": {name.removeprefix("test/"): float(value) for name, value in values.items()},
        "fit_s": round(fit[0], 2),
        "fit_cpu_s": round(fit[1], 2),
        "test_s": round(test[0], 2),
        "test_cpu_s": round(test[1], 2),
    }


def table(runs: Sequence[Run], records: Sequence[Record], metrics: Sequence[str], *, subsets: bool = False) -> str:
    """Markdown: configurations as rows, metrics as columns, mean and standard deviation over runs.

    Args:
        runs: Those of the table.
        records: What they gave.
        metrics: Columns.
        subsets: Runs differ in the labelled anomalies: another varied option makes rows, and there are two deviations.

    Raises:
        ConfigError: a metric that no test logged.
    """
    lines = ["| | " + " | ".join(metrics) + " |", "|---|" + "---|" * len(metrics)]
    rows = [_row_of(run) if subsets else run.setting.name for run in runs]
    for name in dict.fromkeys(rows):
        of_row = [run for run, row in zip(runs, rows, strict=True) if row == name]
        found = [record for run in of_row if (record := grid.find(records, run))]
        cells = []
        for metric in metrics:
            there = [record for record in found if metric in record["metrics"]]
            if not there:
                known = ", ".join(sorted({key for record in found for key in record["metrics"]}))
                raise ConfigError(f"{name} has no metric {metric!r}; its tests logged {known}.")
            values = [(record.get(SUBSET), record["metrics"][metric]) for record in there]
            cells.append(_two_spreads(values) if subsets else _spread([value for _, value in values]))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _row_of(run: Run) -> str:
    """Configuration and varied option, whatever the subset."""
    return ", ".join([run.setting.name, *(f"{key} {value}" for key, value in run.options.items() if key != SUBSET)])


def spreads(values: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Deviation of the means of subsets, and deviation over the seeds of one subset; NaN where there is one value only.

    Args:
        values: Subset and value of every run.
    """
    parts = {subset: [value for each, value in values if each == subset] for subset, _ in values}
    means = [statistics.fmean(part) for part in parts.values()]
    inside = [statistics.variance(part) for part in parts.values() if len(part) > 1]
    over_subsets = statistics.stdev(means) if len(means) > 1 else math.nan
    return over_subsets, math.sqrt(statistics.fmean(inside)) if inside else math.nan


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.4f}" + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")


def _two_spreads(values: Sequence[tuple[int, float]]) -> str:
    told = zip(("subsets", "seeds"), spreads(values), strict=True)
    mean = statistics.fmean(value for _, value in values)
    return f"{mean:.4f}" + "".join(f" ± {spread:.4f} ({over})" for over, spread in told if not math.isnan(spread))


def with_options(setting: Setting, *, model: Sequence[str], data: Sequence[str]) -> Setting:
    """A setting with ``OPTION=VALUE`` set in its model and its data module.

    Raises:
        ConfigError: words without an equals sign.
    """
    for part, assignments in ((setting.model, model), (setting.data, data)):
        for assignment in assignments:
            name, equals, value = assignment.partition("=")
            if not equals:
                raise ConfigError(f"--model and --data need words such as lr=0.001; got {assignment!r}.")
            part["init_args"][name] = yaml.safe_load(value)
    return setting


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Several seeds of several configurations, as a Markdown table.")
    grid.add_common_options(parser)
    parser.add_argument("--metrics", nargs="+", default=("frame_AUROC", "frame_AP"), help="columns of the table")
    parser.add_argument("--vary", nargs="+", metavar="OPTION VALUE", help="whole-number option of the data module")
    parser.add_argument(
        "--subsets",
        type=int,
        nargs="*",
        help="values of anomalous_seed: other labelled anomalies in training; 0 1 2 if none are given",
    )
    parser.add_argument("--model", nargs="+", default=[], metavar="OPTION=VALUE", help="of the model, for every run")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="OPTION=VALUE", help="of the data module, for every run"
    )
    parser.add_argument("--save", type=Path, help="folder for checkpoints")
    options = parser.parse_args(words)
    grid.prepare(options, parser)
    options.subsets = [0, 1, 2] if options.subsets == [] else options.subsets
    name, *values = options.vary or ["", ""]
    if options.vary and (not values or not all(value.isdigit() for value in values)):
        parser.error(f"--vary needs an option of the data module and whole numbers; got {' '.join(options.vary)}.")
    try:
        changes = {"model": options.model, "data": options.data}
        settings = {file: with_options(grid.read_setting(file), **changes) for file in options.configs}
        runs = [
            Run(
                settings[file],
                seed,
                ({name: int(value)} if name else {}) | ({} if subset is None else {SUBSET: subset}),
            )
            for file, seed, value, subset in product(options.configs, options.seeds, values, options.subsets or [None])
        ]
        work = partial(train_and_test, accelerator=options.accelerator, save=options.save)
        records = grid.run_all(runs, options.results, work)
        rows = table(runs, records, options.metrics, subsets=options.subsets is not None)
    except AnomalySuiteError as error:
        parser.error(str(error))
    varied = f"; {name} {', '.join(values)}" if name else ""
    drawn = f"; subsets {', '.join(map(str, options.subsets))}" if options.subsets else ""
    over = "subsets, then over seeds" if options.subsets else "runs"
    print(f"seeds {', '.join(map(str, options.seeds))}{varied}{drawn}: mean ± standard deviation over {over}\n")
    print(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

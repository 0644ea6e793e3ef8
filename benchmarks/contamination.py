"""AUROC as more and more of the training set is anomalous: one JSON line a run, then a Markdown table.

    python benchmarks/contamination.py sample_configs/one_class/deep_svdd_digits_cpu.yaml \
        sample_configs/one_class/deep_svdd_digits_rec_cpu.yaml --results runs/contamination_digits.jsonl

Every configuration is trained on every class, at every level and seed, one run after another in this process, on one thread.
A level is the data module's ``contamination``: the share of the training set that is anomalous images called normal. The seed
decides weights, splits and which images contaminate. A finished run is appended to the file of results; a run that is in it
already, with the same settings, is not repeated, so an interrupted benchmark goes on where it stopped.

Nothing is chosen by validation: all normal images train, the last epoch is scored, and the ``checkpoint`` section of a
configuration is not read. With ``--epochs``, options of the model that are named ``...epochs`` and stated in the configuration
(such as ``ae_epochs``) shrink in proportion.

A cell of the table is the mean AUROC over classes, then over seeds, with the standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import grid
import torch
from grid import Record, Run, Setting
from torch.utils.data import DataLoader, Subset

from anomaly_suite.contract import as_batch
from anomaly_suite.data.images.image_set import ImageSet
from anomaly_suite.data.images.one_vs_rest import OneVsRest
from anomaly_suite.errors import AnomalySuiteError
from anomaly_suite.metrics import auroc

LEVELS = (0.0, 0.01, 0.05, 0.1)


def read_setting(
    file: Path, *, epochs: int | None, train_fraction: float | None, test_per_class: int | None
) -> Setting:
    """A configuration with its overrides; None leaves what the file says."""
    setting = grid.read_setting(file, test_per_class=test_per_class)
    model, data, trainer = setting.model["init_args"], setting.data["init_args"], dict(setting.trainer)
    data["validation"] = "none"
    if epochs is not None:
        for key, value in model.items():
            if key.endswith("epochs") and value is not None:
                model[key] = round(value * epochs / trainer["max_epochs"])
        trainer["max_epochs"] = epochs
    if train_fraction is not None:
        data["train_fraction"] = train_fraction
    return setting._replace(trainer=trainer)


def train_and_test(run: Run, *, accelerator: str) -> Record:
    """Train and score one model.

    Returns:
        Counts of images; ``auroc``; wall (``_s``) and processor (``_cpu_s``) seconds of training and of
        scoring the test images.
    """
    model, data = grid.build(run)
    assert isinstance(data, OneVsRest)  # no other data module takes the option contamination
    data.setup()
    assert data.splits is not None
    train, test = data.splits.train, data.splits.test
    assert isinstance(train, ImageSet)
    assert isinstance(test, ImageSet)
    rows = first_of_each_class(test.names, run.setting.more["test_per_class"])
    loader = DataLoader(Subset(test, rows), batch_size=data.eval_batch_size, collate_fn=as_batch)
    label = test.label[rows]
    trainer = grid.quiet_trainer(run, accelerator=accelerator)
    times = [(time.perf_counter(), time.process_time())]
    trainer.fit(model, train_dataloaders=data.train_dataloader())
    times.append((time.perf_counter(), time.process_time()))
    predictions: Any = trainer.predict(model, loader)
    score = torch.cat([prediction["anomaly_score"] for prediction in predictions])
    times.append((time.perf_counter(), time.process_time()))
    fit, predict = ([after - before for before, after in zip(*times[i : i + 2], strict=True)] for i in (0, 1))
    return {
        "method": type(model).__name__,
        "data": type(data).__name__,
        "epochs": run.setting.trainer["max_epochs"],
        "train_images": len(train),
        "anomalous_train_images": sum(class_of(name) != run.options["normal_class"] for name in train.names),
        "normal_test_images": int((label == 0).sum()),
        "anomalous_test_images": int((label == 1).sum()),
        "auroc": float(auroc(score, label)),
        "fit_s": round(fit[0], 2),
        "fit_cpu_s": round(fit[1], 2),
        "test_s": round(predict[0], 2),
        "test_cpu_s": round(predict[1], 2),
    }


def class_of(name: str) -> int:
    """Class index of an image of a one-class-against-the-rest set; its name is ``<class>/<position>``."""
    return int(name.partition("/")[0])


def first_of_each_class(names: Sequence[str], count: int | None) -> list[int]:
    """Positions of the first ``count`` images of every class, in order; of all images for None."""
    seen: Counter[int] = Counter()
    rows = []
    for row, name in enumerate(names):
        seen[class_of(name)] += 1
        if count is None or seen[class_of(name)] <= count:
            rows.append(row)
    return rows


def table(runs: Sequence[Run], records: Sequence[Record]) -> str:
    """Markdown: configurations as rows, levels as columns, mean over classes and seeds with the deviation over seeds."""
    levels = list(dict.fromkeys(run.options["contamination"] for run in runs))
    names = list(dict.fromkeys(run.setting.name for run in runs))
    lines = ["| | " + " | ".join(f"{100 * level:g} %" for level in levels) + " |"]
    lines.append("|---|" + "---|" * len(levels))
    for name in names:
        cells = []
        for level in levels:
            by_seed: dict[int, list[float]] = {}
            for run in runs:
                if (
                    run.setting.name == name
                    and run.options["contamination"] == level
                    and (record := grid.find(records, run))
                ):
                    by_seed.setdefault(run.seed, []).append(record["auroc"])
            means = [statistics.fmean(values) for values in by_seed.values()]
            spread = f" ± {statistics.stdev(means):.4f}" if len(means) > 1 else ""
            cells.append(f"{statistics.fmean(means):.4f}{spread}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="AUROC at several levels of contamination, as a Markdown table.")
    grid.add_common_options(parser)
    parser.add_argument("--levels", nargs="+", type=float, default=LEVELS, help="shares of the training set")
    parser.add_argument("--classes", nargs="+", type=int, default=range(10), help="normal classes, by index")
    parser.add_argument("--epochs", type=int, help="instead of the configurations' own")
    parser.add_argument("--train-fraction", type=float, help="share of the training normals")
    parser.add_argument("--test-per-class", type=int, help="test images of each class, the first ones; all by default")
    options = parser.parse_args(words)
    grid.prepare(options, parser)
    try:
        overrides = {name: getattr(options, name) for name in ("epochs", "train_fraction", "test_per_class")}
        settings = [read_setting(file, **overrides) for file in options.configs]
        runs = [
            Run(setting, seed, {"contamination": level, "normal_class": normal_class})
            for setting, level, seed, normal_class in product(settings, options.levels, options.seeds, options.classes)
        ]
        records = grid.run_all(runs, options.results, partial(train_and_test, accelerator=options.accelerator))
    except AnomalySuiteError as error:
        parser.error(str(error))
    seeds = f"seeds {', '.join(map(str, options.seeds))}"
    print(f"AUROC, mean over {len(options.classes)} classes; {seeds}: mean ± standard deviation\n")
    print(table(runs, records))
    return 0


if __name__ == "__main__":
    sys.exit(main())

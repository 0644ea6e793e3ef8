"""ALPS beside an autoencoder with random latent noise and a plain one, one class of MNIST after another: Markdown tables.

    python benchmarks/latent_perturbations.py sample_configs/reconstruction/alps_mnist_cpu.yaml --results runs/latent_perturbations.jsonl

Every kind of perturbation is trained with the same images, epochs and networks, on every class and seed; the last epoch is tested on all
test images, or on the first of each class. Columns are the three scores, and the one that validation data (held-out normals and broken copies of them) chose: no test
label has a part in it. A finished run is a line of the file of results and is not repeated.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import product

from torch.utils.data import DataLoader, Subset

from anomaly_suite.benchmark import trainings
from anomaly_suite.benchmark.trainings import Record, Run
from anomaly_suite.callbacks import AnomalyMetrics
from anomaly_suite.cli.samples import read_stack
from anomaly_suite.contract import as_batch
from anomaly_suite.data.images.image_set import ImageSet
from anomaly_suite.errors import AnomalySuiteError
from anomaly_suite.methods import ALPS

KINDS = {"none": "plain autoencoder", "noise": "random latent noise", "tanh": "ALPS"}
PUBLISHED = {"none": 0.9542, "noise": 0.9595, "tanh": 0.9765}
COLUMNS = {"clean": "_clean", "perturbed": "_perturbed", "average": "_average", "chosen": ""}


def train_and_test(run: Run, *, accelerator: str) -> Record:
    """Train one model and test it: AUROC of each score, the name of the chosen one, processor seconds."""
    model, data = trainings.build(run)
    assert isinstance(model, ALPS)
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainings.quiet_trainer(
            run, accelerator=accelerator, callbacks=[AnomalyMetrics(image=("AUROC",), pixel=())], default_root_dir=folder,
            num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(model, datamodule=data)
        distortion = float(trainer.callback_metrics["train/distortion"])
        data.setup()
        assert data.splits is not None
        test = data.splits.test
        assert isinstance(test, ImageSet)
        rows = first_of_each_class(test.names, run.setting.more["test_per_class"])
        loader = DataLoader(Subset(test, rows), batch_size=data.eval_batch_size, collate_fn=as_batch)
        (values,) = trainer.test(model, dataloaders=loader, verbose=False)
    return {
        "auroc": {column: float(values[f"test/image_AUROC{suffix}"]) for column, suffix in COLUMNS.items()},
        "chosen": model.chosen_score,
        "distortion": distortion,
        "cpu_s": round(time.process_time() - begin, 1),
    }


def first_of_each_class(names: Sequence[str], count: int | None) -> list[int]:
    """Positions of the first ``count`` images of every class, in order; of all images for None. A name is ``<class>/<position>``."""
    seen: Counter[str] = Counter()
    rows = []
    for row, name in enumerate(names):
        kind = name.partition("/")[0]
        seen[kind] += 1
        if count is None or seen[kind] <= count:
            rows.append(row)
    return rows


def table(runs: Sequence[Run], records: Sequence[Record]) -> str:
    """Markdown: a row for each kind, then one for each kind and seed by class."""
    by_kind: dict[str, dict[int, list[Record]]] = {}
    for run in runs:
        if (record := trainings.find(records, run)) is not None:
            by_seed = by_kind.setdefault(run.setting.model["init_args"]["perturbation"], {})
            by_seed.setdefault(run.seed, []).append(record)
    lines = [
        f"| mean AUROC | thesis | {' | '.join(COLUMNS)} | chosen: clean, perturbed, average | s a run |",
        "|---|---|" + "---|" * 6,
    ]
    for kind, by_seed in by_kind.items():
        every = [record for some in by_seed.values() for record in some]
        cells = []
        for column in COLUMNS:
            means = [statistics.fmean(record["auroc"][column] for record in some) for some in by_seed.values()]
            cells.append(f"{statistics.fmean(means):.4f} ({', '.join(f'{mean:.4f}' for mean in means)})")
        times = ", ".join(str(sum(record["chosen"] == name for record in every)) for name in list(COLUMNS)[:3])
        seconds = statistics.fmean(record["cpu_s"] for record in every)
        lines.append(f"| {KINDS[kind]} | {PUBLISHED[kind]} | {' | '.join(cells)} | {times} | {seconds:.0f} |")
    classes = sorted({record["normal_class"] for record in records})
    lines += ["", f"| chosen score | {' | '.join(map(str, classes))} |", "|---|" + "---|" * len(classes)]
    for kind, by_seed in by_kind.items():
        for seed, some in by_seed.items():
            found = {record["normal_class"]: f"{record['auroc']['chosen']:.4f}" for record in some}
            lines.append(f"| {KINDS[kind]}, seed {seed} | {' | '.join(found.get(one, '') for one in classes)} |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Learned, random and no perturbations of codes, as Markdown tables.")
    trainings.add_common_options(parser)
    parser.set_defaults(seeds=(0, 1))
    parser.add_argument("--classes", nargs="+", type=int, default=range(10), help="normal classes, by index")
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=tuple(KINDS))
    parser.add_argument("--epochs", type=int, help="instead of the configuration's own")
    parser.add_argument("--test-per-class", type=int, help="test images of each class, the first ones; all by default")
    options = parser.parse_args(words)
    trainings.prepare(options, parser)
    try:
        runs = []
        for file, kind, seed, normal in product(options.configs, options.kinds, options.seeds, options.classes):
            setting = trainings.read_setting(file.stem, read_stack(file), test_per_class=options.test_per_class)
            model = {**setting.model, "init_args": {**setting.model["init_args"], "perturbation": kind}}
            trainer = dict(setting.trainer)
            if options.epochs is not None:
                trainer |= {"max_epochs": options.epochs, "check_val_every_n_epoch": options.epochs}
            runs.append(Run(setting._replace(model=model, trainer=trainer), seed, {"normal_class": normal}))
        runs.sort(
            key=lambda run: (run.seed, run.options["normal_class"])
        )  # a stopped benchmark has all kinds of what it has
        records = trainings.run_all(runs, options.results, partial(train_and_test, accelerator=options.accelerator))
    except AnomalySuiteError as error:
        parser.error(str(error))
    print(table(runs, records))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Methods on the patches of UCSD Ped2, beside the oracle of the protocol and a plain motion energy: a Markdown table.

    python benchmarks/ucsd_patches.py sample_configs/one_class/adacl_ucsd_ped_cpu.yaml \
        sample_configs/reconstruction/alps_ucsd_ped_cpu.yaml --seeds 0 --results runs/ucsd_patches.jsonl

The oracle scores a patch by its anomalous pixels: no method on these patches can be better, since what is not shown in any patch, or in none of
a frame, is lost before it is scored. The motion energy of a patch is the mean absolute difference to the frames before and after it; nothing
is learned. Both take the configuration's patches. The last epoch is tested; validation data choose between the scores of a method that
has several, and no label of the test has a part in anything. A finished run is a line of the file of results and is not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

import anomaly_suite.methods  # noqa: F401 - configurations name its classes by their short names
from anomaly_suite.benchmark import trainings
from anomaly_suite.benchmark.trainings import Record, Run, Setting
from anomaly_suite.callbacks import FrameMetrics
from anomaly_suite.cli.samples import read_stack
from anomaly_suite.contract import AnomalyModule, Batch, Prediction
from anomaly_suite.data import UCSDPed
from anomaly_suite.errors import AnomalySuiteError

PUBLISHED = {"ADACL": ("0.984", "0.05"), "ALPS": ("0.9816", "0.06")}
COLUMNS = (
    *("frame_AUROC", "frame_EER"),
    *("frame_AUROC_localised", "frame_EER_localised"),
    *("patch_AUROC", "patch_EER"),
)
SCORES = ("", "clean", "perturbed", "average")


class Baseline(AnomalyModule):
    """Scores that need no training."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))


class Oracle(Baseline):
    """The truth: anomalous pixels of a patch."""

    def predict(self, batch: Batch) -> Prediction:
        """Score a batch."""
        return {"anomaly_score": batch["area"].float()}


class MotionEnergy(Baseline):
    """Mean absolute difference to the frames before and after."""

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        """Score images whose second and third channels are these differences."""
        return image[:, 1:].mean((1, 2, 3)), None


BASELINES = {"oracle": Oracle, "motion energy": MotionEnergy}


@lru_cache(maxsize=1)
def patches(options: str) -> UCSDPed:
    """The data of several runs, read once; options as JSON, which can be compared."""
    return UCSDPed(**json.loads(options))


def train_and_test(run: Run, *, accelerator: str) -> Record:
    """Train and test one model: metrics of frames and patches, processor seconds."""
    begin = time.process_time()
    options = {**run.setting.data["init_args"], "seed": run.seed}
    if run.setting.name in BASELINES:
        model: AnomalyModule = BASELINES[run.setting.name]()
        data = patches(json.dumps({**options, "motion": True, "validation": "none", "train_every": 10}))
    else:
        model, _ = trainings.build(run)
        data = patches(json.dumps(options))
    data.setup()
    read = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainings.quiet_trainer(
            run, accelerator=accelerator, callbacks=[FrameMetrics()], default_root_dir=folder, num_sanity_val_steps=0
        )
        if not isinstance(model, Baseline):
            trainer.fit(model, datamodule=data)
        trained = time.process_time()
        (values,) = trainer.test(model, datamodule=data, verbose=False)
    splits, truth = data.require_splits(), data.frames
    assert truth is not None
    found = splits.test.frame  # type: ignore[attr-defined]
    return {
        "method": run.setting.name if isinstance(model, Baseline) else type(model).__name__,
        "metrics": {name.removeprefix("test/"): float(value) for name, value in values.items()},
        "chosen": getattr(model, "chosen_score", ""),
        "train_patches": len(splits.train),  # type: ignore[arg-type]
        "test_patches": len(found),
        "frames_without_patch": len(truth.clip) - len(found.unique()),
        "read_cpu_s": round(read - begin, 1),
        "fit_cpu_s": round(trained - read, 1),
        "test_cpu_s": round(time.process_time() - trained, 1),
    }


def table(runs: Sequence[Run], records: Sequence[Record]) -> str:
    """Markdown: a row for each method, and for each score of a method that has several; means over seeds."""
    lines = [f"| | thesis, AUROC and EER | {' | '.join(COLUMNS)} |", "|---|---|" + "---|" * len(COLUMNS)]
    for name in dict.fromkeys(run.setting.name for run in runs):
        found = [record for run in runs if run.setting.name == name and (record := trainings.find(records, run))]
        for score in SCORES:
            names = [f"{column}_{score}" if score else column for column in COLUMNS]
            if not found or names[0] not in found[0]["metrics"]:
                continue
            cells = []
            for one in names:
                values = [record["metrics"][one] for record in found if one in record["metrics"]]
                spread = f" ({', '.join(f'{value:.4f}' for value in values)})" if len(values) > 1 else ""
                cells.append(f"{statistics.fmean(values):.4f}{spread}" if values else "")
            method = found[0]["method"]
            chosen = ", ".join(dict.fromkeys(record["chosen"] for record in found))
            what = f", {score} score" if score else f", chosen score ({chosen})" if chosen else ""
            published = " ".join(PUBLISHED.get(method, ("", ""))) if not score else ""
            lines.append(f"| {method}{what} | {published} | {' | '.join(cells)} |")
    first = records[0]
    lines += ["", f"{first['test_patches']} test patches; {first['frames_without_patch']} frames without any."]
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Methods on patches of UCSD Ped2, as a Markdown table.")
    trainings.add_common_options(parser)
    parser.set_defaults(seeds=(0,))
    options = parser.parse_args(words)
    trainings.prepare(options, parser)
    try:
        settings = [trainings.read_setting(file.stem, read_stack(file)) for file in options.configs]
        first = settings[0]
        runs = [Run(Setting(name, {}, first.data, {}, {}), 0, {}) for name in BASELINES]
        runs += [Run(setting, seed, {}) for seed in options.seeds for setting in settings]
        records = trainings.run_all(runs, options.results, partial(train_and_test, accelerator=options.accelerator))
    except AnomalySuiteError as error:
        parser.error(str(error))
    print(table(runs, [record for run in runs if (record := trainings.find(records, run))]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

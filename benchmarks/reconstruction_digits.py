"""ADGAN, MemAE and OCGAN on scikit-learn's digits, with what the methods claim to need left out: one JSON line a run, then a table.

    python benchmarks/reconstruction_digits.py --results runs/reconstruction_digits.jsonl
    python benchmarks/reconstruction_digits.py --results runs/reconstruction_digits.jsonl --only ADGAN --classes 1

Each row is a sample configuration (``sample_configs/reconstruction/*_digits_cpu.yaml``) with some options changed. All normal images
train, nothing is chosen by validation, the last epoch is scored. A run that is in the file of results is not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from lightning.pytorch import Trainer, seed_everything

import anomaly_suite.methods
from anomaly_suite.cli.samples import samples_folder
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.data import Digits
from anomaly_suite.methods.reconstruction import adgan
from anomaly_suite.metrics import auroc

CLASSES = (0, 1, 4, 8)


@contextmanager
def as_it_is() -> Iterator[None]:
    """Nothing is changed."""
    yield


@contextmanager
def printed_sign() -> Iterator[None]:
    """The critic's loss as the thesis prints it: real minus fake."""
    right = adgan.critic_loss
    adgan.critic_loss = lambda real, fake, norm, **named: right(fake, real, norm, **named)
    try:
        yield
    finally:
        adgan.critic_loss = right


class Row(NamedTuple):
    """What is run for one row of the table.

    ``least`` is the lowest mean AUROC that is right, ``classes`` those of a check that is made on some alone, ``also`` other options
    ``score`` by which the same networks are tested, too.
    """

    sample: str
    options: dict[str, Any] = {}
    around: Callable[[], Any] = as_it_is
    least: float | None = None
    classes: Sequence[int] | None = None
    also: Sequence[str] = ()


ROWS = {
    "ADGAN": Row("adgan", least=0.93),
    "ADGAN, printed sign of the critic": Row("adgan", around=printed_sign, classes=(1,)),
    "ADGAN, encoder not trained": Row("adgan", {"gan_epochs": 750}, classes=(1,)),
    "MemAE": Row("memae", least=0.97),
    "MemAE, cosine": Row("memae", {"addressing": "cosine"}),
    "MemAE, shrinkage 3/N": Row("memae", {"shrinkage": 3 / 50}),
    "OCGAN": Row("ocgan", least=0.95, also=("visual",)),
    "OCGAN, latent weight 1": Row("ocgan", {"latent_weight": 1.0}, classes=(1,)),
    "OCGAN, its autoencoder alone, without noise": Row(
        "ocgan", {"latent_weight": 0.0, "reconstruction_weight": 1e9, "noise_std": 0.0}, classes=(1,)
    ),
}


def run(row: Row, digit: int, seed: int, share: float) -> dict[str, Any]:
    """Train and score one model, for a share of its epochs."""
    torch.set_num_threads(1)
    file = samples_folder() / "reconstruction" / f"{row.sample}_digits_cpu.yaml"
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    options, epochs = {**settings["model"]["init_args"], **row.options}, settings["trainer"]["max_epochs"]
    if "gan_epochs" in options:
        options["gan_epochs"] = round(share * options["gan_epochs"])
    seed_everything(seed, verbose=False)
    model: AnomalyModule = getattr(anomaly_suite.methods, settings["model"]["class_path"])(**options)
    data = Digits(**{**settings["data"]["init_args"], "normal_class": digit, "seed": seed, "validation": "none"})
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=round(share * epochs), **quiet)
    began = time.process_time()
    with row.around():
        trainer.fit(model, train_dataloaders=_training(data))
    taken = time.process_time() - began
    logged = {name: round(float(value), 5) for name, value in trainer.callback_metrics.items()}
    if "has_encoder" in dict(model.named_buffers()):
        model.get_buffer("has_encoder").fill_(1)  # for the row that never trains one
    found = {"auroc": _test(model, data), "fit_cpu_s": round(taken, 1), "logged": logged}
    for score in row.also:
        model.score = score  # type: ignore[assignment] # methods with this option keep it so
        found[score] = _test(model, data)
    return found


def _training(data: Digits) -> Any:
    data.setup("fit")
    return data.train_dataloader()


@torch.no_grad()
def _test(model: AnomalyModule, data: Digits) -> float:
    data.setup("test")
    model.trainer = None  # type: ignore[assignment] # of a run that is over
    model.eval()
    pairs = [(model(batch["image"])[0], batch["label"]) for batch in data.test_dataloader()]
    score, label = (torch.cat(kind) for kind in zip(*pairs, strict=True))
    return float(auroc(score, label))


def table(records: dict[str, Any], classes: Sequence[int], seeds: Sequence[int], share: float) -> str:
    """Markdown: a row for each variant that has runs, AUROC of every digit, and their mean."""
    lines = [
        "| | " + " | ".join(map(str, classes)) + " | mean | gate | processor s a fit |",
        "|---" * (len(classes) + 4) + "|",
    ]
    for name, row in ROWS.items():
        cells = {
            digit: [records[key] for seed in seeds if (key := f"{name}/{digit}/{seed}/{share:g}") in records]
            for digit in classes
        }
        for score in ("auroc", *row.also):
            found = {digit: statistics.fmean(each[score] for each in runs) for digit, runs in cells.items() if runs}
            if not found:
                continue
            first = score == "auroc"
            values = [f"{found[digit]:.3f}" if digit in found else "" for digit in classes]
            mean = f"{statistics.fmean(found.values()):.4f}" if row.classes is None else ""
            seconds = f"{statistics.fmean(each['fit_cpu_s'] for runs in cells.values() for each in runs):.0f}"
            title = name if first else f"{name}, score {score}"
            lines.append(
                f"| {title} | {' | '.join(values)} | {mean} | {(row.least or '') if first else ''} | {seconds * first} |"
            )
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="AUROC on digits, as a Markdown table.")
    parser.add_argument("--results", type=Path, required=True, help="file of finished runs, a JSON a line")
    parser.add_argument("--only", help="rows whose names begin so")
    parser.add_argument("--classes", nargs="+", type=int, default=CLASSES)
    parser.add_argument("--share", type=float, default=1.0, help="of the epochs of all phases, for a first look")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args(words)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    lines = options.results.read_text(encoding="utf-8").splitlines() if options.results.is_file() else []
    records = {record["run"]: record for record in map(json.loads, lines)}
    for name, row in ROWS.items():
        if options.only and not name.startswith(options.only):
            continue
        for seed in options.seeds:
            for digit in options.classes if row.classes is None else row.classes:
                key = f"{name}/{digit}/{seed}/{options.share:g}"
                if key not in records:
                    records[key] = {"run": key, **run(row, digit, seed, options.share)}
                    with options.results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(records[key]) + "\n")
                    print(json.dumps(records[key]), file=sys.stderr, flush=True)
    print(table(records, options.classes, options.seeds, options.share))
    return 0


if __name__ == "__main__":
    sys.exit(main())

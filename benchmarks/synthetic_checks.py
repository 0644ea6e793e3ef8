"""What self-supervised methods must learn on images made for it, in minutes on one CPU core: one JSON line a check, then a Markdown table.

    python benchmarks/synthetic_checks.py --results runs/synthetic_checks.jsonl
    python benchmarks/synthetic_checks.py --results runs/synthetic_checks.jsonl --only pmsacl --seeds 0 1 2

CCD tells permutations of images with a gradient, and cannot tell those of noise; it learns 8 images by heart. PMSACL counts the lesions of
smooth images, and its classes become dense: the spread within classes falls beside the distance between them; unseen blobs then lie
further from a Gaussian of the encoder's features than normal images. Its centres are measured after half of the steps, in which the
classifier alone learns, and in ``pmsacl at once`` before the first, as printed. CutPaste tells pasted pieces of textures, and finds scratches
that it never saw. Accuracies are means of the last 50 steps. A check that is in the file already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Generator, Tensor
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.augment.draws import GeneratorDraws
from anomaly_suite.benchmark.trainings import Record, read_results
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.methods import CCD, PMSACL, CutPaste
from anomaly_suite.metrics import auroc

SIZE, LAST = 32, 50  # pixels; steps that figures are means of
ENCODER: dict[str, Any] = {"encoder": "residual", "encoder_weights": None, "image_size": SIZE, "width": 8}


class Watch(Callback):
    """The logged figures of every step, by name."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {}

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Note what was logged."""
        for name, value in trainer.callback_metrics.items():
            self.found.setdefault(name, []).append(float(value))

    def last(self, name: str) -> float:
        """Mean of a figure over the last steps."""
        return statistics.fmean(self.found[name][-LAST:])


def fit(model: AnomalyModule, image: Tensor, steps: int, *, batch_size: int = 16, epochs: int = 1) -> Watch:
    """So many steps on images (N, C, H, W), shuffled, in epochs of equal length; statistics are measured at the end of each."""
    data = TensorDataset(image, torch.zeros(len(image)).long())
    repeated = torch.utils.data.ConcatDataset([data] * -(-steps // epochs * batch_size // len(image)))
    watch = Watch()
    trainer = Trainer(
        max_steps=steps, max_epochs=epochs, callbacks=[watch], limit_val_batches=0, logger=False, enable_checkpointing=False, accelerator="cpu",
        devices=1, enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=5.0,
    )  # fmt: skip
    trainer.fit(model, DataLoader(repeated, batch_size=batch_size, shuffle=True, drop_last=True))
    model.eval()
    return watch


def smooth(count: int, generator: Generator) -> Tensor:
    """Images whose brightness rises evenly in some direction, (N, 3, SIZE, SIZE)."""
    ramp = torch.linspace(-0.5, 0.5, SIZE)
    slope, start = (torch.rand(count, 3, 2, generator=generator) - 0.5), torch.rand(count, 3, 1, 1, generator=generator)
    image = 0.3 + 0.4 * start + 0.6 * (slope[..., :1, None] * ramp.view(-1, 1) + slope[..., 1:, None] * ramp)
    return (image + 0.01 * torch.randn(count, 3, SIZE, SIZE, generator=generator)).clamp(0, 1)


def ccd(seed: int) -> Record:
    """Check 9 of CCD: accuracy of permutations on a gradient, and on noise."""
    generator, ramp = Generator().manual_seed(seed), torch.linspace(0, 1, SIZE)
    fixed = torch.stack([ramp.expand(SIZE, SIZE), ramp.view(-1, 1).expand(SIZE, SIZE), torch.zeros(SIZE, SIZE)])
    told = (fixed + 0.05 * torch.randn(64, 3, SIZE, SIZE, generator=generator)).clamp(0, 1)
    noise = torch.rand(64, 3, SIZE, SIZE, generator=generator)
    accuracy = [fit(CCD(**ENCODER), image, 300).last("train/augmentation_accuracy") for image in (told, noise)]
    return {"accuracy on a gradient": accuracy[0], "accuracy on noise": accuracy[1]}


def overfit(seed: int) -> Record:
    """Check 10 of CCD: total loss of 8 images after 200 steps, as a share of that of the first five.

    Crops are almost whole images and colours stay: what is drawn anew in every step cannot be learned by heart.
    """
    image = torch.nn.functional.interpolate(
        torch.rand(8, 3, 4, 4, generator=Generator().manual_seed(seed)), size=SIZE, mode="bicubic"
    ).clamp(0, 1)
    model = CCD(**ENCODER, colour=False, crop_scale=(0.9, 1.0))
    loss = fit(model, image, 200, batch_size=8).found["train/loss"]
    return {"loss left": statistics.fmean(loss[-5:]) / statistics.fmean(loss[:5])}


@torch.no_grad()
def density(model: PMSACL, image: Tensor) -> float:
    """Mean distance of projections to the mean of their class, over the mean distance of two classes' means."""
    views = model.make_views(image, GeneratorDraws(Generator().manual_seed(0)))
    feature = model.projection(model.encoder(views.image))
    groups = [feature[views.label == number] for number in range(model.num_strong)]
    means = torch.stack([group.mean(0) for group in groups])
    within = torch.cat([(group - mean).norm(dim=1) for group, mean in zip(groups, means, strict=True)]).mean()
    return float(within / torch.pdist(means).mean())


def pmsacl(seed: int, *, warmup_epochs: int = 2) -> Record:
    """Checks 9 and 10 of PMSACL: accuracy of lesion counts, how dense classes are, and blobs against normal images."""
    generator = Generator().manual_seed(seed)
    train, test = smooth(64, generator), smooth(64, generator)
    model = PMSACL(**ENCODER, warmup_epochs=warmup_epochs, lr=0.02)
    before = density(model.eval(), test)
    watch = fit(model.train(), train, 416, batch_size=8, epochs=4)
    broken, places = test.clone(), torch.randint(4, SIZE - 10, (64, 2), generator=generator).tolist()
    for image, (row, column) in zip(broken, places, strict=True):
        image[:, row : row + 6, column : column + 6] = 1 - image[:, row : row + 6, column : column + 6]
    return {
        "accuracy of lesion counts": watch.last("train/augmentation_accuracy"),
        "spread over distance, before": before,
        "spread over distance, after": density(model, test),
        "AUROC of blobs": separation(model, test, broken),
    }


def cut_paste(seed: int) -> Record:
    """Check 9 of CutPaste: accuracy on textures, and AUROC of thin scratches that are not pasted pieces."""
    generator, ramp = Generator().manual_seed(seed), torch.linspace(0, 1, 64)
    phase = 6.28 * torch.rand(160, 2, 1, 1, generator=generator)
    wave = torch.sin(50 * ramp.view(-1, 1) + phase[:, :1]) + torch.sin(37 * ramp + phase[:, 1:])
    image = (0.5 + 0.15 * wave + 0.02 * torch.randn(160, 3, 64, 64, generator=generator)).clamp(0, 1)
    train, test = image[:96], image[96:]
    model = CutPaste(**{**ENCODER, "image_size": 64}, hidden=[64], lr=0.03)
    watch = fit(model, train, 400)
    scratched, steps = test.clone(), torch.arange(24)
    draws = torch.randint(4, 38, (64, 2), generator=generator).tolist()
    for number, (broken, (row, column)) in enumerate(zip(scratched, draws, strict=True)):
        slope = (number % 3) / 2  # flat, half and full
        rows = (row + slope * steps).long()
        broken[:, rows, column + steps] = broken[:, rows + 1, column + steps] = 0.9
    return {
        "accuracy of pieces": watch.last("train/accuracy"),
        "AUROC of scratches": separation(model, test, scratched),
    }


@torch.no_grad()
def separation(model: AnomalyModule, normal: Tensor, broken: Tensor) -> float:
    score = torch.cat([model(image)[0] for image in (normal, broken)])
    return float(auroc(score, torch.arange(len(score)) >= len(normal)))


CHECKS: dict[str, Callable[[int], Record]] = {
    "ccd": ccd,
    "overfit": overfit,
    "pmsacl": pmsacl,
    "pmsacl at once": partial(pmsacl, warmup_epochs=0),
    "cut_paste": cut_paste,
}
WANTED = {  # of the cards, section 7
    "accuracy on a gradient": "> 0.95", "accuracy on noise": "near 0.25", "loss left": "< 0.5", "accuracy of lesion counts": "> 0.8",
    "spread over distance, before": "", "spread over distance, after": "less than before", "AUROC of blobs": "> 0.5",
    "accuracy of pieces": "> 0.95", "AUROC of scratches": "> 0.8",
}  # fmt: skip


def table(records: Sequence[Record], seeds: Sequence[int]) -> str:
    """Markdown: figures as rows, their mean over seeds, smallest and largest."""
    lines = ["| check | figure | wanted | mean | from | to |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(record["check"] for record in records):
        found = [record["figures"] for record in records if record["check"] == name and record["seed"] in seeds]
        for figure in found[0] if found else ():
            values = [each[figure] for each in found]
            cells = [f"{value:.3f}" for value in (statistics.fmean(values), min(values), max(values))]
            lines.append(f"| {name} | {figure} | {WANTED[figure]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What self-supervised methods must learn on images made for it.")
    parser.add_argument("--results", type=Path, required=True, help="file of JSON lines, made or continued")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), help="checks")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    for name in options.only:
        for seed in options.seeds:
            key = {"check": name, "seed": seed}
            if any(key.items() <= record.items() for record in read_results(options.results)):
                continue
            seed_everything(seed, verbose=False)
            record = {**key, "figures": CHECKS[name](seed)}
            options.results.parent.mkdir(parents=True, exist_ok=True)
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
    print(table(read_results(options.results), options.seeds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

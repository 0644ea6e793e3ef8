"""MemMC-MAE, size tiny, on small sets: a plain masked autoencoder, with memory, and with the decoder that reads all levels.

    python benchmarks/memmc_mae.py --sets digits --results runs/memmc_mae.jsonl       # trains what is not in the file yet, prints a table
    python benchmarks/memmc_mae.py --table --results runs/memmc_mae.jsonl             # prints the table alone

Sets, all of 32 pixels and patches of 4 but for the digits (16 pixels); nothing is chosen by the test images:

* ``digits``: scikit-learn's digits 0, 1, 4 and 8, one normal at a time; all its test images and 300 drawn ones of other digits.
* ``chest_xray``: 350 normal X-rays, against 149 normal ones and 300 drawn of those with pneumonia or COVID-19.
  ``test/normal/00002658_001.jpg`` is left out: it is the training image ``00002658_002.jpg``.
* ``hyper_kvasir_sample``: nine images of normal mucosa are too few, so the frames are cut into windows of a third of their height and width.
  Windows without a polyp of 30 polyp images and of the nine are for training; of the 30 others those without a polyp are normal and those
  that a polyp fills by half are anomalous.

Every model is scored in several ways (``SCORES``). ``brightness`` is no model: how far an image's mean lies from that of the training images.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_suite.data import Digits
from anomaly_suite.methods import MemMCMAE
from anomaly_suite.metrics import auroc

DUPLICATE = "test/normal/00002658_001.jpg"
DRAWN = 300  # anomalous test images of a set
WINDOWS = 3  # along each side of a frame
DARK = 16  # of 255; windows with black corners are left out
SIZE, BATCH = 32, 32

VARIANTS: dict[str, dict[str, Any]] = {
    "MAE": {"memory_slots": 0, "cross_attention": False, "skips": False},
    "+ memory": {"cross_attention": False, "skips": False},
    "+ multi-level decoder": {},
}
SCORES: dict[str, dict[str, Any]] = {
    "mse, masked, 10 seeds": {"comparison": "mse", "score": "masked"},
    "mse, masked, 1 seed": {"comparison": "mse", "score": "masked", "mask_seeds": 1},
    "mse, literal, 10 seeds": {"comparison": "mse", "score": "literal"},
    "MS-SSIM, pasted, 10 seeds": {},
}


class Images(NamedTuple):
    """Training images and test images, (N, 3, H, W) in [0, 1]; labels of the latter (N,), and masks (N, 1, H, W) where there are."""

    train: Tensor
    test: Tensor
    label: Tensor
    mask: Tensor | None = None


class Cell(NamedTuple):
    """One training."""

    set: str
    part: str
    variant: str
    seed: int


def digits(root: Path, part: str) -> Images:
    """One digit normal."""
    data = Digits(
        normal_class=int(part), image_size=16, validation="none", train_batch_size=10_000, eval_batch_size=10_000
    )
    data.setup("fit")
    data.setup("test")
    (train,), (test,) = data.train_dataloader(), data.test_dataloader()
    return _drawn(Images(train["image"].expand(-1, 3, -1, -1), test["image"].expand(-1, 3, -1, -1), test["label"]))


def _drawn(images: Images) -> Images:
    """A set without masks with fewer anomalous test images."""
    others = images.label.nonzero()[:, 0]
    drawn = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(0))[:DRAWN]]
    rows = torch.cat([(images.label == 0).nonzero()[:, 0], drawn])
    return Images(images.train, images.test[rows], images.label[rows])


def chest_xray(root: Path, part: str) -> Images:
    """X-rays but for the one that is in both parts."""
    folder, found = root / "chest_xray", {"train": ([], []), "test": ([], [])}  # type: ignore[var-annotated] # lists to be filled
    for file in sorted(folder.glob("*/*/*")):
        if file.relative_to(folder).as_posix() != DUPLICATE:
            images, labels = found[file.parts[-3]]
            images.append(_small(Image.open(file).convert("RGB")))
            labels.append(int(file.parent.name != "normal"))
    (train, _), (test, label) = found["train"], found["test"]
    return _drawn(Images(torch.stack(train), torch.stack(test), torch.tensor(label)))


def hyper_kvasir_sample(root: Path, part: str) -> Images:
    """Windows of colonoscopy images, of an image all in one part."""
    folder = root / "hyper_kvasir_sample"
    files = sorted((folder / "segmented-images" / "images").glob("*"))
    train: list[Tensor] = []
    test: list[tuple[Tensor, int, Tensor]] = []
    for place, number in enumerate(np.random.default_rng(0).permutation(len(files))):
        mask = Image.open(folder / "segmented-images" / "masks" / files[number].name).convert("L")
        found = list(_windows(Image.open(files[number]).convert("RGB"), mask))
        if place < len(files) // 2:
            train += [image for image, label, _ in found if not label]
        else:
            test += found
    for file in sorted((folder / "labeled-images").rglob("*.jpg")):
        image = Image.open(file).convert("RGB")
        train += [window for window, *_ in _windows(image, Image.new("L", image.size))]
    images, labels, masks = zip(*test, strict=True)
    return Images(torch.stack(train), torch.stack(images), torch.tensor(labels), torch.stack(masks))


def _windows(image: Image.Image, mask: Image.Image) -> Iterator[tuple[Tensor, int, Tensor]]:
    """Windows without a polyp (0) and those that one fills by half (1), with their masks."""
    width, height = image.width // WINDOWS, image.height // WINDOWS
    for row, column in product(range(WINDOWS), repeat=2):
        box = (column * width, row * height, (column + 1) * width, (row + 1) * height)
        window, polyp = image.crop(box), mask.crop(box)
        share = float((np.asarray(polyp) > 127).mean())
        dark = float((np.asarray(window).max(2) < DARK).mean())
        if dark <= 0.01 and (share == 0 or share >= 0.5):
            yield _small(window), int(share > 0), (_small(polyp.convert("RGB"))[:1] >= 0.5)


def _small(image: Image.Image) -> Tensor:
    """An image as (3, 32, 32) in [0, 1]."""
    pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


class Set(NamedTuple):
    """How a set is read, its parts, and how long models train on it."""

    read: Callable[[Path, str], Images]
    parts: tuple[str, ...]
    epochs: int


SETS = {
    "digits": Set(digits, ("0", "1", "4", "8"), 60),
    "chest_xray": Set(chest_xray, ("",), 10),
    "hyper_kvasir_sample": Set(hyper_kvasir_sample, ("",), 10),
}


def run(cell: Cell, images: Images, *, epochs: int) -> dict[str, Any]:
    """Train one model and score the test images in every way.

    Returns:
        The cell's names, AUROC of images (and pixels, ``px``) by score, and processor seconds.
    """
    seed_everything(cell.seed, verbose=False)
    options = {"size": "tiny", "image_size": images.train.shape[2], "patch_size": 4, **VARIANTS[cell.variant]}
    model = MemMCMAE(**options)
    loader = DataLoader([{"image": image} for image in images.train], batch_size=BATCH, shuffle=True)  # type: ignore[arg-type] # a list will do
    start = time.process_time()
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, loader)
    record: dict[str, Any] = {**cell._asdict(), "epochs": epochs, "fit_cpu_s": round(time.process_time() - start, 1)}
    record["auroc"] = {}
    for name, changes in SCORES.items():
        scorer = MemMCMAE(**{**options, **changes}).eval()
        scorer.load_state_dict(model.state_dict())
        score, error = evaluate(scorer, images.test)
        record["auroc"][name] = float(auroc(score, images.label))
        if images.mask is not None:
            record["auroc"][f"{name}, px"] = float(auroc(error.flatten(), images.mask.flatten().long()))
    record["cpu_s"] = round(time.process_time() - start, 1)
    return record


@torch.no_grad()
def evaluate(model: MemMCMAE, image: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (N,) and maps (N, 1, H, W)."""
    found = [model(part) for part in image.split(64)]
    return torch.cat([score for score, _ in found]), torch.cat([error for _, error in found])


def brightness(images: Images) -> float:
    """AUROC of the distance between an image's mean and that of the training images."""
    mean = images.train.mean((1, 2, 3)).mean()
    return float(auroc((images.test.mean((1, 2, 3)) - mean).abs(), images.label))


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: sets and variants as rows, scores as columns; means over parts, and their mean and deviation over seeds."""
    lines = []
    for name in dict.fromkeys(record["set"] for record in records):
        chosen = [record for record in records if record["set"] == name]
        scores = list(chosen[0]["auroc"])
        epochs = sorted({record["epochs"] for record in chosen})
        lines += [
            f"\n{name}, epochs {', '.join(map(str, epochs))}\n",
            f"| | {' | '.join(scores)} |",
            "|---|" + "---|" * len(scores),
        ]
        for variant in VARIANTS:
            by_seed: dict[int, list[dict[str, Any]]] = {}
            for record in chosen:
                if record["variant"] == variant:
                    by_seed.setdefault(record["seed"], []).append(record)
            cells = []
            for score in scores if by_seed else []:
                means = [statistics.fmean(record["auroc"][score] for record in some) for some in by_seed.values()]
                cells.append(
                    f"{statistics.fmean(means):.4f}" + (f" ± {statistics.stdev(means):.4f}" if len(means) > 1 else "")
                )
            lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Variants of MemMC-MAE on small sets.")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="instead of those of each set")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("ANOMALY_SUITE_DATA", "data")))
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, one a training; continued")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    records = (
        [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    )
    for name in () if options.table else options.sets:
        epochs = options.epochs or SETS[name].epochs
        done = {Cell(*(record[field] for field in Cell._fields)) for record in records if record["epochs"] == epochs}
        for part in SETS[name].parts:
            images = SETS[name].read(options.root, part)
            print(
                name,
                part,
                [len(images.train), len(images.test), int(images.label.sum())],
                f"brightness {brightness(images):.4f}",
            )
            for seed, variant in product(options.seeds, VARIANTS):
                if (cell := Cell(name, part, variant, seed)) in done:
                    continue
                records.append(run(cell, images, epochs=epochs))
                options.results.parent.mkdir(parents=True, exist_ok=True)
                with options.results.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
                print(json.dumps(records[-1]), flush=True)
    print(table(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Detectors on encoders that were pre-trained in different ways, on real images, with one small budget for all.

    python benchmarks/encoders.py --folder runs/encoders --weights FILE     # ImageNet weights of EfficientNet-Lite0
    python benchmarks/encoders.py --folder runs/encoders --weights FILE --sets mnist --start random
    python benchmarks/encoders.py --folder runs/encoders --table            # of the runs that are finished

Every encoder is an EfficientNet-Lite0: of all networks its ImageNet weights alone come in a package, and encoders of one architecture
differ by their weights only. ``random`` has the weights that a seed draws, ``imagenet`` the file's; the pre-trainings start from the file
(``--start random``: from the drawn ones) and take ``STEPS`` steps of 64 views. Each encoder then goes as a checkpoint to

* ``gaussian``: a Gaussian of the averaged last feature map, with Ledoit and Wolf's covariance;
* ``padim``: PaDiM of its maps;
* ``igd``: the encoder is frozen, a linear layer, the decoder and the critic are trained for ``IGD_STEPS`` steps.

Beside them, without a network, a Gaussian of numbers of the files as they are: ``brightness`` (mean, deviation, quantiles), ``size`` (height,
width), and ``statistics``, both.

Images are written once to ``<folder>/images`` in the size that is used (``image_lists.py`` says which). A pre-training is kept in
``<folder>/weights``; a finished cell is a line of ``<folder>/results.jsonl`` and is not repeated.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from image_lists import SETS, Statistics, file_statistics, prepare
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from torch import Tensor

from anomaly_suite.benchmark.trainings import Record, read_results
from anomaly_suite.data import Folder
from anomaly_suite.errors import AnomalySuiteError
from anomaly_suite.methods import CCD, IGD, PMSACL, PaDiM, RotNet, SimCLR
from anomaly_suite.nn.encoders import ImageEncoder

NETWORK = "tf_efficientnet_lite0"  # with the padding of the network that the file was trained in
STEPS, IGD_STEPS = 60, 20
CHANNELS = 100  # of PaDiM
IMAGES = 32  # of a step; RotNet, which has four views of each in place of two, takes half of them
PRETRAININGS: dict[str, tuple[type, dict[str, Any]]] = {
    "simclr": (SimCLR, {}),
    "rotnet": (RotNet, {}),
    "ccd": (CCD, {}),
    "pmsacl": (PMSACL, {"versions": "one"}),
}
ENCODERS = ("random", "imagenet", *PRETRAININGS)
DETECTORS = ("gaussian", "padim", "igd")
NUMBERS = {"statistics": slice(None), "brightness": slice(5), "size": slice(5, None)}  # of COLUMNS in image_lists.py
RIDGE = 0.01  # of the variance of a number


class Cell(NamedTuple):
    """One figure of the table."""

    set: str
    encoder: str
    detector: str
    seed: int
    start: str
    """What pre-trainings start from; the two others are the same for both."""

    @property
    def key(self) -> Record:
        """What tells this cell from others in the file of results."""
        budget = {
            "network": NETWORK,
            "steps": STEPS,
            "igd_steps": IGD_STEPS,
            "size": SETS[self.set].size if self.set in SETS else 0,
        }
        return {**self._asdict(), **budget}


class Workplace(NamedTuple):
    """Where images, weights and results lie."""

    folder: Path
    imagenet: Path | None

    def data(self, name: str, *, seed: int, images: int = IMAGES) -> Folder:
        """The data module of a set, whose files are written if they are not there."""
        module = Folder(
            index=str(prepare(name, self.folder / "images")),
            image_size=None,
            train_batch_size=images,
            eval_batch_size=64,
            seed=seed,
            validation="none",
        )
        module.prepare_data()
        module.setup("fit")
        module.setup("test")
        return module

    def encoder(self, cell: Cell) -> Path:
        """Checkpoint of the cell's encoder, made if it is not there."""
        where = "" if cell.encoder in ("random", "imagenet") else f"{cell.set}-{cell.start}-{STEPS}-"
        file = self.folder / "weights" / f"{where}{cell.encoder}-{cell.seed}.ckpt"
        if file.is_file():
            return file
        file.parent.mkdir(parents=True, exist_ok=True)
        seed_everything(cell.seed, verbose=False)
        if where:
            start = self.encoder(cell._replace(encoder=cell.start))
            encoder = pretrain(cell, self.data(cell.set, seed=cell.seed, images=images_of(cell.encoder)), start)
        else:
            encoder = ImageEncoder(NETWORK, image_size=64)
            encoder.load_weights(None if cell.encoder == "random" else str(self.imagenet))
        tensors = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
        torch.save({"state_dict": tensors}, file.with_suffix(".part"))
        file.with_suffix(".part").rename(file)
        return file


def images_of(pretraining: str) -> int:
    """Images of a step with 64 views."""
    return IMAGES // 2 if pretraining == "rotnet" else IMAGES


def pretrain(cell: Cell, data: Folder, start: Path) -> ImageEncoder:
    """The encoder after ``STEPS`` steps."""
    method, options = PRETRAININGS[cell.encoder]
    model = method(encoder=NETWORK, encoder_weights=str(start), colour=SETS[cell.set].colour, **options)
    fit(model, data, STEPS)
    encoder: ImageEncoder = model.encoder.eval()
    return encoder


def fit(model: LightningModule, data: Folder, steps: int) -> None:
    """So many steps; methods that are not optimised take one pass."""
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        # what PMSACL needs near its centres, for all that do not optimise by themselves
        gradient_clip_val=5.0 if model.automatic_optimization else None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, train_dataloaders=data.train_dataloader())


# Detectors -------------------------------------------------------------------------------------------------------


def gaussian_scores(weights: Path, data: Folder) -> dict[str, Any]:
    """Distances of averaged features to those of the training images, normalised."""
    encoder = ImageEncoder(NETWORK, image_size=64)
    encoder.load_weights(str(weights))
    encoder.eval()
    with torch.inference_mode():
        train = torch.cat([encoder(batch["image"]) for batch in data.train_dataloader()])
        found = [(batch, encoder(batch["image"])) for batch in data.test_dataloader()]
    model = LedoitWolf().fit(torch.nn.functional.normalize(train, dim=1).double().numpy())
    test = torch.nn.functional.normalize(torch.cat([feature for _, feature in found]), dim=1).double().numpy()
    return {**truth([batch for batch, _ in found]), "score": model.mahalanobis(test)}


def number_scores(train: Statistics, test: Statistics, columns: slice) -> dict[str, Any]:
    """Distances of some numbers of test files to those of training files."""
    value = train.value[:, columns]
    mean, spread = value.mean(0), value.std(0)
    spread[spread == 0] = 1  # all files are alike: a pixel more is an anomaly
    white, given = (value - mean) / spread, (test.value[:, columns] - mean) / spread
    precision = np.linalg.inv(white.T @ white / len(white) + RIDGE * np.eye(len(mean)))
    return {"label": test.label, "kind": test.kind, "score": ((given @ precision) * given).sum(1)}


def detector_scores(cell: Cell, weights: Path, data: Folder) -> dict[str, Any]:
    """Scores, and maps where there are masks, of a fitted detector."""
    seed_everything(cell.seed, verbose=False)
    model: PaDiM | IGD
    if cell.detector == "padim":
        model = PaDiM(
            backbone=NETWORK, weights=None, encoder_weights=str(weights), num_channels=CHANNELS, seed=cell.seed
        )
    else:
        model = IGD(
            encoder=NETWORK, encoder_weights=str(weights), freeze_encoder=True, image_size=SETS[cell.set].size,
            width=8, lr=1e-3,
        )  # fmt: skip
    fit(model, data, -1 if cell.detector == "padim" else 2 * IGD_STEPS)  # Lightning counts both optimisers of IGD
    model.eval()
    with torch.inference_mode():
        batches = list(data.test_dataloader())
        predictions = [model.predict(batch) for batch in batches]
    result = {**truth(batches), "score": torch.cat([each["anomaly_score"] for each in predictions]).numpy()}
    if "mask" in batches[0]:
        result["mask"] = torch.cat([batch["mask"] for batch in batches]).flatten().numpy()
        result["map"] = torch.cat([each["anomaly_map"] for each in predictions]).flatten().numpy()
    return result


def truth(batches: Sequence[Any]) -> dict[str, Any]:
    """Labels and kinds of anomalies of test batches."""
    label: Tensor = torch.cat([batch["label"] for batch in batches])
    kinds = [
        Path(path).parent.name for batch in batches for path in batch["image_path"]
    ]  # as image_lists.py writes them
    return {"label": label.numpy(), "kind": np.array(kinds)}


def figures(found: dict[str, Any]) -> Record:
    """AUROC of images, of each kind of anomaly against all normals, and of pixels where there are maps."""
    label, score, kind = found["label"], found["score"], found["kind"]
    kinds = sorted(set(kind[label == 1]))
    by_kind = {}
    for name in kinds if len(kinds) > 1 else ():
        chosen = (label == 0) | (kind == name)
        by_kind[name] = round(float(roc_auc_score(label[chosen], score[chosen])), 4)
    out: Record = {"image_AUROC": round(float(roc_auc_score(label, score)), 4), "by_kind": by_kind}
    if "map" in found:
        out["pixel_AUROC"] = round(float(roc_auc_score(found["mask"], found["map"])), 4)
    return out


def run(cell: Cell, place: Workplace) -> Record:
    """Figures of a cell, and its processor seconds without those of its pre-training."""
    if cell.detector in NUMBERS:
        return figures(
            number_scores(*file_statistics(prepare(cell.set, place.folder / "images")), NUMBERS[cell.detector])
        )
    start = time.process_time()
    weights = place.encoder(cell)
    middle = time.process_time()
    data = place.data(cell.set, seed=cell.seed)
    found = gaussian_scores(weights, data) if cell.detector == "gaussian" else detector_scores(cell, weights, data)
    return {
        **figures(found),
        "cpu_s": round(time.process_time() - middle, 1),
        "encoder_cpu_s": round(middle - start, 1),
    }


# Driver ----------------------------------------------------------------------------------------------------------


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """All cells, seed by seed, so that an unfinished table has whole seeds; encoders of one set are shared by the detectors."""
    for name in options.sets:
        for detector in NUMBERS:
            yield Cell(name, "none", detector, 0, "none")
    for seed, name, encoder, detector in product(options.seeds, options.sets, options.encoders, options.detectors):
        yield Cell(name, encoder, detector, seed, options.start if encoder in PRETRAININGS else "none")


def table(records: Sequence[Record], sets: Sequence[str], start: str, figure: str = "image_AUROC") -> str:
    """Markdown: encoders as rows, sets and detectors as columns, mean and standard deviation over seeds."""
    columns = list(product(sets, DETECTORS))
    lines = ["| | " + " | ".join(f"{name}, {detector}" for name, detector in columns) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    for encoder in ENCODERS:
        row = []
        for name, detector in columns:
            wanted = Cell(name, encoder, detector, 0, start if encoder in PRETRAININGS else "none").key
            del wanted["seed"]
            values = [each[figure] for each in records if wanted.items() <= each.items() and figure in each]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            row.append(f"{statistics.fmean(values):.3f}{spread}" if values else "")
        lines.append(f"| {encoder} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Detectors on encoders of several pre-trainings, as a Markdown table.")
    parser.add_argument("--folder", type=Path, required=True, help="for images, weights and results; continued")
    parser.add_argument("--weights", type=Path, help=f"file of ImageNet weights of {NETWORK}")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--encoders", nargs="+", default=ENCODERS, choices=ENCODERS)
    parser.add_argument("--detectors", nargs="+", default=DETECTORS, choices=DETECTORS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--start", default="imagenet", choices=["imagenet", "random"], help="of pre-trainings")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table of what is finished; run nothing")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    place, results = Workplace(options.folder, options.weights), options.folder / "results.jsonl"
    try:
        records = read_results(results)
        missing = [cell for cell in cells(options) if not any(cell.key.items() <= one.items() for one in records)]
        if missing and not options.table and options.weights is None:
            parser.error(f"--weights must be a file of ImageNet weights of {NETWORK}; got none. Give it, or --table.")
        options.folder.mkdir(parents=True, exist_ok=True)
        for number, cell in enumerate([] if options.table else missing, 1):
            records.append({**cell.key, **run(cell, place)})
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(records[-1]) + "\n")
            print(f"{number}/{len(missing)} {json.dumps(records[-1])}", file=sys.stderr, flush=True)
    except AnomalySuiteError as error:
        parser.error(str(error))
    print(table(records, options.sets, options.start))
    print("\npixels\n\n" + table(records, options.sets, options.start, "pixel_AUROC"))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    sys.exit(main())

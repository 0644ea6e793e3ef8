"""When labelled anomalies help: FSAD-Net and its comparators over the number of labelled anomalies, three subsets of them each.

    python benchmarks/few_shot.py --root $ANOMALY_SUITE_DATA --folder runs/few_shot                       # goes on where it stopped
    python benchmarks/few_shot.py --root $ANOMALY_SUITE_DATA --folder runs/few_shot --table               # the tables, of what is there
    python benchmarks/few_shot.py --root $ANOMALY_SUITE_DATA --folder runs/few_shot --plot docs/images/few_shot.png

A cell is one training with k labelled anomalies that moved from test to training, drawn by the seed of a subset; weights, splits and the order
of images have seed 0 throughout, so that what varies is the subset. Cells of one k and subset share their images, and smaller subsets
lie inside larger ones. Encoders are pre-trained once a data set, on normal images alone, and rest. The last step is tested, once; no setting
was chosen by a result.

For k = 0 an image's score is the Mahalanobis distance of its code to those of the training images. ``--types`` trains on anomalies of
one kind and tests that kind and the others apart.

The budget is small: one grey channel of 32 pixels, encoders of width 16, 300 steps for a representation and 150 with labels (6,000 and
1,000 epochs in the thesis). Score networks of a resting encoder are trained on codes that are computed once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer, seed_everything
from PIL import Image
from torch import Tensor

from anomaly_suite.augment.draws import image_keys
from anomaly_suite.contract import AnomalyDataModule, AnomalyModule
from anomaly_suite.data import MNIST, Folder
from anomaly_suite.methods import FSADNet, LearningToReweight, SupervisedHead
from anomaly_suite.methods.few_shot.labelled_scorer import LabelledScorer
from anomaly_suite.methods.few_shot.learning_to_reweight import normalized, usefulness
from anomaly_suite.metrics import auroc
from anomaly_suite.nn.gaussian import inverse_cholesky

KS = (10, 20, 30, 40, 80)
SUBSETS = (0, 1, 2)
BATCH, WIDTH = 64, 16
FIRST_STEPS, STEPS = 300, 150
FIRST_LR, LR = 5e-4, 1e-3
DENSE_STEPS = 40  # of the DenseNet, twenty times the cost of the others
TEST_BATCHES = {"mnist": 4}  # of 500 images: the first 2,000 of the official test set
RIDGE = 1e-6
SIDE = 32  # px
NORMAL = ("normal", "good")
TWICE = "00002658_001.jpg"  # a test image that is a training image under another name
SMALL = {"width": WIDTH, "lr": LR}


class Variant(NamedTuple):
    """A row: how its model is built, whether batches are balanced, its representation, whether the encoder rests, steps, numbers of anomalies."""

    build: Callable[..., AnomalyModule]
    balanced: bool = True
    on: str | None = None
    rests: bool = True
    steps: int = STEPS
    ks: tuple[int, ...] = KS


RESTING = partial(FSADNet, representation="none", **SMALL)
VARIANTS = {
    "FSAD-Net": Variant(RESTING, on="infomax"),
    "cross-entropy": Variant(partial(RESTING, loss="cross_entropy"), on="infomax"),
    "focal loss": Variant(partial(RESTING, loss="focal"), on="infomax"),
    "learning to reweight": Variant(partial(LearningToReweight, **SMALL), balanced=False, on="infomax"),
    "AE network": Variant(RESTING, on="autoencoder"),
    "without representation, trained": Variant(partial(RESTING, freeze_encoder=False), rests=False),
    "DevNet on pixels": Variant(partial(RESTING, encoder="pixels", margin=5.0, reference_draws=5000)),
    "DenseNet-121, cross-entropy": Variant(
        partial(SupervisedHead, width=WIDTH, lr=LR), rests=False, steps=DENSE_STEPS, ks=(40,)
    ),
}
TYPED = ("FSAD-Net", "cross-entropy", "AE network")  # rows of --types
TYPES = {"tile": ["blowhole", "break", "uneven"], "chest_xray": ["pneumonia", "covid19"]}


Build = Callable[..., AnomalyDataModule]


def data_sets(root: Path, folder: Path) -> dict[str, Build]:
    """The data sets by name, in the folder of all; ``folder`` gets small copies of files."""
    digit = partial(MNIST, root=str(root / "mnist"), image_size=SIDE, train_fraction=0.1)
    return {
        "mnist_8": partial(digit, normal_class=8),
        "chest_xray": partial(copies, root / "chest_xray", folder / "chest_xray"),
        "tile": partial(copies, root / "magnetic_tile" / "tile", folder / "tile"),
        "mnist_3": partial(digit, normal_class=3),
    }


def copies(source: Path, folder: Path, **options: Any) -> AnomalyDataModule:
    """Grey copies of a set in ``train`` and ``test``, of the size that is used: files are then read in no time."""
    index = folder / "index.csv"
    if not index.is_file():
        rows = ["path,label,split,defect_type"]
        for path in sorted(source.glob("t*/*/*.*")):
            part, kind = path.parts[-3:-1]
            if part not in ("train", "test") or path.name == TWICE:
                continue
            copy = folder / part / kind / f"{path.stem}.png"
            copy.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(copy)
            rows.append(f"{copy.relative_to(folder)},{int(kind not in NORMAL)},{part},{'' if kind in NORMAL else kind}")
        index.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return Folder(index=str(index), channels=1, image_size=SIDE, **options)


def trainer(**ends: Any) -> Trainer:
    """A trainer that writes and prints nothing."""
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", devices=1, logger=False, limit_val_batches=0, max_epochs=-1, **quiet, **ends)


def build_data(data: Build, **options: Any) -> AnomalyDataModule:
    """The data module, validated on nothing; anomalies as the options say."""
    return data(train_batch_size=BATCH, eval_batch_size=500, validation="none", seed=0, **options)


def pretrained(folder: Path, name: str, data: Build, kind: str) -> Path:
    """The checkpoint of a representation of normal images, trained if it is not there yet."""
    file = folder / f"{name}-{kind}.ckpt"
    if not file.is_file():
        seed_everything(0, verbose=False)
        model = FSADNet(
            representation=kind,
            image_size=SIDE,
            width=WIDTH,
            representation_lr=FIRST_LR,
            representation_epochs=10**6,
        )  # type: ignore[arg-type]
        run = trainer(max_steps=FIRST_STEPS * (2 if kind == "infomax" else 1))
        run.fit(model, datamodule=build_data(data))
        run.save_checkpoint(file)
    return file


@torch.no_grad()
def scores_of_test(
    name: str, module: AnomalyDataModule, score: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, list[str]]:
    """Scores, labels and kinds of the test images."""
    scores, labels, kinds = [], [], list(module.require_splits().test.kinds)  # type: ignore[attr-defined]
    most = TEST_BATCHES.get(name.partition("_")[0])
    for batch in itertools.islice(module.test_dataloader(), most):
        scores.append(score(batch["image"]))
        labels.append(batch["label"])
    return torch.cat(scores), torch.cat(labels), kinds


def with_labels(model: AnomalyModule, image: Tensor) -> Tensor:
    """The score of a trained model."""
    score: Tensor = model(image)[0]
    return score


@torch.no_grad()
def without_labels(module: AnomalyDataModule, encoder: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A score by the Gaussian of training codes."""
    code = torch.cat([encoder(batch["image"]) for batch in module.train_dataloader()]).double()
    mean, matrix = code.mean(0), code.T.cov() + RIDGE * torch.eye(code.shape[1], dtype=torch.float64)
    white, _ = inverse_cholesky(matrix.unsqueeze(0))
    return lambda image: ((encoder(image).double() - mean) @ white[0].T).norm(dim=1)


def fit_on_codes(model: LabelledScorer, module: AnomalyDataModule, steps: int) -> None:
    """Train a score network as the method does, with the codes of its resting encoder computed once: same batches, loss and optimiser."""
    loader: Any = module.train_dataloader()
    whole = loader.dataset.__getitems__(list(range(len(loader.dataset))))
    with torch.no_grad():
        code, label = model.eval().encoder(whole["image"]), whole["label"]
    found = model.configure_optimizers()
    optimizer: Any = found[-1] if isinstance(found, list) else found
    keys = image_keys(whole["image"])
    model.scorer.train()
    losses: Any = partial(model.label_losses, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    for rows in itertools.islice(epochs(loader), steps):
        score = model.scorer(code[rows])
        weight = torch.full((len(rows),), 1 / len(rows))
        if isinstance(model, LearningToReweight):
            order = keys.argsort(stable=True)
            clean = torch.cat([order[label[order] == kind][: model.clean_size] for kind in (0, 1)])
            useful = usefulness(model.scorer, code[rows], label[rows], code[clean], label[clean], losses)
            weight = normalized(useful, useful.clamp_min(0).sum())
        optimizer.zero_grad()
        (weight * losses(score, label[rows])).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def epochs(loader: Any) -> Iterator[list[int]]:
    """Rows of the batches of one epoch after another."""
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        for rows in loader.batch_sampler:
            yield [row % len(loader.dataset) for row in rows]


def measure(folder: Path, name: str, data: Build, cell: dict[str, Any]) -> dict[str, Any]:
    """Train and test one cell."""
    variant, k, kind = VARIANTS[cell["variant"]], cell["k"], cell["kind"]
    weights = str(pretrained(folder, name, data, variant.on)) if variant.on else None
    begun = time.process_time()
    seed_everything(0, verbose=False)
    model = variant.build(image_size=SIDE, encoder_weights=weights)
    more = {"anomalous_types": [kind]} if kind else {}
    module = build_data(
        data, num_anomalous=k, anomalous_seed=cell["subset"], balanced=variant.balanced and k > 0, **more
    )
    model.load_pretrained()
    if k and variant.rests:
        fit_on_codes(model, module, variant.steps)  # type: ignore[arg-type]
    elif k:
        trainer(max_steps=variant.steps).fit(model, datamodule=module)
    model.eval()
    if k:
        score: Callable[[Tensor], Tensor] = partial(with_labels, model)
    else:
        score = without_labels(module, model.encoder)  # type: ignore[arg-type]
    scores, label, kinds = scores_of_test(name, module, score)
    found = {"auroc": float(auroc(scores, label)), "cpu_s": round(time.process_time() - begun, 1)}
    if kind:
        seen = torch.tensor([each == kind for each in kinds[: len(label)]])
        for part, rows in {"seen": seen, "unseen": ~seen}.items():
            chosen = (label == 0) | rows
            found[part] = float(auroc(scores[chosen], label[chosen]))
    return found


def cells(names: list[str], *, typed: bool, subsets: tuple[int, ...] = SUBSETS) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every cell: the first subset of everything comes first."""
    for subset in subsets:
        for name in names:
            if typed:
                for kind, variant in itertools.product(TYPES.get(name, ()), TYPED):
                    yield name, {"variant": variant, "k": 40, "subset": subset, "kind": kind}
                continue
            for variant, (_, _, on, _, _, ks) in VARIANTS.items():
                unlabelled = [0] if subset == 0 and variant in ("FSAD-Net", "AE network") and on else []
                for k in (*unlabelled, *ks):
                    yield name, {"variant": variant, "k": k, "subset": subset, "kind": None}


Table = dict[tuple[Any, ...], list[float]]


def collect(records: list[dict[str, Any]], value: str) -> Table:
    """Values over subsets by (data set, row, k, kind); the two digits are one data set, subset by subset."""
    parts: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for record in records:
        if value in record:
            name = "mnist" if record["data"].startswith("mnist") else record["data"]
            parts[name, record["variant"], record["k"], record["kind"], record["subset"]].append(record[value])
    found: Table = defaultdict(list)
    for key, values in parts.items():
        found[key[:-1]].append(statistics.mean(values))
    return found


def written(values: list[float]) -> str:
    """Mean and deviation over subsets."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def print_tables(records: list[dict[str, Any]]) -> None:
    """Markdown: of each data set rows by the number of anomalies, then what was seen and unseen."""
    found = collect([each for each in records if not each["kind"]], "auroc")
    for name in dict.fromkeys(key[0] for key in found):
        print(f"\n| {name} | " + " | ".join(f"k = {k}" for k in (0, *KS)) + " |\n|---" + "|---" * (1 + len(KS)) + "|")
        for variant in VARIANTS:
            print(
                f"| {variant} | "
                + " | ".join(written(found.get((name, variant, k, None), [])) for k in (0, *KS))
                + " |"
            )
    parts = {part: collect(records, part) for part in ("seen", "unseen")}
    if parts["seen"]:
        print("\n| data | trained on 40 of | row | that kind | the others |\n|---|---|---|---|---|")
    for key, values in parts["seen"].items():
        name, variant, _, kind = key
        print(f"| {name} | {kind} | {variant} | {written(values)} | {written(parts['unseen'][key])} |")


def plot(records: list[dict[str, Any]], file: Path) -> None:
    """AUROC over the number of anomalies, one panel a data set."""
    import matplotlib.pyplot as plt

    found = collect([each for each in records if not each["kind"]], "auroc")
    names = list(dict.fromkeys(key[0] for key in found))
    figure, axes = plt.subplots(1, len(names), figsize=(5 * len(names), 4), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for variant in VARIANTS:
            points = [(k, found[name, variant, k, None]) for k in (0, *KS) if (name, variant, k, None) in found]
            spread = [statistics.stdev(values) if len(values) > 1 else 0 for _, values in points]
            means = [statistics.mean(values) for _, values in points]
            axis.errorbar([k for k, _ in points], means, spread, label=variant, marker="o", markersize=3, capsize=2)
        axis.set(title=name, xlabel="labelled anomalies in training")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("AUROC")
    axes[0][-1].legend(fontsize=7)
    figure.savefig(file, dpi=100, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description="Few labelled anomalies: FSAD-Net and its comparators.")
    parser.add_argument("--root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--folder", type=Path, required=True, help="of checkpoints and results, made or continued")
    parser.add_argument("--only", nargs="+", help="data sets")
    parser.add_argument("--rows", nargs="+", help="rows of the tables, by their beginnings")
    parser.add_argument("--ks", nargs="+", type=int, default=(0, *KS), help="numbers of labelled anomalies")
    parser.add_argument("--subsets", nargs="+", type=int, default=SUBSETS)
    parser.add_argument("--types", action="store_true", help="train on one kind of defect")
    parser.add_argument("--table", action="store_true", help="print the tables and train nothing")
    parser.add_argument("--plot", type=Path, help="draw the curves and train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    options.folder.mkdir(parents=True, exist_ok=True)
    results = options.folder / "results.jsonl"
    records = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    if options.plot:
        plot(records, options.plot)
    if options.table:
        print_tables(records)
    if options.plot or options.table:
        return
    sets = data_sets(options.root, options.folder)
    todo = list(cells(options.only or list(sets), typed=options.types, subsets=tuple(options.subsets)))
    for number, (name, cell) in enumerate(todo, 1):
        key = {"data": name, **cell}
        if cell["k"] not in options.ks or not cell["variant"].startswith(tuple(options.rows or ("",))):
            continue
        if any(key.items() <= record.items() for record in records):
            continue
        records.append({**key, **measure(options.folder, name, sets[name], cell)})
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(records[-1]) + "\n")
        print(f"{number}/{len(todo)} {records[-1]}", flush=True)


if __name__ == "__main__":
    main()

"""Which rule sets a threshold best where only normal images are known: every rule on several sets and methods, as Markdown tables.

    python benchmarks/decisions.py --scores runs/decisions --weights FILE

``FILE`` are EfficientNet-Lite0's ImageNet weights for PaDiM (``docs/results.md`` says where they come from). Sets are read below
``ANOMALY_SUITE_DATA``, and left out where they are missing; ``--sets`` and ``--methods`` choose some.

Every method is fitted once on every set, with a short schedule that was fixed before any score was seen (:data:`METHODS`). The scores of
held-out normals, of one pseudo-anomaly of each (``validation: augmented``) and of test images go into one file a fit, and a fit whose file
is there is not repeated. Then every rule sets a threshold from 20 normals, and from 200 or all there are, drawn at random
from the held-out ones, twenty times. Test data decide nothing within a set: the tables compare rules, and one rule is taken for all.

Columns: *promised* is the false-positive rate that a rule states, *actual* that of the test normals, *miss* the mean of
``|log2(actual / promised)|``, actual rates under 0.5 % (of pixels, 0.05 %) counted as that: 1 is a factor of two. *BA* is the balanced
accuracy on the test set, the mean of sensitivity and specificity, *BA, able* that of the fits with an AUROC above 0.7: where a
method cannot tell normal from anomalous, no threshold can. All are means over draws, then over fits, so every fit counts the same.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import Trainer, seed_everything
from scipy import stats
from torch.utils.data import DataLoader, Dataset, Subset

from anomaly_suite import data, methods
from anomaly_suite.callbacks.thresholds import CurveRule, choose_threshold
from anomaly_suite.contract import AnomalyDataModule, AnomalyModule, as_batch
from anomaly_suite.io.atomic import replacing
from anomaly_suite.metrics import auroc
from anomaly_suite.metrics.state import make_curve

Scores = npt.NDArray[np.float64]

SEED = 0
TRAIN, TEST = 200, 200  # at most as many training images, test normals and test anomalies of a set
STRIDE = 4  # one pixel in 16 of a map is kept
DRAWS = 20
COUNTS = {"few": 20, "many": 200}


Row = tuple[Path, int, Path | str, str]


def _listed(rows: Sequence[Row], folder: Path, size: int, **options: Any) -> AnomalyDataModule:
    """Images with label, mask and split, through an index file."""
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "mask", "split"), *rows])
    index = str(folder / "index.csv")
    return data.Folder(index=index, image_size=size, validation="augmented", seed=SEED, **options)


def _ped2(root: Path, folder: Path, size: int) -> AnomalyDataModule:
    """Frames as images, every fifth: clips 1 to 8 train, clips 9 to 16 are held out, so that they are as new as those of the test."""
    clips = root / "ucsd/UCSD_Anomaly_Dataset.v1p2/UCSDped2"
    truth = data.UCSDPedWeak(root=str(clips.parent), truth="masks").frame_truth()
    rows: list[Row] = []
    for clip in sorted(clips.glob("T*/T*[0-9]")):
        masks = sorted(clip.with_name(f"{clip.name}_gt").glob("*.png"))
        for index, path in list(enumerate(sorted(clip.glob("*.jpg"))))[::5]:
            label = int(clip.parent.name == "Test" and truth[clip.name][index])
            split = "test" if clip.parent.name == "Test" else "train" if int(clip.name[-3:]) <= 8 else "val"
            rows.append((path, label, masks[index] if label else "", split))
    return _listed(rows, folder, size)


def _chest_xray(root: Path, folder: Path, size: int) -> AnomalyDataModule:
    """Without the one test image that is a training image under another name."""
    rows: list[Row] = []
    for path in sorted((root / "chest_xray").glob("*/*/*.*")):
        if path.name != "00002658_001.jpg":
            rows.append((path, int(path.parent.name != "normal"), "", path.parent.parent.name))
    return _listed(rows, folder, size, val_size=220)


def _files(kind: type[AnomalyDataModule], **options: Any) -> Callable[[Path, Path, int], AnomalyDataModule]:
    def make(root: Path, folder: Path, size: int) -> AnomalyDataModule:
        places = {key: str(root / value) for key, value in options.items() if key == "root"}
        return kind(**{**options, **places, "image_size": size, "validation": "augmented", "seed": SEED})

    return make


class ImageSize(NamedTuple):
    """Pixels of a side: for the pretrained network, and for networks that are trained."""

    pretrained: int
    trained: int


class Case(NamedTuple):
    """One set: its folder below the root of all (empty if it is made or comes with a library), its sizes, and how it is read."""

    folder: str
    size: ImageSize
    make: Callable[[Path, Path, int], AnomalyDataModule]


LARGE, SMALL = ImageSize(128, 64), ImageSize(64, 32)
SETS: dict[str, Case] = {
    "magnetic_tile": Case(
        "magnetic_tile", LARGE, _files(data.MVTecAD, root="magnetic_tile", category="tile", val_size=250)
    ),
    "chest_xray": Case("chest_xray", LARGE, _chest_xray),
    "ped2_frames": Case("ucsd", LARGE, _ped2),
    "mnist_3": Case("mnist", SMALL, _files(data.MNIST, root="mnist", normal_class=3, train_fraction=0.1, val_size=250)),
    "digits_3": Case("", SMALL, _files(data.Digits, normal_class=3, val_size=60)),
    "textures": Case("", LARGE, _files(data.SyntheticTextures, train_size=450, test_size=400, val_size=250)),
}

METHODS: dict[str, tuple[int, dict[str, Any]]] = {
    "PaDiM": (1, {"backbone": "tf_efficientnet_lite0", "num_channels": 50}),
    "DeepSVDD": (20, {"ae_epochs": 10, "ae_lr": 1e-3, "lr": 1e-3, "lr_milestones": [], "widths": [16, 16, 16]}),
    "VAE": (20, {"widths": [16, 32, 64], "latent_dim": 32, "lr": 1e-3}),
    "StudentTeacher": (5, {"patch_sizes": [17], "width": 8, "teacher_epochs": 0, "patches_per_image": 8, "lr": 1e-3}),
}
"""Epochs and options of a method; its images and channels are the set's."""


class Dump(NamedTuple):
    """Scores of one fit: N held-out normals and their pseudo-anomalies, M test images; maps at P kept pixels, which may be none."""

    normal: Scores
    """(N,)"""
    pseudo: Scores
    """(N,)"""
    test: Scores
    """(M,)"""
    label: npt.NDArray[np.int64]
    """(M,), 1 is anomalous."""
    normal_map: npt.NDArray[np.float32]
    """(N, P)"""
    test_map: npt.NDArray[np.float32]
    """(M, P)"""
    mask: npt.NDArray[np.bool_]
    """(M, P), or (0, 0) where the set has no masks."""


def dump_scores(set_name: str, method: str, *, root: Path, weights: Path | None) -> Dump:
    """Fit a method on a set and score its images."""
    case, (epochs, options) = SETS[set_name], METHODS[method]
    options = dict(options)
    size = case.size.pretrained if method == "PaDiM" else case.size.trained
    with tempfile.TemporaryDirectory() as folder:
        module = case.make(root, Path(folder), size)
        splits = module.build()
        assert splits.val is not None  # validation: augmented
        seed_everything(SEED, verbose=False)
        channels = next(iter(_loader(splits.train)))["image"].shape[1]
        if method == "PaDiM":
            options["weights"] = None if weights is None else str(weights)
        elif method != "StudentTeacher":
            options |= {"image_size": size, "in_channels": channels}
        if method == "DeepSVDD" and size > 32:
            options["widths"] = [16, 16, 16, 16]
        model = getattr(methods, method)(**options)
        held = len(splits.val) // 2  # type: ignore[arg-type]
        train, test = _some(splits.train, TRAIN), _balanced(splits.test)
        _fit(model, train, epochs)
        val_score, val_map, _, _ = _score(model, splits.val)
        test_score, test_map, label, mask = _score(model, test)
    return Dump(val_score[:held], val_score[held:], test_score, label, val_map[:held], test_map, mask)


def _loader(dataset: Dataset[Any], **options: Any) -> DataLoader[Any]:
    return DataLoader(dataset, collate_fn=as_batch, **{"batch_size": 32, **options})


def _some(dataset: Dataset[Any], count: int) -> Dataset[Any]:
    size = len(dataset)  # type: ignore[arg-type]
    return Subset(dataset, np.sort(np.random.default_rng(SEED).permutation(size)[:count]).tolist())


def _balanced(dataset: Dataset[Any]) -> Dataset[Any]:
    """At most as many test images of each label as wanted."""
    found = getattr(dataset, "label", None)
    items: Any = getattr(dataset, "items", None)
    label = np.array([item.label for item in items]) if items is not None else np.asarray(found)
    order = np.random.default_rng(SEED).permutation(len(label))
    rows = np.concatenate([order[label[order] == value][:TEST] for value in (0, 1)])
    return Subset(dataset, np.sort(rows).tolist())


def _fit(model: AnomalyModule, train: Dataset[Any], epochs: int) -> None:
    generator = torch.Generator().manual_seed(SEED)
    loader = _loader(train, shuffle=True, generator=generator)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(accelerator="cpu", devices=1, max_epochs=epochs, **quiet).fit(model, loader)  # type: ignore[arg-type]


def _score(
    model: AnomalyModule, dataset: Dataset[Any]
) -> tuple[Scores, npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    score, maps, label, mask = [], [], [], []
    with torch.no_grad():
        for batch in _loader(dataset):
            prediction = model.eval().predict(batch)
            score.append(prediction["anomaly_score"])
            label.append(batch["label"])
            count, part = len(batch["label"]), slice(STRIDE // 2, None, STRIDE)
            if "anomaly_map" in prediction:
                maps.append(prediction["anomaly_map"][..., part, part].reshape(count, -1))
            if "mask" in batch:
                mask.append(batch["mask"][..., part, part].reshape(count, -1))
    none = torch.zeros(len(torch.cat(score)), 0)
    return (
        torch.cat(score).double().numpy(),
        (torch.cat(maps) if maps else none).numpy(),
        torch.cat(label).numpy(),
        (torch.cat(mask) if mask else torch.zeros(0, 0, dtype=torch.bool)).numpy(),
    )


def load_or_dump(folder: Path, set_name: str, method: str, **options: Any) -> Dump:
    """The scores of a fit, from its file or made now."""
    file = folder / f"{set_name}-{method}.npz"
    if not file.is_file():
        start = time.process_time()
        dump = dump_scores(set_name, method, **options)
        with replacing(file) as temporary:
            np.savez_compressed(temporary, **dump._asdict())
        print(f"{set_name} {method}: {time.process_time() - start:.0f} processor s", file=sys.stderr, flush=True)
    with np.load(file) as content:
        return Dump(**content)


class Rule(NamedTuple):
    """A way to a threshold from normals (N,) and their pseudo-anomalies (N,), and the false-positive rate that it promises."""

    name: str
    choose: Callable[[Scores, Scores], float]
    promised: float | None = None


def image_rules() -> list[Rule]:
    """Rules for whole images; those of the package are the package's own."""
    on_normals: dict[str, Callable[..., float]] = {
        "quantile": partial(_ours, "quantile"),
        "normal distribution": _gaussian,
        "normal distribution, Student's t": _student,
        "exponential upper quarter": partial(_tail, has_shape=False),
        "generalised Pareto upper quarter": partial(_tail, has_shape=True),
        "Gumbel": partial(_ours, "gumbel"),
    }
    return [
        *_at(on_normals, (0.9, 0.95, 0.99)),
        Rule("pseudo-anomalies, best F1", partial(_ours, "max_f1")),
        Rule("pseudo-anomalies, best TPR - FPR", partial(_ours, "youden")),
    ]


def pixel_rules() -> list[Rule]:
    """Rules for pixels: pseudo-anomalies have no masks, and there are enough pixels for any quantile."""
    return _at({"quantile": _quantile, "Gumbel": _gumbel}, (0.95, 0.99, 0.995, 0.999))


def _at(rules: Mapping[str, Callable[..., float]], quantiles: Sequence[float]) -> list[Rule]:
    return [
        Rule(f"{name}, {quantile:g}", partial(rules[name], quantile=quantile), 1 - quantile)
        for quantile, name in product(quantiles, rules)
    ]


def _ours(rule: CurveRule, normal: Scores, pseudo: Scores, *, quantile: float = 0.9) -> float:
    """The package's own rule; the two for normals do not see pseudo-anomalies."""
    score = torch.from_numpy(np.concatenate([normal, pseudo]) if rule in ("max_f1", "youden") else normal)
    label = (torch.arange(len(score)) >= len(normal)).long()
    return choose_threshold(make_curve(score, label, 1 - label, torch.zeros_like(score)), rule, quantile)


def _gaussian(normal: Scores, pseudo: Scores, *, quantile: float) -> float:
    return float(normal.mean() + stats.norm.ppf(quantile) * normal.std(ddof=1))


def _student(normal: Scores, pseudo: Scores, *, quantile: float) -> float:
    """Quantile of a further sample where mean and deviation are estimates."""
    count = len(normal)
    return float(normal.mean() + stats.t.ppf(quantile, count - 1) * normal.std(ddof=1) * math.sqrt(1 + 1 / count))


def _tail(normal: Scores, pseudo: Scores, *, quantile: float, has_shape: bool) -> float:
    """Excesses over the upper quartile: exponential, or generalised Pareto by probability-weighted moments (Hosking and Wallis, 1987)."""
    ordered = np.sort(normal)
    count = max(2, len(ordered) // 4)
    start, excess = ordered[-count - 1], ordered[-count:] - ordered[-count - 1]
    ratio = count / len(ordered) / (1 - quantile)  # of the tail's share and the promised one
    mean, weighted = excess.mean(), (excess * (1 - (np.arange(count) + 0.65) / count)).mean()
    if not has_shape or mean <= 2 * weighted:
        return float(start + mean * math.log(ratio))
    xi = float(np.clip(2 - mean / (mean - 2 * weighted), -0.5, 0.5))
    sigma = 2 * mean * weighted / (mean - 2 * weighted)
    return float(start + (sigma * math.log(ratio) if abs(xi) < 1e-6 else sigma / xi * (ratio**xi - 1)))


def _quantile(normal: Scores, pseudo: Scores, *, quantile: float) -> float:
    return float(np.quantile(normal, quantile))


def _gumbel(normal: Scores, pseudo: Scores, *, quantile: float) -> float:
    """As the package's, without sorting all pixels."""
    scale = float(normal.std()) * math.sqrt(6) / math.pi
    return float(normal.mean()) - scale * (np.euler_gamma + math.log(-math.log(quantile)))


Outcome = dict[str, float]
"""Of one rule on one fit, means over draws; NaN where a set has no such truth."""


def on_images(dump: Dump, rule: Rule, count: int) -> Outcome:
    """What a rule decides about the test images: ``BA``, ``actual`` and ``miss``, see the head of this file."""
    outcomes = []
    for rows in _draws(dump, count, DRAWS):
        decided = dump.test >= rule.choose(dump.normal[rows], dump.pseudo[rows])
        false, true = decided[dump.label == 0].mean(), decided[dump.label == 1].mean()
        outcomes.append({"BA": (1 + true - false) / 2, "actual": false, "miss": _miss(false, rule, least=0.005)})
    return _mean(outcomes)


def on_pixels(dump: Dump, rule: Rule, count: int) -> Outcome:
    """What a rule decides about pixels of the test images: ``actual`` and ``miss`` on normal images, with masks ``BA`` and ``Dice``."""
    outcomes = []
    for rows in _draws(dump, count, DRAWS // 4):  # many pixels of an image are alike: draws differ less
        decided = dump.test_map >= rule.choose(dump.normal_map[rows].ravel().astype(np.float64), dump.pseudo)
        false = decided[dump.label == 0].mean()
        outcome = {"actual": false, "miss": _miss(false, rule, least=0.0005), "BA": math.nan, "Dice": math.nan}
        if dump.mask.any():
            true, flagged, positive = (decided & dump.mask).sum(), decided.sum(), dump.mask.sum()
            negative = dump.mask.size - positive
            outcome["BA"] = (true / positive + 1 - (flagged - true) / negative) / 2
            outcome["Dice"] = 2 * true / (flagged + positive)
        outcomes.append(outcome)
    return _mean(outcomes)


def _draws(dump: Dump, count: int, draws: int) -> Iterator[npt.NDArray[np.int64]]:
    """Rows of held-out normals, at most ``count`` of them."""
    for draw in range(draws):
        yield np.random.default_rng(draw).permutation(len(dump.normal))[:count]


def _miss(actual: float, rule: Rule, *, least: float) -> float:
    return math.nan if rule.promised is None else abs(math.log2(max(actual, least) / rule.promised))


def _mean(outcomes: Sequence[Outcome]) -> Outcome:
    return {name: float(np.mean([outcome[name] for outcome in outcomes])) for name in outcomes[0]}


def table(
    dumps: Sequence[Dump], rules: Sequence[Rule], work: Callable[[Dump, Rule, int], Outcome], columns: Sequence[str]
) -> str:
    """Markdown: rules as rows; columns for few and for many normals, means over fits."""
    able = [float(auroc(torch.from_numpy(dump.test), torch.from_numpy(dump.label))) > 0.7 for dump in dumps]
    names = [f"{column}, {count}" for count in COUNTS.values() for column in columns]
    lines = ["| rule | promised | " + " | ".join(names) + " |", "|---|" + "---|" * (1 + len(names))]
    for rule in rules:
        cells = []
        for count in COUNTS.values():
            outcomes = [work(dump, rule, count) for dump in dumps]
            values = {name: [outcome[name] for outcome in outcomes] for name in outcomes[0]}
            values["BA, able"] = [value for value, is_able in zip(values["BA"], able, strict=True) if is_able]
            cells += [_cell(values[column]) for column in columns]
        promised = "none" if rule.promised is None else f"{rule.promised:.3g}"
        lines.append(f"| {rule.name} | {promised} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{np.mean(known):.3f}" if known else ""


def fits(dumps: Mapping[tuple[str, str], Dump]) -> str:
    """Markdown: what was fitted; image AUROC, and the shift of the test normals in standard deviations of the held-out ones."""
    lines = ["| set | method | held out | test, normal + anomalous | image AUROC | shift |", "|---|" + "---|" * 5]
    for (name, method), dump in dumps.items():
        value = float(auroc(torch.from_numpy(dump.test), torch.from_numpy(dump.label)))
        shift = (dump.test[dump.label == 0].mean() - dump.normal.mean()) / dump.normal.std()
        counts = " + ".join(str(int((dump.label == label).sum())) for label in (0, 1))
        lines.append(f"| {name} | {method} | {len(dump.normal)} | {counts} | {value:.3f} | {shift:+.1f} |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Rules for thresholds from normals alone, as Markdown tables.")
    parser.add_argument("--scores", type=Path, required=True, help="folder of scores, made or continued")
    parser.add_argument("--weights", type=Path, help="EfficientNet-Lite0's for PaDiM; random ones by default")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    root = Path(os.environ.get("ANOMALY_SUITE_DATA", "data"))
    dumps: dict[tuple[str, str], Dump] = {}
    for name, method in product(options.sets, options.methods):
        if SETS[name].folder and not (root / SETS[name].folder).is_dir():
            print(f"{name} is left out: there is no {root / SETS[name].folder}", file=sys.stderr)
        else:
            dumps[name, method] = load_or_dump(options.scores, name, method, root=root, weights=options.weights)
    if not dumps:
        parser.error(f"none of the sets is there; set ANOMALY_SUITE_DATA, or name sets that need no files: {_made()}.")
    print(fits(dumps), end="\n\n")
    print(table(list(dumps.values()), image_rules(), on_images, ("BA", "BA, able", "actual", "miss")), end="\n\n")
    if mapped := [dump for dump in dumps.values() if dump.normal_map.size]:
        print(table(mapped, pixel_rules(), on_pixels, ("Dice", "BA", "actual", "miss")))
    return 0


def _made() -> str:
    return ", ".join(name for name, case in SETS.items() if not case.folder)


if __name__ == "__main__":
    sys.exit(main())

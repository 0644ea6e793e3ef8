"""The numbers of a tiny run of every method, written down and compared bit for bit before and after a refactoring.

    python benchmarks/golden.py --write golden.pt
    python benchmarks/golden.py --check golden.pt
    python benchmarks/golden.py --check golden.pt --only PaDiM IGD --tolerate 'PaDiM/prediction/*=1e-5' --ignore 'PaDiM/state/*'
    python benchmarks/golden.py --portable tests/golden

A run (``tests/tiny_runs.py``, ``tests/configs/<Name>.yaml``) fits with validation and the callbacks that compute figures, tests and
predicts. Every entry has a name: ``<run>/hyper_parameter/<name>``, ``<run>/state/<key of state_dict>``,
``<run>/prediction/<batch>/<key>``, ``<run>/logged/<metric>`` and ``<run>/result/<section of metrics.json>/<name>``. Beside the runs of
the configurations there are shorter ones of methods with other options, named ``<Method>@<options>``. ``PYTHONPATH`` says which
tree is run.

``--check`` prints one line for each entry that differs, and its largest difference; the exit status is then 1. Trained numbers differ
between processors and versions of torch: write and check on one machine, with one thread (``OMP_NUM_THREADS=1``). What holds
everywhere (names and shapes) is in ``tests/golden``, which ``--portable`` writes and the tests read.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import tiny_runs
import torch
from torch import Tensor

import anomaly_suite

Entries = dict[str, Any]
_PATCHES = {"patch_size": 8, "patch_stride": 4, "patches_per_step": 24}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {  # options that take another path through a method's code
    "ADACL": {"bce": {"loss": "bce", "labels": "discrete", "clip_in_loss": True}},
    "ALPS": {
        "literal": {"perturbation": "unbounded", "clean_weight": 0.0, "pool": "flatten", "score": "clean"},
        "noise": {"perturbation": "noise", "score": "average"},
        "plain": {"perturbation": "none"},
    },
    "CCD": {"paper": {"strong": "rotation", "negatives": "same_augmentation", "versions": "all"}},
    "DeepSVDD": {
        "soft": {"objective": "soft-boundary", "warmup_epochs": 1, "ae_epochs": 1},
        "rec": {"reconstruction_weight": 1.0, "score": "sum", "ae_epochs": 0},
        "residual": {"backbone": "residual", "weights": None, "widths": None, "width": 8, "ae_epochs": 0},
    },
    "FSADNet": {
        "dv": {"estimator": "dv", "negatives": "all", "prior": "uniform", "loss": "focal", "representation_epochs": 1},
        "ae": {"representation": "autoencoder", "loss": "cross_entropy", "representation_epochs": 1},
        "whole": {"representation": "none", "freeze_encoder": False, "reference_draws": 50},
    },
    "IGD": {
        "local": {"scope": "local", **_PATCHES},
        "both": {"scope": "both", **_PATCHES, "pixel_space": "unit", "critic_norm": "group"},
    },
    "PaDiM": {"raw": {"score": "raw", "normalization": "none", "layers": (2, 3), "num_channels": 48}},
    "StudentTeacher": {"max": {"pool": "max", "triplet_weight": 1.0, "patch_sizes": [17, 33]}},
    "DAE": {"noise": {"noise_std": 0.1}, "ms_ssim": {"loss": "ms_ssim"}},
    "VAE": {"elbo": {"likelihood": "bernoulli", "score": "elbo", "samples": 2}, "kl": {"score": "kl"}},
    "FAnoGAN": {
        "izi": {"variant": "izi", "gan_epochs": 1, "feature": "encoder"},
        "both": {"variant": "ziz", "gan_epochs": 1, "scope": "both", "image_size": 16, **_PATCHES},
    },
    "SupervisedHead": {"heavy": {"augment": "heavy", "loss": "deviation"}},
    "MSSSIMAutoencoder": {
        "local": {"scope": "local", **_PATCHES, "loss": "mse"},
        "both": {"scope": "both", **_PATCHES, "warmup_epochs": 0},
    },
    "KnowledgeDistillation": {"patches": {"patch_size": 8, "patches_per_image": 2}},
    "DeepLabV3Plus": {
        "sgd": {"optimizer": "sgd", "auxiliary_weight": 0.4, "score": "entropy", "window": 48, "smoothing": True},
        "relaxed": {"relaxation_epochs": 1, "strict_classes": (5, 6), "restart_power": 0.9, "class_weight_bound": 1.0},
    },
    "PEBAL": {"fixed": {"abstention": "fixed", "energy": False, "outlier_form": "paper", "regularizer": "printed"}},
    "DeepGamblers": {"paper": {"outlier_form": "paper", "score": "energy"}},
    "PostHocScore": {
        "mahalanobis": {"score": "mahalanobis", "sample": 0.05},
        "msp": {"score": "msp", "temperature": 2.0},
    },
    "DeepMIL": {"adam": {"optimizer": "adam", "top_k": 3, "mode": "segments", "normalize": True}},
    "CLAWS": {"plain": {"rescale": False}},
    "MIST": {"group": {"ranking": "group", "normal_labels": "scores"}, "first": {"self_training": False}},
    "ARNet": {"released": {"variant": "released"}},
    "GCNAnomaly": {"softmax": {"similarity": "softmax", "rounds": 0}},
    "RTFM": {"thesis": {"variant": "thesis"}, "plain": {"pdc": False, "tsa": False, "magnitude": False}},
    "CTMIL": {
        "thesis": {"preset": "thesis"},
        "linear": {
            "encoder": "linear",
            "video_loss": False,
            "pairs": "all",
            "regularizer": "thesis",
            "mine_eval": True,
        },
    },
}


def entries(name: str, run: tiny_runs.Run) -> Entries:
    """Everything worth comparing of one run, by name."""
    found: Entries = {f"hyper_parameter/{key}": value for key, value in tiny_runs.hyper_parameters(run.model).items()}
    found.update({f"state/{key}": value for key, value in run.model.state_dict().items()})
    for number, prediction in enumerate(run.predictions):
        found.update({f"prediction/{number}/{key}": value for key, value in prediction.items()})
    found.update({f"logged/{key}": value for key, value in run.logged.items()})
    found.update({f"result/{key}": value for key, value in run.results.items()})
    return {f"{name}/{key}": value for key, value in found.items()}


def portable(run: tiny_runs.Run) -> dict[str, Any]:
    """What is the same on every machine: names and shapes."""
    return {
        "hyper_parameters": sorted(tiny_runs.hyper_parameters(run.model)),
        "state_dict": {key: _kind(value) for key, value in run.model.state_dict().items()},
        "logged": sorted(run.logged),
        "metrics.json": sorted(run.results),
    }


def difference(old: Any, new: Any) -> tuple[str, float] | None:
    """What differs, and by how much; None where both are the same bits.

    Args:
        old: A tensor, or a plain value.
        new: Likewise.

    Returns:
        A sentence and the largest difference, infinite where the two cannot be subtracted.
    """
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        if old.shape != new.shape or old.dtype != new.dtype:
            return f"{old.dtype} {tuple(old.shape)} -> {new.dtype} {tuple(new.shape)}", math.inf
        if _bits(old).equal(_bits(new)):
            return None
        gap = (old.double() - new.double()).abs()
        changed = old.ne(new) & ~(old.isnan() & new.isnan())
        largest = float(gap.nan_to_num(nan=math.inf)[changed].max()) if bool(changed.any()) else 0.0
        return f"{int(changed.sum())} of {old.numel()} values, largest difference {largest:.3g}", largest
    if type(old) is type(new) and (old == new or (old != old and new != new)):
        return None
    if isinstance(old, float) and isinstance(new, float):
        return f"{old!r} -> {new!r}, difference {abs(old - new):.3g}", abs(old - new)
    return f"{_short(old)} -> {_short(new)}", math.inf


def compare(old: Entries, new: Entries, *, tolerances: dict[str, float]) -> list[str]:
    """One line for each entry that differs by more than the tolerance of its name's first pattern that fits."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        tolerance = next((value for pattern, value in tolerances.items() if fnmatchcase(name, pattern)), None)
        if tolerance == math.inf:
            continue
        if name not in new or name not in old:
            lines.append(f"{name}: {'is missing' if name in old else 'is new'}")
        elif (found := difference(old[name], new[name])) and (tolerance is None or found[1] > tolerance):
            lines.append(f"{name}: {found[0]}")
    return lines


def collect(names: Sequence[str]) -> Entries:
    """Run the methods one after another."""
    found: Entries = {}
    for name in names:
        start = time.perf_counter()
        found.update(entries(name, tiny_runs.fitted(name)))
        for variant, changes in VARIANTS.get(name, {}).items():
            short = {"max_epochs": 3, "check_val_every_n_epoch": 1, "limit_train_batches": 3}
            found.update(entries(f"{name}@{variant}", tiny_runs.run(name, changes, **short)))
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    return found


def _bits(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} ({', '.join(map(str, value.shape))})"
    return type(value).__name__


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, Tensor) else f"tensor {tuple(value.shape)}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _tolerance(text: str) -> tuple[str, float]:
    pattern, _, value = text.rpartition("=")
    if not pattern:
        raise argparse.ArgumentTypeError(f"a tolerance is PATTERN=NUMBER; got {text!r}")
    return pattern, float(value)


def main(words: Sequence[str] | None = None) -> int:
    """Read the command line, run and write or compare.

    Returns:
        1 where something differs.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--write", type=Path, metavar="FILE", help="write down what the methods do")
    task.add_argument("--check", type=Path, metavar="FILE", help="compare with what was written down")
    task.add_argument("--portable", type=Path, metavar="FOLDER", help="write names and shapes, a JSON for each method")
    parser.add_argument("--only", nargs="+", default=tiny_runs.METHODS, choices=tiny_runs.METHODS, metavar="METHOD")
    parser.add_argument("--tolerate", nargs="+", default=[], type=_tolerance, metavar="PATTERN=NUMBER")
    parser.add_argument("--ignore", nargs="+", default=[], metavar="PATTERN", help="entries not to compare")
    options = parser.parse_args(words)
    print(f"{anomaly_suite.__file__}, torch {torch.__version__}, {platform.processor()}", file=sys.stderr)

    if options.portable:
        options.portable.mkdir(parents=True, exist_ok=True)
        for name in options.only:
            content = json.dumps(portable(tiny_runs.fitted(name)), indent=1)
            (options.portable / f"{name}.json").write_text(content + "\n", encoding="utf-8")
        return 0
    found = collect(options.only)
    if options.write:
        torch.save(found, options.write)
        return 0
    old = torch.load(options.check, weights_only=True)
    old = {name: value for name, value in old.items() if name.split("/")[0].split("@")[0] in options.only}
    lines = compare(old, found, tolerances={**dict.fromkeys(options.ignore, math.inf), **dict(options.tolerate)})
    print("\n".join(lines) or f"{len(found)} entries are the same")
    return int(bool(lines))


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for quiet in ("lightning.pytorch", "anomaly_suite"):
        logging.getLogger(quiet).setLevel(logging.ERROR)
    sys.exit(main())

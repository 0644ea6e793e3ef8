"""Time, memory and file size of the main jobs, printed as one JSON; progress goes to stderr.

    python benchmarks/core.py
    python benchmarks/core.py --only padim_100,metrics --runs 3 --json core.json

Every case runs in a fresh process, so that no case pays for, or profits from, another one. Keys end in their unit:
``_s`` wall seconds, ``_cpu_s`` processor seconds of all threads and child processes (the figure to trust on a busy
machine), ``_mb`` MiB. ``benchmarks/README.md`` describes the cases. Linux only: the peak memory is read from ``/proc``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BATCH = 32
MARKER = "RESULT "
PACKAGES = (
    "anomaly-suite",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "timm",
    "albumentations",
    "opencv-python-headless",
    "numpy",
)
PIXEL_METRICS = ("AUROC", "AP", "AUPRO")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")

Outcome = dict[str, Any]

# Inputs ----------------------------------------------------------------------------------------------------------


def blob(rng: np.random.Generator, size: int) -> npt.NDArray[np.bool_]:
    """A tilted ellipse inside a square of ``size`` pixels. Shape (size, size)."""
    y, x = np.mgrid[:size, :size] - rng.uniform(0.2, 0.8, (2, 1, 1)) * size
    angle, (long, short) = rng.uniform(0, np.pi), rng.uniform(0.03, 0.12, 2) * size
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    inside: npt.NDArray[np.bool_] = (along / long) ** 2 + (across / short) ** 2 <= 1
    return inside


def make_maps(
    count: int, size: int, *, seed: int = 0
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """Score maps of Gaussian noise and their masks, one batch at a time, so that the input takes no memory.

    Every other map has one to three regions whose scores are raised by 0.5 to 3, which keeps rank metrics far from 1.

    Yields:
        Scores and mask, each of shape (B, size, size), B up to 32.
    """
    for start in range(0, count, BATCH):
        rng = np.random.default_rng((seed, start))
        scores = rng.standard_normal((min(BATCH, count - start), size, size), dtype=np.float32)
        masks = np.zeros(scores.shape, dtype=bool)
        for score, mask in zip(scores[1::2], masks[1::2], strict=True):
            for _ in range(rng.integers(1, 4)):
                region = blob(rng, size)
                score[region] += np.float32(rng.uniform(0.5, 3))
                mask |= region
        yield scores, masks


def make_category(folder: Path, *, train: int, test: int, size: int, seed: int = 0) -> None:
    """Write a category in the layout of MVTec AD: noisy stripes; half of the test images have one flat spot and a mask."""
    import cv2

    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    tint = rng.uniform(0.6, 1, 3)

    def texture() -> npt.NDArray[np.uint8]:
        stripes = np.sin(170 * x + rng.uniform(0, 2 * np.pi)) + np.sin(110 * (x + y) + rng.uniform(0, 2 * np.pi))
        pixels = (125 + 28 * stripes[..., None]) * tint + rng.normal(0, 7, (size, size, 3))
        clipped: npt.NDArray[np.uint8] = np.clip(pixels, 0, 255).astype(np.uint8)
        return clipped

    def write(image: npt.NDArray[np.uint8], name: str) -> None:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), image)

    for index in range(train):
        write(texture(), f"train/good/{index:04d}.png")
    for index in range(test):
        image = texture()
        if index % 2:
            spot = blob(rng, size)
            image[spot] = rng.integers(0, 256, 3)
            write(np.where(spot, 255, 0).astype(np.uint8), f"ground_truth/spot/{index:04d}_mask.png")
        write(image, f"test/{'spot' if index % 2 else 'good'}/{index:04d}.png")


def count_images(folder: Path) -> int:
    """Training images of a category folder."""
    return sum(1 for file in (folder / "train" / "good").iterdir() if file.is_file())


# Measuring -------------------------------------------------------------------------------------------------------


class Meter:
    """Stopwatch and peak memory of this process, from its construction on."""

    def __init__(self) -> None:
        self.before = _memory("VmHWM")  # the imports' peak
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # restarts VmHWM
        self.start = _memory("VmRSS")
        self._last = self._now()

    def lap(self, name: str = "") -> Outcome:
        """``<name>_s`` and ``<name>_cpu_s`` since the last lap."""
        now = self._now()
        spent = {f"{name}_s": now[0] - self._last[0], f"{name}_cpu_s": now[1] - self._last[1]}
        self._last = now
        return spent

    def memory(self) -> Outcome:
        """``peak_mb`` of the process and ``above_import_mb``, the peak above what it held when the meter was made."""
        peak = _memory("VmHWM")
        return {"peak_mb": max(peak, self.before), "above_import_mb": peak - self.start}

    @staticmethod
    def _now() -> tuple[float, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


def _memory(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":"))


def fresh(command: Sequence[str], *, threads: int) -> Outcome:
    """Run a worker in a process and an empty folder of its own.

    Args:
        command: What to run; it must print a line of ``MARKER`` and JSON.
        threads: Numeric threads of the process; 0 leaves the number to the libraries.

    Returns:
        What it printed, or ``{"error": ...}``.
    """
    limits = dict.fromkeys(THREAD_VARIABLES, str(threads)) if threads else {}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ, **limits})
    for line in done.stdout.splitlines():
        if line.startswith(MARKER):
            outcome: Outcome = json.loads(line[len(MARKER) :])
            return outcome
    return {"error": (done.stderr or done.stdout)[-1000:] or f"no output, exit status {done.returncode}"}


def work(cases: dict[str, Callable[..., Outcome]], name: str, arguments: str) -> None:
    """The other end of :func:`fresh`: run one case and print its outcome."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    outcome = cases[name](**json.loads(arguments))
    print("\n" + MARKER + json.dumps(outcome))


def summarise(outcomes: Sequence[Outcome]) -> Outcome:
    """Medians of all figures, and all runs of those that vary; the first error or note if there is one."""
    for outcome in outcomes:
        if "error" in outcome or "skipped" in outcome:
            return outcome
    runs = {key: [float(f"{outcome[key]:.7g}") for outcome in outcomes] for key in outcomes[0]}
    medians = {key: statistics.median(values) for key, values in runs.items()}
    return {"median": medians, "runs": {key: values for key, values in runs.items() if len(set(values)) > 1}}


def machine() -> Outcome:
    """Processor, cores and interpreter."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = {line.partition(":")[2].strip() for line in info if line.startswith("model name")}
    return {
        "processor": ", ".join(sorted(names)) or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed versions; packages that are not there are left out."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# Cases: each runs in a process of its own ------------------------------------------------------------------------


def padim(*, folder: str, image_size: int, validation: bool, pixel: Sequence[str]) -> Outcome:
    """Fit and test PaDiM; ``validation`` passes the test images through Calibrate after the fit."""
    from lightning.pytorch import Trainer, seed_everything

    from anomaly_suite.callbacks import AnomalyMetrics, Calibrate
    from anomaly_suite.data import MVTecAD
    from anomaly_suite.methods import PaDiM

    seed_everything(0, verbose=False)
    category = Path(folder)
    data = MVTecAD(
        root=str(category.parent),
        category=category.name,
        image_size=image_size,
        train_batch_size=BATCH,
        eval_batch_size=BATCH,
        validation="test" if validation else "none",
    )
    model = PaDiM(backbone="resnet18", weights=None)
    with tempfile.TemporaryDirectory() as run:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            num_sanity_val_steps=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=run,
            callbacks=[Calibrate(), AnomalyMetrics(image=("AUROC", "F1Max"), pixel=pixel)],
        )
        meter = Meter()
        trainer.fit(model, datamodule=data)
        fit = meter.lap("fit")
        values = trainer.test(model, datamodule=data, verbose=False)[0]
        test = meter.lap("test")
        memory = meter.memory()
        checkpoint = max(file.stat().st_size for file in Path(run).rglob("*.ckpt"))
    splits = data.splits
    assert splits is not None
    return {
        **fit,
        **test,
        "total_s": fit["fit_s"] + test["test_s"],
        "total_cpu_s": fit["fit_cpu_s"] + test["test_cpu_s"],
        "train_images_per_second": len(splits.train) / fit["fit_s"],  # type: ignore[arg-type]
        "test_images_per_second": len(splits.test) / test["test_s"],  # type: ignore[arg-type]
        **memory,
        "checkpoint_mb": checkpoint / 2**20,
        **values,
    }


def pixel_metrics(*, names: Sequence[str], count: int, size: int) -> Outcome:
    """The bounded-memory metrics on one shared state, as AnomalyMetrics uses them; making the maps is not counted."""
    import torch
    from torchmetrics import MetricCollection

    from anomaly_suite import metrics

    def build() -> MetricCollection:
        return MetricCollection(
            {name: getattr(metrics, name)(exact=False) for name in names}, compute_groups=[list(names)]
        )

    warm_up = build()  # what is imported or set up on first use belongs to the import
    for scores, masks in make_maps(2, 16):
        warm_up.update(torch.from_numpy(scores), torch.from_numpy(masks))
    warm_up.compute()
    del warm_up
    next(make_maps(BATCH, size))

    collection = build()
    meter = Meter()
    wall = processor = 0.0
    for scores, masks in make_maps(count, size):
        meter.lap()
        collection.update(torch.from_numpy(scores), torch.from_numpy(masks))
        spent = meter.lap()
        wall, processor = wall + spent["_s"], processor + spent["_cpu_s"]
    values = collection.compute()
    spent = meter.lap()
    memory = meter.memory()
    bounds = {
        f"{name}_error_bound": float(metric.error_bound())  # type: ignore[operator] # attributes count as tensors
        for name, metric in collection.items()
    }
    return {
        "total_s": wall + spent["_s"],
        "total_cpu_s": processor + spent["_cpu_s"],
        **memory,
        **{name: float(value) for name, value in values.items()},
        **bounds,
    }


def loading(*, folder: str, image_size: int, passes: int = 3) -> Outcome:
    """Passes over the training images, then over the test images with their masks, in the main process."""
    from anomaly_suite.data import MVTecAD

    category = Path(folder)
    data = MVTecAD(
        root=str(category.parent),
        category=category.name,
        image_size=image_size,
        train_batch_size=BATCH,
        eval_batch_size=BATCH,
        validation="none",
    )
    meter = Meter()
    data.setup()
    setup = meter.lap("setup")
    train_count = sum(len(batch["image"]) for _ in range(passes) for batch in data.train_dataloader())
    train = meter.lap("train")
    test_count = sum(len(batch["mask"]) for _ in range(passes) for batch in data.test_dataloader())
    test = meter.lap("test")
    return {
        **setup,
        **train,
        **test,
        "train_images_per_second": train_count / train["train_s"],
        "train_images_per_cpu_second": train_count / train["train_cpu_s"],
        "test_images_per_second": test_count / test["test_s"],
        "test_images_per_cpu_second": test_count / test["test_cpu_s"],
        **meter.memory(),
    }


def adacl(*, images: int) -> Outcome:
    """The second training epoch of ADACL on MNIST, digit 3 normal; the first one pays for one-off preparations."""
    from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

    from anomaly_suite.data import MNIST
    from anomaly_suite.errors import DatasetNotFoundError
    from anomaly_suite.methods import ADACL

    seed_everything(0, verbose=False)
    data = MNIST(normal_class=3, train_batch_size=64, validation="none")
    try:
        data.setup("fit")
    except DatasetNotFoundError as error:
        return {"skipped": str(error)}
    meter = Meter()
    epochs: list[Outcome] = []

    class Epochs(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            meter.lap()

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            epochs.append(meter.lap("epoch"))

    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        limit_train_batches=max(1, round(images / 64)),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Epochs()],
    )
    trainer.fit(ADACL(), datamodule=data)
    count = 64 * int(trainer.num_training_batches)
    return {
        **epochs[-1],
        "images": count,
        "images_per_second": count / epochs[-1]["epoch_s"],
        **meter.memory(),
    }


def startup() -> Outcome:
    """From a cold interpreter to the end of one command, each in a process of its own."""
    suite = "from anomaly_suite.cli import main; main({})"  # what the installed script runs
    commands = {
        "python": "pass",
        "import_torch": "import torch",
        "import_lightning": "import lightning.pytorch",
        "suite_help": suite.format(["--help"]),
        "suite_version": suite.format(["--version"]),
        "suite_list_methods": suite.format(["list", "methods"]),
        "suite_fit_help": suite.format(["fit", "--help"]),
    }
    meter = Meter()
    outcome: Outcome = {}
    for name, code in commands.items():
        meter.lap()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        outcome |= meter.lap(name)
    return outcome


CASES: dict[str, Callable[..., Outcome]] = {
    "padim": padim,
    "pixel_metrics": pixel_metrics,
    "loading": loading,
    "adacl": adacl,
    "startup": startup,
}

# Driver ----------------------------------------------------------------------------------------------------------


def plan(folders: dict[int, Path], options: argparse.Namespace) -> dict[str, tuple[str, Outcome]]:
    """Name of every measurement, with its case and the case's arguments.

    Args:
        folders: Category folder for each number of training images.
        options: The command line.
    """
    planned: dict[str, tuple[str, Outcome]] = {}
    for count, folder in folders.items():
        tree = {"folder": str(folder), "image_size": options.image_size}
        pixel = ("AUROC", "AP", "F1Max", "AUPRO")
        planned[f"padim_{count}"] = ("padim", {**tree, "validation": True, "pixel": pixel})
        planned[f"padim_{count}_without_validation"] = ("padim", {**tree, "validation": False, "pixel": pixel})
    for count in options.maps:
        maps = {"count": count, "size": options.image_size}
        for name in PIXEL_METRICS:
            planned[f"metrics_{name}_{count}"] = ("pixel_metrics", {"names": [name], **maps})
        # The first metric of a group keeps the state for all, and AUPRO needs the most.
        planned[f"metrics_all_{count}"] = ("pixel_metrics", {"names": ["AUPRO", "AUROC", "AP"], **maps})
    largest = max(folders)
    planned[f"loading_{largest}"] = ("loading", {"folder": str(folders[largest]), "image_size": options.image_size})
    planned["adacl"] = ("adacl", {"images": options.mnist})
    planned["startup"] = ("startup", {})
    return planned


def counts(text: str) -> list[int]:
    """Parse ``100,1000``."""
    return [int(part) for part in text.split(",")]


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options that the comparison script has too."""
    parser.add_argument("--runs", type=int, default=1, help="runs of every case; medians and all runs are reported")
    parser.add_argument("--only", default="", help="cases to run: comma-separated beginnings of their names")
    parser.add_argument("--threads", type=int, default=1, help="numeric threads; 0 leaves it to the libraries")
    parser.add_argument("--json", default="", help="also write the report to this file, after every case")
    parser.add_argument(
        "--data", default="", help="an existing category folder in MVTec AD's layout, used for all images"
    )
    parser.add_argument("--test", type=int, default=60, help="test images, half of them with a defect")
    parser.add_argument("--image-size", type=int, default=256, help="height and width of images and maps")
    parser.add_argument("--worker", nargs=2, default=None, help=argparse.SUPPRESS)


def chosen(planned: dict[str, Any], only: str, parser: argparse.ArgumentParser) -> list[str]:
    """Names that begin as ``--only`` says; all if it is empty."""
    beginnings = [part.strip() for part in only.split(",") if part.strip()]
    for part in beginnings:
        if not any(name.startswith(part) for name in planned):
            parser.error(f"no case begins with {part!r}; known are {', '.join(planned)}.")
    return [name for name in planned if not beginnings or name.startswith(tuple(beginnings))]


def save(report: Outcome, file: str) -> None:
    """Write the report so far."""
    if file:
        Path(file).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time, memory and file size of the main jobs, printed as one JSON.")
    add_common_options(parser)
    parser.add_argument("--sizes", type=counts, default=[100, 1000], help="training images of PaDiM, such as 100,1000")
    parser.add_argument("--maps", type=counts, default=[60, 600, 6000], help="maps of the pixel metrics")
    parser.add_argument("--mnist", type=int, default=6000, help="MNIST images of an ADACL epoch, in steps of 64")
    options = parser.parse_args(words)
    if options.worker:
        work(CASES, *options.worker)
        return 0

    report: Outcome = {
        "versions": versions(PACKAGES),
        "machine": machine(),
        "setting": {key: value for key, value in vars(options).items() if key not in ("worker", "json")},
        "cases": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        if options.data:
            folder = Path(options.data).resolve()
            folders = {count_images(folder): folder}
        else:
            folders = {count: Path(scratch, str(count), "bottle") for count in options.sizes}
        planned = plan(folders, options)
        names = chosen(planned, options.only, parser)
        for count, folder in folders.items():
            if not options.data and any(planned[name][1].get("folder") == str(folder) for name in names):
                print(f"writing {count} + {options.test} images", file=sys.stderr)
                make_category(folder, train=count, test=options.test, size=options.image_size)
        for name in names:
            case, arguments = planned[name]
            command = [sys.executable, str(Path(__file__).resolve()), "--worker", case, json.dumps(arguments)]
            loads, outcomes = [], []
            for _ in range(options.runs):
                loads.append(round(os.getloadavg()[0], 2))
                outcomes.append(fresh(command, threads=options.threads))
            summary = summarise(outcomes)
            report["cases"][name] = {"load": loads, **summary}
            save(report, options.json)
            print(f"{name}: {next(iter(summary))}", file=sys.stderr)
    print(json.dumps(report, indent=1))
    return int(any("error" in case for case in report["cases"].values()))


if __name__ == "__main__":
    sys.exit(main())

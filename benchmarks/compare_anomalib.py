"""The main jobs side by side with anomalib, which is installed in another environment; prints one JSON.

    python benchmarks/compare_anomalib.py --peer-python /path/to/environment/bin/python --runs 3

Both sides read the same image tree and score the same maps. Their runs alternate (ours, theirs, ours, theirs, ...),
each in a fresh process, so that a change of the machine's load meets both. ``ratio`` is ours / theirs, the median over
the pairs of neighbouring runs, and below 1 where ours needs less. Names and units are those of ``core.py``; this file
also runs in the other environment, where it needs anomalib and numpy only. Written for anomalib 2.7.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import core
from core import BATCH, PIXEL_METRICS, Meter, Outcome, make_maps

PEER_PACKAGES = ("anomalib", "torch", "torchvision", "lightning", "torchmetrics", "timm", "numpy")
PEER_METRICS = {"AUROC": "AUROC", "AP": "AUPR", "AUPRO": "AUPRO"}  # our names to theirs

# Cases of anomalib: the same keys as the cases of core.py ----------------------------------------------------------


def padim(*, folder: str, image_size: int, validation: bool) -> Outcome:
    """Fit and test with the default validation (the test images), post-processing and four metrics; no pictures."""
    from anomalib.data import MVTecAD
    from anomalib.engine import Engine
    from anomalib.models import Padim
    from lightning.pytorch import seed_everything

    seed_everything(0, verbose=False)
    category = Path(folder)
    data = MVTecAD(
        root=category.parent, category=category.name, train_batch_size=BATCH, eval_batch_size=BATCH, num_workers=0
    )
    model = Padim(
        backbone="resnet18",
        layers=["layer1", "layer2", "layer3"],
        pre_trained=False,
        pre_processor=Padim.configure_pre_processor((image_size, image_size)),
        visualizer=False,
    )
    with tempfile.TemporaryDirectory() as run:
        engine = Engine(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=run,
            **({} if validation else {"limit_val_batches": 0}),
        )
        meter = Meter()
        engine.fit(model=model, datamodule=data)
        fit = meter.lap("fit")
        values = engine.test(model=model, datamodule=data, verbose=False)[0]
        test = meter.lap("test")
        memory = meter.memory()
        checkpoint = max(file.stat().st_size for file in Path(run).rglob("*.ckpt"))
    return {
        **fit,
        **test,
        "total_s": fit["fit_s"] + test["test_s"],
        "total_cpu_s": fit["fit_cpu_s"] + test["test_cpu_s"],
        **memory,
        "checkpoint_mb": checkpoint / 2**20,
        **{name: float(value) for name, value in values.items()},
    }


def pixel_metrics(*, names: Sequence[str], count: int, size: int) -> Outcome:
    """Metrics over maps, each with a state of its own; making the maps is not counted."""
    import torch
    from anomalib import metrics
    from anomalib.data import ImageBatch

    def build() -> dict[str, Any]:
        fields = ["anomaly_map", "gt_mask"]
        return {name: getattr(metrics, PEER_METRICS[name])(fields=fields) for name in names}

    def update(members: dict[str, Any], scores: Any, masks: Any) -> None:
        batch = ImageBatch(
            image=torch.zeros(len(scores), 3, 1, 1),
            anomaly_map=torch.from_numpy(scores),
            gt_mask=torch.from_numpy(masks),
        )
        for metric in members.values():
            metric.update(batch)

    warm_up = build()
    for scores, masks in make_maps(2, 16):
        update(warm_up, scores, masks)
    for metric in warm_up.values():
        metric.compute()
    del warm_up
    next(make_maps(BATCH, size))

    members = build()
    meter = Meter()
    wall = processor = 0.0
    for scores, masks in make_maps(count, size):
        meter.lap()
        update(members, scores, masks)
        spent = meter.lap()
        wall, processor = wall + spent["_s"], processor + spent["_cpu_s"]
    values = {name: float(metric.compute()) for name, metric in members.items()}
    spent = meter.lap()
    return {"total_s": wall + spent["_s"], "total_cpu_s": processor + spent["_cpu_s"], **meter.memory(), **values}


def loading(*, folder: str, image_size: int, passes: int = 3) -> Outcome:
    """Passes over the training images, then over the test images with their masks, in the main process."""
    from anomalib.data import MVTecAD
    from torchvision.transforms.v2 import Resize

    category = Path(folder)
    data = MVTecAD(
        root=category.parent,
        category=category.name,
        train_batch_size=BATCH,
        eval_batch_size=BATCH,
        num_workers=0,
        augmentations=Resize((image_size, image_size), antialias=True),
    )
    meter = Meter()
    data.prepare_data()
    data.setup()
    setup = meter.lap("setup")
    train_count = sum(len(batch.image) for _ in range(passes) for batch in data.train_dataloader())
    train = meter.lap("train")
    test_count = sum(len(batch.gt_mask) for _ in range(passes) for batch in data.test_dataloader())
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


def environment() -> dict[str, str]:
    """Versions of the other environment."""
    return core.versions(PEER_PACKAGES)


CASES: dict[str, Callable[..., Outcome]] = {
    "padim": padim,
    "pixel_metrics": pixel_metrics,
    "loading": loading,
    "environment": environment,
}

# Driver ------------------------------------------------------------------------------------------------------------


def plan(folder: Path, options: argparse.Namespace) -> dict[str, tuple[str, Outcome, Outcome]]:
    """Name of every measurement, with its case, the arguments of both sides and further ones of ours."""
    tree = {"folder": str(folder), "image_size": options.image_size}
    maps = {"count": options.maps, "size": options.image_size}
    pixel = {"pixel": ["AUROC", "F1Max"]}  # with the image metrics the counterparts of anomalib's four
    planned: dict[str, tuple[str, Outcome, Outcome]] = {
        "padim": ("padim", {**tree, "validation": True}, pixel),
        "padim_without_validation": ("padim", {**tree, "validation": False}, pixel),
    }
    for name in PIXEL_METRICS:
        planned[f"metrics_{name}"] = ("pixel_metrics", {"names": [name], **maps}, {})
    planned["metrics_all"] = ("pixel_metrics", {"names": ["AUPRO", "AUROC", "AP"], **maps}, {})
    planned["loading"] = ("loading", tree, {})
    return planned


def ratios(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> dict[str, float]:
    """Median over pairs of runs of ours / theirs, for every time and size that both have."""
    keys = [key for key in ours[0] if key.endswith(("_s", "_mb")) and key in theirs[0]]
    pairs = list(zip(ours, theirs, strict=True))
    return {
        key: round(statistics.median(mine[key] / yours[key] for mine, yours in pairs), 4)
        for key in keys
        if all(yours[key] > 0 for _, yours in pairs)
    }


def peer_versions(python: str, parser: argparse.ArgumentParser) -> dict[str, str]:
    """Versions of the other environment; stops with a message where anomalib cannot be used."""
    try:
        found = core.fresh(worker(python, __file__, "environment", {}), threads=1)
    except OSError as error:
        parser.error(f"--peer-python must be a Python interpreter; {python!r} cannot be started ({error.strerror}).")
    if "anomalib" not in found:
        why = found.get("error", f"it has {', '.join(found) or 'none of its packages'}")
        parser.error(f"--peer-python must be an interpreter with anomalib; {python!r} has none ({why}).")
    return found


def worker(python: str, script: str, case: str, arguments: Outcome) -> list[str]:
    """Command that measures one case."""
    return [python, str(Path(script).resolve()), "--worker", case, json.dumps(arguments)]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The main jobs side by side with anomalib, printed as one JSON.")
    core.add_common_options(parser)
    parser.add_argument("--peer-python", default="", help="interpreter of an environment that has anomalib")
    parser.add_argument("--train", type=int, default=100, help="training images")
    parser.add_argument("--maps", type=int, default=60, help="maps of the pixel metrics")
    options = parser.parse_args(words)
    if options.worker:
        core.work(CASES, *options.worker)
        return 0
    if not options.peer_python:
        parser.error("--peer-python is needed: the interpreter of an environment that has anomalib.")

    report: Outcome = {
        "versions": {"ours": core.versions(core.PACKAGES), "theirs": peer_versions(options.peer_python, parser)},
        "machine": core.machine(),
        "setting": {key: value for key, value in vars(options).items() if key not in ("worker", "json", "peer_python")},
        "cases": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.data).resolve() if options.data else Path(scratch, "bottle")
        if not options.data:
            print(f"writing {options.train} + {options.test} images", file=sys.stderr)
            core.make_category(folder, train=options.train, test=options.test, size=options.image_size)
        planned = plan(folder, options)
        for name in core.chosen(planned, options.only, parser):
            case, arguments, further = planned[name]
            commands = {
                "ours": worker(sys.executable, core.__file__, case, {**arguments, **further}),
                "theirs": worker(options.peer_python, __file__, case, arguments),
            }
            outcomes: dict[str, list[Outcome]] = {"ours": [], "theirs": []}
            loads = []
            for _ in range(options.runs):
                loads.append(round(os.getloadavg()[0], 2))
                for side, command in commands.items():
                    outcomes[side].append(core.fresh(command, threads=options.threads))
            summary = {side: core.summarise(runs) for side, runs in outcomes.items()}
            failed = [side for side, item in summary.items() if "error" in item]
            ratio = {} if failed else {"ratio": ratios(outcomes["ours"], outcomes["theirs"])}
            report["cases"][name] = {"load": loads, **ratio, **summary}
            core.save(report, options.json)
            print(f"{name}: {'failed' if failed else 'measured'}", file=sys.stderr)
    print(json.dumps(report, indent=1))
    return int(any("ratio" not in case for case in report["cases"].values()))


if __name__ == "__main__":
    sys.exit(main())

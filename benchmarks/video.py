"""RTFM at full size: a training step, and inference on a long video, with time and peak memory, and steps of all methods, printed as one JSON.

    python benchmarks/video.py
    python benchmarks/video.py --threads 2 --json video.json
    python benchmarks/video.py --accelerator cuda

Cases, on random features:

* ``train``: forward, losses, backward and step of Adam for 32 normal and 32 anomalous videos of 32 segments, 10 crops,
  width 2048 (``--batch``, ``--crops``, ``--width``); ``--train-crops`` takes that many random crops of each video instead.
* ``loops``: the same losses, but one crop of one video after another through the same network: what folding crops into the
  batch saves. Only forward and backward of ``--loop-videos`` videos are run and scaled up to the batch.
* ``infer``: one video of 1,000 snippets (``--snippets``), 10 crops; ``--method`` takes another method in place of RTFM.
* ``steps``: a training step of every method of weak video by a Trainer, on one batch of as many videos of 32 segments (``--batch``), each method with its
  own defaults but for the width of features; methods of two networks have a row for each (``GCNAnomaly_cleaner``, ``MIST_detector``).
* ``released``: a training step of 2 normal and 2 anomalous videos (``--step-videos``), and the same step of the release, rebuilt from its
  description (``released_rtfm.py``), alternately in one process; ``ratio`` is that of the smallest processor seconds.

Every case runs in a fresh process, after one round that is not counted; ``_s`` is wall, ``_cpu_s`` processor seconds,
``above_import_mb`` the rise of the peak resident memory (of the GPU's allocated memory with ``--accelerator cuda``) in MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import core
from core import Meter, Outcome

PACKAGES = ("anomaly-suite", "torch", "lightning")


def repeat(call: Callable[[], object], *, rounds: int, cuda: bool) -> Outcome:
    """Median seconds of a call, and the memory it took."""
    import torch

    call()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    meter = Meter()
    spent: list[Outcome] = []
    for _ in range(rounds):
        meter.lap()
        call()
        if cuda:
            torch.cuda.synchronize()
        spent.append(meter.lap())
    result = {key: statistics.median(one[key] for one in spent) for key in ("_s", "_cpu_s")}
    memory = {"gpu_mb": torch.cuda.max_memory_allocated() / 2**20} if cuda else meter.memory()
    return {"call_s": result["_s"], "call_cpu_s": result["_cpu_s"], **memory}


def build(options: dict[str, Any], **more: Any) -> tuple[Any, Any]:
    """Model and device."""
    import torch

    import anomaly_suite.methods

    torch.manual_seed(0)
    device = torch.device(options["accelerator"])
    method = getattr(anomaly_suite.methods, options.get("method") or "RTFM")
    return method(feature_dim=options["width"], **more).to(device), device


def batch_of(options: dict[str, Any], device: Any, videos: int) -> dict[str, Any]:
    """A training batch of ``videos`` videos of each class."""
    import torch

    shape = (2 * videos, options["crops"], 32, options["width"])
    return {
        "snippet_features": torch.rand(shape, device=device),
        "label": torch.tensor([0] * videos + [1] * videos, device=device),
    }


def train(**options: Any) -> Outcome:
    """One training step after another on one batch."""
    model, device = build(options, train_crops=options["train_crops"])
    optimizer = model.configure_optimizers()
    batch = batch_of(options, device, options["batch"])

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model.training_step(batch, 0).backward()
        optimizer.step()

    return repeat(step, rounds=options["rounds"], cuda=device.type == "cuda")


def loops(**options: Any) -> Outcome:
    """The plain way: every crop of every video by itself, gradients added up."""
    model, device = build(options)
    videos = options["loop_videos"]
    batch = batch_of(options, device, videos)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        for row in range(videos):
            for crop in range(options["crops"]):
                pair = batch["snippet_features"][[row, videos + row], crop : crop + 1]
                model.training_step(
                    {"snippet_features": pair, "label": batch["label"][[row, videos + row]]}, 0
                ).backward()

    outcome = repeat(step, rounds=options["rounds"], cuda=device.type == "cuda")
    scale = options["batch"] / videos
    return {**outcome, "call_s": outcome["call_s"] * scale, "call_cpu_s": outcome["call_cpu_s"] * scale}


def infer(**options: Any) -> Outcome:
    """Scores of one long video."""
    import torch

    model, device = build(options)
    model.eval()
    features = torch.rand(1, options["crops"], options["snippets"], options["width"], device=device)

    def score() -> None:
        with torch.inference_mode():
            model(features)

    return repeat(score, rounds=options["rounds"], cuda=device.type == "cuda")


def released(**options: Any) -> Outcome:
    """A step of this package and one of the release, in turns: what slows the machine down slows both."""
    import torch
    from released_rtfm import step_of

    model, device = build({**options, "method": "RTFM"})
    optimizer = model.configure_optimizers()
    batch = batch_of(options, device, options["step_videos"])

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model.training_step(batch, 0).backward()
        optimizer.step()

    calls = {"call": step, "released": step_of(batch["snippet_features"])}
    meter, spent = Meter(), {name: [] for name in calls}  # type: dict[str, list[Outcome]]
    for turn in range(options["rounds"] + 1):
        for name in list(calls)[:: 1 if turn % 2 else -1]:
            meter.lap()
            calls[name]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent[name].append(meter.lap(name))
    least = {key: min(one[key] for one in laps[1:]) for laps in spent.values() for key in laps[0]}
    return {**least, "ratio": least["call_cpu_s"] / least["released_cpu_s"], **meter.memory()}


STEPS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {  # options, and names of the phases of an epoch each
    "ARNet": ({}, ("",)),
    "CLAWS": ({"segments": 32}, ("",)),
    "CTMIL": ({}, ("",)),
    "DeepMIL": ({}, ("",)),
    "GCNAnomaly": ({"rounds": 1, "classifier_epochs": 1, "cleaner_epochs": 1}, ("_first", "_cleaner", "_classifier")),
    "MIST": ({"generator_epochs": 1}, ("_generator", "_detector")),
    "RTFM": ({}, ("",)),
    "URDMU": ({"segments": 32}, ("",)),
}


def steps(**options: Any) -> Outcome:
    """Steps of all methods, one epoch a phase; the first step of each phase is not counted."""
    import torch
    from lightning.pytorch import Callback, Trainer
    from torch.utils.data import DataLoader

    batch = batch_of(options, "cpu", options["batch"])
    cuda, found = options["accelerator"] == "cuda", Outcome()

    class Laps(Callback):
        def __init__(self) -> None:
            self.meter, self.spent = Meter(), []  # type: ignore[var-annotated]

        def on_train_batch_start(self, *args: Any) -> None:
            if cuda:
                torch.cuda.synchronize()
            self.meter.lap()

        def on_train_batch_end(self, *args: Any) -> None:
            if cuda:
                torch.cuda.synchronize()
            self.spent.append(self.meter.lap())

    for name, (changes, phases) in STEPS.items():
        model, _ = build({**options, "method": name, "accelerator": "cpu"}, **changes)
        laps, rounds = Laps(), options["rounds"] + 1
        trainer = Trainer(
            max_epochs=len(phases), accelerator="gpu" if cuda else "cpu", devices=1, callbacks=[laps], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(model, DataLoader([batch] * rounds, batch_size=None))  # type: ignore[arg-type]
        for number, phase in enumerate(phases):
            counted = laps.spent[number * rounds + 1 : (number + 1) * rounds]
            for key in ("_s", "_cpu_s"):
                found[f"{name}{phase}{key}"] = statistics.median(one[key] for one in counted)
    return found


CASES: dict[str, Callable[..., Outcome]] = {
    "train": train,
    "loops": loops,
    "infer": infer,
    "steps": steps,
    "released": released,
}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="RTFM at full size: time and memory, printed as one JSON.")
    parser.add_argument("--batch", type=int, default=32, help="videos of each class")
    parser.add_argument("--crops", type=int, default=10)
    parser.add_argument("--width", type=int, default=2048, help="of a snippet feature")
    parser.add_argument("--train-crops", type=int, help="random crops of a training step; all by default")
    parser.add_argument("--snippets", type=int, default=1000)
    parser.add_argument("--loop-videos", type=int, default=2, help="videos of each class in the case loops")
    parser.add_argument("--step-videos", type=int, default=2, help="videos of each class in the case released")
    parser.add_argument("--method", default="RTFM", choices=sorted(STEPS), help="of the case infer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1, help="numeric threads; 0 leaves it to the libraries")
    parser.add_argument("--only", default="", help="cases to run: comma-separated beginnings of their names")
    parser.add_argument("--json", default="", help="also write the report to this file, after every case")
    parser.add_argument("--worker", nargs=2, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.worker:
        core.work(CASES, *options.worker)
        return 0
    setting = {key: value for key, value in vars(options).items() if key not in ("worker", "json", "only")}
    report: Outcome = {
        "versions": core.versions(PACKAGES), "machine": core.machine(), "setting": setting, "cases": {},
    }  # fmt: skip
    for name in core.chosen(CASES, options.only, parser):
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", name, json.dumps(setting)]
        load = round(os.getloadavg()[0], 2)
        report["cases"][name] = {"load": load, **core.fresh(command, threads=options.threads)}
        core.save(report, options.json)
        print(f"{name}: done", file=sys.stderr)
    print(json.dumps(report, indent=1))
    return int(any("error" in case for case in report["cases"].values()))


if __name__ == "__main__":
    sys.exit(main())

"""Steps of the pre-trainings, MedMix, and CCD's loss beside that of its release, printed as one JSON; progress goes to stderr.

    python benchmarks/pretraining.py
    python benchmarks/pretraining.py --only ccd_loss,medmix --rounds 20 --json pretraining.json

* ``step_<Method>``: forward, losses, backward and step of SGD on 32 random images of 256 pixels (``--batch``, ``--size``), resnet18 from
  random weights, at the method's defaults: ``views`` images go through the network. ``making_views`` is the part of it that makes them of
  the images; ``share`` is of the smallest seconds.
* ``medmix``: four versions of every image of the batch, 0 to 3 lesions; images a second (the untouched ones count) and, against the step of
  PMSACL, its share: with ``all`` versions of each image and with ``one``. Without the steps no shares.
* ``ccd_loss``: forward and backward of CCD's two losses on the same features (2B, 512) through the same heads, ours and the release's
  (rebuilt from its description in ``released_ccd.py``), in turns. ``value`` says what they are with the release's labels put right.

Processor seconds of one call in this process after one that is not counted: the smallest (``_least``) and the median.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import core
import torch
import torch.nn.functional as F
from core import Outcome
from released_ccd import Heads, released_loss
from torch import Tensor

import anomaly_suite.methods
from anomaly_suite.augment.draws import GeneratorDraws
from anomaly_suite.augment.medmix import medmix
from anomaly_suite.methods.pretraining.ccd import distribution_contrast
from anomaly_suite.methods.pretraining.contrast import Candidates

PACKAGES = ("anomaly-suite", "torch", "lightning", "timm")
METHODS = ("CCD", "SimCLR", "DROC", "PMSACL", "RotNet", "CSI", "SupCon")
FEATURES, VERSIONS, TEMPERATURE = 512, 4, 0.2


def seconds(calls: dict[str, Callable[[], object]], *, rounds: int, warm: bool = True) -> dict[str, list[float]]:
    """Processor seconds of calls made in turns, with ``warm`` after a first round that is not counted."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + warm):
        for name in list(calls)[:: 1 if turn % 2 else -1]:  # whoever comes second finds other things in the caches
            start = time.process_time()
            calls[name]()
            spent[name].append(time.process_time() - start)
    return {name: each[warm:] for name, each in spent.items()}


def summary(spent: list[float], name: str) -> Outcome:
    """Smallest and median seconds."""
    return {f"{name}_least_cpu_s": min(spent), f"{name}_cpu_s": statistics.median(spent)}


# Steps -----------------------------------------------------------------------------------------------------------


def build(name: str, **options: Any) -> Any:
    """A pre-training of resnet18 that needs no trainer: its centres, if it has any, are drawn."""
    torch.manual_seed(0)
    model = getattr(anomaly_suite.methods, name)(encoder="resnet18", encoder_weights=None, **options)
    if name == "PMSACL":
        model.centers.copy_(torch.randn(model.centers.shape))
    return model.train()


def step(model: Any, *, batch: int, size: int, rounds: int) -> Outcome:
    """Training steps on one batch, and what its views cost; the step that is not counted has a tenth of the images."""
    image = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    optimizer = model.configure_optimizers()
    count = 1 if type(model).__name__ == "RotNet" else 2

    def whole(image: Tensor = image) -> None:
        optimizer.zero_grad(set_to_none=True)
        model.training_step({"image": image}, 0).backward()
        optimizer.step()

    def views() -> Tensor:
        made: Tensor = model.make_views(image, GeneratorDraws(model.step_generator(0)), views=count).image
        return made

    whole(image[: max(2, batch // 10)])
    spent = seconds({"step": whole, "making_views": views}, rounds=rounds, warm=False)
    return {
        "views": len(views()),
        **summary(spent["step"], "step"),
        **summary(spent["making_views"], "making_views"),
        "share": round(min(spent["making_views"]) / min(spent["step"]), 4),
        "load": round(os.getloadavg()[0], 2),
    }


def lesions(*, batch: int, size: int, rounds: int, report: Outcome) -> Outcome:
    """MedMix of all versions of a batch, and of one of each image."""
    image = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    out: Outcome = {}
    for versions, repeats in (("all", VERSIONS), ("one", 1)):
        source = torch.arange(batch).repeat_interleave(repeats)
        label = torch.arange(len(source)) % VERSIONS

        def call(chosen: Tensor = source, number: Tensor = label) -> None:
            draws = GeneratorDraws(torch.Generator().manual_seed(0))
            medmix(image[chosen], number, draws, pool=image, own=chosen)

        spent = seconds({"medmix": call}, rounds=max(3, rounds))["medmix"]
        out |= summary(spent, versions)
        out[f"{versions}_images_per_s"] = round(len(source) / min(spent), 1)
        done = report.get("step_PMSACL" if versions == "all" else "step_PMSACL_one")
        if done:
            out[f"{versions}_share"] = round(min(spent) / done["step_least_cpu_s"], 4)
    return out


# The released loss -----------------------------------------------------------------------------------------------


def our_loss(feature: Tensor, label: Tensor, heads: Heads) -> Tensor:
    """CCD's losses of features (2B, D), first views before second ones, as its ``terms`` take them; the anchors of the release."""
    count = len(label)
    views = label.repeat(2)
    projection = F.normalize(heads.projection(feature), dim=1)
    candidates = Candidates(projection, views, torch.arange(count).repeat(2))
    contrast = distribution_contrast(candidates, temperature=TEMPERATURE, negatives="all", anchors="first")
    return contrast + F.cross_entropy(heads.classifier(feature), views)


def blocks(feature: Tensor) -> Tensor:
    """Features in our order, of those that the release interleaves: item 0 view 0, item 0 view 1, item 1 view 0 and so on."""
    return torch.cat([feature[0::2], feature[1::2]])


def ccd_loss(*, batch: int, rounds: int) -> Outcome:
    """Both losses on the same tensors."""
    torch.manual_seed(0)
    feature = torch.randn(2 * batch, FEATURES)
    label = torch.arange(batch) % VERSIONS
    heads = Heads(FEATURES, VERSIONS)

    def run(loss_of: Callable[[Tensor], Tensor], given: Tensor) -> float:
        leaf = given.detach().requires_grad_()
        loss = loss_of(leaf)
        loss.backward()
        return loss.item()

    ours = partial(run, partial(our_loss, label=label, heads=heads), blocks(feature))
    right = partial(run, partial(released_loss, label=label, heads=heads, right_labels=True), feature)
    as_released = partial(run, partial(released_loss, label=label, heads=heads, right_labels=False), feature)
    right()  # it scales the classifier's weights, which ours then has too
    value = {"ours": ours(), "released, labels put right": right(), "released": as_released()}
    spent = seconds({"ours": ours, "released": as_released}, rounds=rounds)
    return {
        "value": {name: round(each, 6) for name, each in value.items()},
        **summary(spent["ours"], "ours"),
        **summary(spent["released"], "released"),
        "ratio": round(statistics.median(a / b for a, b in zip(spent["ours"], spent["released"], strict=True)), 3),
        "load": round(os.getloadavg()[0], 2),
    }


# Driver ----------------------------------------------------------------------------------------------------------


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Pre-trainings, MedMix and CCD's loss: time, printed as one JSON.")
    parser.add_argument("--batch", type=int, default=32, help="images of a step")
    parser.add_argument("--size", type=int, default=256, help="pixels of their sides")
    parser.add_argument("--rounds", type=int, default=2, help="counted calls; the loss gets fifty times as many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="cases to run: comma-separated beginnings of their names")
    parser.add_argument("--json", default="", help="also write the report to this file, after every case; continued")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    setting = {key: getattr(options, key) for key in ("batch", "size", "rounds", "threads")}
    report: Outcome = {
        "versions": core.versions(PACKAGES), "machine": core.machine(), "setting": setting, "cases": {},
    }  # fmt: skip
    if options.json and os.path.isfile(options.json):
        with open(options.json, encoding="utf-8") as file:
            before = json.load(file)
        if before["setting"] == setting:  # a measurement that was stopped goes on
            report["cases"] = before["cases"]

    sizes = {"batch": options.batch, "size": options.size, "rounds": options.rounds}
    cases: dict[str, Callable[[], Outcome]] = {
        "ccd_loss": lambda: ccd_loss(batch=options.batch, rounds=50 * options.rounds)
    }
    cases |= {f"step_{name}": lambda name=name: step(build(name), **sizes) for name in METHODS}  # type: ignore[misc]
    cases["step_PMSACL_one"] = lambda: step(build("PMSACL", versions="one"), **sizes)
    cases["medmix"] = lambda: lesions(**sizes, report=report["cases"])
    for name in core.chosen(cases, options.only, parser):
        if name in report["cases"]:
            continue
        report["cases"][name] = cases[name]()
        core.save(report, options.json)
        print(f"{name}: {json.dumps(report['cases'][name])}", file=sys.stderr, flush=True)
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

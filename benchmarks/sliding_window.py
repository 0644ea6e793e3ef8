"""Time and memory of anomaly maps of a 2048 x 1024 image on a CPU, whole and in windows, printed as one JSON.

    python benchmarks/sliding_window.py
    python benchmarks/sliding_window.py --backbone wide_resnet38 --width 256 --window 400 --json windows.json

Every case runs in a fresh process: a DeepLabV3Plus of 19 classes with random weights predicts one image of noise, after a small
one that is not counted. ``whole`` takes the image at once, ``window_<side>`` overlapping windows with the stride of the published
evaluator, two thirds of a window. ``pixels`` counts what the network sees: overlaps are seen several times. The meaning of the
other keys is that of ``core.py``. Linux only: the peak memory is read from ``/proc``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import core
from core import Outcome

NUM_CLASSES = 19
WARM_UP = 64  # pixels a side of the image that is not counted


def predict(*, backbone: str, width: int, size: Sequence[int], window: int | None) -> Outcome:
    """Score map and classes of one image."""
    import torch

    from anomaly_suite.methods import DeepLabV3Plus

    torch.manual_seed(0)
    options = {"backbone": backbone, "width": width, "num_classes": NUM_CLASSES, "backbone_weights": None}
    model = DeepLabV3Plus(auxiliary_weight=0.0, window=window, **options).eval()
    seen: list[int] = []
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0, 0].numel()))
    with torch.inference_mode():
        model.predict({"image": torch.rand(1, 3, WARM_UP, WARM_UP)})
        seen.clear()
        image = torch.rand(1, 3, *size)
        meter = core.Meter()
        prediction = model.predict({"image": image})
        spent = meter.lap("predict")
    assert prediction["anomaly_map"].shape == (1, 1, *size)
    return {**spent, **meter.memory(), "passes": len(seen), "pixels": sum(seen)}


def main(words: Sequence[str] | None = None) -> int:
    """Run the cases; the exit status is 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--width", type=int, default=64, help="channels of the decoder")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--window", type=int, nargs="+", default=[800, 400], help="sides, in pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the report here")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.work:
        core.work({"predict": predict}, *options.work)
        return 0
    report: Outcome = {
        "machine": core.machine(),
        "versions": core.versions(core.PACKAGES),
        "network": {"backbone": options.backbone, "width": options.width, "size": list(options.size)},
        "cases": {},
    }
    for window in (None, *options.window):
        name = "whole" if window is None else f"window_{window}"
        print(name, file=sys.stderr)
        arguments = {"backbone": options.backbone, "width": options.width, "size": options.size, "window": window}
        load = round(os.getloadavg()[0], 2)
        command = [sys.executable, str(Path(__file__).resolve()), "--work", "predict", json.dumps(arguments)]
        report["cases"][name] = {**core.fresh(command, threads=options.threads), "load": load}
    text = json.dumps(report, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    return int(any("error" in case for case in report["cases"].values()))


if __name__ == "__main__":
    raise SystemExit(main())

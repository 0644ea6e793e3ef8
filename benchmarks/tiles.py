"""Time and memory of large pictures in tiles of 256 pixels on a CPU, printed as one JSON.

    python benchmarks/tiles.py
    python benchmarks/tiles.py --sides 1000 4000 8000 --json tiles.json

Every picture is scored in a fresh process: a PaDiM (resnet18, random weights) that was fitted on eight pictures of noise of 256 px, through
``Predictor(..., tile=256)``, a quarter of a tile overlapping. ``bytes_per_pixel`` is the peak above what the process held
before, with the picture itself loaded, by the pixels of the picture: it as a batch of 8 bits and of float32, the map, and one tile. Linux only: the peak memory is read from
``/proc``.
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

TILE = 256
FITTED_ON = 8


def score(*, side: int) -> Outcome:
    """One picture, after a small one that is not counted."""
    import numpy as np
    import torch
    from lightning.pytorch import Trainer
    from torch.utils.data import DataLoader

    from anomaly_suite.data.preparation import PicturePreparation
    from anomaly_suite.data.transforms import Pipeline
    from anomaly_suite.deploy.predictor import Predictor
    from anomaly_suite.methods import PaDiM

    torch.manual_seed(0)
    model = PaDiM(weights=None)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(max_epochs=1, accelerator="cpu", **quiet)
    trainer.fit(model, DataLoader([{"image": torch.rand(3, TILE, TILE)} for _ in range(FITTED_ON)], batch_size=4))
    kept = PicturePreparation(Pipeline(image_size=None, center_crop=None, steps=()))
    predictor = Predictor(model, kept, device="cpu", tile=TILE)
    predictor(np.zeros((2 * TILE, 2 * TILE, 3), np.uint8))
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    meter = core.Meter()
    (found,) = predictor(picture)
    spent = {**meter.lap("predict"), **meter.memory()}
    if found.anomaly_map is None or found.anomaly_map.shape != (side, side):
        raise ValueError("the map must have the size of the picture")
    return {**spent, "megapixels_per_s": side * side / 1e6 / spent["predict_s"]}


def main(words: Sequence[str] | None = None) -> int:
    """Run the cases; the exit status is 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[1000, 2000, 4000, 8000], help="pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the report here")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.work:
        core.work({"score": score}, *options.work)
        return 0
    report: Outcome = {"machine": core.machine(), "versions": core.versions(core.PACKAGES), "cases": {}}
    for side in options.sides:
        print(side, file=sys.stderr)
        load = round(os.getloadavg()[0], 2)
        command = [sys.executable, str(Path(__file__).resolve()), "--work", "score", json.dumps({"side": side})]
        case = {**core.fresh(command, threads=options.threads), "load": load}
        if "error" not in case:
            case["bytes_per_pixel"] = case["above_import_mb"] * 2**20 / side**2
        report["cases"][str(side)] = case
    text = json.dumps(report, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    return int(any("error" in case for case in report["cases"].values()))


if __name__ == "__main__":
    raise SystemExit(main())

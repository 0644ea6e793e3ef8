"""What f-AnoGAN rebuilds: a picture of test images, their reconstructions and the difference, normal and anomalous.

    anomaly-suite fit --config sample_configs/reconstruction/fanogan_digits_cpu.yaml
    python benchmarks/fanogan_panel.py runs/fanogan_digits_cpu --out docs/images/fanogan_digits.png

Images are not chosen: the first normal ones of the test set, and the first of every anomalous class. Above each column stands
the anomaly score. All differences share one grey scale, white being the largest. For runs on ``Digits``, ``MNIST``,
``FashionMNIST`` and ``CIFAR10`` with the scope ``global`` or ``both``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import anomaly_suite.data
from anomaly_suite.contract import AnomalyDataModule
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.runs import find_checkpoint, find_run
from anomaly_suite.methods.reconstruction.dae import to_signed
from anomaly_suite.methods.reconstruction.fanogan import EncodedGAN, FAnoGAN

COLUMNS = 9
TILE = 0.85  # inches


def load(run: str) -> tuple[FAnoGAN, AnomalyDataModule]:
    """The trained model of a run folder, ready to predict, and its data."""
    folder = find_run(run)
    model = FAnoGAN.load_from_checkpoint(find_checkpoint(folder), map_location="cpu", weights_only=True)
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["data"]
    data = getattr(anomaly_suite.data, settings["class_path"].rpartition(".")[2])(**settings["init_args"])
    data.setup("test")
    return model.eval(), data


def choose(data: AnomalyDataModule) -> tuple[Tensor, Tensor]:
    """The first normal images and the first image of each anomalous class, each (B, C, H, W) with at most 9 images."""
    normal: list[Tensor] = []
    anomalous: dict[str, Tensor] = {}
    for batch in data.test_dataloader():
        for image, label, path in zip(batch["image"], batch["label"], batch["image_path"], strict=True):
            if label:
                anomalous.setdefault(Path(path).parts[0], image)
            else:
                normal.append(image)
    return torch.stack(normal[:COLUMNS]), torch.stack([anomalous[name] for name in sorted(anomalous)[:COLUMNS]])


@torch.no_grad()
def rebuild(model: FAnoGAN, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reconstructions (B, C, H, W) in [0, 1], absolute differences (B, H, W) and scores (B,)."""
    if "global" not in model.scopes:
        raise ConfigError("the panel shows whole images; got a run with scope=local. Train with scope global or both.")
    part = model.scopes["global"]
    assert isinstance(part, EncodedGAN)
    rebuilt = (part.generator(part.encode(to_signed(image))) + 1) / 2
    return rebuilt, (image - rebuilt).abs().mean(1), model(image)[0]


def draw(model: FAnoGAN, groups: dict[str, Tensor], file: Path) -> None:
    """Three rows for each group of images."""
    parts = {name: rebuild(model, image) for name, image in groups.items()}
    brightest = max(float(difference.max()) for _, difference, _ in parts.values())
    figure = Figure(figsize=(TILE * (COLUMNS + 1.6), TILE * 3.5 * len(groups)))
    for block, (name, image) in zip(figure.subfigures(len(groups), 1), groups.items(), strict=True):
        axes = block.subplots(3, COLUMNS)
        for axis in axes.flat:
            axis.axis("off")
        rebuilt, difference, score = parts[name]
        rows = ((f"{name}\nimage", image, 1.0), ("G(E(image))", rebuilt, 1.0), ("difference", difference, brightest))
        for row, (label, pictures, white) in enumerate(rows):
            axes[row, 0].text(-0.15, 0.5, label, fontsize=9, ha="right", va="center", transform=axes[row, 0].transAxes)
            for axis, picture in zip(axes[row], pictures, strict=False):
                shown = picture if picture.ndim == 2 else picture.permute(1, 2, 0)
                axis.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=white)
        for axis, value in zip(axes[0], score.tolist(), strict=False):
            axis.set_title(f"{value:.3f}", fontsize=8, pad=3)
        block.text(0.128, 0.94, "score", fontsize=8, ha="right", va="center")
        block.subplots_adjust(left=0.14, right=0.99, bottom=0.03, top=0.91, wspace=0.06, hspace=0.08)
    file.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(file)


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a fit of FAnoGAN, as for anomaly-suite test --run")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    options = parser.parse_args(words)
    model, data = load(options.run)
    normal, anomalous = choose(data)
    draw(model, {"normal": normal, "anomalous": anomalous}, options.out)


if __name__ == "__main__":
    main()

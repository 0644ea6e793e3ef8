"""Step and inference time of reconstruction methods, printed as one JSON; progress goes to stderr.

    python benchmarks/reconstruction.py
    python benchmarks/reconstruction.py --only MemMCMAE --json reconstruction.json
    python benchmarks/reconstruction.py --only base,seeds --batch 8

All are processor seconds (``cpu_s``), by which other work on the machine shows less; one thread. Cases:

* one for each entry of ``METHODS``, a small setting of a method: the median training step, with Lightning's loop round it, and scores of
  one batch, after a batch that is not counted. Another method is another entry.
* ``base``: one step (forward, backward, AdamW) of MemMC-MAE's size ``base`` on 224 px with either kind of gate, of the plain masked
  autoencoder made of it, and of one made of timm's blocks; ``ratio`` is to the last. ``multiply_adds`` are those of linear
  maps and attention in the forward pass of an image, in billions, by the formulas of ``forward_cost``. Each is warmed up by an image and freed
  before the next, since together they would take 10 GB.
* ``seeds``: scores under ten masks in one batch, beside a loop over ten modules of one mask; ``tiny`` with 8 images of 32 px, ``base`` with one
  of 224 px.
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

import torch
from lightning.pytorch import Callback, Trainer
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomaly_suite.contract import AnomalyModule
from anomaly_suite.methods import MemMCMAE
from anomaly_suite.methods.reconstruction.memmc_mae import SIZES, masked_error
from anomaly_suite.nn.patch_tokens import draw_visible, hidden, patchify, put_back, sine_cosine_positions, take_visible

Outcome = dict[str, Any]
PLAIN: dict[str, Any] = {"memory_slots": 0, "cross_attention": False, "skips": False}
TINY: dict[str, Any] = {"size": "tiny", "image_size": 32, "patch_size": 4}

METHODS: dict[str, tuple[Callable[[], AnomalyModule], tuple[int, int, int]]] = {
    "MemMCMAE": (lambda: MemMCMAE(**TINY), (3, 32, 32)),
    "MemMCMAE_memory": (lambda: MemMCMAE(**{**TINY, **PLAIN, "memory_slots": None}), (3, 32, 32)),
    "MemMCMAE_plain": (lambda: MemMCMAE(**TINY, **PLAIN), (3, 32, 32)),
}
"""By name of a case: what makes the method, and the shape (C, H, W) of its images."""


# Any method --------------------------------------------------------------------------------------------------------------


class Clock(Callback):
    """Processor seconds of every training step."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_train_batch_start(self, *args: Any) -> None:
        """Start it."""
        self.start = time.process_time()

    def on_train_batch_end(self, *args: Any) -> None:
        """Note it."""
        self.steps.append(time.process_time() - self.start)


def method(name: str, *, batch: int, rounds: int) -> Outcome:
    """A training step and scores of a batch."""
    make, shape = METHODS[name]
    model, image, clock = make(), torch.rand(batch, *shape), Clock()
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[clock],
    )  # fmt: skip
    items: Any = [{"image": each} for each in image] * (rounds + 1)
    trainer.fit(model, DataLoader(items, batch_size=batch))
    model.eval()
    with torch.no_grad():
        scores = [seconds(lambda: model(image)) for _ in range(rounds + 1)]
    return {
        "cpu_s": {
            "step": _rounded(statistics.median(clock.steps[1:])),
            "scores": _rounded(statistics.median(scores[1:])),
        },
        "batch": batch,
        "shape": shape,
    }


def seconds(call: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


# MemMC-MAE ---------------------------------------------------------------------------------------------------------------


class TimmMAE(nn.Module):
    """A plain masked autoencoder of timm's blocks, of a size of ours; without a class token, as ours."""

    def __init__(self, size: str, *, image_size: int, patch_size: int) -> None:
        super().__init__()
        it, side = SIZES[size], image_size // patch_size
        self.patch_size, self.patches = patch_size, side**2
        self.embed = nn.Conv2d(3, it.width, patch_size, stride=patch_size)
        self.register_buffer("positions", sine_cosine_positions(it.width, (side, side)))
        self.encoder = nn.Sequential(
            *(Block(it.width, it.heads, qkv_bias=True) for _ in range(it.depth)), nn.LayerNorm(it.width)
        )
        self.bridge = nn.Linear(it.width, it.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, it.decoder_width))
        self.register_buffer("decoder_positions", sine_cosine_positions(it.decoder_width, (side, side)))
        self.decoder = nn.Sequential(
            *(Block(it.decoder_width, it.decoder_heads, qkv_bias=True) for _ in range(it.decoder_depth)),
            nn.LayerNorm(it.decoder_width),
            nn.Linear(it.decoder_width, 3 * patch_size**2),
        )

    def loss(self, image: Tensor, visible: Tensor) -> Tensor:
        """Error of the hidden patches of images (B, 3, H, W)."""
        tokens = self.embed(image).flatten(2).transpose(1, 2) + self.positions
        seen = self.bridge(self.encoder(take_visible(tokens, visible)))
        filled = put_back(seen, visible, self.mask_token, self.patches) + self.decoder_positions
        return masked_error(self.decoder(filled), patchify(image, self.patch_size), hidden(visible, self.patches))


def our_loss(model: MemMCMAE, image: Tensor, visible: Tensor) -> Tensor:
    """What a training step of ours computes, without Lightning."""
    prediction = model.predict_patches(model.encoder.embed(image), visible)
    return masked_error(prediction, patchify(image, model.patch_size), hidden(visible, model.patches))


def base(*, size: str, image_size: int, patch_size: int, batch: int, rounds: int) -> Outcome:
    """Steps of a size beside timm's blocks."""
    options: dict[str, Any] = {"size": size, "image_size": image_size, "patch_size": patch_size}
    candidates: dict[str, Callable[[], nn.Module]] = {
        "timm": lambda: TimmMAE(**options),
        "plain": lambda: MemMCMAE(**options, **PLAIN),
        "memory": lambda: MemMCMAE(**{**options, **PLAIN, "memory_slots": None}),
        "scalar gates": lambda: MemMCMAE(**options, gate="scalar"),
        "channel gates": lambda: MemMCMAE(**options),
    }
    patches = (image_size // patch_size) ** 2
    spent = {}
    for name, make in candidates.items():
        torch.manual_seed(0)
        model = make()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        step = partial(_step, model, optimizer, image_size=image_size, patches=patches)
        step(1)
        spent[name] = statistics.median(seconds(partial(step, batch)) for _ in range(rounds))
        print(f"base: {name} {spent[name]:.3g} s", file=sys.stderr)
        del model, optimizer, step
    return {
        "cpu_s": {name: _rounded(value) for name, value in spent.items()},
        "ratio": {name: round(value / spent["timm"], 3) for name, value in spent.items() if name != "timm"},
        "multiply_adds": forward_cost(size, patches=patches, patch_size=patch_size),
        "batch": batch,
        "load": round(os.getloadavg()[0], 2),
    }


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, count: int, *, image_size: int, patches: int) -> None:
    """A training step of so many random images."""
    image = torch.randn(count, 3, image_size, image_size)
    visible = draw_visible(count, patches, patches // 4, generator=torch.Generator().manual_seed(0))
    loss = model.loss(image, visible) if isinstance(model, TimmMAE) else our_loss(model, image, visible)  # type: ignore[arg-type] # or ours
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def forward_cost(size: str, *, patches: int, patch_size: int) -> dict[str, float]:
    """Billions of multiply-adds in the forward pass of an image.

    A block of n tokens of width w has 12 n w^2 in its linear maps and 2 n m w in the attention to m keys. Cross-attention to L levels of k tokens
    projects queries (n w^2), keys and values of every level (2 L k w^2) and its outputs, once for scalar gates (n w^2) and for every level
    with channel gates (L n w^2), which themselves take 2 L n w^2.
    """
    it, n, k = SIZES[size], patches, patches // 4
    pixels, w, levels = 3 * patch_size**2, it.decoder_width, it.depth

    def encoder(slots: int) -> int:
        return n * pixels * it.width + it.depth * (12 * k * it.width**2 + 2 * k * (k + slots) * it.width)

    ends = k * it.width * w + n * w * pixels
    plain = it.decoder_depth * (12 * n * w**2 + 2 * n * n * w) + ends
    crossed = (
        it.decoder_depth * (n * w**2 + 2 * levels * k * w**2 + 2 * levels * n * k * w) + (levels - 1) * k * it.width * w
    )
    gates = {"scalar gates": n * w**2 + 2 * levels * n * w, "channel gates": 3 * levels * n * w**2}
    costs = {"plain": encoder(0) + plain, "memory": encoder(it.memory_slots) + plain}
    costs |= {name: costs["memory"] + crossed + it.decoder_depth * gate for name, gate in gates.items()}
    return {name: round(value / 1e9, 2) for name, value in costs.items()}


@torch.no_grad()
def seeds(*, images: int, rounds: int, **options: Any) -> Outcome:
    """Ten masks at once beside ten modules of one mask, on the same weights; their mean scores are equal."""
    model = MemMCMAE(**options).eval()
    image = torch.rand(images, 3, model.image_size[0], model.image_size[1])
    masks = model.visible

    def loop() -> Tensor:
        scores = []
        for mask in masks.split(1):
            model.visible = mask
            scores.append(model(image)[0])
        model.visible = masks
        return torch.stack(scores).mean(0)

    torch.testing.assert_close(loop(), model(image)[0], rtol=1e-4, atol=1e-5)  # and a round that is not counted
    together, apart = [], []
    for _ in range(rounds):
        together.append(seconds(lambda: model(image)))
        apart.append(seconds(loop))
    spent = {"one batch": statistics.median(together), "loop": statistics.median(apart)}
    ratio = statistics.median(a / b for a, b in zip(together, apart, strict=True))
    return {
        "cpu_s": {name: _rounded(value) for name, value in spent.items()},
        "ratio": round(ratio, 3),
        "images": images,
    }


def cases(options: argparse.Namespace) -> dict[str, Callable[[], Outcome]]:
    """Every case by name."""
    rounds, large = (
        options.rounds,
        {"size": options.size, "image_size": options.image_size, "patch_size": options.patch_size},
    )
    found: dict[str, Callable[[], Outcome]] = {
        name: lambda name=name: method(name, batch=options.batch, rounds=rounds) for name in METHODS
    }
    found["base"] = lambda: base(**large, batch=options.batch, rounds=max(1, rounds // 5))
    found["seeds_tiny"] = lambda: seeds(images=options.batch, rounds=rounds, **TINY)
    found["seeds_base"] = lambda: seeds(images=1, rounds=max(1, rounds // 5), **large)
    return found


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time of reconstruction methods.")
    parser.add_argument("--only", default="", help="beginnings of names of cases, with commas between")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="base", choices=SIZES, help="of the case base")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--patch-size", type=int, default=16)
    parser.add_argument("--json", help="file for the report")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    starts = tuple(part for part in options.only.split(",") if part)
    report: Outcome = {"setting": vars(options), "cases": {}}
    for name, case in cases(options).items():
        if not starts or name.startswith(starts):
            report["cases"][name] = case()
            print(name, json.dumps(report["cases"][name]), file=sys.stderr, flush=True)
    text = json.dumps(report, indent=2)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

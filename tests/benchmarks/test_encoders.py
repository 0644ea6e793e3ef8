"""The benchmark of encoders on tiny look-alikes of its sets: what is read, what a cell reports, and that nothing is repeated."""

from __future__ import annotations

import csv
import importlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("encoders")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def lists(bench: ModuleType) -> ModuleType:
    return importlib.import_module("image_lists")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Look-alikes: X-rays of two sizes, the duplicate among them, tiles with masks, colonoscopy with polyps."""
    root = tmp_path_factory.mktemp("originals")
    generator = np.random.default_rng(0)

    def write(name: str, size: tuple[int, int], mode: str = "L", values: Any = None) -> None:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
        pixels = generator.integers(60, 200, shape) if values is None else np.broadcast_to(values, shape)
        Image.fromarray(pixels.astype(np.uint8), mode).save(file)

    for number in range(6):
        write(f"chest_xray/train/normal/{number}.jpg", (32, 32))
        write(f"chest_xray/test/pneumonia/{number}.jpg", (32, 32))
    for number in range(3):
        write(f"chest_xray/test/normal/{number}.jpg", (32, 32))
        write(f"chest_xray/test/covid19/{number}.jpg", (40, 32))
    write("chest_xray/test/normal/00002658_001.jpg", (32, 32))
    polyp = np.zeros((80, 96), dtype=np.uint8)
    polyp[10:70, 10:44] = 255
    for number in range(4):
        write(f"hyper_kvasir_sample/segmented-images/images/{number}.png", (96, 80), "RGB")
        write(f"hyper_kvasir_sample/segmented-images/masks/{number}.png", (96, 80), values=polyp)
    write("hyper_kvasir_sample/labeled-images/ileum/0.jpg", (96, 80), "RGB")
    tile = "magnetic_tile/tile"
    write(f"{tile}/train/good/0.png", (30, 50))
    write(f"{tile}/test/good/0.png", (30, 50))
    write(f"{tile}/test/crack/0.png", (30, 50))
    write(f"{tile}/ground_truth/crack/0_mask.png", (30, 50), values=255)
    return root


def counts(index: Path) -> Counter[tuple[str, str]]:
    with index.open(encoding="utf-8", newline="") as file:
        return Counter((row["split"], row["defect_type"]) for row in csv.DictReader(file))


def test_the_duplicate_is_left_out_and_files_are_counted(
    lists: ModuleType, originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOMALY_SUITE_DATA", str(originals))
    monkeypatch.setitem(lists.MOST, ("chest_xray", "test", "pneumonia"), 4)
    index = lists.prepare("chest_xray", tmp_path)
    found = counts(index)
    assert found == {("train", ""): 6, ("test", ""): 3, ("test", "pneumonia"): 4, ("test", "covid19"): 3}
    _, test = lists.file_statistics(index)
    width = lists.COLUMNS.index("width")
    assert set(test.value[test.kind == "covid19", width]) == {40.0}
    assert set(test.value[test.kind != "covid19", width]) == {32.0}
    assert test.label.sum() == 7
    assert counts(lists.prepare("magnetic_tile", tmp_path)) == {("train", ""): 1, ("test", ""): 1, ("test", "crack"): 1}


def test_windows_of_an_image_are_in_one_part_and_training_ones_have_no_polyp(
    lists: ModuleType, originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOMALY_SUITE_DATA", str(originals))
    pictures = list(lists.hyper_kvasir(originals))
    assert {(each.split, each.kind) for each in pictures} == {("train", ""), ("test", ""), ("test", "polyp")}
    for each in pictures:
        assert (each.mask is not None) == bool(each.kind)
        if each.mask is not None:
            assert (np.asarray(each.mask) > 127).mean() >= lists.FULL
    file = lists.prepare("hyper_kvasir", tmp_path)
    assert sum(counts(file).values()) == len(pictures)


def test_cells_are_figures_and_are_not_repeated(
    bench: ModuleType,
    originals: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ANOMALY_SUITE_DATA", str(originals))
    monkeypatch.setattr(bench, "NETWORK", "test_efficientnet")  # 0.4 million weights
    monkeypatch.setattr(bench, "ENCODERS", ("random", "ccd"))
    monkeypatch.setattr(bench, "STEPS", 1)
    monkeypatch.setattr(bench, "IGD_STEPS", 1)
    monkeypatch.setattr(bench, "CHANNELS", 8)
    words = ["--folder", str(tmp_path), "--sets", "chest_xray", "--seeds", "0", "--start", "random"]
    assert bench.main([*words, "--weights", "none"]) == 0
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(each["encoder"], each["detector"]) for each in records] == [
        *(("none", detector) for detector in ("statistics", "brightness", "size")),
        *((encoder, detector) for encoder in ("random", "ccd") for detector in ("gaussian", "padim", "igd")),
    ]
    for each in records:
        assert 0 <= each["image_AUROC"] <= 1
        assert set(each["by_kind"]) == {"covid19", "pneumonia"}
    # files of one kind are wider
    assert records[2]["by_kind"] == {"covid19": 1, "pneumonia": 0.5}
    weights = {name: torch.load(tmp_path / "weights" / f"{name}-0.ckpt")["state_dict"] for name in ("random", "chest_xray-random-1-ccd")}  # fmt: skip
    first, second = weights.values()
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    capsys.readouterr()
    assert bench.main([*words, "--table"]) == 0
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == len(records)  # nothing was repeated
    cells = " | ".join(f"{each['image_AUROC']:.3f}" for each in records[-3:])
    assert f"| ccd | {cells} |" in capsys.readouterr().out.splitlines()


def test_weights_are_asked_for(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--folder", str(tmp_path), "--sets", "mnist"])
    assert "--weights must be a file of ImageNet weights" in capsys.readouterr().err

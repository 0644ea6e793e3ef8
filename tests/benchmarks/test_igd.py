"""The benchmark of IGD on tiny inputs: what it compares is equal, and it measures what it says."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from anomaly_suite.losses import MSSSIM
from anomaly_suite.nn.residual import ResidualDecoder, ResidualEncoder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("igd")


def give_weights(source: nn.Module, target: nn.Module) -> None:
    with torch.no_grad():
        for before, after in zip(source.parameters(), target.parameters(), strict=True):
            after.copy_(before.normal_(std=0.05))


@pytest.mark.parametrize(("norm", "out_features"), [("batch", 16), ("layer", 1)])
def test_the_plain_encoder_is_ours(bench: ModuleType, norm: str, out_features: int) -> None:
    options = {"width": 2, "out_features": out_features, "norm": norm}
    ours = ResidualEncoder(in_channels=3, image_size=(32, 32), **options)  # type: ignore[arg-type] # mixed values
    plain, image = bench.plain_encoder(**options), torch.rand(4, 3, 32, 32)
    give_weights(ours, plain)
    torch.testing.assert_close(plain(image), ours(image), rtol=1e-4, atol=1e-5)


def test_the_plain_decoder_is_ours(bench: ModuleType) -> None:
    ours = ResidualDecoder(in_features=bench.LATENT, out_channels=3, image_size=(32, 32), width=2)
    plain, latent = bench.plain_decoder(width=2), torch.randn(4, bench.LATENT)
    give_weights(ours, plain)
    torch.testing.assert_close(plain(latent), ours(latent), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reuse", [True, False])
def test_a_plain_step_trains_every_part(bench: ModuleType, reuse: bool) -> None:
    plain = bench.PlainIGD(width=2, reuse=reuse)
    parts = [plain.encoder, plain.decoder, plain.critic]
    before = [[weight.clone() for weight in part.parameters()] for part in parts]
    plain.step(torch.rand(3, 3, 32, 32))
    for part, old in zip(parts, before, strict=True):
        now = list(part.parameters())
        assert all(weight.isfinite().all() for weight in now)
        assert sum(not torch.equal(a, b) for a, b in zip(now, old, strict=True)) > len(now) / 2


def test_the_library_by_scale_is_ours(bench: ModuleType) -> None:
    if bench.pytorch_msssim is None:
        pytest.skip("pytorch-msssim is not installed")
    image = torch.rand(2, 3, 32, 32)
    other = 0.8 * image + 0.2 * torch.rand(2, 3, 32, 32)
    measure = MSSSIM(scales=4, window_size=3)
    kernel = bench.pytorch_msssim._fspecial_gauss_1d(3, 1.5).repeat(3, 1, 1, 1)
    theirs = bench.pytorch_msssim_by_scale(image, other, window=kernel, weights=measure.exponents)
    torch.testing.assert_close(theirs, measure(image, other).mean(), rtol=0, atol=1e-5)


def test_candidates_alternate_and_the_first_round_is_not_counted(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    now = [0.0]
    durations = {"ours": iter([50.0, 1.0, 2.0, 3.0]), "plain": iter([9.0, 4.0, 4.0, 4.0])}

    def run(name: str) -> None:
        order.append(name)
        now[0] += next(durations[name])

    monkeypatch.setattr(bench.time, "process_time", lambda: now[0])
    outcome = bench.alternate({name: lambda name=name: run(name) for name in durations}, rounds=3)
    assert order == ["ours", "plain"] * 4
    assert outcome["cpu_s"] == {"ours": 2.0, "plain": 4.0}
    assert outcome["ratio"] == {"plain": 0.5}


def test_one_json_with_every_case(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    file = tmp_path / "igd.json"
    words = ["--only", "ms_ssim_32,down,up,step", "--rounds", "1", "--batch", "2", "--width", "2", "--json", str(file)]
    assert bench.main(words) == 0
    torch.set_num_threads(threads)
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(file.read_text())
    assert list(report["cases"]) == ["ms_ssim_32", "down", "up", "step_32"]
    assert {"torchmetrics"} <= set(report["cases"]["ms_ssim_32"]["ratio"])
    assert set(report["cases"]["step_32"]["ratio"]) == {"plain", "plain_reusing"}
    for case in report["cases"].values():
        assert all(0 < seconds < 10 for seconds in case["cpu_s"].values())
        assert set(case["ratio"]) == set(case["cpu_s"]) - {"ours"}
    assert report["setting"]["width"] == 2

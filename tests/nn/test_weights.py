from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from anomaly_suite.errors import WeightsError
from anomaly_suite.nn.weights import Mismatch, first_mismatch, match_by_name, read_tensors, without_prefixes


def state() -> dict[str, Tensor]:
    return {"conv.weight": torch.rand(2, 3), "conv.bias": torch.rand(2), "bn.num_batches_tracked": torch.tensor(4)}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


class TestReading:
    @pytest.mark.parametrize("wrappers", [(), ("state_dict",), ("model",), ("state_dict", "model")])
    def test_mappings_of_tensors_bare_or_wrapped(self, wrappers: tuple[str, ...], tmp_path: Path) -> None:
        tensors = state()
        content: dict[str, object] = {**tensors, "epoch": 3}
        for wrapper in reversed(wrappers):
            content = {wrapper: content, "step": 1}
        torch.save(content, tmp_path / "a.pth")
        assert_same(read_tensors(tmp_path / "a.pth"), tensors)

    def test_safetensors(self, tmp_path: Path) -> None:
        tensors = state()
        save_file(tensors, tmp_path / "a.safetensors")
        assert_same(read_tensors(str(tmp_path / "a.safetensors")), tensors)

    def test_a_tensor_named_model_is_no_wrapper(self, tmp_path: Path) -> None:
        torch.save({"model": torch.ones(2)}, tmp_path / "a.pth")
        assert list(read_tensors(tmp_path / "a.pth")) == ["model"]

    def test_a_missing_file(self) -> None:
        with pytest.raises(
            WeightsError, match=r"an existing file or the folder of a run; got 'imagnet'\. Check the path"
        ):
            read_tensors("imagnet")

    def test_a_pickled_module_is_not_executed(self, tmp_path: Path) -> None:
        torch.save(torch.nn.Linear(1, 1), tmp_path / "a.pth")
        with pytest.raises(WeightsError, match=r"a\.pth must hold plain tensors"):
            read_tensors(tmp_path / "a.pth")

    @pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
    def test_a_broken_file(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(b"no tensors")
        with pytest.raises(WeightsError, match=f"{name} must hold plain tensors"):
            read_tensors(tmp_path / name)

    @pytest.mark.parametrize("content", [{"epoch": 1}, {"state_dict": {}}, [torch.ones(1)]])
    def test_a_file_without_named_tensors(self, content: object, tmp_path: Path) -> None:
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(WeightsError, match="it holds none"):
            read_tensors(tmp_path / "a.pth")

    def test_the_newest_checkpoint_of_a_run(self, tmp_path: Path) -> None:
        run = tmp_path / "lightning_logs" / "version_0"
        (run / "checkpoints").mkdir(parents=True)
        with pytest.raises(WeightsError, match="weights: no run"):
            read_tensors(tmp_path)
        (run / "config.yaml").touch()
        with pytest.raises(WeightsError, match="weights: no checkpoint"):
            read_tensors(tmp_path)
        for age, name in enumerate(("new", "old")):
            torch.save({"state_dict": {name: torch.ones(1)}}, run / "checkpoints" / f"{name}.ckpt")
            os.utime(run / "checkpoints" / f"{name}.ckpt", (1000 - age, 1000 - age))
        assert list(read_tensors(tmp_path)) == ["new"]
        assert list(read_tensors(str(run))) == ["new"]


class TestNames:
    @pytest.mark.parametrize(
        ("name", "plain"),
        [
            ("module.model.net.conv.weight", "conv.weight"),
            ("conv.weight", "conv.weight"),
            ("decoder.net.conv.weight", "decoder.net.conv.weight"),  # only what stands before all of it
            ("modules.conv.weight", "modules.conv.weight"),
        ],
    )
    def test_prefixes_are_taken_off(self, name: str, plain: str) -> None:
        assert without_prefixes(name) == plain

    def test_a_known_name_keeps_its_prefix(self) -> None:
        known = {"net.conv.weight", "encoder_bias"}
        assert without_prefixes("model.net.conv.weight", known) == "net.conv.weight"
        assert without_prefixes("model.encoder.bias", known, separator="_") == "encoder_bias"
        assert without_prefixes("model.encoder.bias", known) == "bias"

    def test_names_match_whatever_their_prefixes_and_separators(self) -> None:
        own = {"model.stages_0.conv.weight": torch.zeros(1), "head.bias": torch.zeros(1)}
        theirs = {"module.stages.0.conv.weight": torch.ones(1), "other.bias": torch.ones(1)}
        assert_same(match_by_name(theirs, own), {"model.stages_0.conv.weight": torch.ones(1)})


class TestMismatch:
    def test_all_fit(self) -> None:
        assert first_mismatch(state(), state()) is None
        assert first_mismatch({**state(), "more": torch.ones(1)}, state()) is None

    def test_a_missing_tensor(self) -> None:
        found = state()
        del found["conv.bias"]
        fault = first_mismatch(found, state())
        assert fault == Mismatch("conv.bias", (2,), None)
        assert str(fault) == "no tensor in it is named conv.bias (2,)"

    def test_another_shape(self) -> None:
        fault = first_mismatch({**state(), "conv.weight": torch.ones(3, 2)}, state())
        assert str(fault) == "conv.weight is (3, 2) in it and (2, 3) in the network"

    def test_old_files_without_batch_counters(self) -> None:
        found = state()
        del found["bn.num_batches_tracked"]
        assert first_mismatch(found, state()) is None

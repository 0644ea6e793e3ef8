"""Files of tensors are read without running code, and what cannot be read is told in one sentence."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unreadable import UNREADABLE, write_unreadable

from anomaly_suite.errors import WeightsError
from anomaly_suite.tensor_files import numpy_numbers, read_tensor_file


def read(path: Path) -> Any:
    return read_tensor_file(path, WeightsError, instead="Give another file.")


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_unreadable_file_is_named(kind: str, tmp_path: Path) -> None:
    file = write_unreadable(kind, tmp_path)
    with pytest.raises(WeightsError) as raised:
        read(file)
    message = str(raised.value)
    assert message.startswith(f"{file} must hold plain tensors, but it {UNREADABLE[kind]}")
    assert message.endswith(". Give another file.")
    assert "\n" not in message
    assert len(message) < 400
    assert not (tmp_path / "ran").exists(), "code of the file was run"


def test_a_safetensors_file(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert torch.equal(read(tmp_path / "a.safetensors")["a"], torch.ones(2))
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(whole[:-3])
    with pytest.raises(WeightsError, match="is cut or damaged"):
        read(tmp_path / "a.safetensors")


class TestNumpyNumbers:
    @pytest.mark.parametrize("number", [np.float64(0.742), np.float32(2.5), np.int64(-3), np.uint8(7), np.bool_(True)])
    @pytest.mark.parametrize("protocol", [2, 4])
    @pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
    def test_a_metric_beside_released_weights(self, number: Any, protocol: int, module: bytes, tmp_path: Path) -> None:
        torch.save(
            {"state_dict": {"a": torch.ones(1)}, "mean_iu": number}, tmp_path / "a.pth", pickle_protocol=protocol
        )
        ours = (
            b"numpy._core.multiarray"
            if b"numpy._core.multiarray" in (tmp_path / "a.pth").read_bytes()
            else b"numpy.core.multiarray"
        )
        _replace_in_pickle(tmp_path / "a.pth", ours, module)
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / "a.pth", weights_only=True)
        assert read(tmp_path / "a.pth")["mean_iu"] == number

    @pytest.mark.parametrize(
        "value", [np.ones(2), np.array("text"), np.random.default_rng, np.dtype, np.datetime64("2020-01-01")]
    )
    def test_nothing_else_of_numpy(self, value: Any, tmp_path: Path) -> None:
        torch.save({"a": value}, tmp_path / "a.pth")
        if value is np.dtype:  # the class alone does nothing
            return
        with pytest.raises(WeightsError, match="which could run code"):
            read(tmp_path / "a.pth")

    def test_it_ends(self) -> None:
        before = torch.serialization.get_safe_globals()
        with numpy_numbers():
            assert len(torch.serialization.get_safe_globals()) > len(before)
        assert set(torch.serialization.get_safe_globals()) == set(before)  # a list of a set: in any order


def _replace_in_pickle(file: Path, old: bytes, new: bytes) -> None:
    """The file as another version of NumPy would have written it."""
    content = torch.load(file, weights_only=False)
    text = pickle.dumps(content["mean_iu"], protocol=2)
    assert old in text
    # The legacy format of torch.save is a row of pickles, which can be written by hand.
    head = [
        pickle.dumps(part, protocol=2)
        for part in (
            119547037146038801333356,
            1001,
            {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}},
        )
    ]
    inner = text.replace(old, new)
    body = pickle.dumps({"mean_iu": 0}, protocol=2)
    assert body.endswith(b"K\x00s.")
    file.write_bytes(b"".join(head) + body[:-4] + inner[2:-1] + b"s." + pickle.dumps([], protocol=2))

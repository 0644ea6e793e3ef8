"""Names and positions of published masked autoencoders; what is loaded into a method is tested with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anomaly_suite.errors import WeightsError
from anomaly_suite.nn.masked_weights import load_masked_autoencoder
from anomaly_suite.nn.memory_transformer import MemoryEncoder
from anomaly_suite.nn.multi_level_decoder import MultiLevelDecoder
from anomaly_suite.nn.patch_tokens import sine_cosine_positions


def networks() -> tuple[MemoryEncoder, MultiLevelDecoder]:
    encoder = MemoryEncoder(width=8, depth=1, heads=2, patch_size=2, grid=(2, 4), slots=3)
    return encoder, MultiLevelDecoder(in_features=8, width=4, depth=1, heads=2, levels=1, grid=(2, 4), out_features=12)


@pytest.mark.parametrize("prefix", ["", "module.", "encoder."])
def test_an_encoder_alone_is_enough(prefix: str, tmp_path: Path) -> None:
    source, _ = networks()
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items() if "memory" not in name}
    torch.save(state, tmp_path / "encoder.pth")
    encoder, decoder = networks()
    memory, before = encoder.state_dict()["blocks.0.attn.memory_key"].clone(), decoder.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    load_masked_autoencoder(encoder, decoder, str(tmp_path / "encoder.pth"))
    for name, value in encoder.state_dict().items():
        assert (
            torch.equal(value, memory if name.endswith("0.attn.memory_key") else source.state_dict()[name])
            or "memory_value" in name
        )
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())


def test_positions_of_another_image_size_fit_if_they_are_fixed(tmp_path: Path) -> None:
    encoder, decoder = networks()
    table = torch.cat([torch.zeros(1, 8), sine_cosine_positions(8, (6, 6))]).unsqueeze(0)
    for positions, fits in ((table, True), (table.flip(2), False)):
        torch.save({**encoder.state_dict(), "pos_embed": positions}, tmp_path / "weights.pth")
        if fits:
            load_masked_autoencoder(encoder, decoder, str(tmp_path / "weights.pth"))
        else:
            with pytest.raises(WeightsError, match=r"its positions \(pos_embed\) were trained"):
                load_masked_autoencoder(encoder, decoder, str(tmp_path / "weights.pth"))


def test_gates_of_another_kind_are_refused(tmp_path: Path) -> None:
    encoder, decoder = networks()
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    state |= {f"decoder.{name}": value for name, value in decoder.state_dict().items()}
    state["decoder.blocks.0.cross.gate_weight"] = torch.zeros(1, 8, 1)
    torch.save({"state_dict": state}, tmp_path / "run.ckpt")
    with pytest.raises(
        WeightsError, match=r"blocks.0.cross.gate_weight is \(1, 8, 1\) in it and \(1, 8, 4\) in the network"
    ):
        load_masked_autoencoder(encoder, decoder, str(tmp_path / "run.ckpt"))

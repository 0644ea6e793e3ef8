"""Published weights of masked autoencoders, for an encoder with memory and a decoder with cross-attention.

Layout: that of timm's ViT for the encoder; the decoder's tensors, which the complete files of He et al. have, begin with ``decoder_``.
Axes: N patches, D width of a token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from anomaly_suite.errors import WeightsError
from anomaly_suite.nn.memory_transformer import MemoryEncoder
from anomaly_suite.nn.multi_level_decoder import MultiLevelDecoder
from anomaly_suite.nn.patch_tokens import sine_cosine_positions
from anomaly_suite.nn.weights import first_mismatch, match_by_name, read_tensors, without_prefixes

POSITION_TOLERANCE = 1e-3  # published tables are rounded to half precision at worst
DECODER = ("decoder_", "decoder.")  # before names in published files, and in checkpoints


def load_masked_autoencoder(encoder: MemoryEncoder, decoder: MultiLevelDecoder, weights: str) -> None:
    """Give both networks the tensors of a masked autoencoder: all of the encoder but its memory, and of the decoder what there is.

    Memory, cross-attention and gates stay as they are unless the file, a checkpoint, has them.

    Args:
        encoder: Of an image of any size.
        decoder: Of the same image.
        weights: File, or the folder of a run.

    Raises:
        WeightsError: no such file, an unreadable one, one that does not fit, or one with other positions than sines and cosines.
    """
    tensors = {without_prefixes(name, ("encoder",)): value for name, value in read_tensors(weights).items()}
    own = encoder.state_dict()
    found = match_by_name(tensors, own)
    needed = {name: value for name, value in own.items() if ".memory_" not in name or name in found}
    beside = decoder.state_dict()
    filled = {name: value for name, value in _of_decoder(tensors).items() if name in beside}
    fault = first_mismatch(found, needed) or first_mismatch(filled, {name: beside[name] for name in filled})
    why = str(fault) if fault else _foreign_positions(tensors)
    if why:
        raise WeightsError(
            f"weights must be those of a masked autoencoder whose networks are built like these; got {weights!r}, but {why}. Give a file that "
            "fits (timm's vit_base_patch16_224.mae for size base), set size and patch_size to those of the file, or weights to null."
        )
    encoder.load_state_dict(own | found)
    decoder.load_state_dict(beside | filled)


def _of_decoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {name[len(DECODER[0]) :]: value for name, value in tensors.items() if name.startswith(DECODER)}
    return {name: value for name, value in tensors.items() if name == "mask_token"} | named


def _foreign_positions(tensors: Mapping[str, Tensor]) -> str:
    """What is wrong with the positions (1, N or 1 + N, D) of a file; nothing where it has none, as a checkpoint."""
    if "pos_embed" not in tensors:
        return ""
    table = tensors["pos_embed"].float().flatten(0, -2)
    side = math.isqrt(len(table))
    fixed = sine_cosine_positions(table.shape[1], (side, side)) if side else table[:0]
    if torch.allclose(table[len(table) - side**2 :], fixed, atol=POSITION_TOLERANCE):
        return ""
    return "its positions (pos_embed) were trained, and those here are fixed sines and cosines of square images"

"""Configurations and checkpoints that do not belong together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anomaly_suite.contract.run_pair import IDENTITY, facts_of, require_pair
from anomaly_suite.errors import CheckpointError
from anomaly_suite.io.runs import run_line

MODEL = "model:\n  class_path: anomaly_suite.methods.DAE\n  init_args: {widths: [4, 8], latent_dim: 4, weights: null}\n"
OPTIONS = {"_class_path": "anomaly_suite.methods.DAE", "widths": (4, 8), "latent_dim": 4, "weights": "other.pth"}


def write(folder: Path, identity: str | None, **checkpoint: object) -> Path:
    head = "" if identity is None else run_line(identity, "checkpoints/model.ckpt")
    (folder / "config.yaml").write_text(head + MODEL)
    torch.save({"state_dict": {"weight": torch.ones(2)}, **checkpoint}, folder / "model.ckpt")
    return folder / "model.ckpt"


def test_a_pair_of_one_run_is_taken(tmp_path: Path) -> None:
    require_pair(tmp_path, write(tmp_path, "0f3c", **{IDENTITY: "0f3c"}))
    require_pair(tmp_path, write(tmp_path, None, hyper_parameters=OPTIONS))
    require_pair(tmp_path, write(tmp_path, "0f3c", hyper_parameters=OPTIONS))
    require_pair(tmp_path, tmp_path / "nowhere.ckpt")  # left to who reads it


def test_pairs_of_two_runs_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "0f3c", hyper_parameters=OPTIONS, **{IDENTITY: "77aa"})
    with pytest.raises(
        CheckpointError, match=r"config.yaml' and its checkpoint must be of one run; .*\(77aa, not 0f3c\)\. Give"
    ):
        require_pair(tmp_path, file)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_path": "anomaly_suite.methods.VAE"}, "the method VAE, not DAE"),
        ({"widths": (4, 16)}, r"widths=\(4, 16\), not \[4, 8\]"),
        ({"latent_dim": 8}, "latent_dim=8, not 4"),
    ],
)
def test_without_names_the_method_and_its_options_must_be_the_same(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    file = write(tmp_path, "0f3c", hyper_parameters={**OPTIONS, **changes})
    with pytest.raises(CheckpointError, match=said):
        require_pair(tmp_path, file)


def test_facts_of_what_is_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model.ckpt"
    file.write_text("<html>")
    assert facts_of(file) == {}
    torch.save([1], file)
    assert facts_of(file) == {}

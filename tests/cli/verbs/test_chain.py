"""Pre-training and detector in one command: what is handed over, what is kept, and what is refused before anything is trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from cli_parts import command, succeed, weights

from anomaly_suite.io.runs import find_run

DATA = {
    "class_path": "Digits",
    "init_args": {"normal_class": 3, "image_size": 16, "train_batch_size": 128, "validation": "none"},
}
FIRST = {
    "teacher": "test_resnet",
    "teacher_weights": None,
    "teacher_size": 32,
    "encoder": "residual",
    "image_size": 16,
    "width": 2,
}
SECOND = {"encoder": "residual", "image_size": 16, "width": 2, "latent_dim": 4}


def write(name: str, method: str, model: dict[str, object], **trainer: object) -> str:
    """A configuration of one epoch and one batch."""
    settings = {
        "default_root_dir": f"runs/{name}",
        "max_epochs": 1,
        "limit_train_batches": 1,
        "logger": False,
        **trainer,
    }
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    content = {"model": {"class_path": method, "init_args": model}, "data": DATA, "trainer": settings}
    Path(f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return f"{name}.yaml"


def test_one_run_a_stage_and_a_finished_one_is_kept(cwd: Path) -> None:
    words = (
        "fit",
        "--config",
        write("first", "KnowledgeDistillation", FIRST),
        "--then",
        write("second", "MSSSIMAutoencoder", SECOND),
    )
    done = succeed(*words)
    assert "stage 1 (first.yaml) is trained" in done.out
    first, second = (find_run(f"runs/{name}") for name in ("first", "second"))
    given, taken = (weights(run / "checkpoints" / "model.ckpt") for run in (first, second))
    encoder = {key: value for key, value in given.items() if key.startswith("encoder.")}
    of_detector = {
        f"encoder.{key.partition('.encoder.')[2]}": value for key, value in taken.items() if ".encoder." in key
    }
    assert encoder.keys() == of_detector.keys()
    assert all(torch.equal(value, of_detector[key]) for key, value in encoder.items())
    config = yaml.safe_load((second / "config.yaml").read_text(encoding="utf-8"))
    assert config["model"]["init_args"]["encoder_weights"] == str(first)

    before = (first / "checkpoints" / "model.ckpt").read_bytes()
    again = succeed(*words)
    assert f"stage 1 (first.yaml) is finished in {first} and not trained again" in again.out
    assert (first / "checkpoints" / "model.ckpt").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "then", "said"),
    [
        (
            {"first": {"width": 4}},
            [],
            r"encoder_weights: the encoder in the run of stage 1 \(first\.yaml\) must be built like",
        ),
        ({"method": "PaDiM"}, [], r"stage 1 \(first\.yaml\) is PaDiM, which has none"),
        ({"detector": "DAE"}, [], r"stage 2 \(second\.yaml\) is DAE, which has no such option"),
        (
            {"trainer": {"enable_checkpointing": False}},
            [],
            "must leave a checkpoint; got trainer.enable_checkpointing=False",
        ),
        (
            {"first": {"patch_size": 16}},
            ["--model.scope", "global", "--model.encoder_weights", "null"],
            "does not read local_encoder_weights",
        ),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(cwd: Path, changes: dict, then: list[str], said: str) -> None:
    method, detector = changes.get("method", "KnowledgeDistillation"), changes.get("detector", "MSSSIMAutoencoder")
    first = {**FIRST, **changes.get("first", {})} if method == "KnowledgeDistillation" else {"weights": None}
    write("first", method, first, **changes.get("trainer", {}))
    write("second", detector, SECOND if detector == "MSSSIMAutoencoder" else {})
    done = command("fit", "--config", "first.yaml", "--then", "second.yaml", *then)
    assert done.code in (1, 2)
    assert re.search(said, done.err, re.IGNORECASE), done.err
    assert done.err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_chain_to_be_tested_leaves_a_checkpoint_at_its_end(cwd: Path) -> None:
    last = write("second", "MSSSIMAutoencoder", SECOND, enable_checkpointing=False)
    done = command("train", "--config", write("first", "KnowledgeDistillation", FIRST), "--then", last)
    assert "stage 2 (second.yaml) must leave a checkpoint; got trainer.enable_checkpointing=False" in done.err

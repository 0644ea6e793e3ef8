"""The default callbacks, their switches, and the saved configuration."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from cli_parts import FAST, OWN, QUIET, command, succeed, table, thresholds, weights
from test_readme import block

from anomaly_suite.cli.samples import origins
from anomaly_suite.io.runs import find_run

pytestmark = pytest.mark.xdist_group("flow")


def test_the_whole_help_of_a_verb_lists_the_options_of_the_callbacks():
    said = succeed("fit", "--help", "all").out
    for option in (
        "--calibrate.quantile",
        "--metrics.image",
        "--heatmaps.max_images",
        "--curves.save_scores",
        "--trainer.max_epochs",
        "--disable",
    ):
        assert option in said
    assert "Share of normal images that stay unflagged" in " ".join(said.split())


def test_config_states_effective_values_and_repeats_the_run(flow, cwd):
    saved = flow.folder / "config.yaml"
    config = yaml.safe_load(saved.read_text(encoding="utf-8"))
    trainer = config["trainer"]
    assert trainer["accelerator"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert (trainer["devices"], trainer["max_epochs"], trainer["precision"]) == (1, 2, "32-true")
    assert config["seed_everything"] == 0
    assert config["model"]["class_path"] == "anomaly_suite.methods.ADACL"
    assert config["data"]["init_args"]["validation"] == "augmented"
    assert config["calibrate"]["rule"] == "auto"
    assert origins(saved) == []
    succeed("fit", "--config", str(saved), "--trainer.default_root_dir", "runs/repeated")
    assert origins(find_run("runs/repeated") / "config.yaml") == [str(saved)]
    first = flow.folder / "checkpoints" / "model.ckpt"
    second = find_run("runs/repeated") / "checkpoints" / "model.ckpt"
    before, after = weights(first), weights(second)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert thresholds(first) == thresholds(second)


def test_one_pass_is_said_only_where_it_changes_something(cwd):
    (cwd / "my_method.py").write_text(block("Your own method"), encoding="utf-8")
    for epochs in ("1", "null"):
        options = ["--trainer.max_epochs", epochs, "--trainer.logger", "false", "--trainer.limit_val_batches", "0"]
        done = succeed("fit", *OWN, *options, *QUIET, "--disable", "[calibrate, metrics, heatmaps, plots, table]")
        assert "one pass" not in done.out
        config = Path(done.out.splitlines()[-1].removeprefix("results: ")) / "config.yaml"
        assert yaml.safe_load(config.read_text(encoding="utf-8"))["trainer"]["max_epochs"] == 1


def test_a_run_folder_that_cannot_be_written_to_is_one_sentence_at_once(cwd):
    (cwd / "file").touch()
    done = command("fit", *FAST, "--trainer.logger", "true", "--trainer.default_root_dir", "file/run")
    assert done.code == 1
    said = "anomaly-suite: FileWriteError: results are to be written to 'file/run', which cannot be written to ("
    assert done.err.splitlines()[-1].startswith(said)


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_checkpoints_are_read_without_running_code(verb):
    said = " ".join(succeed(verb, "--help", "all").out.split())
    option = said.rpartition(" --weights_only {true,false,null} ")[2]
    assert option.partition(" default: ")[2].startswith("True)")


def test_a_strangers_checkpoint_runs_no_code(cwd):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(cwd / "harm"),)

    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0", "more": Harmful()}, cwd / "stranger.ckpt")
    for verb in ("test", "fit"):
        with contextlib.suppress(pickle.UnpicklingError):
            assert command(verb, *FAST, "--ckpt_path", "stranger.ckpt").code != 0
        assert not (cwd / "harm").exists()


def test_disabled_callbacks_leave_no_trace(cwd):
    succeed("fit", *FAST, "--disable", "[calibrate, plots]")
    config = yaml.safe_load(Path("runs/fast/config.yaml").read_text(encoding="utf-8"))
    assert config["disable"] == ["calibrate", "plots"]
    assert thresholds("runs/fast/checkpoints/model.ckpt") == {}
    succeed("test", "--run", "runs/fast")
    assert not Path("runs/fast/plots").exists()
    assert {row["decision"] for row in table(Path("runs/fast/test_scores.csv"))} == {""}
    assert "image_Accuracy" not in json.loads(Path("runs/fast/metrics.json").read_text())["metrics"]


def test_a_seed_of_ones_own_is_saved_and_changes_the_weights(flow, cwd):
    succeed(
        "fit", *FAST, "--seed_everything", "5", "--trainer.max_epochs", "2", "--disable", "[plots, heatmaps, table]"
    )
    assert yaml.safe_load(Path("runs/fast/config.yaml").read_text(encoding="utf-8"))["seed_everything"] == 5
    other = weights(flow.folder / "checkpoints" / "model.ckpt")
    assert any(
        not torch.equal(value, other[name]) for name, value in weights("runs/fast/checkpoints/model.ckpt").items()
    )


@pytest.mark.parametrize("given", ["heatmaps", "heatmaps, plots", "[heatmaps]"])
def test_names_to_disable_need_no_brackets(cwd, given):
    said = succeed("fit", *FAST, "--trainer.fast_dev_run", "true", "--disable", given)
    assert "FLOPs" not in said.out
    assert "Tip:" not in said.out + said.err

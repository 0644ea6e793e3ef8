"""Every published configuration parses; the quickstart takes a step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from anomaly_suite import runner
from anomaly_suite.cli import main

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "sample_configs").rglob("*.yaml"))


class BuiltError(Exception):
    """Carries the parser out of the command line before anything is run."""


@pytest.fixture(scope="module")
def parser() -> LightningArgumentParser:
    """The parser of the command line; building it takes longer than parsing a file."""

    def stop(cli, parser, args):
        raise BuiltError(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.SuiteCLI, "parse_arguments", stop)
        patch.syspath_prepend(ROOT)  # put back after this block, with what run adds
        with pytest.raises(BuiltError) as built:
            runner.run("fit", [])
    return built.value.args[0]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_sample_config_parses(file, parser):
    config = parser.parse_args(["fit", "--config", str(file)]).fit
    check_image_size(config)
    package, _, name = config.model.class_path.rpartition(".")
    assert package.startswith("anomaly_suite.methods")
    assert name.lower() in file.stem.replace("_", "") or file.stem == "quickstart"  # named <method>_<dataset>.yaml
    assert config.data.class_path.startswith("anomaly_suite.data.")
    assert config.trainer.default_root_dir != "runs", "give every published run a folder of its own"
    assert config.trainer.max_epochs or config.trainer.max_steps > 0 or runner._is_single_pass(config.model.class_path)
    assert type(config.seed_everything) is int


NATIVE_SIZE = {"MNIST": 28, "FashionMNIST": 28, "CIFAR10": 32}


def check_image_size(config):
    """Network and data agree on it."""
    wanted = getattr(config.model.init_args, "image_size", None)
    given = getattr(config.data.init_args, "image_size", None)
    if wanted is None or getattr(config.model.init_args, "backbone", "lenet") != "lenet":
        return  # takes any size
    assert wanted == (given or NATIVE_SIZE[config.data.class_path.rpartition(".")[2]])


def test_run_folders_of_sample_configs_differ():
    folders = [yaml.safe_load(file.read_text())["trainer"]["default_root_dir"] for file in CONFIGS]
    assert len(set(folders)) == len(folders) > 0


def test_weights_come_from_the_runs_of_other_sample_configs():
    configs = [yaml.safe_load(file.read_text()) for file in CONFIGS]
    folders = {config["trainer"]["default_root_dir"] for config in configs}
    options = [item for config in configs for item in config["model"].get("init_args", {}).items()]
    weights = {value for name, value in options if name.endswith("weights") and str(value).startswith("runs/")}
    assert "runs/deeplabv3plus_synthetic_streets_cpu" in weights
    assert weights <= folders


def test_print_config_shows_what_the_parser_reads(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(ROOT / "sample_configs" / "quickstart.yaml"), "--print_config"])
    assert stopped.value.code == 0
    assert "default_root_dir: runs/quickstart" in capsys.readouterr().out


def test_the_quickstart_takes_one_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.logger", "false"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    main(["fit", "--config", str(ROOT / "sample_configs" / "quickstart.yaml"), *short, *quiet])
    checkpoint = torch.load("runs/quickstart/checkpoints/model.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 1
    weights = [value for value in checkpoint["state_dict"].values() if isinstance(value, torch.Tensor)]
    assert weights
    assert all(value.isfinite().all() for value in weights)
    assert checkpoint["state_dict"]["calibration._extra_state"]["image"]["split"] == "augmented"

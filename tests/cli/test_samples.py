"""Sample configurations: names, stacks, where they are found, published figures, and that every one parses."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
import yaml
from cli_parts import thresholds
from lightning.pytorch.cli import LightningArgumentParser

import anomaly_suite.data
import anomaly_suite.metrics
from anomaly_suite.cli import lightning, main, samples
from anomaly_suite.cli.catalog import catalog
from anomaly_suite.cli.samples import (
    check_config,
    condition,
    find_config,
    find_configs,
    origin_line,
    origins,
    published,
    read_stack,
    sample,
    sample_names,
    samples_folder,
    stack_of,
)
from anomaly_suite.cli.stages import split_stages
from anomaly_suite.cli.verbs import chain
from anomaly_suite.errors import ConfigError

ROOT = Path(__file__).parents[2]
NAMES = sample_names()
DATA = {  # data set in a file's name, and its data module
    "bdd_anomaly": "BDDAnomaly",
    "camvid": "CamVid",
    "cifar10": "CIFAR10",
    "cityscapes": "Cityscapes",
    "digits": "Digits",
    "fashion_mnist": "FashionMNIST",
    "folder": "Folder",
    "hyper_kvasir": "HyperKvasir",
    "medmnist": "MedMNIST",
    "liu_colonoscopy": "LiuColonoscopy",
    "bmad": "BMAD",
    "medianomaly": "MedIAnomaly",
    "covidx": "COVIDx",
    "lag": "LAG",
    "magnetic_tile": "MVTecAD",
    "mnist": "MNIST",
    "mvtec": "MVTecAD",
    "polyp_video": "PolypVideo",
    "shanghaitech": "ShanghaiTech",
    "street_hazards": "StreetHazards",
    "synthetic_streets": "SyntheticStreets",
    "synthetic_textures": "SyntheticTextures",
    "synthetic_videos": "SyntheticVideos",
    "ucf_crime": "UCFCrime",
    "ucsd_ped": "UCSDPed",
    "ucsd_ped2": "UCSDPedWeak",
    "xd_violence": "XDViolence",
}
METHODS = {entry.name: entry for entry in catalog("methods")}


class BuiltError(Exception):
    """Carries the parser out of the command line before anything is run."""


@pytest.fixture(scope="module")
def parser() -> LightningArgumentParser:
    """The parser of the command line; building it takes longer than parsing a file."""

    def stop(cli, parser, args):
        raise BuiltError(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightning.SuiteCLI, "parse_arguments", stop)
        patch.syspath_prepend(ROOT)  # put back after this block, with what run_lightning adds
        with pytest.raises(BuiltError) as built:
            lightning.run_lightning("fit", [])
    return built.value.args[0]


def parts_of(name):
    """Words for the parser: a sample configuration and what it is stacked on."""
    stack = stack_of(samples_folder() / name) or (name,)
    return [word for part in stack for word in ("--config", str(samples_folder() / part))]


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_config_parses(name, parser):
    config = parser.parse_args(["fit", *parts_of(name)]).fit
    check_image_size(config)
    assert config.trainer.default_root_dir == f"runs/{Path(name).stem}"
    single_pass = lightning.is_single_pass(config.model.class_path)
    assert config.trainer.max_epochs or config.trainer.max_steps > 0 or single_pass
    assert type(config.seed_everything) is int


NATIVE_SIZE = {"UCSDPed": 30, "MNIST": 28, "FashionMNIST": 28, "CIFAR10": 32}


def check_image_size(config):
    """Network and data agree on it."""
    wanted = getattr(config.model.init_args, "image_size", None)
    given = getattr(config.data.init_args, "image_size", None)
    if wanted is None or getattr(config.model.init_args, "backbone", "lenet") != "lenet":
        return  # takes any size
    assert wanted == (given or NATIVE_SIZE[config.data.class_path.rpartition(".")[2]])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "quickstart.yaml" and "anomalib/" not in name])
def test_a_name_says_family_method_and_data(name):
    entry = sample(name)
    family, _, file = name.partition("/")
    method = METHODS[entry.method]
    module = method.path.split(".")[-2]
    assert family == method.family
    prefix = next(word for word in (module, entry.method.lower()) if file.startswith(f"{word}_"))
    rest = file.removesuffix(".yaml").removeprefix(f"{prefix}_")
    data = max((word for word in DATA if f"{rest}_".startswith(f"{word}_")), key=len)
    assert DATA[data] == entry.data
    assert entry.device == ("cpu" if name.endswith("_cpu.yaml") or data == "magnetic_tile" else "gpu")


TRUTH = {  # options of data modules that decide what counts as anomalous and what is scored
    *(
        "annotation",
        "anomalous_classes",
        "convention",
        "drop_known",
        "labels",
        "length_rule",
        "masks",
        "protocol",
        "region",
    ),
    *("test_list", "threshold_set", "training_anomalies", "truth"),
}


def truth_of(name):
    """Effective value of every such option of a sample configuration, and the data module."""
    data = read_stack(samples_folder() / name)["data"]
    cls = getattr(anomaly_suite.data, data["class_path"])
    options = {key: item.default for key, item in inspect.signature(cls).parameters.items() if key in TRUTH}
    given = {key: value for key, value in data.get("init_args", {}).items() if key in TRUTH}
    return data["class_path"], {**options, **given}


def test_sample_configs_of_one_data_set_use_one_truth():
    truths = {}
    for name in NAMES:
        data, truth = truth_of(name)
        assert truths.setdefault(data, truth) == truth, name
    assert truths["ShanghaiTech"]["length_rule"] == "extend"
    assert truths["UCFCrime"]["convention"] == "rtfm"
    assert len(truths) > 10


PUBLISHED_VIDEOS = [
    name
    for name in NAMES
    if name.startswith("weak_video/") and not name.endswith("_cpu.yaml") and not stack_of(samples_folder() / name)
]


@pytest.mark.parametrize("name", PUBLISHED_VIDEOS)
def test_a_video_config_says_whose_truth_it_has_and_whose_table_it_stands_beside(name):
    head = (samples_folder() / name).read_text(encoding="utf-8").partition("seed_everything")[0]
    assert re.search(r"[Tt]ruth as .*table [89]\.[1-4]", " ".join(head.split()))


@pytest.mark.parametrize("name", [name for name in NAMES if stack_of(samples_folder() / name)])
def test_a_stacked_file_is_short_and_names_its_base(name):
    *below, last = stack_of(samples_folder() / name)
    assert last == name
    assert below
    assert all(not stack_of(samples_folder() / part) for part in below)
    assert len((samples_folder() / name).read_text(encoding="utf-8").splitlines()) <= 10


def test_a_stacked_file_alone_names_its_stack(tmp_path):
    name = next(name for name in NAMES if stack_of(samples_folder() / name))
    below = stack_of(samples_folder() / name)[0]
    for words in (["--config", name], [f"--config={samples_folder() / name}"], ["--config", name, "--config", below]):
        with pytest.raises(ConfigError, match=rf"Give --config {re.escape(below)} .*--config {re.escape(name)}\.$"):
            find_configs(words)
    own = tmp_path / "own.yaml"
    own.write_text("seed_everything: 1\n")
    for first in (below, str(own)):
        assert find_configs(["--config", first, "--config", name])[-1] == str(samples_folder() / name)


def test_a_complete_file_says_what_it_is():
    for name in NAMES:
        content = yaml.safe_load((samples_folder() / name).read_text(encoding="utf-8"))
        assert ("class_path" in content.get("model", {})) == (not stack_of(samples_folder() / name)), name


def test_pooled_videos_are_kept_wherever_there_are_files():
    kept = {name: read_stack(samples_folder() / name)["data"] for name in NAMES if name.startswith("weak_video/")}
    assert kept
    for name, data in kept.items():
        expected = None if data["class_path"] == "SyntheticVideos" else "runs/pooled_videos"
        assert data["init_args"].get("cache") == expected, name


def test_weights_come_from_the_runs_of_other_sample_configs():
    configs = [read_stack(samples_folder() / name) for name in NAMES]
    folders = [config["trainer"]["default_root_dir"] for config in configs]
    assert len(set(folders)) == len(folders) > 0
    options = [item for config in configs for item in config["model"].get("init_args", {}).items()]
    weights = {value for option, value in options if option.endswith("weights") and str(value).startswith("runs/")}
    assert "runs/deeplab_v3_plus_synthetic_streets_cpu" in weights
    assert weights <= set(folders)


# Chains --------------------------------------------------------------------------------------------------------------


def chain_of(name):
    """The stages that the first line of a file names, none for a file that is no chain."""
    with (samples_folder() / name).open(encoding="utf-8") as file:
        verb, _, words = file.readline().removeprefix("# anomaly-suite ").rstrip("\n").partition(" ")
    return split_stages(verb, find_chain(words.split())) if verb == "fit" and "--then" in words else []


def find_chain(words):
    """Names of sample configurations as paths."""
    return [str(samples_folder() / word) if word.endswith(".yaml") else word for word in words]


CHAINS = [name for name in NAMES if chain_of(name)]


def test_there_are_chains_of_global_and_local_pretraining_for_a_cpu_and_of_the_papers():
    stages = {name: len(chain_of(name)) for name in CHAINS}
    assert stages["one_class/igd_digits_ccd_cpu.yaml"] == stages["one_class/igd_hyper_kvasir_pmsacl.yaml"] == 3
    assert stages["one_class/padim_hyper_kvasir_pmsacl.yaml"] == 2


@pytest.mark.parametrize(  # building networks of full size takes seconds
    "name", [pytest.param(name, marks=() if name.endswith("_cpu.yaml") else pytest.mark.matrix) for name in CHAINS]
)
def test_a_chain_hands_its_encoders_over(name, tmp_path, monkeypatch):
    """All that is checked before anything is trained."""
    stages = chain_of(name)
    files = [word for stage in stages for word in stage.words if word != "--config"]
    assert files[-1] == str(samples_folder() / name)
    assert all(Path(file).is_file() for file in files)
    monkeypatch.chdir(tmp_path)
    tried = []
    monkeypatch.setattr(chain, "_train", lambda stage, root, text: tried.append(root) or root)
    monkeypatch.setattr(chain, "run_lightning", lambda verb, words: tried.append(words))
    chain.chain(stages)
    *roots, words = tried
    assert len(roots) == len(stages) - 1
    given = dict(zip(words[::2], words[1::2], strict=True))
    local = {"--model.local_encoder_weights": str(roots[1])} if len(roots) > 1 else {}
    assert given == {"--config": files[-1], "--model.encoder_weights": str(roots[0]), **local}


# Published figures ---------------------------------------------------------------------------------------------------


def logged_metrics() -> set[str]:
    levels = {"image", "pixel", "video", "frame"}
    names = {name for name in anomaly_suite.metrics.__all__ if isinstance(getattr(anomaly_suite.metrics, name), type)}
    return {f"{level}_{name}" for level in levels for name in names} | {"mIoU"}


def test_published_figures_belong_to_files_and_logged_metrics():
    assert published().keys() <= set(NAMES)
    known = logged_metrics()
    for name, figures in published().items():
        for figure in figures:
            assert figure.keys() <= {"metric", "value", "source", "data", "options", "of"}
            assert figure["metric"] in known
            assert 0 < figure["value"] < 1
            assert figure["source"]
        keys = [(figure["metric"], condition(figure)) for figure in figures]
        assert len(set(keys)) == len(keys), name


def test_figures_stand_in_the_table_and_not_in_prose():
    for name in NAMES:
        comments = [line for line in (samples_folder() / name).read_text().splitlines() if line.startswith("#")]
        assert not re.search(r"(AUROC|AP|FPR95|mIoU|AUPRO) (of )?\.?\d", " ".join(comments)), name


def test_a_figure_says_what_it_holds_for():
    assert condition({"metric": "mIoU", "value": 0.5, "source": "a"}) == ""
    other = {"metric": "mIoU", "value": 0.5, "source": "a", "of": "AnoGAN", "data": "CamVid"}
    assert condition(other) == "of AnoGAN on CamVid"


# Where a configuration is found --------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package folder as a wheel leaves it, and an empty current folder."""
    file = tmp_path / "site" / "anomaly_suite" / "sample_configs" / "one_class" / "padim_mvtec.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("seed_everything: 1\n")
    monkeypatch.setattr(samples, "PACKAGE", tmp_path / "site" / "anomaly_suite")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return file


def test_the_package_has_what_the_current_folder_lacks(installed):
    for path in ("one_class/padim_mvtec.yaml", "sample_configs/one_class/padim_mvtec.yaml"):
        assert find_config(path) == str(installed)
        assert find_configs(["--config", path, f"--config={path}", "--config"]) == [
            *("--config", str(installed), f"--config={installed}", "--config")
        ]
    with pytest.raises(
        ConfigError, match=r"no configuration 'one_class/padim_mvtek.yaml'.*'one_class/padim_mvtec.yaml'\?"
    ):
        find_config("one_class/padim_mvtek.yaml")


def test_a_file_in_the_current_folder_comes_first(installed):
    own = Path("one_class/padim_mvtec.yaml")
    own.parent.mkdir()
    own.write_text("seed_everything: 2\n")
    assert find_config(str(own)) == str(own)
    assert find_config("{trainer: {}}") == "{trainer: {}}"  # text in place of a file is the parser's


def test_a_checkout_has_the_folder_beside_the_package():
    assert samples_folder() == ROOT / "sample_configs"


def test_the_wheel_takes_the_folder_along():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[tool.hatch.build.targets.wheel.force-include]\n")[2].partition("\n\n")[0]
    assert section.strip() == '"sample_configs" = "anomaly_suite/sample_configs"'


# What a run remembers ------------------------------------------------------------------------------------------------


def test_a_run_names_its_configurations_through_repeats(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("trainer: {}\n")
    below, above = (
        samples_folder() / name for name in ("one_class/adacl_mnist.yaml", "one_class/adacl_mnist_ema.yaml")
    )
    line = origin_line([below, above, Path("mine.yaml")])
    assert line == "# from: one_class/adacl_mnist.yaml one_class/adacl_mnist_ema.yaml mine.yaml\n"
    Path("config.yaml").write_text(f"{line}seed_everything: 0\n")
    assert origin_line([Path("config.yaml")]) == line
    assert origins(Path("config.yaml"))[-1] == "mine.yaml"
    assert (origin_line([]), origins(Path("mine.yaml"))) == ("", [])


def test_stacked_files_are_one_mapping():
    merged = read_stack(samples_folder() / "weak_video/rtfm_shanghaitech_ablation_fm.yaml")
    assert merged["model"] == {"class_path": "RTFM", "init_args": {"pdc": False, "tsa": False, "magnitude": True}}
    assert merged["data"]["init_args"]["length_rule"] == "extend"
    assert merged["trainer"]["default_root_dir"] == "runs/rtfm_shanghaitech_ablation_fm"


# The quickstart ------------------------------------------------------------------------------------------------------


def test_print_config_shows_what_the_parser_reads(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "quickstart.yaml", "--print_config"])
    assert stopped.value.code == 0
    assert "default_root_dir: runs/quickstart" in capsys.readouterr().out


def test_the_quickstart_takes_one_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.logger", "false"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    main(["fit", "--config", "sample_configs/quickstart.yaml", *short, *quiet])
    assert origins(Path("runs/quickstart/config.yaml")) == ["quickstart.yaml"]
    checkpoint = torch.load("runs/quickstart/checkpoints/model.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 1
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    assert thresholds("runs/quickstart/checkpoints/model.ckpt")["image"]["split"] == "augmented"


KNOWN = {"model", "data", "trainer", "seed_everything"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "model:\n  class_path: PaDiM\n   x: 3\n",
            r"slip\.yaml', line 3, column 5 is no YAML: mapping values are not allowed here",
        ),
        ("model: [PaDiM\n", r"slip\.yaml', line 2, column 1 is no YAML"),
        (
            "modle:\n  class_path: PaDiM\n",
            r"slip\.yaml' has 'modle', which is no part of a configuration\. Did you mean 'model'\?",
        ),
        ("3: 4\n", "has 3, which is no part"),
        (
            "model:\n  class_path: PaDiM\n  weights: null\n",
            r"has model\.weights beside class_path, where it is not read\. Indent it under model\.init_args",
        ),
        ("data:\n  class_path: Digits\n  init_args: {}\n  root: x\n", r"has data\.root beside class_path"),
    ],
)
def test_slips_of_a_configuration_are_found_in_it(tmp_path, text, says):
    (tmp_path / "slip.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        check_config(tmp_path / "slip.yaml", KNOWN)


def test_what_is_no_slip(tmp_path):
    (tmp_path / "fine.yaml").write_text(
        "model:\n  class_path: my.Own\n  init_args: {a: 1}\n  dict_kwargs: {b: 2}\ndata: other.yaml\n"
    )
    check_config(tmp_path / "fine.yaml", KNOWN)
    check_config(tmp_path / "gone.yaml", KNOWN)
    (tmp_path / "latin.yaml").write_bytes(b"data: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml' is no text in UTF-8.*Save it as UTF-8"):
        check_config(tmp_path / "latin.yaml", KNOWN)

"""Which published figures stand beside a run, and what is said to differ."""

from __future__ import annotations

from typing import Any

import pytest

from anomaly_suite.cli.figures import chosen_figures, differences, figure_options, reference_of, value_of
from anomaly_suite.cli.samples import published, sample, sample_names


@pytest.mark.parametrize(
    ("configs", "method", "data", "found"),
    [
        (["one_class/igd_mnist_cpu.yaml"], "IGD", "MNIST", "one_class/igd_mnist.yaml"),
        (["one_class/deep_svdd_mnist.yaml"], "DeepSVDD", "MNIST", "one_class/deep_svdd_mnist.yaml"),
        (["one_class/igd_mnist.yaml"], "IGD", "CIFAR10", "one_class/igd_cifar10.yaml"),  # other data than the file's
        (["mine.yaml"], "VAE", "MNIST", "reconstruction/vae_mnist.yaml"),
        (
            ["pretraining/ccd_hyper_kvasir.yaml", "mine.yaml"],
            "PaDiM",
            "HyperKvasir",
            "pretraining/ccd_hyper_kvasir.yaml",
        ),
        (["pretraining/ccd_digits_cpu.yaml", "mine.yaml"], "IGD", "MNIST", None),  # not IGD alone
        (["reconstruction/fanogan_mnist.yaml"], "FAnoGAN", "MNIST", None),  # of its predecessor
        ([], "PaDiM", "Digits", None),
    ],
)
def test_which_configuration_a_run_is_compared_with(
    configs: list[str], method: str, data: str, found: str | None
) -> None:
    assert reference_of(configs, method, data) == found


def test_figures_are_of_the_options_that_the_run_has() -> None:
    name = "few_shot/fsad_net_folder.yaml"
    values = {}
    for count in (30, 40):
        config = {"data": {"init_args": {"num_anomalous": count}}}
        values[count] = chosen_figures(name, "FSADNet", "Folder", config)["image_AUROC"]["value"]
    assert values == {30: 0.855, 40: 0.9033}
    assert chosen_figures(name, "PaDiM", "Folder", {}) == {}


def test_options_of_every_published_figure_can_be_read() -> None:
    names = set(sample_names())
    for name, figures in published().items():
        for figure in figures:
            for option in figure_options(figure):
                assert option.partition(".")[0] in ("model", "data", "trainer"), (name, option)
            assert name not in names or sample(name).method


CONFIG: dict[str, Any] = {
    "model": {
        "class_path": "a.b.PaDiM",
        "init_args": {"lr": 0.1, "betas": [0.9, 0.99], "weights": "/mine/a.ckpt", "new": 1},
    },
    "data": {"class_path": "a.MNIST", "init_args": {"root": "/mine", "normal_class": 3, "seed": 7, "pad": False}},
    "trainer": {"max_epochs": 1, "precision": "32-true", "limit_train_batches": None, "limit_test_batches": 1},
}


def test_what_differs_and_what_does_not() -> None:
    reference = {
        "model": {
            "class_path": "c.PaDiM",
            "init_args": {"lr": 0.1, "betas": (0.9, 0.99), "weights": "runs/b", "old": 2},
        },
        "data": {"class_path": "a.MNIST", "init_args": {"root": None, "normal_class": 0, "seed": 0, "pad": 0}},
        "trainer": {"max_epochs": 300, "precision": None, "limit_train_batches": 1.0, "limit_test_batches": None},
        "checkpoint": {"monitor": "val/image_AUROC"},
    }
    found = differences(CONFIG, reference, axes=["data.normal_class"])
    assert {each["option"]: (each["published"], each["here"]) for each in found} == {
        "data.pad": (0, False),
        "trainer.max_epochs": (300, 1),
        "trainer.limit_test_batches": (None, 1),
        "checkpoint.monitor": ("val/image_AUROC", None),
    }
    assert differences(CONFIG, CONFIG) == []


def test_values_by_dotted_name() -> None:
    assert value_of(CONFIG, "model.lr") == value_of(CONFIG, "model.init_args.lr") == 0.1
    assert value_of(CONFIG, "trainer.max_epochs") == 1
    assert value_of(CONFIG, "seed_everything") is None
    assert value_of(CONFIG, "checkpoint.monitor") is None

"""Constructors of the image data modules say every option, with the defaults of the class that reads it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from anomaly_suite import data
from anomaly_suite.contract import AnomalyDataModule
from anomaly_suite.data.images.image_data import ImageDataModule
from anomaly_suite.errors import ConfigError


def defaults_of(kind: type) -> dict[str, Any]:
    return {name: each.default for name, each in inspect.signature(kind).parameters.items()}


BASE = defaults_of(AnomalyDataModule)
UNLABELLED = {"SyntheticVideos", "UCSDPed"}  # which take no labelled anomalies
IMAGES = defaults_of(ImageDataModule)
MEDICAL = ("HyperKvasir", "LAG", "COVIDx", "MedIAnomaly", "BMAD")
NAMES = (
    "CIFAR10",
    "MNIST",
    "FashionMNIST",
    "Digits",
    "Folder",
    "MVTecAD",
    *MEDICAL,
    "LiuColonoscopy",
    "MedMNIST",
    "SyntheticTextures",
    "SyntheticVideos",
    "UCSDPed",
)
OWN_DEFAULTS: dict[str, dict[str, Any]] = {
    "SyntheticVideos": {"eval_batch_size": 1},
    "UCSDPed": {"train_batch_size": 128, "eval_batch_size": 500, "val_size": 150},
}
GIVEN = {
    "train_batch_size": 3,
    "eval_batch_size": 5,
    "num_workers": 2,
    "seed": 7,
    "validation": "test",
    "val_size": 11,
}

LABELLED = {"num_anomalous": 4, "anomalous_types": ["a"], "anomalous_seed": 5, "balanced": 0.25}


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_a_keyword_with_type_and_default(name: str) -> None:
    parameters = inspect.signature(getattr(data, name)).parameters
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters.values())
    assert all(each.annotation is not each.empty for each in parameters.values())
    base = BASE if name in UNLABELLED else IMAGES
    defaults = {key: each.default for key, each in parameters.items() if key in base}
    assert defaults == {**base, **OWN_DEFAULTS.get(name, {})}


@pytest.mark.parametrize("name", NAMES)
def test_every_option_arrives(name: str) -> None:
    kind = getattr(data, name)
    own = {"root": "somewhere"} if "root" in inspect.signature(kind).parameters else {}
    given = GIVEN if name in UNLABELLED else {**GIVEN, **LABELLED}
    module = kind(**given, **own)
    assert {key: getattr(module, key) for key in given} == given
    if name not in UNLABELLED:
        assert kind(anomalous_list="list.txt", **own).anomalous_list == "list.txt"


FILES = {"image_size": 8, "center_crop": 4, "channels": 1, "bit_depth": 12, "exif": "ignore"}
CLASSES = {"normal_class": 2, "train_fraction": 0.5, "contamination": 0.25, "image_size": 40, "pad": True}
STEPS = [{"class": "HorizontalFlip"}]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Folder", {**FILES, "transform": STEPS, "train_transform": STEPS * 2}),
        ("MVTecAD", {**FILES, "transform": STEPS, "train_transform": STEPS * 2}),
        *((name, {**FILES, "transform": STEPS, "train_transform": STEPS * 2, "subset": True}) for name in MEDICAL),
        ("LiuColonoscopy", {**FILES, "transform": STEPS, "train_transform": STEPS * 2, "shots": 20}),
        ("MedMNIST", {"size": 64, "normal_class": 1, "subset": True, "train_transform": max}),
        ("CIFAR10", {**CLASSES, "protocol": "pooled_2to1", "train_transform": max}),
        ("Digits", {**CLASSES, "train_transform": max}),
        (
            "UCSDPed",
            {
                "subset": "ped1",
                "mode": "frames",
                "image_size": (240, 360),
                "patch_size": 20,
                "motion": True,
                "foreground_difference": 15.0,
                "foreground_share": 0.2,
                "anomalous_share": 0.0,
                "train_every": 3,
            },
        ),
        (
            "SyntheticVideos",
            {
                "segments": 8,
                "layout": "crops_first",
                "length_rule": "extend",
                "standardize": True,
                "batches_per_epoch": 4,
            },
        ),
    ],
)
def test_options_of_a_family_arrive(name: str, options: dict[str, Any]) -> None:
    kind = getattr(data, name)
    own = {"root": "somewhere"} if "root" in inspect.signature(kind).parameters else {}
    module = kind(**options, **own)
    assert {key: getattr(module, key) for key in options} == options


def test_the_digits_have_one_protocol() -> None:
    assert data.Digits().protocol == "pooled_2to1"
    assert data.Digits().image_size == 32


def test_a_wrong_option_is_named_with_the_nearest_one() -> None:
    with pytest.raises(
        ConfigError, match=r"MVTecAD has no option 'train_batchsize'. Did you mean 'train_batch_size'\?"
    ):
        data.MVTecAD(train_batchsize=8)

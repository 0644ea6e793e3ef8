"""The data modules of driving scenes: options that cannot work, parts for validation, no training on test sets."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from torchvision.transforms import v2

from anomaly_suite import data as data_modules
from anomaly_suite.data import SyntheticStreets
from anomaly_suite.data.scenes.module import SceneModule, SceneTestModule
from anomaly_suite.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": 0}, "crop_size must be positive; got 0"),
        ({"flip": 1.5}, r"flip is a probability in \[0, 1\]; got 1.5"),
        ({"scales": []}, r"scales must not be empty; got \[\]"),
        ({"scales": [0.0]}, r"scales needs factors above 0; got \[0.0\]"),
        ({"scale_range": (2.0, 1.0)}, r"scale_range is a smallest and a largest factor above 0; got \[2.0, 1.0\]"),
        ({"outlier_rescale": (0.0, 1.0)}, "outlier_rescale is a smallest and a largest factor"),
        ({"outlier_fraction": -0.1}, "outlier_fraction must be at least 0; got -0.1"),
        ({"outlier_share": 0.0}, r"outlier_share must be in \(0, 1\]; got 0.0"),
        ({"validation": "augmented"}, "validation must be 'holdout', 'test' or 'none'; got 'augmented'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticStreets(**options)


def streets(**options: Any) -> SyntheticStreets:
    return SyntheticStreets(train_size=10, val_size=2, test_size=4, image_size=(32, 48), **options)


def test_validation_modes() -> None:
    assert len(list(streets().val_dataloader())) == 2
    assert streets(validation="none").val_dataloader() == []
    first = next(iter(streets(validation="test").val_dataloader()))
    assert set(first) == {"image", "image_path", "target", "ood_mask", "label"}
    assert "ood_mask" not in next(iter(streets().val_dataloader()))


@pytest.mark.parametrize("kind", [SceneModule, SceneTestModule])
def test_a_data_set_must_read(kind: type[SceneModule] | type[SceneTestModule]) -> None:
    with pytest.raises(NotImplementedError, match=rf"{kind.__name__} must define read\(\)"):
        kind().setup()


CROPS: dict[str, Any] = {"flip": 0.25, "scales": [0.5], "scale_range": (0.5, 1.5)}
GIVEN: dict[str, Any] = {
    "outlier_class_share": 0.5,
    "outliers": "shapes",
    "outlier_fraction": 0.3,
    "outlier_exclude": ["dog"],
    "outlier_share": 0.5,
    "outlier_min_size": 9,
    "outlier_single": True,
    "outlier_rescale": (0.5, 2.0),
    "outlier_on_road": True,
    "train_batch_size": 3,
    "eval_batch_size": 5,
    "num_workers": 2,
    "seed": 9,
    "validation": "test",
}
OWN_DEFAULTS: dict[str, dict[str, Any]] = {
    "CamVid": {},
    "SceneFolder": {},
    "StreetHazards": {},
    "BDDAnomaly": {},
    "Cityscapes": {"crop_size": 900, "scales": (0.5, 0.75, 1.0, 1.5, 1.75, 2.0)},
    "SyntheticStreets": {"outliers": "shapes", "outlier_fraction": 0.0},
}


@pytest.mark.parametrize("name", OWN_DEFAULTS)
def test_options_for_training_have_their_defaults_and_arrive(name: str) -> None:
    kind = getattr(data_modules, name)
    every = inspect.signature(SceneModule).parameters
    # of SceneFolder alone: published data sets have a validation part
    shared = {key: each for key, each in every.items() if key != "val_size" or name == "SceneFolder"}
    assert {*GIVEN, *CROPS, "crop_size", "train_transform"} == set(shared) - {"val_size"}
    parameters = inspect.signature(kind).parameters
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters.values())
    defaults = {key: each.default for key, each in shared.items()}
    assert {key: parameters[key].default for key in shared} == {**defaults, **OWN_DEFAULTS[name]}
    module = kind(**GIVEN, **CROPS, crop_size=(8, 6), train_transform=[{"class": "HorizontalFlip"}])
    assert {key: getattr(module, key) for key in GIVEN} == GIVEN
    assert {key: getattr(module.crop, key) for key in CROPS} == CROPS
    assert (module.crop.size, module.crop.pipeline.steps) == ((8, 6), [{"class": "HorizontalFlip"}])


@pytest.mark.parametrize(
    "name",
    ["FishyscapesLostAndFound", "FishyscapesStatic", "LostAndFound", "RoadAnomaly", "RoadAnomaly21", "RoadObstacle21"],
)
def test_options_for_testing_have_their_defaults_and_arrive(name: str) -> None:
    kind = getattr(data_modules, name)
    parameters = inspect.signature(kind).parameters
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters.values())
    shared = inspect.signature(SceneTestModule).parameters
    assert {key: parameters[key].default for key in shared} == {key: each.default for key, each in shared.items()}
    module = kind(eval_batch_size=3, num_workers=2)
    assert (module.eval_batch_size, module.num_workers, module.validation) == (3, 2, "none")


TRAINED = [
    kind
    for kind in (getattr(data_modules, name) for name in data_modules.__all__)
    if isinstance(kind, type)
    and issubclass(kind, SceneModule)
    and "train_transform" in inspect.signature(kind).parameters
]


@pytest.mark.parametrize("kind", TRAINED)
def test_every_set_to_train_on_takes_steps_as_objects(kind: type[SceneModule]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    pipeline = kind(train_transform=[v2.RandomInvert(p=1.0)]).crop.pipeline  # type: ignore[call-arg]
    np.testing.assert_array_equal(pipeline(image, None, source="made", seed_parts=(0,))[0], 255 - image)

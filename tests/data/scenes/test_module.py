"""The data modules of driving scenes: options that cannot work, parts for validation, no training on test sets."""

from __future__ import annotations

from typing import Any

import pytest

from anomaly_suite.data import SyntheticStreets
from anomaly_suite.data.scenes.module import SceneModule, SceneTestModule
from anomaly_suite.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": 0}, "crop_size must be positive; got 0"),
        ({"flip": 1.5}, r"flip is a probability in \[0, 1\]; got 1.5"),
        ({"scales": []}, r"scales needs factors above 0; got \[\]"),
        ({"scales": [0.0]}, r"scales needs factors above 0; got \[0.0\]"),
        ({"scale_range": (2.0, 1.0)}, r"scale_range is a smallest and a largest factor above 0; got \[2.0, 1.0\]"),
        ({"outlier_rescale": (0.0, 1.0)}, "outlier_rescale is a smallest and a largest factor"),
        ({"outlier_fraction": -0.1}, "outlier_fraction must be at least 0; got -0.1"),
        ({"outlier_share": 0.0}, r"outlier_share must be in \(0, 1\]; got 0.0"),
        ({"validation": "augmented"}, "validation of driving scenes is holdout, test or none; got 'augmented'"),
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

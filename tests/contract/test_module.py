"""The evaluation steps, and what every method declares."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from anomaly_suite.contract import AnomalyModule
from anomaly_suite.errors import ConfigError, NotFittedError

IMAGE = torch.rand(2, 1, 4, 4)


class Mean(AnomalyModule):
    def __init__(self, *, scale: float = 1.0, fitted: bool = True) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.scale, self.fitted = scale, fitted

    @property
    def is_fitted(self) -> bool:
        return self.fitted

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        return self.scale * image.mean((1, 2, 3)).half(), None


class Wider(Mean):
    def __init__(self, *, scale: float = 2.0, more: int = 3) -> None:
        super().__init__(scale=scale)
        self.save_hyperparameters()


def test_every_step_gives_raw_scores_and_the_decisions_of_the_calibration() -> None:
    model = Mean()
    model.calibration.set("image", threshold=0.0, low=0.0, high=1.0)
    for step in (model.validation_step, model.test_step, model.predict_step):
        prediction = step(IMAGE, 0)
        assert prediction is not None
        assert prediction["anomaly_score"].dtype == torch.float32
        assert torch.allclose(prediction["anomaly_score"], IMAGE.mean((1, 2, 3)), atol=1e-3)  # half precision
        assert prediction["pred_label"].all()
        assert "anomaly_map" not in prediction


def test_an_unfitted_method_says_so() -> None:
    with pytest.raises(NotFittedError, match=r"Mean has no fitted statistics yet. Run fit first"):
        Mean(fitted=False).test_step(IMAGE, 0)


def test_a_method_must_define_forward() -> None:
    with pytest.raises(NotImplementedError, match=r"AnomalyModule must define forward\(image\)"):
        AnomalyModule()(IMAGE)


def test_a_wrong_option_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"Wider has no option 'scal'. Did you mean 'scale'\?"):
        Wider(scal=1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no option"):
        Mean(zzz=1)  # type: ignore[call-arg]


def test_the_check_of_options_hides_neither_signature_nor_hyper_parameters() -> None:
    assert list(inspect.signature(Wider).parameters) == ["scale", "more"]
    assert dict(Wider(more=5).hparams) == {"scale": 2.0, "more": 5, "fitted": True}


def test_callbacks_find_every_declared_attribute() -> None:
    assert (Mean().fine_tunes, Mean().num_classes) == (False, None)

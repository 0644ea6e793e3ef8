from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_suite.errors import ConfigError, ShapeError, WeightsError
from anomaly_suite.methods import PEBAL, DeepGamblers, DeepLabV3Plus, EntropyMaximisation, PostHocScore
from anomaly_suite.methods.pixel_ood import segmenter
from anomaly_suite.methods.pixel_ood.abstention import FineTunedSegmenter
from anomaly_suite.methods.pixel_ood.scores import energy
from anomaly_suite.methods.pixel_ood.segmenter import SegmenterModule
from anomaly_suite.nn.deeplab import DeepLabNetwork, DilatedFeatures
from anomaly_suite.options import UnknownOptionError

TINY = {"backbone": "resnet10t", "num_classes": 5, "width": 8, "backbone_weights": None}


class Energy(SegmenterModule):
    """The least that a method writes."""

    def score_map(self, logits: Tensor) -> Tensor:
        return energy(logits)


def one(image: Tensor) -> DataLoader[Any]:
    """A loader of one batch."""
    return DataLoader([{"image": image}], batch_size=None)  # type: ignore[arg-type]


def make(**options: Any) -> Energy:
    torch.manual_seed(0)
    return Energy(**{**TINY, **options}).eval()


# Windows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [(48, 64), (64, 64), 4096])
@pytest.mark.parametrize("blend", ["uniform", "tapered"])
def test_a_window_that_covers_the_image_is_the_whole_image_to_the_last_bit(window: Any, blend: Any) -> None:
    image = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        whole, windowed = make().predict({"image": image}), make(window=window, blend=blend).predict({"image": image})
        assert torch.equal(make().segment(image), make(window=window, blend=blend).segment(image))
    assert whole.keys() == windowed.keys()
    assert all(torch.equal(whole[key], windowed[key]) for key in whole)  # type: ignore[literal-required] # own keys


@torch.no_grad()
def test_windows_are_what_the_network_says_of_each() -> None:
    image = torch.rand(1, 3, 32, 80)
    model = make(window=(32, 48), stride=(32, 32))
    found = model.segment(image)
    left, right = model.network(image[..., :48]), model.network(image[..., 32:])
    assert torch.equal(found[..., :32], left[..., :32])
    assert torch.equal(found[..., 48:], right[..., 16:])
    torch.testing.assert_close(found[..., 32:48], (left[..., 32:] + right[..., :16]) / 2)


@pytest.mark.parametrize(("side", "step"), [(800, 534), (600, 400), (7, 5)])
def test_default_stride_is_two_thirds_rounded_up(side: int, step: int) -> None:
    assert make(window=side).stride == (step, step)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 32, "stride": 33}, "stride must be between 1 and window=\\(32, 32\\)"),
        ({"window": (32, 64), "stride": (32, 0)}, "stride must be at least 1"),
        ({"stride": 32}, "needs a window"),
    ],
)
def test_strides_that_leave_pixels_out_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)


# Prediction ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_predict_is_forward_with_classes_in_a_single_pass() -> None:
    model, image, passes = make(), torch.rand(2, 3, 40, 56), []
    model.network.trunk.register_forward_hook(lambda *_: passes.append(1))
    prediction = model.predict({"image": image})
    assert len(passes) == 1
    score, anomaly_map = model(image)
    logits = model.segment(image)
    assert torch.equal(prediction["anomaly_map"], anomaly_map)
    assert torch.equal(prediction["anomaly_score"], score)
    assert torch.equal(anomaly_map, -logits.logsumexp(1, keepdim=True))
    assert torch.equal(score, anomaly_map.amax((1, 2, 3)))
    assert torch.equal(prediction["pred_target"], logits.argmax(1))
    assert prediction["pred_target"].dtype == torch.long
    torch.testing.assert_close(prediction["confidence"], logits.softmax(1).amax(1))


@torch.no_grad()
def test_abstention_is_no_class() -> None:
    model, image = make(), torch.rand(1, 3, 32, 48)
    before = model.predict({"image": image})
    model.network.extend_head()
    assert model.network.last.bias is not None
    model.network.last.bias[-1] = 1000.0
    assert model.segment(image).shape[1] == 6
    after = model.predict({"image": image})
    assert all(torch.equal(after[key], before[key]) for key in ("pred_target", "confidence"))


@torch.no_grad()
def test_large_batches_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image, sizes = make(), torch.rand(5, 3, 32, 48), []
    together = model.predict({"image": image})
    monkeypatch.setattr(segmenter, "PIXELS_AT_ONCE", 2 * 32 * 48 + 1)
    model.network.trunk.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    parts = model.predict({"image": image})
    assert sizes == [2, 2, 1]
    for key in ("anomaly_score", "anomaly_map"):
        torch.testing.assert_close(parts[key], together[key])
    monkeypatch.setattr(segmenter, "PIXELS_AT_ONCE", 1)
    assert model.predict({"image": image})["anomaly_map"].shape == (5, 1, 32, 48)


@torch.no_grad()
def test_smoothing_is_a_gaussian_of_seven_pixels() -> None:
    image = torch.rand(2, 3, 32, 48)
    plain, smooth = make()(image)[1], make(smoothing=True)(image)
    expected = [gaussian_filter(x.double().numpy(), 1.0, mode="mirror", radius=3) for x in plain[:, 0]]
    np.testing.assert_allclose(smooth[1][:, 0].numpy(), expected, rtol=1e-5)
    assert torch.equal(smooth[0], smooth[1].amax((1, 2, 3)))


@torch.no_grad()
def test_maps_that_a_method_appends_are_blended_too() -> None:
    class Brightness(Energy):
        def network_output(self, image: Tensor) -> Tensor:
            return torch.cat([super().network_output(image), image.mean(1, keepdim=True)], 1)

        def score_map(self, logits: Tensor) -> Tensor:
            return logits[:, self.num_classes :]

    model = Brightness(**TINY, window=32, stride=20).eval()
    image = torch.rand(1, 3, 40, 64)
    prediction = model.predict({"image": image})
    torch.testing.assert_close(prediction["anomaly_map"], image.mean(1, keepdim=True))
    assert prediction["pred_target"].max() < 5


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 32])
def test_maps_are_float32_under_autocast(window: int | None) -> None:
    model, image = make(window=window, smoothing=True), torch.rand(1, 3, 40, 56)
    with torch.autocast("cpu", torch.bfloat16):
        score, anomaly_map = model(image)
    assert score.dtype == anomaly_map.dtype == torch.float32
    assert len(anomaly_map.unique()) > 1000  # numbers of 8 bits would coincide


def test_score_map_must_be_written() -> None:
    with pytest.raises(NotImplementedError, match="SegmenterModule must define score_map"):
        SegmenterModule(**TINY).eval()(torch.rand(1, 3, 32, 32))


# Targets and weights -------------------------------------------------------------------------------------------------


def test_target_is_checked() -> None:
    model, image = make(), torch.rand(1, 3, 2, 2)
    good = torch.tensor([[[0, 4], [254, 255]]])
    assert torch.equal(model.target({"image": image, "target": good}), good)
    void = torch.full((1, 2, 2), 255)
    assert torch.equal(model.target({"image": image, "target": void}), void)
    with pytest.raises(ShapeError, match="the batch has image"):
        model.target({"image": image})
    for wrong in (5, -1, 253):
        with pytest.raises(ShapeError, match=f"classes 0 to 4, 254 .* got {wrong}"):
            model.target({"image": image, "target": torch.tensor([[[0, wrong], [254, 255]]])})


def test_weights_of_the_segmenter_go_before_those_of_the_backbone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = Energy(**TINY)
    whole, trunk = tmp_path / "whole.pt", tmp_path / "trunk.pt"
    torch.save({"state_dict": source.state_dict() | {"calibration._extra_state": {}}}, whole)
    torch.save(source.network.trunk.net.state_dict(), trunk)

    def same(model: Energy) -> tuple[bool, bool]:
        state, wanted = model.network.state_dict(), source.network.state_dict()
        equal = {key: torch.equal(value, wanted[key]) for key, value in state.items() if key.endswith("weight")}
        trunk_equal = {equal[key] for key in equal if key.startswith("trunk.") and "conv" in key}
        return trunk_equal == {True}, equal["final.0.weight"]

    expected = {(None, None): (False, False), (str(trunk), None): (True, False), ("imagenet", str(whole)): (True, True)}
    for (backbone_weights, segmenter_weights), answer in expected.items():
        model = make(backbone_weights=backbone_weights, segmenter_weights=segmenter_weights)
        assert same(model) == (False, False)  # the constructor loads nothing
        model.load_pretrained()
        assert same(model) == answer
    with pytest.raises(WeightsError, match=r"num_classes=7 needs 7 channels of logits; the network in .* has 5"):
        make(num_classes=7, segmenter_weights=str(whole)).load_pretrained()


@pytest.mark.parametrize("verb", ["test", "predict", "validate"])
def test_an_evaluation_without_a_fit_scores_the_segmenter_that_is_given(
    verb: str, tmp_path: Path, trainer_in: Callable[..., Trainer]
) -> None:
    """And never what the constructor drew."""
    torch.manual_seed(1)
    source = DeepLabV3Plus(**TINY).eval()
    torch.save(source.state_dict(), tmp_path / "whole.pt")
    image = torch.rand(2, 3, 32, 32)
    scores = []

    class Look(Callback):
        def collect(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            scores.append(outputs["anomaly_map"])

        on_test_batch_end = on_predict_batch_end = on_validation_batch_end = collect

    makers: list[Callable[..., SegmenterModule]] = [PEBAL, DeepLabV3Plus, EntropyMaximisation, PostHocScore]
    for method in (*makers, partial(DeepGamblers, payoff=2, score="energy")):
        options = {"smoothing": False, "segmenter_weights": str(tmp_path / "whole.pt")}
        model = method(**TINY, **options)
        getattr(trainer_in(callbacks=[Look()]), verb)(model, one(image))
        with torch.no_grad():
            logits = source.segment(image)
            expected = model.score_map(logits) if method is EntropyMaximisation else energy(logits)
        assert torch.allclose(scores.pop(), expected, atol=1e-4), method
    model = DeepGamblers(**TINY, payoff=2, segmenter_weights=str(tmp_path / "whole.pt"))
    with pytest.raises(WeightsError, match=r"abstention channel, which the segmenter in .*whole\.pt' does not have"):
        getattr(trainer_in(), verb)(model, one(image))
    torch.save(model.state_dict(), tmp_path / "with_abstention.pt")
    model = DeepGamblers(**TINY, payoff=2, segmenter_weights=str(tmp_path / "with_abstention.pt"))
    getattr(trainer_in(callbacks=[Look()]), verb)(model, one(image))
    assert len(scores) == 1


def test_an_untrained_network_is_told_once_it_is_scored(
    trainer_in: Callable[..., Trainer], recwarn: pytest.WarningsRecorder
) -> None:
    model, image = make(), one(torch.rand(1, 3, 32, 32))
    told = "Energy was neither fitted by a Trainer nor loaded from a checkpoint"
    trainer_in().test(model, image, verbose=False)
    assert any(told in str(each.message) for each in recwarn)
    recwarn.clear()
    model.load_state_dict(make().state_dict())  # as a user may do
    trainer_in().test(model, image, verbose=False)
    assert not any(told in str(each.message) for each in recwarn)


def test_weights_that_were_loaded_by_hand_stay(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    torch.save(make().state_dict(), tmp_path / "a.pt")
    model = make(segmenter_weights=str(tmp_path / "a.pt"))
    torch.manual_seed(2)
    mine = Energy(**TINY).state_dict()
    model.load_state_dict(mine)
    trainer_in().test(model, one(torch.rand(1, 3, 32, 32)), verbose=False)
    assert torch.equal(model.state_dict()["network.final.0.weight"], mine["network.final.0.weight"])


# Options -------------------------------------------------------------------------------------------------------------

METHODS = [PEBAL, DeepGamblers, DeepLabV3Plus, EntropyMaximisation, PostHocScore]


@pytest.mark.parametrize("method", METHODS)
def test_methods_repeat_the_options_of_the_segmenter_with_their_defaults(method: type[SegmenterModule]) -> None:
    own, shared = inspect.signature(method).parameters, inspect.signature(SegmenterModule).parameters
    assert not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in own.values())
    changed = {"smoothing"} if method is PEBAL else set()
    for name in shared.keys() - {"network", "auxiliary"} - changed:
        assert (own[name].default, own[name].annotation) == (shared[name].default, shared[name].annotation), name
    fine_tuned = inspect.signature(FineTunedSegmenter).parameters
    for name in ("trunk_mode", "lr") if issubclass(method, FineTunedSegmenter) else ():
        assert own[name].default == fine_tuned[name].default


@pytest.mark.parametrize("method", METHODS)
def test_options_reach_the_segmenter_and_a_wrong_one_is_named(method: type[SegmenterModule]) -> None:
    options: dict[str, Any] = {
        **TINY, "output_stride": 16, "released_dilation": True, "segmenter_weights": "a.ckpt", "smoothing": True,
        "window": (40, 60), "stride": (20, 30), "blend": "tapered",
    }  # fmt: skip
    model = method(**options)
    assert (model.window, model.stride, model.blend, model.smoothing) == ((40, 60), (20, 30), "tapered", True)
    assert (model.backbone_weights, model.segmenter_weights, model.num_classes) == (None, "a.ckpt", 5)
    network = model.network
    assert isinstance(network, DeepLabNetwork)
    assert isinstance(network.trunk, DilatedFeatures)
    assert (network.backbone, network.trunk.output_stride, network.bot_aspp[0].out_channels) == ("resnet10t", 16, 8)
    assert network.trunk.net.layer3[0].conv2.dilation == (1, 1)
    assert network.trunk.net.layer4[0].conv2.dilation == (2, 2)  # the stage before's without released_dilation: 1
    assert {name: model.hparams[name] for name in options} == options
    with pytest.raises(UnknownOptionError, match=r"has no option 'backbne'\. Did you mean 'backbone'"):
        method(backbne="resnet18")  # type: ignore[call-arg]

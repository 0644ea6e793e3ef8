"""Images of other channels, types and shapes than a method takes are refused in one place, by every method and in every way in."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_runs
import torch
from torch import Tensor

import anomaly_suite.methods
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.errors import ConfigError, MissingCheckpointError, NotFittedError, ShapeError
from anomaly_suite.methods import ADACL, DAE, IGD, DeepSVDD, FAnoGAN, PostHocScore
from anomaly_suite.options import UnknownOptionError

GREY, COLOUR = torch.rand(2, 1, 8, 8), torch.rand(2, 3, 8, 8)
TAKES_IMAGES = [name for name in tiny_runs.METHODS if tiny_runs.config(name)["data"]["class"] != "SyntheticVideos"]


def grey() -> ADACL:
    return ADACL(widths=(4, 4, 4, 4), hidden=4)


@pytest.mark.parametrize("name", TAKES_IMAGES)
def test_every_method_of_images_says_which_channels_it_takes(name: str) -> None:
    options = dict(tiny_runs.config(name)["model"])
    model = getattr(anomaly_suite.methods, name)(**options)
    assert model.image_channels == ((options.get("in_channels", 1),) if "in_channels" in model.hparams else (1, 3))
    with pytest.raises(ShapeError, match=rf"^{name} was built for images of .* got \(B, C, H, W\) = \(2, 2, 8, 8\)\. "):
        model.check_input({"image": torch.rand(2, 2, 8, 8)})
    with pytest.raises(ShapeError, match=rf"^{name} takes images; the batch has snippet_features\."):
        model.check_input({"snippet_features": GREY})


def test_the_sentence_names_the_option_of_both_sides() -> None:
    with pytest.raises(ShapeError) as raised:
        grey()(image=COLOUR)
    assert str(raised.value) == (
        "ADACL was built for images of 1 channel; got (B, C, H, W) = (2, 3, 8, 8). Set in_channels: 3 in the model, or let the data give "
        "1 channel: grey (channels: 1) in the data module."
    )
    with pytest.raises(
        ShapeError, match=r"Let the data give 1 or 3 channels: grey \(channels: 1\) or RGB \(channels: 3\)"
    ):
        IGD(encoder="residual", encoder_weights=None, image_size=8, width=4).check_image(torch.rand(2, 4, 8, 8))


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (GREY.numpy(), "takes images as a floating-point tensor .* got ndarray"),
        (None, "got NoneType"),
        (GREY[0], r"got \(1, 8, 8\) float32"),
        (GREY.byte(), r"got \(2, 1, 8, 8\) uint8"),
        (GREY[:0], r"at least one image with pixels; got \(0, 1, 8, 8\)"),
        (GREY.double(), "the type of its weights, float32; got float64"),
    ],
)
def test_what_is_called_is_checked(image: Any, sentence: str) -> None:
    with pytest.raises(ShapeError, match=sentence):
        grey()(image)


def test_mixed_precision_casts_what_it_can() -> None:
    model = grey().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(GREY.bfloat16())[0].shape == (2,)
        with pytest.raises(ShapeError, match="got float64"):
            model(GREY.double())
    assert model.double()(GREY.double())[0].dtype == torch.float64


def test_steps_and_evaluation_are_checked() -> None:
    for step in (grey().training_step, grey().validation_step):
        with pytest.raises(ShapeError, match="images of 1 channel"):
            step({"image": COLOUR}, 0)


class Own(AnomalyModule):
    """A method of one's own that says nothing of its channels."""

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        return image.float().mean((1, 2, 3)), None


def test_a_method_of_ones_own_takes_what_it_likes() -> None:
    assert Own()(torch.ones(2, 7, 4, 4, dtype=torch.uint8))[0].tolist() == [1, 1]


def test_channels_that_no_phase_can_take_are_refused_by_the_constructor() -> None:
    for channels in (2, 4):
        with pytest.raises(ConfigError, match=f"in_channels must be 1 or 3, which the encoder takes; got {channels}"):
            FAnoGAN(in_channels=channels)
        with pytest.raises(ConfigError, match=f"in_channels must be 1 or 3 for the backbone resnet18; got {channels}"):
            DeepSVDD(backbone="resnet18", in_channels=channels, ae_epochs=0)


def test_unfitted_methods_do_not_score() -> None:
    small = {"backbone": "mobilenetv3_small_050", "width": 8, "output_stride": 16, "num_classes": 3}
    model = PostHocScore(score="sml", backbone_weights=None, **small).eval()
    with pytest.raises(NotFittedError, match=r"PostHocScore has no fitted statistics yet\. Run fit first"):
        model(COLOUR)
    with pytest.raises(NotFittedError, match="PostHocScore has no fitted statistics yet"):
        model.predict({"image": torch.rand(1, 3, 32, 32)})


def test_a_loader_without_batches_does_not_pass_for_a_training() -> None:
    small = DAE(in_channels=1, image_size=8, widths=(4,), latent_dim=2)
    with pytest.raises(ConfigError, match="DAE needs training data; the training loader has no batch"):
        tiny_runs.make_trainer(max_epochs=1).fit(small, [])
    tiny_runs.make_trainer(max_epochs=1, limit_train_batches=0).fit(small, [])  # as it was asked for


def test_options_beside_a_checkpoint_are_checked() -> None:
    with pytest.raises(UnknownOptionError, match=r"ADACL has no option 'hiden'\. Did you mean 'hidden'\?"):
        ADACL.load_from_checkpoint("nowhere.ckpt", hiden=3)
    with pytest.raises(
        MissingCheckpointError, match=r"there is no 'nowhere\.ckpt'\. Give one that fit wrote"
    ) as raised:
        ADACL.load_from_checkpoint("nowhere.ckpt", hidden=3)
    assert isinstance(raised.value, FileNotFoundError)


def test_options_come_by_name() -> None:
    with pytest.raises(
        UnknownOptionError, match=r"ADACL takes its options by name; got 1 without\. Write ADACL\(in_channels="
    ):
        ADACL(1)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd, so that it has a middle; got 4"),
        ({"low": 0.8, "high": 0.2}, "low and high must stand in this order; got 0.8 and 0.2"),
        ({"lr_min": 0.1, "lr_max": 0.01}, "lr_min and lr_max must stand in this order"),
        ({"operations": []}, r"operations must not be empty; got \[\]"),
    ],
)
def test_options_of_adacl_that_contradict_each_other(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ADACL(**options)

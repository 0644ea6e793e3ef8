"""Very long videos: every method of the family scores them a few crops at a time, with the scores of all crops at once."""

from __future__ import annotations

import pytest
import tiny_runs
import torch
from torch import Tensor

import anomaly_suite.methods
from anomaly_suite.methods.weak_video import bags
from anomaly_suite.methods.weak_video.bags import BagModule

CASES = [
    (name, options)
    for name in tiny_runs.METHODS
    if issubclass(getattr(anomaly_suite.methods, name), BagModule)
    for options in ({}, {"mode": "segments"}, {"use_video_prob": True}, {"windows": False, "use_video_prob": True})
    if all(option in tiny_runs.hyper_parameters(tiny_runs.make_model(name)) for option in options)
]
SHAPE = (2, 3, 100, 16)
LENGTH = torch.tensor([100, 37])


@pytest.fixture
def videos() -> Tensor:
    features = torch.rand(SHAPE)
    features[1, :, 37:] = torch.nan  # padding
    return features


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_few_crops_at_a_time(
    name: str, options: dict[str, object], at_once: int, videos: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_runs.make_model(name, **options).eval()
    sizes: list[int] = []
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].numel()))

    def scores(features: Tensor) -> tuple[tuple[Tensor, Tensor], int]:
        """What the model gives, and the size of the largest input of any of its parts."""
        sizes.clear()
        with torch.inference_mode():
            return model(features, LENGTH), max(sizes)

    whole, _ = scores(videos)
    _, of_one = scores(videos[:, :1])
    monkeypatch.setattr(bags, "VALUES_AT_ONCE", at_once * SHAPE[0] * SHAPE[2] * SHAPE[3] + 1)
    parts, most = scores(videos)
    assert most <= at_once * of_one
    for one, other in zip(whole, parts, strict=True):
        assert one.isfinite().all()
        # A convolution may choose its kernel by the number of sequences, and with it the order of its sums.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["snippets", "segments"])
def test_deep_mil_scores_do_not_depend_on_the_number_of_crops(mode: str, videos: Tensor) -> None:
    # Every crop goes through the same operations by itself, so the last digit is the same, too.
    model = tiny_runs.make_model("DeepMIL", mode=mode).eval()
    with torch.inference_mode():
        whole = model(videos, LENGTH)[1]
        crops = torch.stack([model(videos[:, [crop]], LENGTH)[1] for crop in range(SHAPE[1])], 1)
    assert torch.equal(whole, crops.mean(1))

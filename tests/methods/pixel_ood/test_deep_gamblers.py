"""Deep Gamblers: checks of the card of pixel scores; the loss itself is tested in ``test_abstention.py``."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scene_cases import NO_OUTLIER, TARGETS, TINY, WITH_VOID, reference

from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import DeepGamblers
from anomaly_suite.methods.pixel_ood.abstention import abstention_in


def make(**options: Any) -> DeepGamblers:
    torch.manual_seed(0)
    return DeepGamblers(**{**TINY, "payoff": 2.5, **options})


@pytest.mark.parametrize(("payoff", "abstains"), [(1.5, True), (1.6, True), (1.75, False), (1.9, False)])
def test_abstaining_altogether_is_best_where_no_class_is_surer_than_one_by_payoff(
    payoff: float, abstains: bool
) -> None:
    posterior = (0.6, 0.4)
    share = torch.linspace(0, 1, 201, dtype=torch.float64)
    first, second = torch.meshgrid(share, share, indexing="ij")
    inside = first + second <= 1 + 1e-9
    p = torch.stack([first[inside], second[inside], (1 - first - second)[inside].clamp_min(0)])  # 3 points
    log_p = p.clamp_min(1e-30).log().view(1, 3, 1, -1)
    log_payoff = torch.tensor(math.log(payoff))
    loss = sum(q * abstention_in(log_p, torch.full((1, 1, p.shape[1]), y), log_payoff) for y, q in enumerate(posterior))
    assert isinstance(loss, torch.Tensor)
    best = p[:, loss.flatten().argmin()]
    assert (best[2].item() == pytest.approx(1)) == abstains
    assert abstains or best[0] > 0.05


@pytest.mark.parametrize("form", ["released", "paper"])
@pytest.mark.parametrize("name", TARGETS)
def test_loss_equals_a_slow_loop(name: str, form: Any) -> None:
    logits, penalty = torch.randn(2, 5, 4, 5), torch.full((2, 4, 5), 2.5, dtype=torch.float64)
    expected = reference(logits, TARGETS[name], penalty, weight=0.3, form=form)
    found = make(outlier_weight=0.3, outlier_form=form).loss(logits, TARGETS[name])["abstention"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_it_is_the_papers_loss_up_to_a_constant() -> None:
    logits = torch.randn(2, 5, 4, 5)
    p = logits.softmax(1)
    own = p.gather(1, NO_OUTLIER.unsqueeze(1)).squeeze(1)
    paper = -(2.5 * own + p[:, -1]).log().mean()
    found = make(outlier_weight=0.0).loss(logits, NO_OUTLIER)["abstention"]
    torch.testing.assert_close(found, paper + math.log(2.5))


def test_weight_zero_learns_from_known_pixels_alone() -> None:
    logits = torch.randn(2, 5, 4, 5, requires_grad=True)
    make(outlier_weight=0.0).loss(logits, WITH_VOID)["abstention"].backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum(1)[WITH_VOID >= 254].max() == 0
    assert logits.grad.abs().sum(1)[WITH_VOID < 254].min() > 0


def test_scores() -> None:
    logits = torch.randn(2, 5, 4, 5)
    p = logits.double().exp() / logits.double().exp().sum(1, keepdim=True)
    torch.testing.assert_close(make().score_map(logits).double(), p[:, 4:], rtol=1e-5, atol=1e-6)
    energy = -logits[:, :4].double().exp().sum(1, keepdim=True).log()
    torch.testing.assert_close(make(score="energy").score_map(logits).double(), energy, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_predicted_class_is_never_abstention() -> None:
    model, image = make().eval(), torch.rand(1, 3, 32, 48)
    assert model.network.last.bias is not None
    model.network.last.bias[-1] = 50.0
    prediction = model.predict({"image": image})
    assert prediction["anomaly_map"].min() > 0.99
    assert torch.equal(prediction["pred_target"], model.segment(image)[:, :4].argmax(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"payoff": 1.0}, "payoff must be above 1 and at most num_classes=4; got 1.0"),
        ({"payoff": 4.001}, "at most num_classes=4; got 4.001"),
        ({"outlier_weight": -0.1}, "outlier_weight must be at least 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_a_payoff_of_all_classes_is_the_largest() -> None:
    assert make(payoff=4.0).payoff == 4
    with torch.device("meta"):
        assert DeepGamblers(backbone="resnet10t").payoff == 4.5

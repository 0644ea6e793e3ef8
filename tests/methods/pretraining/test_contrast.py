"""Losses against slow loops over the formulas of the cards, in float64, and against the values that the cards work out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.methods.pretraining.contrast import (
    Candidates,
    center_loss,
    centered,
    contrast,
    scaled_contrast,
    similarity,
    supervised_contrast,
)

TAU = 0.2
ITEMS, WIDTH = 6, 5


def candidates(items: int = ITEMS, classes: int = 3, *, seed: int = 0, unit: bool = True) -> Candidates:
    """Two views of items; items of one image follow each other, two of each."""
    feature = torch.randn(2 * items, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    label, source = (torch.arange(items) % classes).repeat(2), (torch.arange(items) // 2).repeat(2)
    return Candidates(F.normalize(feature, dim=1) if unit else feature, label, source)


def partner(i: int, items: int) -> int:
    return i + items if i < items else i - items


def slow_contrast(f: Tensor, tau: float) -> float:
    """NT-Xent: every other view is in the denominator."""
    count, total = len(f), 0.0
    for i in range(count):
        row = [math.exp(float(f[i] @ f[j]) / tau) for j in range(count) if j != i]
        total -= math.log(math.exp(float(f[i] @ f[partner(i, count // 2)]) / tau) / sum(row))
    return total / count


def slow_pmsacl(f: Tensor, label: list[int], alpha: float, denominator: str) -> float:
    count, total = len(f), 0.0
    for i in range(count):
        p, below = partner(i, count // 2), 0.0
        for j in range(count):
            if j != i:
                kappa = 1 / (alpha * TAU) if label[i] == label[j] else 1 / TAU
                if j == p and denominator == "proper":
                    kappa = 1 / TAU
                below += math.exp(kappa * float(f[i] @ f[j]))
        total -= math.log(math.exp(float(f[i] @ f[p]) / TAU) / below)
    return total / count


def slow_supcon(f: Tensor, label: list[int], tau: float) -> float:
    count, losses = len(f), []
    for i in range(count):
        below = sum(math.exp(float(f[i] @ f[a]) / tau) for a in range(count) if a != i)
        positives = [p for p in range(count) if p != i and label[p] == label[i]]
        if positives:
            shares = [math.log(math.exp(float(f[i] @ f[p]) / tau) / below) for p in positives]
            losses.append(-sum(shares) / len(positives))
    return sum(losses) / len(losses)


def fast_pmsacl(c: Candidates, alpha: float, denominator: str) -> Tensor:
    return scaled_contrast(
        similarity(c.feature, c.feature), c.positives, c.others(), c.label == c.label.unsqueeze(1),
        temperature=TAU, alpha=alpha, denominator=denominator,  # type: ignore[arg-type]
    )  # fmt: skip


def fast_supcon(c: Candidates, tau: float) -> Tensor:
    positives = (c.label == c.label.unsqueeze(1)) & c.others()
    return supervised_contrast(similarity(c.feature, c.feature) / tau, positives, c.others())


class TestSlowLoops:
    def test_contrast(self) -> None:
        c = candidates()
        found = contrast(similarity(c.feature, c.feature) / TAU, c.positives, c.others())
        assert found.item() == pytest.approx(slow_contrast(c.feature, TAU), abs=1e-8)

    @pytest.mark.parametrize("alpha", [0.5, 1.0, 5.0, 100.0])
    @pytest.mark.parametrize("denominator", ["proper", "literal"])
    def test_pmsacl(self, alpha: float, denominator: str) -> None:
        c = candidates(8, 4)
        expected = slow_pmsacl(c.feature, c.label.tolist(), alpha, denominator)
        assert fast_pmsacl(c, alpha, denominator).item() == pytest.approx(expected, abs=1e-8)

    def test_supervised(self) -> None:
        c = candidates(6, 3)
        assert fast_supcon(c, TAU).item() == pytest.approx(slow_supcon(c.feature, c.label.tolist(), TAU), abs=1e-8)

    def test_anchors_without_a_positive_are_left_out(self) -> None:
        c = candidates()
        label = torch.arange(12).clamp_max(10)  # the last two alone share a label
        found = fast_supcon(c._replace(label=label), TAU)
        assert found.item() == pytest.approx(slow_supcon(c.feature, label.tolist(), TAU), abs=1e-8)
        assert fast_supcon(c._replace(label=torch.arange(12)), TAU).item() == 0

    def test_centres(self) -> None:
        feature, center = candidates(seed=1, unit=False).feature, torch.randn(12, WIDTH, dtype=torch.float64)
        slow = sum(float((feature[i, d] - center[i, d]) ** 2) for i in range(12) for d in range(WIDTH)) / 12
        assert center_loss(feature, center).item() == pytest.approx(slow, abs=1e-8)
        direction = centered(feature, center)
        torch.testing.assert_close(direction.norm(dim=1), torch.ones(12, dtype=torch.float64))
        torch.testing.assert_close(centered(center + 3 * (feature - center), center), direction)
        torch.testing.assert_close(centered(feature + 1, center + 1), direction)

    def test_at_its_centre(self) -> None:
        feature = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
        center_loss(feature, torch.tensor([[0.0, 0, 0], [1, 0, 0]])).backward()
        torch.testing.assert_close(feature.grad, torch.tensor([[0.0, 0, 0], [-1, 0, 0]], dtype=torch.float64))
        assert not centered(feature, torch.zeros(2, 3)).isnan().any()
        feature.grad = None
        centered(feature, torch.zeros(2, 3)).sum().backward()
        assert feature.grad.isfinite().all()


class TestValuesOfTheCards:
    @pytest.mark.parametrize("items", [8, 32])
    def test_equal_features(self, items: int) -> None:
        c = candidates(items, 4)._replace(feature=torch.ones(2 * items, 1, dtype=torch.float64))
        chance = math.log(2 * items - 1)
        logits = similarity(c.feature, c.feature) / TAU
        assert contrast(logits, c.positives, c.others()).item() == pytest.approx(chance)
        assert fast_pmsacl(c, 1.0, "literal").item() == pytest.approx(chance)
        assert fast_supcon(c._replace(label=c.label * 0), TAU).item() == pytest.approx(chance)

    def test_orthogonal_items_and_perfect_pairs(self) -> None:
        eye = torch.eye(32, dtype=torch.float64).repeat(2, 1)
        c = Candidates(eye, torch.arange(32).repeat(2), torch.arange(32).repeat(2))
        logits = similarity(eye, eye) / TAU
        assert contrast(logits, c.positives, c.others()).item() == pytest.approx(0.349, abs=5e-4)
        first, second = torch.arange(32), torch.arange(32, 64)
        everyone = torch.ones(32, 32, dtype=torch.bool)
        assert contrast(logits[first][:, second], first, everyone).item() == pytest.approx(0.190, abs=5e-4)
        one_image_a_label = fast_supcon(c, TAU)
        torch.testing.assert_close(one_image_a_label, contrast(logits, c.positives, c.others()))

    def test_proper_and_literal_denominators(self) -> None:
        feature = torch.ones(256, 1, dtype=torch.float64)
        c = Candidates(feature, torch.arange(4).repeat(64), torch.arange(32).repeat(8))
        assert fast_pmsacl(c, 5.0, "proper").item() == pytest.approx(5.269, abs=1e-3)
        assert fast_pmsacl(c, 5.0, "literal").item() == pytest.approx(5.263, abs=1e-3)
        assert math.log(255) == pytest.approx(5.541, abs=1e-3)

    def test_bounds(self) -> None:
        for seed in range(5):
            c = candidates(8, 4, seed=seed)
            tight = c._replace(feature=c.feature[:8].repeat(2, 1))  # perfect pairs
            assert fast_pmsacl(tight, 2.0, "literal").item() >= -2.5
            assert all(fast_pmsacl(tight, alpha, "proper").item() >= 0 for alpha in (0.5, 1.0, 5.0, 100.0))

    def test_members_of_a_class_repel_each_other_less_with_alpha(self) -> None:
        # Anchor 0, its partner 2, a member of its class 1, one of another class 3; similarity 0.5 to both.
        cosine = torch.tensor([[1.0, 0.5, 0.9, 0.5]], dtype=torch.float64)
        allowed, same = torch.tensor([[False, True, True, True]]), torch.tensor([[True, True, True, False]])
        ratio = []
        for alpha in (1.0, 2.0, 5.0):
            leaf = cosine.clone().requires_grad_()
            scaled_contrast(
                leaf, torch.tensor([2]), allowed, same, temperature=TAU, alpha=alpha, denominator="proper"
            ).backward()
            ratio.append(float(leaf.grad[0, 1] / leaf.grad[0, 3]))  # type: ignore[index]
        unit = math.exp(0.5 / TAU)
        expected = [1 / alpha * math.exp(0.5 / (alpha * TAU)) / unit for alpha in (1.0, 2.0, 5.0)]
        assert ratio == pytest.approx(expected)
        assert [value * unit for value in ratio] == pytest.approx([12.2, 1.7, 0.33], rel=0.03)


def test_rows_that_are_masked_have_no_gradient_and_none_is_nan() -> None:
    logits = (100 * torch.randn(4, 4, dtype=torch.float64)).requires_grad_()
    alone = torch.eye(4, dtype=torch.bool).roll(1, 1)  # the positive is all there is
    loss = contrast(logits, torch.tensor([1, 2, 3, 0]), alone)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(4, 4, dtype=torch.float64))


def test_similarities_are_not_rounded_under_autocast() -> None:
    feature = torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = similarity(feature, feature)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, feature @ feature.T)


def test_views_of_a_process_among_those_of_all() -> None:
    c = candidates()._replace(first=4, own=4)
    assert c.anchors.tolist() == [4, 5, 6, 7]
    assert c.positives.tolist() == [6, 7, 4, 5]
    assert c.others().sum(1).tolist() == [11] * 4
    assert not c.others().gather(1, c.anchors.unsqueeze(1)).any()

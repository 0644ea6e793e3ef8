from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from anomaly_suite.augment.draws import GeneratorDraws
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.pretraining.contrast import Candidates
from anomaly_suite.methods.pretraining.csi import CSI, native_score
from anomaly_suite.methods.pretraining.sim_clr import nt_xent


def make(**options: Any) -> CSI:
    torch.manual_seed(0)
    model = CSI(**{"encoder": "residual", "encoder_weights": None, "image_size": 16, "width": 2, **options})
    model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return model


def test_eight_views_of_every_image_and_both_losses() -> None:
    model = make()
    views = model.make_views(torch.rand(3, 3, 16, 16), GeneratorDraws(Generator().manual_seed(0)))
    assert len(views.image) == 24
    assert torch.bincount(views.label).tolist() == [6] * 4
    feature = model.encoder(views.image).double()
    model = model.double()
    f = F.normalize(model.projection(feature), dim=1)
    total = 0.0
    for i in range(24):  # every other view is a negative, rotations of the same image too
        partner = (i + 12) % 24
        row = [math.exp(float(f[i] @ f[j]) / 0.5) for j in range(24) if j != i]
        total -= math.log(math.exp(float(f[i] @ f[partner]) / 0.5) / sum(row))
    logits = model.augmentation_head(feature)
    told = -sum(float(logits[i].log_softmax(0)[views.label[i]]) for i in range(24)) / 24
    terms = model.terms(feature, views)
    assert terms["contrast"].item() == pytest.approx(total / 24, abs=1e-5)  # projections are taken in float32
    assert terms["augmentation"].item() == pytest.approx(told, abs=1e-5)


def test_equal_projections_are_at_chance() -> None:
    views = make().make_views(torch.rand(3, 3, 16, 16), GeneratorDraws(Generator().manual_seed(0)))
    equal = Candidates(torch.ones(24, 1, dtype=torch.float64), views.label, views.source)
    assert nt_xent(equal, temperature=0.5).item() == pytest.approx(math.log(8 * 3 - 1))


class TestNativeScore:
    def scores(self, image: torch.Tensor, new: torch.Tensor, **options: Any) -> tuple[CSI, torch.Tensor]:
        model = make(density="native", bank_size=30, **options)
        model.training_images = lambda: iter(image.split(4))  # type: ignore[method-assign]
        model.sum_over_ranks = lambda value: value  # type: ignore[method-assign]
        model.all_gather = lambda value: value  # type: ignore[method-assign]
        model.watch = lambda *_, **__: None  # type: ignore[method-assign]
        model.fit_statistics()
        with torch.no_grad():
            return model.eval(), model(new)[0]

    def test_it_is_the_cards(self) -> None:
        image, new = torch.rand(6, 3, 16, 16), torch.rand(3, 3, 16, 16)
        model, found = self.scores(image, new, score_views=0)
        with torch.no_grad():
            shifts = [[torch.rot90(part, k, (2, 3)) for k in range(4)] for part in (image, new)]
            f = [[model.projection(model.encoder(x)) for x in part] for part in shifts]
            c = [[model.augmentation_head(model.encoder(x))[:, k] for k, x in enumerate(part)] for part in shifts]
            for row in range(3):
                normality = 0.0
                for k in range(4):
                    closest = max(float(f[1][k][row] @ (g / g.norm())) for g in f[0][k])
                    mean = float(c[0][k].mean())
                    normality += closest / float(f[0][k].norm(dim=1).mean()) + (
                        float(c[1][k][row]) / mean if mean > 1e-3 else 0
                    )
                assert found[row].item() == pytest.approx(-normality / 4, rel=1e-3, abs=1e-4)

    def test_neither_order_nor_batch_matters_and_views_follow_from_images(self) -> None:
        image, new = torch.rand(6, 3, 16, 16), torch.rand(3, 3, 16, 16)
        _, found = self.scores(image, new, score_views=2)
        _, other = self.scores(image.flip(0), new, score_views=2)
        torch.testing.assert_close(other, found, rtol=1e-4, atol=1e-5)
        model, _ = self.scores(image, new, score_views=2)
        with torch.no_grad():
            torch.testing.assert_close(model(new[1:2])[0], found[1:2], rtol=1e-4, atol=1e-5)

    def test_the_scale_of_projections_does_not_matter(self) -> None:
        f, bank = torch.randn(3, 4, 5), F.normalize(torch.randn(7, 4, 5), dim=2)
        logit, means = torch.randn(3, 4), torch.tensor([1.0, 2.0, -1.0, 0.0])  # of which two cannot be divided by
        one = native_score(f, logit, bank, mean_norm=torch.ones(4), mean_logit=means)
        other = native_score(3 * f, logit, bank, mean_norm=3 * torch.ones(4), mean_logit=means)
        torch.testing.assert_close(other, one)
        assert one.isfinite().all()

    def test_it_is_the_closest_row_that_counts(self) -> None:
        f = torch.tensor([3.0, 4.0]).expand(1, 4, 2)
        bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [torch.nan, torch.nan]])[:, None].expand(4, 4, 2)
        found = native_score(f, torch.zeros(1, 4), bank, mean_norm=torch.full((4,), 2.0), mean_logit=torch.ones(4))
        assert found.item() == -2.0  # the cosine to (0, 1) times the length, over the mean length

    def test_it_needs_both_losses(self) -> None:
        with pytest.raises(
            ConfigError, match=r"density=native scores by projections and by the classifier.*; got only contrast"
        ):
            make(density="native", augmentation_weight=0.0)


def test_a_term_of_weight_0_is_left_out() -> None:
    assert not hasattr(make(contrast_weight=0.0), "projection")
    assert not hasattr(make(augmentation_weight=0.0), "augmentation_head")

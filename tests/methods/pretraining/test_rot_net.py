from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anomaly_suite.augment.draws import GeneratorDraws
from anomaly_suite.methods.pretraining.rot_net import RotNet


def make(**options: Any) -> RotNet:
    torch.manual_seed(0)
    model = RotNet(**{"encoder": "residual", "encoder_weights": None, "image_size": 16, "width": 2, **options})
    model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return model.eval()


class Compass(nn.Module):
    """Tells an image's rotation by where its brightest corner is, surely."""

    def forward(self, image: Tensor) -> Tensor:
        corners = torch.stack([image[:, 0, 0, 0], image[:, 0, -1, 0], image[:, 0, -1, -1], image[:, 0, 0, -1]], 1)
        return 100 * corners


def test_every_rotation_of_every_image_and_its_loss() -> None:
    model, image = make(), torch.rand(3, 3, 16, 16)
    views = model.make_views(image, GeneratorDraws(torch.Generator().manual_seed(0)), views=1)
    assert views.image.shape == (12, 3, 16, 16)
    assert views.label.tolist() == [0, 1, 2, 3] * 3
    assert views.source.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    logits = model.augmentation_head(model.encoder(views.image)).double()
    slow = -sum(float(logits[i].log_softmax(0)[i % 4]) for i in range(12)) / 12
    assert model.augmentation_loss(model.encoder(views.image), views).item() == pytest.approx(slow, abs=1e-6)
    assert slow == pytest.approx(1.386, abs=0.4)


def test_the_score_is_one_less_the_mean_probability_of_the_truth() -> None:
    model, image = make(), torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        score, anomaly_map = model(image)
        for row in range(4):
            turned = [torch.rot90(image[row : row + 1], k, (2, 3)) for k in range(4)]
            shares = [float(model.augmentation_head(model.encoder(x)).softmax(1)[0, k]) for k, x in enumerate(turned)]
            assert score[row].item() == pytest.approx(1 - sum(shares) / 4, abs=1e-5)
    assert anomaly_map is None
    assert model.is_fitted
    assert not any("feature" in name for name in model.state_dict())


def test_whoever_knows_every_rotation_scores_0() -> None:
    model, image = make(), torch.zeros(2, 3, 16, 16)
    image[:, :, 0, 0] = 1
    model.encoder, model.augmentation_head = Compass(), nn.Identity()  # type: ignore[assignment]
    torch.testing.assert_close(model(image)[0], torch.zeros(2), atol=1e-6, rtol=0)
    assert model(torch.rot90(image, 1, (2, 3)))[0].min() > 0.99


def test_of_patches_the_score_is_the_largest() -> None:
    model, image = make(patch_size=16), torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        alone = [model.distance(image[:, :, r : r + 16, c : c + 16]) for r in (0, 8) for c in (0, 8)]
        torch.testing.assert_close(model(image)[0], torch.stack(alone).amax(0))

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.nn.distillation import PooledTeacher, distillation_error


def images(count: int, *, size: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def full_state(name: str, *, seed: int) -> dict[str, Tensor]:
    """Tensors of the full timm model, batch-norm statistics included, all of them random."""
    generator = torch.Generator().manual_seed(seed)
    state = timm.create_model(name).state_dict()
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for key, value in state.items()
    }


@pytest.mark.parametrize("size", [16, 32, 48])
def test_features_are_those_of_the_full_network_on_resized_images(size: int, tmp_path: Path) -> None:
    state = full_state("test_resnet", seed=1)
    torch.save(state, tmp_path / "teacher.pth")
    teacher = PooledTeacher("test_resnet", size=32)
    teacher.encoder.load_weights(str(tmp_path / "teacher.pth"))
    network = timm.create_model("test_resnet").eval()
    network.load_state_dict(state)
    config = network.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    image = images(2, size=size)
    resized = F.interpolate(image, size=(32, 32), mode="bilinear", antialias=size > 32)
    with torch.no_grad():
        expected = network.forward_features((resized - mean) / std).mean((2, 3))
    torch.testing.assert_close(teacher(image), expected, rtol=1e-4, atol=1e-4)


def test_grey_images_are_repeated() -> None:
    teacher, grey = PooledTeacher("test_resnet", size=32), images(2)[:, :1]
    torch.testing.assert_close(teacher(grey), teacher(grey.repeat(1, 3, 1, 1)))


def test_distance_is_squared_and_summed() -> None:
    first, second = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[4.0, -2.0], [0.0, 0.5]])
    assert distillation_error(first, second).tolist() == [25, 0.25]
    maps = distillation_error(first.view(2, 2, 1, 1).repeat(1, 1, 3, 5), second.view(2, 2, 1, 1))
    assert maps.shape == (2, 3, 5)
    assert maps[:, 1, 1].tolist() == [25, 0.25]


def test_half_precision_features_are_compared_in_single_precision() -> None:
    student = torch.full((1, 1000), 0.1, dtype=torch.bfloat16)
    error = distillation_error(student, torch.zeros(1, 1000, dtype=torch.bfloat16))
    assert error.dtype == torch.float32
    assert error.item() == pytest.approx(1000 * float(student[0, 0]) ** 2, rel=1e-5)

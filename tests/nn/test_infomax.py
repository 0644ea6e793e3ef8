from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError, ShapeError, WeightsError
from anomaly_suite.nn.encoders import ImageEncoder
from anomaly_suite.nn.infomax import (
    PRIOR_WIDTHS,
    GlobalDiscriminator,
    InfomaxEncoder,
    LocalDiscriminator,
    mismatched,
    mlp,
    mutual_information,
    prior_losses,
)

LN2 = math.log(2)


def size_of(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


def test_sizes_of_both_presets() -> None:
    expected = {  # fsad_net.md, 2: encoder, cells of the local features, global discriminator
        (64, True): (3_282_688, (16, 16), 2_748_001),
        (32, False): (15_865_600, (26, 26), 8_318_561),
    }
    for (side, padded), (encoder_size, cells, global_size) in expected.items():
        with torch.device("meta"):
            encoder = InfomaxEncoder(image_size=(side, side), padded=padded)
            judge = GlobalDiscriminator(encoder)
            assert size_of(encoder) == encoder_size
            assert (encoder.local_size, size_of(judge)) == (cells, global_size)
            assert size_of(LocalDiscriminator(encoder)) == 361_985
            local, code = encoder.features(torch.zeros(2, 1, side, side))
            assert local.shape == (2, 128, *cells)
            assert code.shape == (2, 64)
            assert judge(local, code).shape == (2, 1)
            assert LocalDiscriminator(encoder)(local, code).shape == (2, cells[0] * cells[1])
    assert size_of(mlp(64, PRIOR_WIDTHS)) == 265_401


def test_images_are_seen_between_minus_1_and_1() -> None:
    encoder = InfomaxEncoder(image_size=(16, 16), width=4).eval()
    image = torch.rand(2, 1, 16, 16)
    first = encoder.local[0]
    expected = nn.functional.conv2d((2 * image - 1).expand(-1, 3, -1, -1), first.weight, first.bias, 2, 1)
    found: list[Tensor] = []
    first.register_forward_hook(lambda *args: found.append(args[2]))
    encoder(image)
    torch.testing.assert_close(found[0], expected)


def test_too_small_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 16 for the encoder infomax; got"):
        InfomaxEncoder(image_size=(15, 32))
    with pytest.raises(ConfigError, match="at least 13 for the encoder infomax_released"):
        InfomaxEncoder(image_size=(12, 12), padded=False)
    InfomaxEncoder(image_size=(13, 13), width=4, padded=False)
    with pytest.raises(ConfigError, match=r"at least 5 x 5 cells; image_size=\(19, 19\) gives \(4, 4\)"):
        GlobalDiscriminator(InfomaxEncoder(image_size=(19, 19), width=4), width=4)
    GlobalDiscriminator(InfomaxEncoder(image_size=(20, 20), width=4), width=4)
    with pytest.raises(ShapeError, match="built for images"):
        InfomaxEncoder(image_size=(16, 16), width=4)(torch.rand(2, 3, 24, 24))


def test_local_logits_of_constant_features_are_equal_everywhere() -> None:
    encoder = InfomaxEncoder(image_size=(24, 24), width=4)
    logit = LocalDiscriminator(encoder, hidden=16)(torch.ones(2, 8, 6, 6), torch.randn(2, 4))
    torch.testing.assert_close(logit, logit[:, :1].expand(-1, 36))  # a kernel may take the last cells another way
    assert logit[0, 0] != logit[1, 0]


def test_a_cell_and_its_code_are_judged_together() -> None:
    encoder = InfomaxEncoder(image_size=(24, 24), width=4)
    judge = LocalDiscriminator(encoder, hidden=16)
    local, code = torch.randn(2, 8, 6, 6), torch.randn(2, 4)
    pair = torch.cat([local[1, :, 2, 3], code[1]])[None, :, None, None]
    torch.testing.assert_close(judge(local, code)[1, 2 * 6 + 3], judge.judge(pair).squeeze())


@pytest.mark.parametrize("count", [2, 3, 7])
def test_negatives_never_belong_together(count: int) -> None:
    for_local, for_code = mismatched(count, "rolled", device=torch.device("cpu"))
    assert (for_local != for_code).all()
    assert for_code.tolist() == list(range(count))
    assert for_local.tolist() == [*range(1, count), 0]
    pairs = torch.stack(mismatched(count, "all", device=torch.device("cpu")), 1).tolist()
    assert sorted(map(tuple, pairs)) == [(a, b) for a in range(count) for b in range(count) if a != b]


def test_one_image_has_no_negative() -> None:
    with pytest.raises(ShapeError, match="at least 2; got 1"):
        mismatched(1, "rolled", device=torch.device("cpu"))


def test_bounds_of_constant_logits() -> None:
    zero = torch.zeros(8, 5)
    assert mutual_information(zero, zero, "jsd").item() == pytest.approx(-2 * LN2)
    assert mutual_information(zero, zero, "dv").item() == pytest.approx(0, abs=1e-6)
    for constant in (-3.0, 4.0):
        const = torch.full((8, 5), constant)
        assert mutual_information(const, const, "dv").item() == pytest.approx(0, abs=1e-5)
        assert mutual_information(const, zero, "dv").item() == pytest.approx(constant, abs=1e-5)
    assert mutual_information(zero, torch.full((8, 5), 1000.0), "dv").item() == pytest.approx(-1000)  # e^1000 overflows


def test_dv_is_taken_at_every_position() -> None:
    positive, negative = torch.randn(6, 3), torch.randn(9, 3)
    each = [positive[:, k].mean() - negative[:, k].exp().mean().log() for k in range(3)]
    torch.testing.assert_close(mutual_information(positive, negative, "dv"), torch.stack(each).mean())


def gaussian_pairs(rho: float, count: int) -> tuple[Tensor, Tensor]:
    """The best discriminator, the log ratio of densities, on pairs of a bivariate Gaussian and on pairs that do not belong together."""
    x = torch.randn(count, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * torch.randn(count, dtype=torch.float64)

    def log_ratio(x: Tensor, y: Tensor) -> Tensor:
        shared = 1 - rho**2
        return -0.5 * math.log(shared) - (rho**2 * (x**2 + y**2) - 2 * rho * x * y) / (2 * shared)

    return log_ratio(x, y).unsqueeze(1), log_ratio(x.roll(-1), y).unsqueeze(1)


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_the_best_discriminator_of_gaussians_gives_their_mutual_information(rho: float) -> None:
    positive, negative = gaussian_pairs(rho, 200_000)
    closed = -0.5 * math.log(1 - rho**2)
    assert mutual_information(positive, negative, "dv").item() == pytest.approx(closed, abs=0.01)  # of 200,000 draws
    # Jensen-Shannon: twice the divergence of joint and product, less log 4; by quadrature of the closed-form densities.
    grid = torch.linspace(-8, 8, 401, dtype=torch.float64)
    x, y = torch.meshgrid(grid, grid, indexing="ij")
    product = torch.exp(-(x**2 + y**2) / 2) / (2 * math.pi)
    joint = torch.exp(-(x**2 + y**2 - 2 * rho * x * y) / (2 * (1 - rho**2))) / (2 * math.pi * math.sqrt(1 - rho**2))
    middle = (joint + product) / 2 + 1e-300
    divergence = (joint * (joint / middle + 1e-300).log() + product * (product / middle + 1e-300).log()).sum() * 0.04**2
    assert mutual_information(positive, negative, "jsd").item() == pytest.approx(float(divergence) - 2 * LN2, abs=0.01)


def test_a_learned_discriminator_nears_the_bound_from_below() -> None:
    rho = 0.8
    x = torch.randn(8_000)
    y = rho * x + math.sqrt(1 - rho**2) * torch.randn(8_000)
    weight = torch.zeros(3, requires_grad=True)  # of x^2, y^2, xy: the best discriminator is one of these
    optimizer = torch.optim.Adam([weight], lr=0.05)

    def judge(x: Tensor, y: Tensor) -> Tensor:
        return (torch.stack([x**2, y**2, x * y], 1) @ weight).unsqueeze(1)

    for _ in range(100):
        optimizer.zero_grad()
        bound = mutual_information(judge(x, y), judge(x.roll(-1), y), "dv")
        (-bound).backward()
        optimizer.step()
    assert bound.item() == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.05)  # 0.511; of 8,000 draws


def test_losses_of_an_undecided_prior_discriminator() -> None:
    zero = torch.zeros(4, 1)
    assert prior_losses(zero).item() == pytest.approx(LN2)
    assert prior_losses(zero, zero).item() == pytest.approx(2 * LN2)


def test_the_encoder_comes_closer_to_the_prior() -> None:
    torch.manual_seed(0)
    code = torch.randn(16, 4, requires_grad=True)
    net = mlp(4, (8,))
    before = net(code).mean().item()
    prior_losses(net(code)).backward()
    with torch.no_grad():
        code -= 0.1 * code.grad  # type: ignore[operator]
    assert net(code).mean().item() > before  # this fails with the sign of the port


@pytest.mark.parametrize(("name", "cells"), [("infomax", (5, 5)), ("infomax_released", (14, 14))])
def test_any_method_can_have_it_as_its_encoder(name: str, cells: tuple[int, int]) -> None:
    encoder, image = ImageEncoder(name, image_size=20, width=4), torch.rand(2, 1, 20, 20)
    assert isinstance(encoder.net, InfomaxEncoder)
    assert (encoder.out_features, encoder.net.local_size) == (4, cells)
    torch.testing.assert_close(encoder.eval()(image), encoder.net(image))
    encoder.train()(image[:1])  # a single training image moves no running statistics
    assert all(not norm.num_batches_tracked for norm in encoder.modules() if isinstance(norm, nn.BatchNorm2d))
    with pytest.raises(WeightsError, match=rf"the {name} encoder takes its weights .* Pre-train one \(FSADNet\)"):
        encoder.load_weights("imagenet")

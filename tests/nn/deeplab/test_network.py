from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.deeplab import DeepLabNetwork, WideResNet38

Make = Callable[..., DeepLabNetwork]


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_wide_network_has_the_published_numbers_of_weights(on_meta: Make) -> None:
    network = on_meta(backbone="wide_resnet38", num_classes=20)
    parts = {name: count(child) for name, child in [*network.trunk.named_children(), *network.named_children()]}
    assert parts == {
        "mod1": 1_728,
        "pool": 0,
        "mod2": 820_608,
        "mod3": 3_279_616,
        "mod4": 27_274_752,
        "mod5": 26_484_736,
        "mod6": 9_442_304,
        "mod7": 37_758_976,
        "trunk": 105_062_720,
        "aspp": 30_411_264,
        "bot_fine": 6_144,
        "bot_aspp": 327_680,
        "final": 1_296_384,
    }
    assert count(network) == 137_104_192


def test_final_block_has_the_published_number_of_weights_before_and_after_the_abstention_channel(on_meta: Make) -> None:
    network = on_meta(backbone="wide_resnet38", num_classes=19)
    assert count(network.final) == 1_296_128
    network.extend_head()
    assert count(network.final) == 1_296_384


def test_resnet101_has_the_published_numbers_of_weights(on_meta: Make) -> None:
    network = on_meta(backbone="resnet101s", released_dilation=True, auxiliary=True)
    assert count(network.trunk) == 42_623_936
    assert count(network.aspp) == 2 * (2048 * 256 + 512) + 3 * (9 * 2048 * 256 + 512)
    assert count(network.bot_fine) == 256 * 48 + 96
    assert count(network.bot_aspp) == 1280 * 256 + 512
    assert count(network.final) == 1_296_128 + 19
    assert network.aux is not None
    assert count(network.aux) == 9 * 1024 * 512 + 1024 + 512 * 19 + 19
    assert round((count(network) - count(network.aux)) / 1e6, 1) == 59.5


def test_wide_shapes_on_128_by_256() -> None:
    with torch.device("meta"):
        trunk = WideResNet38(("mod2", "mod3", "mod4", "mod7"))
        network = DeepLabNetwork(backbone="wide_resnet38")
        image = torch.rand(2, 3, 128, 256)
        maps = trunk(image)
        assert [tuple(x.shape[1:]) for x in maps] == [(128, 64, 128), (256, 32, 64), (512, 16, 32), (4096, 16, 32)]
        assert network.aspp(maps[-1]).shape == (2, 1280, 16, 32)
        z = network.features(image)
        assert z.shape == (2, 304, 64, 128)
        assert network.penultimate(z).shape == (2, 256, 64, 128)
        assert network(image).shape == (2, 19, 128, 256)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet81"}, "Did you mean 'resnet"),
        ({"backbone": "vit_small_patch16_224"}, "can dilate to output_stride=8"),
        ({"backbone": "densenet121"}, "can dilate to output_stride=8"),
        ({"low_stride": 3}, "strides \\[2, 4, 8, 8, 8\\]"),
        ({"output_stride": 32}, "8 or 16; got 32"),
        ({"backbone": "wide_resnet38", "output_stride": 16}, "8 for wide_resnet38; got 16"),
        ({"backbone": "wide_resnet38", "low_stride": 8}, "low_stride 2 or 4"),
        ({"backbone": "tf_efficientnet_lite0", "released_dilation": True}, "is about ResNets"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"width": 0}, "width must be at least 1"),
    ],
)
def test_options_that_cannot_work_are_refused(tiny: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**options)


def test_images_need_one_or_three_channels(tiny: Make, thin: None) -> None:
    for network in (tiny(), DeepLabNetwork(backbone="wide_resnet38", width=8)):
        with pytest.raises(ShapeError, match="1 or 3"):
            network(torch.rand(1, 4, 32, 32))


def test_low_level_map_comes_first_in_the_decoder(tiny: Make) -> None:
    network = tiny(normed=False).eval()
    with torch.no_grad():
        network.bot_fine.weight.zero_()
        z = network.features(torch.rand(1, 3, 32, 48))
    assert z.shape == (1, 48 + 8, 8, 12)
    assert z[:, :48].abs().max() == 0
    assert z[:, 48:].abs().max() > 0


def test_published_differences_are_the_defaults(on_meta: Make) -> None:
    wide, other = on_meta(backbone="wide_resnet38"), on_meta(backbone="resnet101s")
    assert isinstance(wide.bot_fine, nn.Conv2d)
    assert isinstance(wide.bot_aspp, nn.Conv2d)
    assert wide.last.bias is None
    assert [type(part) for part in other.bot_fine] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert [type(part) for part in other.bot_aspp] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert other.last.bias is not None
    changed = on_meta(backbone="wide_resnet38", normed=True, last_bias=True, low_stride=4, auxiliary=True)
    assert changed.bot_fine[0].in_channels == 256
    assert changed.last.bias is not None
    assert changed.aux is not None
    assert changed.aux[0].in_channels == 2048


def test_corners_of_the_logits_survive_the_upsampling(tiny: Make) -> None:
    network = tiny().eval()
    with torch.no_grad():
        z = network.features(torch.rand(2, 3, 32, 48))
        small, large = network.final(z), network.logits(z, (32, 48))
    for row in (0, -1):
        for column in (0, -1):
            torch.testing.assert_close(large[..., row, column], small[..., row, column])


@pytest.mark.parametrize("backbone", ["resnet10t", "wide_resnet38"])
def test_parts_put_together_are_the_whole(tiny: Make, backbone: str, thin: None) -> None:
    network = tiny(backbone=backbone, auxiliary=True).eval()
    image = torch.rand(2, 3, 40, 56)
    with torch.no_grad():
        z = network.features(image)
        logits, auxiliary = network.logits_and_auxiliary(image)
        by_hand = F.interpolate(network.last(network.penultimate(z)), (40, 56), mode="bilinear", align_corners=True)
        assert torch.equal(network(image), logits)
        assert torch.equal(network.logits(z, (40, 56)), logits)
    torch.testing.assert_close(by_hand, logits)
    assert network.penultimate(z).min() >= 0
    assert auxiliary is not None
    assert auxiliary.shape == logits.shape
    assert tiny().eval().logits_and_auxiliary(image)[1] is None


def test_cached_features_give_the_same_loss(tiny: Make) -> None:
    network = tiny()
    network.freeze_trunk()
    image, target = torch.rand(4, 3, 32, 48), torch.randint(5, (4, 32, 48))
    cached = torch.cat([network.features(image[row : row + 1]) for row in range(4)])
    losses = [F.cross_entropy(network.logits(z, (32, 48)), target) for z in (cached, network.features(image))]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)


def test_logits_are_float32_under_autocast(tiny: Make) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert tiny().eval()(torch.rand(1, 3, 32, 48)).dtype == torch.float32


@pytest.mark.parametrize("last_bias", [False, True])
def test_abstention_channel_leaves_the_classes_as_they_are(tiny: Make, last_bias: bool) -> None:
    network = tiny(last_bias=last_bias, width=64).eval()
    image = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        before = network(image)
        network.extend_head()
        after = network(image)
    assert after.shape == (2, 6, 32, 48)
    assert network.abstains
    torch.testing.assert_close(after[:, :5], before, rtol=0, atol=1e-6)
    assert after[:, 5].abs().max() > 0
    if last_bias:
        assert network.last.bias is not None
        assert network.last.bias[5] == 0
    with pytest.raises(ConfigError, match="has an abstention channel already"):
        network.extend_head()


def test_abstention_weights_are_kaiming_normal(tiny: Make) -> None:
    network = tiny(width=256)
    for _ in range(20):
        network.abstains = False
        network.extend_head()
    rows = network.last.weight.detach()[5:]
    assert rows.shape == (20, 256, 1, 1)
    assert float(rows.std()) == pytest.approx((2 / 256) ** 0.5, rel=0.05)


def step(network: DeepLabNetwork) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State before and after one step of Adam on all that can be trained."""
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.Adam([weight for weight in network.parameters() if weight.requires_grad], lr=1e-3)
    network.train()
    loss = F.cross_entropy(network(torch.rand(3, 3, 32, 48)), torch.randint(5, (3, 32, 48)))
    loss.backward()
    optimizer.step()
    return before, network.state_dict()


def test_frozen_trunk_stays_to_the_last_buffer_and_all_of_final_moves(tiny: Make, thin: None) -> None:
    for backbone in ("resnet10t", "wide_resnet38"):
        network = tiny(backbone=backbone, auxiliary=True)
        network.freeze_trunk()
        assert sum(weight.numel() for weight in network.parameters() if weight.requires_grad) == count(network.final)
        before, after = step(network)
        weights = {f"final.{name}" for name, _ in network.final.named_parameters()}
        for name, value in after.items():
            if not name.startswith("final."):
                assert torch.equal(value, before[name]), name
            elif name in weights:
                assert (value != before[name]).any(), name
        assert network.final.training
        assert not any(module.training for name, module in network.named_modules() if name.split(".")[0] == "trunk")


def test_trunk_mode_train_lets_statistics_drift_but_no_weight(tiny: Make) -> None:
    network = tiny()
    network.freeze_trunk("train")
    before, after = step(network)
    weights = dict(network.trunk.named_parameters())
    assert all(torch.equal(after[f"trunk.{name}"], before[f"trunk.{name}"]) for name in weights)
    moved = [name for name in before if name.endswith("running_mean") and not torch.equal(after[name], before[name])]
    assert {name.split(".")[0] for name in moved} == {"trunk", "aspp", "bot_fine", "bot_aspp", "final"}

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from anomaly_suite.nn.wide_resnet38 import PreActivationBlock, WideResNet38
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError, ShapeError, WeightsError
from anomaly_suite.nn import wide_resnet38
from anomaly_suite.nn.deeplab import ASPP, DeepLabNetwork

TINY = {"backbone": "resnet10t", "num_classes": 5, "width": 8}


def tiny(**options: Any) -> DeepLabNetwork:
    return DeepLabNetwork(**{**TINY, **options})


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def on_meta(**options: Any) -> DeepLabNetwork:
    with torch.device("meta"):
        return DeepLabNetwork(**options)


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """WideResNet38 with a 32nd of its channels."""
    stages = {
        name: (blocks, tuple(width // 32 for width in channels), *rest)
        for name, (blocks, channels, *rest) in wide_resnet38.STAGES.items()
    }
    monkeypatch.setattr(wide_resnet38, "STAGES", stages)


# Numbers of weights and shapes ---------------------------------------------------------------------------------------


def test_wide_network_has_the_published_numbers_of_weights() -> None:
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


def test_final_block_has_the_published_number_of_weights_before_and_after_the_abstention_channel() -> None:
    network = on_meta(backbone="wide_resnet38", num_classes=19)
    assert count(network.final) == 1_296_128
    network.extend_head()
    assert count(network.final) == 1_296_384


def test_resnet101_has_the_published_numbers_of_weights() -> None:
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


@pytest.mark.parametrize(("backbone", "low"), [("resnet18", 64), ("tf_efficientnet_lite0", 24), ("convnext_atto", 40)])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_levels_of_timm_networks_are_chosen_by_stride(backbone: str, low: int, output_stride: int) -> None:
    network = on_meta(backbone=backbone, num_classes=7, width=16, output_stride=output_stride)
    maps = network.trunk(torch.rand(1, 3, 64, 128, device="meta"))
    assert maps[0].shape[1:] == (low, 16, 32)
    assert maps[-1].shape[2:] == (64 // output_stride, 128 // output_stride)
    assert network(torch.rand(1, 1, 65, 127, device="meta")).shape == (1, 7, 65, 127)
    assert [view[0].dilation[0] for view in network.aspp.features[1:]] == [96 // output_stride * i for i in (1, 2, 3)]


@pytest.mark.parametrize("output_stride", [8, 16])
def test_shifting_the_image_by_the_output_stride_shifts_the_trunk_by_one_cell(output_stride: int) -> None:
    trunk = tiny(output_stride=output_stride).trunk.eval()
    image = torch.rand(1, 3, 16, 1024 + output_stride)
    with torch.no_grad():
        whole, shifted = (trunk(part)[-1] for part in (image[..., :-output_stride], image[..., output_stride:]))
    edge = 480 // output_stride  # beyond the receptive field of the border
    torch.testing.assert_close(whole[..., edge + 1 : -edge], shifted[..., edge : -edge - 1], rtol=1e-4, atol=1e-5)
    assert whole[..., edge + 1 : -edge].std(-1).max() > 1e-3  # not the same everywhere


def test_released_dilation_reaches_the_first_blocks() -> None:
    def first(released: bool, output_stride: int) -> list[tuple[int, int]]:
        network = on_meta(backbone="resnet50", released_dilation=released, output_stride=output_stride)
        convs = [network.trunk.net[stage][0].conv2 for stage in ("layer2", "layer3", "layer4")]
        return [(conv.dilation[0], conv.padding[0]) for conv in convs]

    assert first(False, 8) == [(1, 1), (1, 1), (2, 2)]
    assert first(True, 8) == [(1, 1), (2, 2), (4, 4)]
    assert first(True, 16) == [(1, 1), (1, 1), (2, 2)]


def test_released_dilation_keeps_the_size_of_the_maps() -> None:
    shapes = [tuple(tiny(released_dilation=option)(torch.rand(1, 3, 40, 56)).shape) for option in (False, True)]
    assert shapes == [(1, 5, 40, 56)] * 2


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
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**options)


def test_images_need_one_or_three_channels(thin: None) -> None:
    for network in (tiny(), DeepLabNetwork(backbone="wide_resnet38", width=8)):
        with pytest.raises(ShapeError, match="1 or 3"):
            network(torch.rand(1, 4, 32, 32))


# What the parts compute ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "stride"), [((6, 6), 1), ((6, 8), 2), ((4, 6, 8), 1), ((4, 4, 6), 1)])
def test_block_equals_its_formula(channels: tuple[int, ...], stride: int) -> None:
    block = PreActivationBlock(6, channels, stride=stride, dilation=2, dropout=0.5).eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.running_mean = torch.randn(module.num_features)
            module.running_var = torch.rand(module.num_features) + 0.5
    state = block.state_dict()

    def active(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.0.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).clamp_min(0)

    x = torch.randn(2, 6, 10, 12)
    a = active(x, "bn1")
    projected = stride != 1 or channels[-1] != 6
    expected = F.conv2d(a, state["proj_conv.weight"], stride=stride) if projected else x
    y = a
    for number in range(1, len(channels) + 1):
        y = y if number == 1 else active(y, f"convs.bn{number}")
        weight, step = state[f"convs.conv{number}.weight"], stride if number == 1 else 1
        spread = {"stride": step, "padding": 2, "dilation": 2} if weight.shape[-1] == 3 else {"stride": step}
        y = F.conv2d(y, weight, **spread)
    torch.testing.assert_close(block(x), y + expected)
    assert {name.partition(".")[0] for name in state} == {"bn1", "convs", *(["proj_conv"] if projected else [])}


def test_dropout_takes_whole_channels_in_training_alone() -> None:
    block = PreActivationBlock(4, (4, 4), dropout=0.5)
    dropout = block.convs.get_submodule("dropout")
    assert isinstance(dropout, nn.Dropout2d)
    x = torch.rand(2, 4, 6, 6)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_views_of_aspp_stand_in_order_with_the_image_mean_first() -> None:
    aspp = ASPP(6, width=2, rates=(12, 24, 36)).eval()
    convs = [aspp.img_conv[0], *(view[0] for view in aspp.features)]
    assert [conv.kernel_size[0] for conv in convs] == [1, 1, 3, 3, 3]
    assert [conv.dilation[0] for conv in convs] == [1, 1, 12, 24, 36]
    x = torch.rand(1, 6, 9, 7)
    whole = aspp(x)
    assert torch.equal(whole[:, :2].amin((2, 3)), whole[:, :2].amax((2, 3)))  # one value for the image
    for place, conv in enumerate(convs):
        with torch.no_grad():
            kept, conv.weight[:] = conv.weight.clone(), 0.0
            changed = (aspp(x) != whole).any(3).any(2).view(5, 2).any(1)
            conv.weight[:] = kept
        assert changed.tolist() == [number == place for number in range(5)]


def test_low_level_map_comes_first_in_the_decoder() -> None:
    network = tiny(normed=False).eval()
    with torch.no_grad():
        network.bot_fine.weight.zero_()
        z = network.features(torch.rand(1, 3, 32, 48))
    assert z.shape == (1, 48 + 8, 8, 12)
    assert z[:, :48].abs().max() == 0
    assert z[:, 48:].abs().max() > 0


def test_published_differences_are_the_defaults() -> None:
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


def test_corners_of_the_logits_survive_the_upsampling() -> None:
    network = tiny().eval()
    with torch.no_grad():
        z = network.features(torch.rand(2, 3, 32, 48))
        small, large = network.final(z), network.logits(z, (32, 48))
    for row in (0, -1):
        for column in (0, -1):
            torch.testing.assert_close(large[..., row, column], small[..., row, column])


@pytest.mark.parametrize("backbone", ["resnet10t", "wide_resnet38"])
def test_parts_put_together_are_the_whole(backbone: str, thin: None) -> None:
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


def test_cached_features_give_the_same_loss() -> None:
    network = tiny()
    network.freeze_trunk()
    image, target = torch.rand(4, 3, 32, 48), torch.randint(5, (4, 32, 48))
    cached = torch.cat([network.features(image[row : row + 1]) for row in range(4)])
    losses = [F.cross_entropy(network.logits(z, (32, 48)), target) for z in (cached, network.features(image))]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)


def test_logits_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert tiny().eval()(torch.rand(1, 3, 32, 48)).dtype == torch.float32


def test_a_single_training_image_works_and_two_use_their_own_statistics() -> None:
    network = tiny()
    image = torch.rand(2, 3, 32, 48)
    before = network.aspp.img_conv[1].running_mean.clone()
    network(image[:1]).sum().backward()
    assert torch.equal(network.aspp.img_conv[1].running_mean, before)
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())
    network(image)
    assert not torch.equal(network.aspp.img_conv[1].running_mean, before)


# Fine-tuning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last_bias", [False, True])
def test_abstention_channel_leaves_the_classes_as_they_are(last_bias: bool) -> None:
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


def test_abstention_weights_are_kaiming_normal() -> None:
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


def test_frozen_trunk_stays_to_the_last_buffer_and_all_of_final_moves(thin: None) -> None:
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


def test_trunk_mode_train_lets_statistics_drift_but_no_weight() -> None:
    network = tiny()
    network.freeze_trunk("train")
    before, after = step(network)
    weights = dict(network.trunk.named_parameters())
    assert all(torch.equal(after[f"trunk.{name}"], before[f"trunk.{name}"]) for name in weights)
    moved = [name for name in before if name.endswith("running_mean") and not torch.equal(after[name], before[name])]
    assert {name.split(".")[0] for name in moved} == {"trunk", "aspp", "bot_fine", "bot_aspp", "final"}


# Weights -------------------------------------------------------------------------------------------------------------


def saved(path: Path, tensors: dict[str, Tensor]) -> str:
    torch.save(tensors, path)
    return str(path)


def scrambled(network: DeepLabNetwork) -> DeepLabNetwork:
    """The same network with other statistics, so that a forgotten buffer shows."""
    for name, value in network.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("prefix", ["", "module.", "network.", "state.module.net."])
def test_whole_network_loads_whatever_stands_before_its_names(prefix: str, tmp_path: Path) -> None:
    source, target = scrambled(tiny(auxiliary=True)), tiny().eval()
    tensors = {prefix + key: value for key, value in source.state_dict().items()}
    target.load_weights(saved(tmp_path / "weights.pt", {**tensors, "other": torch.zeros(1)} if prefix else tensors))
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(source(image), target(image))


def test_names_of_the_released_resnet_are_translated(tmp_path: Path) -> None:
    source, target = scrambled(tiny(backbone="resnet18d")), tiny(backbone="resnet18d", auxiliary=True).eval()
    parts = {"conv1.": "layer0.", "bn1.": "layer0.7.", "final.6.": "final2.0.", "final.": "final1."}
    tensors = {}
    for key, value in source.state_dict().items():
        name = key.removeprefix("trunk.net.")
        ours = next((part for part in parts if name.startswith(part)), "")
        tensors[f"module.{parts.get(ours, '')}{name.removeprefix(ours)}"] = value
    assert {"module.layer0.6.weight", "module.layer0.7.weight", "module.final2.0.bias"} <= tensors.keys()
    tensors["module.dsn.0.weight"] = torch.zeros(1)  # the auxiliary head is not read
    target.load_weights(saved(tmp_path / "weights.pt", tensors))
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(source(image), target(image))


def test_wide_network_loads_by_the_released_names(thin: None, tmp_path: Path) -> None:
    options = {"backbone": "wide_resnet38", "width": 8}
    source, target = scrambled(tiny(**options)), tiny(**options).eval()
    tensors = {f"module.{key.removeprefix('trunk.')}": value for key, value in source.state_dict().items()}
    known = ["mod1.conv1", "mod2.block1.bn1.0", "mod4.block6.convs.conv2", "mod6.block1.convs.bn3.0"]
    known += ["mod7.block1.proj_conv", "aspp.features.3.1", "aspp.img_conv.0", "bot_fine", "bot_aspp", "final.6"]
    assert {f"module.{name}.weight" for name in known} <= tensors.keys()
    target.load_weights(saved(tmp_path / "weights.pt", tensors))
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(source(image), target(image))


def test_wide_backbone_loads_from_a_classifier(thin: None, tmp_path: Path) -> None:
    source, target = (tiny(backbone="wide_resnet38").trunk for _ in range(2))
    tensors = {f"module.{key}": value for key, value in source.state_dict().items()}
    file = saved(tmp_path / "weights.pt", {**tensors, "module.classifier.fc.weight": torch.zeros(3, 4)})
    network = tiny(backbone="wide_resnet38")
    network.load_backbone(file)
    target = network.trunk
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())
    network.load_backbone(None)
    with pytest.raises(WeightsError, match="no ImageNet weights for wide_resnet38"):
        network.load_backbone("imagenet")


def test_timm_backbone_loads_from_a_file(tmp_path: Path) -> None:
    source, target = tiny(), tiny()
    target.load_backbone(saved(tmp_path / "weights.pt", source.trunk.net.state_dict()))
    assert all(torch.equal(value, target.trunk.state_dict()[key]) for key, value in source.trunk.state_dict().items())
    assert not torch.equal(source.final[0].weight, target.final[0].weight)


def test_abstention_row_stays_where_the_file_has_none(tmp_path: Path) -> None:
    source, target, own = scrambled(tiny()), tiny(), tiny()
    for network in (target, own):
        network.extend_head()
    row = target.last.weight[5].clone()
    target.load_weights(saved(tmp_path / "plain.pt", source.state_dict()))
    assert torch.equal(target.last.weight[5], row)
    assert torch.equal(target.last.weight[:5], source.last.weight)
    assert target.last.bias is not None
    assert source.last.bias is not None
    assert torch.equal(target.last.bias, torch.cat([source.last.bias, torch.zeros(1)]))
    own.load_weights(saved(tmp_path / "extended.pt", target.state_dict()))
    assert torch.equal(own.last.weight, target.last.weight)


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"num_classes": 6}, {}, "num_classes=6 needs 6 channels of logits; the network in .* has 5"),
        ({"width": 16}, {}, "must be built like the one it is loaded into"),
        ({"backbone": "resnet18"}, {}, r"but conv1.weight is missing there and \(64, 3, 7, 7\) here"),
        ({"last_bias": False}, {}, "has final.6.bias too"),
        ({}, {"aspp.features.3.0.weight": None}, "aspp.features.3.0.weight is missing there"),
        ({}, {"head.weight": torch.zeros(1)}, "has head.weight too"),
        ({}, {"final.0.weight": None}, "must hold one network with a tensor named final.0.weight"),
        ({}, {"ema.final.0.weight": torch.zeros(1)}, "it holds 2"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    options: dict[str, Any], change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    tensors = {**tiny().state_dict(), **change}
    file = saved(tmp_path / "weights.pt", {key: value for key, value in tensors.items() if value is not None})
    target = tiny(**options)
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(WeightsError, match=message):
        target.load_weights(file)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_a_network_with_abstention_is_not_taken_for_one_without(tmp_path: Path) -> None:
    source = tiny()
    source.extend_head()
    with pytest.raises(WeightsError, match=r"num_classes=5 needs 5 channels of logits; the network in .* has 6"):
        tiny().load_weights(saved(tmp_path / "weights.pt", source.state_dict()))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.pt"):
        tiny().load_weights("nowhere.pt")

